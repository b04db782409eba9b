"""The client that waits."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
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


class Client:
    """One server, asked with one key; may be shared between threads."""

    def __init__(
        self, server: str, *, key: str = "", seconds: float = 30.0,
        rng: random.Random | None = None,
    ) -> None:
        """``seconds``: for a call and all its tries; the server is told, and stops then too.

        Every method raises ``LimenError``: ``AnswerError`` where the server refused,
        ``UnreachableError``, ``DeadlineError`` or ``UnexpectedAnswerError`` otherwise. Refusals
        with 429 and 503 and broken connections are tried again, where once more does no harm.
        ``rng`` draws the waits between tries. ``ValueError`` for a ``server`` or ``key`` that is
        none.
        """
        self._seconds = seconds
        self._rng = rng or random.Random()
        self._http = httpx.Client(base_url=base_url(server), headers=authorization(key))

    def __enter__(self) -> Client:
        """Itself, closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def query(
        self, queries: Queries, *, limit: int = 10, cursor: str | None = None,
        metadata: bool = False, threshold: float | None = None, exact: bool = False,
    ) -> types.Answer:
        """The first matches of each query; ``queries`` may be (n, d) unit rows.

        ``threshold``: instead of the calibrated one; ``exact``: prove that no match is missing.
        """
        return self._send(calls.query(queries, limit=limit, cursor=cursor, metadata=metadata,
                                      threshold=threshold, exact=exact))

    def matches(
        self, query: types.Query, *, page: int = 100, metadata: bool = False,
        threshold: float | None = None, exact: bool = False,
    ) -> Iterator[types.Match]:
        """All matches of one query, nearest first, asked for ``page`` by page.

        Raises ``ReleaseChangedError`` where another release is served before the last page.
        """
        cursor = None
        while True:
            answer = self.query([query], limit=page, cursor=cursor, metadata=metadata,
                                threshold=threshold, exact=exact)
            yield from answer.results[0].matches
            cursor = answer.results[0].next_cursor
            if cursor is None:
                return

    def reviews(self, budget: int = 20) -> tuple[types.Review, ...]:
        """Drawn pairs that wait for a verdict, whole query by whole query."""
        return self._send(calls.reviews(budget))

    def verdicts(self, verdicts: Iterable[types.Verdict]) -> types.VerdictsKept:
        """Give verdicts; they are durable when this returns."""
        return self._send(calls.verdicts(verdicts))

    def put_items(self, items: Iterable[types.Item]) -> types.ItemsKept:
        """Put items online, in place of those with the same ids; seen by every later query."""
        return self._send(calls.put_items(items))

    def delete_item(self, item_id: str) -> int:
        """Take an item away from every later query; the number of the change."""
        return self._send(calls.delete_item(item_id))

    def release(self) -> types.ReleaseFacts:
        """What is served."""
        return self._send(calls.release())

    def consistency(self) -> types.Consistency:
        """How far each customer has moved since calibration."""
        return self._send(calls.consistency())

    def own_consistency(self, customer: str) -> types.OwnConsistency:
        """The same of the key's own ``customer``."""
        return self._send(calls.own_consistency(customer))

    def promote(self, release: str) -> types.Moved:
        """Let the served alias mean ``release``; never tried twice."""
        return self._send(calls.promote(release))

    def rollback(self) -> types.Moved:
        """Let the served alias mean what it meant before; never tried twice."""
        return self._send(calls.rollback())

    def _send(self, call: Call[Kind]) -> Kind:
        attempts = Attempts(self._seconds, call.repeatable, time.monotonic, self._rng)
        while True:
            try:
                return self._once(call, attempts)
            except LimenError as failure:
                wait = attempts.pause(failure)
            time.sleep(wait)

    def _once(self, call: Call[Kind], attempts: Attempts) -> Kind:
        request = request_of(call, self._http, attempts.left())
        try:
            response = self._http.send(request, stream=True)
            try:
                body = bytearray()
                for part in response.iter_bytes():  # a server that trickles is noticed
                    body += part
                    attempts.left()
            finally:
                response.close()
        except httpx.TimeoutException:
            raise attempts.late() from None
        except httpx.TransportError as error:
            raise unreachable(self._http, error) from None
        return answer_of(call, response, bytes(body))
