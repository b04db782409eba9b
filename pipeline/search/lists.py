"""The coarse half of an inverted file: which lists a query probes, and what that leaves.

The product of query and centroids is our own, summed in index order: the same lists for a query in
any batch. Probed are the lists whose product comes near enough to the largest one: as few as one
for a query amid a list, more between them; how near is calibrated (``effort``). The angle of each
list's farthest member says whether an unprobed list can hold a row within some distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.distance import Vectors, unit

SEED = 20_307

_ANGLE_SLACK = 1e-6  # radians; far above the rounding of arccos in float64
_ROUNDS, _POINTS_PER_LIST = 6, 32  # of the clustering: more costs time and moves next to nothing
_BLOCK = 4096
_TILE = 256  # centroids whose sums stay in the first-level cache


class Chosen(NamedTuple):
    """The lists that each of n queries looks into."""

    lists: NDArray[np.int32]
    """Of all queries, one after the other."""
    ends: NDArray[np.int64]
    """(n + 1,) where those of each query begin."""


@dataclass(frozen=True, slots=True)
class Lists:
    """Rows parted into lists around centroids."""

    columns: Vectors
    """(d, lists) float32: a centroid of unit length a column."""
    angles: NDArray[np.float64]
    """(lists,) largest angle in radians between a centroid and a member; -inf if empty."""
    largest_norm: float
    """Length of the longest row."""

    @property
    def count(self) -> int:
        """Number of lists."""
        return int(self.columns.shape[1])

    def products(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """(lists,) inner products of the query (d,) with the centroids; bits of the pair alone."""
        out = np.empty(self.count, np.float32)
        _products(query, self.columns, out)
        return out

    def choose(
        self, queries: Vectors, nearness: float, threshold: np.float32
    ) -> tuple[Chosen, NDArray[np.bool_]]:
        """The lists that each query (n, d) probes; (n,) whether no other holds a match.

        ``nearness``: the share of the largest product that a list's has to reach; below 0: all.
        """
        chosen = np.empty(len(queries) * self.count, np.int32)
        ends, alone = np.zeros(len(queries) + 1, np.int64), np.empty(len(queries), np.bool_)
        facts = (np.float32(nearness), float(threshold), self.largest_norm)
        _choose(queries, self.columns, self.angles, facts, (chosen, ends, alone))
        return Chosen(chosen[: ends[-1]], ends), alone

    def within(self, query: NDArray[np.float32], horizon: float) -> NDArray[np.int32]:
        """The lists that may hold a row up to ``horizon`` from the query (d,)."""
        out = np.empty(self.count, np.bool_)
        products = self.products(query)
        facts = _facts_of(query, horizon, self.largest_norm)
        for one in range(self.count):
            out[one] = _may_hold(products[one], self.angles[one], facts)
        return np.flatnonzero(out).astype(np.int32)


def part(
    vectors: Vectors, count: int, rows: NDArray[np.int64], largest_norm: float
) -> tuple[Lists, NDArray[np.int64]]:
    """``count`` lists, clustered on ``rows``, and (m,) the list of each of the ``vectors``."""
    centroids = cluster(vectors, count, rows)
    assigned = assign(vectors, centroids)
    angles = list_angles(vectors, centroids, assigned)
    return Lists(np.ascontiguousarray(centroids.T), angles, largest_norm), assigned


def list_angles(
    vectors: Vectors, centroids: Vectors, assigned: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(lists,) largest angle between a centroid and the rows assigned to it; -inf if none is."""
    angles = np.full(len(centroids), -np.inf)
    for start in range(0, len(vectors), _BLOCK):
        rows = vectors[start : start + _BLOCK].astype(np.float64)
        middle = centroids[assigned[start : start + _BLOCK]].astype(np.float64)
        lengths = np.sqrt(np.square(rows).sum(axis=1) * np.square(middle).sum(axis=1))
        cosines = np.clip((rows * middle).sum(axis=1) / lengths, -1.0, 1.0)
        np.maximum.at(angles, assigned[start : start + _BLOCK], np.arccos(cosines))
    return angles


def cluster(vectors: Vectors, count: int, rows: NDArray[np.int64]) -> Vectors:
    """(count, d) centroids of unit length: spherical k-means on some of the ``rows``, drawn anew.

    ``rows`` in random order, at least ``count`` of them.
    """
    sample = vectors[np.sort(rows[: _POINTS_PER_LIST * count])]
    generator = np.random.default_rng(SEED)
    centroids = unit(sample[generator.choice(len(sample), count, replace=False)])
    for _ in range(_ROUNDS):
        nearest = assign(sample, centroids)
        order = np.argsort(nearest, kind="stable")
        sizes = np.bincount(nearest, minlength=count)
        filled = np.flatnonzero(sizes)
        first = np.concatenate([[0], np.cumsum(sizes)[:-1]])[filled]
        sums = np.add.reduceat(sample[order], first, axis=0)
        lengths = np.sqrt(np.square(sums, dtype=np.float64).sum(axis=1))
        # A list that lost all its rows begins again at a row of the sample.
        centroids = unit(sample[generator.choice(len(sample), count, replace=False)])
        kept = lengths > 0
        centroids[filled[kept]] = sums[kept] / lengths[kept, None]
    return np.ascontiguousarray(centroids, np.float32)


