"""A small world of served queries whose truth is known, for the tests of the live gauges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.counting.operating import (
    BUCKETS,
    NEGATIVE,
    POSITIVE,
    Grid,
    OperatingCounts,
    bucket_of,
)
from pipeline.live.decisions import ReviewedQuery
from pipeline.live.population import DrawPlan, draw, draw_plan
from serving.watching.drift import Reference

CUSTOMERS = tuple(f"customer-{i}" for i in range(9))
VISIBLE, MATCHES = 600, 7
IDENTITIES = 80


@dataclass(frozen=True)
class Pairs:
    """Queries (n,) with their distances (n, VISIBLE), ascending, and which are true matches."""

    distances: np.ndarray
    is_match: np.ndarray


@dataclass(frozen=True)
class Calibrated:
    """What a release knows."""

    grid: Grid
    thresholds: np.ndarray
    threshold: np.float32
    baseline: OperatingCounts
    plan: DrawPlan

    def reference(self, *known: str) -> Reference:
        """What drift is measured against: all customers, or those ``known`` at calibration."""
        baseline = self.baseline.select(known) if known else self.baseline
        return Reference(
            release="r1", baseline=baseline, thresholds=self.thresholds, threshold=self.threshold
        )


def queries(customer: str, n: int, rng: np.random.Generator, *, drift: float = 0.0) -> Pairs:
    """``n`` queries; each customer's matches lie a little elsewhere, ``drift`` further out."""
    identity = rng.normal(0, 0.08, (n, 1))
    centre = 0.45 + 0.02 * CUSTOMERS.index(customer) + drift
    near = centre + identity + rng.normal(0, 0.13, (n, MATCHES))
    far = 0.95 + rng.normal(0, 0.02, (n, 1)) + rng.normal(0, 0.11, (n, VISIBLE - MATCHES))
    distances = np.concatenate([near, far], axis=1).clip(0, 2).astype(np.float32)
    order = distances.argsort(axis=1)
    return Pairs(np.take_along_axis(distances, order, 1), order < MATCHES)


def full_counts(pairs: Pairs, grid: Grid, customer: str, names: list[str]) -> OperatingCounts:
    """Counts under full labelling, by the plainest loop."""
    result = np.zeros((1, BUCKETS, 2, grid.bins))
    for row, bucket in enumerate(bucket_of(names)):
        for kind, chosen in ((POSITIVE, pairs.is_match[row]), (NEGATIVE, ~pairs.is_match[row])):
            bins = grid.bin_of(pairs.distances[row][chosen])
            result[0, bucket, kind] += np.bincount(bins, minlength=grid.bins)
    return OperatingCounts(grid, (customer,), result)


def calibrated(seed: int = 0) -> Calibrated:
    """The release: every customer's counts on the grid that its own calibration chose."""
    rng = np.random.default_rng(seed)
    seen = {name: queries(name, IDENTITIES, rng) for name in CUSTOMERS}
    names = [f"identity-{i}" for i in range(IDENTITIES)]
    negatives = np.concatenate([pairs.distances[~pairs.is_match] for pairs in seen.values()])
    # The range of a release: from the threshold (FAR 1e-3) to FAR 1e-1, equal steps of chord.
    ends = np.sqrt(2 * np.quantile(negatives, [1e-3, 1e-1]))
    thresholds = (np.linspace(*ends, 101) ** 2 / 2).astype(np.float32)
    grid = Grid(thresholds)
    counts = [full_counts(pairs, grid, name, names) for name, pairs in seen.items()]
    baseline = sum(counts[1:], counts[0])
    return Calibrated(grid, thresholds, thresholds[0], baseline, draw_plan(baseline, thresholds[0]))


def review(
    world: Calibrated, pairs: Pairs, customer: str, rng: np.random.Generator, prefix: str = "q"
) -> list[ReviewedQuery]:
    """Draw from every query and give the true verdicts; ``customer`` as the recorder sees it."""
    reviewed = []
    for i, (distances, is_match) in enumerate(zip(pairs.distances, pairs.is_match, strict=True)):
        bins = world.grid.bin_of(distances)
        probabilities = world.plan.probabilities(customer, bins)
        drawn = draw(probabilities, rng)
        found = drawn[is_match[drawn]]
        reviewed.append(
            ReviewedQuery(
                query_id=f"{prefix}-{customer}-{i}",
                customer=customer,
                recorded_probability=1.0,
                histogram=np.bincount(bins, minlength=world.grid.bins).astype(np.uint32),
                positive_bins=bins[found],
                positive_probabilities=probabilities[found],
            )
        )
    return reviewed
