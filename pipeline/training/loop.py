"""One worker's training loop; knows no Ray and no paths.

Everything random is a pure function of (seed, step), so a run that was killed at any step and
resumed from its last checkpoint repeats, on the same CPU with the same number of threads, the
very losses it would have had. Loss: the base loss, plus the threshold-consistent margin term
where the recipe has one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.config import Recipe
from pipeline.data.batches import ClassBatches
from pipeline.losses.base import base_loss
from pipeline.losses.config import TcmConfig
from pipeline.losses.tcm import tcm_loss
from pipeline.models.registry import EmbeddingModel
from pipeline.training.augmentation import distort, draw_distortion
from pipeline.training.collective import ALONE, Collective

Inputs = NDArray[np.generic]
"""(n, S, S, 3) uint8 pixels or (n, d_in) float32 vectors."""

# Proxies start at random and each is hit by few batches, so they need a larger step.
_LOSS_RATE = 10.0


class TrainingError(RuntimeError):
    """Training that cannot go on; the message names the remedy."""


@dataclass(frozen=True, slots=True)
class TrainState:
    """All that a run needs to go on from ``step``; tensors on the CPU."""

    fingerprint: str
    """What is trained on what: a state goes on only under its own."""
    step: int
    """Steps done."""
    losses: tuple[float, ...]
    """Loss of each of them."""
    model: Mapping[str, object]
    loss: Mapping[str, object]
    optimizer: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a step has to say."""

    step: int
    """Steps done, resumed ones included."""
    steps: int
    """Steps in all."""
    loss: float
    """Loss of this step, over the batch of all workers."""
    images: int
    """Items seen by this step, over all workers."""


def fingerprint(recipe: Recipe, inputs: Inputs, labels: NDArray[np.int64]) -> str:
    """sha256 of everything that decides the weights, workers and device left aside."""
    train = replace(recipe.train, workers=0, device="cpu", checkpoint_every=1)
    resolved = replace(recipe, train=train).resolved()
    decisive = {key: resolved[key] for key in ("seed", "model", "loss", "train")}
    digest = hashlib.sha256(json.dumps([decisive, inputs.shape], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(labels).data)
    digest.update(np.ascontiguousarray(inputs).data)
    return digest.hexdigest()


def fit(
    inputs: Inputs,
    labels: NDArray[np.int64],
    *,
    recipe: Recipe,
    model: EmbeddingModel,
    resume: TrainState | None = None,
    on_checkpoint: Callable[[TrainState], None],
    progress: Callable[[Progress], None],
    collective: Collective = ALONE,
) -> EmbeddingModel:
    """Train ``model`` on ``inputs`` with class numbers ``labels`` (n,); returned on the CPU.

    ``on_checkpoint`` gets a state every ``checkpoint_every`` steps and at the end (every worker
    calls it; all have the same state); ``progress`` is called after each step. Raises
    ``TrainingError`` where ``resume`` belongs to another run or the loss is no longer finite.
    """
    mark = fingerprint(recipe, inputs, labels)
    if resume is not None and resume.fingerprint != mark:
        raise TrainingError("the checkpoint is of another recipe or other items; delete it")
    run = _Run(inputs, labels, recipe=recipe, model=model, collective=collective)
    losses = run.restore(resume) if resume is not None else []
    for step in range(len(losses), recipe.train.steps):
        losses.append(run.step(step))
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"the loss is {losses[-1]} at step {step + 1}; lower train.learning_rate"
            )
        done = step + 1
        progress(Progress(done, recipe.train.steps, losses[-1], run.batch_size))
        if done % recipe.train.checkpoint_every == 0 or done == recipe.train.steps:
            on_checkpoint(run.state(mark, losses))
    return model.to("cpu").eval()


