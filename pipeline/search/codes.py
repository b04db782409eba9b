"""Rows in one byte a coordinate, list after list: which of them the deciding distance must judge.

A row is held as whole numbers times a scale of its own, a query as whole numbers times another.
Their sum of products is exact in any order; how far it is from the true product is bounded by the
lengths of what rounding left (Cauchy-Schwarz). So every row gets an interval that holds its
distance, the same alone and in any batch, and only the rows whose interval reaches the threshold,
or may hold the nearest row past it, are looked up in the gallery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.distance import Vectors, deciding_rows
from pipeline.search.lists import Chosen

Looked = tuple[
    NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]
]
"""Rows and deciding distances of all queries, one after the other; (n + 1,) where each query's
begin; (n,) the distance up to which each query's are all there."""

Room = tuple[
    NDArray[np.int64], NDArray[np.float64], NDArray[np.int32], NDArray[np.float64],
    NDArray[np.float64],
]  # fmt: skip
"""To work in: places kept and how near they may be; of a list the sums and their bounds."""

_LARGEST = 127
_SLACK = 1e-6  # far above the rounding of the bounds, and of the deciding distance to float32


class Codes(NamedTuple):
    """m rows of d coordinates, list after list; a row is ``values * scales`` but for an error."""

    values: NDArray[np.int8]
    """(m, d) whole numbers; backed by the file when opened from disk."""
    scales: NDArray[np.float32]
    """(m,) what a whole number stands for."""
    errors: NDArray[np.float32]
    """(m,) length of the row less its code, rounded up."""
    rows: NDArray[np.int32]
    """(m,) which row of the segment it is."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A segment's rows: coded to be passed over, whole to be decided."""

    codes: Codes
    vectors: Vectors
    """(m, d) in the order of the gallery."""
    starts: NDArray[np.int64]
    """(lists + 1,) where each list starts in the codes."""
    largest_norm: float
    """Length of the longest row."""

    def look(
        self, queries: Vectors, chosen: Chosen, threshold: np.float32, at_least: int = 1
    ) -> Looked:
        """What the ``chosen`` lists hold for the queries (n, d).

        All rows up to the threshold, the nearest beyond it, the ``at_least`` nearest, and whatever
        the codes cannot tell from them.
        """
        return _look(
            queries, chosen, self.starts, self.codes, self.vectors,
            (float(threshold), self.largest_norm, at_least),
        )

    def members_of(self, lists: NDArray[np.int32]) -> NDArray[np.int64]:
        """Rows of these lists."""
        parts = [self.codes.rows[self.starts[one] : self.starts[one + 1]] for one in lists]
        return np.concatenate([np.empty(0, np.int64), *parts])


def encode(vectors: Vectors, order: NDArray[np.int64]) -> Codes:
    """Codes of the rows of ``vectors`` (m, d) in ``order`` (m,)."""
    codes = Codes(
        np.empty(vectors.shape, np.int8), np.empty(order.size, np.float32),
        np.empty(order.size, np.float32), order.astype(np.int32),
    )
    _encode(vectors, codes)
    return codes


@numba.njit(cache=True, nogil=True)
def _encode(vectors: Vectors, codes: Codes) -> None:
    for place in range(codes.rows.size):
        row, values = vectors[codes.rows[place]], codes.values[place]
        scale = np.float32(max(np.abs(row).max() / _LARGEST, 1e-30))
        left = 0.0
        for k in range(row.size):
            # The division may round past the largest number by an ulp.
            number = min(max(round(np.float64(row[k]) / scale), -_LARGEST), _LARGEST)
            values[k] = number
            left += (np.float64(row[k]) - number * np.float64(scale)) ** 2
        codes.scales[place] = scale
        codes.errors[place] = np.sqrt(left) * (1 + 1e-6)


