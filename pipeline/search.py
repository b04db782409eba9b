"""Threshold search: from what a segment of the gallery proposes to what is known for sure.

A look at a segment yields ``Known``: some rows with their deciding distances, and the distance
``within`` which no row can be missing. The search looks deeper until everything is known that
decides the answer, then cuts. So the answer is a function of query, gallery and threshold alone:
the same bits in any batch, whatever the index proposed first.

An inexact segment reaches only part of its rows. How near an unreached row may be, ``outside``,
says whether a match can have been missed; if so, the answer carries the share of matches that
the release was measured to find.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.distance import Distances, Vectors
from pipeline.gallery import Gallery

FIRST_LOOK, WIDE_LOOK = 64, 1024
"""Rows that a segment is asked for, before it is asked for everything it reaches."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a look at one segment established for one query."""

    rows: NDArray[np.int64]
    """(k,) gallery rows, in any order."""
    distances: Distances
    """(k,) their deciding distances."""
    within: float = math.inf
    """Every reached row nearer than this is in ``rows``."""
    outside: float = math.inf
    """No row that was not reached is nearer than this."""
    match_recall: float = 1.0
    """Share of all matches that rows reached like these were measured to hold."""

    def covers(self, horizon: float, *, whole: bool) -> bool:
        """Whether every reached row up to ``horizon``, ties included, is known.

        ``whole``: every row, reached or not.
        """
        return _beyond(self.within, horizon) and (not whole or _beyond(self.outside, horizon))


@dataclass(frozen=True, slots=True)
class Found:
    """The nearest rows of one query: all matches, one rejected, and more where asked for."""

    rows: NDArray[np.int64]
    """(k,) gallery rows by (distance, item_id)."""
    distances: Distances
    """(k,) deciding distances."""
    match_count: int
    """The first ``match_count`` rows are matches; a row after them is the nearest rejected."""
    match_recall: float
    """1.0 where it is proven that no match is missing, else the measured share, below 1."""

    @property
    def proven(self) -> bool:
        """Whether it is proven that no match is missing."""
        return self.match_recall == 1.0


@dataclass(frozen=True, slots=True)
class Reached:
    """What a search for one query finds without proof, at thresholds up to some limit."""

    rows: NDArray[np.int64]
    """(k,) sorted gallery rows, found wherever they are near enough."""
    all_from: float
    """From this threshold on every row in ``rows`` is a match, so that the search for one to
    reject looks at all that is visible and finds the other rows too; inf: at no threshold."""


