"""``limen train``: train the embedding model of a recipe; run again, it resumes.

One machine: ``limen train jobs/recipes/emoji.toml``
Cluster:     ``ray job submit -- python -m jobs.train jobs/recipes/emoji.toml`` with
             ``[train] workers = 4`` and ``device = "cuda"``, the workspace on a shared disk
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from jobs.command import script
from jobs.prepare import inputs_of
from jobs.stage import RecipeArgument, SkipOption, staged
from jobs.workspace import Workspace, tags
from pipeline.config import Recipe
from pipeline.data.items import load_items
from pipeline.durable import write_durably
from pipeline.models.registry import build_model, load_model, save_model
from pipeline.training.collective import ALONE, Collective
from pipeline.training.loop import Inputs, Progress, TrainState, fingerprint, fit


def train(recipe: Recipe, workspace: Workspace, *, tcm: bool, console: Console) -> Path:
    """The trained model's file; ``tcm`` False leaves the threshold-consistent term out.

    A model that is there is not trained again, and an interrupted training goes on from its last
    checkpoint. With ``train.workers`` above 0 it runs under Ray Train, otherwise in this process.
    """
    tag = "tcm" if tcm else "base"
    recipe = _as_trained(recipe, tcm)
    path = workspace.model(tag)
    inputs, labels = training_set(workspace)
    if path.exists() and load_model(path)[1] == fingerprint(recipe, inputs, labels):
        console.print(f"The {tag} model is trained already.")
        return path
    console.print(
        f"Training the {tag} model ({_loss_in_words(recipe)}) on {len(inputs):,} items of "
        f"{len(np.unique(labels)):,} classes, {_place_in_words(recipe)}."
    )
    with _bar(console, recipe.train.steps) as show:
        if recipe.train.workers == 0:
            train_share(recipe, workspace, tag, show)
        else:
            # Ray takes seconds to import, and a machine without workers need not have it running.
            from jobs.cluster import train_on_workers

            train_on_workers(recipe, workspace, tag, show)
    return path


def train_share(
    recipe: Recipe, workspace: Workspace, tag: str, show: Callable[[Progress], None],
    collective: Collective = ALONE,
) -> None:  # fmt: skip
    """One worker's part of the training of ``tag``; the first of them writes the files."""
    inputs, labels = training_set(workspace)
    mark = fingerprint(recipe, inputs, labels)
    checkpoint, first = workspace.checkpoint(tag), collective.rank == 0
    vectors = inputs.ndim == 2
    model = build_model(
        recipe.model,
        kind="vector" if vectors else "image",
        input_dimension=inputs.shape[1] if vectors else None,
        seed=recipe.seed,
    )
    fit(
        inputs,
        labels,
        recipe=recipe,
        model=model,
        resume=read_checkpoint(checkpoint, mark),
        on_checkpoint=lambda state: write_checkpoint(checkpoint, state) if first else None,
        progress=show if first else _say_nothing,
        collective=collective,
    )
    if first:
        save_model(model, workspace.model(tag), fingerprint=mark)
        checkpoint.unlink(missing_ok=True)


def training_set(workspace: Workspace) -> tuple[Inputs, NDArray[np.int64]]:
    """Inputs (n, ...) and class numbers (n,) of the items to train on."""
    items = load_items(workspace.items_path)
    rows = np.flatnonzero(items.split == "train")
    labels = np.unique(items.label[rows].astype(np.str_), return_inverse=True)[1]
    return np.asarray(inputs_of(workspace, items)[rows]), labels.astype(np.int64)


def write_checkpoint(path: Path, state: TrainState) -> None:
    """Put ``state`` at ``path``, whole or not at all."""
    buffer = io.BytesIO()
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    torch.save(fields, buffer)
    write_durably(path, buffer.getvalue())


def read_checkpoint(path: Path, mark: str) -> TrainState | None:
    """The state at ``path`` if it is of the run ``mark``; None starts from the beginning."""
    if not path.exists():
        return None
    state = TrainState(**torch.load(path, map_location="cpu", weights_only=True))
    return state if state.fingerprint == mark else None


def _as_trained(recipe: Recipe, tcm: bool) -> Recipe:
    if tcm or recipe.loss.tcm is None:
        return recipe
    return dataclasses.replace(recipe, loss=dataclasses.replace(recipe.loss, tcm=None))


def _loss_in_words(recipe: Recipe) -> str:
    name, margins = recipe.loss.base.replace("_", " "), recipe.loss.tcm
    if margins is None:
        return f"{name} loss alone"
    return (
        f"{name} loss with threshold-consistent margins "
        f"{margins.positive_margin:g} and {margins.negative_margin:g}"
    )


def _place_in_words(recipe: Recipe) -> str:
    workers = recipe.train.workers
    return f"by {workers} Ray workers" if workers else f"in this process on {recipe.train.device}"


def _say_nothing(_: Progress) -> None:
    """Only the first worker reports."""


@contextmanager
def _bar(console: Console, steps: int) -> Iterator[Callable[[Progress], None]]:
    """A progress bar with loss and speed; yields what advances it."""
    columns = (
        TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("steps", total=steps, facts="")
        started, seen = time.monotonic(), 0

        def show(progress: Progress) -> None:
            nonlocal seen
            seen += progress.images
            speed = seen / max(time.monotonic() - started, 1e-9)
            facts = f"loss {progress.loss:.3f}, {speed:,.0f} items/s"
            bar.update(task, completed=progress.step, facts=facts)

        yield show


def main(recipe: RecipeArgument, skip_bad_rows: SkipOption = False) -> None:
    """Train the embedding model of a recipe, and the base model where the report compares."""
    with staged(recipe, skip_bad_rows) as (resolved, workspace, console):
        for tag in tags(resolved):
            path = train(resolved, workspace, tcm=tag == "tcm", console=console)
            console.print(f"Model: {path}")


if __name__ == "__main__":
    script(main)
