"""What workers that train one model together have to do together.

Each worker embeds its share of the batch. A pair loss needs the whole batch, so embeddings are
gathered before it; every worker then computes the same loss, but keeps a graph for its own rows
only. The gradients of all workers therefore *add up* to the gradient that one worker with the
whole batch computes: an average would be too small by the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from pipeline.strict import RecipeError


@dataclass(frozen=True, slots=True)
class Collective:
    """This worker's place among ``size``; more than one need an initialised process group."""

    rank: int = 0
    size: int = 1

    def share(self, rows: int) -> slice:
        """The rows of the batch that are this worker's; ``RecipeError`` if they do not divide."""
        if rows % self.size:
            raise RecipeError(
                f"a batch of {rows} does not divide among {self.size} workers; change "
                "train.classes_per_batch, train.items_per_class or train.workers"
            )
        part = rows // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def gather(self, embeddings: Tensor) -> Tensor:
        """(size * n, d) rows of all workers in rank order; the graph of the own (n, d) is kept."""
        if self.size == 1:
            return embeddings
        own = embeddings.detach().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(parts, own)
        parts[self.rank] = embeddings
        return torch.cat(parts)

    def require_divisible(self, uses_batch_statistics: bool) -> None:
        """``RecipeError`` where a network that mixes the items of a batch would get parts of it.

        Each worker would normalise over its own share: another loss than that of the whole
        batch, other weights with each number of workers, and statistics of one share in the end.
        """
        if self.size > 1 and uses_batch_statistics:
            raise RecipeError(
                f"train.workers: {self.size}, but this backbone normalises over the batch, and "
                "the parts of a batch have other statistics than the whole; set "
                "model.frozen_norm = true, or workers = 1"
            )

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over the workers."""
        self._together(parameters, distributed.all_reduce)

    def agree_on_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by the first worker's.

        For parameters that see the whole batch in every worker: their gradients are equal but
        for what a GPU adds up in another order, and would drive the workers apart.
        """
        self._together(parameters, lambda flat: distributed.broadcast(flat, 0))

    def _together(self, parameters: Iterable[Tensor], do: Callable[[Tensor], object]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        do(flat)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, part in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(part.view_as(gradient))


ALONE = Collective()
"""One worker: nothing to do together."""
