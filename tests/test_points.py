"""What a threshold does, by hand: rates, precision and utility of customers, classes, the worst."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pipeline.calibration.points import class_point, least_utility, operating_points, utility_of
from pipeline.counting.operating import Grid
from pipeline.counting.queries import IdentityCounts
from pipeline.statistics.intervals import UNKNOWN, Interval, clustered_rate

GRID = Grid(np.asarray([0.2, 0.4], np.float32))


def counts_of(*rows) -> IdentityCounts:
    """Rows (customer, label, negatives by bin, positives by bin)."""
    return IdentityCounts(
        GRID,
        np.asarray([row[0] for row in rows], np.object_),
        np.asarray([row[1] for row in rows], np.object_),
        np.asarray([row[2:] for row in rows], np.float64),
    )


TWO = counts_of(
    ("ada", "x", [1, 0, 9], [3, 0, 1]),  # FAR 1/10, FRR 1/4 at 0.2
    ("ada", "z", [0, 4, 6], [0, 0, 0]),
    ("bob", "y", [0, 0, 20], [5, 0, 0]),
)


def ends(interval):
    return [interval.value, interval.lower, interval.upper]


def rate(errors, trials, **kind):
    return clustered_rate(np.asarray(errors, float), np.asarray(trials, float), **kind)


def test_operating_points_by_hand():
    overall, (ada, bob) = operating_points(TWO, np.float32(0.2))
    assert (ada.name, bob.name, overall.name) == ("ada", "bob", "mean over customers")
    assert (ada.far.value, ada.frr.value, ada.precision) == (0.05, 0.25, 0.75)
    assert (bob.far.value, bob.frr.value, bob.precision) == (0.0, 0.0, 1.0)
    assert (ada.identities, bob.identities, overall.identities) == (1, 1, 2)
    assert ends(ada.far) == ends(rate([1, 0], [10, 10], both_ends=True))
    assert ends(ada.frr) == [0.25, 0.0, 1.0]  # a single identity knows nothing of others
    assert ends(bob.far) == [0.0, 0.0, 1.0]
    assert overall.far.value == pytest.approx(0.025)
    assert overall.frr.value == pytest.approx(0.125)
    assert overall.precision == pytest.approx(0.875)
    assert ada.utility == pytest.approx(2 * 0.75 * 0.95 / 1.7)
    assert overall.utility == pytest.approx((ada.utility + 1) / 2)
    assert ada.utility_interval.value == pytest.approx(ada.utility)
    assert overall.utility_interval.value == pytest.approx(overall.utility)


def test_the_overall_rate_is_stratified_by_customer():
    overall, _ = operating_points(TWO, np.float32(0.2))
    strata = np.asarray(["a", "a", "b"])
    far = rate([1, 0, 0], [10, 10, 20], both_ends=True, strata=strata)
    assert ends(overall.far) == ends(far)
    frr = rate([1, 0, 0], [4, 0, 5], both_ends=False, strata=strata)
    assert ends(overall.frr) == ends(frr)


def test_the_next_threshold_accepts_more():
    _, (ada, _) = operating_points(TWO, np.float32(0.4))
    assert ada.far.value == 5 / 20
    assert ada.precision == 3 / 8
    with pytest.raises(ValueError, match="no edge of the grid"):
        operating_points(TWO, np.float32(0.3))


def test_a_customer_without_positives_is_unknown_and_in_no_mean_of_frr():
    counts = counts_of(
        ("ada", "x", [1, 0, 9], [3, 0, 1]), ("eve", "w", [0, 0, 7], [0, 0, 0])
    )
    overall, (ada, eve) = operating_points(counts, np.float32(0.2))
    assert eve.frr is UNKNOWN
    assert math.isnan(eve.precision)
    assert math.isnan(eve.utility)
    assert math.isnan(eve.utility_interval.value)
    assert eve.identities == 0
    assert overall.frr.value == ada.frr.value
    assert (overall.precision, overall.utility) == (ada.precision, ada.utility)
    assert overall.far.value == pytest.approx(0.05)
    nobody = counts_of(("eve", "w", [0, 0, 7], [0, 0, 0]))
    overall, _ = operating_points(nobody, np.float32(0.2))
    assert math.isnan(overall.precision)
    assert math.isnan(overall.utility)


def test_utility_moves_with_either_rate_in_quadrature_by_hand():
    far, frr = Interval(0.1, 0.05, 0.2), Interval(0.3, 0.2, 0.5)

    def u(a, b):
        return 2 * (1 - a) * (1 - b) / (2 - a - b)

    centre = u(0.1, 0.3)
    expected = [
        centre,
        centre - math.hypot(centre - u(0.2, 0.3), centre - u(0.1, 0.5)),
        centre + math.hypot(u(0.05, 0.3) - centre, u(0.1, 0.2) - centre),
    ]
    assert_allclose(ends(utility_of(far, frr)), expected)
    # The ends stay those of a share: .5 - hypot(.5, .5) is below 0, and so on the other side.
    assert utility_of(Interval(0.5, 0, 1), Interval(0.5, 0, 1)).lower == 0.0
    assert utility_of(Interval(0.05, 0, 1), Interval(0.05, 0, 0.1)).upper == pytest.approx(
        0.95 + math.hypot(u(0, 0.05) - 0.95, u(0.05, 0) - 0.95))
    assert utility_of(Interval(0.0, 0, 1), Interval(0.0, -0.1, 1)).upper == 1.0


def test_the_mean_over_classes_weighs_each_class_once_whichever_customers_ask():
    counts = counts_of(
        ("ada", "x", [1, 0, 9], [3, 0, 1]),
        ("bob", "x", [3, 0, 7], [5, 0, 1]),  # together FAR 4/20, FRR 2/10
        ("bob", "y", [0, 0, 1], [1, 0, 3]),  # FAR 0, FRR 3/4
        ("bob", "w", [5, 0, 0], [0, 0, 0]),  # no positive: not counted
    )
    point = class_point(counts, np.float32(0.2))
    assert point.name == "mean over classes"
    assert point.identities == 2
    assert ends(point.far) == ends(rate([0.2, 0], [1, 1], both_ends=True))
    assert ends(point.frr) == pytest.approx(ends(rate([0.2, 0.75], [1, 1], both_ends=False)))
    assert point.precision == pytest.approx((8 / 12 + 1) / 2)
    assert point.utility == pytest.approx((0.8 + 2 * 0.25 / 1.25) / 2)
    with pytest.raises(ValueError, match="no edge of the grid"):
        class_point(counts, np.float32(0.3))


def test_the_worst_customer_has_an_interval_for_as_many_looks_as_there_are_customers():
    rng = np.random.default_rng(0)
    rows = []
    for customer, share in (("ada", 0.3), ("bob", 0.1), ("eve", 0.0)):
        for i in range(30):
            wrong, missed = rng.binomial(50, share / 3), rng.binomial(20, share)
            rows.append((customer, f"{customer}{i}", [wrong, 0, 50 - wrong],
                         [20 - missed, 0, missed]))
    counts = counts_of(*rows)
    worst = least_utility(counts, np.float32(0.2))
    intervals = []
    for customer in ("ada", "bob", "eve"):
        mine = counts.pairs[counts.groups == customer]
        far = rate(mine[:, 0, 0], mine[:, 0].sum(axis=1), both_ends=True, tail=0.025 / 3)
        frr = rate(20 - mine[:, 1, 0], mine[:, 1].sum(axis=1), both_ends=False, tail=0.025 / 3)
        intervals.append(ends(utility_of(far, frr)))
    assert_allclose(ends(worst), np.min(intervals, axis=0))
    _, (ada, *_) = operating_points(counts, np.float32(0.2))
    assert worst.value == pytest.approx(ada.utility)
    assert worst.lower < ada.utility_interval.lower


def test_nobody_is_the_worst_where_no_utility_is_known():
    nobody = counts_of(("eve", "w", [0, 0, 7], [0, 0, 0]))
    assert least_utility(nobody, np.float32(0.2)) is UNKNOWN
    both = counts_of(("ada", "x", [1, 0, 9], [3, 0, 1]), ("eve", "w", [0, 0, 7], [0, 0, 0]))
    assert least_utility(both, np.float32(0.2)).value == pytest.approx(2 * 0.75 * 0.9 / 1.65)
