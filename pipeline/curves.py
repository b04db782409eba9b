"""Utility curves of any part of the counts: the whole, either half of a split, all but a bucket.

The ``thresholds`` (K,) float32 must be edges of the counts' grid. docs/methods.md section 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.operating import BUCKETS, NEGATIVE, POSITIVE, Curve, OperatingCounts, utility

Thresholds = NDArray[np.float32]
Kept = NDArray[np.bool_]

_SPLITS = 32


def _fixed_splits() -> NDArray[np.bool_]:
    """(32, 32) random halves of the buckets, the same for ever: gauges must be reproducible."""
    generator = np.random.default_rng(20230704)
    half = np.arange(BUCKETS) < BUCKETS // 2
    return np.stack([generator.permutation(half) for _ in range(_SPLITS)])


HALVES = _fixed_splits()
ALL = np.ones(BUCKETS, np.bool_)


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


def mean_over_splits(products: Curve) -> NDArray[np.float64]:
    """(G,) mean over thresholds and over the splits in which the group is known."""
    values = products.mean(axis=2)
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
