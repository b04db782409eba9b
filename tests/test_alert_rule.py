"""The alert calls about the customer whose threshold drifted, and about nobody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.promtool import (
    assert_drift_alert,
    drift_rule,
    minutes_before_firing,
    promtool,
    rule_groups,
)

# Intervals of one customer: (lower, upper) of limen_curve_shift and of limen_utility_change. The
# gauge itself is in the middle.
STEADY = ((-0.002, 0.003), (-0.04, 0.03))
DRIFTED = ((0.004, 0.011), (-0.31, -0.12))
NO_DRIFT = {
    "better": ((0.004, 0.011), (0.05, 0.15)),
    "perhaps worse": ((0.004, 0.011), (-0.20, 0.05)),
    "perhaps shifted": ((-0.001, 0.006), (-0.20, -0.01)),
    # An interval that ends at zero does not exclude it.
    "shifted by no less than 0": ((0.0, 0.011), (-0.31, -0.12)),
    "worse by no less than 0": ((0.004, 0.011), (-0.31, 0.0)),
}

OLD, NEW = "3f9c1a0b7d22", "81d04be6c5fa"


def exposition(*rows: tuple[str, str, tuple]) -> str:
    """A body of ``/metrics`` for rows of (release, customer, intervals)."""
    lines = []
    for gauge in ("limen_curve_shift", "limen_utility_change"):
        for end in ("", "_lower", "_upper"):
            lines.append(f"# TYPE {gauge}{end} gauge")
            for release, customer, intervals in rows:
                lower, upper = intervals[gauge == "limen_utility_change"]
                value = {"": (lower + upper) / 2, "_lower": lower, "_upper": upper}[end]
                # The exposition format escapes as JSON does; names keep their letters.
                name = json.dumps(customer, ensure_ascii=False)
                lines.append(f'{gauge}{end}{{release="{release}",customer={name}}} {value!r}')
    return "\n".join(lines) + "\n"


FLEET = ("Activities", "Flags", "Food & Drink")
CALM = exposition(*((NEW, customer, STEADY) for customer in FLEET))


def fleet_with(customer: str, intervals: tuple) -> str:
    """The calm fleet, one customer of which has ``intervals`` now."""
    return exposition(*((NEW, c, intervals if c == customer else STEADY) for c in FLEET))


def test_promtool_accepts_the_shipped_rules(tmp_path: Path):
    (tmp_path / "rules.json").write_text(json.dumps({"groups": rule_groups()}), "utf-8")
    assert "1 rules found" in promtool("check", "rules", "rules.json", folder=tmp_path)


def test_the_alert_fires_for_the_drifted_customer_and_for_no_other(tmp_path: Path):
    assert_drift_alert(
        [CALM, CALM, fleet_with("Flags", DRIFTED)], firing=[(NEW, "Flags")], folder=tmp_path
    )


def test_a_steady_fleet_is_left_alone(tmp_path: Path):
    assert_drift_alert([CALM, CALM, CALM], firing=[], folder=tmp_path)


@pytest.mark.parametrize("case", NO_DRIFT)
def test_one_gauge_alone_calls_nobody(case: str, tmp_path: Path):
    assert_drift_alert([CALM, fleet_with("Flags", NO_DRIFT[case])], firing=[], folder=tmp_path)


def test_a_shift_of_one_customer_and_a_dip_of_another_do_not_add_up(tmp_path: Path):
    mixed = exposition(
        (NEW, "Flags", NO_DRIFT["better"]), (NEW, "Activities", NO_DRIFT["perhaps shifted"])
    )
    assert_drift_alert([mixed], firing=[], folder=tmp_path)


def test_the_drift_of_one_release_is_not_blamed_on_another(tmp_path: Path):
    both = exposition((OLD, "Flags", DRIFTED), (NEW, "Flags", STEADY))
    assert_drift_alert([both], firing=[(OLD, "Flags")], folder=tmp_path / "old")
    # The two halves of the condition, each true of another release.
    split = exposition(
        (OLD, "Flags", NO_DRIFT["better"]), (NEW, "Flags", NO_DRIFT["perhaps shifted"])
    )
    assert_drift_alert([split], firing=[], folder=tmp_path / "split")


def test_the_alert_waits_for_as_long_as_it_says(tmp_path: Path):
    scrapes = [CALM, fleet_with("Flags", DRIFTED)]
    wait = minutes_before_firing()
    assert wait >= 5
    assert_drift_alert(scrapes, firing=[], folder=tmp_path / "early", after_minutes=wait - 1)
    assert_drift_alert(
        scrapes, firing=[(NEW, "Flags")], folder=tmp_path / "due", after_minutes=wait
    )


def test_a_customer_that_recovers_in_time_is_not_called_about(tmp_path: Path):
    assert_drift_alert([CALM, fleet_with("Flags", DRIFTED), CALM], firing=[], folder=tmp_path)


def test_gauges_that_go_end_the_alert(tmp_path: Path):
    # A promoted release starts without evidence: the old one's gauges leave /metrics.
    drifted = [fleet_with("Flags", DRIFTED)] * 3
    assert_drift_alert([*drifted, "# EOF\n"], firing=[], folder=tmp_path)


def test_an_unknown_change_calls_nobody(tmp_path: Path):
    unknown = fleet_with("Flags", ((float("nan"),) * 2, (float("nan"),) * 2))
    assert_drift_alert([CALM, unknown], firing=[], folder=tmp_path)


def test_any_customer_name_reaches_the_person_who_is_called(tmp_path: Path):
    name = 'Caf\N{LATIN SMALL LETTER E WITH ACUTE} "\\n" {{ $value }}'
    scrapes = [exposition((NEW, name, DRIFTED))]
    assert_drift_alert(scrapes, firing=[(NEW, name)], folder=tmp_path)


def test_the_call_names_customer_and_release_and_says_how_bad_it_is():
    rule = drift_rule()
    assert rule["labels"]["severity"] == "warning"
    for part in ("summary", "description"):
        assert "{{ $labels.customer }}" in rule["annotations"][part]
        assert "{{ $labels.release }}" in rule["annotations"][part]


def test_a_wrong_expectation_is_an_error_and_not_a_pass(tmp_path: Path):
    scrapes = [fleet_with("Flags", DRIFTED)]
    with pytest.raises(AssertionError, match="Flags"):
        assert_drift_alert(scrapes, firing=[], folder=tmp_path / "nobody")
    with pytest.raises(AssertionError, match="Activities"):
        assert_drift_alert(scrapes, firing=[(NEW, "Activities")], folder=tmp_path / "another")


def test_without_promtool_the_test_fails_and_says_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="apt-get install prometheus"):
        assert_drift_alert([CALM], firing=[], folder=tmp_path)
