"""From float32 inner products to distance bins, exactly as the deciding distance would.

A float32 product is fast and a little wrong; only its *bin* is wanted. Most products lie further
from every edge than their largest possible error (``distance.error_of_products``), so that their
bin is certain: one look into a table tells. Of the others the sum is taken again in float64, in
any order, and of the few that are still too near an edge, in index order: the deciding distance
itself. So every bin is that of ``grid.bin_of(distance.deciding(...))``, ties included.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.counting.operating import Grid
from pipeline.distance import Vectors, error_of_products, least_sums

_CELLS_AN_EDGE = 128
_MOST_CELLS = 1 << 18
_BEYOND = 1.1  # no product of unit vectors comes near
_SLACK = 0.05  # of a cell; the kernel's own arithmetic is off by less than 2^-5 of one


class Ruler(NamedTuple):
    """What the kernels need to know of a grid and of the vectors; similarities, falling."""

    cuts: NDArray[np.float64]
    """(T,) least sum of products within each edge."""
    table: NDArray[np.int16 | np.int32]
    """(C,) for each cell below ``top``: its bin, or -1 - (the first possible) if unsure."""
    top: np.float32
    """Where the first cell begins; products above belong to it."""
    limit: np.float32
    """Products below this lie beyond the last edge."""
    step: np.float32
    """Cells of the table in one unit of similarity."""
    error: float
    """Most that a float32 product is off."""
    fine_error: float
    """Most that a float64 sum in any order is off the one in index order."""


def ruler_of(grid: Grid, vectors: Vectors, others: Vectors | None = None) -> Ruler:
    """The ruler for products of ``vectors`` (n, d) with ``others`` (m, d), or with each other.

    Raises ``ValueError`` for dimensions that differ, and rows that are no unit vectors.
    """
    others = vectors if others is None else others
    if vectors.shape[1] != others.shape[1]:
        raise ValueError(
            f"vectors of {vectors.shape[1]} and {others.shape[1]} dimensions have no distance"
        )
    cuts, error = least_sums(grid.edges), error_of_products(vectors, others)
    if not error <= vectors.shape[1] * 2.0**-23:
        raise ValueError("vectors: expected unit rows, which distance.unit(vectors) makes")
    low = np.nextafter(np.float32(np.clip(cuts[-1] - error, -_BEYOND, _BEYOND)), np.float32(-2))
    span = max(float(np.clip(cuts[0], -_BEYOND, _BEYOND)) + 2 * error - float(low), 1e-6)
    cells = min(1 << int(_CELLS_AN_EDGE * cuts.size).bit_length(), _MOST_CELLS)
    step = np.float32(cells / span)
    # Two cells above the first edge: what is nearer than all edges lies in a cell that is sure.
    top = np.float32(float(low) + span + 2 / float(step))
    corners = float(top) - np.arange(cells + 6) / float(step)
    slack = error + _SLACK / float(step)
    # Bins run with falling similarity: the number of cuts above it.
    first = np.searchsorted(-cuts, -(corners[:-1] + slack), side="left")
    last = np.searchsorted(-cuts, -(corners[1:] - slack), side="right")
    table: NDArray[np.int16 | np.int32] = np.where(first == last, first, -1 - first).astype(
        np.int16 if cuts.size < 1 << 15 else np.int32  # small, to stay in the cache
    )
    # Both sums are off the exact one by at most g |a| |b|, with u = 2^-53 instead of 2^-24.
    return Ruler(cuts, table, top, low, step, error, 2 * error * 2.0**-29)
