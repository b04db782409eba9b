"""Live match recall: a sample of the queries is searched again, exactly, behind the answers.

Which query is drawn is decided by chance alone, never by its answer. The second search runs in
one thread of low priority, over the same retriever and the same picture of the online changes.
It can delay no answer: queries wait in a short queue, and one that finds no place is counted and
dropped. Sums are counted, not shares: replicas add up, and the monitor turns the sums into a
share with its bounds (``serving/watching/recall_gauges.py``, ``pipeline/search/rechecks.py``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.distance import Vectors
from pipeline.item_log.overlay import Overlay
from pipeline.search.rechecks import Rechecks
from serving.answers.retriever import Answer, Retriever
from serving.counters import Counter, Counters

RECHECK_EVERY = 1000
"""Queries of which one is searched again, on average."""

RECHECKED = Counter("limen_rechecked_queries", "Queries searched again exactly.", ("release",))
SKIPPED = Counter(
    "limen_recheck_skipped",
    "Queries drawn and not searched again; reason: full (no place in the queue), failed.",
    ("reason",),
)
SUMS = Counter(
    "limen_recheck_sums",
    "Sums over the queries searched again, of their true matches, of those missed by the served "
    "search, and of products of the two.",
    ("release", "of"),
)
_WAITING = 32
_LOWEST_PRIORITY = 19
_log = logging.getLogger("limen.recall")


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A query to search again, with all that its first search went by."""

    retriever: Retriever
    customer: str | None
    embedding: NDArray[np.float32]
    threshold: np.float32
    overlay: Overlay | None
    found: int


class RecallWatch:
    """Searches a sample of one replica's queries again; safe to use from several threads."""

    def __init__(self, counters: Counters, *, every: int, rng: np.random.Generator) -> None:
        """One query in ``every``, which is at least 1, is drawn by ``rng``."""
        if every < 1:
            raise ValueError(f"every: expected at least 1, got {every}")
        self._counters = counters
        self._share = 1 / every
        self._rng = rng
        self._lock = threading.Lock()
        self._queue: queue.Queue[_Drawn] = queue.Queue(_WAITING)
        threading.Thread(target=self._run, name="limen-recall", daemon=True).start()

    def watch(
        self, retriever: Retriever, customer: str | None, embeddings: Vectors,
        threshold: np.float32, answers: Sequence[Answer], overlay: Overlay | None = None,
    ) -> None:
        """Draw from ``answers`` (n) of ``retriever`` to ``embeddings`` (n, d); never waits.

        They are what a search that was not exact found at first: further pages are not further
        queries. ``overlay`` is what it saw of the online changes.
        """
        with self._lock:  # a generator is not for several threads
            drawn = np.flatnonzero(self._rng.random(len(answers)) < self._share)
        for i in drawn.tolist():
            try:
                self._queue.put_nowait(_Drawn(
                    retriever, customer, embeddings[i].copy(), threshold, overlay,
                    answers[i].match_count,
                ))
            except queue.Full:
                self._counters.add(SKIPPED, "full")

    def wait(self) -> None:
        """Until every query drawn so far was searched again."""
        self._queue.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # Linux: of this thread alone
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while True:
            self._search_again(self._queue.get())
            self._queue.task_done()

    def _search_again(self, drawn: _Drawn) -> None:
        """Holds the retriever no longer than the search: a release that was replaced is freed."""
        release = drawn.retriever.release.id12
        try:
            answer, = drawn.retriever.answer(
                drawn.customer, drawn.embedding[None, :], limit=1, threshold=drawn.threshold,
                exact=True, overlay=drawn.overlay,
            )
        except (ValueError, RuntimeError, MemoryError, OSError) as error:
            _log.warning("a query could not be searched again: %s", error)
            self._counters.add(SKIPPED, "failed")
            return
        matches, missed = answer.match_count, answer.match_count - drawn.found
        if missed < 0 or answer.match_recall != 1.0:
            _log.error("release %s: the exact search finds %d matches, the served one %d",
                       release, matches, drawn.found)
            self._counters.add(SKIPPED, "failed")
            return
        self._counters.add(RECHECKED, release)
        for name, amount in (
            ("matches", matches), ("missed", missed), ("matches_squared", matches**2),
            ("missed_squared", missed**2), ("cross", matches * missed),
        ):
            self._counters.add(SUMS, release, name, by=amount)


def rechecks_of(
    sums: Mapping[Counter, Mapping[tuple[str, ...], float]]
) -> dict[str, Rechecks]:
    """What was counted, by the first 12 digits of the release's id."""
    found: dict[str, dict[str, float]] = {}
    for (release, name), total in sums.get(SUMS, {}).items():
        found.setdefault(release, {})[name] = total
    return {release: Rechecks(**values) for release, values in found.items()}
