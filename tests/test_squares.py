"""Intervals of mean squares: against sums over distinct deviations, roots, and exact laws."""

import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import optimize, stats

from pipeline.statistics.squares import squared_norm


def moments(curve, deviations):
    """k, tr(C^2) and tr(C^3) by loops over distinct deviations, for curve (K,) and (m, K)."""
    points, m = curve.size, len(deviations)
    along = sum(float(row @ curve / points) ** 2 for row in deviations)
    dots = [[float(a @ b) / points for b in deviations] for a in deviations]
    total = sum(dots[i][i] for i in range(m))
    weight = sum(dots[i][i] ** 2 for i in range(m)) / total**2
    dots = [[dot + total / (m * (m - 1)) for dot in row] for row in dots]
    second = sum(dots[i][j] ** 2 for i, j in itertools.permutations(range(m), 2)) / (1 - weight)
    third = sum(
        dots[i][j] * dots[j][k] * dots[k][i] for i, j, k in itertools.permutations(range(m), 3)
    ) / (1 - weight) ** 2
    return along / float(np.square(curve).mean()), second, min(max(third, 0), second**1.5)


def ends(value, law, quantile):
    """The interval by root finding: lower by the skewed quantile, upper by the symmetric one."""
    k, second, third = law

    def variance(true):
        return 4 * k * max(true, 0) + 2 * second

    def above(true):
        skewness = (8 * third + 24 * k * k * max(true, 0)) / variance(true) ** 1.5
        score = (1 + skewness * quantile / 6 - skewness**2 / 36) ** 3 - 1
        return true + 2 / skewness * score * math.sqrt(variance(true)) - value

    def below(true):
        return true - quantile * math.sqrt(4 * k * true + 2 * second) - value

    lower = optimize.brentq(above, -10, 10, xtol=1e-14)
    return lower, optimize.brentq(below, max(value, 0), 100, xtol=1e-14)


@pytest.mark.parametrize("value", [-0.02, 0.0, 0.01, 0.3])
@pytest.mark.parametrize("tail", [0.025, 0.001])
def test_an_interval_holds_the_truths_from_which_the_value_is_within_reach(value, tail):
    rng = np.random.default_rng(0)
    curve = rng.normal(0, 0.4, (1, 6))
    deviations = rng.normal(0, 0.03, (12, 1, 6)) * rng.uniform(0.5, 2, (12, 1, 1))
    found = squared_norm(np.asarray([value]), curve, deviations, np.asarray([9]), tail)[0]
    law = moments(curve[0], deviations[:, 0])
    lower, upper = ends(value, law, float(stats.t.isf(tail, 9)))
    assert found.value == value
    assert_allclose([found.lower, found.upper], [lower, upper], rtol=1e-8, atol=1e-12)
    assert found.lower <= value <= found.upper


def test_a_value_far_below_zero_keeps_zero_within_its_interval():
    rng = np.random.default_rng(1)
    curve, deviations = rng.normal(0, 0.01, (1, 4)), rng.normal(0, 0.001, (8, 1, 4))
    found = squared_norm(np.asarray([-0.5]), curve, deviations, np.asarray([7]))[0]
    assert found.lower < -0.5
    assert found.upper == 0.0


def test_groups_are_measured_one_by_one():
    rng = np.random.default_rng(2)
    curve, deviations = rng.normal(size=(3, 5)), rng.normal(0, 0.1, (8, 3, 5))
    values, degrees = np.asarray([0.5, 0.1, -0.01]), np.asarray([7, 5, 3])
    found = squared_norm(values, curve, deviations, degrees)
    for g, entry in enumerate(found):
        alone = squared_norm(
            values[g : g + 1], curve[g : g + 1], deviations[:, g : g + 1], degrees[g : g + 1]
        )
        assert entry == alone[0]


def test_without_noise_the_value_is_the_interval():
    found = squared_norm(
        np.asarray([0.25]), np.full((1, 3), 0.5), np.zeros((4, 1, 3)), np.asarray([3])
    )[0]
    assert_allclose([found.lower, found.upper], 0.25, rtol=1e-12)
    # Nor is there a direction where the curve is 0 throughout.
    found = squared_norm(np.zeros(1), np.zeros((1, 3)), np.zeros((4, 1, 3)), np.asarray([3]))[0]
    assert (found.lower, found.upper) == (0.0, 0.0)


def test_one_deviation_alone_is_taken_as_it_is():
    deviations = np.zeros((5, 1, 3))
    deviations[2, 0] = [0.3, 0.3, 0.3]
    found = squared_norm(np.asarray([0.1]), np.full((1, 3), 0.4), deviations, np.asarray([4]))[0]
    # Its mean square is .09, along the curve: k = .09, tr(C^2) = .0081, tr(C^3) = .000729.
    lower, upper = ends(0.1, (0.09, 0.09**2, 0.09**3), float(stats.t.isf(0.025, 4)))
    assert_allclose([found.lower, found.upper], [lower, upper], rtol=1e-8)


def test_too_little_is_unknown():
    curve, deviations = np.ones((1, 3)), np.full((2, 1, 3), 0.1)
    for values, degrees in ((np.asarray([0.1]), 0), (np.asarray([np.nan]), 5)):
        found = squared_norm(values, curve, deviations, np.asarray([degrees]))[0]
        assert math.isnan(found.lower)
        assert math.isnan(found.upper)
    unknown = squared_norm(np.asarray([0.1]), curve, np.full((1, 1, 3), np.nan), np.asarray([5]))
    assert math.isnan(unknown[0].upper)


@pytest.mark.parametrize(("rank", "size"), [(1, 0.0), (1, 0.3), (2, 2.0), (8, 0.5), (200, 0.5)])
def test_the_interval_covers_the_square_of_a_measured_vector(rank, size):
    # A mean of 24 independent vectors; the unbiased square is that of distinct ones.
    rng, units = np.random.default_rng(3), 24
    truth = np.full(rank, size / np.sqrt(rank))
    hits = []
    for _ in range(1000):
        sample = truth + rng.normal(0, 1, (units, rank))
        total = sample.sum(axis=0)
        value = (total @ total - np.square(sample).sum()) / (units * (units - 1)) / rank
        mean = total / units
        deviations = (sample - mean) / np.sqrt(units * (units - 1))
        found = squared_norm(
            np.asarray([value]), mean[None], deviations[:, None], np.asarray([units - 1])
        )[0]
        hits.append(found.lower <= truth @ truth / rank <= found.upper)
    assert 0.93 <= np.mean(hits) <= 0.985
