"""Intervals that cover, for rates of dependent pairs and for statistics of bucketed counts.

Pairs are not independent: they share items and identities. At nominal 95 %, a Wilson interval
on pair counts covers 63 % (FAR) and 44 % (FRR); here the identity is the unit.
Formulas: docs/methods.md section 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
_NARROWEST = 50
TAIL = 0.025
"""Probability on either side of an interval that is looked at once."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its two-sided 95 % interval; NaN where unknown."""

    value: float
    lower: float
    upper: float


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def wilson(share: float, trials: float) -> Interval:
    """Wilson score interval of ``share`` in [0, 1] seen in ``trials`` independent trials.

    ``trials`` need not be whole (an effective number); unknown without any.
    """
    if not trials > 0 or math.isnan(share):
        return UNKNOWN
    z2 = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) ** 2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2)))
    half /= 1 + z2 / trials
    return Interval(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def clustered_rate(
    errors: NDArray[np.float64], trials: NDArray[np.float64], *, both_ends: bool
) -> Interval:
    """Interval of ``sum(errors) / sum(trials)`` with the identity as the unit.

    ``errors`` and ``trials`` (I,) count each identity's pairs, the identity being the query's.
    ``both_ends``: the pairs also share identities at their other end (negative pairs), which at
    most doubles the standard deviation. Without an error: the rule of three on identities.
    """
    used = trials > 0
    errors, trials = errors[used], trials[used]
    total = float(trials.sum())
    if total == 0:
        return UNKNOWN
    rate = float(errors.sum()) / total
    if rate in (0.0, 1.0):
        slack = min(1.0, 3.0 / trials.size)
        return Interval(rate, max(0.0, rate - slack), min(1.0, rate + slack))
    variance = float(np.square(errors - rate * trials).sum()) / total**2
    if both_ends:
        variance *= 4.0
    return wilson(rate, min(total, rate * (1 - rate) / variance) if variance > 0 else total)


def mean_of(intervals: list[Interval]) -> Interval:
    """Mean of independent rates (customers taken as given), its half-widths in quadrature."""
    known = [entry for entry in intervals if not math.isnan(entry.value)]
    if not known:
        return UNKNOWN
    mean = sum(entry.value for entry in known) / len(known)
    below = math.sqrt(sum((entry.value - entry.lower) ** 2 for entry in known)) / len(known)
    above = math.sqrt(sum((entry.upper - entry.value) ** 2 for entry in known)) / len(known)
    return Interval(mean, max(0.0, mean - below), min(1.0, mean + above))


def jackknife_deviations(
    statistic: Callable[[NDArray[np.bool_]], NDArray[np.float64]], occupied: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(m, ...) delete-one-bucket deviations of ``statistic``, m its occupied buckets.

    Scaled so that the sum of their products is the jackknife (co)variance. ``statistic`` takes
    the kept buckets (B,); ``occupied`` (B,) marks those that hold anything. NaN for m = 1.
    """
    deleted = []
    for bucket in np.flatnonzero(occupied):
        kept = np.ones(occupied.size, np.bool_)
        kept[bucket] = False
        deleted.append(statistic(kept))
    if len(deleted) < 2:
        return np.full_like(statistic(np.ones(occupied.size, np.bool_)), np.nan)[None]
    values, m = np.stack(deleted), len(deleted)
    return np.asarray(np.sqrt((m - 1) / m) * (values - values.mean(axis=0)))


def jackknife_variance(
    statistic: Callable[[NDArray[np.bool_]], NDArray[np.float64]], occupied: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Delete-one-bucket variance of ``statistic``; the shape that it returns."""
    return np.asarray(np.square(jackknife_deviations(statistic, occupied)).sum(axis=0))


def squared_norm(
    values: NDArray[np.float64],
    curve: NDArray[np.float64],
    deviations: NDArray[np.float64],
    degrees: NDArray[np.int64],
    tail: float = TAIL,
) -> tuple[Interval, ...]:
    """Intervals of the mean square over K of each noisy curve, from unbiased ``values`` (G,).

    ``curve`` (G, K) is the measured curve and ``deviations`` (m, G, K) its own jackknife
    deviations, whose outer products sum to its covariance C; ``degrees`` (G,) of freedom.
    The variance of the value depends on the true value x: ``4 k x + 2 tr(C^2)``, k the variance
    of the curve along itself. As Wilson does for a share, the interval holds every x from which
    the measured value is no further than the quantile. A jackknife of the value itself is two
    to three times too wide, since it counts the noise of each half in full. Derived.
    """
    points = curve.shape[-1]
    along = np.square(np.einsum("mgk,gk->mg", deviations, curve) / points).sum(axis=0)
    gram = np.einsum("mgk,ngk->gmn", deviations, deviations) / points
    noise = 2.0 * np.square(gram).sum(axis=(1, 2))
    norm = np.square(curve).mean(axis=-1)
    slope = np.divide(4.0 * along, norm, out=np.zeros_like(along), where=norm > 0)
    intervals = []
    for value, k, v0, df in zip(values, slope, noise, degrees, strict=True):
        if df < 1 or np.isnan(value + k + v0):
            intervals.append(Interval(float(value), math.nan, math.nan))
            continue
        z2 = float(stats.t.isf(tail, df)) ** 2
        centre = value + k * z2 / 2
        half = math.sqrt(max(0.0, centre**2 - value**2 + z2 * v0))
        lower = min(value, centre - half)  # a value far below 0 lies outside of its own range
        intervals.append(Interval(float(value), float(lower), float(centre + half)))
    return tuple(intervals)


def student(value: float, variance: float, degrees: int, tail: float = TAIL) -> Interval:
    """Symmetric interval of an estimate with ``degrees`` of freedom in its ``variance``."""
    if degrees < 1 or math.isnan(variance) or math.isnan(value):
        return Interval(value, math.nan, math.nan)
    half = float(stats.t.isf(tail, degrees)) * math.sqrt(variance)
    return Interval(value, value - half, value + half)


def sequence_tail(observations: int) -> float:
    """Tail probability that makes an interval hold at every look, however often one looks.

    The asymptotic confidence sequence (Robbins' normal mixture) at 95 %, narrowest at 50
    ``observations``: about three standard errors instead of two. Waudby-Smith, Arbour, Sinha,
    Kennedy and Ramdas, "Time-uniform central limit theory", arXiv:2103.06476.
    """
    alpha = 1.0 - CONFIDENCE
    scale = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / _NARROWEST
    spread = max(observations, 1) * scale
    width = math.sqrt((spread + 1) / spread * math.log((spread + 1) / alpha**2))
    return float(stats.norm.sf(width))
