"""Intervals: against the textbook, and their coverage where pairs share identities."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from pipeline.statistics.intervals import (
    Interval,
    clustered_rate,
    jackknife_variance,
    mean_of,
    sequence_tail,
    student,
    wilson,
)


def test_wilson_agrees_with_scipy():
    for errors, trials in ((0, 10), (3, 17), (50, 100), (999, 1000)):
        ours = wilson(errors / trials, trials)
        theirs = stats.binomtest(errors, trials).proportion_ci(method="wilson")
        assert_allclose([ours.lower, ours.upper], [theirs.low, theirs.high], atol=1e-12)


def test_no_trials_is_unknown():
    assert np.isnan(wilson(0.5, 0).lower)
    assert np.isnan(clustered_rate(np.zeros(3), np.zeros(3), both_ends=False).value)


def test_without_an_error_the_rule_of_three_counts_identities_not_pairs():
    # 40 identities of 500 pairs each: 3 / 40, not 3 / 20,000.
    interval = clustered_rate(np.zeros(40), np.full(40, 500.0), both_ends=False)
    assert_allclose(interval.upper, 3 / 40, rtol=2e-3)


def test_clustered_intervals_cover_where_wilson_on_pairs_does_not():
    rng = np.random.default_rng(0)
    covered, naive = [], []
    for _ in range(400):
        own = rng.beta(2, 8, size=60)  # each identity has its own error rate; the mean is .2
        errors = rng.binomial(25, own).astype(float)
        trials = np.full(60, 25.0)
        ours = clustered_rate(errors, trials, both_ends=False)
        plain = wilson(errors.sum() / trials.sum(), trials.sum())
        covered.append(ours.lower <= 0.2 <= ours.upper)
        naive.append(plain.lower <= 0.2 <= plain.upper)
    assert 0.92 <= np.mean(covered) <= 0.99
    assert np.mean(naive) < 0.8


def test_the_jackknife_of_a_mean_is_its_textbook_variance():
    values = np.random.default_rng(1).normal(size=32)
    variance = jackknife_variance(
        lambda kept: np.asarray(values[kept].mean()), np.ones(32, np.bool_)
    )
    assert_allclose(variance, values.var(ddof=1) / 32)


def test_one_bucket_knows_no_variance():
    occupied = np.zeros(32, np.bool_)
    occupied[3] = True
    assert np.isnan(jackknife_variance(lambda kept: np.asarray(1.0), occupied))
    assert np.isnan(student(1.0, float("nan"), 0).lower)


def test_mean_of_customers_adds_half_widths_in_quadrature():
    mean = mean_of([Interval(0.2, 0.1, 0.4), Interval(0.4, 0.3, 0.5)])
    assert mean.value == pytest.approx(0.3)
    assert mean.lower == pytest.approx(0.3 - np.sqrt(0.01 + 0.01) / 2)
    assert mean.upper == pytest.approx(0.3 + np.sqrt(0.04 + 0.01) / 2)


def test_a_sequence_holds_at_every_look_where_a_plain_interval_does_not():
    rng = np.random.default_rng(2)
    looks = np.arange(8, 400)
    sums = rng.normal(size=(1000, 400)).cumsum(axis=1)[:, looks - 1]
    scores = np.abs(sums) / np.sqrt(looks)
    widths = np.asarray([stats.norm.isf(sequence_tail(int(n))) for n in looks])
    assert 0.001 < (scores > widths).any(axis=1).mean() < 0.05
    assert (scores > 1.96).any(axis=1).mean() > 0.2
    assert 3.0 < widths.min() < 3.1
    assert np.abs(looks[widths.argmin()] - 50) < 15
