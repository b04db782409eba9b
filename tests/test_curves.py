"""Curves of parts of the counts: which buckets and items they are made of."""

import hashlib
from dataclasses import replace

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.consistency.curves import (
    ALL,
    HALVES,
    BucketCurves,
    ClassCurves,
    curves_of,
    mean_over_splits,
)
from pipeline.counting.classes import SPLITS, ClassCounts
from pipeline.counting.operating import BUCKETS, Grid, OperatingCounts
from tests.opis_world import THRESHOLDS, customers

GRID = Grid(np.asarray([0.3, 0.6], np.float32))


def test_the_splits_are_the_same_for_ever():
    # Computed once; a change would move every gauge of every release.
    digest = hashlib.sha256(np.packbits(HALVES).tobytes()).hexdigest()
    assert digest[:16] == "36ed136ad16bce9d"


def test_a_bucket_is_occupied_and_evidence_by_any_weight():
    pairs = np.zeros((2, BUCKETS, 2, 3))
    pairs[0, 3, 0, 1], pairs[0, 5, 1, 2], pairs[1, 5, 1, 0], pairs[1, 9, 1, 0] = 0.1, 0.2, 3, 0.4
    curves = curves_of(OperatingCounts(GRID, ("a", "b"), pairs), GRID.edges)
    assert isinstance(curves, BucketCurves)
    assert_array_equal(np.flatnonzero(curves.occupied), [3, 5, 9])
    assert_array_equal(curves.evidence, [1, 2])


def test_halves_of_buckets_are_rates_of_their_sums():
    counts = customers(np.random.default_rng(0), [0.0, 0.1, 0.2])
    curves = BucketCurves(counts, THRESHOLDS)
    kept = np.arange(BUCKETS) % 5 > 0
    for half, (first, second), (near, far) in zip(
        HALVES, curves.split_rates(kept), curves.splits(kept), strict=True
    ):
        for mask, rates, utility in ((half, first, near), (~half, second, far)):
            part = replace(counts, pairs=counts.pairs * (mask & kept)[:, None, None])
            assert_allclose(rates[:, 0], part.far(), rtol=1e-12)
            assert_allclose(rates[:, 1], part.sensitivity(), rtol=1e-12)
            assert_allclose(utility, part.utility(), rtol=1e-12)
    assert_array_equal(curves.curve(ALL), curves.curve())


def test_many_groups_are_split_a_batch_at_a_time_with_the_same_rates():
    # 700 groups of 2 kinds at 101 thresholds: 32 splits do not fit one batch.
    rng = np.random.default_rng(1)
    grid = Grid(np.linspace(0.1, 0.9, 101).astype(np.float32))
    pairs = rng.integers(0, 3, (700, BUCKETS, 2, grid.bins)).astype(float)
    names = tuple(f"{i:03d}" for i in range(700))
    many = BucketCurves(OperatingCounts(grid, names, pairs), grid.edges)
    few = BucketCurves(OperatingCounts(grid, names[:2], pairs[:2]), grid.edges)
    pairs_of_splits = list(zip(many.splits(), few.splits(), strict=True))
    assert len(pairs_of_splits) == len(HALVES)
    for found, expected in pairs_of_splits:
        assert_allclose(found[0][:2], expected[0], rtol=1e-12)
        assert_allclose(found[1][:2], expected[1], rtol=1e-12)


def test_no_groups_have_no_curves():
    curves = BucketCurves(OperatingCounts(GRID, (), np.zeros((0, BUCKETS, 2, 3))), GRID.edges)
    assert curves.curve().shape == (0, 2)
    assert curves.halves()[0].shape == (len(HALVES), 0, 2)


def test_the_default_utility_of_classes_is_the_harmonic_mean():
    rng = np.random.default_rng(2)
    halves = rng.integers(1, 9, (2, SPLITS, 2, 2, 3)).astype(float)
    whole = halves[:, 0].sum(axis=1)
    counts = ClassCounts(GRID, ("a", "b"), np.asarray([7, 9]), whole, halves)
    assert_allclose(ClassCurves(counts, GRID.edges).curve(), counts.utility(1.0), rtol=1e-12)
    assert_allclose(curves_of(counts, GRID.edges, 3.0).curve(), counts.utility(3.0), rtol=1e-12)
    assert_array_equal(curves_of(counts, GRID.edges).evidence, [7, 9])


def test_the_mean_over_splits_leaves_out_those_that_do_not_know_the_group():
    products = np.asarray([
        [[1.0, 3.0], [np.nan, 1.0]], [[5.0, 7.0], [np.nan, np.nan]], [[np.nan, 2.0], [2.0, 4.0]]
    ])
    assert_allclose(mean_over_splits(products), [4.0, 3.0])
    assert_allclose(mean_over_splits(products[:2]), [4.0, np.nan])