class Segment(Protocol):
    """The rows of one customer, or the shared ones, and how they are looked through."""

    def nearest(self, queries: Vectors, k: int) -> list[Known]:
        """For each of the queries (n, d) about ``k`` of the nearest rows."""

    def reached_rows(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """All rows that the segment reaches for this query (d,); no distance is computed."""

    def reached(self, query: NDArray[np.float32]) -> Known:
        """All rows that the segment reaches for this query (d,)."""

    def scan(self, query: NDArray[np.float32]) -> Known:
        """All rows."""


@dataclass(frozen=True, slots=True)
class Index:
    """Every segment of a gallery, ready to be searched by customer."""

    gallery: Gallery
    segments: Mapping[str | None, Segment]

    def search(
        self,
        customer: str | None,
        query: NDArray[np.float32],
        threshold: np.float32,
        *,
        at_least: int = 1,
        exact: bool = False,
    ) -> Found:
        """What ``search_batch`` finds for one query (d,)."""
        return self.search_batch(
            customer, query[None, :], threshold, at_least=at_least, exact=exact
        )[0]

    def search_batch(
        self,
        customer: str | None,
        queries: Vectors,
        threshold: np.float32,
        *,
        at_least: int = 1,
        exact: bool = False,
    ) -> list[Found]:
        """For each of the queries (n, d) all matches that ``customer`` may see, and beyond them.

        Each ``Found`` holds every match the index reaches, the nearest rejected row if there is
        one, and at least the ``at_least`` nearest rows (fewer where fewer are visible).
        ``exact`` proves: nothing is left to an inexact index.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        visible = self._visible(customer)
        looks = [segment.nearest(queries, max(FIRST_LOOK, at_least + 1)) for segment in visible]
        found = []
        for i, query in enumerate(queries):
            known = [look[i] for look in looks]
            while True:
                horizon = _horizon(known, threshold, at_least)
                # Without enough reached rows to fill the answer, the unreached have to serve. That
                # is known once all reached ones are: not by what a first look happens to hold.
                whole = exact or (horizon == math.inf and all(k.within == math.inf for k in known))
                short = [s for s, k in enumerate(known) if not k.covers(horizon, whole=whole)]
                if not short:
                    break
                for s in short:
                    known[s] = _deeper(visible[s], known[s], query, horizon)
            found.append(self._cut(known, threshold, at_least))
        return found

    def reach(
        self, customer: str | None, query: NDArray[np.float32], limit: float = math.inf
    ) -> Reached:
        """What ``search`` of the query (d,), neither ``exact`` nor for more rows, finds.

        At thresholds up to ``limit``: the first row past it settles that none accepts all.
        """
        reached = [segment.reached_rows(query) for segment in self._visible(customer)]
        rows = np.sort(np.concatenate([np.empty(0, np.int64), *reached]))
        if rows.size == sum(seen.stop - seen.start for seen in self.gallery.visible(customer)):
            return Reached(rows, math.inf)
        farthest = -math.inf
        for start in range(0, rows.size, WIDE_LOOK):
            part = rows[start : start + WIDE_LOOK]
            distances = distance.deciding_one(query, self.gallery.vectors, part)
            farthest = max(farthest, float(distances.max()))
            if farthest > limit:
                return Reached(rows, math.inf)
        return Reached(rows, farthest)

    def _visible(self, customer: str | None) -> list[Segment]:
        keys = (None,) if customer is None else (None, customer)
        return [self.segments[key] for key in keys if key in self.segments]

    def _cut(self, known: Sequence[Known], threshold: np.float32, at_least: int) -> Found:
        """The answer, from segments that are known beyond all it depends on."""
        rows = np.concatenate([np.empty(0, np.int64), *(k.rows for k in known)])
        distances = np.concatenate([np.empty(0, np.float32), *(k.distances for k in known)])
        matches = int(np.count_nonzero(distance.accepts(distances, threshold)))
        length = max(matches + 1, at_least)
        if distances.size > length:
            near = distances <= np.partition(distances, length - 1)[length - 1]
            rows, distances = rows[near], distances[near]
        order = np.lexsort((self.gallery.rank[rows], distances))[:length]
        missed = [k.match_recall for k in known if not _beyond(k.outside, float(threshold))]
        return Found(rows[order], distances[order], matches, min(missed, default=1.0))


def _beyond(limit: float, horizon: float) -> bool:
    return limit == math.inf or limit > horizon


def _horizon(known: Sequence[Known], threshold: np.float32, at_least: int) -> float:
    """The distance up to which every row must be known before the answer can be cut.

    That of the last row of the answer as far as one can tell, which lies past the threshold;
    infinite as long as too few rows are known. Rows found later only bring it nearer.
    """
    distances = np.concatenate([np.empty(0, np.float32), *(k.distances for k in known)])
    matches = int(np.count_nonzero(distance.accepts(distances, threshold)))
    last = max(matches + 1, at_least) - 1
    if last >= distances.size:
        return math.inf
    return float(np.partition(distances, last)[last])


def _deeper(
    segment: Segment, known: Known, query: NDArray[np.float32], horizon: float
) -> Known:
    """The next wider look at a segment that does not cover ``horizon``."""
    if known.covers(horizon, whole=False):
        return segment.scan(query)
    if known.rows.size < WIDE_LOOK:
        return segment.nearest(query[None, :], WIDE_LOOK)[0]
    return segment.reached(query)
