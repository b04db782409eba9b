"""A small world to train on: classes of noisy coloured images, or of noisy vectors."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch

from pipeline.config import DataConfig, Recipe
from pipeline.encoding.export import export_onnx
from pipeline.losses.config import LossConfig, TcmConfig
from pipeline.models.config import ModelConfig
from pipeline.models.registry import build_model
from pipeline.training.config import TrainConfig

CLASSES, ITEMS, SIZE = 12, 6, 16


def images(seed=0):
    """(n, S, S, 3) uint8 and (n,) labels: a class is a blurred pattern, an item adds noise."""
    rng = np.random.default_rng(seed)
    patterns = rng.uniform(40, 215, (CLASSES, 4, 4, 3)).repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)
    labels = np.arange(CLASSES).repeat(ITEMS)
    noisy = patterns[labels] + rng.normal(0, 25, (labels.size, SIZE, SIZE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8), labels


def vectors(seed=0, dimension=10):
    """(n, d) float32 and (n,) labels, far from the origin and in small units."""
    rng = np.random.default_rng(seed)
    labels = np.arange(CLASSES).repeat(ITEMS)
    centres = rng.normal(size=(CLASSES, dimension))
    noisy = centres[labels] + 0.6 * rng.normal(size=(labels.size, dimension))
    return (1e-3 * (noisy + 50)).astype(np.float32), labels


def recipe(
    *, backbone="cnn", base="multi_similarity", tcm=False, memory=0, seed=0, model=(), **train
):
    """A recipe of a few quick steps."""
    options = {"steps": 12, "classes_per_batch": 6, "items_per_class": 4, "warmup_steps": 2,
               "checkpoint_every": 5, **train}
    return Recipe(
        name="tiny",
        seed=seed,
        data=DataConfig(items="items.parquet"),
        model=ModelConfig(
            **{"backbone": backbone, "dimension": 8, "image_size": SIZE, "width": 4, **dict(model)}
        ),
        loss=LossConfig(base=base, memory=memory, tcm=TcmConfig() if tcm else None),
        train=TrainConfig(**options),
    )


_FOLDER = tempfile.TemporaryDirectory()


@functools.cache
def exported(kind):
    """An untrained model and the file it was exported to; once a session, it takes seconds."""
    chosen = recipe(backbone="cnn" if kind == "image" else "mlp").model
    model = build_model(chosen, kind=kind, input_dimension=10, seed=3).eval()
    if kind == "vector":
        model.learn_scale(torch.from_numpy(vectors()[0]))
    path = Path(_FOLDER.name) / kind / "model.onnx"
    path.parent.mkdir()
    export_onnx(model, path)
    return model, path
