"""The log of online changes: durable before it is acknowledged, in one order for all replicas.

A request's changes are written in one transaction, all or none, and numbered in the order of
commits: writers take their numbers under a lock that they hold until they have committed. So
whoever has read up to a number has read everything up to it.

The last change of an item is kept for good, whichever releases hold it: of what was put online
the log has the only copy, which the next network has to embed again; and an items table or an
older release may still hold what a customer deleted. What a later change of the same item has
overtaken is nobody's to read any more, so its content goes at once, and ``trim`` takes the rest.
So a log grows with the items that were ever changed, not with the changes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from pipeline.item_log.changes import (
    Accepted,
    Change,
    Content,
    KeyReusedError,
    LogEnd,
    NewItem,
    RequestKey,
)
from pipeline.item_log.glance import Glance
from pipeline.live.database import Database
from pipeline.live.tables import ITEM_CHANGES, ITEM_LOG

KEYS_KEPT = 86_400.0
"""Seconds for which the key of a request is known again."""

_PUT, _DELETE = "put", "delete"
_END_OF = (
    "SELECT (SELECT identity FROM item_log), "
    "(SELECT coalesce(max(own_number), 0) FROM item_changes WHERE customer = :customer)"
)
_AT_A_TIME = 256  # changes held in memory while reading: each may be an image
_IN_ONE_STATEMENT = 500
_C = ITEM_CHANGES.c


class ItemLog:
    """The changes of one database; safe to use from several threads and processes."""

    def __init__(self, database: Database) -> None:
        """Open the log, beginning it where there is none; raises ``RecordsError``."""
        self._database = database
        self._end_of = Glance(database, _END_OF)
        if self.end().log is None:
            with self._writing() as connection:
                if connection.execute(sa.select(ITEM_LOG.c.identity)).first() is None:
                    connection.execute(sa.insert(ITEM_LOG).values(identity=uuid.uuid4().hex))

    def end(self) -> LogEnd:
        """How far the log goes; ``RecordsError`` where it cannot be read."""
        identity = sa.select(ITEM_LOG.c.identity).scalar_subquery()
        last = sa.select(sa.func.coalesce(sa.func.max(_C.number), 0)).scalar_subquery()
        with self._database.read() as connection:
            return LogEnd(*connection.execute(sa.select(identity, last)).one())

    def end_of(self, customer: str) -> LogEnd:
        """How far the log goes for ``customer``: cheap, since every request asks.

        Raises ``RecordsError`` where it cannot be read.
        """
        return LogEnd(*self._end_of.row(customer=customer))

    def customers(self) -> list[str]:
        """Everyone who changed anything, sorted."""
        with self._database.read() as connection:
            found = connection.execute(sa.select(_C.customer).distinct().order_by(_C.customer))
            return list(found.scalars())

    def put(
        self, customer: str, items: Sequence[NewItem], at: float, request: RequestKey | None = None
    ) -> Accepted:
        """Keep ``items`` (one or more) of ``customer``, in place of those with the same ids.

        ``at``: seconds since the epoch. ``request``: the same one again, within ``KEYS_KEPT``,
        changes nothing and gets the same answer. Raises ``KeyReusedError``, or ``RecordsError``
        where nothing was kept.
        """
        rows = [
            {
                "action": _PUT, "item_id": item.item_id, "kind": item.content.kind,
                "content": item.content.data, "encoder": item.content.encoder,
                "label": item.label,
                "metadata": None if item.metadata is None else json.dumps(item.metadata),
            }
            for item in items
        ]
        with self._writing() as connection:
            earlier = _earlier(connection, customer, request, at)
            return earlier or _append(connection, customer, rows, at, request)

    def delete(
        self, customer: str, item_id: str, at: float, *, in_gallery: bool,
        request: RequestKey | None = None,
    ) -> Accepted | None:
        """Delete the item ``item_id`` of ``customer``; None where it has none of that id.

        ``in_gallery``: whether a release holds it, which counts where the log says nothing.
        Otherwise as ``put``.
        """
        with self._writing() as connection:
            if earlier := _earlier(connection, customer, request, at):
                return earlier
            last = connection.execute(
                sa.select(_C.action)
                .where(_C.customer == customer, _C.item_id == item_id)
                .order_by(_C.number.desc()).limit(1)
            ).scalar()
            if last == _DELETE or (last is None and not in_gallery):
                return None
            row = {"action": _DELETE, "item_id": item_id}
            return _append(connection, customer, [row], at, request)

    def answered(self, customer: str, request: RequestKey, at: float) -> Accepted | None:
        """What an earlier request of this key was answered; raises ``KeyReusedError``."""
        with self._database.read() as connection:
            return _earlier(connection, customer, request, at)

    def trim(self, at: float) -> int:
        """Remove every overtaken change whose request is not known again; returns how many.

        No reader can tell: ``since`` gives nothing but the last change of each item, and no
        number is given a second time, since the last change of all is overtaken by none.
        """
        with self._writing() as connection:
            removed = connection.execute(
                sa.delete(ITEM_CHANGES).where(_C.at <= at - KEYS_KEPT, ~_is_last())
            )
            return int(removed.rowcount)

    def since(
        self, number: int, customer: str | None = None, own_number: int = 0
    ) -> Iterator[Change]:
        """The last change of every item that changed after ``number``, in the order of the log.

        All of one moment; the last of them is the last in the log. ``customer``: only this one's,
        and only after its change ``own_number``.
        """
        wanted = sa.select(ITEM_CHANGES).where(_C.number > number, _is_last()).order_by(_C.number)
        if customer is not None:
            wanted = wanted.where(_C.customer == customer, _C.own_number > own_number)
        with self._database.read() as connection:
            found = connection.execution_options(yield_per=_AT_A_TIME).execute(wanted)
            for row in found.mappings():
                yield _change(row)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction that nobody else writes the log beside."""
        # Numbers of a sequence would not come in the order of the commits.
        with self._database.write("item_changes") as connection:
            yield connection


