"""The threshold: its rule checked by trying every threshold, and its refusals."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from pipeline.calibration import (
    CURVE_POINTS,
    CalibrationError,
    choose,
    curve_thresholds,
    fine_grid,
    operating_grid,
    operating_points,
)
from pipeline.counting import IdentityCounts
from pipeline.intervals import wilson
from pipeline.operating import Grid
from pipeline.rules import CalibrationConfig

GRID = fine_grid()


def pooled(rng, spread=(0.0, 0.1, -0.05), pairs=3000) -> IdentityCounts:
    """Fine counts of three customers whose negatives lie at different distances."""
    total = np.zeros((len(spread), 2, GRID.bins))
    for g, shift in enumerate(spread):
        negative = np.clip(rng.normal(0.9 + shift, 0.15, pairs), 0, 2).astype(np.float32)
        positive = np.clip(rng.normal(0.3, 0.12, pairs // 10), 0, 2).astype(np.float32)
        np.add.at(total[g, 0], GRID.bin_of(negative), 1)
        np.add.at(total[g, 1], GRID.bin_of(positive), 1)
    names = np.asarray([f"c{g}" for g in range(len(spread))], np.object_)
    return IdentityCounts(GRID, names, np.asarray([""] * len(spread), np.object_), total)


def mean_far(counts: IdentityCounts, edge: int) -> float:
    rates = counts.pairs[:, 0, : edge + 1].sum(axis=1) / counts.pairs[:, 0].sum(axis=1)
    return float(rates.mean())


@pytest.mark.parametrize("target", [1e-3, 5e-3, 0.05])
def test_far_target_takes_the_largest_threshold_that_meets_it(target):
    counts = pooled(np.random.default_rng(0))
    config = CalibrationConfig(far_target=target)
    threshold = choose(counts, config).threshold
    edge = int(GRID.position(np.asarray([threshold]))[0])
    assert mean_far(counts, edge) <= target
    assert mean_far(counts, edge + 1) > target


def test_tightening_the_target_moves_the_threshold_down():
    counts = pooled(np.random.default_rng(1))
    thresholds = [
        choose(counts, CalibrationConfig(far_target=t)).threshold for t in (0.1, 0.01, 0.001)
    ]
    assert thresholds == sorted(thresholds, reverse=True)


def test_the_customer_is_the_unit_so_a_large_one_cannot_set_the_threshold():
    counts = pooled(np.random.default_rng(2))
    larger = counts.pairs.copy()
    larger[1] *= 1000
    config = CalibrationConfig()
    assert choose(counts, config) == choose(dataclasses.replace(counts, pairs=larger), config)


def test_max_mean_utility_beats_every_other_threshold():
    counts = pooled(np.random.default_rng(3))
    threshold = choose(counts, CalibrationConfig(rule="max_mean_utility")).threshold
    shares = counts.pairs[:, :, :-1].cumsum(axis=2) / counts.pairs.sum(axis=2)[:, :, None]
    spec, sens = 1 - shares[:, 0], shares[:, 1]
    means = (2 * spec * sens / np.maximum(spec + sens, 1e-300)).mean(axis=0)
    assert means[GRID.position(np.asarray([threshold]))[0]] == means.max()


def test_the_range_holds_the_threshold_and_says_when_it_had_to_grow():
    counts = pooled(np.random.default_rng(4))
    grown = choose(counts, CalibrationConfig(far_target=1e-3))
    assert grown.widened
    assert grown.range_low == grown.threshold
    inside = choose(counts, CalibrationConfig(far_target=0.05))
    assert not inside.widened
    assert inside.range_low < inside.threshold < inside.range_high


@pytest.mark.parametrize("spacing", ["euclidean", "cosine"])
def test_the_curve_has_its_ends_and_equal_steps(spacing):
    choice = choose(pooled(np.random.default_rng(5)), CalibrationConfig())
    thresholds = curve_thresholds(choice, spacing)
    assert thresholds.size == CURVE_POINTS
    assert (thresholds[0], thresholds[-1]) == (choice.range_low, choice.range_high)
    steps = np.diff(np.sqrt(2.0 * thresholds) if spacing == "euclidean" else thresholds)
    assert steps.max() - steps.min() < 1e-5
    grid = operating_grid(choice, spacing)
    assert_array_equal(grid.edges[grid.position(thresholds)], thresholds)
    grid.position(np.asarray([choice.threshold]))


def test_data_that_carry_no_threshold_are_refused_with_a_reason():
    counts = pooled(np.random.default_rng(6))
    for kind in (0, 1):
        lacking = counts.pairs.copy()
        lacking[:, kind] = 0
        with pytest.raises(CalibrationError, match="no customer has both a positive and a neg"):
            choose(dataclasses.replace(counts, pairs=lacking), CalibrationConfig())
    collapsed = np.zeros_like(counts.pairs)
    collapsed[:, :, 0] = 50
    with pytest.raises(CalibrationError, match="different labels on the same point"):
        choose(dataclasses.replace(counts, pairs=collapsed), CalibrationConfig())


def test_a_customer_without_positives_does_not_move_the_threshold():
    counts = pooled(np.random.default_rng(7))
    pairs = counts.pairs.copy()
    pairs[2, 1] = 0
    only = IdentityCounts(GRID, counts.groups[:2], counts.identities[:2], counts.pairs[:2])
    config = CalibrationConfig()
    lacking = choose(dataclasses.replace(counts, pairs=pairs), config)
    assert lacking.threshold == choose(only, config).threshold


def test_operating_points_by_hand():
    grid = Grid(np.asarray([0.2, 0.4], np.float32))
    rows = np.zeros((2, 2, 3))
    rows[0, 1] = [3, 0, 1]  # ada: 3 of 4 positives accepted at 0.2
    rows[0, 0] = [1, 0, 9]  # and 1 of 10 negatives
    rows[1, 1] = [5, 0, 0]  # bob: all 5, and none of 20
    rows[1, 0] = [0, 0, 20]
    counts = IdentityCounts(
        grid, np.asarray(["ada", "bob"], np.object_), np.asarray(["x", "y"], np.object_), rows
    )
    overall, (ada, bob) = operating_points(counts, np.float32(0.2))
    assert (ada.far.value, ada.frr.value, ada.precision) == (0.1, 0.25, 0.75)
    assert (bob.far.value, bob.frr.value, bob.precision) == (0.0, 0.0, 1.0)
    assert overall.far.value == pytest.approx(0.05)
    assert overall.precision == pytest.approx(0.875)
    assert bob.far.upper == 1.0  # the rule of three on a single identity knows nothing
    assert wilson(0.1, 10).upper < 1.0
