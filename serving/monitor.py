"""The monitor: from the records of one release to the snapshot that is exported.

It holds nothing that cannot be read again: a new monitor over the same records and release gives
the same snapshot, bit by bit.
"""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np

from pipeline.calibration import CURVE_POINTS
from pipeline.evidence import marker, reviewed_queries, volumes
from pipeline.live import live_counts
from pipeline.operating import OperatingCounts
from pipeline.records import Records
from serving.drift import Reference, Snapshot, snapshot

WINDOW = 400
"""Reviewed queries of a customer that count: the latest ones."""


def reference_of(release: str, baseline: OperatingCounts, threshold: np.float32) -> Reference:
    """What to measure ``release`` (an id) against: its ``baseline`` counts.

    The grid of a release has the thresholds of its calibration range, and the served one
    besides where that is none of them.
    """
    edges = baseline.grid.edges
    curve = edges if edges.size <= CURVE_POINTS else edges[edges != threshold]
    return Reference(release=release, baseline=baseline, thresholds=curve, threshold=threshold)


class Monitor:
    """Watches one release; safe to call from several threads."""

    def __init__(self, records: Records, reference: Reference, *, window: int = WINDOW) -> None:
        """``window``: how many of a customer's reviewed queries count, the latest first."""
        self._database = records.database
        self._reference = reference
        self._window = window
        self._lock = threading.Lock()
        self._seen: tuple[tuple[int, int], Snapshot] | None = None

    def snapshot(self) -> Snapshot:
        """The gauges of all that is recorded now; the last one again where nothing is new.

        Raises ``RecordsUnavailableError`` where the database does not answer.
        """
        with self._lock:
            mark = marker(self._database, self._reference.release)
            if self._seen is None or self._seen[0] != mark:
                self._seen = (mark, self._rebuilt())
            return self._seen[1]

    def _rebuilt(self) -> Snapshot:
        release = self._reference.release
        queries = reviewed_queries(self._database, release, window=self._window)
        return snapshot(
            self._reference,
            live_counts(queries, self._reference.baseline.grid),
            Counter(query.customer for query in queries),
            volumes(self._database, release),
        )
