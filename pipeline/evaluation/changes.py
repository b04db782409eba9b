"""What changes from one release to the next, for one customer or for all, with intervals.

Every interval is paired and has the identity, not the pair, as its unit: shares of flips by
``clustered_rate``; changes of FAR and FRR by a jackknife over buckets of identities that leaves
out every pair with *either* end in the bucket, since a negative pair shares both its identities
with other pairs. Formulas: docs/methods.md section 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.counting.operating import NEGATIVE, POSITIVE
from pipeline.evaluation.flips import UNKNOWN_KIND, Flips
from pipeline.statistics.intervals import (
    TAIL,
    Interval,
    clustered_rate,
    jackknife_deviations,
    student,
)

_WORSE = {NEGATIVE: (0, 1), POSITIVE: (1, 0)}
"""Kind: the flip that makes an error, as accepted by the first and by the second release."""


@dataclass(frozen=True, slots=True)
class Change:
    """FAR or FRR of the second release minus that of the first, on the same pairs."""

    before: float
    """Rate of the first release, in [0, 1]; NaN where there is no pair of the kind."""
    after: float
    """Rate of the second."""
    variance: float
    """Of the difference."""
    degrees: int
    """Of freedom in ``variance``: buckets of identities less 1, fewer where few make it up."""
    largest: float
    """Greatest weight that the pairs of one identity's queries have in the rate, in (0, 1]."""
    flips: int
    """Pairs of the kind that flip."""

    def interval(self, among: int = 1) -> Interval:
        """``after - before`` at 95 %: this change alone, or ``among`` such together (Bonferroni).

        Where no pair flips, the rule of three on effective identities (1 / ``largest``) bounds
        what was not seen. Unknown where the pairs lie in fewer than two buckets.
        """
        value, tail = self.after - self.before, TAIL / max(1, among)
        if math.isnan(value) or self.flips:
            found = student(value, self.variance, self.degrees, tail)
            if math.isnan(found.lower):
                return found
            return Interval(value, max(-1.0, found.lower), min(1.0, found.upper))
        slack = min(1.0, -math.log(2.0 * tail) * self.largest)
        return Interval(0.0, -slack, slack)


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """A share of pairs, with the identity as its unit."""

    flips: NDArray[np.float64]
    """(I,) pairs of each identity's queries that are meant."""
    pairs: NDArray[np.float64]
    """(I,) pairs that they are a share of."""

    def interval(self, among: int = 1) -> Interval:
        """At 95 %: this share alone, or ``among`` such together (Bonferroni)."""
        tail = TAIL / max(1, among)
        return clustered_rate(self.flips, self.pairs, both_ends=True, tail=tail)


@dataclass(frozen=True, slots=True)
class Difference:
    """Decisions of two releases on the pairs of one customer, or of all."""

    name: str
    decisions: int
    """Pairs decided."""
    matches: tuple[int, int]
    """Pairs that the first release accepts, and the second."""
    lost: int
    """Flips from accept to reject."""
    gained: int
    """Flips from reject to accept."""
    right: int
    """Labelled flips on which the second release is correct."""
    wrong: int
    """Labelled flips on which the first one was."""
    decision_share: Share
    """Share of all decisions that flip."""
    flip_share: Share
    """Share of the pairs that either accepts that flip: 0 the same matches, 1 none in common."""
    lost_share: Share
    """Share of the first release's matches that are lost."""
    wrong_share: Share
    """Share of the labelled pairs that either accepts on which only the second is wrong."""
    far: Change
    """Over several customers: of the mean of their FARs."""
    frr: Change
    """Over several customers: of the mean of their FRRs."""

    @property
    def flips(self) -> int:
        """Decisions that flip, either way."""
        return self.lost + self.gained


