"""The log of online changes: durable before it is acknowledged, in one order for all replicas.

A request's changes are written in one transaction, all or none, and numbered in the order of
commits: writers take their numbers under a lock that they hold until they have committed. So
whoever has read up to a number has read everything up to it. Nothing is ever removed.
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
from pipeline.live.database import ITEM_CHANGES, ITEM_LOG, Database

_PUT, _DELETE = "put", "delete"
_END_OF = (
    "SELECT (SELECT identity FROM item_log), "
    "(SELECT coalesce(max(own_number), 0) FROM item_changes WHERE customer = :customer)"
)
_AT_A_TIME = 256  # changes held in memory while reading: each may be an image
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

        ``at``: seconds since the epoch. ``request``: the same one again changes nothing and gets
        the same answer. Raises ``KeyReusedError``, or ``RecordsError`` where nothing was kept.
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
            earlier = _earlier(connection, customer, request)
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
            if earlier := _earlier(connection, customer, request):
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

    def answered(self, customer: str, request: RequestKey) -> Accepted | None:
        """What an earlier request of this key was answered; raises ``KeyReusedError``."""
        with self._database.read() as connection:
            return _earlier(connection, customer, request)

    def since(
        self, number: int, customer: str | None = None, own_number: int = 0
    ) -> Iterator[Change]:
        """The last change of every item that changed after ``number``, in the order of the log.

        All of one moment; the last of them is the last in the log. ``customer``: only this one's,
        and only after its change ``own_number``.
        """
        later = ITEM_CHANGES.alias()
        latest = ~sa.exists().where(
            later.c.customer == _C.customer, later.c.item_id == _C.item_id,
            later.c.number > _C.number,
        )
        wanted = sa.select(ITEM_CHANGES).where(_C.number > number, latest).order_by(_C.number)
        if customer is not None:
            wanted = wanted.where(_C.customer == customer, _C.own_number > own_number)
        with self._database.read() as connection:
            found = connection.execution_options(yield_per=_AT_A_TIME).execute(wanted)
            for row in found.mappings():
                yield _change(row)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction that nobody else writes the log beside."""
        with self._database.write() as connection:
            # SQLite's writers take turns by themselves. Elsewhere numbers of a sequence would
            # not come in the order of the commits.
            if not self._database.is_sqlite:
                connection.exec_driver_sql("LOCK TABLE item_changes IN EXCLUSIVE MODE")
            yield connection


def _earlier(
    connection: sa.Connection, customer: str, request: RequestKey | None
) -> Accepted | None:
    if request is None:
        return None
    row = connection.execute(
        sa.select(sa.func.count(), sa.func.max(_C.own_number), sa.func.max(_C.request_digest))
        .where(_C.customer == customer, _C.request_key == request.key)
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
    return Accepted(len(rows), own + len(rows))


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
