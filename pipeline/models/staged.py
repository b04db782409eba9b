"""Networks of other libraries, cut into stages that run one after the other.

The cut is what lets the first stages be frozen and their features be kept, and what gives each
stage its own rate. The library's own network stays whole inside, so that its files of weights
fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.models.backbone import Backbone
from pipeline.models.config import ModelConfig
from pipeline.strict import RecipeError, require

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of red, green and blue in [0, 1]."""

KEYS = ("pooling", "head", "frozen_norm", "trained_stages", "weights")
"""What a recipe may choose for these networks."""

# Exponent of the generalised mean at the start, and the least value that it is taken of.
_EXPONENT, _LEAST = 3.0, 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A library's network, in the order in which its stages run."""

    network: nn.Module
    stem: nn.Module
    stages: list[nn.Module]
    """What ``trained_stages`` counts."""
    width: int
    """Channels of the last stage."""
    leading: int | None
    """Tokens before those of the patches, where the last stage gives (b, n, c) tokens; None
    where it gives a map (b, c, h, w)."""
    colours: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and standard deviation of the colours in [0, 1] that the weights expect."""
    pooled: bool = False
    """Whether the last stage gives (b, c), pooled by the library itself."""
    architecture: Mapping[str, object] = field(default_factory=dict)


class Staged(Backbone):
    """(b, 3, S, S) float32 from 0 to 255 to (b, dimension) float32, not normalised."""

    scale: Tensor
    shift: Tensor

    def __init__(self, cut: Cut, config: ModelConfig) -> None:
        """Stages of ``cut``, pooling and head; all but ``config.trained_stages`` are still."""
        super().__init__()
        self.architecture = cut.architecture
        mean, deviation = (torch.tensor(values)[:, None, None] for values in cut.colours)
        self.register_buffer("scale", 1.0 / (255.0 * deviation))
        self.register_buffer("shift", mean / deviation)
        self.network = cut.network
        self.pool = nn.Identity() if cut.pooled else Pool(config.pooling, cut.leading)
        self.head = _head(config.head, cut.width, config.dimension)
        # A tuple, not a ModuleList: the network holds these modules under their own names.
        self.steps = (cut.stem, *cut.stages, self.pool)
        self.split = _still_steps(config.trained_stages, len(cut.stages))
        if config.trained_stages == 0 and not list(self.pool.parameters()):
            self.split += 1

    def parts(self) -> list[nn.Module]:
        """The stem, the stages, and the head with the pooling."""
        return [*self.steps[:-1], nn.ModuleList([self.pool, self.head])]

    def still(self) -> list[nn.Module]:
        """Stem, stages and pooling as far as nothing in them is trained."""
        return list(self.steps[: self.split])

    def frozen(self, x: Tensor) -> Tensor:
        """What the still steps make of pixels."""
        x = x * self.scale - self.shift
        for step in self.steps[: self.split]:
            x = step(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch of pixels."""
        return self.trained(self.frozen(x) if self.split else x)

    def trained(self, features: Tensor) -> Tensor:
        """The other steps and the head; of pixels where no step is still."""
        if self.split == 0:
            features = features * self.scale - self.shift
        for step in self.steps[self.split :]:
            features = step(features)
        rows: Tensor = self.head(features)
        return rows


class Pool(nn.Module):
    """(b, c, h, w) map or (b, n, c) tokens to (b, c).

    ``mean`` and ``gem`` are over places, not over the ``leading`` tokens. GeM is the mean of
    powers of what is positive, its exponent learned: Radenovic et al., TPAMI 2018,
    arXiv:1711.02512.
    """

    def __init__(self, kind: str, leading: int | None) -> None:
        """``kind`` empty: the cls token where there is one, the mean otherwise."""
        super().__init__()
        require(kind != "cls" or bool(leading), "model.pooling",
                "'mean' or 'gem': this backbone has no cls token")
        self.kind = kind or ("cls" if leading else "mean")
        self.leading = leading or 0
        self.places = (2, 3) if leading is None else (1,)
        if kind == "gem":
            self.exponent = nn.Parameter(torch.tensor(_EXPONENT))

    def forward(self, x: Tensor) -> Tensor:
        """One row of channels for each item."""
        if self.kind == "cls":
            return x[:, 0]
        if self.leading:
            x = x[:, self.leading :]
        if self.kind == "mean":
            return x.mean(dim=self.places)
        # Powers leave the range of half precision.
        powers = x.float().clamp(min=_LEAST).pow(self.exponent)
        return powers.mean(dim=self.places).pow(1.0 / self.exponent)


def _head(kind: str, width: int, dimension: int) -> nn.Module:
    linear = nn.Linear(width, dimension)
    if kind == "linear":
        return linear
    return nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), linear)


def _still_steps(trained: int, stages: int) -> int:
    """Steps in front, the stem among them, that are not trained."""
    if trained > stages:
        raise RecipeError(
            f"model.trained_stages: expected at most {stages}, the stages of this backbone, or -1 "
            f"for all of it; got {trained}"
        )
    return 0 if trained < 0 else 1 + stages - trained
