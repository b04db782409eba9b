"""Text models of the library transformers, from token ids to a row.

Dropout is off in training too: an item's row is then a function of the item alone, the same in
training and serving, in any chunk of a batch and after a resume. Padding is seen by no one: the
mask is derived from the ids, inside the exported graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.data.tokeniser import Tokeniser
from pipeline.models.backbone import Backbone, Request
from pipeline.models.config import ModelConfig
from pipeline.models.text_library import layers_of, network_described, network_named, reads_on
from pipeline.models.text_tokeniser import tokeniser_of
from pipeline.strict import RecipeError, require


class TextNetwork(Backbone):
    """(b, tokens) int64 token ids to (b, dimension) float32, not normalised."""

    def __init__(
        self, network: nn.Module, tokeniser: Tokeniser, config: ModelConfig, *, reads_on: bool
    ) -> None:
        """``network``: of transformers; ``reads_on``: no token of it sees those behind it."""
        super().__init__()
        self.network, self.tokeniser = network, tokeniser
        self.pooling = config.pooling or ("cls" if reads_on else "mean")
        self.reads_on = reads_on
        description: Any = network.config
        width = int(description.hidden_size)
        self.head = nn.Linear(width, config.dimension)
        scaled = nn.LayerNorm(width, elementwise_affine=False)
        self.norm = scaled if config.head == "layer_norm" else nn.Identity()
        kept = description.to_dict()
        kept.pop("_name_or_path", None)  # a path of this machine
        self.architecture = {
            "config": kept, "tokenizer": tokeniser.definition, "reads_on": reads_on
        }  # fmt: skip
        layers = list(layers_of(network))
        require(config.trained_stages < len(layers), "model.trained_stages",
                f"below the {len(layers)} stages of {config.backbone!r}; -1 trains them all")
        cut = 0 if config.trained_stages < 0 else len(layers) - config.trained_stages
        self._front, self._back = layers[:cut], layers[cut:]
        for layer in self._front:
            layer.requires_grad_(False)

    def facts(self) -> dict[str, str]:
        """The tokenizer, and what ids the network takes."""
        return {
            "tokens": str(self.tokeniser.tokens),
            "vocabulary": str(self.tokeniser.vocabulary),
            "tokenizer": self.tokeniser.definition,
        }

    def parts(self) -> list[nn.Module]:
        """The embeddings with what stands beside them, each block, and the head."""
        return [*layers_of(self.network), nn.ModuleList([self.norm, self.head])]

    def still(self) -> list[nn.Module]:
        """The whole network where only the head is trained."""
        return [] if self._back else [self.network]

    def frozen(self, x: Tensor) -> Tensor:
        """(b, width) pooled rows where only the head is trained; else the ids themselves."""
        return x if self._back else self._pooled(x)

    def trained(self, features: Tensor) -> Tensor:
        """(b, dimension) rows of what ``frozen`` gave."""
        pooled = self._pooled(features) if self._back else features
        rows: Tensor = self.head(self.norm(pooled))
        return rows

    def forward(self, ids: Tensor) -> Tensor:
        """Embed a batch of token ids; each row depends on its own text only."""
        return self.trained(self.frozen(ids))

    def _pooled(self, ids: Tensor) -> Tensor:
        """(b, width): the mean over a text's tokens, or the one that stands for all of it."""
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        # Padding is what follows the last other token; where it also closes a text, as in CLIP,
        # its first one belongs to the text. A text may spell it out: that one is no padding.
        length = (places * (ids != self.tokeniser.padding)).amax(1, keepdim=True)
        if self.tokeniser.closing:
            length = length + 1
        mask = places <= length
        hidden: Tensor = self.network(
            input_ids=ids, attention_mask=mask.to(torch.int64)
        ).last_hidden_state
        if self.pooling == "mean":
            chosen = mask
        elif self.reads_on:
            chosen = mask & (places == length)
        else:
            chosen = mask & (places == 1)
        weights = chosen.to(hidden.dtype)[:, :, None]
        return (hidden * weights).sum(1) / weights.sum(1)


def build_text(request: Request) -> TextNetwork:
    """The text network of a recipe, or the one that a saved model describes.

    Raises ``RecipeError`` or ``TokeniserError`` where transformers, the model, its weights or its
    tokenizer are missing, and where they do not fit each other.
    """
    config, saved = request.config, request.architecture
    if config.pooling == "gem":
        raise RecipeError("model.pooling: 'gem' is for images; texts take 'mean' or 'cls'")
    if saved is not None:
        network = network_described(config, cast("Mapping[str, object]", saved["config"]))
        tokeniser = Tokeniser(str(saved["tokenizer"]), config.backbone)
        return TextNetwork(network, tokeniser, config, reads_on=bool(saved["reads_on"]))
    tokeniser = tokeniser_of(config)
    network = network_named(request)
    return TextNetwork(network, tokeniser, config, reads_on=reads_on(network, tokeniser, config))
