"""The calibration range and its thresholds, against sorting all distances and closed forms."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pipeline import distance
from pipeline.consistency.ranges import (
    CURVE_POINTS,
    FarCurve,
    calibration_range,
    class_far,
    far_curve,
    fine_grid,
    pooled_far,
    spaced,
)
from pipeline.counting.operating import BUCKETS, Grid, OperatingCounts
from pipeline.counting.pairs import count_classes

GRID = Grid(np.asarray([0.1, 0.2, 0.3, 0.4], np.float32))


def counts(rows) -> OperatingCounts:
    """Customers with (negatives, positives) by bin, spread over two buckets."""
    pairs = np.zeros((len(rows), BUCKETS, 2, GRID.bins))
    for g, row in enumerate(rows):
        pairs[g, 3], pairs[g, 9] = np.asarray(row) * 0.25, np.asarray(row) * 0.75
    return OperatingCounts(GRID, tuple(f"c{g}" for g in range(len(rows))), pairs)


# FAR .1 .3 .6 .8 and .02 .04 .1 .1; the third has no positives, the fourth no negatives.
MANY = ([10, 20, 30, 20, 20], [1, 0, 0, 0, 0])
FEW = ([4, 4, 12, 0, 180], [1, 0, 0, 0, 0])
ROWS = [MANY, FEW, ([50, 0, 0, 0, 0], [0] * 5), ([0] * 5, [7, 0, 0, 0, 0])]


def test_pooling_over_groups_is_the_mean_and_over_pairs_the_sum_of_those_with_both_kinds():
    assert_allclose(far_curve(counts(ROWS), "groups").far, [0.06, 0.17, 0.35, 0.45])
    # 14, 38, 80, 100 of 300.
    assert_allclose(far_curve(counts(ROWS), "pairs").far, [14 / 300, 38 / 300, 80 / 300, 1 / 3])
    assert_array_equal(far_curve(counts(ROWS), "pairs").edges, GRID.edges)


def test_the_range_lies_between_the_largest_thresholds_within_the_targets():
    rows = counts(ROWS)
    assert calibration_range(rows, (0.06, 0.2), "groups") == (GRID.edges[0], GRID.edges[1])
    assert calibration_range(rows, (0.17, 0.46), "groups") == (GRID.edges[1], GRID.edges[3])
    assert calibration_range(rows, (0.2, 0.3), "pairs") == (GRID.edges[1], GRID.edges[2])
    assert calibration_range(rows, (0.2, 0.3)) == (GRID.edges[1], GRID.edges[2])
    # No edge within the lower target: the first one.
    assert calibration_range(rows, (0.01, 0.36), "groups") == (GRID.edges[0], GRID.edges[2])


def test_a_far_that_equals_the_target_is_within_it():
    curve = FarCurve(GRID.edges, np.asarray([0.1, 0.25, 0.25, 0.5]))
    assert curve.largest(0.25) == GRID.edges[2]
    assert curve.largest(np.nextafter(0.25, 0)) == GRID.edges[0]
    assert curve.largest(0.05) == 0
    assert curve.largest(1.0) == GRID.edges[3]


def test_default_targets_are_one_and_ten_percent():
    curve = FarCurve(GRID.edges, np.asarray([0.01, 0.0101, 0.1, 0.11]))
    assert curve.range() == (GRID.edges[0], GRID.edges[2])


@pytest.mark.parametrize("far", [(0.1, 0.1), (0.2, 0.1), (0.0, 0.1), (0.1, 1.0)])
def test_targets_that_make_no_range_are_refused(far):
    with pytest.raises(ValueError, match="0 < low < high < 1"):
        calibration_range(counts(ROWS), far)


def test_without_pairs_of_both_kinds_there_is_no_far():
    for rows in (ROWS[2:], []):
        with pytest.raises(ValueError, match="no group has both a positive and a negative pair"):
            calibration_range(counts(rows))
    with pytest.raises(ValueError, match="unknown 'median'; expected one of pairs, groups"):
        pooled_far(GRID, np.zeros((0, 2, 5)), "median")


def items(rng, sizes, d=6):
    labels = [f"k{i}" for i, size in enumerate(sizes) for _ in range(size)]
    centres = np.repeat(rng.normal(size=(len(sizes), d)), sizes, axis=0)
    return distance.unit(centres + rng.normal(0, 0.7, (len(labels), d))), labels


def negatives(vectors, labels):
    distances = distance.deciding(vectors, vectors)
    n = len(labels)
    return np.asarray([
        distances[i, j] for i in range(n) for j in range(i) if labels[i] != labels[j]
    ])


def test_the_far_of_classes_counts_every_unordered_pair_once_and_exactly():
    vectors, labels = items(np.random.default_rng(0), [7, 2, 5, 1, 4])
    between = negatives(vectors, labels)
    found = class_far(vectors, labels)
    assert_array_equal(found.edges, fine_grid().edges)
    expected = np.searchsorted(np.sort(between), found.edges, side="right") / between.size
    assert_allclose(found.far, expected, atol=1e-15)


def test_classes_that_are_counted_have_the_range_of_their_distances():
    vectors, labels = items(np.random.default_rng(1), [7, 2, 5, 1, 4])
    between = np.sort(negatives(vectors, labels))
    # Edges on the distances themselves: every edge is a tie.
    grid = Grid(np.unique(between))
    found = count_classes(vectors, labels, [""] * len(labels), grid)
    low, high = calibration_range(found, (0.1, 0.4), "pairs")
    assert low == between[int(0.1 * between.size) - 1]
    assert high == between[int(0.4 * between.size) - 1]
    mean = np.nanmean(found.far()[found.totals()[:, 1] > 0], axis=0)
    assert_allclose(far_curve(found, "groups").far, mean)


def test_unlabelled_items_make_no_pairs():
    vectors, labels = items(np.random.default_rng(2), [4, 4, 3])
    without = class_far(vectors[:8], labels[:8])
    assert_array_equal(class_far(vectors, [*labels[:8], None, None, None]).far, without.far)


def test_thresholds_run_from_end_to_end_in_equal_steps_of_their_spacing():
    low, high = np.float32(0.3), np.float32(0.7)
    cosine = spaced(low, high, "cosine", points=5)
    assert_allclose(cosine, [0.3, 0.4, 0.5, 0.6, 0.7], rtol=1e-6)
    # Chords sqrt(.6) = .7746 and sqrt(1.4) = 1.1832; the middle one is .9789, so d = .4791.
    euclidean = spaced(low, high, "euclidean", points=3)
    assert_allclose(euclidean, [0.3, ((0.6**0.5 + 1.4**0.5) / 2) ** 2 / 2, 0.7], rtol=1e-6)
    for spacing in ("cosine", "euclidean"):
        thresholds = spaced(low, high, spacing)
        assert thresholds.dtype == np.float32
        assert thresholds.size == CURVE_POINTS == 101
        assert (thresholds[0], thresholds[-1]) == (low, high)
        assert (np.diff(thresholds) > 0).all()
        assert_array_equal(thresholds, spaced(float(low), float(high), spacing))


def test_log_far_takes_equal_steps_of_the_logarithm_of_far():
    edges = fine_grid().edges
    curve = FarCurve(edges, (edges.astype(float) / 2) ** 4)  # FAR = (d / 2)^4
    low, high = np.float32(0.5), np.float32(1.25)
    thresholds = spaced(low, high, "log_far", far_curve=curve, points=7)
    assert_allclose(thresholds, np.geomspace(0.5, 1.25, 7), rtol=1e-5)
    assert (thresholds[0], thresholds[-1]) == (low, high)


def test_log_far_moves_with_any_monotone_change_of_the_distances():
    edges = np.linspace(0.01, 2, 20_000).astype(np.float32)
    far = np.asarray(edges, float) ** 3 / 10
    there = np.float32(0.2), np.float32(0.9)
    straight = spaced(*there, "log_far", far_curve=FarCurve(edges, far))
    bent = spaced(
        *(np.float32(end**2 / 2) for end in there), "log_far",
        far_curve=FarCurve((edges**2 / 2).astype(np.float32), far),
    )
    assert_allclose(bent, straight**2 / 2, rtol=1e-3)


def test_log_far_crosses_a_plateau_at_its_far_end_and_starts_at_half_the_least_far():
    edges = np.asarray([0.1, 0.2, 0.3, 0.4, 0.5], np.float32)
    curve = FarCurve(edges, np.asarray([0.0, 0.02, 0.02, 0.08, 0.32]))
    # FAR at .1 counts as .01: .01 .02 .04 .08 .16 .32; .02 holds up to .3, .04 lies halfway to
    # .08 at .4, .16 halfway to .32 at .5.
    thresholds = spaced(0.1, 0.5, "log_far", far_curve=curve, points=6)
    assert_allclose(thresholds, [0.1, 0.3, 0.35, 0.4, 0.45, 0.5], rtol=1e-6)
    # Half steps lie halfway: that from .01 to .02 as well, whose way leads past .2 to .3.
    halfway = spaced(0.1, 0.5, "log_far", far_curve=curve, points=11)
    assert_allclose(halfway[1::2], [0.2, 0.325, 0.375, 0.425, 0.475], rtol=1e-6)
    # No edge in between: one step.
    assert_allclose(spaced(0.4, 0.5, "log_far", far_curve=curve, points=3), [0.4, 0.45, 0.5])


def test_the_fine_grid_takes_equal_steps_of_chord_length_over_all_distances():
    edges = fine_grid().edges
    assert edges.size == 16_385
    assert (edges[0], edges[-1]) == (0, 2)
    assert_allclose(np.diff(np.sqrt(2 * edges.astype(float))), 2 / 16_384, rtol=2e-3)


def test_ranges_that_hold_no_thresholds_are_refused():
    with pytest.raises(ValueError, match="range is empty"):
        spaced(0.5, 0.5, "cosine")
    with pytest.raises(ValueError, match="range is empty"):
        spaced(float("nan"), 0.5, "cosine")
    with pytest.raises(ValueError, match="too narrow for 101 thresholds"):
        spaced(0.5, np.nextafter(np.float32(0.5), np.float32(1)), "euclidean")
    with pytest.raises(ValueError, match="unknown 'log'; expected one of euclidean"):
        spaced(0.1, 0.5, "log")
    assert_array_equal(spaced(0.1, 0.5, "cosine", points=2), np.float32([0.1, 0.5]))
    with pytest.raises(ValueError, match="at least the two ends, got 1"):
        spaced(0.1, 0.5, "cosine", points=1)
    with pytest.raises(ValueError, match="expected far_curve"):
        spaced(0.1, 0.5, "log_far")
    flat = FarCurve(GRID.edges, np.asarray([0.1, 0.1, 0.1, 0.2]))
    with pytest.raises(ValueError, match="does not rise between"):
        spaced(0.1, 0.3, "log_far", far_curve=flat)
