"""One run: train on the seen classes, embed the unseen ones, measure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.study.measuring import Measured, difference, measurable, measured, plain
from benchmarks.study.plan import Run
from benchmarks.study.worlds import World, pixels_of
from jobs.prepare import save_array
from pipeline.distance import Vectors
from pipeline.models.registry import EmbeddingModel, build_model
from pipeline.training.features import features_digest, features_of, through
from pipeline.training.loop import Progress, TrainingError, fit


def recorded(run: Run, world: World, scratch: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The record of a run; with TCM also how it differs from its base, paired.

    Embeddings stay in ``scratch``; a base whose embedding is not there is trained again.
    Training that diverges is a result too: the record says why.
    """
    started = time.monotonic()
    record: dict[str, Any] = {
        "key": run.key(world.digest), **run.settings(world.digest), "cores": os.cpu_count(),
        "classes": {name: len(set(world.items.label[world.items.split == name]))
                    for name in ("train", "calibrate", "report")},
    }  # fmt: skip
    try:
        vectors, training = embedded(run, world, scratch, say)
        found = measured(world, vectors)
        record |= {"training": training, **found.numbers}
        if run.margins is not None:
            record["minus_base"] = difference(found, _base(run, world, scratch, say))
    except TrainingError as error:
        record["failed"] = str(error)
    return record | {"seconds": round(time.monotonic() - started, 1)}


def _base(run: Run, world: World, scratch: Path, say: Callable[[str], None]) -> Measured:
    return measured(world, embedded(run.base, world, scratch, say)[0])


def embedded(
    run: Run, world: World, scratch: Path, say: Callable[[str], None]
) -> tuple[Vectors, dict[str, Any]]:
    """Unit rows (k, d) of the measurable items, and how the training went (empty if it is old)."""
    path = scratch / f"{run.key(world.digest)}.npy"
    if path.exists():
        vectors: Vectors = np.load(path)
        return vectors, {}
    model = _fresh(run, world)
    inputs = pixels_of(world, run.recipe.model.image_size, scratch)
    features = model.has_frozen
    if features:
        inputs = _features(model, inputs, scratch, say)
    seen = np.flatnonzero(world.items.split == "train")
    labels = np.unique(world.items.label[seen].astype(np.str_), return_inverse=True)[1]
    losses: list[float] = []
    waited, started = 0.0, time.monotonic()

    def progress(now: Progress) -> None:
        nonlocal waited
        losses.append(now.loss)
        waited += now.waited
        if now.step % 50 == 0 or now.step == now.steps:
            say(f"  step {now.step} of {now.steps}, loss {now.loss:.3f}, "
                f"{time.monotonic() - started:.0f} s")

    model = fit(
        np.asarray(inputs[seen]), labels, recipe=run.recipe, model=model,
        item_ids=world.items.item_id[seen].tolist(), features=features,
        on_checkpoint=lambda _: None, progress=progress,
    )  # fmt: skip
    seconds = time.monotonic() - started
    network = model.trained if features else model
    rows = np.flatnonzero(measurable(world))
    vectors = through(network, inputs, rows, torch.device("cpu"))
    save_array(path, vectors)
    last = losses[-max(1, len(losses) // 10) :]
    return vectors, plain({"seconds": seconds, "waited": waited, "loss": float(np.mean(last))})


def _fresh(run: Run, world: World) -> EmbeddingModel:
    shape = np.shape(world.items.content)
    return build_model(
        run.recipe.model, kind=world.items.kind, seed=run.seed,
        input_dimension=shape[1] if world.items.kind == "vector" else None,
    )  # fmt: skip


def _features(
    model: EmbeddingModel, pixels: NDArray[np.generic], scratch: Path, say: Callable[[str], None]
) -> NDArray[np.generic]:
    """(n, ...) what the frozen part makes of all items; once for all runs that share it."""
    path = scratch / f"{features_digest(model, pixels)[:16]}.npy"
    if not path.exists():
        say(f"  features of {len(pixels):,} items")
        rows = np.arange(len(pixels))
        save_array(path, features_of(model.eval(), pixels, rows, torch.device("cpu")))
    stored: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return stored
