"""OPIS against a slow independent implementation, and its noise correction on known worlds."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pipeline.consistency import curves as module
from pipeline.consistency.opis import opis_difference, opis_of
from pipeline.consistency.shift import curve_shift, inconsistency, reference_curve, utility_change
from pipeline.counting.operating import BUCKETS, Grid, OperatingCounts

THRESHOLDS = np.linspace(0.2, 0.8, 25).astype(np.float32)
GRID = Grid(THRESHOLDS)


def world(rng, shifts, *, identities=40, noise=0.08, pairs=6) -> OperatingCounts:
    """Customers whose identities have their own mean distance: identity noise is real."""
    total = np.zeros((len(shifts), BUCKETS, 2, GRID.bins))
    for g, shift in enumerate(shifts):
        for _ in range(identities):
            bucket, own = rng.integers(BUCKETS), rng.normal(0, noise)
            positive = rng.normal(0.35 + shift + own, 0.12, pairs).astype(np.float32)
            negative = rng.normal(0.75 + own, 0.12, 4 * pairs).astype(np.float32)
            np.add.at(total[g, bucket, 1], GRID.bin_of(positive), 1)
            np.add.at(total[g, bucket, 0], GRID.bin_of(negative), 1)
    return OperatingCounts(GRID, tuple(f"c{g}" for g in range(len(shifts))), total)


def slow_curves(counts: OperatingCounts, kept) -> np.ndarray:
    """(G, K) utility, written with loops and fractions of counts, from the formula alone."""
    curves = np.full((len(counts.groups), THRESHOLDS.size), np.nan)
    for g, k in itertools.product(range(len(counts.groups)), range(THRESHOLDS.size)):
        negatives, positives = counts.pairs[g][kept].sum(axis=0)
        if not positives.sum() or not negatives.sum():
            continue
        sens = positives[: k + 1].sum() / positives.sum()
        spec = 1 - negatives[: k + 1].sum() / negatives.sum()
        curves[g, k] = 2 * spec * sens / (spec + sens)
    return curves


def test_raw_opis_follows_the_formula():
    counts = world(np.random.default_rng(0), [0.0, 0.1, -0.05])
    curves = slow_curves(counts, slice(None))
    expected = np.mean([(u - curves.mean(axis=0)) ** 2 for u in curves])
    assert_allclose(opis_of(counts, THRESHOLDS).raw, expected, rtol=1e-12)


def test_corrected_opis_is_the_mean_product_of_halves():
    counts = world(np.random.default_rng(1), [0.0, 0.1, -0.05])
    products = []
    for half in module.HALVES:
        a, b = slow_curves(counts, half), slow_curves(counts, ~half)
        products.append((a - a.mean(axis=0)) * (b - b.mean(axis=0)))
    assert_allclose(opis_of(counts, THRESHOLDS).corrected.value, np.mean(products), rtol=1e-10)


def test_a_split_that_knows_one_group_alone_says_nothing_about_gaps():
    # Four buckets a group: in about one split of ten a group has nothing in one of the halves.
    counts = world(np.random.default_rng(6), [0.0, 0.2], identities=60)
    pairs = counts.pairs.copy()
    pairs[0, 4:], pairs[1, :28] = 0, 0
    counts = OperatingCounts(GRID, counts.groups, pairs)
    products = []
    for half in module.HALVES:
        a, b = slow_curves(counts, half), slow_curves(counts, ~half)
        if np.isfinite([a, b]).all():
            products.append((a - a.mean(axis=0)) * (b - b.mean(axis=0)))
    assert 0 < len(products) < len(module.HALVES)
    assert_allclose(opis_of(counts, THRESHOLDS).corrected.value, np.mean(products), rtol=1e-10)


def test_every_split_halves_the_buckets_differently():
    assert (module.HALVES.sum(axis=1) == BUCKETS // 2).all()
    assert len({split.tobytes() for split in module.HALVES}) == len(module.HALVES)


def test_without_a_difference_raw_is_inflated_and_corrected_is_zero_in_mean():
    rng = np.random.default_rng(2)
    results = [opis_of(world(rng, [0.0] * 6), THRESHOLDS) for _ in range(60)]
    corrected = np.asarray([r.corrected.value for r in results])
    standard_error = corrected.std(ddof=1) / np.sqrt(corrected.size)
    assert abs(corrected.mean()) < 4 * standard_error
    assert np.mean([r.raw for r in results]) > 10 * abs(corrected.mean())


def test_with_a_difference_the_interval_covers_the_truth():
    rng = np.random.default_rng(3)
    shifts = [0.0, 0.12, -0.06, 0.05, 0.0, 0.1]
    truth = opis_of(world(rng, shifts, identities=20_000), THRESHOLDS).raw
    covered = [
        r.lower <= truth <= r.upper
        for r in (opis_of(world(rng, shifts), THRESHOLDS).corrected for _ in range(80))
    ]
    assert np.mean(covered) >= 0.85


def test_the_paired_difference_is_the_difference():
    rng = np.random.default_rng(4)
    one, two = world(rng, [0.0, 0.15, -0.1]), world(rng, [0.0, 0.02, 0.0])
    difference = opis_difference(one, two, (THRESHOLDS, THRESHOLDS))
    expected = opis_of(one, THRESHOLDS).corrected.value - opis_of(two, THRESHOLDS).corrected.value
    assert_allclose(difference.value, expected, rtol=1e-12)
    assert opis_difference(one, one, (THRESHOLDS, THRESHOLDS)).lower == 0


def test_one_group_has_no_opis_and_a_group_without_positives_is_dropped_and_counted():
    counts = world(np.random.default_rng(5), [0.0, 0.1, 0.2])
    assert np.isnan(opis_of(counts.select(["c0"]), THRESHOLDS).raw)
    pairs = counts.pairs.copy()
    pairs[2, :, 1] = 0
    dropped = opis_of(OperatingCounts(GRID, counts.groups, pairs), THRESHOLDS)
    kept = opis_of(counts.select(["c0", "c1"]), THRESHOLDS)
    assert (dropped.groups_raw, dropped.groups_corrected) == (2, 2)
    assert_allclose(dropped.raw, kept.raw)
    assert_allclose(dropped.corrected.value, kept.corrected.value)


def test_a_shift_either_way_shows_while_no_change_does_not():
    rng = np.random.default_rng(6)
    calibration = world(rng, [0.0, 0.0, 0.0], identities=150)
    now = world(rng, [0.0, 0.2, -0.15], identities=150)
    same, worse, better = curve_shift(now, calibration, THRESHOLDS)
    assert same.lower <= 0 <= same.upper
    assert worse.lower > 0
    assert better.lower > 0
    at = utility_change(now, calibration, THRESHOLDS[12])
    assert at[0].lower < 0 < at[0].upper
    assert at[1].upper < 0


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.1])
def test_intervals_of_the_curve_shift_cover_with_and_without_a_change(shift):
    rng = np.random.default_rng(10)
    large = [world(rng, [s], identities=20_000) for s in (shift, 0.0)]
    truth = curve_shift(*large, THRESHOLDS)[0].value
    found = [
        curve_shift(
            world(rng, [shift], identities=60), world(rng, [0.0], identities=100), THRESHOLDS
        )[0]
        for _ in range(120)
    ]
    covered = np.mean([entry.lower <= truth <= entry.upper for entry in found])
    assert 0.88 <= covered <= 0.99
    fired = np.mean([entry.lower > 0 for entry in found])
    assert fired <= 0.12 if shift == 0 else fired > 0.2


def test_a_customer_that_crosses_the_mean_hides_from_inconsistency_but_not_from_shift():
    # .86 to .74 around .80: the gap to U_ref stays, the curve moved.
    rng = np.random.default_rng(7)
    calibration = world(rng, [-0.1, 0.1], identities=200)
    now = world(rng, [0.1, 0.1], identities=200)
    reference = reference_curve(calibration, THRESHOLDS)
    before = inconsistency(calibration, reference, THRESHOLDS)[0]
    after = inconsistency(now, reference, THRESHOLDS)[0]
    assert after.lower < before.upper
    assert curve_shift(now, calibration, THRESHOLDS)[0].lower > 0


def test_a_customer_unknown_at_calibration_has_no_shift():
    rng = np.random.default_rng(8)
    calibration, now = world(rng, [0.0, 0.0]), world(rng, [0.0, 0.0, 0.0])
    assert np.isnan(curve_shift(now, calibration, THRESHOLDS)[2].value)
    assert np.isnan(utility_change(now, calibration, THRESHOLDS[3])[2].value)


def test_thresholds_off_the_grid_are_refused():
    counts = world(np.random.default_rng(9), [0.0, 0.1])
    with pytest.raises(ValueError, match="no edge of the grid"):
        opis_of(counts, np.asarray([0.21], np.float32))
