"""The live match recall: sums that add up, bounds that cover at every look."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.search.rechecks import Rechecks, found_share


def sums_of(matches, missed) -> Rechecks:
    y, m = np.asarray(matches, float), np.asarray(missed, float)
    return Rechecks(
        matches=y.sum(), missed=m.sum(), matches_squared=y @ y, missed_squared=m @ m, cross=m @ y
    )


def test_without_a_match_nothing_is_known():
    for sums in (Rechecks(), sums_of([0, 0], [0, 0])):
        assert math.isnan(sums.match_recall().value)
        assert math.isnan(sums.match_recall().lower)


def test_the_share_is_that_of_all_matches_not_the_mean_over_queries():
    # 1 of 10 and 0 of 30 are missed: 39 of 40 found, where the mean would be 0.95.
    assert sums_of([10, 30], [1, 0]).match_recall().value == pytest.approx(39 / 40)


def test_without_a_miss_the_query_is_the_unit_and_every_look_counts():
    # Without a success in n trials the mixture of binomials under beta(1/2, 1/2) is
    # G(n + 1/2) / (G(n + 1) sqrt(pi)), at n = 100 0.0563; p is out once (1 - p)^n is below 0.05
    # of that: p = 1 - 0.00282^(1/100) = 0.0570, where a single look would give 0.0295.
    for size in (1, 20, 1000):
        share = sums_of([size] * 100, [0] * 100).match_recall()
        assert (share.value, share.upper) == (1.0, 1.0)
        assert share.lower == pytest.approx(1 - 0.0570, abs=1e-4)
    # One query with as many matches as 99 others: 198^2 / 9,900 = 3.96 queries, rounded to 3:
    # G(3.5) / (G(4) sqrt(pi)) = 0.3125; p = 1 - 0.015625^(1/3) = 0.75.
    lopsided = sums_of([99] + [1] * 99, [0] * 100).match_recall()
    assert lopsided.lower == pytest.approx(0.25, abs=1e-6)


def test_matches_missed_together_tell_less_than_matches_missed_apart():
    apart = sums_of([20] * 500, [1] * 100 + [0] * 400).match_recall()
    together = sums_of([20] * 500, [20] * 5 + [0] * 495).match_recall()
    assert apart.value == together.value == pytest.approx(0.99)
    assert together.lower < apart.lower < apart.value < apart.upper < together.upper


queries = st.lists(
    st.integers(0, 50).flatmap(lambda y: st.tuples(st.just(y), st.integers(0, y))), max_size=30
)


@given(queries, queries)
def test_sums_of_two_replicas_are_the_sums_of_all(one, two):
    parts = [sums_of(*np.reshape(rows, (-1, 2)).T) for rows in (one, two, one + two)]
    assert parts[0] + parts[1] == parts[2]


@given(queries)
def test_the_bounds_hold_the_share_and_stay_shares(rows):
    share = sums_of(*np.reshape(rows, (-1, 2)).T).match_recall()
    if not math.isnan(share.value):
        assert 0 <= share.lower <= share.value <= share.upper <= 1


SIZES = {
    "one": lambda rng, shape: np.ones(shape),
    "twenty": lambda rng, shape: np.full(shape, 20.0),
    "geometric": lambda rng, shape: rng.geometric(1 / 20, shape).astype(float),
    "lognormal": lambda rng, shape: np.round(rng.lognormal(2.0, 1.2, shape)),
}
MISSES = {
    "each match by itself": lambda rng, y, p: rng.binomial(y.astype(int), p),
    "whole queries": lambda rng, y, p: np.where(rng.random(y.shape) < p, y, 0),
    "half of a query": lambda rng, y, p: np.where(
        rng.random(y.shape) < 2 * p, rng.binomial(y.astype(int), 0.5), 0),
    "one of a query": lambda rng, y, p: np.minimum(y, rng.random(y.shape) < 10 * p),
}


@pytest.mark.long
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("miss", MISSES)
@pytest.mark.parametrize("share", [3e-4, 3e-3, 3e-2])
def test_the_bounds_cover_at_all_looks_at_once(size, miss, share):
    rng = np.random.default_rng(20261121)
    worlds, length = 200, 2000
    looks = np.unique(np.round(np.geomspace(1, length, 40)).astype(int)) - 1
    many = SIZES[size](rng, 2_000_000)
    truth = 1 - MISSES[miss](rng, many, share).sum() / many.sum()
    y = SIZES[size](rng, (worlds, length))
    m = MISSES[miss](rng, y, share).astype(float)
    seen = y.cumsum(axis=1)[:, looks] > 0
    sums = [np.where(seen, part.cumsum(axis=1)[:, looks], 1.0)
            for part in (y, m, y * y, m * m, m * y)]
    _, lower, upper = found_share(*sums)
    missed = (((lower > truth) | (upper < truth)) & seen).any(axis=1).mean()
    # Of 200 worlds with a chance of 0.05, more than 21 miss by chance once in 1,000 tries.
    assert missed <= 21 / 200
