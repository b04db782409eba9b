"""How far one customer lies from the others, and how far it has moved since calibration.

Every function takes ``OperatingCounts`` and the ``thresholds`` (K,) float32 of the calibration
range, which must be edges of the counts' grid. ``tail``: probability on either side of an
interval; the default is for one look (``intervals.sequence_tail`` for a monitor).
Formulas: docs/methods.md sections 1 and 6.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.consistency.curves import BucketCurves, Thresholds, mean_over_splits
from pipeline.counting.operating import Curve, OperatingCounts
from pipeline.statistics.intervals import (
    TAIL,
    Interval,
    jackknife_deviations,
    jackknife_variance,
    student,
)
from pipeline.statistics.squares import squared_norm


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
    values = mean_over_splits((first - reference) * (second - reference))
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
    values = mean_over_splits((now_a - then_a) * (now_b - then_b))
    noise = [jackknife_deviations(side.curve, side.occupied) for side in (here, there)]
    moved = here.curve() - there.curve()
    now_noise, then_noise = (np.square(side).sum(axis=(0, 2)) for side in noise)
    degrees = _degrees(now_noise, then_noise, here, there)
    return squared_norm(values, moved, np.concatenate(noise), degrees, tail)


def utility_change(
    now: OperatingCounts, calibration: OperatingCounts, threshold: np.float32,
    *, tail: float = TAIL,
) -> tuple[Interval, ...]:  # fmt: skip
    """Per group of ``now``: utility now minus at calibration, at the served threshold."""
    at = np.asarray([threshold], np.float32)
    here = BucketCurves(now, at)
    there = BucketCurves(calibration.select(now.groups), at)
    change = here.curve()[:, 0] - there.curve()[:, 0]
    now_variance = jackknife_variance(lambda kept: here.curve(kept)[:, 0], here.occupied)
    then_variance = jackknife_variance(lambda kept: there.curve(kept)[:, 0], there.occupied)
    degrees = _degrees(now_variance, then_variance, here, there)
    return tuple(
        student(float(value), float(spread), float(freedom), tail)
        for value, spread, freedom in zip(
            change, now_variance + then_variance, degrees, strict=True
        )
    )


def _degrees(
    now: NDArray[np.float64], then: NDArray[np.float64], here: BucketCurves, there: BucketCurves
) -> NDArray[np.float64]:
    """(G,) degrees of freedom of the sum of two variances (G,), Welch and Satterthwaite's.

    The side with fewer buckets decides where it is also the noisier one; 0 where a side with
    noise, or both, have a single bucket.
    """
    total, lost = now + then, np.zeros(now.size)
    for variance, side in ((now, here), (then, there)):
        own = np.maximum(side.evidence - 1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            lost += np.where(variance > 0, np.square(variance) / own, 0.0)
    most = np.minimum(here.evidence, there.evidence) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(lost > 0, np.square(total) / lost, most)
