"""Image networks of the library timm, trained as a whole or not at all.

timm imports torchvision, which has to be of the same build as torch; where it does not import,
the networks of ``transformers_vision`` need neither.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.backbone import Request
from pipeline.models.config import ModelConfig
from pipeline.models.staged import Cut, Staged
from pipeline.models.weights import load_weights
from pipeline.strict import RecipeError, first_line


def check(config: ModelConfig, kind: str) -> None:
    """``RecipeError`` where timm does not import or does not know the name."""
    _require_known(_library(config), config)


def build(request: Request) -> Staged:
    """The network of a recipe; ``RecipeError`` where timm or the weights are missing."""
    config = request.config
    timm = _library(config)
    facts = timm.get_pretrained_cfg(_name(config))
    # Transformers are built for one side, for others it means nothing.
    side = {"img_size": config.side} if facts.fixed_input_size else {}
    name = _name(config)
    try:
        network = timm.create_model(name, pretrained=request.pretrained, num_classes=0, **side)
    except (OSError, RuntimeError, ValueError) as error:
        line = first_line(error)
        raise RecipeError(
            f"model.weights: {config.backbone!r} could not be built or fetched ({line}); without "
            "network bring a file of weights and name it"
        ) from None
    if request.file is not None:
        load_weights(network, request.file, optional=_named(facts.classifier))
    features = _Features(network, pooled=not config.pooling)
    probe = features.eval()(torch.zeros(1, 3, config.side, config.side))
    # What timm keeps for a pooling of its own gives no features under another one.
    weights = list(network.parameters())
    for weight, used in zip(
        weights, torch.autograd.grad(probe.sum(), weights, allow_unused=True), strict=True
    ):
        weight.requires_grad_(used is not None)
    return Staged(
        Cut(
            network=network,
            stem=features,
            stages=[],
            width=probe.shape[2] if probe.ndim == 3 else probe.shape[1],
            leading=getattr(network, "num_prefix_tokens", 0) if probe.ndim == 3 else None,
            pooled=not config.pooling,
            colours=(tuple(facts.mean), tuple(facts.std)),
        ),
        config,
    )


class _Features(nn.Module):
    """(b, c) as timm pools them; or (b, c, h, w) maps or (b, n, c) tokens."""

    def __init__(self, network: nn.Module, *, pooled: bool) -> None:
        super().__init__()
        self.network, self.pooled = network, pooled

    def forward(self, x: Tensor) -> Tensor:
        network: Any = self.network
        out: Tensor = network(x) if self.pooled else network.forward_features(x)
        # Some transformers of windows keep the channels last.
        last = out.ndim == 4 and out.shape[1] != network.num_features == out.shape[3]
        return out.permute(0, 3, 1, 2) if last else out


def _library(config: ModelConfig) -> ModuleType:
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        # Not a ModuleNotFoundError alone: a torchvision of another build fails in its own ways.
        line = first_line(error)
        raise RecipeError(
            f"model.backbone: {config.backbone!r} needs: pip install 'limen[timm]', with the "
            f"torchvision of this build of torch ({line})"
        ) from None


def _require_known(timm: ModuleType, config: ModelConfig) -> None:
    if not timm.is_model(_name(config)):
        raise RecipeError(
            f"model.backbone: timm {timm.__version__} knows no {_name(config)!r}; see "
            "timm.list_models()"
        )


def _name(config: ModelConfig) -> str:
    return config.backbone.partition(":")[2]


def _named(modules: str | Sequence[str] | None) -> tuple[str, ...]:
    names = [modules] if isinstance(modules, str) else modules or []
    return tuple(f"{name}." for name in names)
