"""What the labels say of each target, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.cells import AuditError, Cells
from pipeline.audit.strata import Strata
from pipeline.audit.targets import Question, Target, precision, target_of
from pipeline.statistics.intervals import TAIL, UNKNOWN, Interval, student, wilson

Floats = NDArray[np.float64]

_PRIOR = 1.0  # labels' worth of the common scatter that every stratum's own is mixed with
_RARE = 3.0  # labels of the rarer kind for which the scatter seen counts as much as the common one
_SURE = 4.0  # degrees of freedom that each of them adds


@dataclass(frozen=True, eq=False)
class Labels:
    """n labelled rows."""

    cell: NDArray[np.int64]
    """(n,) the cell of each."""
    match: NDArray[np.bool_]
    """(n,) whether it is a true match."""
    inclusion: Floats
    """(n,) the probability with which it was drawn by any audit so far, in (0, 1]."""
    score: Floats | None = None
    """(n,) P(match) before the label, as in ``Cells.score``; None: not to be used."""


@dataclass(frozen=True)
class Estimate:
    """One target, estimated."""

    target: Target
    interval: Interval
    labels: int
    """Labels that bear on it."""
    leaned: float
    """How far the scores were leaned on, in [0, 1]; 0: not at all."""


def answers(
    cells: Cells,
    strata: Strata,
    questions: Sequence[Question],
    labels: Labels,
    undecided: NDArray[np.bool_],
    *,
    tail: float = TAIL,
) -> list[Estimate]:
    """``estimates`` of each question; ``undecided`` (n,) rows widen the intervals.

    A row of which nobody could tell is taken for a match and for none, whichever is further out.
    """
    found = []
    for question in questions:
        ends = []
        for match in (labels.match | undecided, labels.match & ~undecided):
            told = replace(labels, match=match)
            shares = _shares_of(cells, strata, question, told)
            target = target_of(question, cells, shares)
            ends.append(estimates(cells, strata, [target], told, tail=tail)[0])
        high, low = (end.interval for end in ends)
        value = (high.value + low.value) / 2
        hull = Interval(value, min(high.lower, low.lower), max(high.upper, low.upper))
        found.append(replace(ends[0], interval=hull))
    return found


def _shares_of(cells: Cells, strata: Strata, question: Question, labels: Labels) -> Floats:
    """(B,) true-match shares of the question's sets, each the same throughout its set."""
    shares = np.full(cells.size.size, 0.5)
    if question.criterion == "recall":
        for name in question.sets:
            found = estimates(cells, strata, [precision(cells, name)], labels)[0]
            shares[cells.member[:, cells.index(name)]] = found.interval.value
    return shares


def estimates(
    cells: Cells,
    strata: Strata,
    targets: Sequence[Target],
    labels: Labels,
    *,
    tail: float = TAIL,
) -> list[Estimate]:
    """Each target's estimate with a two-sided interval, ``tail`` on either side (95 %).

    Within a stratum rows count by the inverse of their inclusion probability (Hajek), which is
    the plain mean where one audit drew them all; over strata the sum is unbiased. Where labels
    have scores beside them, ``y - lam f`` is averaged instead and ``lam`` times the known sum of
    f added: Angelopoulos, Duchi and Zrnic, "PPI++", arXiv:2311.01453, lam in [0, 1] as the labels
    say is best. Unknown where a stratum that a target needs has no label.
    """
    if labels.cell.size == 0:
        raise AuditError("no labels: nothing to estimate from")
    if not ((labels.inclusion > 0) & (labels.inclusion <= 1)).all():
        raise AuditError("inclusion probabilities: expected above 0 and at most 1")
    return [_estimate(cells, strata, target, labels, tail) for target in targets]


def _estimate(
    cells: Cells, strata: Strata, target: Target, labels: Labels, tail: float
) -> Estimate:
    each = target.weight / cells.size
    stratum = strata.of_cell[labels.cell]
    touched = np.bincount(strata.of_cell, target.weight != 0, strata.size.size) > 0
    bears = touched[stratum]
    found = _Sample(strata.size, stratum[bears], 1 / labels.inclusion[bears])
    count = int(bears.sum())
    if (touched & (found.rows == 0)).any() or count == 0:
        return Estimate(target, UNKNOWN, count, 0.0)
    unit = each[labels.cell[bears]]
    matches = unit * labels.match[bears]
    value = target.constant
    lam = 0.0
    if labels.score is not None:
        scores = unit * labels.score[bears]
        lam = found.slope(matches, scores)
        matches = matches - lam * scores
        value += lam * float(each @ cells.score)
    value += float((strata.size * found.means(matches)).sum())
    match = labels.match[bears]
    prior = _common_scatter(cells, strata, target, _pooled(match, found.weight))
    rare = min(int(match.sum()), int((~match).sum()))
    parts, degrees = found.variances(matches, prior, rare)
    freedom = min(_freedom(parts, degrees), _SURE * (rare + 1.0))
    interval = _interval(target, value, (float(parts.sum()), freedom, count), tail)
    return Estimate(target, interval, count, lam)


