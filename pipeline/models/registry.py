"""Networks by name, from a raw item to its embedding.

What a release exports is the whole ``EmbeddingModel``: scaling of the pixels, the backbone and
unit length are inside it. A new backbone is a new line in ``_BACKBONES``.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.durable import write_durably
from pipeline.models import cnn, efficientnet, mlp, own, timm_vision, transformers_vision
from pipeline.models.backbone import Backbone, Request
from pipeline.models.config import ModelConfig
from pipeline.models.embedding import EmbeddingModel as EmbeddingModel
from pipeline.models.hub import require_transformers
from pipeline.models.staged import KEYS
from pipeline.models.weights import weights_digest
from pipeline.strict import RecipeError


@dataclass(frozen=True, slots=True)
class _Adapter:
    """How a backbone is built, the kinds of item that it takes and the keys that it honours."""

    kinds: tuple[str, ...]
    build: Callable[[Request], Backbone]
    keys: tuple[str, ...] = ()
    check: Callable[[ModelConfig, str], None] = lambda *_: None
    """Raises ``RecipeError`` for what can be told of a config and a kind before the network is
    built: a library, a folder, a function that is not there."""


def _transformers(request: Request) -> Backbone:
    if request.kind != "text":
        return transformers_vision.build(request)
    from pipeline.models.text import build_text

    return build_text(request)


def _check_transformers(config: ModelConfig, kind: str) -> None:
    if kind == "text":
        require_transformers(config)
    else:
        transformers_vision.check(config)


_OWN = "module:callable"
_BACKBONES = {
    "cnn": _Adapter(("image",), cnn.build),
    "mlp": _Adapter(("vector",), mlp.build),
    "efficientnet_lite0": _Adapter(("image",), efficientnet.build, KEYS, efficientnet.check),
    "transformers:NAME": _Adapter(("image", "text"), _transformers, KEYS, _check_transformers),
    "timm:NAME": _Adapter(("image",), timm_vision.build, KEYS, timm_vision.check),
    _OWN: _Adapter(("image", "vector"), own.build, ("frozen_norm", "weights"), own.check),
}


def require_backbone(config: ModelConfig, kind: str) -> None:
    """``RecipeError`` unless ``config`` names a backbone for ``kind`` items that can be built.

    Quick: what is missing here shows before items are prepared. What only the weights or the
    user's own code can tell shows in ``build_model``.
    """
    adapter = _adapter(config)
    if kind not in adapter.kinds:
        fitting = [name for name, entry in _BACKBONES.items() if kind in entry.kinds]
        raise RecipeError(
            f"model.backbone: {config.backbone!r} takes {' or '.join(adapter.kinds)} items, these "
            f"are {kind}; for them there is: {', '.join(fitting) or 'none'}"
        )
    defaults = ModelConfig()
    for key in ("pooling", "head", "frozen_norm", "trained_stages"):
        if key not in adapter.keys and getattr(config, key) != getattr(defaults, key):
            raise RecipeError(f"model.{key}: {config.backbone!r} has no choice; leave the key out")
    if config.weights == "pretrained" and "weights" not in adapter.keys:
        raise RecipeError(
            f"model.weights: {config.backbone!r} has no pretrained weights; leave the key out or "
            "name a file"
        )
    adapter.check(config, kind)
    weights_digest(config)


def build_model(
    config: ModelConfig, *, kind: str, input_dimension: int | None = None, seed: int = 0
) -> EmbeddingModel:
    """A fresh model for ``kind`` (``image``, ``vector`` or ``text``) items.

    What ``config.weights`` does not bring is drawn from ``seed``. ``input_dimension``:
    coordinates of an input vector; None for other items. Raises ``RecipeError`` where
    ``require_backbone`` does, and where weights or a user's own backbone do not fit.
    """
    require_backbone(config, kind)
    if kind == "vector" and not input_dimension:
        raise RecipeError("input_dimension: expected the number of coordinates of an input vector")
    return _built(Request(config, kind, input_dimension), seed)


def save_model(model: EmbeddingModel, path: Path, *, fingerprint: str) -> None:
    """Write ``model`` atomically; ``fingerprint`` says what it was trained with."""
    content = {
        "fingerprint": fingerprint,
        "kind": model.kind,
        "input_dimension": model.input_dimension,
        "config": dataclasses.asdict(model.config.portable()),
        "architecture": dict(model.backbone.architecture),
        "weights": model.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_durably(path, buffer.getvalue())


def load_model(path: Path) -> tuple[EmbeddingModel, str]:
    """The model that ``save_model`` wrote, in evaluation mode on the CPU, and its fingerprint.

    Needs no hub and none of the files that training started from; a user's own backbone is code
    and has to be there again. Raises ``RecipeError`` where it is not, or makes another network.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    model = _built(
        Request(
            ModelConfig(**content["config"]), content["kind"], content["input_dimension"],
            content["architecture"],
        ),
        seed=0,
    )  # fmt: skip
    try:
        model.load_state_dict(content["weights"])
    except RuntimeError:
        raise RecipeError(
            f"{path}: its weights are not of the network that {model.config.backbone!r} makes now; "
            "delete it to train again, or bring back the code that it was trained with"
        ) from None
    return model.eval(), content["fingerprint"]


def _built(request: Request, seed: int) -> EmbeddingModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = _adapter(request.config).build(request)
    return EmbeddingModel(
        backbone, request.config, kind=request.kind, input_dimension=request.input_dimension
    )


def _adapter(config: ModelConfig) -> _Adapter:
    library, colon, _ = config.backbone.partition(":")
    if not colon:
        entry = _BACKBONES.get(library)
    else:
        entry = _BACKBONES.get(f"{library}:NAME", _BACKBONES[_OWN])
    if entry is None:
        raise RecipeError(
            f"model.backbone: unknown {config.backbone!r}; known: {', '.join(_BACKBONES)}"
        )
    return entry
