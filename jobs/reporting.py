"""What a run measured, laid out for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jobs.workspace import main_tag
from pipeline.calibration.choice import PLURALS
from pipeline.calibration.rules import CalibrationConfig, targets
from pipeline.config import Recipe
from pipeline.consistency.curves import BucketCurves
from pipeline.consistency.extremes import eps_opis, rate_spreads
from pipeline.consistency.shift import inconsistency
from pipeline.evaluation.embedding import REPORT, Measurement
from pipeline.evaluation.findings import change_in_opis
from pipeline.reports.report import Evaluation, ReportContent
from pipeline.statistics.intervals import UNKNOWN

_CONTROLS = {
    "plain": "without risk control",
    "crc": "under conformal risk control",
    "ltt": "under learn then test",
}
_TITLES = {"base": "base loss", "tcm": "base loss + TCM"}


def content(
    recipe: Recipe,
    ours: Measurement,
    base: Measurement | None,
    provenance: Mapping[str, str],
) -> ReportContent:
    """The report of a run; ``provenance``: digests by name."""
    return ReportContent(
        name=recipe.name,
        served=_evaluation(_TITLES[main_tag(recipe)], ours),
        rule=_rule(recipe.calibration),
        spacing=recipe.calibration.spacing,
        baseline=None if base is None else _evaluation(_TITLES["base"], base),
        opis_difference=UNKNOWN if base is None else change_in_opis(ours, base),
        across=f"another {recipe.report.across}" if recipe.report.across else "another source",
        notes=tuple(_notes(ours)),
        provenance=provenance,
        recipe=recipe.resolved(),
    )


def outcome(calibration: Mapping[str, Any]) -> str:
    """The threshold and what it does, in one sentence, from a release's ``calibration.json``."""
    rates = calibration["operating_points"][REPORT]["overall"]
    measured = ", ".join(
        f"{name} {_known(value)}"
        for name, value in (
            ("FAR", rates["far"]["value"]),
            ("FRR", rates["frr"]["value"]),
            ("precision", rates["precision"]),
        )
    )
    return (
        f"Threshold {calibration['threshold']:.6f}; on the report classes, mean over customers: "
        f"{measured}; OPIS {_known(calibration['opis']['raw'])} raw, "
        f"{_known(calibration['opis']['corrected']['value'])} corrected."
    )


def _known(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _evaluation(title: str, found: Measurement) -> Evaluation:
    counts = found.report.operating()
    curves = BucketCurves(counts, found.thresholds).curve()
    overall, customers = found.points(REPORT)
    known = curves[~np.isnan(curves).any(axis=1)]
    mean = known.mean(axis=0) if len(known) else np.full(found.thresholds.size, np.nan)
    return Evaluation(
        title=title,
        choice=found.choice,
        thresholds=found.thresholds,
        groups=counts.groups,
        utility=curves,
        overall=overall,
        customers=customers,
        opis=found.opis,
        eps=eps_opis(counts, found.thresholds),
        spreads=rate_spreads(counts, found.thresholds),
        inconsistency=inconsistency(counts, mean, found.thresholds),
        recall_at_1=found.recall[0],
        recall_at_1_across=np.nan if found.recall_across is None else found.recall_across[0],
    )


def _rule(config: CalibrationConfig) -> str:
    units = PLURALS[config.unit]
    if config.rule == "max_mean_utility":
        return f"the threshold of the largest mean utility over the {units}"
    if config.rule == "max_min_utility":
        return "the threshold at which the worst customer has its largest utility"
    end = "smallest" if config.rule == "frr_target" else "largest"
    limits = " and ".join(
        f"{name.upper()} is at most {value:g}" for name, value in targets(config).items()
    )
    return (
        f"the {end} threshold at which, averaged over the {units}, {limits} on the calibrate "
        f"classes, {_CONTROLS[config.control]}"
    )


def _notes(found: Measurement) -> list[str]:
    groups = len(found.report.operating().groups)
    notes = []
    if found.opis.groups_raw < groups:
        notes.append(
            f"{groups - found.opis.groups_raw} of {groups} customers have no positive pair and "
            "are in no OPIS."
        )
    if found.opis.groups_corrected < found.opis.groups_raw:
        notes.append(
            f"{found.opis.groups_raw - found.opis.groups_corrected} customers have positives in "
            "too few buckets of identities for the corrected OPIS."
        )
    if found.choice.widened:
        notes.append("The calibration range was widened to hold the threshold.")
    return notes