class _Run:
    """What changes from step to step: the weights and the optimiser's moments."""

    def __init__(
        self, inputs: Inputs, labels: NDArray[np.int64], *, recipe: Recipe,
        model: EmbeddingModel, collective: Collective,
    ) -> None:  # fmt: skip
        names, codes = np.unique(labels, return_inverse=True)
        self.recipe, self.model, self.collective = recipe, model, collective
        self.inputs, self.codes = inputs, codes.astype(np.int64)
        train = recipe.train
        self.device = _device(train.device)
        self.batch_size = train.classes_per_batch * train.items_per_class
        self.share = collective.share(self.batch_size)
        self.batches = ClassBatches(
            self.codes,
            classes_per_batch=train.classes_per_batch,
            items_per_class=train.items_per_class,
            seed=recipe.seed,
        )
        if model.kind == "vector":
            model.learn_scale(torch.from_numpy(np.asarray(inputs, np.float32)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.loss = base_loss(
                recipe.loss.base, classes=len(names), dimension=model.config.dimension
            )
        model.to(self.device).train()
        self.loss.to(self.device)
        self.optimizer = _optimizer(model, self.loss, train.weight_decay)

    def step(self, step: int) -> float:
        """One step of the optimiser; the loss before it."""
        rate = _rate(step, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        rows = self.batches.rows(step)
        labels = torch.from_numpy(self.codes[rows]).to(self.device)
        embeddings = self.collective.gather(self.model(self._items(rows, step)))
        loss = self.loss(embeddings, labels)
        if self.recipe.loss.tcm is not None:
            loss = loss + _tcm(embeddings, labels, self.recipe.loss.tcm)
        self.optimizer.zero_grad()
        loss.backward()
        # The loss's own weights see the whole batch in every worker: equal gradients, not parts.
        self.collective.add_gradients(self.model.parameters())
        self.optimizer.step()
        return float(loss.item())

    def _items(self, rows: NDArray[np.int64], step: int) -> Tensor:
        """This worker's share of the batch, augmented."""
        part = torch.from_numpy(np.asarray(self.inputs[rows[self.share]])).to(self.device)
        strength = self.recipe.train.augmentation
        if self.model.kind != "image" or strength == 0:
            return part
        drawn = draw_distortion(rows.size, strength=strength, seed=self.recipe.seed, step=step)
        return distort(part, drawn.part(self.share))

    def state(self, mark: str, losses: list[float]) -> TrainState:
        """A copy of the state after ``losses``, on the CPU."""
        return TrainState(
            fingerprint=mark,
            step=len(losses),
            losses=tuple(losses),
            model=_copy(self.model.state_dict()),
            loss=_copy(self.loss.state_dict()),
            optimizer=_copy(self.optimizer.state_dict()),
        )

    def restore(self, state: TrainState) -> list[float]:
        """Go back to ``state``; the losses up to there."""
        self.model.load_state_dict(state.model)
        self.loss.load_state_dict(state.loss)
        # The optimiser keeps the tensors that it is given and writes into them: give it a copy.
        self.optimizer.load_state_dict(_copy(state.optimizer))
        return list(state.losses)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            "train.device is 'cuda', but torch sees no CUDA device; set it to 'cpu'"
        )
    return torch.device(name)


def _optimizer(model: nn.Module, loss: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; only matrices decay, not the scales and offsets of norms."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW([
        {"params": matrices, "weight_decay": weight_decay, "factor": 1.0},
        {"params": vectors, "weight_decay": 0.0, "factor": 1.0},
        {"params": list(loss.parameters()), "weight_decay": 0.0, "factor": _LOSS_RATE},
    ])


def _rate(step: int, recipe: Recipe) -> float:
    """Learning rate of ``step`` (from 0): linear warm-up, then half a cosine towards 0."""
    train = recipe.train
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    share = (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
    return train.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


def _tcm(embeddings: Tensor, labels: Tensor, config: TcmConfig) -> Tensor:
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return tcm_loss(
        embeddings @ embeddings.T,
        labels[:, None] == labels[None, :],
        positive_margin=config.positive_margin,
        negative_margin=config.negative_margin,
        positive_weight=config.positive_weight,
        negative_weight=config.negative_weight,
        floor=config.floor,
        is_pair=~itself,
    )


def _copy(state: Mapping[str, object]) -> dict[str, object]:
    """A deep copy of a state dict with its tensors on the CPU."""
    return {key: _on_cpu(value) for key, value in state.items()}


def _on_cpu(value: object) -> object:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_on_cpu(entry) for entry in value]
    return value
