"""What an audit estimates: shares that are linear in the true matches of the cells.

A target is ``constant + sum_b weight_b * t_b``, ``t_b`` the share of cell b's rows that are true
matches. A row's label counts for every target whose weight on its cell is not 0: where two
releases agree, their difference needs no label at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.cells import AuditError, Cells


@dataclass(frozen=True, eq=False)
class Target:
    """One number to estimate."""

    name: str
    criterion: str
    """precision, false_accept_share, recall or difference."""
    weight: NDArray[np.float64]
    """(B,) what the whole of a cell being true matches adds to the number."""
    constant: float
    rows: int
    """Rows whose labels it needs, taken one by one: those of the cells with a weight."""

    @property
    def is_share(self) -> bool:
        """Whether it lies in [0, 1]; a difference lies in [-1, 1]."""
        return self.criterion != "difference"


@dataclass(frozen=True)
class Question:
    """A target by name, before any cell is counted: the form in which a plan is kept."""

    criterion: str
    """precision, false_accept_share, recall or difference."""
    sets: tuple[str, ...]
    """One set; of recall the set and its near misses; of difference the two sets."""

    def __post_init__(self) -> None:
        """``AuditError`` for an unknown criterion, or too few or too many sets for it."""
        wanted = {"precision": 1, "false_accept_share": 1, "recall": 2, "difference": 2}
        if self.criterion not in wanted:
            raise AuditError(f"unknown criterion {self.criterion!r}; known: {', '.join(wanted)}")
        if len(self.sets) != wanted[self.criterion]:
            raise AuditError(f"{self.criterion}: expected {wanted[self.criterion]} set(s), got "
                             f"{len(self.sets)}")


def target_of(question: Question, cells: Cells, shares: NDArray[np.float64]) -> Target:
    """The target that answers ``question``; ``shares`` (B,) as ``recall`` needs them."""
    first, last = question.sets[0], question.sets[-1]
    if question.criterion == "recall":
        return recall(cells, first, last, shares)
    if question.criterion == "difference":
        return difference(cells, first, last)
    if question.criterion == "precision":
        return precision(cells, first)
    return false_accept_share(cells, first)


def precision(cells: Cells, name: str) -> Target:
    """Share of a set's rows that are true matches."""
    inside = cells.member[:, cells.index(name)]
    rows = int(cells.size[inside].sum())
    return Target(name, "precision", np.where(inside, cells.size / rows, 0.0), 0.0, rows)


def false_accept_share(cells: Cells, name: str) -> Target:
    """Share of a set's rows that are no true matches: 1 minus the precision."""
    right = precision(cells, name)
    return Target(name, "false_accept_share", -right.weight, 1.0, right.rows)


def recall(cells: Cells, name: str, near_miss: str, shares: NDArray[np.float64]) -> Target:
    """Share of the true matches in a set and its near misses together that lie in the set.

    ``near_miss`` is the set of rows that it rejects in a band below its threshold: without labels
    there, no recall can be known. A ratio: taken linear at the true-match ``shares`` (B,) that
    the cells are believed to have, before the labels for a plan and after them for an estimate.
    """
    accepted = cells.member[:, cells.index(name)]
    missed = cells.member[:, cells.index(near_miss)]
    if (accepted & missed).any():
        raise AuditError(f"near misses {near_miss!r} and set {name!r} share rows; near misses are "
                         "rows that the set rejects")
    true = cells.size * shares
    found, all_of_them = float(true[accepted].sum()), float(true[accepted | missed].sum())
    if all_of_them == 0:
        raise AuditError(f"recall of {name!r}: no true match among its rows and near misses")
    value = found / all_of_them
    weight = cells.size * (accepted * (1 - value) - missed * value) / all_of_them
    rows = int(cells.size[accepted | missed].sum())
    return Target(name, "recall", weight, value - float(weight @ shares), rows)


def difference(cells: Cells, first: str, second: str) -> Target:
    """Right decisions of ``first`` minus those of ``second``, over the rows that either accepts.

    Only rows on which the two disagree bear a weight: there one of them is right, so the labels
    of the flips are enough.
    """
    a, b = (cells.member[:, cells.index(name)] for name in (first, second))
    either = int(cells.size[a | b].sum())
    sign = a.astype(float) - b.astype(float)
    flips = int(cells.size[a != b].sum())
    share = cells.size * sign / either
    return Target(f"{first} - {second}", "difference", 2 * share, -float(share.sum()), flips)
