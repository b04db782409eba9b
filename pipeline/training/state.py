"""What a training leaves behind so that it can go on, and what it is known by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.config import Recipe
from pipeline.models.weights import weights_digest
from pipeline.training.inputs import Inputs, blocks
from pipeline.training.validation import Labels


class TrainingError(RuntimeError):
    """Training that cannot go on; the message names the remedy."""


class DivergedError(TrainingError):
    """A loss or weights that are no longer finite; the message names the step and the items."""


@dataclass(frozen=True, slots=True)
class TrainState:
    """All that a run needs to go on from ``step``; plain data and tensors on the CPU."""

    fingerprint: str
    """What is trained on what: a state goes on only under its own."""
    step: int
    """Steps done."""
    losses: tuple[float, ...]
    """Loss of each of them."""
    model: Mapping[str, Any]
    loss: Mapping[str, Any]
    """Proxies and the like, and the memory."""
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any] = field(default_factory=dict)
    """The scale of the loss; empty unless the precision is float16."""
    average: Mapping[str, Any] = field(default_factory=dict)
    """The averaged weights; empty without averaging."""
    validations: tuple[Mapping[str, Any], ...] = ()
    """``Validation.as_numbers`` of each measurement."""
    best: Mapping[str, Any] = field(default_factory=dict)
    """The model of the best of them; empty where there is none, or no patience."""


def fingerprint(recipe: Recipe, inputs: Inputs, labels: Labels) -> str:
    """sha256 of everything that decides the weights.

    Left aside: on what they are computed (``workers``, ``device``, ``chunk``, whose sums differ
    in rounding alone), how often they are saved, and measurements that end nothing. The weights
    that the network starts from count by their content.
    """
    train = replace(recipe.train, workers=0, device="cpu", chunk=0, checkpoint_every=1)
    if not train.patience:
        train = replace(train, validate_every=0, recall_floor=0.0)
    resolved = replace(recipe, train=train).resolved()
    decisive = {key: resolved[key] for key in ("seed", "model", "loss", "train")}
    split_seed = recipe.data.split_seed if train.validate_share else 0
    facts = [decisive, weights_digest(recipe.model), split_seed, list(inputs.shape)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(labels).data)
    add_rows(digest, inputs)
    return digest.hexdigest()


def add_rows(digest: hashlib._Hash, inputs: Inputs) -> None:
    """Let ``digest`` take in all rows of ``inputs``, a few at a time."""
    for rows in blocks(inputs):
        digest.update(np.ascontiguousarray(inputs[rows]).data)


def on_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of a state dict with its tensors on the CPU."""
    return {key: _copy(value) for key, value in state.items()}


def _copy(value: object) -> object:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(entry) for entry in value]
    return value
