"""One worker's training loop; knows no Ray and no paths.

Everything random is a pure function of (seed, step), so a run that was killed at any step and
resumed from its last checkpoint repeats, on the same CPU with the same number of threads, the
very losses it would have had. The parts: batches made ahead of time (``batch``), a step of the
optimiser (``trainer``), measurements on held-out classes (``validation``), what is kept of it all
(``state``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.config import Recipe
from pipeline.consistency.curves import MIN_EVIDENCE
from pipeline.data.items import ItemsError
from pipeline.models.registry import EmbeddingModel
from pipeline.training.ahead import Ahead
from pipeline.training.batch import Batch, Batches
from pipeline.training.collective import ALONE, Collective
from pipeline.training.inputs import Inputs as Inputs
from pipeline.training.schedule import rate_at
from pipeline.training.state import DivergedError
from pipeline.training.state import TrainingError as TrainingError
from pipeline.training.state import TrainState as TrainState
from pipeline.training.state import fingerprint as fingerprint
from pipeline.training.trainer import Trainer
from pipeline.training.validation import Labels, Validation, exhausted, validation_rows

_NAMED = 5  # items of a bad batch that an error names


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
    rate: float = math.nan
    """Learning rate of the head in this step."""
    seconds: float = math.nan
    """What the step took on the first worker, a measurement after it left aside."""
    waited: float = 0.0
    """Seconds of them in which it waited for its batch."""
    validation: Validation | None = None
    """What was measured after it, if anything."""
    threshold: float | None = None
    """Cosine distance that the base loss has learned to decide at, if it learns one."""


def fit(
    inputs: Inputs,
    labels: Labels,
    *,
    recipe: Recipe,
    model: EmbeddingModel,
    item_ids: Sequence[str] | None = None,
    features: bool = False,
    mark: str | None = None,
    resume: TrainState | None = None,
    on_checkpoint: Callable[[TrainState], None],
    progress: Callable[[Progress], None],
    collective: Collective = ALONE,
) -> EmbeddingModel:
    """Train ``model`` on ``inputs`` of classes ``labels`` (n,), names or numbers; on the CPU again.

    ``item_ids`` (n,) name items in errors and order them in measurements; by default their row
    numbers. ``features``: the inputs are what ``model.frozen`` makes of items. ``mark``: the
    fingerprint of the run where it is known. ``on_checkpoint`` gets a state every
    ``checkpoint_every`` steps and at the end (every worker calls it; all have the same state);
    ``progress`` is called after each step. Raises ``TrainingError`` where ``resume`` belongs to
    another run or the loss is no longer finite, ``ItemsError`` where no batch can be filled.
    """
    run = _Run(
        inputs, labels, recipe=recipe, model=model, item_ids=item_ids, features=features,
        collective=collective,
    )  # fmt: skip
    mark = fingerprint(recipe, inputs, labels) if mark is None else mark
    if resume is not None and resume.fingerprint != mark:
        raise TrainingError("the checkpoint is of another recipe or other items; delete it")
    losses = run.trainer.restore(resume) if resume is not None else []
    train = recipe.train
    with Ahead(run.batches.make, range(len(losses), train.steps)) as ahead:
        while len(losses) < train.steps and not run.stopped:
            now = run.step(len(losses), ahead)
            losses.append(now.loss)
            progress(now)
            done = len(losses)
            if done % train.checkpoint_every == 0 or done == train.steps or run.stopped:
                on_checkpoint(run.trainer.state(mark, losses))
    return run.trainer.finish()


class _Run:
    """A training: its batches, its trainer, and the classes that it is measured on."""

    def __init__(
        self, inputs: Inputs, labels: Labels, *, recipe: Recipe, model: EmbeddingModel,
        item_ids: Sequence[str] | None, features: bool, collective: Collective,
    ) -> None:  # fmt: skip
        train = recipe.train
        self.inputs, self.labels, self.recipe = inputs, labels, recipe
        self.item_ids = [str(row) for row in range(len(labels))] if item_ids is None else item_ids
        held_out = validation_rows(labels, train.validate_share, recipe.data.split_seed)
        self.held_out = np.flatnonzero(held_out)
        _require_measurable(labels[held_out], recipe)
        trained = np.flatnonzero(~held_out)
        names, found = np.unique(labels[trained], return_inverse=True)
        self.codes = np.full(len(labels), -1, np.int64)
        self.codes[trained] = found
        if model.kind == "vector" and not features:
            model.learn_scale(torch.from_numpy(np.asarray(inputs[trained], np.float32)))
        self.trainer = Trainer(
            recipe, model, classes=len(names), collective=collective, features=features
        )
        self.batches = Batches(
            inputs, self.codes, recipe=recipe, share=self.trainer.share,
            images=model.kind == "image" and not features,
            pinned=self.trainer.device.type == "cuda",
        )  # fmt: skip

    @property
    def stopped(self) -> bool:
        """Whether training has gone on long enough without a better measurement."""
        train = self.recipe.train
        return exhausted(self.trainer.validations, train.recall_floor, train.patience)

    def step(self, step: int, ahead: Ahead[Batch]) -> Progress:
        """One step, and the measurement after it where it is due."""
        train, started = self.recipe.train, time.perf_counter()
        batch, waited = ahead.take(step)
        loss = self.trainer.step(step, batch, self.codes[batch.rows])
        if not math.isfinite(loss):
            raise DivergedError(_diverged(loss, step, [self.item_ids[row] for row in batch.rows]))
        seconds, done = time.perf_counter() - started, step + 1
        found = None
        if train.validate_every and (done % train.validate_every == 0 or done == train.steps):
            found = self.trainer.measure(
                self.inputs, self.held_out, self.labels, self.item_ids, done
            )
        return Progress(
            done, train.steps, loss, batch.rows.size, rate_at(step, train), seconds, waited, found,
            self.trainer.loss.threshold(),
        )  # fmt: skip


def _require_measurable(labels: Labels, recipe: Recipe) -> None:
    """``ItemsError`` where the held-out ``labels`` could never tell a best measurement."""
    sizes = np.unique(labels, return_counts=True)[1]
    usable = int((sizes >= MIN_EVIDENCE).sum())
    if recipe.train.patience and usable < 2:
        raise ItemsError(
            f"{usable} of the {len(sizes)} classes held out by train.validate_share have "
            f"{MIN_EVIDENCE} items or more; expected at least 2 for a corrected OPIS: raise it, "
            "or set patience = 0"
        )


def _diverged(loss: float, step: int, ids: Sequence[str]) -> str:
    unique = list(dict.fromkeys(ids))
    rest = f" and {len(unique) - _NAMED} more" if len(unique) > _NAMED else ""
    return (
        f"the loss is {loss} at step {step + 1}, over the items {', '.join(unique[:_NAMED])}"
        f"{rest}; lower train.learning_rate, set train.clip, or look at these items"
    )
