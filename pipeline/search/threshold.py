"""Threshold search: from what the segments of a gallery know to an answer.

A look at a segment yields ``Known``: rows with their deciding distances, of which no reached row
that the answer could need is missing. So the answer is a function of query, gallery and threshold
alone: the same bits in any batch, whatever the index passed over first.

An inexact segment reaches only part of its rows. Where it cannot prove that the others are past
the threshold, the answer carries the share of matches that the release was measured to find. Past
the distance up to which that was measured nothing is known of it: there every search is exact.
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
from pipeline.search.gallery import Gallery

_WIDE = 1024  # rows that cost little to look at


@dataclass(frozen=True, slots=True)
class Known:
    """What a look at one segment established for one query."""

    rows: NDArray[np.int64]
    """(k,) gallery rows, in any order."""
    distances: Distances
    """(k,) their deciding distances."""
    whole: bool = True
    """Whether it speaks for all rows of the segment that the answer could need."""
    match_recall: float = 1.0
    """1.0 if no other row can be a match, else the measured share of matches in ``rows``."""


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
    """From this threshold on the search finds the other rows too, since it has to be exact, or
    since every row in ``rows`` is a match and one to reject is sought among all that is visible;
    inf: at no threshold."""


class Segment(Protocol):
    """The rows of one customer, or the shared ones, and how they are looked through."""

    @property
    def measured_to(self) -> float:
        """The largest threshold at which a ``look`` is known to find its share; inf: exact."""

    def look(self, queries: Vectors, threshold: np.float32, at_least: int) -> list[Known]:
        """For each of the queries (n, d), of the rows that the segment reaches for it, all up to
        the threshold, the nearest one beyond, and the ``at_least`` nearest."""

    def reached_rows(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """All rows that the segment reaches for this query (d,); no distance is computed."""

    def scan(
        self, query: NDArray[np.float32], threshold: np.float32, at_least: int, horizon: float
    ) -> Known:
        """The same of all rows up to ``horizon``, which lies past the threshold."""


@dataclass(frozen=True, slots=True)
class Index:
    """Every segment of a gallery, ready to be searched by customer."""

    gallery: Gallery
    segments: Mapping[str | None, Segment]
    inexact: bool
    """Whether any segment may miss a match."""

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
        ``exact`` proves: nothing is left to an inexact index. So does a threshold past what an
        inexact segment was measured to.
        """
        queries = np.array(queries, np.float32, order="C")  # ours: one compiled form for all
        visible = self._visible(customer)
        exact = exact or bool(threshold >= _proven_from(visible))
        looks = [segment.look(queries, threshold, at_least) for segment in visible]
        found = []
        for i, query in enumerate(queries):
            known = [look[i] for look in looks]
            answer = self._cut(known, threshold, at_least)
            # Without enough reached rows to fill the answer, the unreached have to serve.
            full = answer.rows.size == max(answer.match_count + 1, at_least)
            if (exact or not full) and not all(k.whole for k in known):
                horizon = float(answer.distances[-1]) if full else math.inf
                known = [
                    k if k.whole else segment.scan(query, threshold, at_least, horizon)
                    for segment, k in zip(visible, known, strict=True)
                ]
                answer = self._cut(known, threshold, at_least)
            found.append(answer)
        return found

    def reach(
        self, customer: str | None, query: NDArray[np.float32], limit: float = math.inf
    ) -> Reached:
        """What ``search`` of the query (d,), neither ``exact`` nor for more rows, finds.

        At thresholds up to ``limit``: the first row past it settles that none accepts all.
        """
        visible = self._visible(customer)
        reached = [segment.reached_rows(query) for segment in visible]
        rows = np.sort(np.concatenate([np.empty(0, np.int64), *reached]))
        if rows.size == sum(seen.stop - seen.start for seen in self.gallery.visible(customer)):
            return Reached(rows, math.inf)
        farthest, proven_from = -math.inf, float(_proven_from(visible))
        for start in range(0, rows.size, _WIDE):
            part = rows[start : start + _WIDE]
            distances = distance.deciding_one(query, self.gallery.vectors, part)
            farthest = max(farthest, float(distances.max()))
            if farthest > min(limit, proven_from):
                break
        return Reached(rows, proven_from if farthest > limit else min(farthest, proven_from))

    def _visible(self, customer: str | None) -> list[Segment]:
        keys = (None,) if customer is None else (None, customer)
        return [self.segments[key] for key in keys if key in self.segments]

    def _cut(self, known: Sequence[Known], threshold: np.float32, at_least: int) -> Found:
        """The answer, from segments that are known beyond all it depends on."""
        if len(known) == 1:
            rows, distances = known[0].rows, known[0].distances
        else:
            rows = np.concatenate([np.empty(0, np.int64), *(k.rows for k in known)])
            distances = np.concatenate([np.empty(0, np.float32), *(k.distances for k in known)])
        matches = int(np.count_nonzero(distance.accepts(distances, threshold)))
        length = max(matches + 1, at_least)
        if distances.size > length + _WIDE:  # fewer are sorted as fast as they are left out
            near = distances <= np.partition(distances, length - 1)[length - 1]
            rows, distances = rows[near], distances[near]
        order = np.lexsort((self.gallery.rank[rows], distances))[:length]
        recall = min((k.match_recall for k in known), default=1.0)
        return Found(rows[order], distances[order], matches, recall)


def _proven_from(segments: Sequence[Segment]) -> np.float32:
    """The least threshold past what every one of the segments was measured to; inf: none is."""
    measured_to = np.float32(min((one.measured_to for one in segments), default=math.inf))
    return np.float32(np.nextafter(measured_to, np.float32(math.inf)))
