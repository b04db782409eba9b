"""The door: one asynchronous call for each request, whatever the web framework.

Admission comes first and costs nothing; work that computes runs in a few threads, so that the
event loop always answers ``/livez``. Waiting is bounded before the body is read: for each
customer (429), in all and by the time it would take (503). Whoever waits past its deadline is
told so (504) and never worked on. Customers are served in turn, so that one cannot take the
server from the others.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from pipeline.live.decisions import RecordsUnavailableError
from pipeline.trail import TrailError
from serving.access.admission import Call, Head
from serving.access.fair import FairThreads
from serving.access.quota import Quotas
from serving.access.refusal_trail import RefusalTrail
from serving.counters import Counters
from serving.responses import PROMETHEUS, REQUEST_ID, RefusedError, Response
from serving.schema.bodies import MAX_BODY_BYTES
from serving.watching.latency import count_request
from serving.watching.replicas import MonitorLink
from serving.web import administration
from serving.web.administration import Administration
from serving.web.api import Api
from serving.web.parsing import too_large

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
    waiting_first: int = 32
    """Past these, requests of customers with no other: few could take all the places."""
    seconds: float = 30.0
    """From admission to answer; a client may ask for less."""
    body_seconds: float = 10.0
    """To the end of the body: a slow sender must not hold a place for longer."""
    patience: float = 2.0
    """Expected seconds of waiting past which a request is turned away rather than kept."""


class Front:
    """Turns a request into a response; holds no state but who is waiting."""

    def __init__(
        self, api: Api, monitor: MonitorLink, bounds: Bounds, *,
        quotas: Quotas, refusals: RefusalTrail, administration: Administration,
        counters: Counters,
    ) -> None:
        """Requests go to ``api``, or to ``administration``; gauges are asked of ``monitor``."""
        self._api = api
        self._monitor = monitor
        self._bounds = bounds
        self._quotas = quotas
        self._refusals = refusals
        self._administration = administration
        self._counters = counters
        self._waiting: Counter[str] = Counter()
        self._readiness: asyncio.Future[Response] | None = None
        self._threads = FairThreads(bounds.threads, bounds.threads_of_one)

    async def handle(self, head: Head, read_body: Callable[[], Awaitable[bytes]]) -> Response:
        """The response to a request; never raises for what a client did."""
        call: Call | None = None
        started = time.monotonic()
        try:
            call = self._api.admit(head)
            if call.operation in IMMEDIATE:
                response = self._api.answer(call, b"")
            else:
                with self._place(call):
                    response = await self._in_time(call, read_body)
        except RefusedError as refusal:
            key, operation = (call.key, call.operation) if call else (refusal.key, None)
            self._refusals.note(refusal, key, operation, head.request_id)
            response = refusal.response(head.request_id)
        response = Response(
            response.status, response.body, response.content_type,
            {**response.headers, REQUEST_ID: head.request_id},
        )
        count_request(self._counters, call.operation if call else "none", response.status,
                      time.monotonic() - started)
        return response

    def close(self) -> None:
        """Tell of what was refused and is not in the trail yet."""
        self._refusals.write()

    async def _in_time(
        self, call: Call, read_body: Callable[[], Awaitable[bytes]]
    ) -> Response:
        seconds = _seconds(call.head.timeout_ms, self._bounds.seconds)
        spend = partial(self._quotas.spend, call.key.customer) if call.key else call.spend
        timed = replace(call, deadline=time.monotonic() + seconds, spend=spend)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:  # late, or the client left: what has not begun never will
                return await self._answer(timed, read_body)
        except RefusedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told and answered
            raise (_late() if limit.expired() else _trouble(error)) from None

    async def _answer(self, call: Call, read_body: Callable[[], Awaitable[bytes]]) -> Response:
        if call.operation == "metrics":
            return Response(200, await self._monitor.metrics(), PROMETHEUS)
        if call.operation == "consistency":
            return Response(200, await self._monitor.consistency(call.subject))
        if call.key is None:
            return await self._ready(call)
        customer = call.key.customer
        try:
            async with asyncio.timeout(self._bounds.body_seconds):
                body = await read_body()
        except TimeoutError:
            raise RefusedError(
                408, "body_too_slow", f"the body took over {self._bounds.body_seconds:g} s"
            ) from None
        if call.operation in administration.OPERATIONS:
            return await self._administration.answer(call, body)

        def work() -> Response:
            if time.monotonic() > call.deadline:
                raise _late()
            return self._api.answer(call, body)

        return await asyncio.wrap_future(self._threads.submit(customer, work))

    async def _ready(self, call: Call) -> Response:
        """One look at a time, whoever asks how often: anybody may, and needs no key."""
        if self._readiness is None or self._readiness.done():
            look = partial(self._api.answer, call, b"")
            self._readiness = asyncio.wrap_future(self._threads.submit("", look))
        return await asyncio.shield(self._readiness)

    @contextmanager
    def _place(self, call: Call) -> Iterator[None]:
        """Hold one of the places in the queue while the request is worked on."""
        if call.key is None:
            yield
            return
        who = call.key.customer
        self._admit(call.head, who)
        self._waiting[who] += 1
        try:
            yield
        finally:
            self._waiting[who] -= 1
            if not self._waiting[who]:
                del self._waiting[who]

    def _admit(self, head: Head, who: str) -> None:
        """``RefusedError`` where the request may not wait here; none of its body is read yet."""
        if head.content_length > MAX_BODY_BYTES:
            raise too_large()
        at_once = self._quotas.at_once(who) or self._bounds.waiting_of_one
        if self._waiting[who] >= min(self._bounds.waiting_of_one, at_once):
            raise RefusedError(
                429, "too_many_requests",
                f"{self._waiting[who]} requests of this customer are waiting; try again",
                retry_after=1,
            )
        wait = self._threads.expected_wait(who)
        patience = _seconds(head.timeout_ms, self._bounds.patience)
        first = 0 if self._waiting[who] else self._bounds.waiting_first
        if self._waiting.total() >= self._bounds.waiting + first or wait > patience:
            raise RefusedError(
                503, "busy", "too many requests are waiting; try again",
                retry_after=max(1, math.ceil(wait - self._bounds.patience)),
            )
        self._quotas.enter(who)


def _seconds(timeout_ms: str, most: float) -> float:
    """How long this client waits: what it says, and no longer than the server lets it."""
    if not timeout_ms:
        return most
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", timeout_ms):
        raise RefusedError(
            400, "invalid_request", "X-Limen-Timeout-Ms: expected a whole number of milliseconds",
            details={"field": "X-Limen-Timeout-Ms"},
        )
    return min(int(timeout_ms) / 1000, most)


def _trouble(error: Exception) -> RefusedError:
    """What a client is told of what went wrong in here; the log has the rest."""
    if isinstance(error, RecordsUnavailableError):
        _log.error("%s", error)  # it names hosts and paths
        return RefusedError(503, "records_unavailable", "the records do not answer now",
                            retry_after=2)
    if isinstance(error, TrailError):
        _log.error("%s", error)  # it names a path, which is no client's business
        return RefusedError(503, "trail_unavailable", "what must be audited cannot be now",
                            retry_after=2)
    if isinstance(error, ConnectionError):
        return RefusedError(503, "monitor_unavailable", "the monitor is starting again",
                            retry_after=2)
    _log.error("request failed", exc_info=error)
    return RefusedError(500, "internal_error", "a fault of the server; its log has the details")


def _late() -> RefusedError:
    return RefusedError(504, "deadline_exceeded", "no answer in time; send fewer queries or "
                        "allow more time", retry_after=1)
