"""Rates of one class: by hand, and intervals that hold the truth of its population."""

import math

import numpy as np
import pytest

from pipeline import distance
from pipeline.calibration.class_points import class_points
from pipeline.counting.operating import Grid
from pipeline.counting.pairs import count_classes


def points(vectors, labels, threshold, *, run=0):
    ids = np.asarray([f"{run}-{i}" for i in range(len(labels))], np.object_)
    grid = Grid(np.asarray([threshold], np.float32))
    counts = count_classes(vectors, np.asarray(labels, np.object_), ids, grid, threads=1)
    return class_points(counts, np.float32(threshold))


def test_rates_by_hand():
    # Angles in degrees. a: 0, 10, 60; b: 20, 90. Accepted below 25 degrees (d <= 1 - cos 25).
    # Positive pairs of a: 10 yes, 60 no, 50 no. Of b: 70 no.
    # Negative pairs: a0-b20 yes, a10-b20 yes, a60-b20 no, a0-b90, a10-b90, a60-b90 no: 2 of 6.
    angles = np.radians([0, 10, 60, 20, 90])
    vectors = distance.unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    overall, (a, b) = points(vectors, list("aaabb"), 1 - math.cos(math.radians(25)))
    assert (a.far.value, b.far.value, overall.far.value) == pytest.approx((2 / 6,) * 3)
    assert (a.frr.value, b.frr.value) == pytest.approx((2 / 3, 1.0))
    assert overall.frr.value == pytest.approx(3 / 4)
    # As queries the items of a get 2 true matches (one pair, both ways) and 2 false ones.
    assert (a.precision, b.precision) == pytest.approx((2 / 4, 0.0))
    assert overall.precision == pytest.approx(1 / 3)  # of 3 accepted pairs
    assert (a.identities, b.identities, overall.identities) == (3, 2, 5)
    for point in (a, b):
        for rate in (point.far, point.frr):
            assert 0 <= rate.lower <= rate.value <= rate.upper <= 1


def test_a_class_of_one_item_has_no_frr_and_says_so():
    vectors = distance.unit(np.random.default_rng(0).standard_normal((4, 3)))
    _, (alone, _) = points(vectors, ["a", "b", "b", "b"], 0.5)
    assert math.isnan(alone.frr.value)
    assert math.isnan(alone.frr.upper)
    assert math.isnan(alone.utility)
    assert not math.isnan(alone.far.value)


def test_without_an_error_the_interval_is_the_rule_of_three_on_items():
    vectors = distance.unit(np.repeat(np.eye(3), 12, axis=0))
    _, (first, *_) = points(vectors, np.repeat(list("abc"), 12).tolist(), 0.5)
    assert (first.far.value, first.far.upper) == pytest.approx((0.0, 3 / 12))
    assert (first.frr.value, first.frr.upper) == pytest.approx((0.0, 6 / 12))


@pytest.mark.parametrize(("items", "wide", "threshold"), [(10, 0.7, 0.5), (40, 1.0, 0.75)])
def test_intervals_of_a_class_hold_its_truth(items, wide, threshold):
    rng = np.random.default_rng(4)
    centre = rng.standard_normal(32)
    others = distance.unit(rng.standard_normal((120, 32)))

    def draw(n):
        return distance.unit(centre + wide * rng.standard_normal((n, 32)))

    many = draw(2000)
    inside = distance.deciding(many, many)[np.triu_indices(2000, 1)]
    far = float((distance.deciding(many, others) <= np.float32(threshold)).mean())
    frr = float((inside > np.float32(threshold)).mean())
    held, widths, runs = np.zeros(2), np.zeros(2), 250
    labels = ["a"] * items + [f"o{i % 12:02d}" for i in range(120)]
    for run in range(runs):
        _, (mine, *_) = points(np.concatenate([draw(items), others]), labels, threshold, run=run)
        for i, (rate, truth) in enumerate(((mine.far, far), (mine.frr, frr))):
            held[i] += rate.lower <= truth <= rate.upper
            widths[i] += rate.upper - rate.lower
    assert (held / runs >= 0.93).all()
    assert widths[0] / runs < 0.06
    assert widths[1] / runs < 0.6
