"""The calibration report: one HTML file, which a release carries.

It says which threshold serves everyone, how it was chosen and what is promised, shows the utility
of every customer against the threshold, and lists every customer. The same numbers give the same
bytes; an unknown number is a dash, never a plausible value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.calibration.choice import Choice
from pipeline.calibration.points import OperatingPoint
from pipeline.consistency.extremes import EpsOpis, Spread
from pipeline.consistency.opis import Opis
from pipeline.counting.operating import Curve
from pipeline.durable import write_durably
from pipeline.reports.numerals import (
    distance,
    number,
    share,
    share_interval,
    share_range,
    thousandths,
    thousandths_interval,
)
from pipeline.reports.page import definitions, figure, folded, note, page, points, section, table
from pipeline.reports.plots_curves import NAMED, CurvePanel, measured, utility_figure
from pipeline.reports.plots_rates import ROWS, rates_figure
from pipeline.reports.plots_style import to_svg
from pipeline.reports.report_parts import POINT_HEAD, extreme_rows, point_cells, some, worst_first
from pipeline.statistics.intervals import UNKNOWN, Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One embedding, measured on the report classes under its own threshold."""

    title: str
    """What was trained, for example ``base loss + TCM``."""
    choice: Choice
    """Its threshold and calibration range."""
    thresholds: NDArray[np.float32]
    """(K,) of the calibration range, cosine distances."""
    groups: tuple[str, ...]
    """(G,) customers of ``utility`` and ``inconsistency``."""
    utility: Curve
    """(G, K) in [0, 1]; NaN without positives."""
    overall: OperatingPoint
    """The mean over customers at the threshold."""
    customers: tuple[OperatingPoint, ...]
    """Each customer at the threshold."""
    opis: Opis
    """Over the customers."""
    inconsistency: tuple[Interval, ...] = ()
    """(G,) gap of each customer to the mean curve; empty where it was not measured."""
    eps: EpsOpis | None = None
    """The worst customers against the others; None where it was not measured."""
    spreads: tuple[Spread, Spread] | None = None
    """How far FAR and FRR lie apart between the customers, over the calibration range."""
    recall_at_1: float = math.nan
    """Share of queries whose nearest item has their label."""
    recall_at_1_across: float = math.nan
    """The same where the nearest item must come from elsewhere, say from another vendor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContent:
    """Everything that a report shows."""

    name: str
    """Of the recipe."""
    served: Evaluation
    """The embedding of this release."""
    rule: str
    """How the threshold was chosen, in words."""
    spacing: str
    """Spacing of the thresholds; OPIS depends on it."""
    baseline: Evaluation | None = None
    """The base loss alone, trained for as many steps."""
    opis_difference: Interval = UNKNOWN
    """Corrected OPIS of ``served`` minus ``baseline``, paired."""
    across: str = "another source"
    """Where ``recall_at_1_across`` looks for the nearest item, for example ``another vendor``."""
    notes: tuple[str, ...] = ()
    """Sentences on what was dropped, widened or not measured."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Digests, versions and the like, by name."""
    recipe: Mapping[str, object] = field(default_factory=dict)
    """The resolved recipe."""

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The served embedding, and the base loss alone where it was trained."""
        return (self.served,) if self.baseline is None else (self.served, self.baseline)


def write_report(path: Path, content: ReportContent) -> None:
    """Write the report to ``path`` in one step."""
    write_durably(path, render(content).encode())


def render(content: ReportContent) -> str:
    """The report as HTML text."""
    parts = [
        _summary(content),
        section("Utility of every customer against the threshold", _curves(content)),
        section("At the threshold", _overall(content)),
        section("Customer by customer", _customers(content.served)),
    ]
    if content.notes:
        parts.append(section("Notes", points(content.notes)))
    parts.append(section("Where this comes from", _provenance(content)))
    return page(f"Calibration report: {content.name}", *parts)


def _summary(content: ReportContent) -> str:
    choice = content.served.choice
    widened = ", widened so that it holds the threshold" if choice.widened else ""
    return definitions((
        ("Threshold", f"{distance(choice.threshold)} (cosine distance, from 0 to 2)"),
        ("A match", "distance ≤ threshold, for every customer"),
        ("Chosen by", content.rule),
        ("Guarantee", choice.guarantee),
        ("Calibration range",
         f"{distance(choice.range_low)} to {distance(choice.range_high)}{widened}"),
    ))  # fmt: skip


def _curves(content: ReportContent) -> str:
    panels = [
        CurvePanel(
            f"{entry.title}: OPIS {thousandths(entry.opis.raw)} · 10⁻³, raw",
            entry.thresholds.astype(np.float64),
            entry.groups,
            entry.utility,
            float(entry.choice.threshold),
        )
        for entry in content.evaluations
    ]
    caption = (
        "Each curve is one customer. Where the curves lie on one another, one threshold treats "
        "every customer alike; OPIS is their mean squared distance from the mean curve, over "
        f"{len(content.served.thresholds)} thresholds with {content.spacing} spacing."
    )
    known = len(measured(panels[0]))
    if known > NAMED:
        caption += f" Named: the {NAMED} customers farthest from the mean."
    if known < len(content.served.groups):
        without = [group for group in panels[0].groups if group not in measured(panels[0])]
        caption += f" Without a positive pair, hence without a curve: {some(without, NAMED)}."
    return figure(to_svg(utility_figure(panels)), "Utility against threshold by customer", caption)


def _overall(content: ReportContent) -> str:
    columns, between = content.evaluations, "lowest and highest customer"
    rows = [
        ("Threshold (cosine distance)", [distance(c.choice.threshold) for c in columns]),
        ("FAR, mean over customers", [share_interval(c.overall.far) for c in columns]),
        (f"FAR, {between}", [share_range(p.far.value for p in c.customers) for c in columns]),
        ("FRR, mean over customers", [share_interval(c.overall.frr) for c in columns]),
        (f"FRR, {between}", [share_range(p.frr.value for p in c.customers) for c in columns]),
        ("Precision, mean over customers", [share(c.overall.precision) for c in columns]),
        ("Utility, mean over customers", [number(c.overall.utility) for c in columns]),
        ("OPIS, raw (10⁻³)", [thousandths(c.opis.raw) for c in columns]),
        ("… customers in it", [str(c.opis.groups_raw) for c in columns]),
        ("OPIS, corrected for noise (10⁻³)",
         [thousandths_interval(c.opis.corrected) for c in columns]),
        ("… customers in it", [str(c.opis.groups_corrected) for c in columns]),
        *extreme_rows([c.eps for c in columns], [c.spreads for c in columns]),
        ("R@1, nearest item has the label", [share(c.recall_at_1) for c in columns]),
    ]  # fmt: skip
    if not all(math.isnan(c.recall_at_1_across) for c in columns):
        across = [share(c.recall_at_1_across) for c in columns]
        rows.append((f"R@1, nearest item of {content.across}", across))
    text = "In brackets: 95 % intervals; the identity is the unit, since pairs share identities."
    if content.baseline is not None:
        text += (
            f" Corrected OPIS, {content.served.title} minus {content.baseline.title}, paired: "
            f"{thousandths_interval(content.opis_difference)} · 10⁻³. Each embedding is measured "
            "under its own threshold and over its own calibration range."
        )
    head = ["", *(entry.title for entry in columns)]
    return table(head, [[name, *cells] for name, cells in rows]) + note(text)


def _customers(served: Evaluation) -> str:
    caption = (
        "Rates at the served threshold with 95 % intervals; dashed: the mean over customers. "
        "The scale of FAR is logarithmic above its first mark and begins at 0."
    )
    if len(served.customers) > ROWS:
        caption += f" Drawn: the {ROWS} customers of lowest utility."
    svg = to_svg(rates_figure(served.overall, served.customers))
    gaps = dict(zip(served.groups, served.inconsistency, strict=False))
    head = (
        "Customer, lowest utility first", "Identities", *POINT_HEAD, "Inconsistency (10⁻³)",
    )
    rows = [
        (
            point.name, str(point.identities), *point_cells(point),
            thousandths_interval(gaps.get(point.name, UNKNOWN)),
        )
        for point in worst_first(served.customers)
    ]  # fmt: skip
    return figure(svg, "FAR, FRR and precision by customer", caption) + table(head, rows)


def _provenance(content: ReportContent) -> str:
    recipe = json.dumps(content.recipe, indent=2, sort_keys=True, ensure_ascii=False)
    rows = [(name, text) for name, text in content.provenance.items()]
    digests = table(("", "Value"), rows, style="digests") if rows else ""
    return digests + folded("Resolved recipe", recipe)
