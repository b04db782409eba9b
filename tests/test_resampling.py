"""The interval of a mean from resamples, against one resample at a time."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from pipeline.statistics.intervals import Interval, resampled_mean


def slow(values, tail):
    """Studentised resampling together with Student's interval, one resample after the other."""
    values = np.sort(values)
    n, mean = values.size, values.mean()
    error = stats.sem(values)
    generator, scores = np.random.default_rng(20230704), []
    for _ in range(20):
        for rows in generator.integers(n, size=(100, n)):
            drawn = values[rows]
            scores.append((drawn.mean() - mean) / stats.sem(drawn))
    scores.sort()
    place = max(round(tail * 2000), 1)
    half = stats.t.ppf(1 - tail, n - 1)
    return mean - max(scores[-place], half) * error, mean + max(-scores[place - 1], half) * error


@pytest.mark.parametrize("tail", [0.025, 0.005, 0.0002])
@pytest.mark.parametrize("skew", [1, -1])
def test_the_interval_holds_that_of_the_studentised_resamples_and_students(tail, skew):
    values = skew * np.random.default_rng(0).exponential(size=30)
    found = resampled_mean(values, tail)
    assert_allclose(found.value, values.mean(), rtol=1e-14)
    assert_allclose([found.lower, found.upper], slow(values, tail), rtol=1e-9)
    if tail < 0.001:  # the furthest of all resamples
        return
    # Skewed to the right, the resamples reach further up; down, Student's does.
    half = float(stats.t.isf(tail, 29)) * stats.sem(values)
    near, far = sorted([found.value - found.lower, found.upper - found.value])
    assert_allclose(near, half, rtol=1e-9)
    assert far > 1.2 * half


def test_the_order_of_the_values_moves_nothing():
    values = np.random.default_rng(1).normal(size=50) ** 2
    found, turned = resampled_mean(values), resampled_mean(values[::-1])
    assert_allclose([found.lower, found.upper], [turned.lower, turned.upper], rtol=1e-12)


def test_few_values_are_unknown_and_equal_ones_certain():
    assert resampled_mean(np.full(4, 0.1)) == Interval(0.1, 0.1, 0.1)
    three = resampled_mean(np.asarray([1.0, 2.0, 6.0]))
    assert three.value == 3.0
    assert math.isnan(three.lower)
    assert math.isnan(three.upper)
    four = resampled_mean(np.asarray([1.0, 2.0, 6.0, 7.0]))
    assert math.isfinite(four.upper - four.lower)
    assert math.isnan(resampled_mean(np.empty(0)).value)
    assert math.isnan(resampled_mean(np.asarray([1.0, 2.0, math.nan, 4.0])).lower)


def test_resamples_of_one_value_alone_reach_as_far_as_can_be():
    # Of 4 values, one resample in 256 draws the least four times: at that tail nothing bounds it.
    found = resampled_mean(np.asarray([1.0, 2.0, 4.0, 9.0]), 0.001)
    assert found.lower == -math.inf
    assert found.upper == math.inf
