"""Audits as they lie in SQL: rows out of a plan, labels back out of rows."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from pipeline.audit.cells import Cells
from pipeline.audit.estimates import Labels
from pipeline.audit.plan import Plan
from pipeline.audit.strata import Strata
from pipeline.live.tables import AUDIT_LABELS, AUDIT_ROWS

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Labelled:
    """The labels of an audit so far."""

    labels: Labels
    """Undecided rows stand as no matches; ``undecided`` says which they are."""
    undecided: NDArray[np.bool_]
    """(n,)"""
    number: Floats
    """(n,) permanent random numbers."""
    drawn: int
    """Rows that the audit drew."""
    done: int
    """Of these, how many have a label."""


def with_labels(audit: str, scope: str) -> sa.Select[Any]:
    """The rows of an audit in their order, each with its label where it has one."""
    same = sa.and_(AUDIT_LABELS.c.key == AUDIT_ROWS.c.key, AUDIT_LABELS.c.scope == scope)
    return (
        sa.select(AUDIT_ROWS, AUDIT_LABELS.c.is_match, AUDIT_LABELS.c.key.label("labelled"))
        .select_from(AUDIT_ROWS.outerjoin(AUDIT_LABELS, same))
        .where(AUDIT_ROWS.c.audit == audit)
        .order_by(AUDIT_ROWS.c.place)
    )


def labels_in(connection: sa.Connection, audit: str, scope: str) -> Labelled:
    """The labels of an audit so far, with the probabilities that go with them.

    Where labelling stopped early, all strata did at the same share of their cut: a label beyond
    it was not drawn by that smaller sample, and waits.
    """
    rows = connection.execute(with_labels(audit, scope)).all()
    drawn = [row for row in rows if row.inclusion > 0]
    missing = next((row for row in drawn if row.labelled is None), None)
    reached = 1.0 if missing is None else missing.number / missing.inclusion
    inclusion = [
        max(reached * row.inclusion if row.number < reached * row.inclusion else 0.0, row.before)
        for row in rows
    ]
    used = [(row, share) for row, share in zip(rows, inclusion, strict=True)
            if row.labelled is not None and share > 0]
    score = np.array([np.nan if row.score is None else row.score for row, _ in used], float)
    labels = Labels(
        np.array([row.cell for row, _ in used], np.int64),
        np.array([bool(row.is_match) for row, _ in used], np.bool_),
        np.array([min(share, 1.0) for _, share in used], float),
        None if np.isnan(score).any() else score,
    )
    return Labelled(
        labels,
        np.array([row.is_match is None for row, _ in used], np.bool_),
        np.array([row.number for row, _ in used], float),
        len(drawn),
        sum(row.labelled is not None for row in drawn),
    )


def rows_of(plan: Plan) -> list[dict[str, Any]]:
    """The drawn rows in their order, then those that earlier audits labelled and this did not
    draw."""
    drawn, known = plan.drawn, plan.known
    before = dict(zip(known.number.tolist(), known.inclusion.tolist(), strict=True))
    own = set(drawn.number.tolist())
    rows = []
    for some, table, drawn_here in ((drawn, plan.rows, True), (known, plan.known_rows, False)):
        for place, shown in enumerate(table.to_pylist()):
            number = float(some.number[place])
            if not drawn_here and number in own:
                continue
            score = shown.get(plan.decisions.score) if plan.decisions.score else None
            rows.append({
                "key": shown.pop("key"), "cell": int(some.cell[place]), "number": number,
                "inclusion": float(some.inclusion[place]) if drawn_here else 0.0,
                "before": before.get(number, 0.0), "score": score,
                "shown": json.dumps(shown, default=str),
            })
    return rows


def packed(cells: Cells, strata: Strata) -> bytes:
    """Cells and strata as one text of bytes, for ``unpacked``."""
    stream = io.BytesIO()
    np.savez_compressed(stream, sets=np.array(cells.sets), member=cells.member, size=cells.size,
                        score=cells.score, of_cell=strata.of_cell, rows=strata.size)
    return stream.getvalue()


def unpacked(stored: bytes) -> tuple[Cells, Strata]:
    """What ``packed`` was given."""
    with np.load(io.BytesIO(stored), allow_pickle=False) as kept:
        cells = Cells(tuple(kept["sets"].tolist()), kept["member"], kept["size"], kept["score"])
        return cells, Strata(kept["of_cell"], kept["rows"])
