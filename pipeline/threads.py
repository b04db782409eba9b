"""Parts of a task taken by threads, for work that lets go of Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_threads(
    work: Callable[[Callable[[], T | None]], None], parts: Sequence[T], workers: int
) -> None:
    """Run ``work`` on each thread; it takes parts until there are none. BLAS: one thread each."""
    todo: SimpleQueue[T] = SimpleQueue()
    for part in parts:
        todo.put(part)

    def take() -> T | None:
        try:
            return todo.get_nowait()
        except Empty:
            return None

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(work, take) for _ in range(min(workers, len(parts)))]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:  # after an error or an interrupt, no thread begins another part
            while take() is not None:
                pass
        for done in running:
            done.result()
