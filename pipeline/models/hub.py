"""Networks of the library transformers as folders: a local one, or one fetched from the hub.

A folder holds ``config.json``, perhaps ``preprocessor_config.json``, and weights where they are
asked for. What the hub gave once stays in its cache, for later without network.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from pipeline.models.config import ModelConfig
from pipeline.strict import RecipeError

_FACTS = ("config.json", "preprocessor_config.json")
# In the order of preference: the second kind is read without running what is in it, too.
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def require_transformers(config: ModelConfig) -> None:
    """``RecipeError`` unless the library is installed."""
    if find_spec("transformers") is None:
        raise RecipeError(f"model.backbone: {config.backbone!r} needs: pip install 'limen[models]'")


def network_folder(config: ModelConfig, name: str, *, weights: bool) -> Path:
    """The folder of ``config.backbone``, or of ``name`` on the hub, ``weights`` inside if asked.

    Raises ``RecipeError`` where it is not there and cannot be fetched.
    """
    if config.folder is not None:
        _require_complete(config, config.folder, weights=weights)
        return config.folder
    folder = _snapshot(config, name, _FACTS)
    for kind in _WEIGHTS if weights else ():
        if _lacks(folder, weights=True) is not None:
            folder = _snapshot(config, name, (*_FACTS, f"{kind}*"))
    _require_complete(config, folder, weights=weights)
    return folder


def network_facts(folder: Path) -> dict[str, Any]:
    """``config.json`` of ``folder``; ``RecipeError`` where it is no description of a network."""
    path = folder / "config.json"
    facts = _json(path)
    if not isinstance(facts.get("model_type"), str):
        raise RecipeError(f"model.backbone: {path}: no model_type; expected that of a network")
    return facts


def stated_colours(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of the colours that the folder says its weights expect, if it does."""
    path = folder / "preprocessor_config.json"
    stated = _json(path) if path.exists() else {}
    mean, deviation = stated.get("image_mean"), stated.get("image_std")
    if mean is None or deviation is None:
        return None
    colours = tuple(map(float, mean)), tuple(map(float, deviation))
    if [len(values) for values in colours] != [3, 3] or min(colours[1]) <= 0:
        raise RecipeError(f"model.backbone: {path}: expected three colours in image_mean and "
                          "image_std, the latter above 0")
    return colours


def _snapshot(config: ModelConfig, name: str, patterns: Sequence[str]) -> Path:
    """The hub's files of ``name`` in its cache; what is there already is not fetched again."""
    hub = importlib.import_module("huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"model.backbone: {config.backbone!r} is not in the hub's cache and cannot be fetched "
            f"({type(error).__name__}); without network: save_pretrained it to a folder elsewhere, "
            "bring that beside the recipe and name it transformers:./FOLDER"
        ) from None


def _lacks(folder: Path, *, weights: bool) -> str | None:
    """What ``folder`` would need and does not have."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if weights and not any(path for kind in _WEIGHTS for path in folder.glob(kind)):
        return "model.safetensors"
    return None


def _require_complete(config: ModelConfig, folder: Path, *, weights: bool) -> None:
    lacking = _lacks(folder, weights=weights)
    if lacking is not None:
        raise RecipeError(
            f"model.backbone: {config.backbone!r} has no {lacking}; expected what "
            "save_pretrained of transformers writes"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"model.backbone: {path}: not readable as JSON ({error})") from None
    if not isinstance(content, Mapping):
        raise RecipeError(f"model.backbone: {path}: expected a JSON object")
    return cast("dict[str, Any]", content)
