"""``[calibration]``: the rule that chooses the one threshold, and what it has to hold."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.consistency.ranges import RANGE_FAR, SPACINGS
from pipeline.statistics.risk import CONTROLS
from pipeline.strict import require

TARGETS = ("far_target", "frr_target", "both_targets")
"""Rules that hold a rate to a target; they can be put under risk control."""

UTILITIES = ("max_mean_utility", "max_min_utility")
"""Rules that look for the best utility, plain only."""

UNITS = ("customer", "label")
"""What a mean is over, and what a guarantee speaks of one more of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationConfig:
    """``[calibration]``: the rule that chooses the one threshold."""

    rule: str = "far_target"
    """``far_target``: largest threshold whose FAR meets its target; ``frr_target``: smallest one
    whose FRR meets its own; ``both_targets``: largest one that meets both; ``max_mean_utility``;
    ``max_min_utility``: best for the worst customer."""
    far_target: float = 1e-3
    """FAR, mean over the units, that the threshold may not exceed."""
    frr_target: float = 0.05
    """FRR, mean over the units, that the threshold may not exceed."""
    control: str = "plain"
    """How a target holds: ``plain``, on the calibrate classes; ``crc``, for one more unit in the
    mean; ``ltt``, for all units like these with probability 1 - delta."""
    delta: float = 0.1
    """``ltt`` alone: probability that the calibrate classes mislead."""
    unit: str = "customer"
    """What the mean is over: ``customer``, or ``label``, the class of the query."""
    range_far: tuple[float, float] = RANGE_FAR
    """FARs (mean over the customers) that bound the calibration range of OPIS."""
    spacing: str = "euclidean"
    """Spacing of the thresholds in the calibration range: ``euclidean``, ``cosine``, or
    ``log_far``: equal steps of the logarithm of FAR."""

    def __post_init__(self) -> None:
        """Check the ranges and relations."""
        _require_one_of(self.rule, "rule", TARGETS + UTILITIES)
        _require_one_of(self.control, "control", CONTROLS)
        _require_one_of(self.unit, "unit", UNITS)
        _require_one_of(self.spacing, "spacing", SPACINGS)
        require(0 < self.far_target < 1, "far_target", "between 0 and 1")
        require(0 < self.frr_target < 1, "frr_target", "between 0 and 1")
        require(0 < self.delta < 1, "delta", "between 0 and 1")
        require(0 < self.range_far[0] < self.range_far[1] < 1, "range_far",
                "two FARs, 0 < low < high < 1")
        require(self.control == "plain" or self.rule in TARGETS, "control",
                f"'plain' under rule = {self.rule!r}: risk control needs a rate that only rises or "
                "only falls with the threshold, and utility does both; or take rule = "
                "'far_target' or 'frr_target'")
        require(self.unit == "customer" or self.rule != "max_min_utility", "unit",
                "'customer' under rule = 'max_min_utility': the worst of many classes with a few "
                "items each is chance")


def targets(config: CalibrationConfig) -> dict[str, float]:
    """The rates that the rule holds to a target, ``far`` or ``frr`` or both; none for utility."""
    known = {"far": config.far_target, "frr": config.frr_target}
    named = {"far_target": ("far",), "frr_target": ("frr",), "both_targets": ("far", "frr")}
    return {name: known[name] for name in named.get(config.rule, ())}


def _require_one_of(value: str, key: str, known: tuple[str, ...]) -> None:
    names = [repr(name) for name in known]
    require(value in known, key, f"{', '.join(names[:-1])} or {names[-1]}")
