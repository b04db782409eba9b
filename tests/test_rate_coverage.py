"""How often the intervals of rates hold the truth, over simulated worlds with fixed seeds.

A world is methods.md's: classes around centres on a sphere, every item asked against every other.
The truth is the mean over all worlds, since a rate of pairs is unbiased.
"""

import sys

import numpy as np
import pytest

from pipeline.calibration.points import least_utility, operating_points
from pipeline.counting.operating import Grid
from pipeline.counting.queries import IdentityCounts
from pipeline.statistics.intervals import clustered_rate, wilson

WORLDS = 1000
DIMENSIONS = 64


def pair_counts(rng, identities, items, spread, edges):
    """(identities, 2, T + 1) counts of one customer, by bin of distance."""
    centre = rng.normal(size=(identities, DIMENSIONS))
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    sigma = rng.uniform(1 - spread, 1 + spread, size=(identities, 1, 1)) / np.sqrt(DIMENSIONS)
    x = centre[:, None] + sigma * rng.normal(size=(identities, items, DIMENSIONS))
    x = x.reshape(-1, DIMENSIONS)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    bins = np.searchsorted(edges, 1 - x @ x.T)
    label = np.repeat(np.arange(identities), items)
    cell = (label[:, None] * 2 + (label[:, None] == label)) * (edges.size + 1) + bins
    cell = cell[~np.eye(label.size, dtype=bool)]
    counted = np.bincount(cell, minlength=identities * 2 * (edges.size + 1))
    return counted.reshape(identities, 2, -1).astype(float)


def share_covered(intervals, truth):
    return np.mean([found.lower <= truth <= found.upper for found in intervals])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("identities", "items", "spread", "thresholds"),
    [
        (12, 4, 0.0, (0.65, 0.7, 0.75)),
        (40, 4, 0.4, (0.6, 0.65, 0.7, 0.75)),
        (30, 10, 0.2, (0.6, 0.65)),
    ],
)
def test_rates_of_one_customer_are_covered_and_wilson_on_pairs_is_not(
    identities, items, spread, thresholds
):
    rng = np.random.default_rng(31)
    edges = np.asarray(thresholds, np.float32)
    worlds = np.stack(
        [pair_counts(rng, identities, items, spread, edges) for _ in range(WORLDS)]
    ).cumsum(axis=3)
    naive = []
    for edge in range(edges.size):
        for kind, name in ((0, "FAR"), (1, "FRR")):
            trials = worlds[:, :, kind, -1]
            errors = worlds[:, :, kind, edge] if kind == 0 else trials - worlds[:, :, kind, edge]
            truth = errors.sum() / trials.sum()
            found = [
                clustered_rate(e, n, both_ends=kind == 0)
                for e, n in zip(errors, trials, strict=True)
            ]
            pairs = [
                wilson(e.sum() / n.sum(), n.sum()) for e, n in zip(errors, trials, strict=True)
            ]
            covered, plain = share_covered(found, truth), share_covered(pairs, truth)
            width = np.mean([entry.upper - entry.lower for entry in found])
            sys.stdout.write(
                f"{identities} identities of {items}, d <= {edges[edge]:.2f}: {name} {truth:.1e} "
                f"covered {covered:.3f}, mean width {width:.1e}; Wilson on pairs {plain:.3f}\n"
            )
            naive.append(plain)
            assert 0.93 <= covered <= 0.985
    assert min(naive) < 0.75


@pytest.mark.slow
def test_far_is_covered_too_often_where_all_pairs_of_two_classes_match_together():
    # Counts by identity do not tell how far the pairs of two classes stand and fall together, so
    # what is counted from both ends is taken off by pair only. Known and on the safe side.
    rng, edges = np.random.default_rng(35), np.asarray([0.8], np.float32)
    worlds = np.stack([pair_counts(rng, 30, 10, 0.2, edges) for _ in range(WORLDS)])
    errors, trials = worlds[:, :, 0, 0], worlds[:, :, 0].sum(axis=2)
    found = [clustered_rate(e, n, both_ends=True) for e, n in zip(errors, trials, strict=True)]
    covered = share_covered(found, errors.sum() / trials.sum())
    spread = (errors.sum(axis=1) / trials.sum(axis=1)).std()
    width = np.mean([entry.upper - entry.lower for entry in found])
    sys.stdout.write(f"30 identities of 10, d <= 0.80: FAR covered {covered:.3f}\n")
    assert covered >= 0.94
    assert width < 1.5 * 2 * 1.96 * spread


