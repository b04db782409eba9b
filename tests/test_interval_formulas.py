"""Every formula of the intervals, worked out again with loops and the textbook's tables."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from pipeline.statistics.intervals import (
    jackknife_deviations,
    jackknife_variance,
    sequence_tail,
    student,
)


def test_student_is_symmetric_with_the_tables_quantile():
    # t(.975; 4) = 2.776445; variance 9: 3 * 2.776445 on either side of 1.
    interval = student(1.0, 9.0, 4)
    assert interval.value == 1.0
    assert_allclose([interval.lower, interval.upper], [1 - 8.329335, 1 + 8.329335], atol=1e-5)
    # t(.9; 1) = 3.077684: one degree of freedom is enough.
    one = student(0.5, 4.0, 1, tail=0.1)
    assert_allclose([one.lower, one.upper], [0.5 - 6.155367, 0.5 + 6.155367], atol=1e-5)


@pytest.mark.parametrize(
    ("value", "variance", "degrees"), [(2.0, 1.0, 0), (2.0, math.nan, 5), (math.nan, 1.0, 5)]
)
def test_student_knows_no_ends_without_freedom_variance_or_value(value, variance, degrees):
    interval = student(value, variance, degrees)
    assert_array_equal(interval.value, value)
    assert isinstance(interval.lower, float)
    assert isinstance(interval.upper, float)
    assert math.isnan(interval.lower)
    assert math.isnan(interval.upper)


def test_jackknife_deviations_by_hand():
    values, occupied = np.asarray([1.0, 5.0, 9.0, 4.0]), np.asarray([True, False, True, True])
    asked = []

    def total(kept):
        asked.append(kept.tolist())
        assert kept.dtype == np.bool_
        return np.asarray([values[kept].sum(), 0.0])

    found = jackknife_deviations(total, occupied)
    # Without 1: 18, without 9: 10, without 4: 15; mean 43 / 3; times sqrt(2 / 3).
    expected = np.sqrt(2 / 3) * (np.asarray([18.0, 10.0, 15.0]) - 43 / 3)
    assert_allclose(found, np.stack([expected, np.zeros(3)], axis=1))
    left_out = [kept.index(False) for kept in asked]
    assert left_out == [0, 2, 3]
    assert all(kept.count(False) == 1 for kept in asked)
    assert_allclose(jackknife_variance(total, occupied), [np.square(expected).sum(), 0.0])


def test_two_buckets_know_a_variance_and_one_does_not():
    values = np.asarray([1.0, 2.0])

    def total(kept):
        return np.asarray([values[kept].sum()])

    assert_allclose(
        jackknife_deviations(total, np.asarray([True, True])), [[np.sqrt(0.125)], [-np.sqrt(0.125)]]
    )
    lonely = jackknife_deviations(total, np.asarray([True, False]))
    assert lonely.shape == (1, 1)
    assert np.isnan(lonely).all()


def test_the_sequences_tail_follows_the_published_mixture():
    # Width of Robbins' normal mixture in standard errors at alpha .05:
    # -2 ln .05 = 5.991465, ln(1 + 5.991465) = 1.944690.
    for n in (1, 8, 50, 1000):
        spread = n * (5.991464547 + 1.944690190) / 50
        width = math.sqrt((spread + 1) / spread * math.log((spread + 1) / 0.0025))
        assert_allclose(stats.norm.isf(sequence_tail(n)), width, rtol=1e-7)
    assert sequence_tail(0) == sequence_tail(1)
    assert sequence_tail(2) != sequence_tail(1)