def assign(vectors: Vectors, centroids: Vectors) -> NDArray[np.int64]:
    """(m,) the centroid with the largest inner product, the first of equal ones."""
    out = np.empty(len(vectors), np.int64)
    columns = np.ascontiguousarray(centroids.T)
    for start in range(0, len(vectors), _BLOCK):
        np.argmax(vectors[start : start + _BLOCK] @ columns, axis=1,
                  out=out[start : start + _BLOCK])
    return out


@numba.njit(cache=True, nogil=True)
def _products(
    query: NDArray[np.float32], columns: Vectors, out: NDArray[np.float32]
) -> None:
    """Inner products of ``query`` (d,) and ``columns`` (d, m), each summed in index order.

    Four coordinates at a time, so that the sums are loaded and stored a quarter as often.
    """
    whole = query.size // 4 * 4
    for start in range(0, out.size, _TILE):
        part = out[start : start + _TILE]
        part[:] = 0
        for k in range(0, whole, 4):
            p, q, r, s = query[k], query[k + 1], query[k + 2], query[k + 3]
            a, b = columns[k, start:], columns[k + 1, start:]
            c, d = columns[k + 2, start:], columns[k + 3, start:]
            for j in range(part.size):
                part[j] = (((part[j] + p * a[j]) + q * b[j]) + r * c[j]) + s * d[j]
        for k in range(whole, query.size):
            for j in range(part.size):
                part[j] += query[k] * columns[k, start + j]


@numba.njit(cache=True, nogil=True)
def _choose(
    queries: Vectors,
    columns: Vectors,
    angles: NDArray[np.float64],
    facts: tuple[np.float32, float, float],
    out: tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]],
) -> None:
    nearness, threshold, largest_norm = facts
    chosen, ends, alone = out
    products = np.empty(columns.shape[1], np.float32)
    for i in range(queries.shape[0]):
        _products(queries[i], columns, products)
        least = _least(products, nearness)
        limits = _facts_of(queries[i], threshold, largest_norm)
        count, alone[i] = ends[i], True
        for one in range(products.size):
            if products[one] >= least:
                chosen[count] = one
                count += 1
            elif alone[i] and _may_hold(products[one], angles[one], limits):
                alone[i] = False
        ends[i + 1] = count


@numba.njit(cache=True, nogil=True)
def _least(products: NDArray[np.float32], nearness: np.float32) -> np.float32:
    """The product from which on a list is probed: all are where none lies ahead of the query."""
    best = np.float32(0)
    for one in range(products.size):
        best = max(best, products[one])
    return np.float32(best * nearness) if best > 0 and nearness >= 0 else np.float32(-np.inf)


@numba.njit(cache=True, nogil=True)
def _facts_of(
    query: NDArray[np.float32], horizon: float, largest_norm: float
) -> tuple[float, float, float]:
    """Length of the query, most that a product is off, and the angle of rows at ``horizon``.

    A row is at least ``1 - length * largest_norm * cos(angle)`` away, wherever the cosine is
    positive; an angle of pi: any row may be within the horizon; below 0: none can be.
    """
    squares = 0.0
    for k in range(query.size):
        squares += np.float64(query[k]) ** 2
    length = np.sqrt(squares)
    steps = (query.size + 8) * 2.0**-24  # a little more: centroids are of unit length but for ulps
    # The distance is rounded to float32 once it is summed.
    cosine = (1.0 - horizon - 1e-6) / max(length * largest_norm, 1e-30)
    angle = np.pi
    if cosine > 0:
        angle = np.arccos(min(cosine, 1.0)) + _ANGLE_SLACK if cosine < 1 + 1e-6 else -1.0
    return length, length * steps / (1 - steps), angle


@numba.njit(cache=True, nogil=True)
def _may_hold(product: float, widest: float, facts: tuple[float, float, float]) -> bool:
    """Whether a list has a row within the horizon, by the triangle inequality of angles."""
    length, error, angle = facts
    if widest < 0 or angle < 0:  # the list is empty, or no row can be so near
        return False
    if widest + angle >= np.pi:
        return True
    return bool(product + error >= length * np.cos(widest + angle))
