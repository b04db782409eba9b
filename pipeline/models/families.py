"""How the image networks of the library transformers are cut into stages.

One entry for each family of networks, by the ``model_type`` of its configuration. The stages run
here one by one give what the library's own forward gives: tests/test_models_transformers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.models.staged import IMAGENET

_HALF = ((0.5,) * 3, (0.5,) * 3)
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True, slots=True)
class Family:
    """Networks of one design."""

    stem: Callable[[Any], nn.Module]
    stages: Callable[[Any], list[nn.Module]]
    behind: Callable[[Any], list[nn.Module]]
    """What runs after the last stage, which it is counted with."""
    unused: tuple[str, ...]
    """Modules and weights that give no features: never trained, and optional in a file."""
    width: Callable[[Any], int]
    """Channels of the last stage under the library's configuration."""
    leading: int | None
    """Tokens before those of the patches; None for a map."""
    colours: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and deviation, where the weights come without a statement of theirs."""

    def without_unused(self, network: nn.Module) -> nn.Module:
        """``network`` with what gives no features taken out, or never trained."""
        for name in dict(network.named_children()):
            if f"{name}.".startswith(self.unused):
                network.register_module(name, None)
        for name, parameter in network.named_parameters():
            if name.startswith(self.unused):
                parameter.requires_grad_(False)
        return network


class _Unmasked(nn.Module):
    """A block that wants to be told that there is no mask."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.block(tokens, None)
        return out


FAMILIES = {
    "resnet": Family(
        stem=lambda network: network.embedder,
        stages=lambda network: list(network.encoder.stages),
        behind=lambda network: [],
        unused=("classifier.",),
        width=lambda description: int(description.hidden_sizes[-1]),
        leading=None,
        colours=IMAGENET,
    ),
    "vit": Family(
        stem=lambda network: network.embeddings,
        stages=lambda network: list(network.layers),
        behind=lambda network: [network.layernorm],
        unused=("classifier.", "pooler.", "embeddings.mask_token"),
        width=lambda description: int(description.hidden_size),
        leading=1,
        colours=_HALF,
    ),
    "dinov2": Family(
        stem=lambda network: network.embeddings,
        stages=lambda network: list(network.encoder.layer),
        behind=lambda network: [network.layernorm],
        unused=("classifier.", "embeddings.mask_token"),
        width=lambda description: int(description.hidden_size),
        leading=1,
        colours=IMAGENET,
    ),
    "clip_vision_model": Family(
        stem=lambda network: nn.Sequential(network.embeddings, network.pre_layrnorm),
        stages=lambda network: [_Unmasked(block) for block in network.encoder.layers],
        behind=lambda network: [network.post_layernorm],
        unused=("text_model.", "text_projection.", "visual_projection.", "logit_scale"),
        width=lambda description: int(description.hidden_size),
        leading=1,
        colours=_CLIP,
    ),
}
"""By ``model_type``."""
