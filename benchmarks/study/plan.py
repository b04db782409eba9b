"""Which runs the study consists of, and the settings of each.

Base and TCM of a comparison have the same batches, initial weights and steps. Steps are such that
a run takes at most 75 s on two quiet cores (``BUDGETS``). Margins are the paper's, 0.9 and 0.5,
for every loss: chosen before anything was measured. Of EfficientNet-Lite0 the last group of
blocks, the convolution behind it and the head are trained, on features that are kept, so without
augmentation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config import DataConfig, Recipe
from pipeline.losses.config import LossConfig, TcmConfig
from pipeline.models.config import ModelConfig
from pipeline.training.config import TrainConfig

VERSION = 1
"""Raised when what a run measures changes, so that all are repeated."""

SEEDS = (0, 1, 2)
# Not Proxy-Anchor: in this budget a proxy is met by about 25 batches, and R@1 on emoji ends at .48
# where Multi-Similarity has .91. A base loss that has not learned says nothing of TCM.
LOSSES = ("multi_similarity", "supervised_contrastive", "smooth_ap", "recall_at_k")
MARGINS = (0.9, 0.5)
"""Of positives and of negatives, cosine similarities: the paper's."""

Margins = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is trained with and without TCM."""

    data: str
    backbone: str
    loss: str

    @property
    def name(self) -> str:
        """As it is called in files and on the command line."""
        return f"{self.data}/{self.backbone}/{self.loss}"


MAIN = tuple(
    Comparison(data, backbone, loss)
    for data in ("emoji", "icons") for backbone in ("cnn", "efficientnet_lite0") for loss in LOSSES
)  # fmt: skip
"""The sixteen."""
ASIDE = (
    Comparison("emoji-tones", "cnn", "multi_similarity"),
    Comparison("digits", "mlp", "multi_similarity"),
)
"""Measured in the same way, not among the sixteen."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Network and length of the runs with one backbone."""

    model: ModelConfig
    train: TrainConfig


BUDGETS = {
    "cnn": Budget(
        ModelConfig(backbone="cnn", dimension=128, image_size=48, width=32),
        TrainConfig(steps=500, learning_rate=2e-3, augmentation=0.5),
    ),
    "efficientnet_lite0": Budget(
        ModelConfig(
            backbone="efficientnet_lite0", weights="pretrained", dimension=128, image_size=64,
            trained_stages=1, frozen_norm=True,
        ),
        TrainConfig(steps=500, learning_rate=1e-3, augmentation=0.0),
    ),
    "mlp": Budget(
        ModelConfig(backbone="mlp", dimension=32, width=128),
        TrainConfig(steps=500, classes_per_batch=5, items_per_class=20, learning_rate=1e-3),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """One training and its measurement."""

    comparison: Comparison
    margins: Margins | None
    """None: the base loss alone."""
    seed: int
    steps: int
    """Optimiser steps; fewer than the budget only to try things out."""

    @property
    def recipe(self) -> Recipe:
        """All settings."""
        budget = BUDGETS[self.comparison.backbone]
        tcm = None
        if self.margins is not None:
            tcm = TcmConfig(positive_margin=self.margins[0], negative_margin=self.margins[1])
        return Recipe(
            name="study", seed=self.seed, data=DataConfig(items=self.comparison.data),
            model=budget.model, loss=LossConfig(base=self.comparison.loss, tcm=tcm),
            train=replace(
                budget.train, steps=self.steps,
                warmup_steps=min(budget.train.warmup_steps, self.steps),
                checkpoint_every=self.steps,
            ),
        )  # fmt: skip

    @property
    def base(self) -> Run:
        """The run that it is compared with: the same without TCM."""
        return replace(self, margins=None)

    @property
    def name(self) -> str:
        """As it is called on the terminal."""
        loss = "base" if self.margins is None else "TCM {:g}/{:g}".format(*self.margins)
        return f"{self.comparison.name}, {loss}, seed {self.seed}"

    def settings(self, items: str) -> dict[str, Any]:
        """Everything that decides the result, on items of the digest ``items``.

        Of the recipe what is not a default: a key that a later version adds with a default that
        changes nothing leaves finished runs valid.
        """
        recipe = self.recipe
        plain = Recipe(name=recipe.name, data=DataConfig(items=recipe.data.items))
        return {
            "data": self.comparison.data, "backbone": self.comparison.backbone,
            "loss": self.comparison.loss, "margins": list(self.margins) if self.margins else None,
            "seed": self.seed, "steps": self.steps, "version": VERSION, "items": items,
            "recipe": _differing(recipe.resolved(), plain.resolved()),
        }  # fmt: skip

    def key(self, items: str) -> str:
        """The first digits of the settings' sha256."""
        text = json.dumps(self.settings(items), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_of(record: Mapping[str, Any]) -> Run:
    """The run that a line of the record is of, under the settings of today."""
    comparison = Comparison(record["data"], record["backbone"], record["loss"])
    margins = record["margins"] and (record["margins"][0], record["margins"][1])
    return Run(comparison, margins, record["seed"], record["steps"])


def _differing(ours: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``ours`` that are not those of ``plain``, at any depth."""
    found = {}
    for key, value in ours.items():
        other = plain.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if inner := _differing(value, other):
                found[key] = inner
        elif value != other:
            found[key] = value
    return found


def runs(
    only: str = "", margins: Margins = MARGINS, seeds: tuple[int, ...] = SEEDS, steps: int = 0
) -> Iterator[Run]:
    """Runs whose comparison's name has ``only`` in it, a base before its TCM, seed by seed.

    ``steps``: instead of the budget's, where above 0.
    """
    for seed in seeds:
        for comparison in (*MAIN, *ASIDE):
            if only in comparison.name:
                length = steps or BUDGETS[comparison.backbone].train.steps
                yield Run(comparison, None, seed, length)
                yield Run(comparison, margins, seed, length)
