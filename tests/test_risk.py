"""Risk control: the formulas by hand, their laws, and how often a guarantee turns out false."""

import math
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from pipeline.statistics.risk import (
    CONTROLS,
    Control,
    first_of_falling,
    last_of_rising,
    ltt_p_value,
)


def test_the_p_value_is_the_lesser_of_hoeffding_and_bentkus():
    n, alpha = 40, 0.2
    for r in (0.0, 0.025, 0.1, 0.19):
        kl = (r * math.log(r / alpha) if r else 0) + (1 - r) * math.log((1 - r) / (1 - alpha))
        terms = [math.comb(n, k) * alpha**k * (1 - alpha) ** (n - k)
                 for k in range(math.ceil(n * r - 1e-9) + 1)]
        expected = min(math.exp(-n * kl), math.e * sum(terms))
        assert_allclose(ltt_p_value(np.asarray([r]), n, alpha), [expected], rtol=1e-12)
    assert_allclose(ltt_p_value(np.asarray([0.0]), n, alpha), [0.8**40])


def test_either_bound_can_be_the_lesser():
    # At r = .19 of 40: Hoeffding exp(-.0127) = .987; Bentkus e * P(Bin(40, .2) <= 8) = 1.6.
    assert_allclose(ltt_p_value(np.asarray([0.19]), 40, 0.2), [0.9874], atol=1e-4)
    # At r = .05 of 400, alpha .1: Hoeffding 1.24e-3, Bentkus e * P(Bin(400, .1) <= 20) = 4.0e-4.
    bentkus = math.e * stats.binom.cdf(20, 400, 0.1)
    p = ltt_p_value(np.asarray([0.05]), 400, 0.1)
    assert_allclose(p, [bentkus])
    assert bentkus < math.exp(-400 * (0.05 * math.log(0.5) + 0.95 * math.log(0.95 / 0.9)))


def test_a_mean_at_or_above_the_target_has_a_p_value_of_one():
    assert_array_equal(ltt_p_value(np.asarray([0.2, 0.5, 1.0]), 40, 0.2), [1.0, 1.0, 1.0])


def test_a_whole_number_of_errors_is_not_rounded_up():
    # Six of 60 by shares that do not add up exactly: 60 * 0.1 must count 6 errors, not 7.
    r = np.asarray([0.1 + 2e-17, np.nextafter(0.1, 1)])
    assert_allclose(ltt_p_value(r, 60, 0.3), math.e * stats.binom.cdf(6, 60, 0.3))


def test_conformal_risk_control_by_hand():
    # n = 9, alpha = .2: (9 R + 1) / 10 <= .2 where R <= 1/9.
    control = Control("crc", 0.2)
    assert_array_equal(control.holds(np.asarray([0.0, 0.11, 1 / 9, 0.112, 0.2]), 9),
                       [True, True, True, False, False])


def test_plain_compares_the_mean_itself_and_the_boundary_holds():
    assert_array_equal(Control("plain", 0.2).holds(np.asarray([0.19, 0.2, 0.21]), 3),
                       [True, True, False])


def test_learn_then_test_holds_where_p_is_at_most_delta():
    # Without an error p = .95^n: .0994 at 45, .1046 at 44.
    for units, holds in ((45, True), (44, False)):
        assert Control("ltt", 0.05, 0.1).holds(np.zeros(1), units)[0] == holds
    least = float(ltt_p_value(np.zeros(1), 44, 0.05)[0])
    assert Control("ltt", 0.05, least).holds(np.zeros(1), 44)[0]
    assert not Control("ltt", 0.05, np.nextafter(least, 0)).holds(np.zeros(1), 44)[0]
    assert Control("ltt", 0.05) == Control("ltt", 0.05, 0.1)


@pytest.mark.parametrize(
    ("control", "risk", "needed"),
    [
        (Control("plain", 0.05), 0.0, 1),
        (Control("plain", 0.05), 0.05, 1),
        (Control("plain", 0.05), 0.06, math.inf),
        (Control("crc", 0.05), 0.0, 19),  # 1 / 20
        (Control("crc", 0.001), 0.0, 999),
        (Control("crc", 0.05), 0.03, 48),  # (48 * .03 + 1) / 49 = .0498, 47: .0502
        (Control("crc", 0.05), 0.05, math.inf),
        (Control("ltt", 0.05, 0.1), 0.0, 45),
        (Control("ltt", 0.001, 0.1), 0.0, 2302),
        (Control("ltt", 0.05, 0.1), 0.05, math.inf),
    ],
)
def test_the_units_needed(control, risk, needed):
    assert control.units_needed(risk) == needed
    if needed < math.inf:
        assert control.holds(np.asarray([risk]), needed)[0]
        if needed > 1:
            assert not control.holds(np.asarray([risk]), needed - 1)[0]


