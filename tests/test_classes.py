"""Counts by class and the halves of a class: laws, and names that never move a half."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.counting.classes import SPLITS, UNITS, ClassCounts, half_bits, ranks_in_class
from pipeline.counting.operating import Grid

GRID = Grid(np.asarray([0.1, 0.25, 0.5], np.float32))


def counts(seed: int = 0, groups=("ada", "bob")) -> ClassCounts:
    rng = np.random.default_rng(seed)
    shape = (len(groups), 2, GRID.bins)
    halves = rng.integers(9, size=(len(groups), SPLITS, 2, 2, GRID.bins)).astype(float)
    whole = rng.integers(99, size=shape).astype(float)
    return ClassCounts(GRID, tuple(groups), np.asarray([4, 5]), whole, halves)


def ranks(codes, ids, vectors=None) -> np.ndarray:
    vectors = np.zeros((len(codes), 2), np.float32) if vectors is None else vectors
    return ranks_in_class(np.asarray(codes, np.int64), list(ids), vectors, np.arange(len(codes)))


def split_of(items: int) -> np.ndarray:
    """(items, SPLITS) half of each item of a class of this size, by rank."""
    unit = np.arange(items) % UNITS
    return (half_bits(items)[unit][:, None] >> np.arange(SPLITS)) & 1


def test_rates_by_hand():
    whole = np.asarray([[[1, 2, 1, 6], [3, 1, 0, 4]], [[1, 0, 0, 0], [0, 0, 0, 0]]], float)
    some = dataclasses.replace(counts(), whole=whole)
    # Accepted at the second edge: 3 of 10 negatives, 4 of 8 positives.
    assert_allclose(some.far()[0], [0.1, 0.3, 0.4])
    assert_allclose(some.sensitivity()[0], [0.375, 0.5, 0.5])
    assert_allclose(some.frr()[0], [0.625, 0.5, 0.5])
    assert_allclose(some.precision()[0], [3 / 4, 4 / 7, 4 / 8])
    # spec .7, sens .5: 2 * .35 / 1.2
    assert_allclose(some.utility()[0, 1], 0.7 / 1.2)
    assert np.isnan(some.utility()[1]).all()  # no positives: unknown, not 0


def test_pooled_counts_every_negative_pair_once():
    some = counts()
    assert_array_equal(some.pooled()[0], some.whole[:, 0].sum(axis=0) / 2)
    assert_array_equal(some.pooled()[1], some.whole[:, 1].sum(axis=0))


def test_shards_of_the_same_items_add_and_others_do_not():
    both = counts(0) + counts(1)
    assert_array_equal(both.whole, counts(0).whole + counts(1).whole)
    assert_array_equal(both.halves, counts(0).halves + counts(1).halves)
    assert_array_equal(both.items, counts(0).items)
    for other in (
        dataclasses.replace(counts(1), items=np.asarray([4, 6])),
        dataclasses.replace(counts(1), groups=("ada", "eve")),
    ):
        with pytest.raises(ValueError, match="count them together"):
            counts(0) + other
    coarser = dataclasses.replace(counts(1), grid=Grid(np.asarray([0.1, 0.2, 0.5], np.float32)))
    with pytest.raises(ValueError, match="different grids"):
        counts(0) + coarser


@pytest.mark.parametrize("name", ["items", "whole", "halves"])
def test_shapes_that_do_not_fit_are_refused(name):
    short = getattr(counts(), name)[:1]
    with pytest.raises(ValueError, match=f"{name}: expected shape"):
        dataclasses.replace(counts(), **{name: short})


def test_groups_must_be_sorted():
    with pytest.raises(ValueError, match="sorted, unique"):
        counts(groups=("bob", "ada"))


@given(st.integers(1, 400))
def test_halves_hold_equally_many_items_give_or_take_one(items):
    sizes = split_of(items).sum(axis=0)
    assert (abs(2 * sizes - items) <= 1).all()


@pytest.mark.parametrize(("items", "distinct"), [(4, 3), (10, SPLITS), (33, SPLITS), (999, SPLITS)])
def test_splits_differ_from_each_other(items, distinct):
    # A split and its mirror image are the same split; of 4 items there are three.
    assert len({tuple(split ^ split[0]) for split in split_of(items).T}) == distinct


def test_the_halves_are_the_same_for_ever():
    # Computed once; a change would silently move every corrected value.
    assert half_bits(5).tolist() == [220, 33, 203, 170, 54]
    assert half_bits(33)[:6].tolist() == [170, 180, 92, 1, 113, 88]
    assert ranks([0, 0, 0, 0, 1], ["a", "b", "c", "d", "a"]).tolist() == [1, 2, 0, 3, 0]


@given(st.permutations(range(12)))
def test_the_order_of_rows_and_the_names_of_classes_move_no_rank(order):
    codes = np.asarray([0, 1, 2] * 4)
    ids = [f"i{i}" for i in range(12)]
    before = ranks(codes, ids)
    order = np.asarray(order)
    renamed = np.asarray([2, 0, 1])[codes]
    assert_array_equal(ranks(renamed[order], [ids[i] for i in order]), before[order])


def test_ranks_count_from_0_up_in_each_class():
    codes = np.random.default_rng(0).integers(5, size=200)
    found = ranks(codes, [f"i{i}" for i in range(200)])
    for code in range(5):
        assert sorted(found[codes == code]) == list(range((codes == code).sum()))


def test_one_id_of_two_customers_is_told_apart_by_the_vectors():
    vectors = np.asarray([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    codes, ids = np.zeros(3, np.int64), np.asarray(["x", "x", "y"], np.object_)
    first = ranks(codes, ids, vectors)
    turned = ranks(codes, ids[[1, 0, 2]], vectors[[1, 0, 2]])
    assert_array_equal(turned, first[[1, 0, 2]])
    assert sorted(first) == [0, 1, 2]
