"""Utility curves of groups, whole and by independent halves, at the given thresholds.

``Curves`` is what corrected values are made from: the curve of each group from all of its pairs,
and from either half of fixed random splits of the units that carry its noise. Those are buckets
of identities for customers (``BucketCurves``) and items for classes (``ClassCurves``).

The ``thresholds`` (K,) float32 must be edges of the counts' grid. docs/methods.md section 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.counting.classes import SPLITS, ClassCounts
from pipeline.counting.operating import BUCKETS, NEGATIVE, POSITIVE, Curve, OperatingCounts, utility

Thresholds = NDArray[np.float32]
Kept = NDArray[np.bool_]

MIN_EVIDENCE = 4
"""Least units (buckets with a positive pair, items of a class) for a corrected value."""

_SPLITS = 32
_BATCH = 1 << 21
"""Rates of splits held at a time, unless those of one split are more."""


def _fixed_splits() -> NDArray[np.bool_]:
    """(32, 32) random halves of the buckets, the same for ever: gauges must be reproducible."""
    generator = np.random.default_rng(20230704)
    half = np.arange(BUCKETS) < BUCKETS // 2
    return np.stack([generator.permutation(half) for _ in range(_SPLITS)])


HALVES = _fixed_splits()
ALL = np.ones(BUCKETS, np.bool_)


class Curves(ABC):
    """Rates and utility of G groups at K thresholds."""

    groups: tuple[str, ...]
    c: float

    @property
    @abstractmethod
    def evidence(self) -> NDArray[np.int64]:
        """(G,) units of each group that carry noise: a corrected value needs 4 or more."""

    @abstractmethod
    def rates(self) -> Curve:
        """(G, 2, K) shares of the negative and positive pairs accepted; NaN without any."""

    @abstractmethod
    def split_rates(self) -> Iterator[tuple[Curve, Curve]]:
        """For every split, the rates (G, 2, K) from either half."""

    def utility(self, rates: Curve) -> Curve:
        """(..., K) utility of ``rates`` (..., 2, K); NaN where either is unknown."""
        return utility(rates[..., POSITIVE, :], 1.0 - rates[..., NEGATIVE, :], self.c)

    def curve(self) -> Curve:
        """(G, K) utility from all pairs; NaN without positives or negatives."""
        return self.utility(self.rates())

    def splits(self) -> Iterator[tuple[Curve, Curve]]:
        """For every split, utility (G, K) in either half."""
        for first, second in self.split_rates():
            yield self.utility(first), self.utility(second)

    def halves(self) -> tuple[Curve, Curve]:
        """Two (S, G, K) arrays: utility in each half of every split."""
        firsts, seconds = zip(*self.splits(), strict=True)
        return np.stack(firsts), np.stack(seconds)


class BucketCurves(Curves):
    """Curves of customers, from any selection of the buckets of identities."""

    def __init__(self, counts: OperatingCounts, thresholds: Thresholds, c: float = 1.0) -> None:
        """Cumulate ``counts`` once; ``thresholds`` must be edges of its grid."""
        positions = counts.grid.position(thresholds)
        self.groups = counts.groups
        self.c = c
        self._shape = (len(counts.groups), 2, positions.size)
        accepted = counts.pairs[..., :-1].cumsum(axis=3)[..., positions]
        self._accepted = accepted.swapaxes(0, 1).reshape(BUCKETS, math.prod(self._shape))
        totals = counts.pairs.sum(axis=3)
        self._totals = totals.swapaxes(0, 1).reshape(BUCKETS, 2 * len(counts.groups))

    @property
    def occupied(self) -> Kept:
        """(32,) buckets that hold any pair."""
        return np.asarray(self._totals.sum(axis=1) > 0)

    @property
    def evidence(self) -> NDArray[np.int64]:
        """(G,) buckets of each group that hold a positive pair."""
        return np.asarray((self._totals[:, POSITIVE::2] > 0).sum(axis=0))

    def rates(self, kept: Kept = ALL) -> Curve:
        """(G, 2, K) shares of the negative and positive pairs of the ``kept`` buckets."""
        return np.asarray(self._rates(kept[None])[0])

    def curve(self, kept: Kept = ALL) -> Curve:
        """(G, K) utility from the ``kept`` buckets; NaN without positives or negatives."""
        return self.utility(self.rates(kept))

    def split_rates(self, kept: Kept = ALL) -> Iterator[tuple[Curve, Curve]]:
        """For every fixed split, the rates (G, 2, K) from either half of the ``kept`` buckets."""
        for first, second in self._batches(kept):
            yield from zip(first, second, strict=True)

    def splits(self, kept: Kept = ALL) -> Iterator[tuple[Curve, Curve]]:
        """For every fixed split, utility (G, K) in either half of the ``kept`` buckets."""
        for first, second in self._batches(kept):
            yield from zip(self.utility(first), self.utility(second), strict=True)

    def _batches(self, kept: Kept) -> Iterator[tuple[Curve, Curve]]:
        """Rates (S, G, 2, K) of as many splits at a time as take little memory."""
        pieces = math.ceil(_SPLITS * self._accepted.shape[1] / _BATCH)
        for some in np.array_split(HALVES, min(max(pieces, 1), _SPLITS)):
            yield self._rates(some & kept), self._rates(~some & kept)

    def _rates(self, selections: Kept) -> Curve:
        """(S, G, 2, K) shares accepted of the pairs in each of the ``selections`` (S, 32)."""
        weights = selections.astype(np.float64)
        accepted = (weights @ self._accepted).reshape(len(selections), *self._shape)
        totals = (weights @ self._totals).reshape(len(selections), *self._shape[:2], 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(accepted / totals)


class ClassCurves(Curves):
    """Curves of classes, and of the fixed random halves of their items."""

    def __init__(self, counts: ClassCounts, thresholds: Thresholds, c: float = 1.0) -> None:
        """Read ``counts`` one split at a time; ``thresholds`` must be edges of its grid."""
        self.groups = counts.groups
        self.c = c
        self._positions = counts.grid.position(thresholds)
        self._counts = counts

    @property
    def evidence(self) -> NDArray[np.int64]:
        """(G,) items of each class."""
        return self._counts.items

    def rates(self) -> Curve:
        """(G, 2, K) shares of the negative and positive pairs accepted; NaN without any."""
        return self._rates(self._counts.whole)

    def split_rates(self) -> Iterator[tuple[Curve, Curve]]:
        """For every split, the rates (G, 2, K) from either half of each class's items."""
        for split in range(SPLITS):
            halves = self._rates(self._counts.halves[:, split])
            yield halves[:, 0], halves[:, 1]

    def _rates(self, pairs: NDArray[np.float64]) -> Curve:
        accepted = pairs.cumsum(axis=-1)[..., self._positions]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(accepted / pairs.sum(axis=-1, keepdims=True))


def curves_of(
    counts: OperatingCounts | ClassCounts, thresholds: Thresholds, c: float = 1.0
) -> BucketCurves | ClassCurves:
    """The curves of customers or of classes, whichever ``counts`` hold."""
    if isinstance(counts, ClassCounts):
        return ClassCurves(counts, thresholds, c)
    return BucketCurves(counts, thresholds, c)


def mean_over_splits(products: Curve) -> NDArray[np.float64]:
    """(G,) mean of ``products`` (S, G, K) over thresholds and the splits that know the group."""
    values = products.mean(axis=2)
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
