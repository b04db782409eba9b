"""Operating-point inconsistency: how far the customers' utility curves lie apart.

    OPIS = mean over thresholds and groups of (U_i(d) - Ubar(d))^2

Raw OPIS is inflated by sampling noise; the corrected value is the product of two independent
halves of the identities, averaged over fixed random splits. Zhang et al., ICLR 2024,
arXiv:2307.04047; correction, inconsistency and drift: docs/methods.md section 1.

Every function takes ``OperatingCounts`` and the ``thresholds`` (K,) float32 of the calibration
range, which must be edges of the counts' grid. ``tail``: probability on either side of an
interval; the default is for one look (``intervals.sequence_tail`` for a monitor).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.intervals import (
    TAIL,
    Interval,
    jackknife_deviations,
    jackknife_variance,
    squared_norm,
    student,
)
from pipeline.operating import BUCKETS, NEGATIVE, POSITIVE, Curve, OperatingCounts, utility

Thresholds = NDArray[np.float32]
Kept = NDArray[np.bool_]

MIN_BUCKETS = 4
"""Least buckets with a positive pair for a group to enter a corrected value."""

_SPLITS = 32


def _fixed_splits() -> NDArray[np.bool_]:
    """(32, 32) random halves of the buckets, the same for ever: gauges must be reproducible."""
    generator = np.random.default_rng(20230704)
    half = np.arange(BUCKETS) < BUCKETS // 2
    return np.stack([generator.permutation(half) for _ in range(_SPLITS)])


HALVES = _fixed_splits()
ALL = np.ones(BUCKETS, np.bool_)


@dataclass(frozen=True, slots=True)
class Opis:
    """OPIS over the groups, raw and corrected for sampling noise."""

    raw: float
    """Mean squared gap to the mean curve; at least 1 positive pair a group."""
    corrected: Interval
    """Split-half corrected; may be slightly negative where the truth is 0."""
    groups_raw: int
    """Groups in the raw value."""
    groups_corrected: int
    """Groups in the corrected value: those with positives in 4 buckets or more."""


class BucketCurves:
    """Utility curves of any selection of buckets, at the given thresholds."""

    def __init__(self, counts: OperatingCounts, thresholds: Thresholds, c: float = 1.0) -> None:
        """Cumulate ``counts`` once; ``thresholds`` must be edges of its grid."""
        positions = counts.grid.position(thresholds)
        self.groups = counts.groups
        self.c = c
        self._accepted = counts.pairs[..., :-1].cumsum(axis=3)[..., positions]
        self._totals = counts.pairs.sum(axis=3)

    @property
    def occupied(self) -> Kept:
        """(32,) buckets that hold any pair."""
        return np.asarray(self._totals.sum(axis=(0, 2)) > 0)

    @property
    def evidence(self) -> NDArray[np.int64]:
        """(G,) buckets of each group that hold a positive pair."""
        return np.asarray((self._totals[:, :, POSITIVE] > 0).sum(axis=1))

    def curve(self, kept: Kept = ALL) -> Curve:
        """(G, K) utility from the ``kept`` buckets; NaN without positives or negatives."""
        return np.asarray(self._utility(kept[None, :])[0])

    def halves(self, kept: Kept = ALL) -> tuple[Curve, Curve]:
        """Two (S, G, K) arrays: utility in each half of every fixed split."""
        return self._utility(HALVES & kept), self._utility(~HALVES & kept)

    def _utility(self, selections: Kept) -> Curve:
        weights = selections.astype(np.float64)
        accepted = np.einsum("sb,gbpk->sgpk", weights, self._accepted, optimize=True)
        totals = np.einsum("sb,gbp->sgp", weights, self._totals)[..., None]
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = accepted / totals
        return utility(rates[:, :, POSITIVE], 1.0 - rates[:, :, NEGATIVE], self.c)


def opis(
    counts: OperatingCounts, thresholds: Thresholds, *, c: float = 1.0, tail: float = TAIL
) -> Opis:
    """OPIS of the groups in ``counts``; NaN where fewer than two groups can be compared."""
    curves = BucketCurves(counts, thresholds, c)
    plain = curves.curve()
    seen = ~np.isnan(plain).any(axis=1)
    enough = curves.evidence >= MIN_BUCKETS
    gaps = plain[seen] - plain[seen].mean(axis=0) if seen.sum() > 1 else np.full((1, 1), np.nan)
    value = float(_corrected(curves, ALL, enough))
    variance = jackknife_variance(lambda kept: _corrected(curves, kept, enough), curves.occupied)
    interval = student(value, float(variance), int(curves.occupied.sum()) - 1, tail)
    raw = float(np.square(gaps).mean())
    return Opis(raw, interval, int(seen.sum()), int((enough & seen).sum()))


def opis_difference(
    ours: OperatingCounts, theirs: OperatingCounts, thresholds: tuple[Thresholds, Thresholds]
) -> Interval:
    """Corrected OPIS of ``ours`` minus that of ``theirs``, paired by bucket of identities.

    ``thresholds``: the calibration range of each, since two embeddings have different scales.
    """
    first, second = BucketCurves(ours, thresholds[0]), BucketCurves(theirs, thresholds[1])
    enough = (first.evidence >= MIN_BUCKETS, second.evidence >= MIN_BUCKETS)

    def difference(kept: Kept) -> NDArray[np.float64]:
        return _corrected(first, kept, enough[0]) - _corrected(second, kept, enough[1])

    occupied = first.occupied | second.occupied
    variance = jackknife_variance(difference, occupied)
    return student(float(difference(ALL)), float(variance), int(occupied.sum()) - 1)


def reference_curve(counts: OperatingCounts, thresholds: Thresholds) -> Curve:
    """(K,) mean utility over the groups that have one: ``U_ref`` of a release."""
    curves = BucketCurves(counts, thresholds).curve()
    known = curves[~np.isnan(curves).any(axis=1)]
    return known.mean(axis=0) if len(known) else np.full(thresholds.size, np.nan)


def inconsistency(
    counts: OperatingCounts, reference: Curve, thresholds: Thresholds, *, tail: float = TAIL
) -> tuple[Interval, ...]:
    """Per group, in order: corrected mean over the range of ``(U_c - U_ref)^2``."""
    curves = BucketCurves(counts, thresholds)

    first, second = curves.halves()
    values = _mean_over_splits((first - reference) * (second - reference))
    noise = jackknife_deviations(curves.curve, curves.occupied)
    return squared_norm(values, curves.curve() - reference, noise, curves.evidence - 1, tail)


def curve_shift(
    now: OperatingCounts, calibration: OperatingCounts, thresholds: Thresholds,
    *, tail: float = TAIL,
) -> tuple[Interval, ...]:  # fmt: skip
    """Per group of ``now``: ``mean_d (U_now^A - U_cal^A)(U_now^B - U_cal^B)``.

    Zero in mean without change, positive for any. NaN for a group unknown at calibration.
    """
    here = BucketCurves(now, thresholds)
    there = BucketCurves(calibration.select(now.groups), thresholds)
    (now_a, now_b), (then_a, then_b) = here.halves(), there.halves()
    values = _mean_over_splits((now_a - then_a) * (now_b - then_b))
    noise = [jackknife_deviations(side.curve, side.occupied) for side in (here, there)]
    moved = here.curve() - there.curve()
    return squared_norm(values, moved, np.concatenate(noise), here.evidence - 1, tail)


def utility_change(
    now: OperatingCounts, calibration: OperatingCounts, threshold: np.float32,
    *, tail: float = TAIL,
) -> tuple[Interval, ...]:  # fmt: skip
    """Per group of ``now``: utility now minus at calibration, at the served threshold."""
    at = np.asarray([threshold], np.float32)
    here = BucketCurves(now, at)
    there = BucketCurves(calibration.select(now.groups), at)
    change = here.curve()[:, 0] - there.curve()[:, 0]
    variance = jackknife_variance(lambda kept: here.curve(kept)[:, 0], here.occupied)
    variance = variance + jackknife_variance(lambda kept: there.curve(kept)[:, 0], there.occupied)
    return tuple(
        student(float(value), float(spread), int(buckets) - 1, tail)
        for value, spread, buckets in zip(change, variance, here.evidence, strict=True)
    )


def _corrected(curves: BucketCurves, kept: Kept, groups: Kept) -> NDArray[np.float64]:
    """Mean over groups of the split-half products; a group counts where both halves know it."""
    first, second = curves.halves(kept)
    known = ~(np.isnan(first) | np.isnan(second)).any(axis=2) & groups
    # A group alone in a split has no gap to a mean: a gap of 0 would be made up.
    known &= known.sum(axis=1, keepdims=True) > 1
    if not known.any():
        return np.asarray(np.nan)
    mask = known[:, :, None]
    gaps = []
    for half in (first, second):
        mean = np.where(mask, half, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)[:, None]
        gaps.append(half - mean[:, None, :])
    products = np.where(mask, gaps[0] * gaps[1], np.nan)
    per_group = _mean_over_splits(products)
    return np.asarray(per_group[~np.isnan(per_group)].mean())


def _mean_over_splits(products: Curve) -> NDArray[np.float64]:
    """(G,) mean over thresholds and over the splits in which the group is known."""
    values = products.mean(axis=2)
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
