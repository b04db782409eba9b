"""``[loss]`` of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.losses.options import require_loss
from pipeline.strict import require


@dataclass(frozen=True, kw_only=True, slots=True)
class TcmConfig:
    """``[loss.tcm]``: the threshold-consistent margin term (docs/methods.md section 2)."""

    margins: str = "given"
    """``given``: the two below; ``auto``: found on classes of the training set that the trial
    runs do not train on (docs/methods.md section 2)."""
    positive_margin: float = 0.9
    """Cosine similarity below which a positive pair is hard."""
    negative_margin: float = 0.5
    """Cosine similarity above which a negative pair is hard."""
    positive_weight: float = 1.0
    """Weight of the positive term."""
    negative_weight: float = 1.0
    """Weight of the negative term."""
    floor: int = 1
    """Least denominator of each mean: a larger one damps the last few violations."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(-1 <= self.negative_margin < self.positive_margin <= 1, "negative_margin",
                "below positive_margin, both cosine similarities in [-1, 1]")
        weights = (self.positive_weight, self.negative_weight)
        require(min(weights) >= 0 and sum(weights) < math.inf, "positive_weight",
                "finite and not negative, and negative_weight too")
        require(self.floor >= 1, "floor", "at least 1")
        require(self.margins in ("given", "auto"), "margins", "'given' or 'auto'")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """``[loss]``: a base loss, and TCM on top of it where ``[loss.tcm]`` is there."""

    base: str = "multi_similarity"
    """Name of the base loss; ``pipeline/losses/options.py`` lists them with their options."""
    options: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the base loss by name (its temperature, say) where its defaults do not fit."""
    memory: int = 0
    """Embeddings of earlier batches that pairs are formed with as well; 0: none."""
    tcm: TcmConfig | None = None
    """The threshold-consistent margin term; absent: the base loss alone."""

    def __post_init__(self) -> None:
        """Check the ranges, and that the base loss takes what it is given."""
        require(self.memory >= 0, "memory", "0 or more")
        require_loss(self)
