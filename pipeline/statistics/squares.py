"""Intervals of a mean square, measured without bias as the product of two noisy halves.

Inconsistency, curve shift and OPIS are the mean square of a curve: what is measured may lie below
0, its law is skewed, and its variance depends on the truth. docs/methods.md section 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.statistics.intervals import TAIL, Interval


def squared_norm(
    values: NDArray[np.float64],
    curve: NDArray[np.float64],
    deviations: NDArray[np.float64],
    degrees: NDArray[np.int64] | NDArray[np.float64],
    tail: float = TAIL,
) -> tuple[Interval, ...]:
    """Intervals of the mean square over K of each noisy curve, from unbiased ``values`` (G,).

    ``curve`` (G, K) is the measured curve and ``deviations`` (m, G, K) its own jackknife
    deviations, whose outer products sum to its covariance C; ``degrees`` (G,) of freedom.
    The variance of the value depends on the true value x: ``4 k x + 2 tr(C^2)``, k the variance
    of the curve along itself. As Wilson does for a share, the interval holds every x from which
    the measured value is no further than the quantile: upwards that of a skewed law, since a sum
    of few squares is skewed, downwards the symmetric one, since k is itself measured. A jackknife
    of the value would count the noise of each half in full. Derived; docs/methods.md section 6.
    """
    points = curve.shape[-1]
    along = np.square(np.einsum("mgk,gk->mg", deviations, curve) / points).sum(axis=0)
    norm = np.square(curve).mean(axis=-1)
    slope = np.divide(along, norm, out=np.zeros_like(along), where=norm > 0)
    intervals = []
    for i, (value, k, df) in enumerate(zip(values, slope, degrees, strict=True)):
        gram = deviations[:, i] @ deviations[:, i].T / points
        if df < 1 or np.isnan(value + k + gram.sum()):
            intervals.append(Interval(float(value), math.nan, math.nan))
            continue
        noise = _Noise(float(k), *_traces(gram))
        quantile = float(stats.t.isf(tail, df))
        lower, upper = noise.lower(float(value), quantile), noise.upper(float(value), quantile)
        intervals.append(Interval(float(value), lower, upper))
    return tuple(intervals)


def _traces(gram: NDArray[np.float64]) -> tuple[float, float]:
    """``tr(C^2)`` and ``tr(C^3)`` of the covariance with this ``gram`` (m, m) of deviations.

    Products of a deviation with itself are left out: they grow with the rank of C (summed over
    100 customers they would make the standard deviation 2.7 times too large).
    """
    total = float(gram.trace())
    if total <= 0:
        return 0.0, 0.0
    # Deviations from their mean are a little opposed to each other, however independent.
    apart = gram + total / (len(gram) * max(len(gram) - 1, 1))
    np.fill_diagonal(apart, 0.0)
    left_out = float(np.square(gram.diagonal()).sum()) / total**2
    if left_out > 1 - 1e-9:
        return total**2, total**3
    second = float(np.square(apart).sum()) / (1 - left_out)
    third = float((apart @ apart @ apart).trace()) / (1 - left_out) ** 2
    return second, min(max(third, 0.0), second**1.5)


@dataclass(frozen=True, slots=True)
class _Noise:
    """Law of a measured mean square, given the true one."""

    k: float
    second: float
    third: float

    def _reach(self, true: float, quantile: float) -> float:
        """How far above ``true`` the value may lie: Wilson and Hilferty's skewed quantile."""
        variance = 4 * self.k * true + 2 * self.second
        if variance <= 0:
            return 0.0
        skewness = (8 * self.third + 24 * self.k**2 * true) / variance**1.5
        if skewness < 1e-6:
            return quantile * math.sqrt(variance)
        root = 1 + skewness * quantile / 6 - skewness**2 / 36
        return float(2 / skewness * (root**3 - 1) * math.sqrt(variance))

    def lower(self, value: float, quantile: float) -> float:
        """The least true value from which ``value`` is within reach; below 0, as if it were 0."""
        if value <= self._reach(0.0, quantile):
            return value - self._reach(0.0, quantile)
        least, most = 0.0, value
        for _ in range(60):
            middle = (least + most) / 2
            if middle + self._reach(middle, quantile) < value:
                least = middle
            else:
                most = middle
        return most

    def upper(self, value: float, quantile: float) -> float:
        """The largest true value from which ``value`` is within reach; at least 0."""
        z2 = quantile**2
        centre = value + 2 * self.k * z2
        half = math.sqrt(max(0.0, centre**2 - value**2 + 2 * z2 * self.second))
        return max(centre + half, 0.0)
