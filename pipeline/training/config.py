"""``[train]`` of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from pipeline.strict import require


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """``[train]``: the optimisation."""

    steps: int = 400
    """Optimiser steps."""
    classes_per_batch: int = 48
    """Classes in a batch."""
    items_per_class: int = 4
    """Items of each of them."""
    optimizer: str = "adamw"
    """``adamw``, or ``sgd`` with Nesterov momentum .9."""
    learning_rate: float = 2e-3
    """Peak rate of the optimiser, after linear warm-up."""
    weight_decay: float = 1e-4
    """Weight decay, decoupled from the gradient in ``adamw`` and a part of it in ``sgd``; biases,
    scales and proxies have none."""
    layer_decay: float = 1.0
    """Factor of the rate from each layer of the backbone to the one before it; 1: all alike."""
    warmup_steps: int = 20
    """Steps of linear warm-up."""
    schedule: str = "cosine"
    """``cosine`` towards 0, ``step`` (times ``step_factor`` at each of ``milestones``), or
    ``constant``."""
    milestones: tuple[int, ...] = ()
    """Steps at which ``step`` lowers the rate, rising."""
    step_factor: float = 0.3
    """What ``step`` multiplies the rate by."""
    precision: str = "float32"
    """Of the network: ``float32``, ``bfloat16`` or ``float16``; losses are float32 always."""
    clip: float = 0.0
    """Largest norm of the whole gradient, over all workers, proxies included; larger ones are
    scaled down to it. 0: as it is."""
    chunk: int = 0
    """Items that pass the network at a time: the batch's gradient is then taken in two passes,
    in the memory of a chunk, for one more forward pass. 0: the whole batch at once."""
    average: float = 0.0
    """Decay of the weights' exponential moving average, which is measured and becomes the model;
    it rises to this value over the first steps. 0: none."""
    augmentation: float = 1.0
    """Strength of the images' augmentation: 0 none, 1 the usual; vectors have none."""
    random_crop: bool = False
    """Train on random parts of the images, of model.crop pixels, instead of the central one."""
    mirror: bool = False
    """Mirror every second image: not where mirrored things are other things."""
    validate_share: float = 0.0
    """Share of the training classes that is not trained on but measured, at least two."""
    validate_every: int = 0
    """Steps between measurements; 0: none."""
    patience: int = 0
    """Measurements after the one of lowest corrected OPIS at which training stops; whatever ends
    it, that one becomes the model. 0: never stops, and the last step's is the model."""
    recall_floor: float = 0.0
    """R@1 below which a measurement is never the best one, and training never stops."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    workers: int = 0
    """0 trains in this process; more go through Ray Train."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.steps >= 1, "steps", "at least 1")
        require(self.classes_per_batch >= 2, "classes_per_batch", "at least 2")
        require(self.items_per_class >= 2, "items_per_class", "at least 2, or no positive pair")
        require(0 < self.learning_rate < math.inf, "learning_rate", "above 0, finite")
        require(0 <= self.weight_decay < math.inf, "weight_decay", "0 or more, finite")
        require(0 <= self.augmentation <= 4, "augmentation", "between 0 and 4")
        require(0 <= self.warmup_steps <= self.steps, "warmup_steps", "between 0 and steps")
        require(self.checkpoint_every >= 1, "checkpoint_every", "at least 1")
        require(self.workers >= 0, "workers", "0 or more")
        require(self.device in ("cpu", "cuda"), "device", "'cpu' or 'cuda'")
        require(self.optimizer in ("adamw", "sgd"), "optimizer", "'adamw' or 'sgd'")
        require(self.schedule in ("cosine", "step", "constant"), "schedule",
                "'cosine', 'step' or 'constant'")
        require(0 < self.layer_decay <= 1, "layer_decay", "in (0, 1]")
        rising = all(a < b for a, b in pairwise((0, *self.milestones)))
        require(rising, "milestones", "rising steps above 0")
        require(bool(self.milestones) == (self.schedule == "step"), "milestones",
                "set together with schedule = 'step'")
        require(0 < self.step_factor < 1, "step_factor", "between 0 and 1")
        require(self.precision in ("float32", "bfloat16", "float16"), "precision",
                "'float32', 'bfloat16' or 'float16'")
        require(0 <= self.clip < math.inf, "clip", "0 or more, finite")
        require(self.chunk >= 0, "chunk", "0 or more")
        require(0 <= self.average < 1, "average", "from 0 to below 1")
        require(0 <= self.validate_share < 1, "validate_share", "from 0 to below 1")
        require(self.validate_every >= 0, "validate_every", "0 or more")
        require(bool(self.validate_every) <= bool(self.validate_share), "validate_every",
                "set together with validate_share")
        require(self.patience >= 0, "patience", "0 or more")
        require(bool(self.patience) <= bool(self.validate_every), "patience",
                "set together with validate_every")
        require(0 <= self.recall_floor <= 1, "recall_floor", "between 0 and 1")
        require(bool(self.patience) <= bool(self.recall_floor), "recall_floor",
                "above 0 where patience is set: a network that has not learned has a low OPIS")
