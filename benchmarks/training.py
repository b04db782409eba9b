"""How near a training comes to the forward and backward pass of its network alone.

    .venv/bin/python -m benchmarks.training                            # the demo's network, CPU
    .venv/bin/python -m benchmarks.training --backbone transformers:resnet-50 --size 224 \\
        --batch 256 --precision bfloat16 --device cuda

The ceiling is the same network, loss and batch again and again: no data is read, augmented or
moved, no optimiser runs. The training is the loop of ``limen train`` on images that lie on disk.
Both in one run; random images, since only the time is measured.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.config import DataConfig, Recipe
from pipeline.losses.config import LossConfig, TcmConfig
from pipeline.losses.total import training_loss
from pipeline.models.config import ModelConfig
from pipeline.models.registry import build_model
from pipeline.training.config import TrainConfig
from pipeline.training.loop import Progress, fit
from pipeline.training.precision import Precision

ITEMS_PER_CLASS = 4
IMAGES = 4096
WARM = 3
"""First steps, of which no time is taken."""


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The training that is measured."""
    own = options.backbone == "cnn"
    return Recipe(
        name="bench",
        data=DataConfig(items=""),
        model=ModelConfig(
            backbone=options.backbone, dimension=128 if own else 512, image_size=options.size,
            frozen_norm="resnet" in options.backbone,
        ),
        loss=LossConfig(base="multi_similarity", tcm=TcmConfig()),
        train=TrainConfig(
            steps=options.steps + WARM, warmup_steps=0, learning_rate=1e-5,
            classes_per_batch=options.batch // ITEMS_PER_CLASS, items_per_class=ITEMS_PER_CLASS,
            checkpoint_every=options.steps + WARM, augmentation=0.5,
            precision=options.precision, device=options.device,
        ),
    )  # fmt: skip


def pixels_on_disk(folder: Path, size: int) -> np.ndarray:
    """(n, size, size, 3) uint8, memory-mapped as the pixels of a workspace are."""
    path = folder / "pixels.npy"
    generator = np.random.default_rng(0)
    np.save(path, generator.integers(0, 256, (IMAGES, size, size, 3), np.uint8))
    mapped: np.ndarray = np.load(path, mmap_mode="r")
    return mapped


def ceiling(recipe: Recipe, images: int) -> float:
    """Images a second of the forward and the backward pass alone."""
    device = torch.device(recipe.train.device)
    model = build_model(recipe.model, kind="image", seed=0).to(device).train()
    precision = Precision(recipe.train.precision, device)
    loss = training_loss(
        recipe.loss, classes=IMAGES // ITEMS_PER_CLASS, dimension=recipe.model.dimension
    ).to(device)
    side = recipe.model.image_size
    batch = torch.rand(images, side, side, 3, device=device) * 255
    labels = torch.arange(images, device=device) // ITEMS_PER_CLASS

    def step() -> float:
        with precision.network():
            rows = model(batch)
        value = loss(rows, labels)
        model.zero_grad()
        value.backward()
        return float(value.item())  # waits for the device

    for _ in range(WARM):
        step()
    started, steps = time.perf_counter(), recipe.train.steps - WARM
    for _ in range(steps):
        step()
    return images * steps / (time.perf_counter() - started)


def training(recipe: Recipe, pixels: np.ndarray) -> tuple[float, float]:
    """Images a second of the loop, and the share of its time that it waits for data."""
    seen: list[Progress] = []
    fit(
        pixels,
        np.arange(IMAGES) // ITEMS_PER_CLASS,
        recipe=recipe,
        model=build_model(recipe.model, kind="image", seed=0),
        on_checkpoint=lambda _: None,
        progress=seen.append,
    )
    timed = seen[WARM:]
    seconds = sum(step.seconds for step in timed)
    return sum(step.images for step in timed) / seconds, sum(s.waited for s in timed) / seconds


def main() -> None:
    """Measure the ceiling, the training, and the ceiling once more."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbone", default="cnn")
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    recipe = recipe_of(options)
    with tempfile.TemporaryDirectory() as folder:
        pixels = pixels_on_disk(Path(folder), options.size)
        first = ceiling(recipe, options.batch)
        found, waited = training(recipe, pixels)
        best = max(first, ceiling(recipe, options.batch))
    print(
        f"{options.backbone}, {options.size} px, batch {options.batch}, {options.precision} on "
        f"{options.device}: {found:,.0f} images/s, {found / best:.2f} of the forward and backward "
        f"pass alone ({best:,.0f}); {waited:.2%} of the time spent waiting for data."
    )


if __name__ == "__main__":
    main()
