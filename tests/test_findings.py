"""What a release says of its calibration: the method, the guarantee and what was measured."""

import dataclasses
import json

import pytest

from jobs.reporting import content
from pipeline.calibration.points import class_point, least_utility
from pipeline.calibration.rules import CalibrationConfig
from pipeline.config import DataConfig, Recipe
from pipeline.evaluation.embedding import measure, population
from pipeline.evaluation.findings import findings, interval, method
from tests.lattice_world import lattice

CONFIG = CalibrationConfig(far_target=0.2, frr_target=0.3, delta=0.25, range_far=(0.1, 0.4))


@pytest.fixture(scope="module")
def people():
    items = lattice(7, 240)
    return population(items.content, items)


def document(people, **changed):
    config = dataclasses.replace(CONFIG, **changed)
    ours = measure(people, config)
    return ours, findings(config, ours, None, {"model": "ab"}, "cd")


def test_method_unit_control_and_targets_are_written(people):
    _, found = document(people)
    expected = {
        "rule": "far_target", "targets": {"far": 0.2}, "control": "plain", "delta": None,
        "unit": "customer", "units": 3, "data_digest": "cd", "measured_with": {"model": "ab"},
        "method": "far_target (FAR <= 0.2, control plain; unit customer)",
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    assert found["guarantee"].startswith("Plain rule, no risk control: the largest threshold")
    assert found["range"]["thresholds"] is None
    assert json.loads(json.dumps(found)) == found


def test_a_controlled_rule_says_how_and_for_which_units(people):
    ours, found = document(people, rule="frr_target", frr_target=0.5, control="ltt", unit="label",
                           delta=0.4)
    assert (found["control"], found["delta"], found["unit"], found["units"]) == (
        "ltt", 0.4, "label", 5)
    assert found["targets"] == {"frr": 0.5}
    assert found["method"] == "frr_target (FRR <= 0.5, control ltt, delta 0.4; unit label)"
    point = class_point(ours.report, ours.choice.threshold)
    assert found["measured_objective"] == {"frr": interval(point.frr)}


def test_the_rates_that_were_promised_are_measured_on_the_report_classes(people):
    ours, found = document(people, rule="both_targets", far_target=0.5, frr_target=0.7)
    overall = ours.points("report")[0]
    assert found["measured_objective"] == {
        "far": interval(overall.far), "frr": interval(overall.frr)}
    assert found["targets"] == {"far": 0.5, "frr": 0.7}
    assert method(dataclasses.replace(CONFIG, rule="both_targets", control="crc")) == (
        "both_targets (FAR <= 0.2, FRR <= 0.3, control crc; unit customer)")


def test_a_utility_rule_has_the_interval_of_its_utility_from_the_report_classes(people):
    ours, found = document(people, rule="max_mean_utility")
    overall = ours.points("report")[0]
    assert found["targets"] == {}
    assert found["measured_objective"] == {"mean_utility": interval(overall.utility_interval)}
    assert found["operating_points"]["report"]["overall"]["utility_interval"] == interval(
        overall.utility_interval)
    ours, found = document(people, rule="max_min_utility")
    worst = least_utility(ours.report, ours.choice.threshold)
    assert found["measured_objective"] == {"least_utility": interval(worst)}
    assert 0 <= worst.lower <= worst.value <= worst.upper <= 1


def test_thresholds_that_the_ends_do_not_tell_are_written(people):
    ours, found = document(people, spacing="log_far")
    assert found["range"]["thresholds"] == list(ours.choice.curve)
    assert len(found["range"]["thresholds"]) == found["range"]["points"] == 101
    assert found["range"]["spacing"] == "log_far"


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({}, "the largest threshold at which, averaged over the customers, FAR is at most 0.2 on "
             "the calibrate classes, without risk control"),
        ({"rule": "frr_target", "control": "crc", "frr_target": 0.6, "unit": "label"},
         "the smallest threshold at which, averaged over the classes, FRR is at most 0.6 on the "
         "calibrate classes, under conformal risk control"),
        ({"rule": "both_targets", "frr_target": 0.7, "far_target": 0.5},
         "the largest threshold at which, averaged over the customers, FAR is at most 0.5 and FRR "
         "is at most 0.7 on the calibrate classes, without risk control"),
        ({"rule": "max_mean_utility", "unit": "label"},
         "the threshold of the largest mean utility over the classes"),
        ({"rule": "max_min_utility"},
         "the threshold at which the worst customer has its largest utility"),
    ],
)  # fmt: skip
def test_the_report_says_how_the_threshold_was_chosen(people, changed, rule):
    config = dataclasses.replace(CONFIG, **changed)
    recipe = Recipe(name="x", data=DataConfig(items="items.parquet"), calibration=config)
    assert content(recipe, measure(people, config), None, {}).rule == rule
