"""The gradient of a loss over a whole batch, in the memory of a part of it.

A pair loss needs all embeddings at once, but the network's graph is what fills the memory. So
the batch passes the network twice: first part by part without a graph, to give the loss all
embeddings and take its gradient with respect to them; then part by part again, each going
backward from its own rows of that gradient. The sum is the gradient of the whole batch, as long
as the network treats each item on its own and both passes see the same noise.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP
2021, arXiv:2101.06983.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from pipeline.models.registry import EmbeddingModel
from pipeline.strict import RecipeError


def parts_of(rows: int, chunk: int) -> list[slice]:
    """``rows`` items in parts of ``chunk``, the last one maybe smaller; 0: a single part."""
    size = chunk or max(rows, 1)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def require_chunkable(model: EmbeddingModel) -> None:
    """``RecipeError`` where an item's embedding depends on its batch: parts would change it."""
    if model.uses_batch_statistics:
        raise RecipeError(
            "train.chunk: this backbone normalises over the batch, so parts of a batch have "
            "another gradient than the whole; set model.frozen_norm = true, or chunk = 0"
        )


def backward(
    parts: Sequence[slice],
    embed: Callable[[slice], Tensor],
    loss_of: Callable[[Tensor], Tensor],
) -> None:
    """Add the gradient of ``loss_of(embeddings)`` to the parameters below it.

    ``embed(part)`` gives the (n, d) embeddings of a part, the same ones each time it is asked;
    ``loss_of`` gets those of all parts, (N, d) in order, and gives a scalar. One part alone
    passes once.
    """
    if len(parts) == 1:
        torch.autograd.backward(loss_of(embed(parts[0])))
        return
    with torch.no_grad():
        embeddings = torch.cat([embed(part) for part in parts])
    embeddings.requires_grad_()
    torch.autograd.backward(loss_of(embeddings))
    assert embeddings.grad is not None, "the loss has a graph to its embeddings"
    for part in parts:
        torch.autograd.backward(embed(part), embeddings.grad[part])


@contextmanager
def noise(entropy: Sequence[int], device: torch.device) -> Iterator[None]:
    """A block whose random draws (dropout) are a pure function of ``entropy``.

    The random state outside is left alone.
    """
    seed = np.random.SeedSequence(list(entropy)).generate_state(1, np.uint64)[0]
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(seed >> np.uint64(1)))
        yield
