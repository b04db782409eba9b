"""What a calibration found, as the JSON that a release carries; unknown numbers are null."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from pipeline.calibration import CURVE_POINTS, OperatingPoint
from pipeline.evaluation import CALIBRATE, REPORT, Measurement
from pipeline.intervals import Interval
from pipeline.opis import opis_difference
from pipeline.rules import CalibrationConfig

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
        "far_target": config.far_target,
        "unit": "customer",
        "guarantee": ours.choice.guarantee,
        "range": {
            "low": float(ours.choice.range_low),
            "high": float(ours.choice.range_high),
            "far": list(config.range_far),
            "spacing": config.spacing,
            "points": CURVE_POINTS,
            "widened_to_hold_the_threshold": ours.choice.widened,
        },
        "measured_with": dict(measured_with),
        "data_digest": data_digest,
        **measurement(ours),
    }
    if base is not None:
        document["base"] = {"threshold": float(base.choice.threshold), **measurement(base)}
        document["opis_minus_base"] = interval(change_in_opis(ours, base))
    return document


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
        "identities": point.identities,
    }


def _recall(recall: tuple[float, int] | None) -> Document | None:
    return None if recall is None else {"value": _number(recall[0]), "queries": recall[1]}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
