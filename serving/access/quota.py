"""How much each customer may ask: a bucket of queries that refills, and a cap on requests.

The limits stand in the keys file and may change at any request. A request costs one query when
it comes, before its body is read, and the rest when its queries are counted. A batch larger than
the bucket waits until the bucket is full and is paid off afterwards. Each replica enforces its
share of the rate: the limit divided by the replicas.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from serving.access.key_file import Limit
from serving.responses import RefusedError

_CUSTOMERS = 10_000
"""Buckets kept; past that, full ones are forgotten, which changes nothing."""

_NEARLY = 1e-6
"""Of a query: rounding must not send away who came back when told."""


@dataclass(slots=True)
class _Bucket:
    limit: Limit
    left: float
    """Queries that may come now; below zero while a large batch is paid off."""
    at: float
    wanted: float = 1.0
    """Queries that have to be left before the next request is let in: a batch that was refused
    would come back for ever, read and counted each time, while smaller ones pass it."""


class Quotas:
    """The buckets of one replica; safe to use from several threads."""

    def __init__(
        self, limit_of: Callable[[str], Limit | None], replicas: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``limit_of`` a customer; ``replicas`` share it; ``clock`` in seconds."""
        self._limit_of = limit_of
        self._replicas = replicas
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}

    def at_once(self, customer: str) -> int | None:
        """Requests of the customer that may be here at the same time; None: as many as come."""
        limit = self._limit_of(customer)
        if limit is None or limit.at_once is None:
            return None
        return math.ceil(limit.at_once / self._replicas)

    def enter(self, customer: str) -> None:
        """Pay for the first query of a request; ``RefusedError`` 429 where nothing is left."""
        with self._lock:
            bucket = self._bucket(customer)
            if bucket is None:
                return
            if bucket.left + _NEARLY < bucket.wanted:
                raise self._refused(bucket)
            bucket.left -= 1

    def spend(self, customer: str, queries: int) -> None:
        """Pay for all ``queries`` of a request that has entered; ``RefusedError`` 429 as there."""
        with self._lock:
            bucket = self._bucket(customer)
            if bucket is None:
                return
            need = min(float(queries), self._size(bucket.limit))
            if bucket.left + 1 + _NEARLY < need:
                bucket.left += 1
                bucket.wanted = need
                raise self._refused(bucket)
            bucket.left -= queries - 1
            bucket.wanted = 1.0

    def _bucket(self, customer: str) -> _Bucket | None:
        """The customer's, filled up to now; None without a limit of its rate."""
        limit = self._limit_of(customer)
        if limit is None or limit.per_second is None:
            self._buckets.pop(customer, None)
            return None
        now = self._clock()
        bucket = self._buckets.get(customer)
        if bucket is None:
            self._forget_full(now)
            bucket = self._buckets[customer] = _Bucket(limit, self._size(limit), now)
        bucket.limit = limit  # it may have changed; what was used stays used
        bucket.wanted = min(bucket.wanted, self._size(limit))
        self._fill(bucket, now)
        return bucket

    def _fill(self, bucket: _Bucket, now: float) -> None:
        bucket.left = min(
            bucket.left + (now - bucket.at) * self._rate(bucket.limit), self._size(bucket.limit)
        )
        bucket.at = now

    def _rate(self, limit: Limit) -> float:
        return (limit.per_second or 0.0) / self._replicas

    def _size(self, limit: Limit) -> float:
        """At least one query, or no request would ever be let in."""
        return max(1.0, (limit.burst or 0) / self._replicas)

    def _refused(self, bucket: _Bucket) -> RefusedError:
        seconds = (bucket.wanted - bucket.left) / self._rate(bucket.limit)
        limit = bucket.limit
        return RefusedError(
            429, "rate_limited",
            f"over {limit.per_second:g} queries a second ({limit.burst} at once); "
            f"try again in {seconds:.3g} s",
            details={"retry_after_ms": math.ceil(seconds * 1000)},
            retry_after=max(1, math.ceil(seconds)),
        )

    def _forget_full(self, now: float) -> None:
        if len(self._buckets) < _CUSTOMERS:
            return
        for bucket in self._buckets.values():
            self._fill(bucket, now)
        self._buckets = {
            who: bucket for who, bucket in self._buckets.items()
            if bucket.left < self._size(bucket.limit)
        }
