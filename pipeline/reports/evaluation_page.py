"""The report of ``limen evaluate``: one HTML file with its pictures, that needs nothing else.

The same numbers give the same bytes; an unknown number is a dash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.evaluation.evaluated import Evaluated
from pipeline.reports.evaluated_rows import summary_rows
from pipeline.reports.numerals import distance, thousandths, thousandths_interval
from pipeline.reports.page import definitions, figure, note, page, points, section, table
from pipeline.reports.plots_curves import (
    DRAWN,
    NAMED,
    CurvePanel,
    drawn,
    overlay_figure,
    utility_figure,
    worst_count,
)
from pipeline.reports.plots_pairs import HistogramPanel, histogram_figure, is_uneven
from pipeline.reports.plots_rates import ROWS, rates_figure
from pipeline.reports.plots_runs import Arrow, Run, is_drawn, runs_figure
from pipeline.reports.plots_style import to_svg
from pipeline.reports.report_parts import POINT_HEAD, point_cells, worst_first
from pipeline.statistics.intervals import Interval


def render(
    columns: Sequence[Evaluated],
    difference: Interval | None,
    arrows: Sequence[Arrow],
    provenance: Mapping[str, str],
) -> str:
    """The report as HTML text.

    ``columns``: the embedding, and the one that it is measured against, if any, with the paired
    ``difference`` of their OPIS. ``arrows``: earlier runs with and without TCM. ``provenance``:
    digests and the like, by name.
    """
    ours = columns[0]
    parts = [
        _summary(ours),
        section(f"Utility of every {ours.unit[0]} against the threshold", _curves(columns)),
        section("Distances of positive and negative pairs", _histogram(columns)),
        section("In numbers", _numbers(columns, difference)),
    ]
    if arrows or len(columns) > 1:
        parts.append(section("OPIS against recognition error", _runs(columns, arrows)))
    parts.append(section(f"Worst {ours.unit[1]}", _worst(ours)))
    notes = [f"{entry.name}: {text}" for entry in columns for text in entry.notes]
    if notes:
        parts.append(section("Notes", points(notes)))
    rows = list(provenance.items())
    parts.append(section("Where this comes from", table(("", "Value"), rows, style="digests")))
    return page(f"Evaluation: {ours.name}", *parts)


def _run_of(entry: Evaluated) -> Run:
    """An embedding as a point: recognition error against corrected OPIS."""
    recall = entry.measures.retrieval.recall.get(1, float("nan"))
    return Run(entry.name, 1.0 - recall, entry.measures.main.opis.corrected)


def _summary(ours: Evaluated) -> str:
    m = ours.measures
    low, high = m.settings.range_far
    pooled = "mean over the customers" if m.settings.group == "customer" else "over all pairs"
    return definitions((
        ("Groups", f"{len(m.groups):,} {ours.unit[1]}, {m.items:,} items counted"),
        ("Threshold", f"{distance(m.threshold)} (cosine distance, from 0 to 2), {ours.mark}"),
        ("Calibration range",
         f"{distance(m.range_low)} to {distance(m.range_high)}: FAR {low:g} to {high:g}, {pooled}"
         + (", widened so that it holds the threshold" if m.widened else "")),
        ("OPIS", f"{thousandths(m.main.opis.raw)} · 10⁻³ raw, "
         f"{thousandths_interval(m.main.opis.corrected)} · 10⁻³ corrected for sampling noise, "
         f"{m.settings.spacing} spacing"),
    ))  # fmt: skip


def _panels(columns: Sequence[Evaluated]) -> list[CurvePanel]:
    return [
        CurvePanel(
            f"{_title(entry, columns)}OPIS {thousandths(entry.measures.main.opis.raw)} · 10⁻³, raw",
            entry.measures.main.thresholds.astype(np.float64),
            entry.measures.groups,
            entry.measures.utility,
            float(entry.measures.threshold),
            entry.mark,
            entry.unit,
        )
        for entry in columns
    ]


def _title(entry: Evaluated, columns: Sequence[Evaluated]) -> str:
    return f"{_clipped(entry.name)}: " if len(columns) > 1 else ""


def _clipped(name: str) -> str:
    """At most 24 characters, for the title of a panel."""
    return name if len(name) <= 24 else f"…{name[-23:]}"


def _curves(columns: Sequence[Evaluated]) -> str:
    panels = _panels(columns)
    panel, (one, many) = panels[0], columns[0].unit
    caption = (
        f"Each curve is one {one}. Where the curves lie on one another, one threshold treats all "
        f"{many} alike; OPIS is their mean squared distance from the mean curve, over "
        f"{len(panel.thresholds)} thresholds with {columns[0].measures.settings.spacing} spacing."
    )
    known = len(panel.known)
    crowd = known > NAMED
    if crowd:
        caption += (
            f" Drawn: {drawn(panel).size:,} of {known:,} {many}"
            + (", evenly over their ranking by mean utility" if known > DRAWN else "")
            + f". Dashed: the mean of the {worst_count(known):,} worst, chosen anew at each "
            "threshold; means are over all of them."
        )
    elif known > 1:
        caption += f" Underlaid: the worst {one} at each threshold."
    if known < len(panel.groups):
        caption += f" Without a positive pair, hence without a curve: {len(panel.groups) - known:,}"
    svg = to_svg((overlay_figure if crowd else utility_figure)(panels))
    return figure(svg, f"Utility against threshold by {one}", caption)


def _histogram(columns: Sequence[Evaluated]) -> str:
    panels = [
        HistogramPanel(
            _clipped(entry.name), entry.measures.histogram.edges, entry.measures.histogram.negative,
            entry.measures.histogram.positive, float(entry.measures.threshold),
            (float(entry.measures.range_low), float(entry.measures.range_high)), entry.mark,
        )
        for entry in columns
    ]  # fmt: skip
    caption = (
        "Each kind of pairs has area 1, so their numbers do not show: negative pairs are far more. "
        "At most 0.1 % of either kind lie farther apart than the figure shows."
    )
    if is_uneven(panels):
        caption += " The scale is logarithmic, since one kind is much more concentrated."
    return figure(to_svg(histogram_figure(panels)), "Distances of pairs by kind", caption)


def _numbers(columns: Sequence[Evaluated], difference: Interval | None) -> str:
    rows = [[name, *cells] for name, cells in summary_rows(columns)]
    text = (
        "In brackets: 95 % intervals; the identity or item is the unit, since pairs share them. "
        "FAR: share of negative pairs accepted. FRR: share of positive pairs rejected."
    )
    if difference is not None:
        text += (
            f" Corrected OPIS, {columns[0].name} minus {columns[1].name}, paired: "
            f"{thousandths_interval(difference)} · 10⁻³."
        )
    return table(["", *(entry.name for entry in columns)], rows) + note(text)


def _runs(columns: Sequence[Evaluated], arrows: Sequence[Arrow]) -> str:
    own = [_run_of(entry) for entry in columns]
    if len(own) > 1:
        arrows, own = [Arrow(base=own[1], tcm=own[0]), *arrows], []
    caption = (
        "Lower is more alike from group to group, left is better recognition. Vertical lines: "
        "95 % intervals. An arrow leads from a base loss to the same with TCM"
        + (f", or from {columns[1].name} to {columns[0].name}." if len(columns) > 1 else ".")
    )
    unknown = [run.name for a in arrows for run in (a.base, a.tcm) if not is_drawn(run)]
    unknown += [run.name for run in own if not is_drawn(run)]
    if unknown:
        caption += f" Unknown, hence not drawn: {', '.join(unknown)}."
    svg = to_svg(runs_figure(arrows, own))
    return figure(svg, "OPIS against recognition error", caption)


def _worst(ours: Evaluated) -> str:
    one, many = ours.unit
    ranked = worst_first(ours.measures.points)
    caption = (
        f"Rates at the threshold with 95 % intervals; last line and dashes: "
        f"{ours.measures.overall.name}. The scale of FAR is logarithmic above its first mark and "
        "begins at 0."
    )
    svg = to_svg(rates_figure(ours.measures.overall, ours.measures.points))
    units = "Identities" if ours.measures.settings.group == "customer" else "Items"
    head = (f"{one.capitalize()}, lowest utility first", units, *POINT_HEAD)
    rows = [(point.name, f"{point.identities:,}", *point_cells(point)) for point in ranked[:ROWS]]
    rest = note(f"And {len(ranked) - ROWS:,} more {many}.") if len(ranked) > ROWS else ""
    return figure(svg, f"FAR, FRR and precision by {one}", caption) + table(head, rows) + rest
