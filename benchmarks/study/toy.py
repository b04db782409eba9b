"""The toy of the original work: ArcFace on handwritten digits, embedded on a circle.

    .venv/bin/python -m benchmarks.study.toy        # 2 minutes; writes two pictures

With two coordinates of unit length an embedding is an angle, so that all of it can be drawn. The
classes are those trained on, the images are not: half of them are kept back. Ten classes on a
circle lie 36 degrees apart, at a similarity of .81, so the paper's margins, .9 and .5, cannot be
met: here they are .99 (8 degrees) and .9 (26 degrees). Zhang et al., ICLR 2024, arXiv:2307.04047,
do this on MNIST; here are the 1,797 digits that scikit-learn brings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from benchmarks.study.page import TOY
from pipeline.config import DataConfig, Recipe
from pipeline.consistency.opis import Opis, opis
from pipeline.distance import Vectors
from pipeline.losses.config import LossConfig, TcmConfig
from pipeline.models.config import ModelConfig
from pipeline.models.registry import EmbeddingModel, build_model
from pipeline.reports.numerals import thousandths_interval
from pipeline.reports.plots_style import STYLE, to_svg
from pipeline.statistics.intervals import student
from pipeline.training.config import TrainConfig
from pipeline.training.loop import fit

OUT = Path("docs/study")
# Ten colours that colour-blind readers can tell apart (Paul Tol, "muted", and grey); the digit
# stands beside its peak as well.
COLOURS = ("#332288", "#CC6677", "#117733", "#66B5E0", "#882255", "#D1A21F", "#44AA99", "#AA4499",
           "#7A7A1F", "#707070")  # fmt: skip
SEEDS = (0, 1, 2, 3, 4)
MARGINS = TcmConfig(positive_margin=0.99, negative_margin=0.9)
_BINS, _HEIGHT = 360, 1.15
_WIDTH = math.radians(2.0)  # standard deviation of the kernel


@dataclass(frozen=True, slots=True)
class Found:
    """What became of the digits that were kept back."""

    angle: NDArray[np.float64]
    """(n,) radians."""
    digit: NDArray[np.int64]
    """(n,)"""
    right: float
    """Share whose nearest other image is of its digit."""
    opis: Opis


def main() -> None:
    """Train both over the seeds, write the pictures of the first and what is read off them all."""
    OUT.mkdir(parents=True, exist_ok=True)
    sides = [[trained(tcm, seed) for seed in SEEDS] for tcm in (None, MARGINS)]
    for found, title, name in zip(sides, ("ArcFace", "ArcFace with TCM"), TOY, strict=True):
        (OUT / name).write_bytes(to_svg(picture(found, title)))
        print(f"{OUT / name}: {summary(found)}")
    gaps = np.asarray([t.opis.corrected.value - b.opis.corrected.value
                       for b, t in zip(*sides, strict=True)])  # fmt: skip
    change = student(float(gaps.mean()), float(gaps.var(ddof=1)) / gaps.size, gaps.size - 1)
    print(f"OPIS with TCM minus without, paired over the seeds: {thousandths_interval(change)} e-3")


def trained(tcm: TcmConfig | None, seed: int, steps: int = 1000) -> Found:
    """Train on half of the images, embed the other half; ``seed`` moves halves and weights."""
    bunch = load_digits()
    pixels, digit = np.asarray(bunch.data, np.float32), np.asarray(bunch.target, np.int64)
    seen = np.random.default_rng(seed).permutation(len(digit)) < len(digit) // 2
    recipe = Recipe(
        name="toy", seed=seed, data=DataConfig(items="digits"),
        model=ModelConfig(backbone="mlp", dimension=2, width=256),
        loss=LossConfig(base="arcface", options={"scale": 16.0}, tcm=tcm),
        train=TrainConfig(steps=steps, classes_per_batch=10, items_per_class=20,
                          learning_rate=1e-3, warmup_steps=min(20, steps),
                          checkpoint_every=steps),
    )  # fmt: skip
    model = build_model(recipe.model, kind="vector", input_dimension=pixels.shape[1], seed=seed)
    model = fit(
        pixels[seen], digit[seen], recipe=recipe, model=model,
        on_checkpoint=lambda _: None, progress=lambda _: None,
    )  # fmt: skip
    vectors, kept = _embedded(model, pixels[~seen]), digit[~seen]
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -np.inf)
    right = float((kept[alike.argmax(axis=1)] == kept).mean())
    angle = np.arctan2(vectors[:, 1], vectors[:, 0]).astype(np.float64)
    return Found(angle, kept, right, opis(vectors, kept))


def summary(found: Sequence[Found]) -> str:
    """Means over the seeds."""
    recall = 100 * np.mean([one.right for one in found])
    value = 1e3 * np.mean([one.opis.corrected.value for one in found])
    return f"over {len(found)} seeds R@1 {recall:.1f} %, OPIS over the digits {value:.2f}e-3"


def density(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """(361,) density of the angles at whole degrees, first and last alike, per radian."""
    grid = np.linspace(0.0, 2.0 * math.pi, _BINS + 1)
    gap = (grid[:, None] - angle[None, :] + math.pi) % (2.0 * math.pi) - math.pi
    kernel = np.exp(-0.5 * (gap / _WIDTH) ** 2) / (_WIDTH * math.sqrt(2.0 * math.pi))
    return np.asarray(kernel.mean(axis=1))


def picture(seeds: Sequence[Found], title: str) -> Figure:
    """Density of each digit outside a circle, by angle; the images are marks inside it.

    Of the first of ``seeds``; the line below is about all of them.
    """
    found = seeds[0]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 6.6))
        axis = figure.subplots()
        axis.set_aspect("equal")
        axis.axis("off")
        for digit in range(10):
            _draw(axis, found.angle[found.digit == digit], digit)
        circle = np.linspace(0.0, 2.0 * math.pi, 361)
        axis.plot(np.cos(circle), np.sin(circle), color="#333333", linewidth=0.8)
        axis.set_title(title, loc="center")
        figure.text(
            0.5, 0.03, f"{found.digit.size} images that training did not see; outside the "
            f"circle: density of each digit, root scale\n{summary(seeds)}",
            ha="center", fontsize=9, color="#444444",
        )  # fmt: skip
        axis.set_xlim(-2.3, 2.3)
        axis.set_ylim(-2.3, 2.3)
        figure.subplots_adjust(left=0.01, right=0.99, top=0.94, bottom=0.09)
        return figure


def _draw(axis: Axes, angle: NDArray[np.float64], digit: int) -> None:
    grid = np.linspace(0.0, 2.0 * math.pi, _BINS + 1)
    # A kernel's own peak is the highest that there can be.
    height = np.sqrt(density(angle) * _WIDTH * math.sqrt(2.0 * math.pi))
    outer = 1.0 + _HEIGHT * height
    x, y = np.cos(grid), np.sin(grid)
    edge = np.concatenate([np.stack([outer * x, outer * y], 1),
                           np.stack([x, y], 1)[::-1]])  # fmt: skip
    axis.fill(edge[:, 0], edge[:, 1], color=COLOURS[digit], alpha=0.45, linewidth=0)
    axis.plot(outer * x, outer * y, color=COLOURS[digit], linewidth=1.2)
    inside = 0.80 + 0.016 * digit
    axis.plot(inside * np.cos(angle), inside * np.sin(angle), ".", color=COLOURS[digit],
              markersize=2.5, alpha=0.5)
    peak = int(outer.argmax())
    axis.text(
        (outer[peak] + 0.12) * x[peak], (outer[peak] + 0.12) * y[peak], str(digit),
        color=COLOURS[digit], ha="center", va="center", fontsize=15, fontweight="bold",
    )  # fmt: skip


def _embedded(model: EmbeddingModel, pixels: NDArray[np.float32]) -> Vectors:
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(pixels)).numpy(), np.float32)


if __name__ == "__main__":
    main()