def _is_last() -> sa.ColumnElement[bool]:
    """Whether a change is the last one of its item."""
    later = ITEM_CHANGES.alias()
    return ~sa.exists().where(
        later.c.customer == _C.customer, later.c.item_id == _C.item_id,
        later.c.number > _C.number,
    )


def _earlier(
    connection: sa.Connection, customer: str, request: RequestKey | None, at: float
) -> Accepted | None:
    if request is None:
        return None
    row = connection.execute(
        sa.select(sa.func.count(), sa.func.max(_C.own_number), sa.func.max(_C.request_digest))
        .where(_C.customer == customer, _C.request_key == request.key, _C.at > at - KEYS_KEPT)
    ).one()
    if row[0] == 0:
        return None
    if row[2] != request.digest:
        raise KeyReusedError(
            f"idempotency key {request.key!r} came before with another request; use a new key "
            "for each request, and send that request unchanged to repeat it"
        )
    return Accepted(*row[:2])


def _append(
    connection: sa.Connection, customer: str, rows: Sequence[dict[str, Any]], at: float,
    request: RequestKey | None,
) -> Accepted:
    number = connection.execute(sa.select(sa.func.max(_C.number))).scalar() or 0
    own = connection.execute(
        sa.select(sa.func.max(_C.own_number)).where(_C.customer == customer)
    ).scalar() or 0
    connection.execute(sa.insert(ITEM_CHANGES), [
        {
            "number": number + place, "customer": customer, "own_number": own + place, **row,
            "request_key": request and request.key, "request_digest": request and request.digest,
            "at": at,
        }
        for place, row in enumerate(rows, 1)
    ])
    _empty_overtaken(connection, customer, [row["item_id"] for row in rows], number)
    return Accepted(len(rows), own + len(rows))


def _empty_overtaken(
    connection: sa.Connection, customer: str, item_ids: Sequence[str], number: int
) -> None:
    """Take the content out of what the items' changes up to ``number`` said of them."""
    for start in range(0, len(item_ids), _IN_ONE_STATEMENT):
        connection.execute(
            sa.update(ITEM_CHANGES)
            .where(_C.customer == customer, _C.number <= number, _C.content.is_not(None),
                   _C.item_id.in_(item_ids[start : start + _IN_ONE_STATEMENT]))
            .values(content=None, encoder=None, label=None, metadata=None)
        )


def _change(row: sa.RowMapping) -> Change:
    content = None
    if row["action"] == _PUT:
        content = Content(kind=row["kind"], data=bytes(row["content"]), encoder=row["encoder"])
    metadata = row["metadata"]
    return Change(
        number=row["number"], customer=row["customer"], own_number=row["own_number"],
        item_id=row["item_id"], content=content, label=row["label"],
        metadata=None if metadata is None else json.loads(metadata),
    )
