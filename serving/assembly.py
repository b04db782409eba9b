"""The parts of a server put together, in whatever process they run.

A replica opens its own verified copy of the release: what another process verified may be
elsewhere by now. The release is pinned to its full id when the server starts, so that every
replica, restarted ones too, serves the same whatever its alias has come to mean.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.calibration import curve_thresholds
from pipeline.findings import recorded_choice
from pipeline.live import draw_plan
from pipeline.manifest import MANIFEST
from pipeline.records import open_records
from pipeline.release import Release, open_release
from pipeline.store import Store
from serving.access import KeyRing
from serving.answering import Answering
from serving.api import Api
from serving.drift import Reference
from serving.front import Bounds, Front, MonitorLink
from serving.gauges import Gauges
from serving.monitor import WINDOW, Monitor
from serving.recorder import Recorder
from serving.retriever import Retriever


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
    record_rate: float = 1.0
    """Share of the queries that is recorded, in [0, 1]."""
    replicas: int = 1
    """Processes that answer."""
    window: int = WINDOW
    """Reviewed queries of a customer that its gauges count: the latest ones."""

    def to_args(self) -> dict[str, object]:
        """As plain data, for ``serving.app:build``."""
        return dataclasses.asdict(self)


def open_named(settings: Settings) -> Release:
    """The verified release; ``ReleaseError`` or ``StoreError`` with one line."""
    folder = Path(settings.release)
    if (folder / MANIFEST).is_file():
        return open_release(folder)
    return Store(settings.store).open(settings.release)


def pinned(settings: Settings) -> Settings:
    """The same with the alias resolved and paths absolute: workers have other working folders."""
    folder = Path(settings.release)
    named = (folder / MANIFEST).is_file()
    release = str(folder.resolve()) if named else open_named(settings).id
    return dataclasses.replace(
        settings, release=release, keys=str(Path(settings.keys).resolve()),
        store=settings.store if "://" in settings.store else str(Path(settings.store).resolve()),
        records=absolute_records(settings.records),
    )


def absolute_records(url: str) -> str:
    """An SQLite URL with its path made absolute; any other URL as it is."""
    prefix = "sqlite:///"
    if not url.startswith(prefix) or url in (prefix, f"{prefix}:memory:"):
        return url
    return f"{prefix}{Path(url.removeprefix(prefix)).resolve()}"


def front_of(settings: Settings, monitor: MonitorLink, bounds: Bounds | None = None) -> Front:
    """One replica's API with everything behind it, warm: no request pays for a first time."""
    release = open_named(settings)
    retriever = Retriever(release)
    records = open_records(settings.records)
    baseline = release.counts()["baseline"]
    recorder = Recorder(
        records, draw_plan(baseline, release.threshold),
        release=release.id12, grid=baseline.grid, rate=settings.record_rate,
        visible=retriever.visible_distances, item_id=retriever.item_id,
        rng=np.random.default_rng(),  # fresh entropy: replicas must not share a seed
    )
    answering = Answering(retriever, recorder)
    answering.is_ready()
    api = Api(release, answering, records, KeyRing(Path(settings.keys)))
    return Front(api, monitor, bounds or Bounds())


def gauges_of(settings: Settings) -> Gauges:
    """The gauges of the release from the records, as the one monitor shows them."""
    release = open_named(settings)
    records = open_records(settings.records)
    monitor = Monitor(records, reference_of(release), window=settings.window)
    return Gauges(
        monitor.snapshot,
        match_recall=_match_recall(release),
        info={"rule": release.manifest.facts.rule},
    )


def reference_of(release: Release) -> Reference:
    """What drift is measured against: the release's own counts over its calibration range."""
    choice, spacing = recorded_choice(release)
    return Reference(
        release=release.id12, baseline=release.counts()["baseline"],
        thresholds=curve_thresholds(choice, spacing), threshold=release.threshold,
    )


def _match_recall(release: Release) -> float:
    """The least that any segment of the index was measured to find; 1.0 where all are exact."""
    facts = json.loads((release.folder / "index" / "index.json").read_text(encoding="utf-8"))
    return min((float(segment["match_recall"]) for segment in facts["segments"]), default=1.0)
