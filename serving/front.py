"""The door: one asynchronous call for each request, whatever the web framework.

Admission comes first and costs nothing; work that computes runs in a few threads, so that the
event loop always answers ``/livez``. Waiting is bounded: in all (503), for each customer (429)
and in time (504), and customers are served in turn, so that one cannot take the server from the
others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from pipeline.decisions import RecordsUnavailableError
from serving.admission import Call, Head
from serving.api import Api
from serving.fair import FairThreads
from serving.responses import PROMETHEUS, REQUEST_ID, RefusedError, Response

IMMEDIATE = ("livez", "openapi", "docs", "home")
"""Operations that cost nothing: answered whoever is waiting."""

_log = logging.getLogger("limen.api")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """How much may wait in one replica."""

    threads: int = 2
    """Requests worked on at the same time; more would only share the processor."""
    threads_of_one: int = 1
    """Of these, at work for one customer: its long requests leave the rest to the others."""
    waiting: int = 64
    """Requests admitted at the same time."""
    waiting_of_one: int = 48
    """Of these, requests of one customer."""
    seconds: float = 30.0
    """From admission to answer."""


class MonitorLink(Protocol):
    """The one monitor, wherever it runs."""

    async def metrics(self) -> bytes:
        """The gauges in Prometheus's text format."""

    async def consistency(self, customer: str | None) -> bytes:
        """Drift as JSON, of one customer or (None) of all."""


class Front:
    """Turns a request into a response; holds no state but who is waiting."""

    def __init__(self, api: Api, monitor: MonitorLink, bounds: Bounds) -> None:
        """Requests go to ``api``; gauges are asked of ``monitor``."""
        self._api = api
        self._monitor = monitor
        self._bounds = bounds
        self._waiting: Counter[str] = Counter()
        self._threads = FairThreads(bounds.threads, bounds.threads_of_one)

    async def handle(self, head: Head, read_body: Callable[[], Awaitable[bytes]]) -> Response:
        """The response to a request; never raises for what a client did."""
        try:
            call = self._api.admit(head)
            if call.operation in IMMEDIATE:
                response = self._api.answer(call, b"")
            else:
                with self._place(call):
                    response = await self._in_time(self._answer(call, read_body))
        except RefusedError as refusal:
            response = refusal.response(head.request_id)
        response = Response(
            response.status, response.body, response.content_type,
            {**response.headers, REQUEST_ID: head.request_id},
        )
        return response

    async def _answer(self, call: Call, read_body: Callable[[], Awaitable[bytes]]) -> Response:
        if call.operation == "metrics":
            return Response(200, await self._monitor.metrics(), PROMETHEUS)
        if call.operation == "consistency":
            return Response(200, await self._monitor.consistency(call.subject))
        timed = replace(call, deadline=time.monotonic() + self._bounds.seconds)
        work = partial(self._api.answer, timed, await read_body())
        return await asyncio.wrap_future(self._threads.submit(_who(call), work))

    async def _in_time(self, work: Awaitable[Response]) -> Response:
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait({task}, timeout=self._bounds.seconds)
        if not done:
            task.cancel()
            raise RefusedError(504, "deadline_exceeded", f"no answer in {self._bounds.seconds:g} s",
                          retry_after=1)
        error = task.exception()
        if error is None or isinstance(error, RefusedError):
            return task.result()
        if isinstance(error, RecordsUnavailableError):
            raise RefusedError(503, "records_unavailable", str(error), retry_after=2)
        _log.error("request failed", exc_info=error)
        raise RefusedError(500, "internal_error", "a fault of the server; its log has the details")

    @contextmanager
    def _place(self, call: Call) -> Iterator[None]:
        """Hold one of the places in the queue while the request is worked on."""
        who = _who(call)
        if self._waiting.total() >= self._bounds.waiting:
            raise RefusedError(
                503, "busy", "too many requests are waiting; try again", retry_after=1
            )
        if self._waiting[who] >= self._bounds.waiting_of_one:
            raise RefusedError(
                429, "too_many_requests",
                f"{self._waiting[who]} requests of this customer are waiting; try again",
                retry_after=1,
            )
        self._waiting[who] += 1
        try:
            yield
        finally:
            self._waiting[who] -= 1
            if not self._waiting[who]:
                del self._waiting[who]


def _who(call: Call) -> str:
    """The customer; nobody's for the open paths."""
    return call.key.customer if call.key else ""
