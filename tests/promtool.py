"""The shipped alert rule, run by promtool on gauges that change over time.

``assert_drift_alert`` takes what ``/metrics`` said at successive moments and asks Prometheus
itself whom the rules in ``k8s/prometheus-rule.yaml`` would call about. Nothing here knows the
rule's expression: a rule that is edited is tested as edited.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

RULE_FILE = Path(__file__).parent.parent / "k8s" / "prometheus-rule.yaml"
ALERT = "LimenThresholdDrift"

# What a scrape adds to every series: the rule has to work with these there too.
TARGET_LABELS = {"namespace": "limen", "pod": "limen-head", "instance": "10.0.0.7:8000"}

Series = tuple[str, tuple[tuple[str, str], ...]]
Scrape = Mapping[Series, float]


def rule_groups() -> list[dict[str, Any]]:
    """The ``groups`` of the shipped PrometheusRule: exactly what Prometheus would load."""
    groups: list[dict[str, Any]] = yaml.safe_load(RULE_FILE.read_text("utf-8"))["spec"]["groups"]
    return groups


def drift_rule() -> dict[str, Any]:
    """The one rule named ``LimenThresholdDrift``."""
    rules: list[dict[str, Any]] = [rule for group in rule_groups() for rule in group["rules"]]
    (drift,) = (rule for rule in rules if rule.get("alert") == ALERT)
    return drift


def minutes_before_firing() -> int:
    """How long the rule's expression has to hold before the alert fires."""
    number, unit = drift_rule()["for"][:-1], drift_rule()["for"][-1]
    assert unit == "m", f"for: {number}{unit}; these tests count in minutes"
    return int(number)


def assert_drift_alert(
    expositions: Sequence[str],
    *,
    firing: Collection[tuple[str, str]],
    folder: Path,
    after_minutes: int | None = None,
) -> None:
    """The drift alert ends up firing for exactly ``firing``, pairs of (release, customer).

    ``expositions`` are bodies of ``/metrics`` in the order they were read, one a minute of
    promtool's clock. The last one then stays true for ``after_minutes``, by default for as long
    as the rule asks, and what fires at that moment is compared. To see that nobody is called
    about a steady service, pass its scrapes alone with ``firing=[]``. ``folder`` receives
    promtool's input.

    Raises ``AssertionError`` with promtool's account of what fired instead.
    """
    held = minutes_before_firing() if after_minutes is None else after_minutes
    case = {
        "interval": "1m",
        "input_series": _input_series([read_scrape(text) for text in expositions], held),
        "alert_rule_test": [{
            "eval_time": f"{len(expositions) - 1 + held}m",
            "alertname": ALERT,
            "exp_alerts": [_alert(release, customer) for release, customer in firing],
        }],
    }
    tests = {"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": [case]}
    folder.mkdir(parents=True, exist_ok=True)
    # JSON is YAML, and its quoting leaves no room for a customer's name to be misread.
    (folder / "rules.json").write_text(json.dumps({"groups": rule_groups()}), "utf-8")
    (folder / "tests.json").write_text(json.dumps(tests), "utf-8")
    promtool("test", "rules", "tests.json", folder=folder)


def promtool(*arguments: str, folder: Path) -> str:
    """What promtool prints when run in ``folder``; the test fails where it is absent or objects."""
    program = shutil.which("promtool")
    if program is None:
        pytest.fail(
            "promtool is missing; it comes with Prometheus (Debian: apt-get install prometheus)",
            pytrace=False,
        )
    done = subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"promtool {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def read_scrape(exposition: str) -> Scrape:
    """(name, sorted labels) -> value of every sample in one body of ``/metrics``."""
    return {
        (sample.name, tuple(sorted({**sample.labels, **TARGET_LABELS}.items()))): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def _input_series(scrapes: Sequence[Scrape], held: int) -> list[dict[str, str]]:
    """The scrapes in promtool's notation, the last one held for ``held`` further minutes."""
    rows = []
    for series in sorted({series for scrape in scrapes for series in scrape}):
        name, labels = series
        inside = ",".join(f"{label}={json.dumps(text)}" for label, text in labels)
        values = [_notation(scrape.get(series)) for scrape in scrapes]
        values += values[-1:] * held
        rows.append({"series": f"{name}{{{inside}}}", "values": " ".join(values)})
    return rows


def _notation(value: float | None) -> str:
    if value is None:
        return "stale"  # what a scrape leaves behind where a series has gone
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)


def _alert(release: str, customer: str) -> dict[str, Any]:
    rule = drift_rule()
    texts = {
        name: text.replace("{{ $labels.release }}", release)
        .replace("{{ $labels.customer }}", customer)
        for name, text in rule["annotations"].items()
    }
    labels = {**TARGET_LABELS, **rule["labels"], "release": release, "customer": customer}
    return {"exp_labels": labels, "exp_annotations": texts}
