"""One worker's share of a batch, gathered on the CPU and brought to the device part by part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import Recipe
from pipeline.data.batches import ClassBatches
from pipeline.training.augmentation import Distortion, distort, draw_distortion
from pipeline.training.inputs import Inputs


def augmented(recipe: Recipe) -> bool:
    """Whether images change from step to step, so that nothing computed from them can be kept."""
    train = recipe.train
    return train.augmentation > 0 or train.random_crop or train.mirror


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step needs; a pure function of the recipe and the step."""

    rows: NDArray[np.int64]
    """(b,) rows of the whole batch, over all workers."""
    items: Tensor
    """(b / workers, ...) this worker's share, as it is stored."""
    distortion: Distortion | None
    """What happens to each image of the share; None: nothing."""

    def part(self, rows: slice, device: torch.device) -> Tensor:
        """Some items of the share as the network takes them, on ``device``."""
        items = self.items[rows].to(device, non_blocking=True)
        return items if self.distortion is None else distort(items, self.distortion.part(rows))


class Batches:
    """The batches of a training, made one at a time."""

    def __init__(
        self, inputs: Inputs, codes: NDArray[np.int64], *, recipe: Recipe,
        share: slice, images: bool, pinned: bool,
    ) -> None:  # fmt: skip
        """Of ``inputs`` with class numbers ``codes`` (n,), the ``share`` of every batch.

        Items of code -1 are in no batch. ``images``: whether to augment; ``pinned``: whether a
        GPU will fetch them. Raises ``ItemsError`` where no batch can be filled.
        """
        self._inputs, self._recipe, self._share = inputs, recipe, share
        self._augmented, self._pinned = images and augmented(recipe), pinned
        self._trained = np.flatnonzero(codes >= 0)
        self._batches = ClassBatches(
            codes[self._trained],
            classes_per_batch=recipe.train.classes_per_batch,
            items_per_class=recipe.train.items_per_class,
            seed=recipe.seed,
        )

    def make(self, step: int) -> Batch:
        """The batch of ``step``."""
        rows = self._trained[self._batches.rows(step)]
        items = torch.from_numpy(np.asarray(self._inputs[rows[self._share]]))
        drawn = None
        if self._augmented:
            train = self._recipe.train
            drawn = draw_distortion(
                rows.size, strength=train.augmentation, seed=self._recipe.seed, step=step,
                crop=self._recipe.model.crop, random_crop=train.random_crop, mirror=train.mirror,
            ).part(self._share)  # fmt: skip
        return Batch(rows, items.pin_memory() if self._pinned else items, drawn)