@given(st.sampled_from(CONTROLS), st.floats(1e-3, 0.5), st.floats(0, 0.6), st.floats(0.01, 0.5))
@example("ltt", np.nextafter(0.5, 0), 0.0, 0.5)  # one unit is a rounding short of enough
def test_the_units_needed_are_enough(kind, alpha, share, delta):
    control, risk = Control(kind, alpha, delta), share * alpha
    needed = control.units_needed(risk)
    assert control.holds(np.asarray([risk]), int(needed))[0]


def test_the_fixed_sequences_stop_at_the_first_failure():
    holds = np.asarray([True, True, False, True, True])
    assert last_of_rising(holds) == 1
    assert first_of_falling(holds) == 3
    assert last_of_rising(~holds) is None
    assert first_of_falling(~holds) is None
    everything = np.ones(4, np.bool_)
    assert last_of_rising(everything) == 3
    assert first_of_falling(everything) == 0
    assert last_of_rising(~everything) is None
    assert first_of_falling(~everything) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 400),
       st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_stricter_controls_take_less_and_a_tighter_target_too(losses, units, alpha, delta):
    risk = np.sort(np.asarray(losses))
    plain = Control("plain", alpha).holds(risk, units)
    for kind in ("crc", "ltt"):
        held = Control(kind, alpha, delta).holds(risk, units)
        assert not (held & ~plain).any()
        assert (held[:-1] >= held[1:]).all()
        tighter = Control(kind, alpha / 2, delta).holds(risk, units)
        assert not (tighter & ~held).any()


GROUPS, TARGET, DRAWS = 200, 0.05, 2000


@pytest.mark.slow
def test_a_false_guarantee_is_as_rare_as_each_control_says():
    rng = np.random.default_rng(21)
    edges = np.linspace(0, 4, 4001)
    # Each group has its own centre; the mean of all groups' FRRs is that of one wide normal.
    exact = stats.norm.sf(edges, 1, math.hypot(0.3, 0.35))
    false, taken = dict.fromkeys(CONTROLS, 0.0), dict.fromkeys(CONTROLS, 0.0)
    for _ in range(DRAWS):
        centre = rng.normal(1, 0.3, size=(GROUPS, 1))
        pairs = np.sort(rng.normal(centre, 0.35, size=(GROUPS, 60)).ravel())
        # Groups of equal size: the mean of their FRRs is that of all pairs together.
        risk = 1 - np.searchsorted(pairs, edges, side="right") / pairs.size
        for kind in CONTROLS:
            first = first_of_falling(Control(kind, TARGET, 0.1).holds(risk, GROUPS))
            false[kind] += (exact[first] > TARGET) / DRAWS
            taken[kind] += exact[first] / DRAWS
    sys.stdout.write(f"P(true FRR > {TARGET}): {false}; mean true FRR: {taken}\n")
    # methods.md section 6: pair quantile .49, CRC .30, LTT .00.
    assert 0.42 < false["plain"] < 0.58
    assert 0.2 < false["crc"] < 0.4
    assert false["ltt"] <= 0.01
    assert taken["crc"] <= TARGET


@pytest.mark.slow
@pytest.mark.parametrize("delta", [0.1, 0.3])
def test_where_groups_fail_as_a_whole_the_guarantees_are_nearly_used_up(delta):
    # Each group accepts all of its negatives from its own point on: the mean FAR of all is t.
    rng = np.random.default_rng(22)
    edges = np.linspace(0, 1, 2001)
    false, taken = dict.fromkeys(CONTROLS, 0.0), dict.fromkeys(CONTROLS, 0.0)
    for _ in range(DRAWS):
        points = np.sort(rng.random(GROUPS))
        risk = np.searchsorted(points, edges, side="right") / GROUPS
        for kind in CONTROLS:
            last = last_of_rising(Control(kind, TARGET, delta).holds(risk, GROUPS))
            false[kind] += (edges[last] > TARGET) / DRAWS
            taken[kind] += edges[last] / DRAWS
    sys.stdout.write(f"delta {delta}: P(true FAR > {TARGET}): {false}; mean true FAR: {taken}\n")
    assert 0.1 * delta < false["ltt"] <= delta
    assert false["plain"] > 0.5
    assert TARGET - 0.002 < taken["crc"] <= TARGET + 0.0005
    assert taken["plain"] > TARGET + 0.003
