"""Audits and their labels, kept in SQL beside the records: interrupting loses nothing.

A scope is what shares labels: tables whose rows have one key. Its seed never changes, so that a
row has the same random number in every audit, and a label is used by all that come later.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from pipeline.audit.cells import AuditError, Cells
from pipeline.audit.plan import Plan
from pipeline.audit.stored import Labelled, labels_in, packed, rows_of, unpacked, with_labels
from pipeline.audit.strata import Strata
from pipeline.audit.targets import Question
from pipeline.live.database import Database
from pipeline.live.tables import AUDIT_LABELS, AUDIT_ROWS, AUDIT_SCOPES, AUDITS

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Kept:
    """An audit as it was planned."""

    audit: str
    scope: str
    told: Mapping[str, Any]
    """What was asked for, for people to read."""
    cells: Cells
    strata: Strata
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Row:
    """A row to label."""

    place: int
    """0 is the first to label."""
    key: str
    shown: Mapping[str, Any]
    """What a person is shown of it."""


class Audits:
    """The audits of one database; safe to use from several processes."""

    def __init__(self, database: Database) -> None:
        """``database`` as ``pipeline.live.database`` opens it."""
        self._database = database

    def seed(self, scope: str) -> int:
        """The scope's seed, in [0, 2^62); drawn once."""
        with self._database.write("audits") as connection:
            found = connection.scalar(
                sa.select(AUDIT_SCOPES.c.seed).where(AUDIT_SCOPES.c.scope == scope))
            if found is None:
                found = secrets.randbits(62)
                connection.execute(sa.insert(AUDIT_SCOPES).values(scope=scope, seed=found))
        return int(found)

    def known(self, scope: str) -> tuple[Floats, Floats]:
        """Random numbers of the labelled rows of a scope, and each one's inclusion probability.

        A row that several audits drew was drawn if its number lay below any of their cuts: the
        largest counts.
        """
        with self._database.read() as connection:
            audits = connection.scalars(
                sa.select(AUDITS.c.audit).where(AUDITS.c.scope == scope)).all()
            best: dict[float, float] = {}
            for audit in audits:
                found = labels_in(connection, audit, scope)
                pairs = zip(found.number.tolist(), found.labels.inclusion.tolist(), strict=True)
                for number, inclusion in pairs:
                    best[number] = max(best.get(number, 0.0), inclusion)
        numbers = np.array(list(best), float)
        return numbers, np.array([best[number] for number in best], float)

    def add(self, audit: str, scope: str, plan: Plan, told: Mapping[str, Any], at: float) -> None:
        """Keep a plan, all of it or nothing. ``AuditError`` where the name is taken."""
        questions = [asdict(question) for question in plan.questions]
        with self._database.write("audits") as connection:
            if connection.scalar(sa.select(AUDITS.c.audit).where(AUDITS.c.audit == audit)):
                raise AuditError(f"there is an audit {audit!r} already; choose another name")
            connection.execute(sa.insert(AUDITS).values(
                audit=audit, scope=scope, at=at, cells=packed(plan.cells, plan.allocation.strata),
                told=json.dumps({**told, "questions": questions})))
            connection.execute(sa.insert(AUDIT_ROWS), [
                {"audit": audit, "place": place, **row} for place, row in enumerate(rows_of(plan))
            ])

    def open(self, audit: str) -> Kept:
        """An audit as it was planned. ``AuditError`` where there is none of that name."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(AUDITS).where(AUDITS.c.audit == audit)).first()
        if row is None:
            raise AuditError(f"there is no audit {audit!r}; there are: "
                             f"{', '.join(self.names()) or 'none'}")
        told = json.loads(row.told)
        questions = tuple(Question(one["criterion"], tuple(one["sets"]))
                          for one in told["questions"])
        return Kept(audit, row.scope, told, *unpacked(row.cells), questions)

    def names(self) -> list[str]:
        """All audits, the oldest first."""
        with self._database.read() as connection:
            return list(connection.scalars(sa.select(AUDITS.c.audit).order_by(AUDITS.c.at)))

    def to_label(self, kept: Kept, most: int | None = None) -> list[Row]:
        """Drawn rows without a label, in their order, at most ``most`` of them."""
        with self._database.read() as connection:
            rows = connection.execute(
                with_labels(kept.audit, kept.scope)
                .where(AUDIT_LABELS.c.key.is_(None), AUDIT_ROWS.c.inclusion > 0).limit(most))
            return [Row(row.place, row.key, json.loads(row.shown)) for row in rows]

    def label(self, kept: Kept, verdicts: Mapping[str, bool | None], at: float) -> int:
        """Keep what a person said of rows by key, all or nothing; None: nobody could tell.

        Returns how many were new. ``AuditError`` for a row that the audit did not draw, and for a
        verdict against one that is there: the first one stays.
        """
        with self._database.write("audits") as connection:
            keys = sa.select(AUDIT_ROWS.c.key).where(AUDIT_ROWS.c.audit == kept.audit)
            drawn = set(connection.scalars(keys))
            unknown = next((key for key in verdicts if key not in drawn), None)
            if unknown is not None:
                raise AuditError(f"row {unknown!r} is none of audit {kept.audit!r}; labels are "
                                 "for the rows that it drew")
            labelled = connection.execute(
                sa.select(AUDIT_LABELS.c.key, AUDIT_LABELS.c.is_match)
                .where(AUDIT_LABELS.c.scope == kept.scope))
            there = {row.key: row.is_match for row in labelled}
            for key, verdict in verdicts.items():
                if key in there and there[key] != verdict:
                    raise AuditError(f"row {key!r} is labelled {_word(there[key])} already, now "
                                     f"{_word(verdict)}; the first label stays")
            new = [{"scope": kept.scope, "key": key, "is_match": verdict, "at": at}
                   for key, verdict in verdicts.items() if key not in there]
            if new:
                connection.execute(sa.insert(AUDIT_LABELS), new)
        return len(new)

    def labels(self, kept: Kept) -> Labelled:
        """What is labelled so far, as the estimates take it."""
        with self._database.read() as connection:
            return labels_in(connection, kept.audit, kept.scope)


def _word(verdict: bool | None) -> str:
    return {True: "a match", False: "no match", None: "undecided"}[verdict]