@pytest.mark.slow
def test_the_mean_over_customers_and_its_utility_are_covered():
    rng = np.random.default_rng(32)
    grid = Grid(np.asarray([0.65, 0.7, 0.75], np.float32))
    customers = [(12, 4, 0.4), (20, 5, 0.0), (40, 3, 0.3), (15, 6, 0.1)]
    names = np.asarray([c for c, (n, _, _) in zip("abcd", customers, strict=True)
                        for _ in range(n)], np.object_)
    labels = np.asarray([f"label {i}" for i in range(names.size)], np.object_)
    worlds = [
        IdentityCounts(grid, names, labels, np.concatenate(
            [pair_counts(rng, *customer, grid.edges) for customer in customers]))
        for _ in range(WORLDS)
    ]  # fmt: skip
    totals = sum(world.operating().pairs.sum(axis=1) for world in worlds)
    shares = totals[:, :, :-1].cumsum(axis=2) / totals.sum(axis=2)[:, :, None]
    utilities = 2 * shares[:, 1] * (1 - shares[:, 0]) / (shares[:, 1] + 1 - shares[:, 0])
    for edge, threshold in enumerate(grid.edges):
        overall = [operating_points(world, threshold)[0] for world in worlds]
        for name, found, truth in (
            ("FAR", [point.far for point in overall], shares[:, 0, edge].mean()),
            ("FRR", [point.frr for point in overall], 1 - shares[:, 1, edge].mean()),
            ("utility", [point.utility_interval for point in overall], utilities[:, edge].mean()),
        ):
            covered = share_covered(found, truth)
            width = np.mean([entry.upper - entry.lower for entry in found])
            sys.stdout.write(f"mean over customers, d <= {threshold:.2f}: {name} {truth:.1e} "
                             f"covered {covered:.3f}, mean width {width:.1e}\n")
            assert 0.93 <= covered <= 0.985
        worst = [least_utility(world, threshold) for world in worlds]
        covered = share_covered(worst, utilities[:, edge].min())
        sys.stdout.write(f"worst customer, d <= {threshold:.2f}: covered {covered:.3f}, mean width "
                         f"{np.mean([entry.upper - entry.lower for entry in worst]):.1e}\n")
        assert covered >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize("large", [20.0, 60.0])
@pytest.mark.parametrize("expected", [0.5, 1.5, 2.9, 3.1, 6.0])
def test_bounds_of_rare_errors_hold_where_whole_identities_fail(expected, large):
    # The worst there is: an identity has all its errors at once, and some have more pairs.
    rng = np.random.default_rng(33)
    trials = np.asarray([large] * 5 + [20.0] * 55)
    rate = expected / (trials.sum() / large)
    failed = rng.random((4 * WORLDS, trials.size)) < rate
    bounds = [clustered_rate(trials * row, trials, both_ends=False).upper for row in failed]
    held, zero = np.mean(rate <= np.asarray(bounds)), np.mean(~failed.any(axis=1))
    sys.stdout.write(f"{expected} expected: held {held:.4f}, without an error {zero:.3f}, "
                     f"mean bound {np.mean(bounds):.3f}, truth {rate:.3f}\n")
    assert held >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize("expected", [0.5, 1.5, 2.9, 3.1, 6.0])
def test_bounds_of_rare_false_matches_hold_where_one_identity_matches_all(expected):
    rng = np.random.default_rng(34)
    n, held = 60, []
    hub = expected / n
    far = 1 - (1 - hub) ** 2  # a pair is accepted if either of its ends matches everything
    for _ in range(4 * WORLDS):
        hubs = rng.random(n) < hub
        errors = np.where(hubs, n - 1.0, hubs.sum())
        found = clustered_rate(errors, np.full(n, n - 1.0), both_ends=True)
        held.append(far <= found.upper)
    sys.stdout.write(f"{expected} expected: held {np.mean(held):.4f}\n")
    assert np.mean(held) >= 0.94
