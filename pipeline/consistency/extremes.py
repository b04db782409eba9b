"""The worst groups against the others, and how far FAR and FRR lie apart on their own.

The extremes of noisy curves are chosen by their noise (the winner's curse), so that a raw value
is too large even where all groups are alike. Corrected values choose on one half of the noisy
units and evaluate on the other; a square is the product of both directions, so that no noise is
squared. Without a difference they are 0 in mean; with one, ``best_worst`` and ``worst_rest`` are
too small rather than too large, since a half cannot tell the worst for certain.

Formulas, and which of them the sources leave open: docs/methods.md section 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.consistency.curves import MIN_EVIDENCE, Thresholds, curves_of
from pipeline.consistency.opis import split_products
from pipeline.counting.classes import ClassCounts
from pipeline.counting.operating import NEGATIVE, POSITIVE, Curve, OperatingCounts

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Corrected:
    """A value as measured, and without the share that is noise; NaN where unknown."""

    raw: float
    """At least 1 positive pair a group."""
    corrected: float
    """Split-half; at least 4 items a class, 4 buckets with a positive a customer. May lie below
    0 where the truth is 0."""


@dataclass(frozen=True, slots=True)
class EpsOpis:
    """The worst ``groups`` of all, chosen anew at each threshold, in three named forms."""

    best_worst: Corrected
    """Mean squared gap between the mean utility of the worst and that of as many best."""
    worst_rest: Corrected
    """Mean squared gap between the mean utility of the worst and that of all the rest."""
    opis_gap: Corrected
    """OPIS of the worst minus OPIS of the rest, each around its own mean; may be negative."""
    share: float
    """The worst are ``max(1, round(share T))`` of T groups."""
    groups: int
    """Number of the worst, among the groups of the raw values."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How far one rate lies apart between the groups; means over the thresholds."""

    gap: float
    """Highest minus lowest group."""
    variance: Corrected
    """Mean squared gap to the mean of the groups: what OPIS is for utility."""


def eps_opis(
    counts: OperatingCounts | ClassCounts,
    thresholds: Thresholds,
    *,
    share: float = 0.1,
    c: float = 1.0,
) -> EpsOpis:
    """The worst ``share`` of the groups against the others, over ``thresholds`` (K,).

    NaN where fewer than two groups can be compared. ``ValueError`` unless 0 < share <= 0.5.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"share: {share:g}; expected more than 0 and at most 0.5")
    curves = curves_of(counts, thresholds, c)
    whole = curves.curve()
    whole = whole[~np.isnan(whole).any(axis=1)]
    number = _number(len(whole), share)
    raw = _forms((whole, whole), number) if number else np.full(3, math.nan)
    found = []
    for first, second in curves.splits():
        known = ~(np.isnan(first) | np.isnan(second)).any(axis=1)
        known &= curves.evidence >= MIN_EVIDENCE
        if chosen := _number(int(known.sum()), share):
            found.append(_forms((first[known], second[known]), chosen))
    corrected = np.mean(found, axis=0) if found else np.full(3, math.nan)
    forms = [Corrected(*map(float, both)) for both in zip(raw, corrected, strict=True)]
    return EpsOpis(forms[0], forms[1], forms[2], share, number)


def rate_spreads(
    counts: OperatingCounts | ClassCounts, thresholds: Thresholds
) -> tuple[Spread, Spread]:
    """The spreads of FAR and of FRR between the groups, over ``thresholds`` (K,), 1 or more.

    Of FAR over the groups with negative pairs, of FRR over those with positive ones.
    """
    curves = curves_of(counts, thresholds)
    enough = curves.evidence >= MIN_EVIDENCE
    whole = curves.rates()

    def spread(kind: int) -> Spread:
        def halves() -> Iterator[tuple[Curve, Curve]]:
            for first, second in curves.split_rates():
                yield first[:, kind], second[:, kind]

        rates = whole[:, kind]
        rates = rates[~np.isnan(rates).any(axis=1)]
        products = split_products(halves(), enough)
        known = products[~np.isnan(products)]
        corrected = float(known.mean()) if known.size else math.nan
        if len(rates) < 2:
            return Spread(math.nan, Corrected(math.nan, corrected))
        gap = float((rates.max(axis=0) - rates.min(axis=0)).mean())
        return Spread(gap, Corrected(float(rates.var(axis=0).mean()), corrected))

    return spread(NEGATIVE), spread(POSITIVE)


def _number(groups: int, share: float) -> int:
    """How many are the worst; 0 where there is nothing to compare."""
    return max(1, round(share * groups)) if groups > 1 else 0


def _forms(halves: tuple[Curve, Curve], number: int) -> NDArray[np.float64]:
    """(3,) the three forms from two (G, K) curves, each evaluated on what the other chooses."""
    first, second = halves
    gaps, opis_gaps = [], []
    for chosen_on, evaluated in ((first, second), (second, first)):
        worst, best = _lowest(chosen_on, number), _lowest(-chosen_on, number)
        low, high = _mean(evaluated, worst), _mean(evaluated, best)
        gaps.append((high - low, _mean(evaluated, 1.0 - worst) - low))
        opis_gaps.append(_product(halves, worst) - _product(halves, 1.0 - worst))
    squares = [float((a * b).mean()) for a, b in zip(*gaps, strict=True)]
    return np.asarray([*squares, float(np.mean(opis_gaps))])


def _lowest(values: Curve, number: int) -> Weights:
    """(G, K) 1 for the ``number`` lowest of each column; what ties for the last place shares it.

    So that neither the order of the groups nor their names decide.
    """
    last = np.partition(values, number - 1, axis=0)[number - 1]
    below, tied = values < last, values == last
    return np.asarray(below + tied * ((number - below.sum(axis=0)) / tied.sum(axis=0)))


def _mean(values: Curve, weights: Weights) -> Curve:
    return np.asarray((weights * values).sum(axis=0) / weights.sum(axis=0))


def _product(halves: tuple[Curve, Curve], weights: Weights) -> Curve:
    """(K,) weighted mean product of the gaps of both halves to their own weighted means."""
    first, second = (half - _mean(half, weights) for half in halves)
    return _mean(first * second, weights)

