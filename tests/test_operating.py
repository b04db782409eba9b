"""Counts on a grid: edges, sums and rates against counting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.counting.operating import (
    BUCKETS,
    NEGATIVE,
    POSITIVE,
    Grid,
    OperatingCounts,
    bucket_of,
    load_counts,
    save_counts,
)

GRID = Grid(np.asarray([0.1, 0.25, 0.5, 0.9], np.float32))
# Distances are drawn from the grid itself, so that ties with a threshold are common.
PAIRS = st.lists(
    st.tuples(
        st.sampled_from([*GRID.edges.tolist(), 0.0, 0.3, 1.5]),
        st.booleans(),
        st.sampled_from(["ada", "bob"]),
        st.integers(0, BUCKETS - 1),
    ),
    max_size=60,
)


def counts(pairs) -> OperatingCounts:
    total = np.zeros((2, BUCKETS, 2, GRID.bins))
    for d, positive, group, bucket in pairs:
        k = int(GRID.bin_of(np.asarray([d], np.float32))[0])
        total[int(group == "bob"), bucket, int(positive), k] += 1
    return OperatingCounts(GRID, ("ada", "bob"), total)


@given(PAIRS, PAIRS)
def test_counts_of_two_shards_add_up_to_the_counts_of_all(a, b):
    merged, whole = counts(a) + counts(b), counts(a + b)
    assert_array_equal(merged.pairs, whole.pairs)


@given(PAIRS)
def test_accepted_pairs_are_those_at_most_the_threshold(pairs):
    accepted = counts(pairs).accepted()
    for g, group in enumerate(("ada", "bob")):
        for kind in (NEGATIVE, POSITIVE):
            for t, edge in enumerate(GRID.edges):
                expected = sum(
                    np.float32(d) <= edge and positive == bool(kind) and name == group
                    for d, positive, name, _ in pairs
                )
                assert accepted[g, kind, t] == expected


def test_rates_by_hand():
    pairs = [(0.1, True, "ada", 0), (0.3, True, "ada", 1), (0.25, False, "ada", 2)]
    pairs += [(1.5, False, "ada", 3)] * 3
    seen = counts(pairs)
    # At 0.25: 1 of 2 positives, 1 of 4 negatives; spec .75, sens .5: 2 * .375 / 1.25 = .6
    assert seen.sensitivity()[0, 1] == 0.5
    assert seen.far()[0, 1] == 0.25
    assert seen.precision()[0, 1] == 0.5
    assert_allclose(seen.utility()[0, 1], 0.6)
    # c = 2: 5 * .375 / (4 * .75 + .5) = 1.875 / 3.5
    assert_allclose(seen.utility(2.0)[0, 1], 1.875 / 3.5)


def test_unknown_is_nan_and_never_a_plausible_number():
    seen = counts([(0.1, False, "ada", 0)])
    assert np.isnan(seen.utility()).all()
    assert np.isnan(seen.far()[1]).all()
    assert np.isnan(seen.precision()[1]).all()


def test_no_sensitivity_and_no_specificity_is_utility_zero():
    seen = counts([(0.1, False, "ada", 0), (1.5, True, "ada", 0)])
    assert_array_equal(seen.utility()[0], 0.0)


def test_a_threshold_off_the_grid_is_an_error():
    assert_array_equal(GRID.position(np.asarray([0.9, 0.1], np.float32)), [3, 0])
    with pytest.raises(ValueError, match="no edge of the grid"):
        GRID.position(np.asarray([np.nextafter(np.float32(0.5), np.float32(1))]))
    with pytest.raises(ValueError, match="no edge of the grid"):
        GRID.position(np.asarray([1.2], np.float32))


def test_counts_on_different_grids_do_not_add():
    other = Grid(np.asarray([0.1, 0.2], np.float32))
    with pytest.raises(ValueError, match="different grids"):
        counts([]) + OperatingCounts(other, ("ada",), np.zeros((1, BUCKETS, 2, 3)))


def test_groups_unite_by_name():
    one = counts([(0.1, True, "ada", 0)]).select(["ada"])
    two = counts([(0.1, True, "bob", 0)]).select(["bob"])
    both = one + two
    assert both.groups == ("ada", "bob")
    assert_array_equal(both.totals(), [[0, 1], [0, 1]])


def test_buckets_are_stable_for_ever_and_spread():
    # Computed once; a change would silently break every release's counts.
    assert bucket_of(["1f385", "emoji", ""]).tolist() == [7, 22, 14]
    spread = np.bincount(bucket_of([str(i) for i in range(6400)]), minlength=BUCKETS)
    assert spread.min() > 140
    assert spread.max() < 270


def test_counts_survive_the_disk(tmp_path):
    seen = counts([(0.1, True, "ada", 5), (0.9, False, "bob", 31)])
    save_counts(tmp_path / "counts.npz", {"a.b": seen, "c": seen + seen})
    back = load_counts(tmp_path / "counts.npz")
    assert sorted(back) == ["a.b", "c"]
    assert back["c"].groups == ("ada", "bob")
    assert_array_equal(back["c"].pairs, 2 * seen.pairs)
    assert_array_equal(back["a.b"].grid.edges, GRID.edges)


@given(PAIRS, st.sampled_from([-0.1, 0.0, 0.1, 0.2, 0.25, 0.3, 0.5, 0.9, 1.0, 1.5, 2.0]))
def test_between_edges_the_accepted_pairs_lie_within_their_bounds(pairs, threshold):
    lower, upper = counts(pairs).bounds(threshold)
    for g, group in enumerate(("ada", "bob")):
        for kind in (NEGATIVE, POSITIVE):
            mine = [d for d, positive, name, _ in pairs if (positive, name) == (bool(kind), group)]
            truth = sum(np.float32(d) <= np.float32(threshold) for d in mine)
            assert lower[g, kind] <= truth <= upper[g, kind]
            if np.float32(threshold) in GRID.edges:
                assert lower[g, kind] == upper[g, kind]
            bin_ = int(GRID.bin_of(np.asarray([threshold], np.float32))[0])
            in_bin = sum(int(GRID.bin_of(np.asarray([d], np.float32))[0]) == bin_ for d in mine)
            assert upper[g, kind] - lower[g, kind] in (0, in_bin)


def test_bounds_at_no_number_are_an_error():
    with pytest.raises(ValueError, match="threshold is not a number"):
        counts([]).bounds(float("nan"))
