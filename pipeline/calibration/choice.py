"""One global threshold, chosen on the calibrate classes and measured again where it serves.

First a fine grid finds the threshold and the calibration range; then every count is made anew
on the operating grid, whose edges are exactly the thresholds that matter. Rates are means over
units, customers or classes, so that a large one cannot set the threshold alone; how far a target
then holds for other units is a matter of risk control (``pipeline/statistics/risk.py``).
Rules and ranges: docs/methods.md sections 1 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.calibration.points import OperatingPoint as OperatingPoint
from pipeline.calibration.points import operating_points as operating_points
from pipeline.calibration.rates import UnitRates, customer_rates
from pipeline.calibration.rules import CalibrationConfig, targets
from pipeline.consistency.ranges import CURVE_POINTS as CURVE_POINTS
from pipeline.consistency.ranges import FarCurve, pooled_far, spaced
from pipeline.consistency.ranges import fine_grid as fine_grid
from pipeline.counting.operating import Grid
from pipeline.counting.queries import IdentityCounts
from pipeline.statistics.risk import Control, first_of_falling, last_of_rising

NO_PAIRS = (
    "no customer has both a positive and a negative pair among the calibrate classes; "
    "expected at least one; add labelled items or raise data.calibrate_share"
)

PLURALS = {"customer": "customers", "label": "classes"}
SINGULARS = {"customer": "customer", "label": "class"}


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
    units: int = 0
    """Customers or classes that the choice was made on; 0 where it was made elsewhere."""
    curve: tuple[float, ...] = ()
    """The float32 thresholds of a range of spacing ``log_far``, which its ends do not tell."""


def choose(
    counts: IdentityCounts, config: CalibrationConfig, rates: UnitRates | None = None
) -> Choice:
    """Choose threshold and calibration range from fine counts of the calibrate classes.

    ``rates``: curves over the rule's units on the same grid; by default over the customers of
    ``counts``. Raises ``CalibrationError`` where no threshold meets the rule, and where the units
    are too few to certify it.
    """
    if rates is None:
        rates = customer_rates(counts)
    if rates.unit != config.unit:
        raise ValueError(f"rates over the unit {rates.unit!r}; expected {config.unit!r}")
    if not rates.units:
        raise CalibrationError(NO_PAIRS.replace("customer", SINGULARS[config.unit]))
    position, guarantee = _chosen(rates, config)
    threshold = rates.edges[position]
    try:
        far = pooled_far(counts.grid, counts.pairs, "groups")
    except ValueError:
        raise CalibrationError(NO_PAIRS) from None  # a class may have both kinds, its customers not
    low, high = far.range(config.range_far)
    widened = bool(not low <= threshold <= high)
    low, high = min(low, threshold), max(high, threshold)
    if not low < high:
        raise CalibrationError(
            f"the calibration range is empty: FAR {config.range_far[0]:g} and "
            f"{config.range_far[1]:g} fall on one threshold; add classes"
        )
    curve = _curve((low, high), config.spacing, far)
    return Choice(threshold, low, high, widened, guarantee, rates.units, curve)


def require_units(units: int, config: CalibrationConfig) -> None:
    """``CalibrationError`` where so few ``units`` certify the targets with no error at all."""
    for name, control in _controls(config).items():
        if control.units_needed() > units:
            raise _refusal(name, 0.0, control, units, config.unit)


def curve_thresholds(choice: Choice, spacing: str) -> NDArray[np.float32]:
    """(101,) thresholds of the calibration range, ends included, equally spaced."""
    if spacing == "log_far" and choice.curve:
        return np.asarray(choice.curve, np.float32)
    return spaced(choice.range_low, choice.range_high, spacing)


def operating_grid(choice: Choice, spacing: str) -> Grid:
    """The grid of a release: its curve's thresholds and the served one."""
    return Grid(np.unique(np.append(curve_thresholds(choice, spacing), choice.threshold)))


def _curve(ends: tuple[np.float32, np.float32], spacing: str, far: FarCurve) -> tuple[float, ...]:
    """The thresholds where the ends do not tell them; refused where the range holds none."""
    try:
        inside = spaced(*ends, spacing, far_curve=far)
    except ValueError as error:
        raise CalibrationError(str(error)) from None
    return tuple(inside.tolist()) if spacing == "log_far" else ()


