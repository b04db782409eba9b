"""The optimiser: which weights decay, and how fast each layer moves.

Parameters of a loss (proxies of the classes) start at random and each is hit by few batches, so
they move ten times as fast as the network. Within the network the head moves at the full rate,
and each layer at ``layer_decay`` times the rate of the one after it: what was pretrained on much
data is changed least where it is most general.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pipeline.models.registry import EmbeddingModel
from pipeline.training.config import TrainConfig

_LOSS_RATE = 10.0
_MOMENTUM = 0.9


def optimizer_of(
    model: EmbeddingModel, loss: nn.Module, train: TrainConfig
) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum, over the trained weights of ``model`` and ``loss``.

    Only matrices of the network decay, not the scales and offsets of its norms. Each group keeps
    its ``factor`` of the rate, which ``set_rate`` honours.
    """
    layers = model.layers()
    groups: list[dict[str, Any]] = []
    for place, layer in enumerate(layers):
        factor = train.layer_decay ** (len(layers) - 1 - place)
        matrices = [p for p in layer if p.ndim > 1]
        vectors = [p for p in layer if p.ndim <= 1]
        groups.append({"params": matrices, "weight_decay": train.weight_decay, "factor": factor})
        groups.append({"params": vectors, "weight_decay": 0.0, "factor": factor})
    proxies = list(loss.parameters())
    groups.append({"params": proxies, "weight_decay": 0.0, "factor": _LOSS_RATE})
    groups = [group for group in groups if group["params"]]
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.learning_rate, momentum=_MOMENTUM, nesterov=True)
    return torch.optim.AdamW(groups, lr=train.learning_rate)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let each group move at its factor of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def clip(optimizer: torch.optim.Optimizer, limit: float) -> None:
    """Scale all gradients down together to a norm of at most ``limit``; 0 leaves them alone."""
    if limit > 0:
        torch.nn.utils.clip_grad_norm_(_parameters(optimizer), limit)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]
