"""A user's own network, named ``module:callable`` in the recipe.

Such a recipe runs the user's code, in training and whenever the trained model is loaded; the
exported model needs it no more. The module is looked for in the working folder and among the
installed packages.

``callable(config, input_dimension)`` gets the ``ModelConfig`` and the coordinates of an input
vector (None for images), and returns a ``torch.nn.Module``: (b, 3, S, S) float32 pixels in [0, 1]
or (b, input_dimension) float32 vectors, to (b, config.dimension) rows, which are made unit rows
behind it. ``weights = "pretrained"`` is for the callable to honour.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.models.backbone import Backbone, Request
from pipeline.models.config import ModelConfig
from pipeline.models.weights import load_weights
from pipeline.strict import RecipeError, first_line

# What a mistake in somebody's network raises: shapes, types, names and missing keys.
_MISTAKES = (
    RuntimeError, TypeError, ValueError, AttributeError, LookupError, NameError, OSError,
    ArithmeticError, AssertionError,
)  # fmt: skip


class Own(Backbone):
    """The user's network behind pixels in [0, 1], or vectors as they come."""

    def __init__(self, network: nn.Module, kind: str) -> None:
        """``kind``: ``image`` or ``vector``."""
        super().__init__()
        self.network = network
        self.scale = 1.0 / 255.0 if kind == "image" else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """(b, dimension) rows."""
        rows: Tensor = self.network(x * self.scale)
        return rows


def check(config: ModelConfig, kind: str) -> None:
    """``RecipeError`` where the module or the callable is not there."""
    _named(config.backbone)


def build(request: Request) -> Own:
    """What the user's callable makes of the recipe, tried on two items.

    Raises ``RecipeError`` where it fails or does not give (2, dimension) floats.
    """
    config = request.config
    make = _named(config.backbone)
    try:
        network = make(config, request.input_dimension)
    except _MISTAKES as error:
        raise _failed(config, "could not be built", error) from error
    if not isinstance(network, nn.Module):
        raise RecipeError(
            f"model.backbone: {config.backbone!r} returned {type(network).__name__}; expected a "
            "torch.nn.Module"
        )
    if request.file is not None:
        load_weights(network, request.file)
    backbone = Own(network, request.kind)
    _try(backbone, request)
    return backbone


def _try(backbone: Own, request: Request) -> None:
    config, side = request.config, request.config.side
    vectors = request.kind == "vector"
    items = torch.zeros((2, request.input_dimension or 0) if vectors else (2, 3, side, side))
    backbone.eval()
    try:
        with torch.no_grad():
            rows: object = backbone(items)
    except _MISTAKES as error:
        raise _failed(config, f"does not take {tuple(items.shape)}", error) from error
    given = type(rows).__name__
    if isinstance(rows, Tensor):
        given = f"{str(rows.dtype).removeprefix('torch.')} {tuple(rows.shape)}"
        if rows.shape == (2, config.dimension) and rows.is_floating_point():
            return
    raise RecipeError(
        f"model.backbone: {config.backbone!r} makes {given} of two items; expected float32 "
        f"(2, {config.dimension}): a row of model.dimension for each"
    )


def _named(name: str) -> Callable[[ModelConfig, int | None], object]:
    module, _, attribute = name.partition(":")
    # Behind the installed packages: a file of the working folder must not stand in for one.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"model.backbone: {name!r}: no module {error.name!r} in {Path.cwd()} or among the "
            "installed packages; expected the user's own code there"
        ) from None
    except (*_MISTAKES, ImportError, SyntaxError) as error:
        line = first_line(error)
        raise RecipeError(
            f"model.backbone: {name!r}: importing {module} failed: {type(error).__name__}: {line}"
        ) from error
    if not callable(made):
        raise RecipeError(
            f"model.backbone: {name!r}: {module} has no callable {attribute!r}; expected a "
            "function of a ModelConfig and the input's dimension"
        )
    return cast("Callable[[ModelConfig, int | None], object]", made)


def _failed(config: ModelConfig, what: str, error: BaseException) -> RecipeError:
    line = first_line(error)
    return RecipeError(
        f"model.backbone: {config.backbone!r} {what}: {type(error).__name__}: {line}"
    )
