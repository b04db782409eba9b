"""What a network has to offer to be trained here, whatever library it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, nn

from pipeline.models.config import ModelConfig


class Backbone(nn.Module):
    """From what ``EmbeddingModel`` hands on to (b, dimension) rows, not normalised.

    Images arrive as (b, 3, S, S) float32 from 0 to 255, vectors (b, d_in) and token ids
    (b, tokens) as they come. A network that is trained as a whole overrides ``forward`` alone.
    """

    architecture: Mapping[str, object] = MappingProxyType({})
    """What it takes beside the ModelConfig to build this network again, as JSON-ready data: it is
    saved with the weights, so that loading needs neither a hub nor the folder it came from."""

    def facts(self) -> dict[str, str]:
        """What else an encoder has to know to prepare items for this network, for the export."""
        return {}

    def parts(self) -> list[nn.Module]:
        """The modules whose parameters make a layer each, from the input side to the head."""
        return [self]

    def still(self) -> list[nn.Module]:
        """The modules in front that are never trained; none where ``frozen`` is the identity."""
        return []

    def frozen(self, x: Tensor) -> Tensor:
        """What the still modules make of a batch: features (b, ...)."""
        return x

    def trained(self, features: Tensor) -> Tensor:
        """(b, dimension) rows of what ``frozen`` gave."""
        rows: Tensor = self(features)
        return rows

    def served(self) -> Backbone:
        """The same function in the operations that ONNX Runtime computes fastest, to export."""
        return self


@dataclass(frozen=True, slots=True)
class Request:
    """What a network is built from."""

    config: ModelConfig
    kind: str
    """``image``, ``vector`` or ``text``."""
    input_dimension: int | None = None
    """Coordinates of an input vector; None for other items."""
    architecture: Mapping[str, object] | None = None
    """What the network of a saved model said of itself; None for a fresh one, whose weights
    ``config.weights`` decides."""

    @property
    def pretrained(self) -> bool:
        """Whether the weights are those that come with the backbone's library or package."""
        return self.architecture is None and self.config.weights == "pretrained"

    @property
    def file(self) -> Path | None:
        """The file of weights to start from; None where there is none."""
        return self.config.weights_file if self.architecture is None else None
