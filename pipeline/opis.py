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

from pipeline.curves import ALL, BucketCurves, Kept, Thresholds, mean_over_splits
from pipeline.intervals import TAIL, Interval, jackknife_variance, student
from pipeline.operating import OperatingCounts

MIN_BUCKETS = 4
"""Least buckets with a positive pair for a group to enter a corrected value."""


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


def opis_of(
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
    per_group = mean_over_splits(products)
    return np.asarray(per_group[~np.isnan(per_group)].mean())
