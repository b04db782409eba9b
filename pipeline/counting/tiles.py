"""The compiled inner loops of all-pairs counting: which pairs of a tile lie in which bin.

A tile is a block of float32 products of some vectors with some others. These run without
Python's lock. Those that call each other stand in this one file, since numba's cache does not
see a change of a function that is compiled in from another one.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.counting.binning import Ruler
from pipeline.counting.operating import POSITIVE
from pipeline.distance import Vectors

Rows = NDArray[np.int64]
Places = NDArray[np.uint32]
Bins = NDArray[np.int32]

Found = tuple[Places, Places, Bins]
"""Row, column and bin of pairs of a tile."""


def room_for(pairs: int) -> Found:
    """Arrays that ``bins_of_tile`` can write the pairs of a tile into."""
    size = pairs + 2
    return np.empty(size, np.uint32), np.empty(size, np.uint32), np.empty(size, np.int32)


@numba.njit(cache=True, nogil=True)
def bins_of_tile(
    products: NDArray[np.float32],
    starts: Rows,
    ends: tuple[Vectors, Vectors],
    ruler: Ruler,
    out: Found,
) -> int:
    """Which products (r, c) lie within the grid, and in which bin; returns how many.

    ``starts`` (r,): first column of each row that is asked for. ``ends``: the vectors (r, d) and
    (c, d). ``out``: from ``room_for(r * c)``; as many pairs as returned are written into it.
    """
    rows, columns, bins = out
    near = np.empty(products.shape[1] + 1, np.uint32)
    kept, begin = 0, rows.shape[0]
    for r in range(products.shape[0]):
        first, stop = kept, begin
        kept, begin = _bins_of_row(
            products[r, starts[r] :], ruler, (near, columns, bins), kept, begin
        )
        rows[first:kept] = r
        rows[begin:stop] = r
        columns[first:kept] += np.uint32(starts[r])
        columns[begin:stop] += np.uint32(starts[r])
    settle(ends, rows[begin:], columns[begin:], bins[begin:], (ruler.cuts, ruler.fine_error))
    for place in range(begin, rows.shape[0]):
        if bins[place] < ruler.cuts.shape[0]:
            rows[kept], columns[kept], bins[kept] = rows[place], columns[place], bins[place]
            kept += 1
    return kept


@numba.njit(cache=True, nogil=True)
def _bins_of_row(
    products: NDArray[np.float32], ruler: Ruler, out: Found, kept: int, begin: int
) -> tuple[int, int]:
    """Add the pairs of a row: those whose bin is certain from place ``kept`` of ``out`` upwards.

    The others go below ``begin`` downwards, with -1 - (the least that their bin can be). Returns
    both places anew. The first array of ``out`` is scratch.
    """
    near, columns, bins = out
    found, up, down = 0, kept, begin - 1
    for j in range(products.shape[0]):
        # Written always and kept where it counts: a branch would be mispredicted. And unsigned
        # indices are not looked at for a sign.
        near[np.uint64(found)] = j
        found += int(products[j] >= ruler.limit)
    for place in range(found):
        j = near[place]
        cell = np.uint32(max((ruler.top - products[j]) * ruler.step, np.float32(0)))
        bin_ = ruler.table[cell]
        columns[np.uint64(up)], bins[np.uint64(up)] = j, bin_
        columns[np.uint64(down)], bins[np.uint64(down)] = j, bin_
        up += int(np.uint32(bin_) < np.uint32(ruler.cuts.shape[0]))
        down -= int(bin_ < 0)
    return up, down + 1


@numba.njit(cache=True, nogil=True)
def settle(
    ends: tuple[Vectors, Vectors],
    rows: NDArray[np.uint32],
    columns: NDArray[np.uint32],
    bins: NDArray[np.int32],
    limits: tuple[NDArray[np.float64], float],
) -> None:
    """Replace ``bins`` (k,), each -1 - (the least that it can be), by the true ones.

    Pairs of row ``rows[p]`` of the one and ``columns[p]`` of the other of ``ends``. ``limits``:
    the ruler's cuts and its fine error.
    """
    a, b = ends
    cuts, error = limits
    values = np.empty(bins.shape[0], np.float64)
    _sums_in_any_order(a, b, rows, columns, values)
    for place in range(bins.shape[0]):
        least = -1 - bins[place]
        if least == 0:  # it may be anywhere: halve, instead of walking from edge to edge
            least = _first_within(values[place] + error, cuts)
        bin_ = _certain(values[place], error, least, cuts)
        if bin_ < 0:
            exact = _sum_in_index_order(a[rows[place]], b[columns[place]])
            bin_ = _certain(exact, 0.0, -1 - bin_, cuts)
        bins[place] = bin_


@numba.njit(cache=True, nogil=True)
def _first_within(value: float, cuts: NDArray[np.float64]) -> int:
    """The first of the falling ``cuts`` that is at most ``value``; T if none is."""
    first, stop = 0, cuts.shape[0]
    while first < stop:
        middle = (first + stop) // 2
        if cuts[middle] <= value:
            stop = middle
        else:
            first = middle + 1
    return first


@numba.njit(cache=True, nogil=True)
def _certain(value: float, error: float, bin_: int, cuts: NDArray[np.float64]) -> int:
    """The bin of a sum that is ``value``, give or take ``error``; -1 - the least one if unsure."""
    while bin_ < cuts.shape[0] and value + error < cuts[bin_]:
        bin_ += 1
    return bin_ if bin_ == cuts.shape[0] or value - error >= cuts[bin_] else -1 - bin_


@numba.njit(cache=True, nogil=True)
def _sums_in_any_order(
    a: Vectors,
    b: Vectors,
    rows: NDArray[np.uint32],
    columns: NDArray[np.uint32],
    out: NDArray[np.float64],
) -> None:
    """Sums of products of the pairs (k,), into ``out``; four of one row at a time where it can."""
    place = 0
    while place < out.shape[0]:
        row, j = a[rows[place]], columns[place:]
        if j.shape[0] > 3 and rows[place + 3] == rows[place]:
            four = _four_sums(row, b[j[0]], b[j[1]], b[j[2]], b[j[3]])
            out[place], out[place + 1], out[place + 2], out[place + 3] = four
            place += 4
        else:
            out[place] = _sum(row, b[j[0]])
            place += 1


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _sum(a: Vectors, b: Vectors) -> float:
    total = 0.0
    for k in range(a.shape[0]):
        total += np.float64(a[k]) * np.float64(b[k])
    return total


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _four_sums(
    a: Vectors, b: Vectors, c: Vectors, d: Vectors, e: Vectors
) -> tuple[float, float, float, float]:
    first, second, third, fourth = 0.0, 0.0, 0.0, 0.0
    for k in range(a.shape[0]):
        x = np.float64(a[k])
        first += x * np.float64(b[k])
        second += x * np.float64(c[k])
        third += x * np.float64(d[k])
        fourth += x * np.float64(e[k])
    return first, second, third, fourth


@numba.njit(cache=True, nogil=True)
def _sum_in_index_order(a: Vectors, b: Vectors) -> float:
    """The sum of the deciding distance (``distance.deciding``)."""
    total = 0.0
    for k in range(a.shape[0]):
        total += np.float64(a[k]) * np.float64(b[k])
    return total


@numba.njit(cache=True, nogil=True)
def count_inside(
    vectors: Vectors,
    spans: Rows,
    bits: NDArray[np.uint8],
    limits: tuple[NDArray[np.float64], float],
    which: Rows,
    out: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> None:
    """Count the positive pairs of each class in ``which``.

    ``spans`` (G + 1,): first row of each class. ``bits`` (n,): half of each row in each split.
    ``limits``: the ruler's cuts and its fine error. ``out``: ``whole`` and ``halves`` of
    ``ClassCounts``.
    """
    whole, halves = out
    for group in which:
        stop = spans[group + 1]
        columns = np.arange(spans[group], stop).astype(np.uint32)
        rows, bins = np.empty_like(columns), np.empty(columns.shape[0], np.int32)
        for i in range(spans[group], stop - 1):
            count = stop - i - 1
            rows[:count], bins[:count] = i, -1
            settle((vectors, vectors), rows[:count], columns[-count:], bins[:count], limits)
            for place in range(count):
                bin_ = bins[place]
                whole[group, POSITIVE, bin_] += 1
                same = ~(bits[i] ^ bits[i + 1 + place])
                for split in range(halves.shape[1]):
                    half = (bits[i] >> split) & 1
                    halves[group, split, half, POSITIVE, bin_] += (same >> split) & 1
