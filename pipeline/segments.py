"""The kinds of segments, and what a look at each of them proves.

A ``scan`` segment has no index. Behind a ``flat`` one FAISS ranks all rows, behind an ``ivf`` one
the rows of the lists nearest to the query; the ranking comes in as a function. A ranking errs by
no more than a float32 sum does, so the rows it leaves out are known to be far.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.distance import Vectors
from pipeline.lists import Lists
from pipeline.search import Known

Ranked = tuple[NDArray[np.float32], NDArray[np.int64]]
"""(n, k) inner products, largest first, and the segment's own rows; -1 where there are fewer."""

_UNIT_ROUNDOFF = 2.0**-24


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentFacts:
    """One segment in ``index.json``."""

    customer: str | None
    start: int
    """First gallery row."""
    stop: int
    """Row after the last."""
    kind: str
    """``scan``, ``flat`` or ``ivf``."""
    file: str | None = None
    """Name of its FAISS file."""
    proposal_error: float = 0.0
    """How far a proposed distance of a unit query may be from the exact one."""
    largest_norm: float = 1.0
    """Length of its longest vector."""
    lists: int = 0
    """Lists of an ``ivf`` segment."""
    probes: int = 0
    """Lists that a query looks into."""
    match_recall: float = 1.0
    """Share of the matches within ``horizon`` that the probes were measured to find."""
    horizon: float = 0.0
    """The distance up to which that was measured."""


@dataclass(frozen=True, slots=True)
class ScanSegment:
    """A segment without an index: every look is a look at all rows."""

    vectors: Vectors
    """(m, d) the segment's rows."""
    start: int
    """Gallery row of the first."""

    def nearest(self, queries: Vectors, k: int) -> list[Known]:
        """All rows, whatever ``k``: few enough."""
        rows = self._rows()
        return [Known(rows, found) for found in distance.deciding(queries, self.vectors)]

    def reached_rows(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """All rows."""
        return self._rows()

    def reached(self, query: NDArray[np.float32]) -> Known:
        """All rows."""
        return self.scan(query)

    def scan(self, query: NDArray[np.float32]) -> Known:
        """All rows."""
        return Known(self._rows(), distance.deciding(query[None, :], self.vectors)[0])

    def _rows(self) -> NDArray[np.int64]:
        return np.arange(self.start, self.start + len(self.vectors))


@dataclass(frozen=True, slots=True)
class FlatSegment:
    """Exact search: FAISS ranks all rows, and its error is bounded."""

    rank: Callable[[Vectors, int], Ranked]
    """(queries (n, d), k) to the k rows of the segment ranked first."""
    vectors: Vectors
    """(m, d) the segment's rows."""
    facts: SegmentFacts

    def nearest(self, queries: Vectors, k: int) -> list[Known]:
        """The ``k`` rows that FAISS ranks first, at their deciding distances."""
        products, rows = self.rank(queries, min(k, len(self.vectors)))
        return [
            _proposed(self.facts, self.vectors, query, (products[i], rows[i]))
            for i, query in enumerate(queries)
        ]

    def reached_rows(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """All rows."""
        return np.arange(self.facts.start, self.facts.stop)

    def reached(self, query: NDArray[np.float32]) -> Known:
        """All rows."""
        return self.scan(query)

    def scan(self, query: NDArray[np.float32]) -> Known:
        """All rows."""
        return ScanSegment(self.vectors, self.facts.start).scan(query)


@dataclass(frozen=True, slots=True)
class IvfSegment:
    """Inexact search: FAISS ranks the rows of the lists nearest to the query."""

    rank: Callable[[NDArray[np.float32], int, NDArray[np.int64]], Ranked]
    """(query (d,), k, lists) to the k rows of these lists ranked first, as one query."""
    lists: Lists
    vectors: Vectors
    """(m, d) the segment's rows."""
    facts: SegmentFacts

    def nearest(self, queries: Vectors, k: int) -> list[Known]:
        """The ``k`` rows of the probed lists that FAISS ranks first, at deciding distances."""
        return [self._nearest(query, k) for query in queries]

    def reached_rows(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """The rows of the probed lists."""
        return self.lists.members_of(self._probe(query)[0]) + self.facts.start

    def reached(self, query: NDArray[np.float32]) -> Known:
        """The rows of the probed lists."""
        probed, outside = self._probe(query)
        rows = self.lists.members_of(probed)
        return Known(
            rows + self.facts.start, distance.deciding_one(query, self.vectors, rows),
            outside=outside, match_recall=self.facts.match_recall,
        )

    def scan(self, query: NDArray[np.float32]) -> Known:
        """All rows."""
        return ScanSegment(self.vectors, self.facts.start).scan(query)

    def _nearest(self, query: NDArray[np.float32], k: int) -> Known:
        probed, outside = self._probe(query)
        products, rows = self.rank(query, k, probed)
        return _proposed(self.facts, self.vectors, query, (products[0], rows[0]), outside)

    def _probe(self, query: NDArray[np.float32]) -> tuple[NDArray[np.int64], float]:
        """The lists to look into, and how near a row of the others may be."""
        products = self.lists.products(query)
        order = np.argsort(-products, kind="stable")
        probed, left = order[: self.facts.probes], order[self.facts.probes :]
        return probed, self.lists.nearest_left(query, products, left)


def proposal_error(dimension: int, norm: float) -> float:
    """How far a float32 inner product of ``norm`` and unit length may be off, in any order.

    The bound ``d u / (1 - d u)`` of a sum of d products in floating point (Higham, Accuracy and
    Stability of Numerical Algorithms, section 3.1); a ulp more for the rounding of distances.
    """
    steps = (dimension + 2) * _UNIT_ROUNDOFF
    return norm * steps / (1.0 - steps) + 2.0**-23


def _proposed(
    facts: SegmentFacts,
    vectors: Vectors,
    query: NDArray[np.float32],
    ranked: Ranked,
    outside: float = math.inf,
) -> Known:
    """What is known once FAISS ranked k rows (products, local rows), the nearest first."""
    products, rows = ranked
    rows = rows[rows >= 0]  # -1: nothing more is reached
    within = math.inf
    if rows.size == products.size and rows.size < len(vectors):
        length = max(1.0, float(np.sqrt(np.square(query.astype(np.float64)).sum())))
        # A row left out is no nearer than the last one kept. Past 2, distances are cut off.
        within = min(2.0, 1.0 - float(products[-1]) - facts.proposal_error * length)
    return Known(
        rows + facts.start, distance.deciding_one(query, vectors, rows),
        within, outside, facts.match_recall,
    )
