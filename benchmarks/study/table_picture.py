"""The comparisons as a table in a picture: base, with TCM, and the change in colour.

Blue is better, orange worse, which colour-blind readers can tell apart; strong where the paired
interval over the seeds leaves out 0, faint where it does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.study.analysis import Paired
from benchmarks.study.columns import MAIN_COLUMNS, TITLES, Column

_COLOURS = {(True, True): "#7FB4E6", (True, False): "#DCEBF8",
            (False, True): "#F4A460", (False, False): "#FCE8D5"}  # fmt: skip
"""Of a change, by whether it is better and whether it is sure."""
_ROW, _FIRST, _CELL, _GAP = 26, 190, 72, 14
_BLOCK = 3 * _CELL + _GAP
_FONT = "font-family='DejaVu Sans, Verdana, sans-serif' font-size='13'"


def table_picture(found: Sequence[Paired]) -> bytes:
    """UTF-8 SVG; comparisons in their order, under a line for each data and backbone."""
    width = _FIRST + _BLOCK * len(MAIN_COLUMNS) + 10
    body, y = _head(), 2 * _ROW + 8
    previous = ("", "")
    for pair in found:
        if pair.name[:2] != previous:
            previous = pair.name[:2]
            title = f"{TITLES[previous[0]]}, {TITLES[previous[1]]}"
            body.append(f"<rect x='0' y='{y}' width='{width}' height='{_ROW}' fill='#EEEEEE'/>")
            body.append(_text(8, y, title, "start", bold=True))
            y += _ROW
        body.append(_text(20, y, TITLES[pair.name[2]], "start"))
        for place, column in enumerate(MAIN_COLUMNS):
            body += _cells(_FIRST + place * _BLOCK, y, column, pair)
        y += _ROW
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {y + 6}' {_FONT}>\n"
        f"<rect width='{width}' height='{y + 6}' fill='white'/>\n" + "\n".join(body) + "\n</svg>\n"
    ).encode()


def _head() -> list[str]:
    body = []
    for place, column in enumerate(MAIN_COLUMNS):
        x = _FIRST + place * _BLOCK
        body.append(_text(x + 1.5 * _CELL, 6, column.title, "middle", bold=True))
        for cell, title in enumerate(("base", "+ TCM", "change")):
            body.append(_text(x + (cell + 1) * _CELL - 8, 4 + _ROW, title, "end"))
    return body


def _cells(x: float, y: float, column: Column, pair: Paired) -> list[str]:
    change = column.change(pair)
    body = []
    sure = not math.isnan(change.lower) and (change.lower > 0 or change.upper < 0)
    if not math.isnan(change.value) and change.value != 0:
        colour = _COLOURS[change.value * column.better > 0, sure]
        left = x + 2 * _CELL
        body.append(
            f"<rect x='{left}' y='{y + 2}' width='{_CELL}' height='{_ROW - 4}' fill='{colour}'/>"
        )
    texts = (*column.values(pair), column.change_text(pair))
    for cell, text in enumerate(texts):
        body.append(_text(x + (cell + 1) * _CELL - 6, y, text, "end", bold=sure and cell == 2))
    return body


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = " font-weight='bold'" if bold else ""
    return (
        f"<text x='{x:g}' y='{y + 18:g}' text-anchor='{anchor}'{weight} fill='#1A1A1A'>"
        f"{escape(text)}</text>"
    )
