"""One global threshold, chosen on the calibrate classes and measured again where it serves.

First a fine grid finds the threshold and the calibration range; then every count is made anew
on the operating grid, whose edges are exactly the thresholds that matter. The customer is the
unit: rates are means over customers, so that a large one cannot set the threshold alone.
Rules and ranges: docs/methods.md sections 1 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.counting import IdentityCounts
from pipeline.distance import from_euclidean, to_euclidean
from pipeline.intervals import Interval, mean_of
from pipeline.operating import NEGATIVE, POSITIVE, Grid, utility
from pipeline.rules import CalibrationConfig

CURVE_POINTS = 101
"""Thresholds in the calibration range, ends included."""

_FINE_BINS = 16_384

NO_PAIRS = (
    "no customer has both a positive and a negative pair among the calibrate classes; "
    "expected at least one; add labelled items or raise data.calibrate_share"
)


class CalibrationError(ValueError):
    """The data cannot carry a threshold; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The threshold, the range around it, and what was promised."""

    threshold: np.float32
    range_low: np.float32
    range_high: np.float32
    widened: bool
    """Whether the range had to grow to contain the threshold."""
    guarantee: str
    """One plain sentence for people."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Rates at the threshold: over all customers (their mean), or of one."""

    name: str
    far: Interval
    frr: Interval
    precision: float
    utility: float
    identities: int
    """Identities with a positive pair."""


def fine_grid() -> Grid:
    """The grid on which a threshold is looked for: equal steps of chord length over [0, 2]."""
    chords = np.linspace(0.0, 2.0, _FINE_BINS + 1)
    return Grid(np.unique(from_euclidean(chords).astype(np.float32)))


def choose(counts: IdentityCounts, config: CalibrationConfig) -> Choice:
    """Choose threshold and calibration range from pooled fine counts of the calibrate classes.

    Raises ``CalibrationError`` where no threshold meets the rule.
    """
    totals = counts.pairs.sum(axis=2)
    usable = (totals > 0).all(axis=1)
    customers = int(usable.sum())
    if not customers:
        raise CalibrationError(NO_PAIRS)
    shares = counts.pairs[usable, :, :-1].cumsum(axis=2) / totals[usable, :, None]
    far = shares[:, NEGATIVE].mean(axis=0)
    edges = counts.grid.edges
    low, high = (_largest(edges, far, target) for target in config.range_far)
    if config.rule == "far_target":
        threshold = _largest(edges, far, config.far_target)
        if threshold <= 0:
            raise CalibrationError(
                f"no threshold above 0 has a mean FAR of at most {config.far_target:g}; "
                "the embedding puts different labels on the same point"
            )
        guarantee = (
            f"Plain rule, no risk control: the largest threshold at which FAR, averaged over "
            f"{customers} customers, is at most {config.far_target:g} on the "
            "calibrate classes."
        )
    else:
        best = int(utility(shares[:, POSITIVE], 1 - shares[:, NEGATIVE]).mean(axis=0).argmax())
        threshold = edges[best]
        guarantee = (
            "Plain rule, no risk control: the threshold of the largest mean utility over "
            f"{customers} customers on the calibrate classes."
        )
    low = max(low, edges[0])
    widened = not low <= threshold <= high
    low, high = min(low, threshold), max(high, threshold)
    if not low < high:
        raise CalibrationError(
            f"the calibration range is empty: FAR {config.range_far[0]:g} and "
            f"{config.range_far[1]:g} fall on one threshold; add classes"
        )
    return Choice(np.float32(threshold), np.float32(low), np.float32(high), widened, guarantee)


def curve_thresholds(choice: Choice, spacing: str) -> NDArray[np.float32]:
    """(101,) thresholds of the calibration range, ends included, equally spaced."""
    if spacing == "cosine":
        inside = np.linspace(choice.range_low, choice.range_high, CURVE_POINTS)
    else:
        ends = to_euclidean(np.asarray([choice.range_low, choice.range_high]))
        inside = from_euclidean(np.linspace(ends[0], ends[1], CURVE_POINTS))
    thresholds = inside.astype(np.float32)
    thresholds[[0, -1]] = choice.range_low, choice.range_high
    return thresholds


def operating_grid(choice: Choice, spacing: str) -> Grid:
    """The grid of a release: its curve's thresholds and the served one."""
    return Grid(np.unique(np.append(curve_thresholds(choice, spacing), choice.threshold)))


def operating_points(
    counts: IdentityCounts, threshold: np.float32
) -> tuple[OperatingPoint, tuple[OperatingPoint, ...]]:
    """The mean over customers, and each customer, at the served ``threshold``."""
    operating = counts.operating()
    edge = int(operating.grid.position(np.asarray([threshold], np.float32))[0])
    precision, utilities = operating.precision()[:, edge], operating.utility()[:, edge]
    points = []
    for i, group in enumerate(operating.groups):
        far, frr = counts.rates(group, threshold)
        mine = counts.pairs[counts.groups == group]
        identities = int((mine[:, POSITIVE].sum(axis=1) > 0).sum())
        points.append(
            OperatingPoint(group, far, frr, float(precision[i]), float(utilities[i]), identities)
        )
    overall = OperatingPoint(
        "mean over customers",
        mean_of([point.far for point in points]),
        mean_of([point.frr for point in points]),
        _mean([point.precision for point in points]),
        _mean([point.utility for point in points]),
        sum(point.identities for point in points),
    )
    return overall, tuple(points)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _largest(
    edges: NDArray[np.float32], far: NDArray[np.float64], target: float
) -> np.float32:
    """The largest edge whose FAR is at most ``target``; 0 where none is. FAR never falls."""
    passed = int(np.searchsorted(far, target, side="right"))
    return np.float32(edges[passed - 1]) if passed else np.float32(0)

