"""What workers that train one model together have to do together.

Each worker embeds its share of the batch. A pair loss needs the whole batch, so embeddings are
gathered before it; every worker then computes the same loss, but keeps a graph for its own rows
only. The gradients of all workers therefore *add up* to the gradient that one worker with the
whole batch computes: an average would be too small by the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable
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
        parts = [torch.empty_like(embeddings) for _ in range(self.size)]
        distributed.all_gather(parts, embeddings.detach().contiguous())
        parts[self.rank] = embeddings
        return torch.cat(parts)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over the workers."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, part in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(part.view_as(gradient))


ALONE = Collective()
"""One worker: nothing to do together."""
