"""Numbers as people read them: with their unit, their interval, and a dash where unknown."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from pipeline.statistics.intervals import Interval

MISSING = "—"
"""What stands where a number is unknown."""


def distance(value: float | np.float32) -> str:
    """A cosine distance with 6 decimals."""
    return f"{float(value):.6f}"


def number(value: float) -> str:
    """A value in [0, 1] with 3 decimals."""
    return MISSING if math.isnan(value) else f"{value:.3f}"


def number_interval(value: Interval) -> str:
    """A value in [0, 1] with its interval in brackets, where both are known."""
    if math.isnan(value.value) or math.isnan(value.lower):
        return number(value.value)
    return f"{number(value.value)} [{number(value.lower)}, {number(value.upper)}]"


def share(value: float) -> str:
    """A share as a percentage with 2 decimals, or 2 significant digits below 0.1 %."""
    return MISSING if math.isnan(value) else f"{_percent(value)} %"


def share_interval(rate: Interval) -> str:
    """A share with its interval in brackets, where both are known."""
    if math.isnan(rate.value) or math.isnan(rate.lower):
        return share(rate.value)
    return f"{share(rate.value)} [{_percent(rate.lower)}, {_percent(rate.upper)}]"


def share_range(values: Iterable[float]) -> str:
    """Lowest and highest share of those that are known."""
    known = [value for value in values if not math.isnan(value)]
    return f"{_percent(min(known))} to {share(max(known))}" if known else MISSING


def thousandths(value: float) -> str:
    """A number in units of 10^-3 with 2 decimals, or 2 significant digits below 0.1."""
    if math.isnan(value):
        return MISSING
    scaled = 1e3 * value
    return f"{scaled:.2f}" if scaled == 0 or abs(scaled) >= 0.1 else f"{scaled:.2g}"


def thousandths_interval(value: Interval) -> str:
    """A number in units of 10^-3 with its interval in brackets, where both are known."""
    if math.isnan(value.value) or math.isnan(value.lower):
        return thousandths(value.value)
    ends = f"[{thousandths(value.lower)}, {thousandths(value.upper)}]"
    return f"{thousandths(value.value)} {ends}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}" if value == 0 or value >= 1e-3 else f"{100 * value:.2g}"
