"""The coarse half of an inverted-file index: which lists a query probes, and what that leaves.

The order of the lists is our own product of query and centroids, summed in index order: the same
lists for a query in any batch. The angle of each list's farthest member says how near a
row of an unprobed list can be. How many lists are probed is calibrated like the threshold: on
rows held out of the clustering, to a stated share of the matches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.distance import Vectors

HELD_OUT = 256
"""Rows that stand in for queries when the probes are calibrated."""

_ANGLE_SLACK = 1e-6  # radians; far above the rounding of arccos in float64
_PAIRS_ACCEPTED = 1e-3  # share of pairs whose distance is the horizon, where none is given
_BLOCK = 32


@dataclass(frozen=True, slots=True)
class Lists:
    """m rows parted into lists around centroids."""

    columns: Vectors
    """(d, lists) float32: a centroid a column."""
    norms: NDArray[np.float64]
    """(lists,) lengths of the centroids."""
    angles: NDArray[np.float64]
    """(lists,) largest angle in radians between a centroid and a member; -inf if empty."""
    largest_norm: float
    """Length of the longest of the m rows."""
    members: NDArray[np.int64]
    """(m,) rows, list after list."""
    starts: NDArray[np.int64]
    """(lists + 1,) where each list starts in ``members``."""

    def products(self, query: NDArray[np.float32]) -> NDArray[np.float64]:
        """(lists,) inner products of the query (d,) with the centroids; bits of the pair alone."""
        out = np.zeros(self.columns.shape[1], np.float64)
        _products(query, self.columns, out)
        return out

    def members_of(self, lists: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of these lists."""
        return np.concatenate(
            [np.empty(0, np.int64), *(self.members[self.starts[i] : self.starts[i + 1]]
                                      for i in lists)]
        )

    def nearest_left(
        self, query: NDArray[np.float32], products: NDArray[np.float64], left: NDArray[np.int64]
    ) -> float:
        """A distance that no row of the lists ``left`` is nearer than; inf if they hold none.

        By the triangle inequality of angles: a member is at least the angle of its centroid less
        the angle of the list away.
        """
        left = left[self.angles[left] >= 0]
        if left.size == 0:
            return float("inf")
        length = float(np.sqrt(np.square(query.astype(np.float64)).sum()))
        cosines = products[left] / (length * self.norms[left])
        angle = float((np.arccos(np.clip(cosines, -1.0, 1.0)) - self.angles[left]).min())
        cosine = np.cos(min(max(angle - _ANGLE_SLACK, 0.0), np.pi / 2))
        return float(np.nextafter(np.float32(1.0 - length * self.largest_norm * cosine), -np.inf))


def make_lists(
    centroids: Vectors, assigned: NDArray[np.int64], angles: NDArray[np.float64], norm: float
) -> Lists:
    """``Lists`` of rows ``assigned`` (m,) to ``centroids`` (lists, d)."""
    counts = np.bincount(assigned, minlength=len(centroids))
    return Lists(
        columns=np.ascontiguousarray(centroids.T),
        norms=np.sqrt(np.square(centroids, dtype=np.float64).sum(axis=1)),
        angles=angles,
        largest_norm=norm,
        members=np.argsort(assigned, kind="stable"),
        starts=np.concatenate([[0], np.cumsum(counts)]),
    )


def list_angles(
    vectors: Vectors, centroids: Vectors, assigned: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(lists,) largest angle between a centroid and the rows assigned to it; -inf if none is."""
    angles = np.full(len(centroids), -np.inf)
    for start in range(0, len(vectors), 4096):
        rows = vectors[start : start + 4096].astype(np.float64)
        middle = centroids[assigned[start : start + 4096]].astype(np.float64)
        lengths = np.sqrt(np.square(rows).sum(axis=1) * np.square(middle).sum(axis=1))
        cosines = np.clip((rows * middle).sum(axis=1) / lengths, -1.0, 1.0)
        np.maximum.at(angles, assigned[start : start + 4096], np.arccos(cosines))
    return angles


@dataclass(frozen=True, slots=True)
class Reach:
    """How many lists a query probes, and what that was measured to find."""

    probes: int
    """Lists probed, the nearest first."""
    match_recall: float
    """Share of all matches found, ``found / (matches + 1)``: below 1, since it is no proof."""
    horizon: float
    """The distance up to which a pair was a match in this measurement."""


def calibrate_probes(
    vectors: Vectors,
    lists: Lists,
    held_out: NDArray[np.int64],
    *,
    target: float,
    horizon: float | None,
) -> Reach:
    """The fewest probes that find the ``target`` share of the matches of the rows ``held_out``.

    A match is a pair of a held-out row with another row, at most ``horizon`` apart; None stands
    for the distance that accepts 1 pair in 1,000. All lists, where nothing less will do.
    """
    list_of = np.empty(len(vectors), np.int64)
    list_of[lists.members] = np.repeat(np.arange(lists.norms.size), np.diff(lists.starts))
    if horizon is None:
        horizon = _pair_quantile(vectors, held_out[: 2 * _BLOCK])
    needed = np.zeros(lists.norms.size, np.int64)
    for start in range(0, held_out.size, _BLOCK):
        rows = held_out[start : start + _BLOCK]
        accepted = distance.accepts(distance.deciding(vectors[rows], vectors), np.float32(horizon))
        accepted[np.arange(rows.size), rows] = False
        for row, matches in zip(rows, accepted, strict=True):
            place = np.empty_like(needed)
            place[np.argsort(-lists.products(vectors[row]), kind="stable")] = np.arange(place.size)
            needed += np.bincount(place[list_of[matches]], minlength=place.size)
    share = np.cumsum(needed) / (needed.sum() + 1)
    enough = np.flatnonzero(share >= target)
    count = int(enough[0]) + 1 if enough.size else int(share.size)
    return Reach(count, float(share[count - 1]), float(horizon))


def _pair_quantile(vectors: Vectors, rows: NDArray[np.int64]) -> float:
    pairs = distance.deciding(vectors[rows], vectors)
    pairs[np.arange(rows.size), rows] = distance.MAX_DISTANCE
    place = int(_PAIRS_ACCEPTED * pairs.size)
    return float(np.partition(pairs, place, axis=None)[place])


@numba.njit(cache=True, nogil=True)
def _products(query: NDArray[np.float32], columns: Vectors, out: NDArray[np.float64]) -> None:
    """Add the inner products of ``query`` (d,) and ``columns`` (d, m) to ``out`` (m,)."""
    for k in range(query.shape[0]):
        coordinate = np.float64(query[k])
        for j in range(out.shape[0]):
            out[j] += coordinate * np.float64(columns[k, j])
