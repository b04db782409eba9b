"""Threads that serve the customers in turn, and know how long a turn is waited for.

Each piece of work belongs to a customer. The next one taken is of the customer that waits longest
for a turn, and no customer is at work on more than its share of the threads: a queue of long
requests delays those who sent it and nobody else.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")
_Turn = tuple[Future[Any], Callable[[], None]]

_NEWEST = 0.1
"""Weight of the latest piece of work in the seconds that the next one is expected to take."""

_REMEMBERED = 1_000
"""Customers whose seconds are remembered; past that, all start anew."""


class FairThreads:
    """A thread pool; safe to use from several threads."""

    def __init__(
        self, threads: int, of_one: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``of_one``: most threads at work for the same customer; ``clock`` in seconds."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="limen")
        self._threads = threads
        self._of_one = of_one
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[_Turn]] = {}  # customers in the order of their turns
        self._running: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}

    def expected_wait(self, customer: str) -> float:
        """Seconds before work of ``customer`` that came now would begin, 0 if it were next.

        From how long each customer's work took so far. Turns are taken one by one: of another
        customer's queue, however long, only as many count as this customer has turns to wait.
        """
        with self._lock:
            turns = len(self._waiting.get(customer, ()))
            ahead = own = turns * self._expected(customer)
            for who, queue in self._waiting.items():
                if who != customer:
                    ahead += min(len(queue), turns + 1) * self._expected(who)
            return max(ahead / self._threads, own / self._of_one)

    def submit(self, customer: str, work: Callable[[], Result]) -> Future[Result]:
        """What will be the result of ``work``; if cancelled before its turn it never runs."""
        future: Future[Result] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            started = self._clock()
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits for it
                self._took(customer, self._clock() - started)
                future.set_exception(error)
            else:
                self._took(customer, self._clock() - started)
                future.set_result(result)

        future.add_done_callback(partial(self._forget, customer))  # not with run: a circle
        with self._lock:
            self._waiting.setdefault(customer, deque()).append((future, run))
            turn = self._next_turn()
        if turn:  # else whoever ends a piece of work takes it
            self._pool.submit(self._work, *turn)
        return future

    def _forget(self, customer: str, future: Future[Result]) -> None:
        """Work that was cancelled is no turn to wait for, and holds its request's body no more."""
        if not future.cancelled():
            return
        with self._lock:
            queue = self._waiting.get(customer, deque())
            left = deque(turn for turn in queue if turn[0] is not future)
            if left:
                self._waiting[customer] = left
            elif queue:
                del self._waiting[customer]

    def _expected(self, customer: str) -> float:
        """Seconds of a piece of the customer's work; of one never seen, 0: it is let in."""
        return self._seconds.get(customer, 0.0)

    def _took(self, customer: str, seconds: float) -> None:
        with self._lock:
            if customer not in self._seconds and len(self._seconds) >= _REMEMBERED:
                self._seconds.clear()
            before = self._seconds.get(customer, seconds)
            self._seconds[customer] = before + _NEWEST * (seconds - before)

    def _next_turn(self) -> tuple[str, Callable[[], None]] | None:
        """Under the lock: the next piece of work, which has its thread from now on.

        None where no thread is free or every waiting customer has its share.
        """
        if self._running.total() >= self._threads:
            return None
        customer = next((who for who in self._waiting if self._running[who] < self._of_one), None)
        if customer is None:
            return None
        queue = self._waiting.pop(customer)
        _, run = queue.popleft()
        if queue:
            self._waiting[customer] = queue  # behind all others
        self._running[customer] += 1
        return customer, run

    def _work(self, customer: str, run: Callable[[], None]) -> None:
        """Do this piece of work, and as long as any may begin, the next."""
        turn: tuple[str, Callable[[], None]] | None = customer, run
        del run  # it holds a request
        while turn:
            customer, run = turn
            try:
                run()
            finally:
                with self._lock:
                    self._running[customer] -= 1
                    if not self._running[customer]:
                        del self._running[customer]
                    turn = self._next_turn()