@numba.njit(cache=True, nogil=True)
def _coded_query(query: NDArray[np.float32], out: NDArray[np.int16]) -> tuple[float, float, float]:
    """Write the query as whole numbers; what one stands for, the query's length, what is left."""
    # A sum of d products has to fit 32 bits.
    most = min(2**15 - 1, (2**31 - 1) // (_LARGEST * query.size))
    scale = max(np.float64(np.abs(query).max()) / most, 1e-30)
    squares = left = 0.0
    for k in range(query.size):
        coordinate = np.float64(query[k])
        number = min(max(round(coordinate / scale), -most), most)
        out[k] = number
        squares += coordinate**2
        left += (coordinate - number * scale) ** 2
    return scale, np.sqrt(squares), np.sqrt(left)


@numba.njit(cache=True, nogil=True)
def _look(
    queries: Vectors,
    chosen: Chosen,
    starts: NDArray[np.int64],
    codes: Codes,
    vectors: Vectors,
    bounds: tuple[float, float, int],
) -> Looked:
    count = queries.shape[0]
    most = longest = 0
    for i in range(count):
        total = 0
        for one in chosen.lists[chosen.ends[i] : chosen.ends[i + 1]]:
            size = starts[one + 1] - starts[one]
            total, longest = total + size, max(longest, size)
        most = max(most, total)
    room = (np.empty(most, np.int64), np.empty(most), np.empty(longest, np.int32),
            np.empty(longest), np.empty(longest))  # fmt: skip
    ends, within = np.zeros(count + 1, np.int64), np.empty(count)
    rows, distances = np.empty(most, np.int64), np.empty(most, np.float32)
    for i in range(count):
        lists = chosen.lists[chosen.ends[i] : chosen.ends[i + 1]]
        kept, within[i] = _pass_over(queries[i], lists, starts, codes, bounds, room)
        begin, end = ends[i], ends[i] + kept
        if end > rows.size:
            rows, distances = _longer(rows, distances, 2 * end)
        for k in range(kept):
            rows[begin + k] = codes.rows[room[0][k]]
        deciding_rows(queries[i], vectors, rows[begin:end], distances[begin:end])
        ends[i + 1] = end
    return rows[: ends[-1]], distances[: ends[-1]], ends, within


@numba.njit(cache=True, nogil=True)
def _longer(
    rows: NDArray[np.int64], distances: NDArray[np.float32], size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    more, further = np.empty(size, np.int64), np.empty(size, np.float32)
    for k in range(rows.size):
        more[k], further[k] = rows[k], distances[k]
    return more, further


@numba.njit(cache=True, nogil=True)
def _sums(values: NDArray[np.int8], coded: NDArray[np.int16], out: NDArray[np.int32]) -> None:
    """Sums of products of a query and rows; nothing else in the loop, so that it vectorises."""
    for row in range(values.shape[0]):
        total = np.int32(0)
        for k in range(values.shape[1]):
            total = np.int32(total + np.int32(values[row, k]) * np.int32(coded[k]))
        out[row] = total


@numba.njit(cache=True, nogil=True)
def _intervals(
    sums: NDArray[np.int32],
    scales: NDArray[np.float32],
    errors: NDArray[np.float32],
    facts: tuple[float, float, float],
    out: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> None:
    """Between what distances each row lies; cut off at 2, as distances are."""
    scale, apart, slope = facts
    nearest, farthest = out
    for row in range(scales.size):
        middle = 1.0 - sums[row] * (scale * scales[row])
        error = apart + slope * errors[row]
        nearest[row] = min(middle - error, 2.0)
        farthest[row] = min(middle + error, 2.0)


@numba.njit(cache=True, nogil=True)
def _pass_over(
    query: NDArray[np.float32],
    lists: NDArray[np.int32],
    starts: NDArray[np.int64],
    codes: Codes,
    bounds: tuple[float, float, int],
    room: Room,
) -> tuple[int, float]:
    """Put the codes of one query that need a decision into ``room``: how many, and how far all."""
    threshold, largest_norm, at_least = bounds
    kept, low, sums, nearest, farthest = room
    coded = np.empty(query.size, np.int16)
    scale, length, left = _coded_query(query, coded)
    facts = (scale, left * largest_norm + _SLACK, length + left)
    near = np.full(at_least, np.inf)  # how far the nearest rows may be, in order
    count, rejected, cut = 0, np.inf, np.inf
    for one in lists:
        begin, end = starts[one], starts[one + 1]
        _sums(codes.values[begin:end], coded, sums)
        _intervals(sums, codes.scales[begin:end], codes.errors[begin:end], facts,
                   (nearest, farthest))  # fmt: skip
        for row in range(end - begin):
            if nearest[row] > cut:
                continue
            kept[count], low[count] = begin + row, nearest[row]
            count += 1
            if nearest[row] > threshold:  # for sure; so the nearest rejected row is no farther
                rejected = min(rejected, farthest[row])
            _insert(farthest[row], near)
            cut = max(rejected, near[-1])
    return _keep(kept[:count], low[:count], cut), cut


@numba.njit(cache=True, nogil=True)
def _insert(value: float, near: NDArray[np.float64]) -> None:
    """Put a value into its place among the smallest, in order; the largest of them leaves."""
    place = near.size - 1
    if value >= near[place]:
        return
    while place > 0 and near[place - 1] > value:
        near[place] = near[place - 1]
        place -= 1
    near[place] = value


@numba.njit(cache=True, nogil=True)
def _keep(places: NDArray[np.int64], low: NDArray[np.float64], cut: float) -> int:
    """Move the places that may lie within ``cut`` to the front: how many there are."""
    count = 0
    for k in range(places.size):
        if low[k] <= cut:
            places[count] = places[k]
            count += 1
    return count
