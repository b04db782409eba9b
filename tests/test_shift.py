"""Degrees of freedom of a change: the side that is known worse decides."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pipeline.consistency.curves import BucketCurves
from pipeline.consistency.shift import curve_shift, utility_change
from pipeline.counting.operating import BUCKETS, Grid, OperatingCounts
from pipeline.statistics.intervals import jackknife_variance, student

GRID = Grid(np.asarray([0.1, 0.2], np.float32))
AT = np.float32(0.1)


def counts(accepted: list[float]) -> OperatingCounts:
    """One customer with an identity of ten positives in each bucket, and no false match."""
    pairs = np.zeros((1, BUCKETS, 2, GRID.bins))
    for bucket, share in enumerate(accepted):
        pairs[0, bucket, 1] = [10 * share, 10 * (1 - share), 0]
        pairs[0, bucket, 0, 2] = 100
    return OperatingCounts(GRID, ("a",), pairs)


def variance(seen: OperatingCounts) -> float:
    curves = BucketCurves(seen, np.asarray([AT]))
    return float(jackknife_variance(lambda kept: curves.curve(kept)[:, 0], curves.occupied)[0])


STEADY, FEW, SOME = [0.5] * 20, [0.2, 0.9, 0.4], [0.3, 0.5, 0.8, 0.6, 0.1]


@pytest.mark.parametrize(("now", "then"), [(STEADY, FEW), (FEW, STEADY)])
def test_a_side_without_noise_lends_no_freedom(now, then):
    found = utility_change(counts(now), counts(then), AT)[0]
    expected = student(found.value, variance(counts(FEW)), 2)
    assert_allclose([found.lower, found.upper], [expected.lower, expected.upper])


def test_two_noisy_sides_have_the_freedom_of_welch_and_satterthwaite():
    found = utility_change(counts(SOME), counts(FEW), AT)[0]
    one, two = variance(counts(SOME)), variance(counts(FEW))
    freedom = (one + two) ** 2 / (one**2 / 4 + two**2 / 2)
    expected = student(found.value, one + two, freedom)
    assert_allclose([found.lower, found.upper], [expected.lower, expected.upper])


def test_no_noise_at_all_is_certain_and_one_bucket_is_unknown():
    found = utility_change(counts(STEADY), counts([0.25] * 5), AT)[0]
    assert_allclose([found.lower, found.upper], found.value, rtol=1e-12)
    assert np.isnan(utility_change(counts(STEADY), counts([0.5]), AT)[0].lower)
    assert np.isnan(utility_change(counts([0.5]), counts(STEADY), AT)[0].upper)


def test_a_curve_shift_takes_its_freedom_from_the_noisier_side():
    few = [*FEW, 0.6, 0.3]
    wide = curve_shift(counts(STEADY), counts(few), GRID.edges)[0]
    same = curve_shift(counts(few), counts(STEADY), GRID.edges)[0]
    assert_allclose([wide.lower, wide.upper], [same.lower, same.upper], rtol=1e-9)
