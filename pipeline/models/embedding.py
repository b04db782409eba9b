"""The whole model, from a raw item to its embedding: what is trained, saved and exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.models.backbone import Backbone
from pipeline.models.config import ModelConfig
from pipeline.models.mlp import Mlp
from pipeline.strict import RecipeError


class EmbeddingModel(nn.Module):
    """(b, S, S, 3) pixels, (b, d_in) vectors or (b, tokens) token ids to (b, d) float32 unit rows.

    Pixels are uint8, or float32 from 0 to 255 where augmentation has left the whole numbers. The
    network sees their central ``config.crop`` x ``config.crop`` part where that is set.
    """

    def __init__(
        self, backbone: Backbone, config: ModelConfig, *, kind: str, input_dimension: int | None
    ) -> None:
        """Wrap ``backbone``; ``config`` and ``kind`` travel with the weights."""
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.kind = kind
        self.input_dimension = input_dimension
        self._still = [*backbone.still(), *self._still_norms()]
        for module in self._still:
            module.requires_grad_(False)
        self.train()

    @property
    def has_frozen(self) -> bool:
        """Whether ``frozen`` does work that need not be done again for an item seen before."""
        return bool(self.backbone.still())

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether training mixes the items of a batch: some batch normalisation is not frozen."""
        still = {id(part) for module in self._still for part in module.modules()}
        return any(id(norm) not in still for norm in _batch_norms(self.backbone))

    def learn_scale(self, inputs: Tensor) -> None:
        """Fit the scaling of input vectors to the training ``inputs``; pixels have a fixed one."""
        if isinstance(self.backbone, Mlp):
            self.backbone.learn_scale(inputs)

    def layers(self) -> list[list[nn.Parameter]]:
        """What is trained, layer by layer from the input side; the head's parameters come last."""
        trained = [
            [parameter for parameter in part.parameters() if parameter.requires_grad]
            for part in self.backbone.parts()
        ]
        return [layer for layer in trained if layer]

    def frozen(self, x: Tensor) -> Tensor:
        """Features (b, ...) of raw items, without a graph; the items themselves if none is frozen.

        They depend on nothing that training changes, so they may be kept.
        """
        if not self.has_frozen:
            return x
        with torch.no_grad():
            return self.backbone.frozen(self._entered(x))

    def trained(self, features: Tensor) -> Tensor:
        """(b, d) float32 unit rows of what ``frozen`` gave, under autocast too."""
        rows = self.backbone.trained(features if self.has_frozen else self._entered(features))
        return functional.normalize(rows.float(), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch of raw items; in evaluation each row depends on its own item only."""
        return self.trained(self.frozen(x))

    def served(self) -> EmbeddingModel:
        """The same function as it is exported (``Backbone.served``), in evaluation mode."""
        return EmbeddingModel(
            self.backbone.served(), self.config, kind=self.kind,
            input_dimension=self.input_dimension,
        ).eval()  # fmt: skip

    def train(self, mode: bool = True) -> EmbeddingModel:
        """Change the mode of what is trained; the frozen part stays in evaluation mode."""
        super().train(mode)
        for module in self._still:
            module.eval()
        return self

    def _entered(self, x: Tensor) -> Tensor:
        if self.kind != "image":
            return x
        crop = self.config.crop
        if crop and x.shape[1] > crop:
            top = (x.shape[1] - crop) // 2
            x = x[:, top : top + crop, top : top + crop]
        return x.permute(0, 3, 1, 2).to(torch.float32)

    def _still_norms(self) -> list[nn.Module]:
        if not self.config.frozen_norm:
            return []
        norms = _batch_norms(self.backbone)
        if not norms:
            raise RecipeError(
                f"model.frozen_norm: {self.config.backbone!r} has no batch normalisation; "
                "leave the key out"
            )
        return norms


def _batch_norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]
