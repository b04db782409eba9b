"""The loss that a recipe trains with: a base loss, TCM on top of it, both with the memory.

Losses are float32 whatever the network computes in: a batch has more pairs than half precision
can count, and temperatures of .01 turn its rounding into whole ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.losses.base import make_base
from pipeline.losses.config import LossConfig, TcmConfig
from pipeline.losses.memory import Memory
from pipeline.losses.options import BASE_LOSSES as BASE_LOSSES
from pipeline.losses.options import all_options
from pipeline.losses.pairs import Marks
from pipeline.losses.tcm import tcm_of_marks
from pipeline.strict import RecipeError


class TrainingLoss(nn.Module):
    """Base loss plus TCM; its state dict holds proxies, learned numbers and the memory."""

    def __init__(self, config: LossConfig, *, classes: int, dimension: int) -> None:
        """See ``training_loss``."""
        super().__init__()
        if config.tcm is not None and config.tcm.margins != "given":
            raise RecipeError("loss.tcm.margins: still 'auto'; choose them first, or give them")
        options = all_options(config)
        self.base = make_base(config.base, options, classes=classes, dimension=dimension)
        self.memory = Memory(config.memory, dimension) if config.memory else None
        self.tcm = config.tcm

    def forward(self, embeddings: Tensor, labels: Tensor, items: Tensor | None = None) -> Tensor:
        """The loss of (n, d) rows of any float type and length; a float32 scalar with a graph.

        ``labels`` (n,) int64 in [0, classes); ``items`` (n,) int64, 0 or more, says which rows
        are views of one item and so no pair (also with the memory); absent: no two are. Changes
        no state.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            rows, marks = _unit(embeddings), Marks.of_batch(labels, items)
            references, reference_marks = rows, marks
            if self.memory is not None:
                remembered, remembered_marks = self.memory.content()
                references = torch.cat([rows, remembered])
                reference_marks = marks + remembered_marks
            loss: Tensor = self.base(rows, marks, references, reference_marks)
            if self.tcm is not None:
                loss = loss + _tcm(rows @ references.T, marks, reference_marks, self.tcm)
            # Keeps the graph where no pair counts, and a NaN that a mean over losses above 0
            # would leave out.
            return loss + 0.0 * rows.sum()

    @torch.no_grad()
    def remember(
        self, embeddings: Tensor, labels: Tensor, items: Tensor | None = None
    ) -> None:
        """Keep the rows of ``forward`` for the steps to come; nothing where memory is 0."""
        if self.memory is not None:
            self.memory.add(_unit(embeddings), Marks.of_batch(labels, items))

    def threshold(self) -> float | None:
        """The cosine distance that the base loss itself learned to decide at, if it does."""
        return self.base.threshold()


def training_loss(config: LossConfig, *, classes: int, dimension: int) -> TrainingLoss:
    """The loss of ``config`` for ``classes`` training classes and (n, ``dimension``) rows.

    Weights, where it has any, are drawn from torch's global generator. Raises ``RecipeError``
    where TCM's margins are still to be found.
    """
    return TrainingLoss(config, classes=classes, dimension=dimension)


def _unit(embeddings: Tensor) -> Tensor:
    return functional.normalize(embeddings.to(torch.float32), dim=1)


def _tcm(similarity: Tensor, marks: Marks, references: Marks, config: TcmConfig) -> Tensor:
    return tcm_of_marks(
        similarity,
        marks,
        references,
        positive_margin=config.positive_margin,
        negative_margin=config.negative_margin,
        positive_weight=config.positive_weight,
        negative_weight=config.negative_weight,
        floor=config.floor,
    )
