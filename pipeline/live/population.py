"""Rates of the live population from few verdicts: how pairs are drawn, and what they say.

Of a recorded query all visible pairs are counted by distance, and some are drawn for review with
known probability. A pair found to be a match then stands for 1 / (P(recorded) P(drawn)) of them,
and all other pairs are negative: an unbiased count, whatever was drawn.

Pairs are drawn up to the *horizon*, the last edge of the grid, which is the top of the
calibration range. Beyond it a true match is so rare that its weight would drown the rest. So
live rates, and the baseline they are compared with, are rates *within the horizon*: a true match
beyond it counts as a negative pair in both (``within_horizon``).

docs/methods.md section 1, "Live population".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.counting.operating import (
    BUCKETS,
    NEGATIVE,
    POSITIVE,
    Grid,
    OperatingCounts,
    bucket_of,
)
from pipeline.live.decisions import ReviewedQuery

DRAWS_A_QUERY = 16
"""Pairs drawn from a recorded query, or all within the horizon where they are fewer."""

_EVEN_SHARE = 0.2
"""Part of the draws spread evenly, so that no weight exceeds 5 times that of even draws."""

_PRIOR_PAIRS = 50.0
"""Pairs of the whole fleet mixed into each bin of a customer's own share of positives."""

Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DrawPlan:
    """How much a pair of each bin is worth reviewing."""

    worth: Mapping[str, Shares]
    """(T,) for each customer known at calibration, bins within the horizon; above 0."""
    fallback: Shares
    """(T,) for any other customer."""
    draws: int = DRAWS_A_QUERY

    def probabilities(self, customer: str, bins: NDArray[np.int64]) -> Shares:
        """(n,) probability of each pair of a query to be drawn, given their ``bins`` (n,).

        0 beyond the horizon, in (0, 1] within; they sum to ``draws`` or to the pairs within.
        """
        worth = self.worth.get(customer, self.fallback)
        inside = bins < worth.size
        result = np.zeros(bins.size)
        if inside.any():
            value = worth[bins[inside]]
            even = np.full(value.size, 1.0 / value.size)
            result[inside] = _scaled(
                (1 - _EVEN_SHARE) * value / value.sum() + _EVEN_SHARE * even, self.draws
            )
        return result


def draw_plan(baseline: OperatingCounts, threshold: np.float32) -> DrawPlan:
    """The plan that keeps the variance of live sensitivity low, if matches lie as at calibration.

    A pair in bin b is worth ``a_b sqrt(p_b (1 - p_b))`` (Neyman): p_b its probability to be a
    match, a_b the influence of a match in b on the sensitivity curve and on its value at
    ``threshold``, an edge of the grid. Derived.
    """
    pairs = baseline.pairs.sum(axis=1)[:, :, :-1]
    fleet = _match_share(pairs.sum(axis=0), np.zeros(pairs.shape[2]))
    influence = _influence(baseline, threshold)
    worth = {
        name: influence * _spread(_match_share(pairs[i], fleet))
        for i, name in enumerate(baseline.groups)
    }
    return DrawPlan(worth, influence * _spread(fleet))


def draw(probabilities: Shares, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions drawn, ascending, each with its own probability; as many as they sum to.

    Systematic: one random start, then equal steps along the cumulated probabilities. With the
    pairs sorted by distance the draws spread over all distances, which lowers the variance.
    """
    certain = probabilities >= 1.0
    reached = np.floor(np.cumsum(np.where(certain, 0.0, probabilities)) + rng.random())
    stepped = np.diff(reached, prepend=0.0) > 0
    return np.flatnonzero(certain | (stepped & (probabilities > 0)))


def live_counts(reviewed: Iterable[ReviewedQuery], grid: Grid) -> OperatingCounts:
    """Estimated counts by customer; a query goes to the bucket of its id.

    Unbiased: the mean over all draws is the count under full labelling within the horizon, over
    all queries where only some are recorded. A single estimate may be a little below 0.
    Raises ``ValueError`` where a query was counted on another grid.
    """
    queries = list(reviewed)
    groups = tuple(sorted({query.customer for query in queries}))
    row = {name: i for i, name in enumerate(groups)}
    pairs = np.zeros((len(groups), BUCKETS, 2, grid.bins))
    for query, bucket in zip(queries, bucket_of(q.query_id for q in queries), strict=True):
        if query.histogram.size != grid.bins:
            raise ValueError(
                f"query {query.query_id!r} was counted in {query.histogram.size} bins, the "
                f"release's grid has {grid.bins}"
            )
        positives = np.zeros(grid.bins)
        np.add.at(positives, query.positive_bins, 1.0 / query.positive_probabilities)
        cell = pairs[row[query.customer], bucket]
        cell[POSITIVE] += positives / query.recorded_probability
        cell[NEGATIVE] += (query.histogram - positives) / query.recorded_probability
    return OperatingCounts(grid, groups, pairs)


def within_horizon(counts: OperatingCounts) -> OperatingCounts:
    """The same pairs, true matches beyond the last edge counted as negative."""
    pairs = counts.pairs.copy()
    pairs[:, :, NEGATIVE, -1] += pairs[:, :, POSITIVE, -1]
    pairs[:, :, POSITIVE, -1] = 0.0
    return OperatingCounts(counts.grid, counts.groups, pairs)


def _match_share(pairs: Shares, prior: Shares) -> Shares:
    """(T,) share of matches in each bin of ``pairs`` (2, T), drawn towards ``prior`` (T,)."""
    total = pairs.sum(axis=0) + _PRIOR_PAIRS
    return np.asarray((pairs[POSITIVE] + _PRIOR_PAIRS * prior) / total)


def _spread(share: Shares) -> Shares:
    """Standard deviation of one verdict, floored: no bin is without interest."""
    floored = np.clip(share, 1e-4, 0.95)
    return np.asarray(np.sqrt(floored * (1.0 - floored)))


def _influence(baseline: OperatingCounts, threshold: np.float32) -> Shares:
    """(T,) root mean square effect of a match in each bin on sensitivity, half at the threshold."""
    sensitivity = within_horizon(baseline).sensitivity()
    known = sensitivity[~np.isnan(sensitivity).any(axis=1)]
    curve = known.mean(axis=0) if len(known) else np.full(baseline.grid.edges.size, 0.5)
    edges = np.arange(curve.size)
    effect = np.square((edges[None, :] <= edges[:, None]) - curve[:, None])
    served = int(baseline.grid.position(np.asarray([threshold], np.float32))[0])
    return np.asarray(
        np.sqrt(np.maximum(0.5 * effect.mean(axis=0) + 0.5 * effect[served], 1e-4))
    )


def _scaled(shares: Shares, total: int) -> Shares:
    """(n,) probabilities proportional to ``shares``, none above 1, that sum to min(total, n)."""
    if shares.size <= total:
        return np.ones(shares.size)
    certain = np.zeros(shares.size, np.bool_)
    while True:
        open_sum = shares[~certain].sum()
        scaled = np.where(certain, 1.0, shares * (total - certain.sum()) / open_sum)
        if not (scaled > 1.0).any():
            return scaled
        certain |= scaled >= 1.0
