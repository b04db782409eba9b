"""FAR, FRR and precision of each group at the threshold, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from pipeline.calibration.points import OperatingPoint
from pipeline.reports.plots_style import COLOURS, STYLE, short
from pipeline.statistics.intervals import Interval

ROWS = 30
"""Groups that a figure of rates can show."""


def rates_figure(overall: OperatingPoint, groups: Sequence[OperatingPoint]) -> Figure:
    """FAR, FRR and precision of each group at the threshold, lowest utility first."""
    shown = sorted(groups, key=lambda point: np.nan_to_num(point.utility, nan=2.0))[:ROWS]
    rows = [*shown, overall]
    with mpl.rc_context(STYLE):
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
        axes[0].set_yticks(range(len(rows)), [short(point.name) for point in rows])
        axes[0].set_ylim(len(rows) - 0.4, -0.6)
        return figure


def _draw_rates(axis: Axes, rates: Sequence[Interval], title: str) -> None:
    for row, rate in enumerate(rates):
        last = row == len(rates) - 1
        colour = "black" if last else COLOURS[0]
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
