"""Image networks of the library transformers: ResNet, ViT, DINOv2, the vision tower of CLIP.

``transformers:resnet-50`` and the other names of ``_SHAPES`` are built here with random weights;
their pretrained weights, and any other name, come from the hub or its cache. A local folder
holds ``config.json`` and, to start from, ``model.safetensors``. Dropout is off: a training step
is then a function of weights and batch alone, in whatever chunks and after whatever restart.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.backbone import Request
from pipeline.models.config import ModelConfig
from pipeline.models.families import FAMILIES, Family
from pipeline.models.hub import network_facts, network_folder, require_transformers, stated_colours
from pipeline.models.staged import Cut, Staged
from pipeline.models.weights import read_weights, require_fit
from pipeline.strict import RecipeError, first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_SHAPES: dict[str, tuple[str, dict[str, object]]] = {
    "resnet-50": ("microsoft/resnet-50", {"model_type": "resnet"}),
    "vit-b16": ("google/vit-base-patch16-224-in21k", {"model_type": "vit"}),
    "dinov2-s14": ("facebook/dinov2-small", {
        "model_type": "dinov2", "hidden_size": 384, "num_attention_heads": 6}),
    "dinov2-b14": ("facebook/dinov2-base", {"model_type": "dinov2"}),
    "clip-vit-b32": ("openai/clip-vit-base-patch32", {"model_type": "clip_vision_model"}),
    "clip-vit-b16": ("openai/clip-vit-base-patch16", {
        "model_type": "clip_vision_model", "patch_size": 16}),
}  # fmt: skip
"""Short names: the name on the hub, and what differs from the library's defaults."""

# Of the library's description: what the network does not depend on, and a path of this machine.
_PASSING = ("_name_or_path", "dtype", "id2label", "label2id", "architectures")


def check(config: ModelConfig) -> None:
    """``RecipeError`` where library, folder or hub are missing, or the family is unknown."""
    require_transformers(config)
    _family(config, _facts(config, None)[0])


def build(request: Request) -> Staged:
    """The network of a recipe, or the one that a saved model describes; ``RecipeError``."""
    config = request.config
    facts, folder = _facts(config, request.architecture)
    family = _family(config, facts)
    with _quiet():
        network = _network(request, facts, folder)
    stages = family.stages(network)
    stages[-1] = nn.Sequential(stages[-1], *family.behind(network))
    description = network.config.to_dict()
    stated = None if folder is None else stated_colours(folder)
    return Staged(
        Cut(
            network=family.without_unused(network),
            stem=family.stem(network),
            stages=stages,
            width=family.width(network.config),
            leading=family.leading,
            colours=stated or family.colours,
            architecture={key: description[key] for key in description if key not in _PASSING},
        ),
        config,
    )


def _facts(
    config: ModelConfig, saved: Mapping[str, object] | None
) -> tuple[Mapping[str, Any], Path | None]:
    """The library's description of the network, and the folder that it is from, if any."""
    if saved is not None:
        return saved, None
    name = config.backbone.partition(":")[2]
    hub, shape = _SHAPES.get(name, (name, None))
    pretrained = config.weights == "pretrained"
    if shape is not None and not pretrained:
        return shape, None
    folder = network_folder(config, hub, weights=pretrained)
    facts = network_facts(folder)
    if facts["model_type"] == "clip":
        # Of its two towers this is the one for images.
        facts = {**facts.get("vision_config", {}), "model_type": "clip_vision_model"}
    return facts, folder


def _family(config: ModelConfig, facts: Mapping[str, Any]) -> Family:
    kind = facts["model_type"]
    if kind not in FAMILIES:
        raise RecipeError(
            f"model.backbone: {config.backbone!r} is a {kind!r}; image networks known here: "
            f"{', '.join(FAMILIES)}; wrap another one as module:callable"
        )
    return FAMILIES[kind]


def _network(
    request: Request, facts: Mapping[str, Any], folder: Path | None
) -> PreTrainedModel:
    """The library's network for images of the recipe's side, with its weights."""
    config = request.config
    description = _description(config, facts)
    if not request.pretrained and request.file is None:
        return _fresh(description, config.side)
    # The library knows the names that its files had in earlier versions.
    network, report = _library().MODEL_MAPPING[type(description)].from_pretrained(
        folder if request.file is None else None,
        config=description,
        state_dict=None if request.file is None else read_weights(request.file),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        local_files_only=True,
        dtype=torch.float32,
    )
    require_fit(
        request.file or folder or Path(),
        _family(config, facts).unused,
        missing=sorted(report["missing_keys"]),
        unexpected=sorted(report["unexpected_keys"]) if request.file is not None else [],
        shapes=sorted(report["mismatched_keys"]),
    )
    return _resized(network, config.side)


def _description(config: ModelConfig, facts: Mapping[str, Any]) -> PretrainedConfig:
    """The library's configuration of the network, without dropout."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        description: PretrainedConfig = _library().AutoConfig.for_model(**facts)
    except (TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        line = first_line(error)
        raise RecipeError(f"model.backbone: {config.backbone!r}: {line}") from None
    for key, value in description.to_dict().items():
        if "drop" in key and isinstance(value, float):
            setattr(description, key, 0.0)
    patch = getattr(description, "patch_size", 1)
    if config.side % patch:
        raise RecipeError(
            f"model.image_size: {config.backbone!r} cuts images into squares of {patch} pixels; "
            f"expected a multiple of it where the network sees {config.side}"
        )
    return description


def _fresh(description: PretrainedConfig, side: int) -> PreTrainedModel:
    if hasattr(description, "image_size"):
        description.image_size = side
    network: PreTrainedModel = _library().AutoModel.from_config(description, dtype=torch.float32)
    return network


def _resized(network: PreTrainedModel, side: int) -> PreTrainedModel:
    """``network`` for images of ``side`` pixels: its table of places is interpolated, once."""
    if getattr(network.config, "image_size", side) == side:
        return network
    resized = _fresh(network.config, side)
    places = resized.state_dict()
    resized.load_state_dict({
        name: value if value.shape == places[name].shape else _interpolated(value, places[name])
        for name, value in network.state_dict().items()
    })
    return resized


def _interpolated(table: Tensor, like: Tensor) -> Tensor:
    """A row for each place of a square grid, after one for the cls token, for another grid."""
    rows = table.reshape(-1, table.shape[-1])
    old, new = (math.isqrt(size - 1) for size in (len(rows), like.shape[-2]))
    grid = rows[1:].T.reshape(1, -1, old, old)
    grid = functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([rows[:1], grid.flatten(2)[0].T]).reshape(like.shape)


def _library() -> ModuleType:
    return importlib.import_module("transformers")


@contextmanager
def _quiet() -> Iterator[None]:
    """The library reports by log and progress bar what is checked here and said in one line."""
    logging = _library().utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
