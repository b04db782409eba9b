"""Files of weights: read without running what is in them, and refused unless they fit."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.models.config import ModelConfig
from pipeline.strict import RecipeError, first_line


def weights_digest(config: ModelConfig) -> str:
    """sha256 of the local files that ``config`` starts from, hexadecimal; empty if there are none.

    Their names are part of the recipe, their content is not: a fingerprint needs both. Of a
    user's own network it is the file of its module, not what that imports. Weights of a hub or a
    package are told apart by their names alone. Raises ``RecipeError`` for a file that is not
    there; a module that is not there is missed where it is imported.
    """
    files: list[Path] = []
    folder = config.folder
    if folder is not None:
        _require(folder.is_dir(), f"model.backbone: {folder}: no such folder")
        files += sorted(path for path in folder.iterdir() if path.is_file())
    if config.weights_file is not None:
        files.append(_existing(config.weights_file))
    if config.module is not None:
        files += _sources(config.module)
    if not files:
        return ""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as content:
            digest.update(f"{path.name}\n".encode())
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _sources(module: str) -> list[Path]:
    """The file of ``module``, by the order in which it is looked for; none for compiled code."""
    place = Path(*module.split("."))
    found = (
        path
        for root in (*map(Path, sys.path), Path.cwd())
        for path in (root / place / "__init__.py", root / place.with_name(f"{place.name}.py"))
        if path.is_file()
    )
    return list(islice(found, 1))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a state dict (``.pt``, ``.pth``, ``.bin``) or a ``.safetensors`` file.

    Raises ``RecipeError``. Nothing in the file is run.
    """
    _existing(path)
    try:
        if path.suffix == ".safetensors":
            content = _safetensors(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        line = first_line(error)
        raise RecipeError(
            f"model.weights: {path}: not readable ({line[:80]}); expected the state dict of the "
            "network as .pt or .safetensors"
        ) from None
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise RecipeError(
            f"model.weights: {path}: expected tensors by name (torch.save(network.state_dict(), "
            "...)), not a whole model or a checkpoint"
        )
    return dict(content)


def load_weights(network: nn.Module, path: Path, *, optional: tuple[str, ...] = ()) -> None:
    """Give ``network`` the weights at ``path``; names that begin like ``optional`` may differ.

    Raises ``RecipeError`` naming the first that is missing, left over or of another shape.
    """
    state, own = read_weights(path), network.state_dict()
    known = {name: state[name] for name in own if name in state}
    require_fit(
        path, optional,
        missing=[name for name in own if name not in state],
        unexpected=[name for name in state if name not in own],
        shapes=[
            (name, value.shape, own[name].shape) for name, value in known.items()
            if value.shape != own[name].shape
        ],
    )  # fmt: skip
    network.load_state_dict(known, strict=False)


def require_fit(
    path: Path, optional: tuple[str, ...], *, missing: Sequence[str], unexpected: Sequence[str],
    shapes: Sequence[tuple[str, Sequence[int], Sequence[int]]],
) -> None:  # fmt: skip
    """``RecipeError`` naming the first of the names that is not one of the ``optional``.

    ``shapes``: name, shape in the file at ``path`` and shape in the network, where they differ.
    """
    faults = [f"{name} is missing" for name in missing if not name.startswith(optional)]
    faults += [
        f"{name} is not of this network" for name in unexpected if not name.startswith(optional)
    ]
    faults += [
        f"{name} is {tuple(theirs)}, the network's {tuple(ours)}" for name, theirs, ours in shapes
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise RecipeError(
            f"model.weights: {path}: {faults[0]}{more}; expected the state dict of the network "
            "that model.backbone names"
        )


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise RecipeError(
            "model.weights: reading .safetensors needs: pip install 'limen[models]'"
        ) from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _existing(path: Path) -> Path:
    _require(path.is_file(), f"model.weights: {path}: no such file; expected a file of weights, "
             "relative to the recipe")
    return path


def _require(holds: bool, line: str) -> None:
    if not holds:
        raise RecipeError(line)
