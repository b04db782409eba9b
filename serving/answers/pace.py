"""How large a share of the queries can be recorded without the answers suffering.

Recording a query counts all its visible pairs: in a large gallery that takes a thousand times as
long as answering it. So the probability falls, as traffic grows, to what keeps the recording within
a share of the time. It depends on what was before and never on the answer, and it is kept with
each recorded query, whose weight it is: the estimates stay unbiased.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

BUSY = 0.02
"""Share of a processor that recording may take, in each replica."""
MEMORY_SECONDS = 20.0
"""How long a query counts as traffic, and how long a burst may be recorded whole."""

_NEWEST = 0.1
"""Weight of the latest recorded query in the seconds that the next one is expected to take."""


class Pace:
    """The probability to record the next queries; safe to use from several threads."""

    def __init__(
        self, busy: float, clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        """``busy``: share of a processor that recording may take, above 0.

        ``clock`` in seconds; ``spent``: the processor seconds of the calling thread, by which
        ``took`` is told: a busy machine's waiting is not the recording's.
        """
        self._busy = busy
        self._clock = clock
        self.spent = spent
        self._lock = threading.Lock()
        self._recent = 0.0
        self._at = clock()
        self._cost = 0.0

    def probability(self, rate: float, queries: int) -> float:
        """Of each of so many ``queries`` that came now: ``rate``, or less; above 0 if that is."""
        with self._lock:
            now = self._clock()
            self._recent = queries + self._recent * math.exp((self._at - now) / MEMORY_SECONDS)
            self._at = now
            busy = self._cost * self._recent / MEMORY_SECONDS
            return min(rate, self._busy / busy) if busy else rate

    def took(self, recorded: int, seconds: float) -> None:
        """So many queries, 1 or more, took some processor ``seconds`` to record."""
        with self._lock:
            each = seconds / recorded
            self._cost += (_NEWEST if self._cost else 1.0) * (each - self._cost)
