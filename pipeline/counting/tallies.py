"""Pairs found in a tile added to counts: by class for all pairs, by query for a gallery.

Compiled, and run without Python's lock; each call writes into arrays that no other has.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.counting.operating import NEGATIVE
from pipeline.counting.tiles import Found, Rows


@numba.njit(cache=True, nogil=True)
def count_ends(
    found: Found,
    starts: Rows,
    units: tuple[Rows, Rows],
    out: tuple[NDArray[np.int32], NDArray[np.int32]],
) -> None:
    """Add pairs ``found`` in a tile (r, c) to the counts of the units at either end.

    ``starts`` (r,): first column of each row that was asked for; never falls. ``units``: unit of
    each row and column, from 0 up within the tile. ``out``: counts (units, T + 1) of the rows and
    of the columns; the last bin counts *all* pairs, within the grid or beyond.
    """
    (rows, columns, bins), (mine, theirs) = found, out
    last, width = mine.shape[1] - 1, units[1].shape[0]
    for place in range(rows.shape[0]):
        bin_ = np.uint32(bins[place])  # unsigned indices need no look at the sign
        mine[np.uint32(units[0][rows[place]]), bin_] += np.int32(1)
        theirs[np.uint32(units[1][columns[place]]), bin_] += np.int32(1)
    row = 0
    for column in range(width):
        while row < starts.shape[0] and starts[row] <= column:
            mine[units[0][row], last] += width - starts[row]
            row += 1
        theirs[units[1][column], last] += row


@numba.njit(cache=True, nogil=True)
def add_units(
    units: NDArray[np.int64],
    firsts: Rows,
    bits: NDArray[np.uint8],
    which: Rows,
    halves: NDArray[np.float64],
) -> None:
    """Sum the negatives of the units of each class in ``which`` into its halves.

    ``units`` (U, T + 1). ``firsts`` (G + 1,): first unit of each class. ``bits`` (U,): half of
    each unit in each split. ``halves`` (G, S, 2, 2, T + 1) as in ``ClassCounts``.
    """
    for group in which:
        for unit in range(firsts[group], firsts[group + 1]):
            for split in range(halves.shape[1]):
                into = halves[group, split, (bits[unit] >> split) & 1, NEGATIVE]
                for bin_ in range(into.shape[0]):
                    into[bin_] += units[unit, bin_]


@numba.njit(cache=True, nogil=True)
def count_queries(
    found: Found,
    queries: tuple[Rows, Rows, Rows],
    items: tuple[Rows, Rows],
    reached: tuple[NDArray[np.bool_], Rows],
    out: NDArray[np.int64],
) -> None:
    """Add pairs ``found`` of queries (r) and items (c), but for a query's own item, to ``out``.

    ``queries``: row of ``out``, label code and own row in the gallery (or -1) of each query.
    ``items``: row in the gallery and label code of each. ``reached``: pairs (r, c) that count in
    their own bin, and (r,) the first in which the others do; empty where all count in their own.
    ``out`` (I, 2, T + 1): bins within the grid are added to.
    """
    (rows, columns, bins), (index, codes, own), (places, labels) = found, queries, items
    (proposed, others_from), last = reached, out.shape[2] - 1
    every = proposed.shape[0] == 0
    for place in range(rows.shape[0]):
        r, c = rows[place], columns[place]
        bin_ = np.int64(bins[place])
        if not every and not proposed[r, c]:
            bin_ = max(bin_, others_from[r])
        if own[r] != places[c] and bin_ < last:
            out[index[r], np.int64(codes[r] == labels[c]), bin_] += 1
