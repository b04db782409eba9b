"""Moving the alias that a server follows, over HTTP: promote and rollback.

The alias moves in the store, as it does on the command line, and every replica takes the release
up by itself. The answer waits for them. Where a replica refuses the release, the move is undone,
so that all replicas serve one release and a restarted one finds a release that opens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from pipeline.releases.aliases import AliasMovedError, StoreError
from pipeline.releases.manifest import ReleaseError
from pipeline.releases.release import ID_LENGTH
from pipeline.releases.store import Store
from pipeline.trail import Trail, TrailError
from serving.access.admission import Call
from serving.responses import RefusedError, Response, json_response
from serving.schema.admin import MovedAnswer, PromoteRequest, RollbackRequest
from serving.watching.replicas import MonitorLink, Standing
from serving.web.parsing import parse

OPERATIONS = ("promote", "rollback")
WAIT_SECONDS = 20.0
"""Longest wait for the replicas; below the time that any request has."""

_GLANCE_SECONDS = 0.1


class Administration:
    """Moves one alias of one store and watches the replicas follow."""

    def __init__(
        self, store: Store, alias: str | None, monitor: MonitorLink, trail: Trail
    ) -> None:
        """``alias``: the one that the server follows; None where it serves one release for good.

        ``trail``: gets a line before the alias moves.
        """
        self._store = store
        self._alias = alias
        self._monitor = monitor
        self._trail = trail
        self._one_at_a_time = asyncio.Lock()
        self._moving: set[asyncio.Task[Response]] = set()

    async def answer(self, call: Call, body: bytes) -> Response:
        """Do what an admitted ``call`` of ``OPERATIONS`` asks.

        ``RefusedError`` 404 for an unknown release, 409 where the alias or the replicas will
        not, 503 where store or trail cannot be written.
        """
        if call.operation == "promote":
            name: str | None = parse(PromoteRequest, body).release
        else:
            parse(RollbackRequest, body or b"{}")
            name = None
        if self._alias is None:
            raise RefusedError(
                409, "no_alias", "this server serves one release for good; start it on an alias, "
                "such as `limen serve production`, to move it",
            )
        moving = asyncio.create_task(self._moved(call, self._alias, name))
        self._moving.add(moving)  # the loop itself forgets tasks
        moving.add_done_callback(self._moving.discard)
        return await asyncio.shield(moving)  # whoever asked may leave: a move is never left half

    async def _moved(self, call: Call, alias: str, name: str | None) -> Response:
        async with self._one_at_a_time:
            before, release = await asyncio.to_thread(self._move, call, alias, name)
            live = await self._followed(call, alias, before, release)
        return json_response(MovedAnswer(
            alias=alias, release=release[:ID_LENGTH], replicas=len(live),
            swapped=sum(standing.release == release for standing in live),
            request_id=call.head.request_id,
        ).model_dump())

    def _move(self, call: Call, alias: str, name: str | None) -> tuple[str, str]:
        """Move the alias to ``name``, or (None) back; what it meant before and means now."""
        store = self._store
        try:
            before = store.aliases().get(alias, "")
            try:
                target = None if name is None else store.open(name).id
            except StoreError as error:
                raise RefusedError(404, "unknown_release", self._told(error)) from None
            self._tell(call, call.operation, alias=alias, before=before, release=target)
            if target is None:
                return before, store.rollback(alias, expected=before)
            return before, store.promote(alias, target, expected=before)
        except AliasMovedError as error:
            raise RefusedError(409, "alias_moved", self._told(error)) from None
        except ReleaseError as error:
            raise RefusedError(409, "release_refused", self._told(error)) from None
        except StoreError as error:
            raise RefusedError(409, "alias_not_moved", self._told(error)) from None
        except TrailError:
            raise
        except OSError as error:
            raise RefusedError(
                503, "store_unavailable", f"the store: {error.strerror or error}", retry_after=5
            ) from None

    async def _followed(
        self, call: Call, alias: str, before: str, release: str
    ) -> tuple[Standing, ...]:
        """The live replicas once all answer from ``release``, or when the time is up."""

        def settled(live: tuple[Standing, ...]) -> bool:
            swapped = all(standing.release == release for standing in live)
            return (bool(live) and swapped) or any(_refuses(one, release) for one in live)

        live = await self._until(settled)
        refusing = [standing for standing in live if _refuses(standing, release)]
        if refusing:
            why = "; ".join({
                self._told(one.refusal.why) for one in refusing if one.refusal is not None
            })
            if before != release:
                await asyncio.to_thread(self._undo, call, alias, before, release)
            await self._until(lambda live: not any(_refuses(one, release) for one in live))
            raise RefusedError(
                409, "release_refused",
                f"{len(refusing)} of {len(live)} replicas refused {release[:ID_LENGTH]}, {alias} "
                f"means {before[:ID_LENGTH]} as before: {why}",
            )
        return live

    def _undo(self, call: Call, alias: str, before: str, release: str) -> None:
        """Let the alias mean again what it meant, unless it was moved on meanwhile."""
        self._tell(call, f"{call.operation}_undone", alias=alias, before=release, release=before)
        undo = self._store.rollback if call.operation == "promote" else partial(
            self._store.promote, name=before
        )
        try:
            undo(alias, expected=release)
        except StoreError as error:
            raise RefusedError(409, "alias_moved", self._told(error)) from None

    async def _until(
        self, settled: Callable[[tuple[Standing, ...]], bool]
    ) -> tuple[Standing, ...]:
        """The live replicas once they are ``settled``, or when the time is up."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                live = await self._monitor.replicas()
            except OSError:  # the monitor is starting again; it will be told by the replicas
                live = ()
            if settled(live) or time.monotonic() >= deadline:
                return live
            await asyncio.sleep(_GLANCE_SECONDS)

    def _told(self, why: object) -> str:
        """Where the store lies is nobody's business who may only move an alias of it."""
        return str(why).replace(self._store.url, "store")

    def _tell(self, call: Call, event: str, **facts: str | None) -> None:
        key = call.key
        self._trail.write(
            event, key_id=key.id if key else None, customer=key.customer if key else None,
            request_id=call.head.request_id, **facts,
        )


def _refuses(standing: Standing, release: str) -> bool:
    return standing.refusal is not None and standing.refusal.release == release
