"""OPIS with classes as groups, against loops over raw distances, and what must not move it."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from pipeline import distance
from pipeline.consistency import opis as module
from pipeline.consistency.curves import BucketCurves, ClassCurves, curves_of
from pipeline.consistency.opis import (
    Opis,
    opis,
    opis_difference,
    opis_of,
    opis_population,
    split_products,
)
from pipeline.counting.operating import Grid, OperatingCounts
from pipeline.counting.pairs import count_classes
from pipeline.statistics.intervals import Interval
from tests import slow_opis
from tests.opis_world import customers

SIZES = [9, 4, 5, 3, 6, 1, 2, 7]


def items(seed, sizes=SIZES, d=5):
    rng = np.random.default_rng(seed)
    labels = [f"k{i}" for i, size in enumerate(sizes) for _ in range(size)]
    centres = np.repeat(rng.normal(size=(len(sizes), d)), sizes, axis=0)
    scatter = np.repeat(rng.uniform(0.3, 1.0, len(sizes)), sizes)[:, None]
    return distance.unit(centres + scatter * rng.normal(size=(len(labels), d))), labels


def tied(vectors, number=5):
    """Thresholds that are distances of pairs: every edge is a tie."""
    distances = np.unique(distance.deciding(vectors, vectors))
    return distances[np.linspace(distances.size // 8, distances.size // 2, number).astype(int)]


def counted(vectors, labels, thresholds):
    return count_classes(vectors, labels, [""] * len(labels), Grid(thresholds))


@pytest.mark.parametrize("c", [1.0, 0.5])
def test_opis_of_classes_follows_the_formulas(c):
    vectors, labels = items(0)
    thresholds = tied(vectors)
    found = opis_of(counted(vectors, labels, thresholds), thresholds, c=c)
    curves = slow_opis.utility(slow_opis.class_rates(vectors, labels, thresholds), c)
    products = slow_opis.class_products(vectors, labels, thresholds, c)
    assert_allclose(found.raw, slow_opis.raw_opis(curves), rtol=1e-12)
    assert_allclose(found.corrected.value, np.nanmean(products), rtol=1e-10)
    # Raw: all but the class of one item. Corrected: classes of 9, 4, 5, 6 and 7 items.
    assert (found.groups_raw, found.groups_corrected) == (7, 5)


def test_each_part_of_the_corrected_value_is_its_class():
    vectors, labels = items(1)
    thresholds = tied(vectors)
    curves = curves_of(counted(vectors, labels, thresholds), thresholds)
    assert isinstance(curves, ClassCurves)
    parts = split_products(curves.splits(), curves.evidence >= 4)
    assert_allclose(parts, slow_opis.class_products(vectors, labels, thresholds), rtol=1e-10)
    assert_array_equal(np.isnan(parts), np.asarray(SIZES) < 4)
    whole = opis_of(counted(vectors, labels, thresholds), thresholds)
    assert_allclose(whole.corrected.value, np.nanmean(parts), rtol=1e-12)


def test_halves_of_classes_are_curves_of_their_items():
    vectors, labels = items(2, [4, 6, 5])
    thresholds = tied(vectors)
    first, second = curves_of(counted(vectors, labels, thresholds), thresholds).halves()
    for split, half in enumerate(slow_opis.halves_of(vectors, labels)):
        for found, own in ((first, ~half), (second, half)):
            rates = slow_opis.class_rates(vectors, labels, thresholds, own)
            assert_allclose(found[split], slow_opis.utility(rates), rtol=1e-12)


def test_by_hand():
    # Chords on a circle; degrees 0, 20 | 90, 100. Distances: a 1 - cos 20 = .060, b 1 - cos 10 =
    # .015; between them 1 - cos(70, 80, 90, 100) = .658, .826, 1, 1.174.
    angles = np.deg2rad([0, 20, 90, 100])
    vectors = distance.unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    thresholds = np.asarray([0.03, 0.7, 0.9], np.float32)
    found = opis_of(counted(vectors, list("aabb"), thresholds), thresholds)
    # Utility at .03: a 0 (no positive), b 1. At .7 one of 4 negatives, at .9 two: sens 1, spec
    # .75 and .5, the same for both. Gaps to the mean: .5, 0, 0; (.25 + 0 + 0) / 3.
    assert_allclose(found.raw, 0.25 / 3)
    assert (found.groups_raw, found.groups_corrected) == (2, 0)
    assert math.isnan(found.corrected.value)


def test_neither_the_order_of_rows_nor_the_names_of_labels_move_opis():
    vectors, labels = items(3, [6, 8, 5, 7, 4, 9])
    order = np.random.default_rng(0).permutation(len(labels))
    plain = opis(vectors, labels, far=(0.05, 0.3))
    assert opis(vectors[order], [labels[i] for i in order], far=(0.05, 0.3)) == plain
    renamed = opis(vectors, [f"z{9 - int(label[1:])}" for label in labels], far=(0.05, 0.3))
    numbered = opis(vectors, np.asarray([int(label[1:]) for label in labels]), far=(0.05, 0.3))
    for other in (renamed, numbered):
        assert_allclose(values(other), values(plain), rtol=1e-12)


def test_by_default_utility_is_the_harmonic_mean_on_euclidean_steps_from_one_to_ten_percent():
    vectors, labels = items(10, [6, 8, 5, 7, 4, 9] * 3)
    plain = opis(vectors, labels)
    assert plain == opis(vectors, labels, far=(1e-2, 1e-1), spacing="euclidean", c=1.0)
    assert plain.raw != opis(vectors, labels, c=2.0).raw


def values(found: Opis):
    interval = found.corrected
    return [found.raw, interval.value, interval.lower, interval.upper]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.integers(0, 10_000), st.data())
def test_shards_add_up_to_the_whole(shards, seed, data):
    # Directions of whole degrees: ties among distances and with the edges are common.
    rng = np.random.default_rng(seed)
    angles = np.deg2rad(rng.integers(0, 40, 24) * 5)
    vectors = distance.unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    labels = [f"k{i}" for i in rng.integers(0, 4, 24)]
    distances = np.unique(distance.deciding(vectors, vectors)).tolist()
    some = data.draw(st.lists(st.sampled_from(distances), min_size=1, max_size=5, unique=True))
    thresholds = np.asarray(sorted(some), np.float32)
    grid, ids = Grid(thresholds), [str(i) for i in range(24)]
    parts = [
        count_classes(vectors, labels, ids, grid, threads=1, shard=(i, shards))
        for i in range(shards)
    ]
    whole = count_classes(vectors, labels, ids, grid, threads=1)
    total = sum(parts[1:], start=parts[0])
    np.testing.assert_equal(values(opis_of(total, thresholds)), values(opis_of(whole, thresholds)))


def test_the_paired_difference_is_that_of_the_classes_both_have():
    one, labels = items(4, [6, 8, 5, 7, 4, 9, 3])
    two = items(5, [6, 8, 5, 7, 4, 9, 3])[0]
    others = ["new" if label == "k1" else label for label in labels]  # k1 in the first alone
    ranges = tied(one), tied(two)
    found = opis_difference(
        counted(one, labels, ranges[0]), counted(two, others, ranges[1]), ranges
    )
    both = [0, 2, 3, 4, 5]
    parts = []
    for vectors, names, thresholds in ((one, labels, ranges[0]), (two, others, ranges[1])):
        pairs = []
        for half in slow_opis.halves_of(vectors, names):
            pairs.append([
                slow_opis.utility(slow_opis.class_rates(vectors, names, thresholds, own))
                for own in (~half, half)
            ])
        order = sorted(set(names))
        enough = [name in {f"k{i}" for i in both} for name in order]
        parts.append(slow_opis.products(pairs, enough)[enough])
    assert_allclose(found.value, np.mean(parts[0] - parts[1]), rtol=1e-10)
    assert found.lower < found.value < found.upper
    same = counted(one, labels, ranges[0])
    assert opis_difference(same, same, (ranges[0], ranges[0])) == Interval(0.0, 0.0, 0.0)


def test_customers_are_not_compared_with_classes():
    vectors, labels = items(6)
    thresholds = tied(vectors)
    classes = counted(vectors, labels, thresholds)
    people = OperatingCounts(Grid(thresholds), ("a",), np.zeros((1, 32, 2, 6)))
    for pair in ((classes, people), (people, classes)):
        with pytest.raises(ValueError, match="expected one kind"):
            opis_difference(*pair, (thresholds, thresholds))


def test_the_variance_over_the_population_is_larger_by_t_over_t_minus_one():
    entry = Opis(1.0, Interval(6e-3, 0.0, 1.0), 9, 4)
    assert_allclose(opis_population(entry), 8e-3)
    assert_allclose(opis_population(Opis(1.0, Interval(6e-3, 0.0, 1.0), 9, 2)), 12e-3)
    assert math.isnan(opis_population(Opis(1.0, Interval(6e-3, 0.0, 1.0), 9, 1)))


def test_a_group_counts_by_the_splits_that_know_it():
    known, unknown = np.asarray([[0.2, 0.4], [0.6, 0.6], [0.1, 0.3]]), np.full((3, 2), np.nan)
    once = known.copy()
    once[2] = np.nan
    groups = np.asarray([True, True, True])
    # In both splits gaps -.2, -.1 and .2, .1 without the third, which enters the first alone.
    first = slow_opis.products([(known, known)], groups)
    second = slow_opis.products([(once, known)], groups)
    found = split_products([(known, known), (once, known), (unknown, known)], groups)
    assert_allclose(found[:2], (first[:2] + second[:2]) / 2)
    assert_allclose(found[2], first[2])
    assert np.isnan(split_products([(known, known)], np.asarray([False, True, False]))).all()


def test_the_difference_of_customers_has_the_jackknife_of_the_corrected_values():
    rng = np.random.default_rng(3)
    ours, theirs = customers(rng, [0.0, 0.1, 0.2], 30), customers(rng, [0.0, 0.1, 0.1], 30)
    edges = ours.grid.edges[5:15]
    found = opis_difference(ours, theirs, (edges, edges))

    def difference(kept):
        parts = (OperatingCounts(ours.grid, c.groups, c.pairs * kept[None, :, None, None])
                 for c in (ours, theirs))  # fmt: skip
        one, two = (opis_of(part, edges).corrected.value for part in parts)
        return one - two

    everything = np.ones(32, np.bool_)
    occupied = np.flatnonzero((ours.pairs + theirs.pairs).sum(axis=(0, 2, 3)))
    values = [difference(everything & (np.arange(32) != bucket)) for bucket in occupied]
    m = len(values)
    half = stats.t.isf(0.025, m - 1) * np.sqrt((m - 1) / m * np.var(values) * m)
    assert_allclose(found.value, difference(everything), rtol=1e-9)
    assert_allclose([found.lower, found.upper], [found.value - half, found.value + half])


def test_rates_of_the_whole_are_the_sums_of_the_buckets():
    counts = customers(np.random.default_rng(0), [0.0, 0.1])
    curves = curves_of(counts, counts.grid.edges, 2.0)
    assert isinstance(curves, BucketCurves)
    assert_allclose(curves.rates()[:, 0], counts.far(), rtol=1e-12)
    assert_allclose(curves.rates()[:, 1], counts.sensitivity(), rtol=1e-12)
    assert_allclose(curves.curve(), counts.utility(2.0), rtol=1e-12)


def test_the_example_of_the_library_runs():
    assert doctest.testmod(module).attempted >= 8
    assert doctest.testmod(module).failed == 0


def unknown(found: Opis):
    return all(math.isnan(value) for value in values(found))


def test_nothing_one_class_single_items_and_equal_vectors_have_no_opis():
    vectors, labels = items(7)
    with pytest.raises(ValueError, match="at least one row"):
        opis(np.empty((0, 4)), [])
    with pytest.raises(ValueError, match=r"shape \(4,\); expected \(n, d\)"):
        opis(np.ones(4), list("aabb"))
    with pytest.raises(ValueError, match="both a positive and a negative pair"):
        opis(vectors, ["a"] * len(labels))
    with pytest.raises(ValueError, match="both a positive and a negative pair"):
        opis(vectors, [f"k{i}" for i in range(len(labels))])
    with pytest.raises(ValueError, match="both a positive and a negative pair"):
        opis(vectors, [None] * len(labels))
    with pytest.raises(ValueError, match="range is empty"):
        opis(np.ones((len(labels), 5)), labels)
    with pytest.raises(ValueError, match="both a positive and a negative pair"):
        opis(vectors[:1], labels[:1])


def test_vectors_and_labels_that_are_no_data_are_named():
    vectors, labels = items(8)
    broken = vectors.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="row 3: vector is not finite"):
        opis(broken, labels)
    broken[3] = 0
    with pytest.raises(ValueError, match="row 3: vector is zero"):
        opis(broken, labels)
    with pytest.raises(ValueError, match="37 vectors, 36 labels"):
        opis(vectors, labels[1:])
    with pytest.raises(ValueError, match="row 2: label nan; expected a str, an int, or None"):
        opis(vectors, [*labels[:2], math.nan, *labels[3:]])
    with pytest.raises(ValueError, match="unknown 'log'"):
        opis(vectors, labels, spacing="log", far=(0.05, 0.3))


def test_classes_too_small_for_a_corrected_value_are_dropped_and_counted():
    vectors, labels = items(9, [3, 2, 3, 1])
    thresholds = tied(vectors)
    found = opis_of(counted(vectors, labels, thresholds), thresholds)
    assert (found.groups_raw, found.groups_corrected) == (3, 0)
    assert found.raw > 0
    assert unknown(Opis(math.nan, found.corrected, 0, 0))
    # A single class of 4: no second one to compare it with.
    vectors, labels = items(9, [4, 2])
    one = opis_of(counted(vectors, labels, tied(vectors)), tied(vectors))
    assert (one.groups_raw, one.groups_corrected) == (2, 0)
    assert unknown(opis_of(counted(vectors[:4], labels[:4], thresholds), thresholds))