def _chosen(rates: UnitRates, config: CalibrationConfig) -> tuple[int, str]:
    """Position of the threshold that the rule takes, and what that guarantees."""
    units = f"{rates.units} {PLURALS[config.unit]}"
    if config.rule == "max_mean_utility":
        return int(rates.mean_utility.argmax()), (
            "Plain rule, no risk control: the threshold of the largest mean utility over "
            f"{units} on the calibrate classes."
        )
    if config.rule == "max_min_utility":
        if not rates.least_utility.max() > 0:
            raise CalibrationError(
                "at every threshold some customer has utility 0: no threshold serves the worst "
                "of them; add labelled items, or take another calibration.rule"
            )
        return int(rates.least_utility.argmax()), (
            "Plain rule, no risk control: the threshold at which the worst of "
            f"{units} has its largest utility on the calibrate classes."
        )
    return _target(rates, config), _promise(rates, config)


def _controls(config: CalibrationConfig) -> dict[str, Control]:
    """What each target of the rule has to hold under; two share delta between them."""
    limits = targets(config)
    delta = config.delta / max(len(limits), 1)
    return {name: Control(config.control, limit, delta) for name, limit in limits.items()}


def _target(rates: UnitRates, config: CalibrationConfig) -> int:
    """Position of the threshold that meets the target, or both."""
    ends = {
        name: (_far_end if name == "far" else _frr_end)(rates, control)
        for name, control in _controls(config).items()
    }
    top = ends.get("far", rates.edges.size)
    bottom = ends.get("frr", 0)
    if bottom > top:
        raise CalibrationError(
            f"no threshold meets both targets: FRR {config.frr_target:g} takes at least "
            f"{rates.edges[bottom]:.6f}, FAR {config.far_target:g} at most "
            f"{rates.edges[top]:.6f}; raise one of them"
        )
    return ends.get("far", bottom)


def _far_end(rates: UnitRates, control: Control) -> int:
    """Position of the largest threshold above 0 whose FAR meets the target."""
    last = last_of_rising(control.holds(rates.far, rates.units))
    if last is None or rates.edges[last] <= 0:
        least = float(rates.far[rates.edges > 0][0])
        raise _refusal("far", least, control, rates.units, rates.unit)
    return last


def _frr_end(rates: UnitRates, control: Control) -> int:
    """Position of the smallest threshold whose FRR meets the target."""
    first = first_of_falling(control.holds(rates.frr, rates.units))
    if first is None:
        raise _refusal("frr", float(rates.frr[-1]), control, rates.units, rates.unit)
    return first


def _refusal(
    name: str, least: float, control: Control, units: int, unit: str
) -> CalibrationError:
    """Why no threshold meets the target, where ``least`` is the smallest mean that there is."""
    rate, plural, needed = name.upper(), PLURALS[unit], control.units_needed(least)
    if np.isinf(needed):
        why = {
            "far": "; the embedding puts different labels on the same point",
            "frr": f": the index does not propose {least:.2g} of the positives; "
            "raise index.match_recall",
        }
        where = "no threshold above 0" if name == "far" else "no threshold"
        return CalibrationError(
            f"{where} has a mean {rate} of at most {control.alpha:g}{why[name]}"
        )
    errors = "even without an error" if least == 0 else f"with a mean {rate} of {least:.2g}"
    chance = f" with delta {control.delta:g}" if control.kind == "ltt" else ""
    return CalibrationError(
        f"calibration.control = {control.kind!r} cannot certify {rate} {control.alpha:g}{chance} "
        f"on {units} {plural} {errors}: it takes {needed:.0f}, {needed - units:.0f} more; "
        f"add {plural}, raise calibration.{name}_target, or set control = 'plain'"
    )


def _promise(rates: UnitRates, config: CalibrationConfig) -> str:
    """The guarantee of a target in one plain sentence."""
    limits = " and ".join(
        f"{name.upper()} is at most {value:g}" for name, value in targets(config).items()
    )
    plural, end = PLURALS[config.unit], "smallest" if config.rule == "frr_target" else "largest"
    if config.control == "plain":
        return (
            f"Plain rule, no risk control: the {end} threshold at which, averaged over "
            f"{rates.units} {plural}, {limits} on the calibrate classes."
        )
    if config.control == "crc":
        return (
            f"Conformal risk control: for one more {SINGULARS[config.unit]} drawn like the "
            f"{rates.units} of the calibrate classes, {limits} in the mean."
        )
    return (
        f"Learn then test: with probability {1 - config.delta:g} over the draw of the "
        f"{rates.units} {plural} of the calibrate classes, {limits}, averaged over all {plural} "
        "like them."
    )
