"""The figures of the calibration report, as SVG text that is the same for the same numbers.

Nine colours that colour-blind readers can tell apart (Paul Tol, "muted"), each with a dash of its
own, so that the curves stay apart in grey as well. Text stays text: the reader's fonts draw it,
whatever script a customer's name is written in.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

from pipeline.calibration import OperatingPoint
from pipeline.intervals import Interval
from pipeline.operating import Curve

NAMED = 9
"""Customers that a figure of curves can name; the others are drawn in grey."""
ROWS = 30
"""Customers that a figure of rates can show."""

_COLOURS = (
    "#332288", "#CC6677", "#117733", "#66B5E0", "#882255", "#D1A21F", "#44AA99", "#AA4499",
    "#7A7A1F",
)  # fmt: skip
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.6), (1.6, 1.4))
_THRESHOLD = "#B00020"
_GREY = "#BDBDBD"
_STYLE: dict[Any, Any] = {  # matplotlib spells its keys as one long Literal
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "limen",
    "text.parse_math": False,
}


@dataclass(frozen=True, slots=True)
class CurvePanel:
    """The utility curves of one embedding."""

    title: str
    thresholds: Curve
    """(K,) cosine distances of the calibration range."""
    groups: tuple[str, ...]
    """(G,) customers."""
    utility: Curve
    """(G, K) in [0, 1]; NaN without positives."""
    threshold: float
    """The served threshold, a cosine distance."""


def utility_figure(panels: Sequence[CurvePanel]) -> Figure:
    """Utility against threshold, a curve for each customer and their mean, side by side.

    With more customers than can be named, those farthest from the mean in the first panel are.
    """
    with mpl.rc_context(_STYLE):
        named = _farthest(panels[0])
        columns = 3 if len(panels) == 1 else 4
        rows = math.ceil((len(named) + 2) / columns)
        width = 8.0 if len(panels) == 1 else 5.6 * len(panels)
        figure = Figure(figsize=(width, 4.1 + 0.24 * rows))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            _draw_curves(axis, panel, named)
        axes[0].set_ylabel("utility (harmonic mean of\nsensitivity and specificity)")
        lowest = min(_least(panel.utility) for panel in panels)
        axes[0].set_ylim(lowest - 0.17 * (1.005 - lowest), 1.005)  # the label stands below them
        _legend(figure, panels[0], named, columns)
        figure.tight_layout(rect=(0, (0.24 * rows + 0.05) / figure.get_figheight(), 1, 1))
        return figure


def rates_figure(overall: OperatingPoint, customers: Sequence[OperatingPoint]) -> Figure:
    """FAR, FRR and precision of each customer at the served threshold, lowest utility first."""
    shown = sorted(customers, key=lambda point: np.nan_to_num(point.utility, nan=2.0))[:ROWS]
    rows = [*shown, overall]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.2, 1.5 + 0.3 * len(rows)), layout="constrained")
        axes = figure.subplots(1, 3, sharey=True)
        precision = [Interval(point.precision, math.nan, math.nan) for point in rows]
        _draw_rates(axes[0], [point.far for point in rows], "FAR: negative pairs accepted")
        _draw_rates(axes[1], [point.frr for point in rows], "FRR: positive pairs rejected")
        _draw_rates(axes[2], precision, "precision: accepted pairs that are positive")
        _far_scale(axes[0], [point.far for point in rows])
        for axis in axes[1:]:
            axis.set_xlim(-0.03, 1.03)
            axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes[0].set_yticks(range(len(rows)), [_short(point.name) for point in rows])
        axes[0].set_ylim(len(rows) - 0.4, -0.6)
        return figure


def to_svg(figure: Figure) -> bytes:
    """The figure as a UTF-8 SVG file without dates or versions."""
    buffer = io.BytesIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Layout measures with a font that lacks some scripts; the reader's fonts have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata=metadata)
    return buffer.getvalue()


def measured(panel: CurvePanel) -> tuple[str, ...]:
    """The customers that have a curve, in the order of the panel."""
    curves = zip(panel.groups, panel.utility, strict=True)
    return tuple(group for group, curve in curves if not np.isnan(curve).any())


def _draw_curves(axis: Axes, panel: CurvePanel, named: Sequence[str]) -> None:
    known = measured(panel)
    curves = dict(zip(panel.groups, panel.utility, strict=True))
    for group in [group for group in known if group not in named]:
        axis.plot(panel.thresholds, curves[group], color=_GREY, linewidth=0.8, zorder=1.5)
    for style, group in enumerate(named):
        if group in known:
            axis.add_line(_line(style, panel.thresholds, curves[group]))
    if known:
        mean = np.mean([curves[group] for group in known], axis=0)
        axis.plot(panel.thresholds, mean, color="black", linewidth=3.0)
    else:
        nothing = "no customer with positive pairs"
        axis.text(0.5, 0.5, nothing, transform=axis.transAxes, ha="center")
    margin = 0.03 * float(panel.thresholds[-1] - panel.thresholds[0]) or 0.01
    axis.set_xlim(panel.thresholds[0] - margin, panel.thresholds[-1] + margin)
    axis.set_xlabel("threshold (cosine distance)")
    axis.set_title(panel.title)
    axis.grid(visible=True)
    axis.axvline(panel.threshold, color=_THRESHOLD, linewidth=1.6, zorder=3)
    left = panel.threshold < float(panel.thresholds[0] + panel.thresholds[-1]) / 2
    axis.annotate(
        f"served threshold\n{panel.threshold:.4f}", (panel.threshold, 0.02),
        xycoords=("data", "axes fraction"), xytext=(5 if left else -5, 0),
        textcoords="offset points", ha="left" if left else "right", va="bottom",
        color=_THRESHOLD, fontsize=9, zorder=5,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def _legend(figure: Figure, panel: CurvePanel, named: Sequence[str], columns: int) -> None:
    lines = [_line(style, [], []) for style in range(len(named))]
    labels = [_short(group) for group in named]
    lines.append(Line2D([], [], color="black", linewidth=3.0))
    labels.append("mean over customers")
    others = len(measured(panel)) - len(named)
    if others:
        lines.append(Line2D([], [], color=_GREY, linewidth=1.2))
        labels.append("another customer" if others == 1 else f"{others} other customers")
    placeholders = ["x"] * len(labels)
    legend = figure.legend(
        lines, placeholders, loc="lower center", ncols=min(columns, len(lines)), handlelength=3.2
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)  # set late: a legend drops labels that begin with "_"


def _line(style: int, x: Sequence[float] | Curve, y: Sequence[float] | Curve) -> Line2D:
    line = Line2D(x, y, color=_COLOURS[style], linewidth=1.7)
    if dashes := _DASHES[style % len(_DASHES)]:
        line.set_dashes(dashes)
    return line


def _draw_rates(axis: Axes, rates: Sequence[Interval], title: str) -> None:
    for row, rate in enumerate(rates):
        last = row == len(rates) - 1
        colour = "black" if last else _COLOURS[0]
        if math.isnan(rate.value):
            axis.text(0.01, row, "n/a", transform=axis.get_yaxis_transform(), va="center", size=9)
            continue
        if not math.isnan(rate.lower):
            axis.plot([rate.lower, rate.upper], [row, row], color=colour, linewidth=1.6)
        axis.plot([rate.value], [row], "D" if last else "o", color=colour, markersize=5.5)
    if not math.isnan(rates[-1].value):
        axis.axvline(rates[-1].value, color="black", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axis.axhline(len(rates) - 1.5, color="#999999", linewidth=0.6)
    axis.grid(visible=True, axis="x")
    axis.set_title(title, fontsize=10)
    axis.tick_params(axis="y", length=0)


def _far_scale(axis: Axes, rates: Sequence[Interval]) -> None:
    """Decades above the smallest rate seen, linear below it, so that a FAR of 0 has a place."""
    seen = [end for rate in rates for end in (rate.value, rate.upper) if end > 0]
    linear = 10.0 ** math.floor(math.log10(min(seen))) if seen else 1e-4
    axis.set_xscale("symlog", linthresh=linear, linscale=0.5)
    axis.set_xlim(-0.15 * linear, min(1.05, 1.3 * max(seen, default=10 * linear)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g} %"))


def _farthest(panel: CurvePanel) -> tuple[str, ...]:
    """At most ``NAMED`` customers, in the order of the panel."""
    known = measured(panel)
    if not known:
        return ()
    curves = panel.utility[[panel.groups.index(group) for group in known]]
    gaps = np.square(curves - curves.mean(axis=0)).mean(axis=1)
    return tuple(known[i] for i in sorted(np.argsort(-gaps, kind="stable")[:NAMED]))


def _least(curves: Curve) -> float:
    return float(np.nanmin(curves)) if not np.isnan(curves).all() else 0.0


def _short(name: str) -> str:
    """At most 28 characters, cut in the middle: long names often differ at their end."""
    return name if len(name) <= 28 else f"{name[:15]}…{name[-12:]}"
