"""Text models as the library transformers knows them: named, described, taken apart."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.data.tokeniser import Tokeniser
from pipeline.models.backbone import Request
from pipeline.models.config import ModelConfig
from pipeline.models.hub import network_facts, network_folder, require_transformers
from pipeline.models.weights import load_weights
from pipeline.strict import RecipeError, first_line, require

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# What a library's network has beyond its tokens' rows: never used here, so free to differ.
_UNUSED = ("pooler.",)


def network_named(request: Request) -> PreTrainedModel:
    """The network that the recipe names, with the weights that it asks for.

    Raises ``RecipeError`` where library, network or weights are missing or fit no text model.
    """
    name = request.config.backbone.partition(":")[2]
    folder = network_folder(request.config, name, weights=request.pretrained)
    network_facts(folder)
    library = _library(request.config)
    try:
        found = library.AutoConfig.from_pretrained(folder)
        # Of two towers, one for images and one for texts, this is the one for texts.
        found = _without_dropout(getattr(found, "text_config", found))
        if not request.pretrained:
            network = _fresh(library, found)
        else:
            network, report = library.AutoModel.from_pretrained(
                folder, config=found, dtype=torch.float32, output_loading_info=True
            )
            _require_whole(folder, report)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(
            f"model.backbone: {request.config.backbone!r}: {first_line(error)}; "
            "expected a text model"
        ) from error
    if request.file is not None:
        load_weights(network, request.file, optional=_UNUSED)
    return _without_pooler(network)


def network_described(config: ModelConfig, kept: Mapping[str, object]) -> PreTrainedModel:
    """A network by the library's own description of it, its weights at random."""
    library = _library(config)
    return _without_pooler(_fresh(library, library.AutoConfig.for_model(**kept)))


def _library(config: ModelConfig) -> ModuleType:
    require_transformers(config)
    library = importlib.import_module("transformers")
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def _require_whole(folder: Path, report: Mapping[str, Any]) -> None:
    """``RecipeError`` where weights stayed random because the folder has none that fit."""
    lost = [*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])]
    strange = sorted(name for name in lost if not name.startswith(_UNUSED))
    if strange:
        raise RecipeError(
            f"model.weights: {folder}: {strange[0]} is missing or of another shape ({len(strange)} "
            "such); expected the weights of the text model that config.json describes"
        )


def _fresh(library: ModuleType, description: PretrainedConfig) -> PreTrainedModel:
    network: PreTrainedModel = library.AutoModel.from_config(description, dtype=torch.float32)
    return network


def _without_dropout(description: PretrainedConfig) -> PretrainedConfig:
    for key, value in description.to_dict().items():
        if "dropout" in key and isinstance(value, float):
            setattr(description, key, 0.0)
    return description


def _without_pooler(network: PreTrainedModel) -> PreTrainedModel:
    """The network without a head of the library's own, which nothing here would train."""
    if getattr(network, "pooler", None) is not None:
        network.register_module("pooler", None)
    return network


def layers_of(network: nn.Module) -> Iterator[nn.Module]:
    """The embeddings and each block, what stands behind the blocks with the last of them."""
    count: Any = network.config
    stacks = [
        module for module in network.modules()
        if isinstance(module, nn.ModuleList) and len(module) == count.num_hidden_layers
    ]  # fmt: skip
    require(bool(stacks), "model.backbone", "a network that is a stack of blocks")
    blocks = stacks[0]
    inside = {id(part) for part in blocks.modules()}
    outer: tuple[list[nn.Module], list[nn.Module]] = ([], [])
    behind = False
    for module in network.modules():
        behind = behind or module is blocks
        if id(module) not in inside and any(True for _ in module.parameters(recurse=False)):
            outer[behind].append(module)
    yield nn.ModuleList(outer[False])
    yield from blocks[:-1]
    yield nn.ModuleList([blocks[-1], *outer[True]])


@torch.no_grad()
def reads_on(network: nn.Module, tokeniser: Tokeniser, config: ModelConfig) -> bool:
    """Whether the network's tokens see only those before them; that it takes the ids at all."""
    reader: Any = network.eval()
    try:
        table = reader.get_input_embeddings()
    except NotImplementedError:
        table = None
    if not isinstance(table, nn.Embedding):
        raise RecipeError(f"model.backbone: {config.backbone!r} reads no tokens; expected a text "
                          "model, such as BERT or the text tower of CLIP")
    if table.num_embeddings < tokeniser.vocabulary:
        raise RecipeError(
            f"model.backbone: {config.backbone!r} knows {table.num_embeddings} tokens, its "
            f"tokenizer {tokeniser.vocabulary}; expected the tokenizer of this model"
        )
    ids = torch.full((2, config.tokens), (tokeniser.padding + 1) % tokeniser.vocabulary)
    ids[1, -1] = (tokeniser.padding + 2) % tokeniser.vocabulary
    try:
        first = reader(input_ids=ids, attention_mask=torch.ones_like(ids))[0][:, 0]
    except (IndexError, ValueError, RuntimeError) as error:
        most = getattr(network.config, "max_position_embeddings", None)
        raise RecipeError(
            f"model.tokens: {config.backbone!r} cannot read {config.tokens} tokens (it has places "
            f"for {most}): {first_line(error)}"
        ) from error
    return bool(torch.allclose(first[0], first[1], atol=1e-6))
