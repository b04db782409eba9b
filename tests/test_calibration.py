"""The threshold: its rule checked by trying every threshold, and its refusals."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from pipeline.calibration.choice import (
    CalibrationError,
    Choice,
    choose,
    curve_thresholds,
    operating_grid,
    require_units,
)
from pipeline.calibration.rates import customer_rates, mean_rates
from pipeline.calibration.rules import CalibrationConfig, targets
from pipeline.consistency.ranges import CURVE_POINTS, fine_grid
from pipeline.counting.queries import IdentityCounts
from pipeline.strict import RecipeError

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



def mean_frr(counts: IdentityCounts, edge: int) -> float:
    rejected = counts.pairs[:, 1, edge + 1 :].sum(axis=1) / counts.pairs[:, 1].sum(axis=1)
    return float(rejected.mean())


def edge_of(choice: Choice) -> int:
    return int(GRID.position(np.asarray([choice.threshold]))[0])


@pytest.mark.parametrize("target", [0.01, 0.05, 0.2])
def test_frr_target_takes_the_smallest_threshold_that_meets_it(target):
    counts = pooled(np.random.default_rng(10))
    edge = edge_of(choose(counts, CalibrationConfig(rule="frr_target", frr_target=target)))
    assert mean_frr(counts, edge) <= target
    assert mean_frr(counts, edge - 1) > target
    choice = choose(counts, CalibrationConfig(rule="frr_target", frr_target=target))
    assert choice.guarantee == (
        "Plain rule, no risk control: the smallest threshold at which, averaged over 3 customers, "
        f"FRR is at most {target:g} on the calibrate classes."
    )


def test_both_targets_take_the_largest_threshold_between_them():
    counts = pooled(np.random.default_rng(11))
    far = choose(counts, CalibrationConfig(far_target=0.01))
    frr = choose(counts, CalibrationConfig(rule="frr_target", frr_target=0.05))
    assert frr.threshold < far.threshold
    config = CalibrationConfig(rule="both_targets", far_target=0.01, frr_target=0.05)
    both = choose(counts, config)
    assert both.threshold == far.threshold
    assert both.guarantee == (
        "Plain rule, no risk control: the largest threshold at which, averaged over 3 customers, "
        "FAR is at most 0.01 and FRR is at most 0.05 on the calibrate classes."
    )
    with pytest.raises(CalibrationError) as caught:
        choose(counts, CalibrationConfig(rule="both_targets", far_target=1e-3, frr_target=1e-3))
    low = choose(counts, CalibrationConfig(rule="frr_target", frr_target=1e-3)).threshold
    high = choose(counts, CalibrationConfig(far_target=1e-3)).threshold
    assert str(caught.value) == (
        f"no threshold meets both targets: FRR 0.001 takes at least {low:.6f}, FAR 0.001 at most "
        f"{high:.6f}; raise one of them"
    )


def test_both_targets_meet_where_one_threshold_alone_is_left():
    # Positives end in bin 5000 and negatives begin in bin 5001: only edge 5000 has no error.
    total = np.zeros((2, 2, GRID.bins))
    total[:, 1, [4000, 5000]] = 10
    total[:, 0, [5001, 9000]] = 10
    counts = of_customers(total)
    config = CalibrationConfig(rule="both_targets", range_far=(0.4, 0.6))
    assert edge_of(choose(counts, config)) == 5000


def of_customers(total) -> IdentityCounts:
    names = np.asarray([f"c{g:04d}" for g in range(len(total))], np.object_)
    return IdentityCounts(GRID, names, np.asarray([""] * len(total), np.object_), total)


def many(rng, customers: int) -> IdentityCounts:
    """Fine counts of many customers with few pairs each."""
    total = np.zeros((customers, 2, GRID.bins))
    for g in range(customers):
        shift = rng.normal(0, 0.05)
        np.add.at(total[g, 0], GRID.bin_of(rng.normal(0.9 + shift, 0.15, 300).astype("f4")), 1)
        np.add.at(total[g, 1], GRID.bin_of(rng.normal(0.35 + shift, 0.1, 60).astype("f4")), 1)
    return of_customers(total)


MANY = many(np.random.default_rng(12), 120)
MANY_RATES, FEW = customer_rates(MANY), pooled(np.random.default_rng(16))


def test_conformal_risk_control_counts_one_more_customer_that_fails():
    far = choose(MANY, CalibrationConfig(far_target=0.02, control="crc"))
    edge = edge_of(far)
    assert (120 * mean_far(MANY, edge) + 1) / 121 <= 0.02
    assert (120 * mean_far(MANY, edge + 1) + 1) / 121 > 0.02
    assert far.units == 120
    assert far.guarantee == (
        "Conformal risk control: for one more customer drawn like the 120 of the calibrate "
        "classes, FAR is at most 0.02 in the mean."
    )
    config = CalibrationConfig(rule="frr_target", frr_target=0.02, control="crc")
    edge = edge_of(choose(MANY, config))
    assert (120 * mean_frr(MANY, edge) + 1) / 121 <= 0.02
    assert (120 * mean_frr(MANY, edge - 1) + 1) / 121 > 0.02


def test_learn_then_test_takes_the_last_threshold_that_passed():
    def p_value(r, alpha, n=120):
        kl = stats.entropy([r, 1 - r], [alpha, 1 - alpha])
        tail = np.e * stats.binom.cdf(np.ceil(n * r - 1e-9), n, alpha)
        return min(np.exp(-n * kl) if r < alpha else 1.0, tail)

    config = CalibrationConfig(far_target=0.1, control="ltt", delta=0.2)
    far = choose(MANY, config)
    edge = edge_of(far)
    assert p_value(mean_far(MANY, edge), 0.1) <= 0.2 < p_value(mean_far(MANY, edge + 1), 0.1)
    assert far.guarantee == (
        "Learn then test: with probability 0.8 over the draw of the 120 customers of the "
        "calibrate classes, FAR is at most 0.1, averaged over all customers like them."
    )
    config = dataclasses.replace(config, rule="frr_target", frr_target=0.1)
    edge = edge_of(choose(MANY, config))
    assert p_value(mean_frr(MANY, edge), 0.1) <= 0.2 < p_value(mean_frr(MANY, edge - 1), 0.1)


def test_two_targets_share_delta():
    one = CalibrationConfig(far_target=0.1, control="ltt", delta=0.1)
    two = CalibrationConfig(rule="both_targets", far_target=0.1, frr_target=0.3, control="ltt",
                            delta=0.2)
    assert choose(MANY, one).threshold == choose(MANY, two).threshold
    assert choose(MANY, dataclasses.replace(two, delta=0.1)).threshold < choose(MANY, two).threshold


@settings(max_examples=50)
@given(st.sampled_from(["plain", "crc", "ltt"]), st.floats(0.05, 0.4), st.floats(0.3, 1))
def test_tightening_a_target_moves_frr_up_and_far_down(control, target, factor):
    def threshold(rule, alpha):
        config = CalibrationConfig(rule=rule, far_target=alpha, frr_target=alpha, control=control)
        return choose(FEW, config, MANY_RATES).threshold

    tight = max(target * factor, 0.02)  # what 120 customers can certify
    assert threshold("frr_target", tight) >= threshold("frr_target", target)
    assert threshold("far_target", tight) <= threshold("far_target", target)


@pytest.mark.parametrize("control", ["plain", "crc", "ltt"])
def test_a_perfect_encoder_gets_the_smallest_threshold_and_never_two(control):
    total = np.zeros((60, 2, GRID.bins))
    total[:, 1, 0] = 5  # every positive at distance 0
    total[:, 0, 8000:8100] = 1
    config = CalibrationConfig(rule="frr_target", frr_target=0.05, control=control)
    choice = choose(of_customers(total), config)
    assert choice.threshold == GRID.edges[0] == 0
    assert choice.widened
    # All positives in one bin further out: the edge that holds it, not the one before.
    total[:, 1] = 0
    total[:, 1, 700] = 5
    assert edge_of(choose(of_customers(total), config)) == 700


@pytest.mark.parametrize(
    ("config", "customers", "message"),
    [
        (
            CalibrationConfig(control="crc"), 120,
            "calibration.control = 'crc' cannot certify FAR 0.001 on 120 customers even without "
            "an error: it takes 999, 879 more; add customers, raise calibration.far_target, or "
            "set control = 'plain'",
        ),
        (
            CalibrationConfig(rule="frr_target", frr_target=0.05, control="ltt"), 44,
            "calibration.control = 'ltt' cannot certify FRR 0.05 with delta 0.1 on 44 customers "
            "even without an error: it takes 45, 1 more; add customers, raise "
            "calibration.frr_target, or set control = 'plain'",
        ),
        (
            CalibrationConfig(rule="both_targets", frr_target=0.02, far_target=0.1,
                              control="crc"), 40,
            "calibration.control = 'crc' cannot certify FRR 0.02 on 40 customers even without an "
            "error: it takes 49, 9 more; add customers, raise calibration.frr_target, or set "
            "control = 'plain'",
        ),
    ],
)  # fmt: skip
def test_what_the_data_cannot_certify_is_refused_with_the_number_that_would(
    config, customers, message
):
    counts = dataclasses.replace(
        MANY, groups=MANY.groups[:customers], identities=MANY.identities[:customers],
        pairs=MANY.pairs[:customers],
    )  # fmt: skip
    with pytest.raises(CalibrationError) as caught:
        choose(counts, config)
    assert str(caught.value) == message
    with pytest.raises(CalibrationError) as early:
        require_units(customers, config)
    assert str(early.value) == message


def test_enough_units_are_not_refused_before_a_training():
    require_units(999, CalibrationConfig(control="crc"))
    require_units(45, CalibrationConfig(rule="frr_target", control="ltt"))
    require_units(1, CalibrationConfig())
    require_units(1, CalibrationConfig(rule="max_min_utility"))
    with pytest.raises(CalibrationError, match="on 998 classes even without an error: it takes "
                                               "999, 1 more; add classes, raise"):
        require_units(998, CalibrationConfig(control="crc", unit="label"))


def test_errors_that_no_threshold_avoids_raise_the_number_of_units():
    # A sixth of one pair in 60 lies at distance 0 although its labels differ: mean FAR 1/60.
    total = np.zeros((30, 2, GRID.bins))
    total[:, 0, 0] = 1
    total[:, 0, 9000:9059] = 1
    total[:, 1, 100] = 5
    config = CalibrationConfig(far_target=0.04, control="crc", range_far=(0.1, 0.5))
    # (n / 60 + 1) / (n + 1) <= .04 from n = .96 / (.04 - 1/60) = 41.1 on.
    with pytest.raises(CalibrationError, match=r"on 30 customers with a mean FAR of 0.017: it "
                                               r"takes 42, 12 more; add customers"):
        choose(of_customers(total), config)
    assert choose(of_customers(np.concatenate([total, total[:12]])), config).threshold > 0
    with pytest.raises(CalibrationError) as caught:
        choose(of_customers(total), dataclasses.replace(config, far_target=0.01))
    assert str(caught.value) == (
        "no threshold above 0 has a mean FAR of at most 0.01; the embedding puts different "
        "labels on the same point"
    )


def test_positives_that_the_index_never_proposes_are_named():
    total = np.zeros((3, 2, GRID.bins))
    total[:, 0, 9000] = 10
    total[:, 1, 100] = 9
    total[:, 1, -1] = 1  # beyond the last edge: not proposed
    with pytest.raises(CalibrationError) as caught:
        choose(of_customers(total), CalibrationConfig(rule="frr_target", frr_target=0.05))
    assert str(caught.value) == (
        "no threshold has a mean FRR of at most 0.05: the index does not propose 0.1 of the "
        "positives; raise index.match_recall"
    )


def test_max_min_utility_beats_every_other_threshold_for_the_worst_customer():
    counts = pooled(np.random.default_rng(13), spread=(0.0, 0.3, -0.3))
    choice = choose(counts, CalibrationConfig(rule="max_min_utility"))
    shares = counts.pairs[:, :, :-1].cumsum(axis=2) / counts.pairs.sum(axis=2)[:, :, None]
    spec, sens = 1 - shares[:, 0], shares[:, 1]
    worst = (2 * spec * sens / np.maximum(spec + sens, 1e-300)).min(axis=0)
    assert worst[edge_of(choice)] == worst.max()
    mean = choose(counts, CalibrationConfig(rule="max_mean_utility"))
    assert worst[edge_of(mean)] < worst.max()
    assert choice.guarantee == (
        "Plain rule, no risk control: the threshold at which the worst of 3 customers has its "
        "largest utility on the calibrate classes."
    )
    assert mean.guarantee == (
        "Plain rule, no risk control: the threshold of the largest mean utility over 3 customers "
        "on the calibrate classes."
    )


def test_a_customer_whom_no_threshold_serves_is_an_error_of_max_min_utility():
    total = np.zeros((2, 2, GRID.bins))
    total[0, 0, 9000], total[0, 1, 100] = 5, 5
    total[1, 0, 200], total[1, 1, 9000] = 5, 5  # all negatives nearer than all positives
    config = CalibrationConfig(rule="max_min_utility")
    with pytest.raises(CalibrationError) as caught:
        choose(of_customers(total), config)
    assert str(caught.value) == (
        "at every threshold some customer has utility 0: no threshold serves the worst of them; "
        "add labelled items, or take another calibration.rule"
    )


@pytest.mark.parametrize("rule", ["max_mean_utility", "max_min_utility"])
@pytest.mark.parametrize("control", ["crc", "ltt"])
def test_risk_control_of_utility_is_an_error_that_says_why(rule, control):
    with pytest.raises(RecipeError) as caught:
        CalibrationConfig(rule=rule, control=control)
    assert str(caught.value) == (
        f"control: expected 'plain' under rule = '{rule}': risk control needs a rate that only "
        "rises or only falls with the threshold, and utility does both; or take rule = "
        "'far_target' or 'frr_target'"
    )


def test_the_worst_class_is_no_rule():
    with pytest.raises(RecipeError, match="unit: expected 'customer' under rule = 'max_min_util"):
        CalibrationConfig(rule="max_min_utility", unit="label")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rule": "best"}, "rule: expected 'far_target', 'frr_target', 'both_targets', "
                           "'max_mean_utility' or 'max_min_utility'"),
        ({"control": "conformal"}, "control: expected 'plain', 'crc' or 'ltt'"),
        ({"unit": "class"}, "unit: expected 'customer' or 'label'"),
        ({"spacing": "log"}, "spacing: expected 'euclidean', 'cosine' or 'log_far'"),
        ({"far_target": 0.0}, "far_target: expected between 0 and 1"),
        ({"frr_target": 1.0}, "frr_target: expected between 0 and 1"),
        ({"delta": 0.0}, "delta: expected between 0 and 1"),
        ({"range_far": (0.1, 0.1)}, "range_far: expected two FARs, 0 < low < high < 1"),
    ],
)  # fmt: skip
def test_an_impossible_setting_gets_one_line(changed, message):
    with pytest.raises(RecipeError) as caught:
        CalibrationConfig(**changed)
    assert str(caught.value) == message


def test_the_targets_of_a_rule():
    config = CalibrationConfig(far_target=0.01, frr_target=0.1)
    expected = {
        "far_target": {"far": 0.01}, "frr_target": {"frr": 0.1},
        "both_targets": {"far": 0.01, "frr": 0.1}, "max_mean_utility": {}, "max_min_utility": {},
    }  # fmt: skip
    for rule, limits in expected.items():
        assert targets(dataclasses.replace(config, rule=rule)) == limits


def test_classes_as_units_have_rates_of_their_own():
    customers = pooled(np.random.default_rng(14))
    classes = mean_rates(GRID.edges, "label", MANY.pairs)
    choice = choose(customers, CalibrationConfig(unit="label", far_target=0.02), classes)
    edge = edge_of(choice)
    assert mean_far(MANY, edge) <= 0.02 < mean_far(MANY, edge + 1)
    # The range stays that of the customers, whose curves are compared.
    of_range = choose(customers, CalibrationConfig(far_target=0.02))
    assert choice.range_high == of_range.range_high
    assert choice.units == 120
    assert "averaged over 120 classes, FAR is at most 0.02 on" in choice.guarantee
    with pytest.raises(ValueError, match="rates over the unit 'customer'; expected 'label'"):
        choose(customers, CalibrationConfig(unit="label"))
    nothing = mean_rates(GRID.edges, "label", [])
    with pytest.raises(CalibrationError, match=r"^no class has both a positive and a negative"):
        choose(customers, CalibrationConfig(unit="label"), nothing)


def test_the_guarantee_of_a_class_speaks_of_classes():
    classes = mean_rates(GRID.edges, "label", MANY.pairs)
    config = CalibrationConfig(unit="label", far_target=0.1, control="crc")
    assert "for one more class drawn like the 120" in choose(MANY, config, classes).guarantee
    config = dataclasses.replace(config, control="ltt")
    assert choose(MANY, config, classes).guarantee.endswith("averaged over all classes like them.")


def test_log_far_keeps_its_thresholds_and_rises_in_equal_steps():
    counts = pooled(np.random.default_rng(15), pairs=40_000)
    choice = choose(counts, CalibrationConfig(far_target=0.05, spacing="log_far"))
    thresholds = curve_thresholds(choice, "log_far")
    assert thresholds.size == CURVE_POINTS
    assert (thresholds[0], thresholds[-1]) == (choice.range_low, choice.range_high)
    shares = counts.pairs[:, 0].cumsum(axis=1)[:, :-1] / counts.pairs[:, 0].sum(axis=1)[:, None]
    steps = np.diff(np.log(np.interp(thresholds, GRID.edges, shares.mean(axis=0))))
    assert_allclose(steps, steps.mean(), rtol=0.2)
    assert choose(counts, CalibrationConfig(far_target=0.05)).curve == ()
    assert operating_grid(choice, "log_far").edges.size == CURVE_POINTS + 1


def test_a_choice_made_elsewhere_has_equal_steps_and_counts_no_units():
    choice = Choice(np.float32(0.3), np.float32(0.2), np.float32(0.4), False, "")
    assert choice.units == 0
    kept = dataclasses.replace(choice, curve=(0.2, 0.25, 0.4))
    assert_array_equal(curve_thresholds(kept, "log_far"), np.asarray([0.2, 0.25, 0.4], "f4"))
    for spacing in ("cosine", "euclidean"):
        assert_array_equal(curve_thresholds(kept, spacing), curve_thresholds(choice, spacing))
    with pytest.raises(ValueError, match="log_far: expected far_curve"):
        curve_thresholds(choice, "log_far")


def test_a_threshold_at_an_end_of_the_range_does_not_widen_it():
    counts = pooled(np.random.default_rng(17))
    for target, end in ((0.01, "range_low"), (0.1, "range_high")):
        choice = choose(counts, CalibrationConfig(far_target=target))
        assert choice.threshold == getattr(choice, end)
        assert not choice.widened
    assert choose(counts, CalibrationConfig(far_target=0.2)).widened


def test_a_threshold_of_zero_is_refused_for_far():
    # No negative at 0, all of them one step further: the largest threshold that holds is 0.
    total = np.zeros((2, 2, GRID.bins))
    total[:, 0, 1] = 5
    total[:, 1, 0] = 5
    with pytest.raises(CalibrationError, match="no threshold above 0 has a mean FAR of at most"):
        choose(of_customers(total), CalibrationConfig())
    # What counts is the least FAR above 0: here 1/50, at the first step, and none at 0 itself.
    total[:, 0, [1, 9000]] = 1, 49
    config = CalibrationConfig(far_target=0.05, control="crc")
    with pytest.raises(CalibrationError, match=r"on 2 customers with a mean FAR of 0\.02: it "
                                               r"takes 32, 30 more"):
        choose(of_customers(total), config)


def test_a_range_that_holds_no_thresholds_is_refused():
    total = np.zeros((2, 2, GRID.bins))
    total[:, 0, 3:10] = 1
    total[:, 1, 2] = 5
    config = CalibrationConfig(far_target=0.25, range_far=(0.2, 0.25))
    with pytest.raises(CalibrationError) as caught:
        choose(of_customers(total), config)
    assert str(caught.value) == (
        "the calibration range is empty: FAR 0.2 and 0.25 fall on one threshold; add classes"
    )
    # All negatives in one bin: from the best utility to the range's top FAR never rises.
    total[:, 0] = 0
    total[:, 0, 12000] = 100
    config = CalibrationConfig(rule="max_mean_utility", spacing="log_far")
    with pytest.raises(CalibrationError, match="log_far: FAR does not rise between"):
        choose(of_customers(total), config)
