"""Decisions, draws and verdicts: kept in SQL, written and read here alone.

SQL is the truth: a gauge is a pure function of these tables, so a server that was killed comes
back with the same numbers. What a method wrote is durable when it returns, all of it or nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from pipeline.live.database import Database, encode_histogram, rows_where
from pipeline.live.decisions import (
    ContradictoryVerdictError,
    Decision,
    Draw,
    Override,
    Review,
    UnknownPairError,
    Verdict,
)
from pipeline.live.tables import DECISIONS, DRAWS, OVERRIDES, VERDICTS

_WITH_VERDICTS = DRAWS.outerjoin(VERDICTS, VERDICTS.c.draw_id == DRAWS.c.draw_id)


def open_records(url: str) -> Records:
    """Open the records at an SQLAlchemy ``url``, such as ``sqlite:////var/limen/records.db``.

    The schema is created where it is missing. Raises ``RecordsError`` for an unusable URL,
    ``RecordsUnavailableError`` where nothing answers there.
    """
    return Records(Database(url))


def without_password(url: str) -> str:
    """The ``url`` of records as it may be shown, in a log for one."""
    return sa.make_url(url).render_as_string(hide_password=True)


def review_rank(query_id: str) -> int:
    """Place of a query in the order of review, in [0, 2^63).

    A hash, so that the reviewed queries are a random sample of the recorded ones; not the hash
    of the buckets, or the queries reviewed first would all share a few buckets.
    """
    digest = hashlib.blake2b(query_id.encode(), digest_size=8, person=b"limen-review").digest()
    return int.from_bytes(digest, "big") >> 1


class Records:
    """The tables of one database; safe to use from several threads and processes."""

    def __init__(self, database: Database) -> None:
        """Use ``open_records``."""
        self.database = database

    def close(self) -> None:
        """Close every connection."""
        self.database.close()

    def record(self, decisions: Sequence[Decision], draws: Sequence[Draw]) -> None:
        """Keep these decisions and the pairs drawn from them, all or none."""
        if not decisions:
            return
        with self.database.write() as connection:
            connection.execute(sa.insert(DECISIONS), [_decision_row(entry) for entry in decisions])
            if draws:
                connection.execute(sa.insert(DRAWS), [asdict(draw) for draw in draws])

    def add_override(self, override: Override) -> None:
        """Keep who asked for another threshold, durably."""
        with self.database.write() as connection:
            connection.execute(sa.insert(OVERRIDES), [asdict(override)])

    def reviews(self, budget: int, customer: str | None, release: str) -> list[Review]:
        """At most ``budget`` drawn pairs without a verdict, of one customer or (None) of all.

        Whole query by whole query, in a hash order of the query, in turn over the customers;
        a query that the budget cuts short is completed by the next call. Nothing is reserved:
        until a verdict arrives, the next call hands out the same pairs.
        """
        order = (DECISIONS.c.review_rank, DECISIONS.c.query_id)
        scope = [DECISIONS.c.release == release]
        if customer is not None:
            scope.append(DECISIONS.c.customer == customer)
        turns = (
            sa.select(
                DECISIONS.c.query_id,
                DECISIONS.c.customer,
                sa.func.row_number().over(partition_by=DECISIONS.c.customer, order_by=order)
                .label("turn"),
            )
            .where(*scope, sa.exists().where(DRAWS.c.query_id == DECISIONS.c.query_id))
            .subquery()
        )
        wanted = (
            sa.select(
                DRAWS.c.draw_id, DRAWS.c.query_id, DRAWS.c.item_id, turns.c.customer,
                DRAWS.c.distance,
            )
            .select_from(_WITH_VERDICTS.join(turns, turns.c.query_id == DRAWS.c.query_id))
            .where(VERDICTS.c.id.is_(None))
            .order_by(turns.c.turn, turns.c.customer, DRAWS.c.distance, DRAWS.c.draw_id)
            .limit(max(0, budget))
        )
        with self.database.read() as connection:
            return [Review(**row) for row in connection.execute(wanted).mappings()]

    def add_verdicts(self, verdicts: Sequence[Verdict], customer: str | None, at: float) -> int:
        """Keep ``verdicts``, all or none, durably; returns how many were new.

        ``customer``: whose queries they may name; None for every customer's. Saying the same
        again changes nothing. Raises ``UnknownPairError`` or ``ContradictoryVerdictError``.
        """
        with self.database.write("verdicts") as connection:  # two could say the same at once
            known = _Known(connection, verdicts)
            rows = [
                asdict(verdict) | {"customer": known.owner(index, verdict, customer), "at": at}
                for index, verdict in enumerate(verdicts)
                if known.is_new(index, verdict, customer)
            ]
            if rows:
                connection.execute(sa.insert(VERDICTS), rows)
        return len(rows)


def _decision_row(decision: Decision) -> dict[str, Any]:
    return asdict(decision) | {
        "histogram": encode_histogram(decision.histogram),
        "review_rank": review_rank(decision.query_id),
    }


class _Known:
    """What the records know of the pairs in a batch of verdicts."""

    def __init__(self, connection: sa.Connection, verdicts: Sequence[Verdict]) -> None:
        queries = {verdict.query_id for verdict in verdicts}
        draws = {verdict.draw_id for verdict in verdicts if verdict.draw_id is not None}
        owners = sa.select(DECISIONS.c.query_id, DECISIONS.c.customer)
        pairs = sa.select(DRAWS.c.draw_id, DRAWS.c.query_id, DRAWS.c.item_id)
        said = sa.select(VERDICTS.c.draw_id, VERDICTS.c.is_match)
        volunteered = sa.select(
            VERDICTS.c.query_id, VERDICTS.c.item_id, VERDICTS.c.is_match
        ).where(VERDICTS.c.draw_id.is_(None))
        self._owners: dict[str, str] = {
            row.query_id: row.customer
            for row in rows_where(connection, owners, DECISIONS.c.query_id, queries)
        }
        self._pairs: dict[str, tuple[str, str]] = {
            row.draw_id: (row.query_id, row.item_id)
            for row in rows_where(connection, pairs, DRAWS.c.draw_id, draws)
        }
        self._said: dict[str, bool] = {
            row.draw_id: row.is_match
            for row in rows_where(connection, said, VERDICTS.c.draw_id, draws)
        }
        self._volunteered: set[tuple[str, str, bool]] = {
            (row.query_id, row.item_id, row.is_match)
            for row in rows_where(connection, volunteered, VERDICTS.c.query_id, queries)
        }

    def owner(self, index: int, verdict: Verdict, customer: str | None) -> str:
        """The customer of the verdict's query, who has to be ``customer`` where one is given."""
        owner = self._owners.get(verdict.query_id)
        # Another customer's query is reported like one that is not there.
        if owner is None or customer not in (None, owner):
            raise UnknownPairError(
                index, f"query {verdict.query_id!r} is not recorded; expected a query_id of an "
                "answer with \"recorded\": true",
            )
        return owner

    def is_new(self, index: int, verdict: Verdict, customer: str | None) -> bool:
        """Whether the verdict has not been given before; from now on it has.

        Raises where its query or draw is unknown, or its draw has the opposite verdict.
        """
        self.owner(index, verdict, customer)
        if verdict.draw_id is None:
            same = (verdict.query_id, verdict.item_id, verdict.is_match)
            new = same not in self._volunteered
            self._volunteered.add(same)
            return new
        if self._pairs.get(verdict.draw_id) != (verdict.query_id, verdict.item_id):
            raise UnknownPairError(
                index, f"draw {verdict.draw_id!r} is not of this query and item; expected the "
                "draw_id, query_id and item_id of one review",
            )
        before = self._said.get(verdict.draw_id)
        if before is not None and before != verdict.is_match:
            raise ContradictoryVerdictError(
                index, f"draw {verdict.draw_id!r} already has the verdict is_match = {before}; "
                "the first verdict stays",
            )
        self._said[verdict.draw_id] = verdict.is_match
        return before is None