def difference(name: str, flips: Flips, places: NDArray[np.int64]) -> Difference:
    """What changes for the customers at ``places``, together, under this ``name``."""
    mine = np.isin(flips.customer, places)
    # One identity may ask in several customers: its pairs fall together.
    names, unit = np.unique(flips.identities[mine].astype(np.str_), return_inverse=True)
    pairs = np.zeros((names.size, 3, 2, 2))
    np.add.at(pairs, unit, flips.pairs[mine])
    labelled, both = pairs[:, :UNKNOWN_KIND], pairs.sum(axis=1)
    lost, gained = both[:, 1, 0], both[:, 0, 1]
    wrong = sum(labelled[:, kind, *cell] for kind, cell in _WORSE.items())
    right = sum(labelled[:, kind, *cell[::-1]] for kind, cell in _WORSE.items())
    either = both[:, 1, 1] + lost + gained
    either_labelled = labelled.sum(axis=(1, 2, 3)) - labelled[:, :, 0, 0].sum(axis=1)
    return Difference(
        name=name,
        decisions=int(both.sum()),
        matches=(int(both[:, 1].sum()), int(both[:, :, 1].sum())),
        lost=int(lost.sum()),
        gained=int(gained.sum()),
        right=int(np.sum(right)),
        wrong=int(np.sum(wrong)),
        decision_share=Share(lost + gained, both.sum(axis=(1, 2))),
        flip_share=Share(lost + gained, either),
        lost_share=Share(lost, both[:, 1].sum(axis=1)),
        wrong_share=Share(np.asarray(wrong), either_labelled),
        far=_change(flips, places, NEGATIVE),
        frr=_change(flips, places, POSITIVE),
    )


def _change(flips: Flips, places: NDArray[np.int64], kind: int) -> Change:
    """The change of one kind's error rate, the mean over the customers that have such pairs."""
    touched = flips.touched[places, :, kind]
    total = np.stack([flips.pairs[flips.customer == place, kind].sum(axis=0) for place in places])
    occupied = touched.sum(axis=(0, 2, 3)) > 0

    def change(kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        # At most one bucket is left out: a pair between two of them would be taken off twice.
        rates = _error_rates(total - touched[:, ~kept].sum(axis=1), kind)
        return np.asarray(rates[1] - rates[0])

    deviations = jackknife_deviations(change, occupied)
    before, after = _error_rates(total, kind)
    return Change(
        before=float(before),
        after=float(after),
        variance=float(np.square(deviations).sum()),
        degrees=_degrees(deviations),
        largest=_largest_weight(flips, places, kind),
        flips=int(total[:, 0, 1].sum() + total[:, 1, 0].sum()),
    )


def _largest_weight(flips: Flips, places: NDArray[np.int64], kind: int) -> float:
    """Greatest share of one identity in the mean over customers; twice that for both its ends."""
    mine = np.isin(flips.customer, places)
    trials, customer = flips.pairs[mine, kind].sum(axis=(1, 2)), flips.customer[mine]
    totals = np.bincount(customer, trials, minlength=len(flips.customers))
    known = trials > 0
    if not known.any():
        return math.nan
    _, unit = np.unique(flips.identities[mine][known].astype(np.str_), return_inverse=True)
    weights = np.bincount(unit, trials[known] / totals[customer[known]]) / (totals > 0).sum()
    return min(1.0, float(weights.max()) * (2.0 if kind == NEGATIVE else 1.0))


def _degrees(deviations: NDArray[np.float64]) -> int:
    """Degrees of freedom of the sum of squares of ``deviations`` (m,), at most m - 1.

    By the kurtosis, as Satterthwaite's: flips are rare, and a few buckets can hold them all.
    """
    squares = np.square(deviations)
    if not squares.sum() > 0:  # NaN included
        return deviations.size - 1
    kurtosis = deviations.size * float(np.square(squares).sum()) / float(squares.sum()) ** 2
    freedom = 2.0 * deviations.size / (kurtosis - 1.0) if kurtosis > 1 else math.inf
    return int(min(max(freedom, 1.0), deviations.size - 1))


def _error_rates(cells: NDArray[np.float64], kind: int) -> NDArray[np.float64]:
    """(2,) mean over customers (g, 2, 2) of the error rate of the first and second release."""
    trials = cells.sum(axis=(1, 2))
    accepted = np.stack([cells[:, 1].sum(axis=1), cells[:, :, 1].sum(axis=1)])
    wrong = accepted if kind == NEGATIVE else trials - accepted
    known = trials > 0
    if not known.any():
        return np.full(2, np.nan)
    return np.asarray((wrong[:, known] / trials[known]).mean(axis=1))
