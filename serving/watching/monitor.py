"""The monitor: from the records of one release to the snapshot that is exported.

It holds nothing that cannot be read again: a new monitor over the same records and release gives
the same snapshot, bit by bit.
"""

from __future__ import annotations

import threading
from collections import Counter

from pipeline.live.evidence import marker, reviewed_queries, volumes
from pipeline.live.population import live_counts
from pipeline.live.records import Records
from serving.watching.drift import Drift, Reference, Snapshot

WINDOW = 400
"""Reviewed queries of a customer that count: the latest ones."""


class Monitor:
    """Watches one release; safe to call from several threads."""

    def __init__(self, records: Records, reference: Reference, *, window: int = WINDOW) -> None:
        """``window``: how many of a customer's reviewed queries count, the latest first."""
        self._database = records.database
        self._release = reference.release
        self._grid = reference.baseline.grid
        self._drift = Drift(reference)
        self._window = window
        self._lock = threading.Lock()
        self._seen: tuple[tuple[int, int], Snapshot] | None = None

    def snapshot(self) -> Snapshot:
        """The gauges of all that is recorded now; the last one again where nothing is new.

        Raises ``RecordsUnavailableError`` where the database does not answer.
        """
        with self._lock:
            mark = marker(self._database, self._release)
            if self._seen is None or self._seen[0] != mark:
                self._seen = (mark, self._rebuilt())
            return self._seen[1]

    def _rebuilt(self) -> Snapshot:
        queries = reviewed_queries(self._database, self._release, window=self._window)
        return self._drift.snapshot(
            live_counts(queries, self._grid),
            Counter(query.customer for query in queries),
            volumes(self._database, self._release),
        )
