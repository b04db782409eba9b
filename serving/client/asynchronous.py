"""The client to await."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import TypeVar

import httpx

from serving.client import calls, types
from serving.client.attempts import Attempts
from serving.client.calls import Call, Queries
from serving.client.errors import LimenError
from serving.client.exchange import (
    answer_of,
    authorization,
    base_url,
    request_of,
    unreachable,
)

Kind = TypeVar("Kind")


class AsyncClient:
    """One server, asked with one key, from one event loop."""

    def __init__(
        self, server: str, *, key: str = "", seconds: float = 30.0,
        rng: random.Random | None = None,
    ) -> None:
        """As ``Client``."""
        self._seconds = seconds
        self._rng = rng or random.Random()
        self._http = httpx.AsyncClient(base_url=base_url(server), headers=authorization(key))

    async def __aenter__(self) -> AsyncClient:
        """Itself, closed at the end of the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def query(
        self, queries: Queries, *, limit: int = 10, cursor: str | None = None,
        metadata: bool = False, threshold: float | None = None, exact: bool = False,
    ) -> types.Answer:
        """As ``Client.query``."""
        return await self._send(calls.query(
            queries, limit=limit, cursor=cursor, metadata=metadata, threshold=threshold,
            exact=exact,
        ))

    async def matches(
        self, query: types.Query, *, page: int = 100, metadata: bool = False,
        threshold: float | None = None, exact: bool = False,
    ) -> AsyncIterator[types.Match]:
        """As ``Client.matches``."""
        cursor = None
        while True:
            answer = await self.query([query], limit=page, cursor=cursor, metadata=metadata,
                                      threshold=threshold, exact=exact)
            for match in answer.results[0].matches:
                yield match
            cursor = answer.results[0].next_cursor
            if cursor is None:
                return

    async def reviews(self, budget: int = 20) -> tuple[types.Review, ...]:
        """As ``Client.reviews``."""
        return await self._send(calls.reviews(budget))

    async def verdicts(self, verdicts: Iterable[types.Verdict]) -> types.VerdictsKept:
        """As ``Client.verdicts``."""
        return await self._send(calls.verdicts(verdicts))

    async def put_items(self, items: Iterable[types.Item]) -> types.ItemsKept:
        """As ``Client.put_items``."""
        return await self._send(calls.put_items(items))

    async def delete_item(self, item_id: str) -> int:
        """As ``Client.delete_item``."""
        return await self._send(calls.delete_item(item_id))

    async def release(self) -> types.ReleaseFacts:
        """As ``Client.release``."""
        return await self._send(calls.release())

    async def consistency(self) -> types.Consistency:
        """As ``Client.consistency``."""
        return await self._send(calls.consistency())

    async def own_consistency(self, customer: str) -> types.OwnConsistency:
        """As ``Client.own_consistency``."""
        return await self._send(calls.own_consistency(customer))

    async def promote(self, release: str) -> types.Moved:
        """As ``Client.promote``."""
        return await self._send(calls.promote(release))

    async def rollback(self) -> types.Moved:
        """As ``Client.rollback``."""
        return await self._send(calls.rollback())

    async def _send(self, call: Call[Kind]) -> Kind:
        attempts = Attempts(self._seconds, call.repeatable, time.monotonic, self._rng)
        while True:
            try:
                return await self._once(call, attempts)
            except LimenError as failure:
                wait = attempts.pause(failure)
            await asyncio.sleep(wait)

    async def _once(self, call: Call[Kind], attempts: Attempts) -> Kind:
        left = attempts.left()
        try:
            async with asyncio.timeout(left):
                response = await self._http.send(request_of(call, self._http, left))
        except (TimeoutError, httpx.TimeoutException):
            raise attempts.late() from None
        except httpx.TransportError as error:
            raise unreachable(self._http, error) from None
        return answer_of(call, response, response.content)
