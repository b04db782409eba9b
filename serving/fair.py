"""Threads that serve the customers in turn.

Each piece of work belongs to a customer. The next one taken is of the customer that waits longest
for a turn, and no customer is at work on more than its share of the threads: a queue of long
requests delays those who sent it and nobody else.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
_Work = Callable[[], None]


class FairThreads:
    """A thread pool; safe to use from several threads."""

    def __init__(self, threads: int, of_one: int) -> None:
        """``of_one``: most threads at work for the same customer at the same time."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="limen")
        self._of_one = of_one
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[_Work]] = {}  # customers in the order of their turns
        self._running: Counter[str] = Counter()

    def submit(self, customer: str, work: Callable[[], Result]) -> Future[Result]:
        """What will be the result of ``work``; if cancelled before its turn it never runs."""
        future: Future[Result] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits for it
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._lock:
            self._waiting.setdefault(customer, deque()).append(run)
        self._pool.submit(self._take_turn)
        return future

    def _take_turn(self) -> None:
        """Do the next piece of work; none where every waiting customer has its share.

        Nothing is forgotten so: whoever ends a piece of work asks for another turn.
        """
        with self._lock:
            customer = next((who for who in self._waiting if self._running[who] < self._of_one),
                            None)
            if customer is None:
                return
            queue = self._waiting.pop(customer)
            run = queue.popleft()
            if queue:
                self._waiting[customer] = queue  # behind all others
            self._running[customer] += 1
        try:
            run()
        finally:
            with self._lock:
                self._running[customer] -= 1
                if not self._running[customer]:
                    del self._running[customer]
            self._pool.submit(self._take_turn)
