"""What a server is told: the release, the customers' keys, the records; and what names mean."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pipeline.releases.manifest import MANIFEST
from pipeline.releases.release import Release, open_release
from pipeline.releases.signing import PublicKeys, read_public_keys
from pipeline.releases.store import Store
from pipeline.trail import Trail
from serving.access.keys import trail_beside
from serving.answers.live_items import MOST
from serving.answers.recall_watch import RECHECK_EVERY
from serving.watching.monitor import WINDOW


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a server serves, for whom, and where it keeps its records."""

    release: str
    """An alias, an id or the beginning of one in ``store``; or the folder of a release."""
    store: str = "store"
    """Folder or URL of the store."""
    keys: str = "keys.json"
    """File with the customers' keys."""
    records: str = "sqlite:///records.db"
    """SQLAlchemy URL of decisions, draws and verdicts."""
    trail: str = ""
    """File that overrides and refusals are added to; empty: ``trail.jsonl`` beside the keys."""
    record_rate: float = 1.0
    """Share of the queries that is recorded, in [0, 1]."""
    replicas: int = 1
    """Processes that answer."""
    window: int = WINDOW
    """Reviewed queries of a customer that its gauges count: the latest ones."""
    follow_seconds: float | None = None
    """Between two looks at the alias; None: 0.1 where the store is a folder, else 5."""
    shadow: str | None = None
    """Alias or id of a release that answers a share of the queries unseen, to be compared."""
    shadow_share: float = 0.1
    """That share, in [0, 1]."""
    public_keys: tuple[str, ...] = ()
    """PEM files with the keys of which one must have signed a release; none: any release."""
    recheck_every: int = RECHECK_EVERY
    """Queries of which one is searched again exactly, to watch the match recall."""

    online_items: int = MOST
    """Items of one customer that may be put online before a release holds them."""

    def to_args(self) -> dict[str, object]:
        """As plain data, for ``serving.app:build``: what is not set stays away."""
        given = dataclasses.asdict(self) | {"public_keys": list(self.public_keys)}
        return {name: value for name, value in given.items() if value is not None}


def store_of(settings: Settings) -> Store:
    """The store, which hands out nothing but what one of the public keys signed.

    They are read anew each time: keys are rotated without a restart. Raises ``KeyFileError``.
    """
    return Store(settings.store, keys=_trusted(settings))


def _trusted(settings: Settings) -> PublicKeys | None:
    """None where no signature is asked for."""
    if not settings.public_keys:
        return None
    return read_public_keys(Path(path) for path in settings.public_keys)


def open_named(settings: Settings) -> Release:
    """The verified release; ``ReleaseError`` or ``StoreError`` with one line."""
    folder = Path(settings.release)
    if (folder / MANIFEST).is_file():
        return open_release(folder, keys=_trusted(settings))
    return store_of(settings).open(settings.release)


def pinned(settings: Settings) -> Settings:
    """The same with ids in full and paths absolute: workers have other working folders."""
    folder = Path(settings.release)
    named = (folder / MANIFEST).is_file()
    opened = open_named(settings)  # what cannot be served is refused before anything starts
    release = str(folder.resolve()) if named else alias_of(settings) or opened.id
    shadow = settings.shadow
    if shadow is not None:
        shadow = pinned(dataclasses.replace(settings, release=shadow, shadow=None)).release
    return dataclasses.replace(
        settings, release=release, shadow=shadow, keys=str(Path(settings.keys).resolve()),
        trail=str(trail_of(settings).path.resolve()),
        public_keys=tuple(str(Path(path).resolve()) for path in settings.public_keys),
        store=settings.store if "://" in settings.store else str(Path(settings.store).resolve()),
        records=absolute_records(settings.records),
    )


def alias_of(settings: Settings) -> str | None:
    """The alias that ``release`` names, None where it names a folder or an id."""
    if (Path(settings.release) / MANIFEST).is_file():
        return None
    return settings.release if settings.release in Store(settings.store).aliases() else None


def absolute_records(url: str) -> str:
    """An SQLite URL with its path made absolute; any other URL as it is."""
    prefix = "sqlite:///"
    if not url.startswith(prefix) or url in (prefix, f"{prefix}:memory:"):
        return url
    return f"{prefix}{Path(url.removeprefix(prefix)).resolve()}"


def trail_of(settings: Settings) -> Trail:
    """Where overrides and refusals are told."""
    return Trail(Path(settings.trail) if settings.trail else trail_beside(Path(settings.keys)))
