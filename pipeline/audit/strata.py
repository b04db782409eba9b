"""Which cells are sampled apart, and how widely a target scatters within each stratum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.cells import Cells
from pipeline.audit.targets import Target

SMALLEST = 10
"""Rows below which a cell is no stratum of its own."""

_PAIRS = 1 << 23  # of cells and strata whose patterns are compared at a time


@dataclass(frozen=True, eq=False)
class Strata:
    """H strata, each one cell or several."""

    of_cell: NDArray[np.int64]
    """(B,) the stratum of each cell."""
    size: NDArray[np.int64]
    """(H,) rows of each stratum."""


def strata_of(cells: Cells, most: int) -> Strata:
    """The cells with the most rows as strata, ``most`` of them and none below 10 rows.

    Every other cell joins the stratum whose sets differ least from its own, the larger of two.
    One stratum there always is. Nested sets have one cell more than they are, whatever their
    number, so thresholds need no merging.
    """
    by_size = np.argsort(-cells.size, kind="stable")
    large = int((cells.size >= SMALLEST).sum())
    kept = by_size[: max(1, min(most, large))]
    of_cell = np.empty(cells.size.size, np.int64)
    patterns = cells.member[kept].astype(np.float32)
    block = max(1, _PAIRS // kept.size)
    for start in range(0, of_cell.size, block):
        some = cells.member[start : start + block].astype(np.float32)
        # Sets in which two patterns differ: |a| + |b| - 2 |a and b|; |a| is the same for all b.
        differing = patterns.sum(axis=1) - 2 * (some @ patterns.T)
        of_cell[start : start + block] = differing.argmin(axis=1)  # the first, so the largest
    of_cell[kept] = np.arange(kept.size)
    rows = np.bincount(of_cell, cells.size, kept.size).astype(np.int64)
    return Strata(of_cell, rows)


def scatter(
    cells: Cells, strata: Strata, targets: Sequence[Target], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(H, K) ``a``: a sample of n_h rows of each stratum has variance ``a (1/n_h - 1/N_h)``.

    ``shares`` (B,): how many of each cell's rows are believed to be true matches. A row counts
    ``weight / N_b`` where it is a true match; ``a`` is N_h^2 times the variance of that.
    """
    count = strata.size.size
    found = np.empty((count, len(targets)))
    for place, target in enumerate(targets):
        each = target.weight / cells.size
        first = np.bincount(strata.of_cell, cells.size * shares * each, count)
        second = np.bincount(strata.of_cell, cells.size * shares * np.square(each), count)
        found[:, place] = np.maximum(0.0, second * strata.size - np.square(first))
    return found
