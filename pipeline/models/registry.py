"""Networks by name, from a raw item to its embedding.

What a release exports is the whole ``EmbeddingModel``: scaling of the pixels, the backbone and
unit length are inside it. A new backbone is a new line in ``_BACKBONES``.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.durable import write_durably
from pipeline.models.cnn import Cnn
from pipeline.models.config import ModelConfig
from pipeline.models.mlp import Mlp
from pipeline.strict import RecipeError


@dataclass(frozen=True, slots=True)
class _Backbone:
    """A network, and the kind of item that it takes."""

    kind: str
    build: Callable[[ModelConfig, int], nn.Module]


def _cnn(config: ModelConfig, _: int) -> nn.Module:
    return Cnn(image_size=config.image_size, width=config.width, dimension=config.dimension)


def _mlp(config: ModelConfig, input_dimension: int) -> nn.Module:
    return Mlp(
        input_dimension=input_dimension, width=config.width, dimension=config.dimension
    )


_BACKBONES = {
    "cnn": _Backbone("image", _cnn),
    "mlp": _Backbone("vector", _mlp),
}


class EmbeddingModel(nn.Module):
    """(b, S, S, 3) pixels or (b, d_in) vectors to (b, d) float32 rows of unit length.

    Pixels are uint8, or float32 from 0 to 255 where augmentation has left the whole numbers.
    """

    def __init__(
        self, backbone: nn.Module, config: ModelConfig, *, kind: str, input_dimension: int | None
    ) -> None:
        """Wrap ``backbone``; ``config`` and ``kind`` travel with the weights."""
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.kind = kind
        self.input_dimension = input_dimension

    def learn_scale(self, inputs: Tensor) -> None:
        """Fit the scaling of input vectors to the training ``inputs``; pixels have a fixed one."""
        if isinstance(self.backbone, Mlp):
            self.backbone.learn_scale(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch; each row depends on its own item only."""
        if self.kind == "image":
            x = x.permute(0, 3, 1, 2).to(torch.float32) * (2.0 / 255.0) - 1.0
        return functional.normalize(self.backbone(x), dim=1)


def build_model(
    config: ModelConfig, *, kind: str, input_dimension: int | None = None, seed: int = 0
) -> EmbeddingModel:
    """A fresh model for ``kind`` (``image`` or ``vector``) items, its weights drawn from ``seed``.

    ``input_dimension``: coordinates of an input vector; None for images. Raises ``RecipeError``
    for an unknown backbone (naming the known ones) and for one of another kind of item.
    """
    if config.backbone not in _BACKBONES:
        raise RecipeError(
            f"model.backbone: unknown {config.backbone!r}; known: {', '.join(_BACKBONES)}"
        )
    backbone = _BACKBONES[config.backbone]
    if backbone.kind != kind:
        fitting = [name for name, entry in _BACKBONES.items() if entry.kind == kind]
        raise RecipeError(
            f"model.backbone: {config.backbone!r} takes {backbone.kind} items, these are {kind}; "
            f"for them there is: {', '.join(fitting) or 'none'}"
        )
    if kind == "vector" and not input_dimension:
        raise RecipeError("input_dimension: expected the number of coordinates of an input vector")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = backbone.build(config, input_dimension or 0)
    return EmbeddingModel(network, config, kind=kind, input_dimension=input_dimension)


def save_model(model: EmbeddingModel, path: Path, *, fingerprint: str) -> None:
    """Write ``model`` atomically; ``fingerprint`` says what it was trained with."""
    content = {
        "fingerprint": fingerprint,
        "kind": model.kind,
        "input_dimension": model.input_dimension,
        "config": dataclasses.asdict(model.config),
        "weights": model.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_durably(path, buffer.getvalue())


def load_model(path: Path) -> tuple[EmbeddingModel, str]:
    """The model that ``save_model`` wrote, in evaluation mode on the CPU, and its fingerprint."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    model = build_model(
        ModelConfig(**content["config"]),
        kind=content["kind"],
        input_dimension=content["input_dimension"],
    )
    model.load_state_dict(content["weights"])
    return model.eval(), content["fingerprint"]
