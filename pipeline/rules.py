"""``[calibration]``: the rule that chooses the one threshold, and what it has to hold."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.strict import require


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationConfig:
    """``[calibration]``: the rule that chooses the one threshold."""

    rule: str = "far_target"
    """``far_target``: largest threshold whose FAR meets the target; or ``max_mean_utility``."""
    far_target: float = 1e-3
    """FAR, mean over the customers, that the threshold may not exceed."""
    range_far: tuple[float, float] = (1e-2, 1e-1)
    """FARs (mean over the customers) that bound the calibration range of OPIS."""
    spacing: str = "euclidean"
    """Spacing of the thresholds in the calibration range: ``euclidean`` or ``cosine``."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.rule in ("far_target", "max_mean_utility"), "rule",
                "'far_target' or 'max_mean_utility'")
        require(0 < self.far_target < 1, "far_target", "between 0 and 1")
        require(0 < self.range_far[0] < self.range_far[1] < 1, "range_far",
                "two FARs, 0 < low < high < 1")
        require(self.spacing in ("euclidean", "cosine"), "spacing", "'euclidean' or 'cosine'")
