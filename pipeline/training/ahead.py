"""What the next step needs, made while this one computes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """``make(step)`` for the steps of a range in order, one step ahead, in a thread of its own.

    ``make`` is a pure function of the step, so that it does not matter when it is called.
    """

    def __init__(self, make: Callable[[int], T], steps: range) -> None:
        """Start on the first of ``steps``."""
        self._make, self._steps = make, steps
        self._thread = ThreadPoolExecutor(1)
        self._next: Future[T] | None = None
        if steps:
            self._next = self._thread.submit(make, steps[0])

    def take(self, step: int) -> tuple[T, float]:
        """What was made for ``step``, and the seconds that it was waited for."""
        asked = time.perf_counter()
        assert self._next is not None, "steps are taken in order"
        made = self._next.result()
        waited = time.perf_counter() - asked
        if step + 1 in self._steps:
            self._next = self._thread.submit(self._make, step + 1)
        return made, waited

    def __enter__(self) -> Ahead[T]:
        """The thread runs from here on."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """What nobody will take is not made."""
        self._thread.shutdown(cancel_futures=True)
