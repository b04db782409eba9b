"""What all figures share: colours, fonts, the mark of a threshold, and SVG that never varies.

Nine colours that colour-blind readers can tell apart (Paul Tol, "muted"), each with a dash of its
own, so that the curves stay apart in grey as well. Text stays text: the reader's fonts draw it,
whatever script a customer's name is written in.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.counting.operating import Curve

COLOURS = (
    "#332288", "#CC6677", "#117733", "#66B5E0", "#882255", "#D1A21F", "#44AA99", "#AA4499",
    "#7A7A1F",
)  # fmt: skip
THRESHOLD = "#B00020"
GREY = "#BDBDBD"
WORST = "#E08214"
"""Colour of the worst groups."""
STYLE: dict[Any, Any] = {  # matplotlib spells its keys as one long Literal
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
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.6), (1.6, 1.4))


def to_svg(figure: Figure) -> bytes:
    """The figure as a UTF-8 SVG file without dates or versions."""
    buffer = io.BytesIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(STYLE), _any_script():
        figure.savefig(buffer, format="svg", metadata=metadata)
    return buffer.getvalue()


def lay_out(figure: Figure, foot: float) -> None:
    """Fit the axes above a ``foot`` of so many inches, which a legend fills."""
    with _any_script():
        figure.tight_layout(rect=(0, foot / figure.get_figheight(), 1, 1))


@contextmanager
def _any_script() -> Iterator[None]:
    """Layout measures with a font that lacks some scripts; the reader's fonts have them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def line(style: int, x: Sequence[float] | Curve, y: Sequence[float] | Curve) -> Line2D:
    """A line in the ``style``-th of nine colours and its dash."""
    drawn = Line2D(x, y, color=COLOURS[style], linewidth=1.7)
    if dashes := _DASHES[style % len(_DASHES)]:
        drawn.set_dashes(dashes)
    return drawn


def mark_threshold(axis: Axes, threshold: float, title: str, *, top: bool = False) -> None:
    """A vertical line at ``threshold``, labelled on the side that has more room."""
    axis.axvline(threshold, color=THRESHOLD, linewidth=1.6, zorder=3)
    low, high = axis.get_xlim()
    left = threshold < (low + high) / 2
    axis.annotate(
        f"{title}\n{threshold:.4f}", (threshold, 0.98 if top else 0.02),
        xycoords=("data", "axes fraction"), xytext=(5 if left else -5, 0),
        textcoords="offset points", ha="left" if left else "right", va="top" if top else "bottom",
        color=THRESHOLD, fontsize=9, zorder=5,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def legend_below(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int
) -> None:
    """A legend at the foot of the figure; the caller leaves room for it."""
    legend = figure.legend(
        handles, ["x"] * len(labels), loc="lower center",
        ncols=min(columns, len(labels)), handlelength=3.2,
    )  # fmt: skip
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)  # set late: a legend drops labels that begin with "_"


def short(name: str) -> str:
    """At most 28 characters, cut in the middle: long names often differ at their end."""
    return name if len(name) <= 28 else f"{name[:15]}…{name[-12:]}"
