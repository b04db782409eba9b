"""One worker's step: the weights, what moves them, and what has to be kept to go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import Recipe
from pipeline.distance import Vectors
from pipeline.losses.total import training_loss
from pipeline.models.registry import EmbeddingModel
from pipeline.training.averaging import Average
from pipeline.training.batch import Batch
from pipeline.training.chunks import backward, noise, parts_of, require_chunkable
from pipeline.training.collective import Collective
from pipeline.training.inputs import Inputs
from pipeline.training.optimizer import clip, optimizer_of, set_rate
from pipeline.training.precision import Precision, device_of
from pipeline.training.schedule import rate_at
from pipeline.training.state import DivergedError, TrainState, on_cpu
from pipeline.training.validation import Validation, best_of, validate

_DROPOUT, _LOSS = 2, 3  # which draws of a step; batches and their augmentation have 0 and 1


class Trainer:
    """What changes from step to step."""

    def __init__(
        self, recipe: Recipe, model: EmbeddingModel, *, classes: int,
        collective: Collective, features: bool,
    ) -> None:  # fmt: skip
        """``classes``: to train on; ``features``: whether what comes in are features that the
        frozen part of ``model`` made of items, not the items."""
        train = recipe.train
        self.recipe, self.model, self.collective = recipe, model, collective
        self.device = device_of(train.device)
        self.share = collective.share(train.classes_per_batch * train.items_per_class)
        collective.require_divisible(model.uses_batch_statistics)
        if train.chunk:
            require_chunkable(model)
        self.network: Callable[[Tensor], Tensor] = model.trained if features else model
        with noise([recipe.seed], torch.device("cpu")):
            self.loss = training_loss(
                recipe.loss, classes=classes, dimension=model.config.dimension
            )
        model.to(self.device).train()
        self.loss.to(self.device)
        self.optimizer = optimizer_of(model, self.loss, train)
        self.precision = Precision(train.precision, self.device)
        self.average = Average(model, train.average)
        self.validations: list[Validation] = []
        self.best: dict[str, object] = {}

    def step(self, step: int, batch: Batch, codes: NDArray[np.int64]) -> float:
        """One step of the optimiser on a batch of classes ``codes`` (b,); the loss before it."""
        scaler, seed = self.precision.scaler, self.recipe.seed
        labels = torch.from_numpy(codes).to(self.device)
        items = torch.from_numpy(batch.rows).to(self.device)
        found: list[Tensor] = []

        def embed(part: slice) -> Tensor:
            start = self.share.start + part.start
            with noise([seed, _DROPOUT, step, start], self.device), self.precision.network():
                return self.network(batch.part(part, self.device)).float()

        def scaled_loss(own: Tensor) -> Tensor:
            embeddings = self.collective.gather(own)
            with noise([seed, _LOSS, step], self.device):
                loss: Tensor = self.loss(embeddings, labels, items)
            found.extend((loss.detach(), embeddings.detach()))
            return scaler.scale(loss)

        set_rate(self.optimizer, rate_at(step, self.recipe.train))
        self.optimizer.zero_grad()
        backward(parts_of(len(batch.items), self.recipe.train.chunk), embed, scaled_loss)
        self._move(step)
        loss, embeddings = found
        self.loss.remember(embeddings, labels, items)
        return float(loss.item())

    def _move(self, step: int) -> None:
        """The optimiser's step on the gradients of all workers."""
        # The loss's own weights see the whole batch in every worker: equal gradients, not parts.
        self.collective.add_gradients(self.model.parameters())
        self.collective.agree_on_gradients(self.loss.parameters())
        scaler = self.precision.scaler
        scaler.unscale_(self.optimizer)
        clip(self.optimizer, self.recipe.train.clip)
        scaler.step(self.optimizer)
        scaler.update()
        if self.precision.overflowing:
            raise DivergedError(
                f"after step {step + 1} the gradient overflows float16 at any scale, and no step "
                "moves the weights; set train.precision = 'bfloat16', or lower "
                "train.learning_rate"
            )
        self.average.update(step)

    def measure(
        self, inputs: Inputs, rows: NDArray[np.int64], labels: NDArray[np.generic],
        item_ids: Sequence[str], done: int,
    ) -> Validation:  # fmt: skip
        """Measure the (averaged) network on the held-out ``rows``; keep it if it is the best.

        ``labels``, ``item_ids`` (n,) are of all ``inputs``.
        """
        train = self.recipe.train
        with self.average.applied():
            vectors = self._embedded(inputs, rows)
            bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
            if bad.size:
                raise DivergedError(
                    f"after step {done} the embedding of item {item_ids[rows[bad[0]]]!r} is not "
                    "finite; lower train.learning_rate, or set train.clip"
                )
            ids = [item_ids[row] for row in rows]
            found = validate(vectors, labels[rows], ids, step=done)
            self.validations.append(found)
            if train.patience and best_of(self.validations, train.recall_floor) is found:
                self.best = on_cpu(self.model.state_dict())
        return found

    @torch.no_grad()
    def _embedded(self, inputs: Inputs, rows: NDArray[np.int64]) -> Vectors:
        """(n, d) of the items at ``rows``, in float32 as they are served; workers share them.

        All workers have the same vectors afterwards, so that they decide alike.
        """
        workers = self.collective.size
        dealt = np.resize(rows, -(-rows.size // workers) * workers)  # the first again at the end
        mine = dealt[self.collective.share(dealt.size)]
        self.model.eval()
        found = []
        size = self.recipe.train.chunk or self.share.stop - self.share.start
        for part in parts_of(mine.size, size):
            items = torch.from_numpy(np.asarray(inputs[mine[part]]))
            found.append(self.network(items.to(self.device)).float())
        self.model.train()
        vectors = self.collective.gather(torch.cat(found))[: rows.size]
        return np.asarray(vectors.cpu().numpy(), np.float32)

    def finish(self) -> EmbeddingModel:
        """The network to serve: the best one measured, else the average, else as it is."""
        self.average.become()
        if self.best:
            self.model.load_state_dict(self.best)
        return self.model.to("cpu").eval()

    def state(self, mark: str, losses: list[float]) -> TrainState:
        """A copy of the state after ``losses``; ``DivergedError`` where a weight is not finite."""
        weights, loss = self.model.state_dict(), self.loss.state_dict()
        for name, value in {**weights, **loss}.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise DivergedError(
                    f"after step {len(losses)} the weights are not finite ({name}); lower "
                    "train.learning_rate, or set train.clip"
                )
        return TrainState(
            fingerprint=mark,
            step=len(losses),
            losses=tuple(losses),
            model=on_cpu(weights),
            loss=on_cpu(loss),
            optimizer=on_cpu(self.optimizer.state_dict()),
            scaler=self.precision.scaler.state_dict(),
            average=on_cpu(self.average.state()),
            validations=tuple(found.as_numbers() for found in self.validations),
            best=dict(self.best),
        )

    def restore(self, state: TrainState) -> list[float]:
        """Go back to ``state``; the losses up to there."""
        self.model.load_state_dict(state.model)
        self.loss.load_state_dict(state.loss)
        # The optimiser keeps the tensors that it is given and writes into them: give it a copy.
        self.optimizer.load_state_dict(on_cpu(state.optimizer))
        self.precision.scaler.load_state_dict(dict(state.scaler))
        self.average.restore(state.average)
        self.validations = [Validation.of_numbers(numbers) for numbers in state.validations]
        self.best = dict(state.best)
        return list(state.losses)
