"""The live estimate: unbiased whatever is drawn, and from few draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.counting.operating import NEGATIVE, POSITIVE, Grid, OperatingCounts, bucket_of
from pipeline.live.decisions import ReviewedQuery
from pipeline.live.population import DRAWS_A_QUERY, draw, draw_plan, live_counts, within_horizon
from tests.live_world import CUSTOMERS, calibrated, full_counts, queries, review

WORLD = calibrated()
GRID = Grid(np.array([0.25, 0.5], np.float32))


def reviewed(**facts):
    usual = {
        "query_id": "q", "customer": "a", "recorded_probability": 1.0,
        "histogram": np.array([4, 10, 6], np.uint32),
        "positive_bins": np.array([], np.int64), "positive_probabilities": np.array([]),
    }
    return ReviewedQuery(**(usual | facts))


def test_a_drawn_match_stands_for_the_inverse_of_its_probabilities():
    query = reviewed(
        recorded_probability=0.25,
        positive_bins=np.array([0, 1, 1]),
        positive_probabilities=np.array([1.0, 0.5, 0.2]),
    )
    counts = live_counts([query], GRID)
    bucket = bucket_of(["q"])[0]
    # Recorded at 1/4: everything counts 4 times. Bin 0: 1 of 4 pairs; bin 1: 2 + 5 = 7 of 10.
    np.testing.assert_allclose(counts.pairs[0, bucket, POSITIVE], [4, 28, 0])
    np.testing.assert_allclose(counts.pairs[0, bucket, NEGATIVE], [12, 12, 24])
    assert counts.pairs.sum() == 4 * 20  # nothing in any other bucket


def test_customers_are_apart_and_queries_add_up():
    both = live_counts([reviewed(), reviewed(customer="b"), reviewed(query_id="r")], GRID)
    assert both.groups == ("a", "b")
    np.testing.assert_array_equal(both.totals(), [[40, 0], [20, 0]])
    assert live_counts([], GRID).groups == ()


def test_a_query_counted_on_another_grid_is_refused():
    with pytest.raises(ValueError, match="'q' was counted in 2 bins, the release's grid has 3"):
        live_counts([reviewed(histogram=np.array([1, 2], np.uint32))], GRID)


def test_a_match_beyond_the_horizon_is_a_negative_pair_and_no_pair_is_lost():
    pairs = np.zeros((1, 32, 2, 3))
    pairs[0, 5] = [[10, 20, 30], [1, 2, 3]]
    counts = within_horizon(OperatingCounts(GRID, ("a",), pairs))
    np.testing.assert_array_equal(counts.pairs[0, 5], [[10, 20, 33], [1, 2, 0]])
    np.testing.assert_array_equal(pairs[0, 5, POSITIVE], [1, 2, 3])


@pytest.mark.parametrize(("customer", "drift"), [(CUSTOMERS[0], 0.0), (CUSTOMERS[8], 0.15)])
def test_the_mean_over_many_draws_is_the_count_under_full_labelling(customer, drift):
    repeats = 300
    pairs = queries(customer, 20, np.random.default_rng(5), drift=drift)
    names = [f"q-{customer}-{i}" for i in range(20)]
    truth = within_horizon(full_counts(pairs, WORLD.grid, customer, names))
    rng = np.random.default_rng(6)
    estimates = [
        live_counts(review(WORLD, pairs, customer, rng), WORLD.grid) for _ in range(repeats)
    ]
    for read in (OperatingCounts.accepted, OperatingCounts.utility):
        seen = np.stack([read(estimate)[0] for estimate in estimates])
        error = seen.std(axis=0, ddof=1) / np.sqrt(repeats)
        assert error.max() > 0
        assert (np.abs(seen.mean(axis=0) - read(truth)[0]) <= 4 * error + 1e-9).all()
    np.testing.assert_array_equal(estimates[0].pairs.sum(axis=2), truth.pairs.sum(axis=2))


@given(
    st.lists(st.integers(0, WORLD.grid.bins - 1), max_size=300),
    st.sampled_from((*CUSTOMERS, "a stranger")),
)
def test_every_pair_within_the_horizon_can_be_drawn_and_none_beyond(bins, customer):
    bins = np.sort(np.array(bins, np.int64))
    chance = WORLD.plan.probabilities(customer, bins)
    inside = bins < WORLD.grid.bins - 1
    assert (chance[~inside] == 0).all()
    assert ((chance[inside] > 0) & (chance[inside] <= 1)).all()
    expected = min(DRAWS_A_QUERY, int(inside.sum()))
    assert chance.sum() == pytest.approx(expected)
    drawn = draw(chance, np.random.default_rng(len(bins)))
    assert drawn.size == expected
    assert inside[drawn].all()
    # No weight is above 5 times that of even draws.
    assert (chance[inside] >= 0.2 * expected / max(inside.sum(), 1) - 1e-9).all()


def test_each_pair_is_drawn_as_often_as_its_probability_says():
    chance = np.array([1.0, 0.5, 0.0, 0.25, 0.25, 1.0, 0.9, 0.1])
    rng = np.random.default_rng(0)
    repeats = 8000
    times = np.zeros(chance.size)
    for _ in range(repeats):
        drawn = draw(chance, rng)
        assert drawn.size == 4
        times[drawn] += 1
    error = np.sqrt(chance * (1 - chance) / repeats)
    assert (np.abs(times / repeats - chance) <= 4 * error).all()


def test_pairs_whose_verdict_is_uncertain_are_drawn_more_often():
    # At calibration half of the near pairs are matches, of the far ones 1 in 1000.
    pairs = np.zeros((1, 32, 2, 3))
    pairs[0, :4] = [[500, 99_900, 800_000], [500, 100, 0]]
    baseline = OperatingCounts(GRID, ("a",), pairs)
    plan = draw_plan(baseline, GRID.edges[0])
    bins = np.repeat([0, 1], [20, 2000])
    chance = plan.probabilities("a", bins)
    # Sensitivity is 500 / 600 = .83 at the first edge and 1 at the second, so a match in bin 0
    # weighs sqrt(.5 (.17^2 + 0) / 2 + .5 .17^2) = .14 and one in bin 1 sqrt(.75 .83^2) = .72.
    # Times the deviation of a verdict: .14 * .5 = .072 against .72 * .032 = .023: 3.2 to 1.
    worth = np.array([0.0722, 0.0228])[bins]
    expected = 16 * (0.8 * worth / worth.sum() + 0.2 / 2020)
    np.testing.assert_allclose(chance, expected, rtol=0.02)
    # The fleet is this one customer: a stranger is drawn from in the same way.
    np.testing.assert_allclose(plan.probabilities("a stranger", bins), expected, rtol=0.02)


def test_a_customer_unknown_at_calibration_is_drawn_from_like_the_mean_of_the_fleet():
    pairs = np.zeros((2, 32, 2, 3))
    pairs[0, :4] = [[100, 10_000, 0], [900, 10, 0]]
    pairs[1, :4] = [[100, 10_000, 0], [900, 2000, 0]]
    plan = draw_plan(OperatingCounts(GRID, ("few", "many"), pairs), GRID.edges[0])
    bins = np.repeat([0, 1], [20, 500])
    far = [plan.probabilities(name, bins)[-1] for name in ("few", "a stranger", "many")]
    assert far == sorted(far)
    assert far[0] < 0.9 * far[1] < 0.9 * far[2]
