"""When a call is made again: after what, how long after, and never past its deadline.

Waits double from try to try, and each is drawn at random up to that bound, so that clients that
were refused together do not come back together. What the server asks to wait is waited first.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from serving.client.errors import (
    DeadlineError,
    LimenError,
    TooManyRequestsError,
    UnavailableError,
    UnreachableError,
)

FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds: bound of the first wait, and of every wait."""


class Attempts:
    """The tries of one call."""

    def __init__(
        self, seconds: float, repeatable: bool, clock: Callable[[], float], rng: random.Random
    ) -> None:
        """``seconds`` from now on for everything; ``clock`` is monotonic."""
        self._clock = clock
        self._rng = rng
        self._seconds = seconds
        self._deadline = clock() + seconds
        self._repeatable = repeatable
        self._failures = 0
        self._last: LimenError | None = None

    def left(self) -> float:
        """Seconds until the deadline; where none are left, why the last try failed is raised."""
        left = self._deadline - self._clock()
        if left <= 0:
            raise self._last or self.late()
        return left

    def late(self) -> DeadlineError:
        """The deadline has passed."""
        return DeadlineError(f"no answer in {self._seconds:g} s")

    def pause(self, failure: LimenError) -> float:
        """Seconds to wait before the next try; raises ``failure`` where there is to be none."""
        asked = 0.0
        if isinstance(failure, TooManyRequestsError | UnavailableError):
            asked = failure.retry_after or 0.0
        elif not isinstance(failure, UnreachableError):
            raise failure
        if not self._repeatable:
            raise failure
        bound = min(FIRST_WAIT * 2**self._failures, LONGEST_WAIT)
        wait = asked + self._rng.uniform(0, bound)
        if self._clock() + wait >= self._deadline:
            raise failure
        self._failures += 1
        self._last = failure
        return wait
