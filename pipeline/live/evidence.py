"""What the records say about a release: the reviewed queries, and how much there is.

Reads only; the same tables give the same lists, in the same order.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import sqlalchemy as sa

from pipeline.live.database import Database, decode_histogram, rows_where
from pipeline.live.decisions import ReviewedQuery, Volume
from pipeline.live.tables import DECISIONS, DRAWS, VERDICTS


def reviewed_queries(database: Database, release: str, *, window: int) -> list[ReviewedQuery]:
    """The queries all of whose draws have verdicts; of each customer the latest ``window``.

    Ordered by customer, time and id. A recorded query from which nothing was drawn counts as
    reviewed.
    """
    complete = _complete(release)
    chosen = (
        sa.select(complete)
        .where(complete.c.age <= window)
        .order_by(complete.c.customer, complete.c.at, complete.c.query_id)
    )
    matches = (
        sa.select(DRAWS.c.query_id, DRAWS.c.bin, DRAWS.c.probability)
        .join(VERDICTS, VERDICTS.c.draw_id == DRAWS.c.draw_id)
        .where(VERDICTS.c.is_match)
        .order_by(DRAWS.c.draw_id)
    )
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with database.read() as connection:
        rows = connection.execute(chosen).all()
        names = {row.query_id for row in rows}
        for row in rows_where(connection, matches, DRAWS.c.query_id, names):
            found[row.query_id].append((row.bin, row.probability))
    return [_reviewed_query(row, found[row.query_id]) for row in rows]


def volumes(database: Database, release: str) -> list[Volume]:
    """What is recorded of each customer under ``release``, ordered by customer."""
    recorded = (
        sa.select(DECISIONS.c.customer, DECISIONS.c.recorded_probability, sa.func.count())
        .where(DECISIONS.c.release == release)
        .group_by(DECISIONS.c.customer, DECISIONS.c.recorded_probability)
        .order_by(DECISIONS.c.customer, DECISIONS.c.recorded_probability)
    )
    drawn = VERDICTS.c.draw_id.is_not(None)
    judged = (
        sa.select(DECISIONS.c.customer, drawn, sa.func.count())
        .select_from(VERDICTS.join(DECISIONS))
        .where(DECISIONS.c.release == release)
        .group_by(DECISIONS.c.customer, drawn)
    )
    parts: dict[str, list[tuple[float, int]]] = defaultdict(list)
    with database.read() as connection:
        verdicts = {(name, bool(kind)): n for name, kind, n in connection.execute(judged)}
        for name, probability, n in connection.execute(recorded):
            parts[name].append((n / probability, n))
    return [
        Volume(
            customer=name,
            queries=sum(weight for weight, _ in entries),
            recorded=sum(n for _, n in entries),
            drawn_verdicts=verdicts.get((name, True), 0),
            volunteered_verdicts=verdicts.get((name, False), 0),
        )
        for name, entries in parts.items()
    ]


def marker(database: Database, release: str) -> tuple[int, int]:
    """Decisions of ``release``, and verdicts in all.

    Rows are only ever added: a marker seen before means that nothing has changed since.
    """
    decisions = sa.select(sa.func.count()).where(DECISIONS.c.release == release)
    verdicts = sa.select(sa.func.count()).select_from(VERDICTS)
    with database.read() as connection:
        return (
            int(connection.execute(decisions).scalar_one()),
            int(connection.execute(verdicts).scalar_one()),
        )


def _complete(release: str) -> sa.Subquery:
    """Decisions without a waiting draw; ``age`` 1 is the customer's latest."""
    waiting = (
        sa.select(DRAWS.c.draw_id)
        .outerjoin(VERDICTS, VERDICTS.c.draw_id == DRAWS.c.draw_id)
        .where(DRAWS.c.query_id == DECISIONS.c.query_id, VERDICTS.c.id.is_(None))
        .correlate(DECISIONS)
    )
    age = sa.func.row_number().over(
        partition_by=DECISIONS.c.customer,
        order_by=(DECISIONS.c.at.desc(), DECISIONS.c.query_id.desc()),
    )
    return (
        sa.select(
            DECISIONS.c.query_id,
            DECISIONS.c.customer,
            DECISIONS.c.at,
            DECISIONS.c.recorded_probability,
            DECISIONS.c.histogram,
            age.label("age"),
        )
        .where(DECISIONS.c.release == release, ~waiting.exists())
        .subquery()
    )


def _reviewed_query(row: sa.Row[Any], found: list[tuple[int, float]]) -> ReviewedQuery:
    """One query with the bins and probabilities of its drawn matches."""
    return ReviewedQuery(
        query_id=row.query_id,
        customer=row.customer,
        recorded_probability=row.recorded_probability,
        histogram=decode_histogram(row.histogram),
        positive_bins=np.asarray([place for place, _ in found], np.int64),
        positive_probabilities=np.asarray([chance for _, chance in found], np.float64),
    )
