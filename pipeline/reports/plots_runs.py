"""OPIS against recognition error of several runs, with an arrow from each base loss to its TCM.

The method's second figure: an arrow that points down makes customers more alike; one that points
left recognises better. Zhang et al., ICLR 2024, arXiv:2307.04047.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.reports.plots_style import COLOURS, STYLE, lay_out, legend_below, short
from pipeline.statistics.intervals import Interval


@dataclass(frozen=True, slots=True)
class Run:
    """One embedding as a point."""

    name: str
    recognition_error: float
    """1 - R@1, in [0, 1]."""
    opis: Interval
    """Corrected OPIS with its interval."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """A run, and the same with the TCM term."""

    base: Run
    tcm: Run


def runs_figure(arrows: Sequence[Arrow], alone: Sequence[Run] = ()) -> Figure:
    """A scatter with an arrow for each of ``arrows``; ``alone``: runs that nothing belongs to.

    A run whose error or OPIS is unknown is not drawn, nor is an arrow to it.
    """
    entries = [*((a.base.name, a.tcm.name) for a in arrows), *((r.name, "") for r in alone)]
    with mpl.rc_context(STYLE):
        rows = math.ceil((len(entries) + 2) / 2)
        figure = Figure(figsize=(8.0, 4.4 + 0.24 * rows))
        axis = figure.subplots()
        for place, arrow in enumerate(arrows):
            _draw_arrow(axis, arrow, COLOURS[place % len(COLOURS)])
        for place, run in enumerate(alone):
            _draw_run(axis, run, COLOURS[(place + len(arrows)) % len(COLOURS)], filled=True)
        axis.set_xlabel("recognition error, 1 - R@1 (%)")
        axis.set_ylabel("OPIS, corrected for noise (10⁻³)")
        axis.margins(0.12)
        axis.grid(visible=True)
        handles = [_marker(COLOURS[i % len(COLOURS)], filled=True) for i in range(len(entries))]
        labels = [f"{short(a)} → {short(b)}" if b else short(a) for a, b in entries]
        if arrows:
            handles += [_marker("#555555", filled=False), _marker("#555555", filled=True)]
            labels += ["open: before (base loss)", "filled: after (with TCM)"]
        legend_below(figure, handles, labels, 2)
        lay_out(figure, 0.24 * rows + 0.05)
        return figure


def is_drawn(run: Run) -> bool:
    """Whether the run has both numbers."""
    return not (math.isnan(run.recognition_error) or math.isnan(run.opis.value))


def _draw_arrow(axis: Axes, arrow: Arrow, colour: str) -> None:
    _draw_run(axis, arrow.base, colour, filled=False)
    _draw_run(axis, arrow.tcm, colour, filled=True)
    if is_drawn(arrow.base) and is_drawn(arrow.tcm):
        axis.annotate(
            "", _place(arrow.tcm), _place(arrow.base),
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.8,
                        "shrinkA": 5, "shrinkB": 5},
        )  # fmt: skip


def _draw_run(axis: Axes, run: Run, colour: str, *, filled: bool) -> None:
    if not is_drawn(run):
        return
    x, y = _place(run)
    if not math.isnan(run.opis.lower):
        ends = [1e3 * run.opis.lower, 1e3 * run.opis.upper]
        axis.plot([x, x], ends, color=colour, linewidth=1.0, alpha=0.55, zorder=1.8)
    face = colour if filled else "white"
    axis.plot([x], [y], "o", color=colour, markerfacecolor=face, markersize=7.5, zorder=3)


def _place(run: Run) -> tuple[float, float]:
    return 100 * run.recognition_error, 1e3 * run.opis.value


def _marker(colour: str, *, filled: bool) -> Line2D:
    face = colour if filled else "white"
    return Line2D([], [], marker="o", linestyle="", color=colour, markerfacecolor=face)
