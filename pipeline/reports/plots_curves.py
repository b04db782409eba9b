"""Utility against the threshold, a curve for each group: the method's figure.

Where the curves lie on one another, one threshold treats every group alike. Zhang et al., ICLR
2024, arXiv:2307.04047. Few groups are named; of thousands some hundreds are drawn, evenly over
their ranking, so that the file stays small and the picture stays true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pipeline.counting.operating import Curve
from pipeline.reports.plots_style import (
    GREY,
    STYLE,
    WORST,
    lay_out,
    legend_below,
    line,
    mark_threshold,
    short,
)

NAMED = 9
"""Groups that a figure of curves can name; the others are drawn in grey."""
DRAWN = 150
"""Curves that one panel holds when no group is named."""
WORST_SHARE = 0.1
"""Share of the groups that is highlighted at each threshold, at least one group."""

_HEIGHT = "utility (harmonic mean of\nsensitivity and specificity)"
_CROWD = "#4477AA"


@dataclass(frozen=True, slots=True)
class CurvePanel:
    """The utility curves of one embedding."""

    title: str
    thresholds: Curve
    """(K,) cosine distances of the calibration range."""
    groups: tuple[str, ...]
    """(G,) customers or classes."""
    utility: Curve
    """(G, K) in [0, 1]; NaN without positives."""
    threshold: float
    """The operating point, a cosine distance."""
    mark: str = "served threshold"
    """What the threshold is called."""
    unit: tuple[str, str] = ("customer", "customers")
    """One group and several of them, in words."""

    @property
    def known(self) -> NDArray[np.int64]:
        """Rows of the groups that have a curve."""
        return np.flatnonzero(~np.isnan(self.utility).any(axis=1))


def measured(panel: CurvePanel) -> tuple[str, ...]:
    """The groups that have a curve, in the order of the panel."""
    return tuple(panel.groups[row] for row in panel.known)


def worst_count(groups: int) -> int:
    """How many of ``groups`` are the worst tenth: at least one."""
    return max(1, round(WORST_SHARE * groups))


def worst_curve(curves: Curve) -> Curve:
    """(K,) mean of the worst tenth of ``curves`` (G, K), chosen anew at each threshold."""
    return np.asarray(np.sort(curves, axis=0)[: worst_count(len(curves))].mean(axis=0))


def utility_figure(panels: Sequence[CurvePanel]) -> Figure:
    """A curve for each group, named in colour, and their mean; embeddings side by side.

    With more groups than can be named, those farthest from the mean in the first panel are.
    """
    with mpl.rc_context(STYLE):
        named = _farthest(panels[0])
        handles = [line(style, [], []) for style in range(len(named))]
        labels = [short(group) for group in named]
        handles.append(Line2D([], [], color="black", linewidth=3.0))
        labels.append(f"mean over {panels[0].unit[1]}")
        if len(panels[0].known) > 1:
            handles.append(Line2D([], [], color=WORST, linewidth=7.0, alpha=0.35))
            labels.append("worst 10 %, at least one")
        if others := len(panels[0].known) - len(named):
            handles.append(Line2D([], [], color=GREY, linewidth=1.2))
            one, many = panels[0].unit
            labels.append(f"another {one}" if others == 1 else f"{others} other {many}")
        figure, axes = _panels(panels, len(labels))
        for axis, panel in zip(axes, panels, strict=True):
            _draw_named(axis, panel, named)
        return _finish(figure, axes, panels, handles, labels)


def overlay_figure(panels: Sequence[CurvePanel]) -> Figure:
    """All curves as thin lines, their mean, and the worst tenth at each threshold, side by side.

    At most ``DRAWN`` curves a panel, evenly over the ranking of the groups by mean utility.
    """
    with mpl.rc_context(STYLE):
        handles = [
            Line2D([], [], color=_CROWD, linewidth=1.2, alpha=0.6),
            Line2D([], [], color="black", linewidth=3.0),
            Line2D([], [], color=WORST, linewidth=3.0, dashes=(5, 1.6)),
        ]
        many = panels[0].unit[1]
        labels = [f"one of the {many}", f"mean over {many}", "mean of the worst 10 %"]
        figure, axes = _panels(panels, len(labels))
        for axis, panel in zip(axes, panels, strict=True):
            _draw_crowd(axis, panel)
        return _finish(figure, axes, panels, handles, labels)


def drawn(panel: CurvePanel) -> NDArray[np.int64]:
    """Rows of the curves that ``overlay_figure`` draws, lowest mean utility first."""
    ranked = panel.known[np.argsort(panel.utility[panel.known].mean(axis=1), kind="stable")]
    places = np.linspace(0, ranked.size - 1, min(DRAWN, ranked.size)).round().astype(np.int64)
    return ranked[places]


def _panels(panels: Sequence[CurvePanel], entries: int) -> tuple[Figure, list[Axes]]:
    """A figure with room for a legend of so many ``entries``."""
    rows = math.ceil(entries / _columns(panels))
    width = 8.0 if len(panels) == 1 else 5.6 * len(panels)
    figure = Figure(figsize=(width, 4.1 + 0.24 * rows))
    return figure, list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0])


def _finish(
    figure: Figure,
    axes: Sequence[Axes],
    panels: Sequence[CurvePanel],
    handles: Sequence[Line2D],
    labels: Sequence[str],
) -> Figure:
    lowest = min(_least(panel) for panel in panels)
    axes[0].set_ylabel(_HEIGHT)
    axes[0].set_ylim(lowest - 0.17 * (1.005 - lowest), 1.005)  # the label stands below them
    legend_below(figure, handles, labels, _columns(panels))
    rows = math.ceil(len(labels) / _columns(panels))
    lay_out(figure, 0.24 * rows + 0.05)
    return figure


def _columns(panels: Sequence[CurvePanel]) -> int:
    return 3 if len(panels) == 1 else 4


def _draw_named(axis: Axes, panel: CurvePanel, named: Sequence[str]) -> None:
    curves = {panel.groups[row]: panel.utility[row] for row in panel.known}
    for group, curve in curves.items():
        if group not in named:
            axis.plot(panel.thresholds, curve, color=GREY, linewidth=0.8, zorder=1.5)
    for style, group in enumerate(named):
        if group in curves:
            axis.add_line(line(style, panel.thresholds, curves[group]))
    if len(curves) > 1:  # a halo, so that the name of the worst stays legible
        worst = worst_curve(panel.utility[panel.known])
        axis.plot(panel.thresholds, worst, color=WORST, linewidth=7.0, alpha=0.35, zorder=1.6)
    _draw_mean(axis, panel)


def _draw_crowd(axis: Axes, panel: CurvePanel) -> None:
    rows = drawn(panel)
    alpha = float(np.clip(20 / max(rows.size, 1), 0.22, 0.6))
    points = [np.column_stack([panel.thresholds, panel.utility[row].round(4)]) for row in rows]
    axis.add_collection(LineCollection(points, colors=_CROWD, linewidths=0.7, alpha=alpha))
    if rows.size:
        worst = worst_curve(panel.utility[panel.known])
        axis.plot(panel.thresholds, worst, color=WORST, linewidth=3.0, dashes=(5, 1.6), zorder=2.6)
    _draw_mean(axis, panel)


def _draw_mean(axis: Axes, panel: CurvePanel) -> None:
    """The mean curve, the axes' names and the threshold: last, once the limits are known."""
    if panel.known.size:
        mean = panel.utility[panel.known].mean(axis=0)
        axis.plot(panel.thresholds, mean, color="black", linewidth=3.0, zorder=2.5)
    else:
        nothing = f"no {panel.unit[0]} with positive pairs"
        axis.text(0.5, 0.5, nothing, transform=axis.transAxes, ha="center")
    low = min(float(panel.thresholds[0]), panel.threshold)
    high = max(float(panel.thresholds[-1]), panel.threshold)
    margin = 0.03 * (high - low) or 0.01
    axis.set_xlim(low - margin, high + margin)
    axis.set_xlabel("threshold (cosine distance)")
    axis.set_title(panel.title)
    axis.grid(visible=True)
    mark_threshold(axis, panel.threshold, panel.mark)


def _farthest(panel: CurvePanel) -> tuple[str, ...]:
    """At most ``NAMED`` groups, in the order of the panel."""
    curves = panel.utility[panel.known]
    if not len(curves):
        return ()
    gaps = np.square(curves - curves.mean(axis=0)).mean(axis=1)
    return tuple(measured(panel)[i] for i in sorted(np.argsort(-gaps, kind="stable")[:NAMED]))


def _least(panel: CurvePanel) -> float:
    return float(panel.utility[panel.known].min()) if panel.known.size else 0.0
