"""Confidence sequences: intervals that hold at every look, however often one looks.

An interval made for one look misses far more often than it says when it is looked at again and
again while labels come in. These hold at all looks at once, with probability ``1 - alpha``.
``beta_binomial`` is for unweighted independent labels, ``betting`` for bounded observations with
weights. Formulas: docs/methods.md section 6.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, xlog1py, xlogy

Numbers = NDArray[np.float64]

_PRIOR = 0.5
_HALVINGS = 60
_LARGEST_BET = 0.5
_CANDIDATES = 1001
_ROWS = 256


def beta_binomial(
    successes: ArrayLike, trials: ArrayLike, alpha: float = 0.05
) -> tuple[Numbers, Numbers]:
    """Lower and upper ends for a share, from running counts of independent labels; same shape.

    ``successes`` among ``trials``, both whole numbers: those of every look so far, say their
    cumulated sums. The set of all p that a beta mixture (a = b = 1/2) does not beat by more than
    ``1 / alpha``; [0, 1] before the first label. Rounded outwards. ``ValueError`` for counts that
    cannot be, and for an ``alpha`` outside (0, 1).
    """
    _require_alpha(alpha)
    s, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(trials, float))
    if not ((s >= 0) & (s <= n) & (s == np.floor(s)) & (n == np.floor(n))).all():
        raise ValueError("expected whole numbers, 0 <= successes <= trials")
    level = betaln(_PRIOR + s, _PRIOR + n - s) - betaln(_PRIOR, _PRIOR) + math.log(alpha)
    peak = np.divide(s, n, out=np.full(s.shape, 0.5), where=n > 0)

    def end(outside: Numbers) -> Numbers:
        inside = peak
        for _ in range(_HALVINGS):
            middle = (outside + inside) / 2
            holds = xlogy(s, middle) + xlog1py(n - s, -middle) > level
            outside, inside = np.where(holds, outside, middle), np.where(holds, middle, inside)
        return outside

    lower, upper = end(np.zeros(s.shape)), end(np.ones(s.shape))
    return np.where(s > 0, lower, 0.0), np.where(s < n, upper, 1.0)


def betting(
    values: ArrayLike, alpha: float = 0.05, *, largest: float = 1.0
) -> tuple[Numbers, Numbers]:
    """Lower and upper ends (n,) for the mean of ``values`` (n,), after each of them.

    ``values`` lie in [0, ``largest``] and each has the same mean, given those before it: a label
    times the weight it was drawn with, say, ``largest`` the largest weight there can be. Two
    gamblers bet that a candidate mean is too small and too large; it is out as soon as one of
    them has made ``2 / alpha`` of 1. Hedged capital with predictable plug-in bets: Waudby-Smith
    and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024,
    arXiv:2010.09686. What is out stays out, so that the ends only close in; they cross where the
    values contradict their common mean. Of 1,001 candidates, rounded outwards.
    ``ValueError`` for values outside the range, NaN among them.
    """
    _require_alpha(alpha)
    x = np.asarray(values, float) / largest
    if x.ndim != 1 or not ((x >= 0) & (x <= 1)).all():
        raise ValueError(f"expected a row of values in [0, {largest:g}]")
    # Steps of the candidates in proportion to the standard deviation of a share.
    means = np.square(np.sin(np.linspace(0.0, math.pi / 2, _CANDIDATES)))
    bets = _bets(x, alpha)
    lower = _excluded(x, means, bets, alpha)
    upper = 1.0 - _excluded(1.0 - x, means, bets, alpha)
    return largest * lower, largest * upper


def _excluded(x: Numbers, means: Numbers, bets: Numbers, alpha: float) -> Numbers:
    """(n,) largest candidate that the gambler on "it is more" has ruled out after each value."""
    lower = np.zeros(x.size)
    with np.errstate(divide="ignore"):
        most = _LARGEST_BET / means
    wealth, best = np.zeros(means.size), np.zeros(means.size)
    for start in range(0, x.size, _ROWS):
        rows = slice(start, start + _ROWS)
        stakes = np.minimum(bets[rows, None], most)
        path = wealth + np.log1p(stakes * (x[rows, None] - means)).cumsum(axis=0)
        reached = np.maximum(np.maximum.accumulate(path, axis=0), best)
        # Wealth falls with the candidate: those that are out come first.
        out = (reached >= math.log(2 / alpha)).sum(axis=1)
        lower[rows] = np.where(out > 0, means[out - 1], 0.0)
        wealth, best = path[-1], reached[-1]
    return lower


def _bets(x: Numbers, alpha: float) -> Numbers:
    """(n,) stake before each value, from the mean and variance of those before it."""
    t = np.arange(1, x.size + 1)
    means = (0.5 + x.cumsum()) / (t + 1)
    variances = (0.25 + np.square(x - means).cumsum()) / (t + 1)
    before = np.concatenate([[0.25], variances[:-1]])[: x.size]
    return np.asarray(np.sqrt(2 * math.log(2 / alpha) / (before * t * np.log1p(t))))


def _require_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected between 0 and 1, got {alpha!r}")
