"""Intervals of rates whose pairs share identities: worked out again with loops, and by hand."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from scipy.optimize import brentq

from pipeline.statistics.intervals import UNKNOWN, Interval, clustered_rate, mean_of, wilson


def ends(interval: Interval) -> list[float]:
    return [interval.value, interval.lower, interval.upper]


@pytest.mark.parametrize(("errors", "trials"), [(0, 10), (3, 17), (50, 100), (999, 1000), (5, 5)])
def test_wilson_is_that_of_scipy(errors, trials):
    ours = wilson(errors / trials, trials)
    theirs = stats.binomtest(errors, trials).proportion_ci(method="wilson")
    assert_allclose(ends(ours), [errors / trials, theirs.low, theirs.high], atol=1e-12)


def test_wilson_holds_every_share_within_the_quantile():
    # The definition: |share - p| = quantile * sqrt(p (1 - p) / trials) at both ends.
    share, trials, tail, degrees = 0.07, 31.5, 0.01, 6
    quantile = stats.t.isf(tail, degrees)

    def gap(p):
        return (share - p) ** 2 - quantile**2 * p * (1 - p) / trials

    expected = [brentq(gap, 0, share), brentq(gap, share, 1)]
    assert_allclose(ends(wilson(share, trials, tail, degrees))[1:], expected, atol=1e-12)


@pytest.mark.parametrize(("share", "trials"), [(0.5, 0), (0.5, -1), (0.5, math.nan), (math.nan, 9)])
def test_a_share_of_nothing_is_unknown(share, trials):
    assert wilson(share, trials) is UNKNOWN
    assert all(math.isnan(end) for end in ends(UNKNOWN))


def test_wilson_stays_between_zero_and_one_and_holds_its_value():
    for share in (0.0, 1e-12, 1 - 1e-12, 1.0):
        _, lower, upper = ends(wilson(share, 7))
        assert 0 <= lower <= share <= upper <= 1
    assert wilson(0.0, 7).lower == 0.0
    assert wilson(1.0, 7).upper == 1.0
    assert wilson(0.5, 0.001).lower < 1e-3


def slow_clustered(rows, *, both_ends, tail=0.025):
    """Mean over customers of errors / trials; ``rows``: customer -> [(errors, trials), ...]."""
    rows = {name: [r for r in entry if r[1] > 0] for name, entry in rows.items()}
    rows = {name: entry for name, entry in rows.items() if entry}
    rates = {n: sum(e for e, _ in rs) / sum(t for _, t in rs) for n, rs in rows.items()}
    rate = sum(rates.values()) / len(rates)
    left, pairs = [], 0.0
    for name, entry in rows.items():
        total, size = sum(t for _, t in entry), len(entry)
        known = size > 1 and 0 < rates[name] < 1
        grow = math.sqrt(size / (size - 1)) if size > 1 else 1.0
        expected = rates[name] if known else rate
        left += [grow * (e - expected * t) / total / len(rows) for e, t in entry]
        pairs += rate * (1 - rate) / (total / 2 if both_ends else total) / len(rows) ** 2
    variance = sum(x * x for x in left)
    if both_ends:
        variance = 4 * variance - pairs
    trials = rate * (1 - rate) / max(variance, pairs)
    most = max(len(left) - len(rows), 1)
    degrees = most
    if any(left):
        kurtosis = len(left) * sum(x**4 for x in left) / sum(x * x for x in left) ** 2
        degrees = min(max(2 * len(left) / (kurtosis - 1), 1), most) if kurtosis > 1 else most
    return ends(wilson(rate, trials, tail, degrees))


@pytest.mark.parametrize("both_ends", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_a_clustered_rate_is_that_of_loops(seed, both_ends):
    rng = np.random.default_rng(seed)
    rows = {}
    for customer in "abc"[: 1 + seed % 3]:
        trials = rng.integers(0, 30, size=rng.integers(1, 9))
        own = rng.beta(0.5, 4, size=trials.size) * (rng.random() < 0.8)
        rows[customer] = list(zip(rng.binomial(trials, own), trials, strict=True))
    rows["a"].append((3, 20))
    rows["a"].append((0, 11))
    errors, trials, names = (
        np.asarray([value for value in column])
        for column in zip(*[(e, t, n) for n, rs in rows.items() for e, t in rs], strict=True)
    )
    shuffled = rng.permutation(errors.size)
    strata = None if len(rows) == 1 else names[shuffled]
    found = clustered_rate(
        errors[shuffled].astype(float), trials[shuffled].astype(float), both_ends=both_ends,
        strata=strata, tail=0.05,
    )  # fmt: skip
    assert_allclose(ends(found), slow_clustered(rows, both_ends=both_ends, tail=0.05), rtol=1e-9)


# Alone with a rate of its own; three without an error; two all wrong; two that differ; two alike.
MIXED = {"a": [(2, 4)], "b": [(0, 5), (0, 6), (0, 7)], "c": [(3, 3), (9, 9)], "d": [(1, 8), (4, 9)],
         "e": [(1, 4), (1, 4)]}  # fmt: skip


@pytest.mark.parametrize("both_ends", [False, True])
@pytest.mark.parametrize("left_out", ["", *MIXED, "be", "ade", "bce", "bcd", "bc"])
def test_customers_of_every_kind_are_as_loops_have_them(left_out, both_ends):
    rows = {name: entry for name, entry in MIXED.items() if name not in left_out}
    errors, trials = np.asarray([row for entry in rows.values() for row in entry], float).T
    strata = np.asarray([name for name, entry in rows.items() for _ in entry])
    found = clustered_rate(errors, trials, both_ends=both_ends, strata=strata)
    assert_allclose(ends(found), slow_clustered(rows, both_ends=both_ends), rtol=1e-9)


def test_two_customers_of_one_identity_each_leave_one_degree_of_freedom_by_hand():
    # Rates .5 and .1, mean .3: residuals .2 / 2 and -.2 / 2; their squares sum to .02.
    found = clustered_rate(np.asarray([5.0, 1]), np.asarray([10.0, 10]), both_ends=False,
                           strata=np.asarray(["a", "b"]))  # fmt: skip
    variance = max(0.02, 0.3 * 0.7 * 0.2 / 4)
    assert_allclose(ends(found), ends(wilson(0.3, 0.21 / variance, degrees=1)))


def test_two_identities_of_one_customer_know_a_little_by_hand():
    # Rates .5 and .1: residuals .2 / 2 twice, squared and summed .02, times 2 / 1.
    found = clustered_rate(np.asarray([5.0, 1]), np.asarray([10.0, 10]), both_ends=False)
    assert_allclose(ends(found), ends(wilson(0.3, 0.21 / 0.04, degrees=1)))
    assert found.upper < 1


def test_equal_rates_are_as_sure_as_their_pairs_by_hand():
    # Four identities, each 1 error of 5: no variance between them, so Wilson on 20 pairs with
    # 3 degrees of freedom; on 10 distinct pairs where each was counted from both ends.
    errors, trials = np.ones(4), np.full(4, 5.0)
    for both_ends, n in ((False, 20), (True, 10)):
        found = clustered_rate(errors, trials, both_ends=both_ends)
        assert_allclose(ends(found), ends(wilson(0.2, n, degrees=3)))


def test_identities_that_fail_as_a_whole_count_once_by_hand():
    # Rates 1, 0, 0, 0, 0 of 8 pairs each: residuals .8, -.2 x 4 of 5; their squares sum to
    # .8 / 25, times 5 / 4 is .04; .2 * .8 / .04 = 4 trials, not 40. Fourth powers: .416 / 625;
    # kurtosis 5 * .416 / .64 = 3.25; degrees 10 / 2.25 = 4.44, at most 4.
    found = clustered_rate(np.asarray([8.0, 0, 0, 0, 0]), np.full(5, 8.0), both_ends=False)
    assert_allclose(ends(found), ends(wilson(0.2, 4, degrees=4)))
    # From both ends: 4 * .04 - .2 * .8 / 20 = .152.
    twice = clustered_rate(np.asarray([8.0, 0, 0, 0, 0]), np.full(5, 8.0), both_ends=True)
    assert_allclose(ends(twice), ends(wilson(0.2, 0.16 / 0.152, degrees=4)))


def test_a_few_identities_that_make_up_the_variance_leave_few_degrees_of_freedom():
    # One of 50 has all errors: kurtosis 50 (.98^4 + 49 * .02^4) / (.98)^2 = 48.02; 100 / 47.02.
    errors = np.asarray([10.0] + [0.0] * 49)
    found = clustered_rate(errors, np.full(50, 10.0), both_ends=False)
    variance = 0.02 * 0.98 / 50 * 50 / 49
    kurtosis = 50 * (0.98**4 + 49 * 0.02**4) / (50 * 0.02 * 0.98) ** 2
    expected = wilson(0.02, 0.02 * 0.98 / variance, degrees=100 / (kurtosis - 1))
    assert_allclose(ends(found), ends(expected))
    assert found.upper > wilson(0.02, 49, degrees=49).upper


def test_the_rule_of_three_is_on_identities_and_on_half_of_them_for_both_ends():
    three = -math.log(0.05)
    zero, trials = np.zeros(40), np.full(40, 500.0)
    assert_allclose(ends(clustered_rate(zero, trials, both_ends=False)), [0, 0, three / 40])
    assert_allclose(ends(clustered_rate(zero, trials, both_ends=True)), [0, 0, three / 20])
    assert_allclose(ends(clustered_rate(trials, trials, both_ends=False)), [1, 1 - three / 40, 1])
    strict = clustered_rate(zero, trials, both_ends=False, tail=0.005)
    assert_allclose(strict.upper, -math.log(0.01) / 40)
    assert ends(clustered_rate(np.zeros(2), np.ones(2), both_ends=False)) == [0, 0, 1]
    assert ends(clustered_rate(np.ones(2), np.ones(2), both_ends=False)) == [1, 0, 1]


def test_an_identity_with_most_of_the_pairs_leaves_few_for_the_rule_of_three():
    # One identity holds half of all pairs: as good as two identities.
    trials = np.asarray([50.0] + [1.0] * 50)
    assert ends(clustered_rate(np.zeros(51), trials, both_ends=False)) == [0, 0, 1]
    # Two customers, 30 and 10 identities: all errors may lie with the second one, whose weight
    # is one half: 3 / 10 / 2.
    strata = np.asarray(["a"] * 30 + ["b"] * 10)
    found = clustered_rate(np.zeros(40), np.ones(40), both_ends=False, strata=strata)
    assert_allclose(found.upper, -math.log(0.05) / 20)


def test_a_single_identity_knows_nothing_of_others():
    one = clustered_rate(np.asarray([1.0, 0.0]), np.asarray([4.0, 0.0]), both_ends=False)
    assert ends(one) == [0.25, 0.0, 1.0]


def test_without_pairs_a_rate_is_unknown_and_identities_without_pairs_change_nothing():
    assert clustered_rate(np.zeros(3), np.zeros(3), both_ends=False) is UNKNOWN
    errors, trials = np.asarray([2.0, 0, 1, 0]), np.asarray([9.0, 8, 7, 0])
    padded = clustered_rate(errors, trials, both_ends=True, strata=np.asarray(list("aabc")))
    plain = clustered_rate(errors[:3], trials[:3], both_ends=True, strata=np.asarray(list("aab")))
    assert padded == plain


def test_the_mean_over_customers_is_of_rates_not_of_pairs():
    errors, trials = np.asarray([1.0, 1, 300, 340]), np.asarray([10.0, 10, 1000, 1000])
    found = clustered_rate(errors, trials, both_ends=False, strata=np.asarray(list("aabb")))
    assert found.value == pytest.approx((0.1 + 0.32) / 2)


def test_mean_of_adds_half_widths_in_quadrature_and_leaves_out_the_unknown():
    mean = mean_of([Interval(0.2, 0.1, 0.4), UNKNOWN, Interval(0.4, 0.3, 0.5)])
    expected = [0.3, 0.3 - math.sqrt(0.02) / 2, 0.3 + math.sqrt(0.05) / 2]
    assert_allclose(ends(mean), expected)
    assert mean_of([UNKNOWN]) is UNKNOWN
    assert mean_of([]) is UNKNOWN
    assert ends(mean_of([Interval(0.1, -0.5, 1.9)])) == [0.1, 0.0, 1.0]
