"""Rows drawn for labels: of each stratum those with the smallest permanent random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.allocation import Allocation
from pipeline.audit.cells import AuditError

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_SPARE = 8.0  # standard deviations by which the first cut lies too high


@dataclass(frozen=True, eq=False)
class Drawn:
    """n rows to label, in the order in which to label them."""

    row: Rows
    """(n,) place in the table."""
    cell: Rows
    """(n,)"""
    number: Floats
    """(n,) permanent random number."""
    inclusion: Floats
    """(n,) the number below which a row of the stratum is drawn: its inclusion probability, given
    the numbers of all other rows. 1 where the whole stratum is."""


class Drawer:
    """Draws from rows that come in parts; memory is that of the rows drawn."""

    def __init__(self, allocation: Allocation, known: tuple[Floats, Floats] | None = None) -> None:
        """``allocation``: how many rows each stratum gives. ``known``: permanent numbers of rows
        that have a label already, and their inclusion probabilities."""
        self._allocation = allocation
        labels, size = allocation.labels, allocation.strata.size
        # One more than is drawn: its number is the inclusion probability of the others.
        spare = _SPARE * np.sqrt((labels + 1) * (1 - labels / size)) + _SPARE**2
        self._cut = np.where(labels > 0, np.minimum(1.0, (labels + 1 + spare) / size), 0.0)
        numbers, inclusion = known if known is not None else (np.zeros(0), np.zeros(0))
        order = np.argsort(numbers, kind="stable")
        self._numbers, self._inclusion = numbers[order], inclusion[order]
        self._near: list[tuple[Rows, Rows, Floats]] = []
        self._known: list[tuple[Rows, Rows, Floats]] = []

    def add(self, first: int, cell: Rows, number: Floats) -> None:
        """Rows ``first``, ``first + 1``, ...: their ``cell`` (m,), -1 for none, and ``number``."""
        stratum = np.where(cell < 0, -1, self._allocation.strata.of_cell[cell])
        near = np.flatnonzero((stratum >= 0) & (number < self._cut[stratum]))
        self._near.append((near + first, cell[near], number[near]))
        if self._numbers.size:
            place = np.minimum(np.searchsorted(self._numbers, number), self._numbers.size - 1)
            here = np.flatnonzero((stratum >= 0) & (self._numbers[place] == number))
            self._known.append((here + first, cell[here], number[here]))

    def known(self) -> Drawn:
        """The rows of known numbers that some set holds, with their inclusion probabilities."""
        if not self._known:
            return Drawn(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
        rows, cells, numbers = (np.concatenate(part) for part in zip(*self._known, strict=True))
        place = np.searchsorted(self._numbers, numbers)
        return Drawn(rows, cells, numbers, self._inclusion[place])

    def drawn(self) -> Drawn:
        """The rows drawn, of every stratum as many as it is to give."""
        rows, cells, numbers = (np.concatenate(part) for part in zip(*self._near, strict=True))
        strata, labels = self._allocation.strata, self._allocation.labels
        order = np.lexsort((rows, numbers, strata.of_cell[cells]))
        rows, cells, numbers = rows[order], cells[order], numbers[order]
        starts = np.searchsorted(strata.of_cell[cells], np.arange(labels.size + 1))
        kept, inclusion = [np.zeros(0, np.int64)], [np.zeros(0)]
        for place, count in enumerate(labels.tolist()):
            start, whole = starts[place], count >= strata.size[place]
            if not count:
                continue
            if starts[place + 1] - start < count + (not whole):
                raise AuditError("the table changed while it was read: plan again")
            kept.append(np.arange(start, start + count))
            inclusion.append(np.full(count, 1.0 if whole else numbers[start + count]))
        chosen, probability = np.concatenate(kept), np.concatenate(inclusion)
        # Each relative to its stratum's cut: however early one stops, all strata are as far on.
        turn = np.argsort(numbers[chosen] / probability, kind="stable")
        chosen, probability = chosen[turn], probability[turn]
        return Drawn(rows[chosen], cells[chosen], numbers[chosen], probability)
