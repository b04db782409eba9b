"""Which release an alias such as ``production`` means, now and before.

The book is a log that only grows: a promotion pushes a release, a rollback takes the newest one
off again. ``aliases.json`` in a store is this log, rewritten whole at each change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.canonical import canonical_json, parse_object

SCHEMA = "limen-aliases/1"
PROMOTE, ROLLBACK = "promote", "rollback"

_NAME = re.compile(r"(?![0-9a-f]{12,64}$)[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_ID = re.compile(r"[0-9a-f]{64}")


class StoreError(ValueError):
    """A store that cannot do what was asked; the message says what would help."""


class UnknownReleaseError(StoreError):
    """No alias and no release bears the name."""


class AliasMovedError(StoreError):
    """An alias means another release than the caller believed."""


@dataclass(frozen=True, slots=True)
class Change:
    """One line of an alias's history."""

    action: str
    """``promote`` or ``rollback``."""
    release: str
    """Id of the release that the alias means from here on."""


@dataclass(frozen=True, slots=True)
class AliasBook:
    """The history of every alias."""

    history: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)
    """By alias, oldest change first; never empty."""

    def current(self) -> dict[str, str]:
        """Id of the release that each alias means now, by alias in sorted order."""
        return {alias: changes[-1].release for alias, changes in sorted(self.history.items())}

    def promote(self, alias: str, release: str) -> AliasBook:
        """The book in which ``alias`` means ``release``; unchanged where it already does."""
        if not _NAME.fullmatch(alias):
            raise StoreError(
                f"alias {alias!r}: expected at most 64 letters, digits, '-' and '_', "
                "and nothing that could be an id"
            )
        if self.current().get(alias) == release:
            return self
        return self._with(alias, Change(PROMOTE, release))

    def rollback(self, alias: str) -> AliasBook:
        """The book in which ``alias`` means what it meant before its newest promotion.

        Rolling back twice goes back two promotions. ``StoreError`` at the first one.
        """
        if alias not in self.history:
            raise StoreError(f"no alias {alias!r}; known aliases: {_listed(self.history)}")
        promoted = self._promoted(alias)
        if len(promoted) < 2:
            raise StoreError(
                f"alias {alias!r}: nothing to roll back to; {promoted[0][:12]} was its first"
            )
        return self._with(alias, Change(ROLLBACK, promoted[-2]))

    def to_bytes(self) -> bytes:
        """The content of ``aliases.json``."""
        return canonical_json({
            "schema": SCHEMA,
            "aliases": {
                alias: [{"action": entry.action, "release": entry.release} for entry in changes]
                for alias, changes in self.history.items()
            },
        })

    def _promoted(self, alias: str) -> list[str]:
        """Releases promoted and not rolled back, oldest first."""
        promoted: list[str] = []
        for change in self.history[alias]:
            if change.action == PROMOTE:
                promoted.append(change.release)
            else:
                promoted.pop()
        return promoted

    def _with(self, alias: str, change: Change) -> AliasBook:
        return AliasBook({**self.history, alias: (*self.history.get(alias, ()), change)})


def parse_aliases(data: bytes, where: str) -> AliasBook:
    """The book in ``data``, replayed change by change; ``StoreError`` where it makes no sense."""
    try:
        document = parse_object(data)
        if document.get("schema") != SCHEMA:
            raise ValueError(f"schema {document.get('schema')!r}, expected {SCHEMA!r}")
        book = AliasBook()
        for alias, changes in _items(document.get("aliases")):
            for change in changes:
                book = _replay(book, alias, change)
        if book.to_bytes() != data:
            raise ValueError("an entry is unknown or changes nothing")
    except ValueError as error:
        raise StoreError(f"{where}: {error}; restore it from a copy, or remove it") from None
    return book


def _items(aliases: object) -> list[tuple[str, list[object]]]:
    if not isinstance(aliases, dict) or not all(isinstance(v, list) for v in aliases.values()):
        raise ValueError("'aliases' must map each alias to a list of changes")
    return list(aliases.items())


def _replay(book: AliasBook, alias: str, change: object) -> AliasBook:
    if not isinstance(change, dict):
        raise ValueError(f"alias {alias!r}: a change must be an object")
    action, release = change.get("action"), change.get("release")
    if not isinstance(release, str) or not _ID.fullmatch(release):
        raise ValueError(f"alias {alias!r}: {release!r} is no release id")
    if action == PROMOTE:
        return book.promote(alias, release)
    if action == ROLLBACK:
        book = book.rollback(alias)
        if book.current()[alias] != release:
            raise ValueError(f"alias {alias!r}: a rollback to {release[:12]} does not follow")
        return book
    raise ValueError(f"alias {alias!r}: unknown action {action!r}")


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"
