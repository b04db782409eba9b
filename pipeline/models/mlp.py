"""A small network for items that are vectors already."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.backbone import Backbone, Request
from pipeline.models.weights import load_weights


class Mlp(Backbone):
    """(b, input_dimension) float32 to (b, dimension) float32, not normalised.

    Input scale is learnt once from the training vectors and kept with the weights, so that a
    release takes vectors as they come. A linear map carries the input's own geometry; two
    hidden layers add to it.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, *, input_dimension: int, width: int, dimension: int) -> None:
        """``width`` units in each hidden layer."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(input_dimension))
        self.register_buffer("scale", torch.ones(()))
        self.linear = nn.Linear(input_dimension, dimension)
        self.hidden = nn.Sequential(
            nn.Linear(input_dimension, width), nn.GELU(),
            nn.Linear(width, width), nn.GELU(),
            nn.Linear(width, dimension),
        )  # fmt: skip

    def learn_scale(self, inputs: Tensor) -> None:
        """Centre on the mean of ``inputs`` (n, input_dimension); one scale for all coordinates."""
        wide = inputs.double()
        mean = wide.mean(dim=0)
        spread = (wide - mean).square().mean().sqrt()
        self.mean.copy_(mean.float())
        self.scale.copy_(1.0 / spread.clamp(min=1e-12).float())

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch; each row depends on its own vector only."""
        x = (x - self.mean) * self.scale
        out: Tensor = self.linear(x) + self.hidden(x)
        return out


def build(request: Request) -> Mlp:
    """The network of a recipe; ``RecipeError`` where its file of weights does not fit."""
    config = request.config
    network = Mlp(
        input_dimension=request.input_dimension or 0, width=config.width,
        dimension=config.dimension,
    )  # fmt: skip
    if request.file is not None:
        load_weights(network, request.file)
    return network
