"""How far apart positive and negative pairs lie, and where the threshold cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.counting.operating import Curve
from pipeline.reports.plots_style import COLOURS, STYLE, lay_out, legend_below, mark_threshold

_POSITIVE, _NEGATIVE, _RANGE = COLOURS[2], COLOURS[4], "#DDCC77"
_UNEVEN = 8.0
"""Ratio of the two peaks from which one of them is lost on a linear scale."""


@dataclass(frozen=True, slots=True)
class HistogramPanel:
    """Densities of the distances of one embedding."""

    title: str
    edges: Curve
    """(B + 1,) cosine distances."""
    negative: Curve
    """(B,) density of negative pairs per unit of cosine distance; NaN without pairs."""
    positive: Curve
    """(B,) density of positive pairs."""
    threshold: float
    range: tuple[float, float]
    """The calibration range."""
    mark: str = "served threshold"


def histogram_figure(panels: Sequence[HistogramPanel]) -> Figure:
    """Densities of positive and negative pairs by distance, embeddings side by side.

    The scale is logarithmic where one kind would be too flat to see beside the other.
    """
    with mpl.rc_context(STYLE):
        width = 8.0 if len(panels) == 1 else 5.6 * len(panels)
        figure = Figure(figsize=(width, 3.9))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        uneven = is_uneven(panels)
        for axis, panel in zip(axes, panels, strict=True):
            _draw(axis, panel)
        top = max(_peak(panel.positive, panel.negative) for panel in panels)
        axes[0].set_yscale("log" if uneven else "linear")
        axes[0].set_ylim((top / 3e4, top * 4) if uneven else (0, top * 1.18))
        scale = "pairs per unit of distance" + (",\nlogarithmic" if uneven else "")
        axes[0].set_ylabel(f"density of {scale}")
        handles = [
            Patch(facecolor=_fade(_POSITIVE), edgecolor=_POSITIVE),
            Patch(facecolor=_fade(_NEGATIVE), edgecolor=_NEGATIVE, linestyle="--"),
            Patch(facecolor=_fade(_RANGE)),
        ]
        labels = ["positive pairs (same label)", "negative pairs", "calibration range"]
        legend_below(figure, handles, labels, 3)
        lay_out(figure, 0.3)
        return figure


def is_uneven(panels: Sequence[HistogramPanel]) -> bool:
    """Whether the densities of one kind of pairs would be too flat to see on a linear scale."""
    peaks = [_peak(kind) for panel in panels for kind in (panel.negative, panel.positive)]
    seen = [peak for peak in peaks if peak > 0]
    return len(seen) > 1 and max(seen) > _UNEVEN * min(seen)


def _draw(axis: Axes, panel: HistogramPanel) -> None:
    axis.axvspan(*panel.range, color=_RANGE, alpha=0.3, linewidth=0, zorder=0.5)
    for density, colour, dash in (
        (panel.negative, _NEGATIVE, "--"), (panel.positive, _POSITIVE, "-"),
    ):  # fmt: skip
        values = np.where(density > 0, density, np.nan)
        floor = np.nan_to_num(values, nan=1e-12)
        axis.stairs(floor, panel.edges, fill=True, color=colour, alpha=0.28, baseline=1e-12)
        axis.stairs(floor, panel.edges, color=colour, linewidth=1.4, linestyle=dash, baseline=1e-12)
    axis.set_xlim(0.0, float(panel.edges[-1]))
    axis.set_xlabel("cosine distance of a pair")
    axis.set_title(panel.title)
    axis.grid(visible=True)
    mark_threshold(axis, panel.threshold, panel.mark, top=True)


def _peak(*densities: Curve) -> float:
    known = np.concatenate(densities)
    return float(np.nanmax(known)) if not np.isnan(known).all() else 0.0


def _fade(colour: str) -> tuple[float, float, float, float]:
    red, green, blue = mpl.colors.to_rgb(colour)
    return red, green, blue, 0.28
