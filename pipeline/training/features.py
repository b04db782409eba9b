"""What the frozen part of a network makes of items: computed once, whatever is trained on top.

Where most stages of a pretrained network stay as they are and images do not change from step to
step, all of a training's time would go into computing the same features again. They depend on
the frozen weights and the items alone, so trainings with other losses and seeds share them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import Recipe
from pipeline.models.registry import EmbeddingModel
from pipeline.training.batch import augmented
from pipeline.training.chunks import parts_of
from pipeline.training.inputs import Inputs
from pipeline.training.state import add_rows

_FORWARD = 64  # items that pass the frozen part at a time


def keepable(recipe: Recipe, model: EmbeddingModel) -> bool:
    """Whether features of the frozen part of ``model`` are the same in every step, and worth it."""
    return model.has_frozen and not (model.kind == "image" and augmented(recipe))


def features_digest(model: EmbeddingModel, inputs: Inputs) -> str:
    """sha256 of all that the features of ``inputs`` depend on: frozen network and items."""
    config, network = model.config, sorted(model.backbone.architecture.items())
    facts = [config.backbone, config.trained_stages, config.crop, config.pooling, *inputs.shape,
             *network]  # fmt: skip
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    for name, value in model.state_dict().items():
        if name not in trained:
            digest.update(f"{name} {tuple(value.shape)}\n".encode())
            digest.update(value.cpu().contiguous().numpy().data)
    add_rows(digest, inputs)
    return digest.hexdigest()


def features_of(
    model: EmbeddingModel, inputs: Inputs, rows: NDArray[np.int64], device: torch.device
) -> NDArray[np.float32]:
    """(b, ...) float32 features of the items at ``rows`` (b,), at least one, without a graph."""
    return through(model.frozen, inputs, rows, device, size=_FORWARD)


@torch.no_grad()
def through(
    network: Callable[[Tensor], Tensor], inputs: Inputs, rows: NDArray[np.int64],
    device: torch.device, *, size: int = 256,
) -> NDArray[np.float32]:  # fmt: skip
    """(b, ...) float32 that ``network``, on ``device``, makes of the items at ``rows`` (b,).

    At least one row; ``size`` of them at a time.
    """
    found = [
        network(torch.from_numpy(np.asarray(inputs[rows[part]])).to(device)).float().cpu()
        for part in parts_of(rows.size, size)
    ]
    return torch.cat(found).numpy()
