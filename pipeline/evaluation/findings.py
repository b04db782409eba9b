"""What a calibration found, as the JSON that a release carries; unknown numbers are null."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.calibration.choice import Choice
from pipeline.calibration.points import OperatingPoint, class_point, least_utility
from pipeline.calibration.rules import CalibrationConfig, targets
from pipeline.consistency.opis import opis_difference
from pipeline.consistency.ranges import CURVE_POINTS
from pipeline.evaluation.embedding import CALIBRATE, REPORT, Measurement
from pipeline.releases.release import Release
from pipeline.statistics.intervals import Interval

Document = dict[str, object]


def findings(
    config: CalibrationConfig,
    ours: Measurement,
    base: Measurement | None,
    measured_with: Mapping[str, str],
    data_digest: str,
) -> Document:
    """The content of ``calibration.json``: how the threshold was chosen and what it does.

    ``base``: the same measurement of the base loss alone, at its own threshold, for comparison.
    ``measured_with``: digests of the files that the counts were made through; ``data_digest``:
    sha256 of the items table.
    """
    document: Document = {
        "threshold": float(ours.choice.threshold),
        "rule": config.rule,
        "targets": targets(config),
        "control": config.control,
        "delta": config.delta if config.control == "ltt" else None,
        "unit": config.unit,
        "units": ours.choice.units or None,
        "method": method(config),
        "guarantee": ours.choice.guarantee,
        "range": {
            "low": float(ours.choice.range_low),
            "high": float(ours.choice.range_high),
            "far": list(config.range_far),
            "spacing": config.spacing,
            "points": CURVE_POINTS,
            "thresholds": list(ours.choice.curve) or None,
            "widened_to_hold_the_threshold": ours.choice.widened,
        },
        "measured_with": dict(measured_with),
        "data_digest": data_digest,
        **measurement(ours),
        "measured_objective": _objective(config, ours),
    }
    if base is not None:
        document["base"] = {"threshold": float(base.choice.threshold), **measurement(base)}
        document["opis_minus_base"] = interval(change_in_opis(ours, base))
    return document


def recorded_choice(release: Release, guarantee: str = "") -> tuple[Choice, str]:
    """The choice that ``release`` was sealed with, and its spacing; under this ``guarantee``."""
    calibration: dict[str, Any] = release.calibration
    reach = calibration.get("range", {})
    low, high = (np.float32(end) for end in release.calibration_range)
    choice = Choice(
        release.threshold, low, high,
        widened=bool(reach.get("widened_to_hold_the_threshold", False)),
        guarantee=guarantee,
        units=int(calibration.get("units") or 0),
        curve=tuple(float(value) for value in reach.get("thresholds") or ()),
    )  # fmt: skip
    return choice, str(reach.get("spacing", "euclidean"))


def method(config: CalibrationConfig) -> str:
    """Rule, targets, control and unit in one phrase."""
    parts = [f"{name.upper()} <= {value:g}" for name, value in targets(config).items()]
    parts += [f"control {config.control}"]
    if config.control == "ltt":
        parts += [f"delta {config.delta:g}"]
    return f"{config.rule} ({', '.join(parts)}; unit {config.unit})"


def _objective(config: CalibrationConfig, found: Measurement) -> Document:
    """What the rule was after, measured on the report classes: rates, or the utility."""
    overall, _ = found.points(REPORT)
    if config.unit == "label":
        overall = class_point(found.report, found.choice.threshold)
    rates = {"far": overall.far, "frr": overall.frr}
    entries = {name: rates[name] for name in targets(config)}
    if config.rule == "max_mean_utility":
        entries = {"mean_utility": overall.utility_interval}
    if config.rule == "max_min_utility":
        entries = {"least_utility": least_utility(found.report, found.choice.threshold)}
    return {name: interval(value) for name, value in entries.items()}


def measurement(found: Measurement) -> Document:
    """Operating points, OPIS and R@1 of one embedding."""
    return {
        "operating_points": {
            split: {"overall": _point(overall), "customers": [_point(point) for point in customers]}
            for split, (overall, customers) in (
                (split, found.points(split)) for split in (CALIBRATE, REPORT)
            )
        },
        "opis": {
            "raw": _number(found.opis.raw),
            "corrected": interval(found.opis.corrected),
            "customers_raw": found.opis.groups_raw,
            "customers_corrected": found.opis.groups_corrected,
        },
        "recall_at_1": _recall(found.recall),
        "recall_at_1_across": _recall(found.recall_across),
    }


def change_in_opis(ours: Measurement, base: Measurement) -> Interval:
    """Corrected OPIS of ``ours`` minus that of ``base`` on the report classes, paired."""
    return opis_difference(
        ours.report.operating(), base.report.operating(), (ours.thresholds, base.thresholds)
    )


def interval(value: Interval) -> Document:
    """An interval as JSON."""
    return {name: _number(number) for name, number in dataclasses.asdict(value).items()}


def _point(point: OperatingPoint) -> Document:
    return {
        "name": point.name,
        "far": interval(point.far),
        "frr": interval(point.frr),
        "precision": _number(point.precision),
        "utility": _number(point.utility),
        "utility_interval": interval(point.utility_interval),
        "identities": point.identities,
    }


def _recall(recall: tuple[float, int] | None) -> Document | None:
    return None if recall is None else {"value": _number(recall[0]), "queries": recall[1]}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
