"""Made-up numbers in the shape of a calibration, for looking at the report and testing it."""

from __future__ import annotations

import numpy as np

from pipeline.calibration.choice import Choice
from pipeline.calibration.points import OperatingPoint
from pipeline.consistency.extremes import Corrected, EpsOpis, Spread
from pipeline.consistency.opis import Opis
from pipeline.reports.report import Evaluation, ReportContent
from pipeline.statistics.intervals import UNKNOWN, Interval

CATEGORIES = (
    "Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body",
    "Smileys & Emotion", "Symbols", "Travel & Places",
)  # fmt: skip


def evaluation(
    groups: tuple[str, ...] = CATEGORIES, *, title: str = "base + TCM", spread: float = 0.03,
    served: int = 0,
) -> Evaluation:
    """Bell-shaped utility curves; a wider ``spread`` moves the customers apart."""
    generator = np.random.default_rng(len(groups))
    thresholds = np.linspace(0.12, 0.43, 101, dtype=np.float32)
    peaks = 0.3 + spread * generator.standard_normal(len(groups))
    heights = 0.93 - spread * np.abs(generator.standard_normal(len(groups)))
    utility = heights[:, None] * np.exp(-4 * np.square(thresholds - peaks[:, None]))
    rates = np.exp(generator.normal(-7, 0.8, len(groups)))
    points = tuple(
        OperatingPoint(
            name, Interval(far, far / 2, far * 2), Interval(0.3 + 40 * far, 0.25, 0.4 + 40 * far),
            float(1 - 100 * far), float(curve[served]), 40 + i,
        )
        for i, (name, far, curve) in enumerate(zip(groups, rates.tolist(), utility, strict=True))
    )  # fmt: skip
    gaps = np.square(utility - utility.mean(axis=0)).mean(axis=1)
    return Evaluation(
        title=title,
        choice=Choice(thresholds[served], thresholds[0], thresholds[-1], True, "FAR <= 1e-3."),
        thresholds=thresholds,
        groups=groups,
        utility=utility,
        overall=OperatingPoint(
            "mean over customers", Interval(float(rates.mean()), 6e-4, 1.7e-3),
            Interval(0.35, 0.31, 0.39), 0.88, float(utility[:, served].mean()), 400,
        ),
        customers=points,
        opis=Opis(float(gaps.mean()), Interval(9e-4, 4e-4, 1.4e-3), len(groups), len(groups)),
        inconsistency=tuple(Interval(gap, gap / 2, gap * 2) for gap in gaps.tolist()),
        eps=EpsOpis(Corrected(5e-3, 4e-3), Corrected(4e-3, 3e-3), Corrected(1e-3, -5e-4), 0.1, 1),
        spreads=(Spread(0.1, Corrected(7e-4, 6e-4)), Spread(0.2, Corrected(9e-4, 8e-4))),
        recall_at_1=0.721,
        recall_at_1_across=0.564,
    )  # fmt: skip


def unknown(point: OperatingPoint) -> OperatingPoint:
    """The same customer, of whom nothing is known."""
    nan = float("nan")
    return OperatingPoint(point.name, UNKNOWN, UNKNOWN, nan, nan, 0)


def content(
    served: Evaluation, baseline: Evaluation | None = None, **changed: object
) -> ReportContent:
    values: dict[str, object] = {
        "name": "emoji",
        "served": served,
        "baseline": baseline,
        "rule": "FAR of at most 0.001, mean over the customers",
        "spacing": "euclidean",
        "opis_difference": Interval(-1.1e-3, -1.6e-3, -5e-4),
        "across": "another vendor",
        "notes": ("The calibration range was widened so that it holds the threshold.",),
        "provenance": {"model.onnx": "ab" * 32, "gallery.npy": "cd" * 32, "numpy": "2.4.6"},
        "recipe": {"name": "emoji", "train": {"steps": 400}},
    }
    return ReportContent(**{**values, **changed})  # type: ignore[arg-type]