class _Sample:
    """n labelled rows by stratum, with their weights."""

    def __init__(self, size: NDArray[np.int64], stratum: NDArray[np.int64], weight: Floats) -> None:
        self.size, self.stratum, self.weight = size, stratum, weight
        self.rows = np.bincount(stratum, minlength=size.size)
        self.weights = np.bincount(stratum, weight, size.size)

    def means(self, values: Floats) -> Floats:
        """(H,) weighted mean of ``values`` (n,) in each stratum; 0 without rows."""
        sums = np.bincount(self.stratum, self.weight * values, self.size.size)
        return np.divide(sums, self.weights, out=np.zeros(sums.size), where=self.weights > 0)

    def slope(self, matches: Floats, scores: Floats) -> float:
        """How much of the scores to take off, so that what is left scatters least."""
        gaps = scores - self.means(scores)[self.stratum]
        left = np.square(self.size / np.maximum(self.weights, 1))[self.stratum]
        left = left * np.square(self.weight) * (1 - 1 / self.weight)
        spread = float(left @ np.square(gaps))
        together = float(left @ (gaps * (matches - self.means(matches)[self.stratum])))
        return min(max(together / spread, 0.0), 1.0) if spread > 0 else 0.0

    def variances(self, values: Floats, prior: Floats, rare: int) -> tuple[Floats, Floats]:
        """(H,) variance that each stratum adds, and its degrees of freedom.

        Each stratum's own scatter is mixed with ``prior`` (H,), that of a share common to all
        strata: two labels that agree say little about the scatter of a stratum, and labels of
        which hardly one disagrees, ``rare`` in all, say little about that of any.
        """
        gaps = np.square(values - self.means(values)[self.stratum])
        left = np.square(self.weight) * (1 - 1 / self.weight)
        own = np.bincount(self.stratum, left * gaps, self.size.size)
        common = np.bincount(self.stratum, left, self.size.size) * prior
        with np.errstate(divide="ignore", invalid="ignore"):
            # Both as the variance of a mean of n rows whose scatter is known.
            own = (own + _PRIOR * common / self.rows) / (self.rows - 1 + _PRIOR) * self.rows
            mixed = (rare * own + _RARE * common) / (rare + _RARE)
            parts = np.square(self.size / self.weights) * mixed
        return np.where(self.rows > 0, parts, 0.0), np.maximum(self.rows - 1, 0) + _PRIOR


def _pooled(match: NDArray[np.bool_], weight: Floats) -> float:
    """Share of true matches among the labels; never 0 or 1, however many agree."""
    share = float(weight @ match / weight.sum())
    return (share * match.size + 0.5) / (match.size + 1)


def _common_scatter(cells: Cells, strata: Strata, target: Target, share: float) -> Floats:
    """(H,) variance of a row's contribution in each stratum, were all cells alike."""
    each = target.weight / cells.size
    first = np.bincount(strata.of_cell, cells.size * each, strata.size.size) / strata.size
    second = np.bincount(strata.of_cell, cells.size * np.square(each), strata.size.size)
    return np.asarray(second / strata.size * share - np.square(first * share))


def _freedom(parts: Floats, degrees: Floats) -> float:
    """Degrees of freedom of a sum of variances (Satterthwaite)."""
    spread = float((np.square(parts) / degrees).sum())
    return float(parts.sum()) ** 2 / spread if spread > 0 else np.inf


def _interval(
    target: Target, value: float, spread: tuple[float, float, int], tail: float
) -> Interval:
    """``spread``: variance, its degrees of freedom, labels."""
    variance, freedom, count = spread
    if variance <= 0:  # every row that bears on it is labelled
        return Interval(value, value, value)
    if not target.is_share:
        found = student(value, variance, max(freedom, 1.0), tail)
        return Interval(value, max(-1.0, found.lower), min(1.0, found.upper))
    share = min(max(value, 0.0), 1.0)
    # As many independent labels as scatter so; a share of 0 or 1 scatters like its neighbour.
    inner = min(max(share, 0.5 / (count + 1)), 1 - 0.5 / (count + 1))
    found = wilson(share, inner * (1 - inner) / variance, tail, max(freedom, 1.0))
    return Interval(share, found.lower, found.upper)
