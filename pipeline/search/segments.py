"""The kinds of segments, and what a look at each of them proves.

A ``scan`` segment has no index. A ``flat`` or an ``ivf`` one passes over codes, all of them or
those of the lists nearest to the query, and loses nothing of what it passes over. A ``hnsw`` or a
``rabitq`` one decides about the rows that FAISS proposes, and can say nothing about the others. A
segment on a device is exact: products of all rows tell which ones have to be decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.distance import Vectors
from pipeline.search.codes import Rows
from pipeline.search.lists import Chosen, Lists
from pipeline.search.threshold import Known

Propose = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""A query (d,) to the segment's own rows that may be its nearest, in any order."""


Near = Callable[[Vectors, np.float32, int], list[NDArray[np.int64]]]
"""Queries (n, d), a threshold and ``at_least`` to rows that hold all the answer may need."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentFacts:
    """One segment in ``index.json``."""

    customer: str | None
    start: int
    """First gallery row."""
    stop: int
    """Row after the last."""
    kind: str
    """``scan``, ``flat``, ``ivf``, ``hnsw`` or ``rabitq``."""
    file: str | None = None
    """Name of its largest file."""
    largest_norm: float = 1.0
    """Length of its longest vector."""
    lists: int = 0
    """Lists that its rows are parted into; 0: none."""
    nearness: float = -1.0
    """Share of its largest product with a centroid that a list's has to reach to be probed;
    below 0: all lists are."""
    probes: float = 0.0
    """Mean number of lists that the held-out queries probed."""
    candidates: int = 0
    """Rows that FAISS proposes for a query, and the depth of a search through a graph."""
    match_recall: float = 1.0
    """Share of the matches within ``horizon`` that this effort was measured to find."""
    match_recall_lower: float = 1.0
    match_recall_upper: float = 1.0
    """The 95 % interval of that share, over the held-out queries."""
    horizon: float = 0.0
    """The distance up to which that was measured."""

    @property
    def measured_to(self) -> float:
        """The largest threshold at which ``match_recall`` holds; inf where nothing is missed."""
        return self.horizon if self.match_recall < 1 else math.inf


@dataclass(frozen=True, slots=True)
class ScanSegment:
    """A segment without an index: every look is a look at all rows."""

    vectors: Vectors
    """(m, d) the segment's rows."""
    start: int
    """Gallery row of the first."""

    @property
    def measured_to(self) -> float:
        """Exact at any threshold."""
        return math.inf

    def look(self, queries: Vectors, threshold: np.float32, at_least: int) -> list[Known]:
        """All rows, whatever is asked: few enough."""
        rows = self._rows()
        return [Known(rows, found) for found in distance.deciding(queries, self.vectors)]

    def reached_rows(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """All rows."""
        return self._rows()

    def scan(
        self, query: NDArray[np.float32], threshold: np.float32, at_least: int, horizon: float
    ) -> Known:
        """All rows."""
        return Known(self._rows(), distance.deciding(query[None, :], self.vectors)[0])

    def _rows(self) -> NDArray[np.int64]:
        return np.arange(self.start, self.start + len(self.vectors))


@dataclass(frozen=True, slots=True)
class ListSegment:
    """Codes in lists: exact where all lists are probed, else by as much as was calibrated."""

    rows: Rows
    lists: Lists
    facts: SegmentFacts

    @property
    def measured_to(self) -> float:
        """As far as its share of the matches was measured."""
        return self.facts.measured_to

    def look(self, queries: Vectors, threshold: np.float32, at_least: int) -> list[Known]:
        """What the lists nearest to each query hold."""
        chosen, alone = self.lists.choose(queries, self.facts.nearness, threshold)
        rows, distances, ends, _ = self.rows.look(queries, chosen, threshold, at_least)
        rows += self.facts.start
        whole = np.diff(chosen.ends) == self.lists.count
        at, sure = ends.tolist(), (whole | alone).tolist()
        return [
            Known(rows[at[i] : at[i + 1]], distances[at[i] : at[i + 1]], complete,
                  1.0 if sure[i] else self.facts.match_recall)
            for i, complete in enumerate(whole.tolist())
        ]  # fmt: skip

    def reached_rows(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """The rows of the lists nearest to the query."""
        chosen, _ = self.lists.choose(query[None, :], self.facts.nearness, np.float32(0))
        return self.rows.members_of(chosen.lists) + self.facts.start

    def scan(
        self, query: NDArray[np.float32], threshold: np.float32, at_least: int, horizon: float
    ) -> Known:
        """What all lists hold that may have a row up to ``horizon``."""
        if horizon < math.inf:
            lists = self.lists.within(query, horizon)
        else:
            lists = np.arange(self.lists.count, dtype=np.int32)
        chosen = Chosen(lists, np.asarray([0, lists.size]))
        rows, distances, _, _ = self.rows.look(query[None, :], chosen, threshold, at_least)
        return Known(rows + self.facts.start, distances)


@dataclass(frozen=True, slots=True)
class ProposedSegment:
    """The rows that another library proposes, each decided here."""

    propose: Propose
    vectors: Vectors
    """(m, d) the segment's rows."""
    facts: SegmentFacts

    @property
    def measured_to(self) -> float:
        """As far as its share of the matches was measured."""
        return self.facts.measured_to

    def look(self, queries: Vectors, threshold: np.float32, at_least: int) -> list[Known]:
        """All that is proposed, one query at a time: the same in any batch."""
        known = []
        for query in queries:
            rows = self.propose(query)
            known.append(Known(
                rows + self.facts.start, distance.deciding_one(query, self.vectors, rows),
                whole=rows.size == len(self.vectors),
                match_recall=1.0 if rows.size == len(self.vectors) else self.facts.match_recall,
            ))  # fmt: skip
        return known

    def reached_rows(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """All that is proposed."""
        return self.propose(query) + self.facts.start

    def scan(
        self, query: NDArray[np.float32], threshold: np.float32, at_least: int, horizon: float
    ) -> Known:
        """All rows."""
        return ScanSegment(self.vectors, self.facts.start).scan(query, threshold, at_least, horizon)


@dataclass(frozen=True, slots=True)
class DeviceSegment:
    """All rows, passed over on a device; exact whatever kind of index lies on disk."""

    near: Near
    vectors: Vectors
    """(m, d) the segment's rows."""
    start: int
    """Gallery row of the first."""

    @property
    def measured_to(self) -> float:
        """Exact at any threshold."""
        return math.inf

    def look(self, queries: Vectors, threshold: np.float32, at_least: int) -> list[Known]:
        """All rows that the answer may need, at their deciding distances."""
        return [
            Known(rows + self.start, distance.deciding_one(query, self.vectors, rows))
            for query, rows in zip(queries, self.near(queries, threshold, at_least), strict=True)
        ]

    def reached_rows(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """All rows."""
        return np.arange(self.start, self.start + len(self.vectors))

    def scan(
        self, query: NDArray[np.float32], threshold: np.float32, at_least: int, horizon: float
    ) -> Known:
        """The same: there is no row that a look leaves out."""
        return self.look(query[None, :], threshold, at_least)[0]
