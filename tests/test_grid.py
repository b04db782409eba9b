"""What a grid and counts refuse, word for word: people read these lines."""

import re

import numpy as np
import pytest

from pipeline.counting.operating import BUCKETS, Grid, OperatingCounts, utility


def exactly(text: str) -> str:
    return f"^{re.escape(text)}$"


@pytest.mark.parametrize(
    "edges",
    [
        np.asarray([0.1, 0.2]),
        np.asarray([[0.1, 0.2]], np.float32),
        np.asarray([], np.float32),
        np.asarray([[0.1]], np.float64),
    ],
)
def test_edges_are_a_row_of_float32(edges):
    with pytest.raises(ValueError, match=exactly("edges: expected a non-empty (T,) float32 array")):
        Grid(edges)


@pytest.mark.parametrize("edges", [[0.2, 0.1], [0.1, 0.1], [0.1, np.nan, 0.3]])
def test_edges_increase(edges):
    with pytest.raises(
        ValueError, match=exactly("edges: expected strictly increasing thresholds")
    ):
        Grid(np.asarray(edges, np.float32))


def test_one_edge_is_a_grid_of_two_bins():
    grid = Grid(np.asarray([0.5], np.float32))
    assert grid.bins == 2
    assert grid.bin_of(np.asarray([0.5, 0.6], np.float32)).tolist() == [0, 1]


def test_a_grid_refuses_another():
    grid = Grid(np.asarray([0.1, 0.2], np.float32))
    grid.require_same(Grid(np.asarray([0.1, 0.2], np.float32)))
    with pytest.raises(
        ValueError, match=exactly("counts on different grids cannot be added")
    ):
        grid.require_same(Grid(np.asarray([0.1, 0.3], np.float32)))


def test_a_threshold_that_is_no_edge_is_named_as_such():
    grid = Grid(np.asarray([0.1, 0.2], np.float32))
    words = "a threshold is no edge of the grid: counts know only their edges"
    with pytest.raises(ValueError, match=exactly(words)):
        grid.position(np.asarray([0.1, 0.15], np.float32))


def test_counts_have_the_shape_of_their_grid_and_sorted_groups():
    grid = Grid(np.asarray([0.1, 0.2], np.float32))
    right = np.zeros((2, BUCKETS, 2, 3))
    OperatingCounts(grid, ("a", "b"), right)
    words = f"pairs: expected shape (2, {BUCKETS}, 2, 3), got (2, {BUCKETS}, 2, 2)"
    with pytest.raises(ValueError, match=exactly(words)):
        OperatingCounts(grid, ("a", "b"), right[..., :2])
    for names in (("b", "a"), ("a", "a")):
        with pytest.raises(ValueError, match=exactly("groups: expected sorted, unique names")):
            OperatingCounts(grid, names, right)


def test_utility_is_zero_only_where_both_rates_are():
    found = utility(np.asarray([0.0, 0.0, 1.0, np.nan]), np.asarray([0.0, 1.0, 0.5, 0.5]))
    np.testing.assert_allclose(found, [0.0, 0.0, 2 / 3, np.nan])
    with np.errstate(all="raise"):
        utility(np.zeros(3), np.zeros(3), c=2.0)
    # c = 3: 10 * .5 * 1 / (9 * .5 + 1) = 5 / 5.5
    np.testing.assert_allclose(utility(np.ones(1), np.full(1, 0.5), 3.0), [5 / 5.5])


def test_rates_without_pairs_are_silent_nan():
    empty = OperatingCounts(
        Grid(np.asarray([0.1], np.float32)), ("a",), np.zeros((1, BUCKETS, 2, 2))
    )
    with np.errstate(all="raise"):
        for rates in (empty.far(), empty.frr(), empty.sensitivity(), empty.precision()):
            assert rates.shape == (1, 1)
            assert np.isnan(rates).all()


def test_frr_is_what_sensitivity_leaves():
    pairs = np.zeros((1, BUCKETS, 2, 2))
    pairs[0, 0, 1] = [3.0, 1.0]
    seen = OperatingCounts(Grid(np.asarray([0.1], np.float32)), ("a",), pairs)
    assert seen.frr().tolist() == [[0.25]]
    assert seen.sensitivity().tolist() == [[0.75]]
