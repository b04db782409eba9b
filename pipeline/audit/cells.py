"""Decisions as cells: the rows that the very same sets hold, counted.

A row is anything that is decided and can be labelled once: a pair of items, a prediction. A set
is what one decider accepts: a release, a member of an ensemble, their vote, a customer's pairs
at a threshold. Whatever the sets, rows of one cell are alike to all of them, so a label there
serves every set that holds the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORD = 63
"""Sets that one int64 code holds."""

Codes = NDArray[np.int64]


class AuditError(ValueError):
    """Decisions, labels or a plan that cannot be used; the message is one line."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The occupied cells of J sets, in the order of their codes."""

    sets: tuple[str, ...]
    """(J,) names."""
    member: NDArray[np.bool_]
    """(B, J) which sets hold a cell; every cell lies in one at least."""
    size: NDArray[np.int64]
    """(B,) rows of each cell."""
    score: NDArray[np.float64]
    """(B,) sum of the rows' scores, P(match) before any label; NaN without scores."""

    def set_sizes(self) -> NDArray[np.int64]:
        """(J,) rows of each set."""
        return np.asarray(self.size @ self.member)

    def index(self, name: str) -> int:
        """Place of a set among ``sets``. ``AuditError`` where there is no such set."""
        if name not in self.sets:
            raise AuditError(f"unknown set {name!r}; known sets: {', '.join(self.sets)}")
        return self.sets.index(name)


def codes_of(columns: Sequence[NDArray[np.bool_]]) -> Codes:
    """(m,) one whole number for each pattern of the J ``columns`` (m,), at most 63 of them."""
    if not 0 < len(columns) <= WORD:
        raise AuditError(f"expected 1 to {WORD} columns of decisions, got {len(columns)}")
    codes = np.zeros(len(columns[0]), np.int64)
    for place, column in enumerate(columns):
        if column.shape != codes.shape:
            raise AuditError(f"decisions of unequal length: {len(codes)} and {len(column)} rows")
        codes |= column.astype(np.int64) << place
    return codes


def patterns_of(codes: Codes, count: int) -> NDArray[np.bool_]:
    """(B, J) the patterns behind ``codes`` (B,) of ``count`` columns."""
    return np.asarray((codes[:, None] >> np.arange(count)) & 1 == 1)


class CellCounter:
    """Cells of rows that come in parts: memory is that of the occupied cells."""

    def __init__(self) -> None:
        """No rows yet."""
        self._rows: dict[int, int] = {}
        self._scores: dict[int, float] = {}

    def add(self, codes: Codes, scores: NDArray[np.float64] | None = None) -> None:
        """Count rows by their ``codes`` (m,), with P(match) of each if ``scores`` (m,) know it."""
        found, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
        sums = np.full(found.size, np.nan)
        if scores is not None:
            sums = np.bincount(inverse, scores, found.size)
        for code, count, total in zip(found.tolist(), counts.tolist(), sums.tolist(), strict=True):
            self._rows[code] = self._rows.get(code, 0) + count
            self._scores[code] = self._scores.get(code, 0.0) + total

    def counted(self) -> tuple[Codes, NDArray[np.int64], NDArray[np.float64]]:
        """Codes (B,) in ascending order, rows and sums of scores of each."""
        codes = np.array(sorted(self._rows), np.int64)
        rows = np.array([self._rows[code] for code in codes.tolist()], np.int64)
        scores = np.array([self._scores[code] for code in codes.tolist()], float)
        return codes, rows, scores


def cells_of(
    sets: Sequence[str],
    columns: Sequence[NDArray[np.bool_]],
    scores: NDArray[np.float64] | None = None,
) -> tuple[Cells, NDArray[np.int64]]:
    """The cells of J sets given as boolean ``columns`` (m,), and the cell (m,) of each row.

    -1: a row that no set holds. ``AuditError`` for columns of unequal length, a set without rows,
    two sets of one name.
    """
    codes = codes_of(columns)
    counter = CellCounter()
    inside = codes != 0
    counter.add(codes[inside], None if scores is None else scores[inside])
    found, rows, sums = counter.counted()
    cells = Cells(tuple(sets), patterns_of(found, len(columns)), rows, sums)
    require_sets(cells)
    place = np.searchsorted(found, codes)
    return cells, np.where(inside, place, -1)


def require_sets(cells: Cells) -> None:
    """``AuditError`` for a set without rows, or two sets of one name."""
    if len(set(cells.sets)) != len(cells.sets):
        twice = next(name for name in cells.sets if cells.sets.count(name) > 1)
        raise AuditError(f"two sets are called {twice!r}; each needs a name of its own")
    empty = [name for name, rows in zip(cells.sets, cells.set_sizes(), strict=True) if rows == 0]
    if empty:
        raise AuditError(f"set {empty[0]!r} holds no row: nothing can be estimated of it; "
                         "leave it out")
