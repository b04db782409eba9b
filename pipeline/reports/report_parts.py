"""Pieces that the calibration report and the evaluation share, so that they read alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pipeline.calibration.points import OperatingPoint
from pipeline.consistency.extremes import Corrected, EpsOpis, Spread
from pipeline.reports.numerals import (
    MISSING,
    number,
    number_interval,
    share,
    share_interval,
    thousandths,
)

POINT_HEAD = ("FAR", "FRR", "Precision", "Utility")
"""Columns of ``point_cells``."""

EPS_FORMS = (
    ("best_worst", "mean squared gap of the worst to the best"),
    ("worst_rest", "mean squared gap of the worst to the rest"),
    ("opis_gap", "OPIS of the worst minus OPIS of the rest"),
)
"""The forms of eps-OPIS, by their names in ``EpsOpis``, in words."""


def extreme_rows(
    eps: Sequence[EpsOpis | None], spreads: Sequence[tuple[Spread, Spread] | None]
) -> list[tuple[str, list[str]]]:
    """Rows of the worst groups and of the spreads of FAR and FRR, a cell for each embedding.

    None where an embedding was not measured so; no row of what none was.
    """
    rows = []
    if any(entry is not None for entry in eps):
        rows += [
            (f"10 %-OPIS, {text}, raw; corrected (10⁻³)",
             [_both(None if entry is None else getattr(entry, name)) for entry in eps])
            for name, text in EPS_FORMS
        ]  # fmt: skip
    if any(pair is not None for pair in spreads):
        rows += [
            (f"{rate} spread over the range, mean squared gap, raw; corrected (10⁻³)",
             [_both(None if pair is None else pair[i].variance) for pair in spreads])
            for i, rate in enumerate(("FAR", "FRR"))
        ]  # fmt: skip
    return rows


def _both(value: Corrected | None) -> str:
    """A raw and a corrected value in units of 10^-3; a dash where nothing was measured."""
    return MISSING if value is None else f"{thousandths(value.raw)}; {thousandths(value.corrected)}"


def point_cells(point: OperatingPoint) -> tuple[str, ...]:
    """A point's rates at the threshold, as people read them."""
    return (
        share_interval(point.far), share_interval(point.frr),
        share(point.precision), _utility(point),
    )  # fmt: skip


def _utility(point: OperatingPoint) -> str:
    known = not math.isnan(point.utility_interval.lower)
    return number_interval(point.utility_interval) if known else number(point.utility)


def worst_first(points: Iterable[OperatingPoint]) -> list[OperatingPoint]:
    """The groups by utility at the threshold, the unknown last, equal ones by name."""
    return sorted(points, key=lambda p: (math.inf if math.isnan(p.utility) else p.utility, p.name))


def some(names: Sequence[str], most: int) -> str:
    """At most so many ``names``, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
