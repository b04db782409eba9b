"""``limen train``: train the embedding model of a recipe; run again, it resumes.

One machine: ``limen train jobs/recipes/emoji.toml``
Cluster:     ``ray job submit -- python -m jobs.train jobs/recipes/emoji.toml`` with
             ``[train] workers = 4`` and ``device = "cuda"``, the workspace on a shared disk
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from jobs.checkpoints import Checkpoint, checkpoint_of
from jobs.command import script
from jobs.features import cached_features
from jobs.metrics import Metrics
from jobs.prepare import inputs_of
from jobs.stage import RecipeArgument, SkipOption, staged
from jobs.training_bar import training_bar
from jobs.workspace import Workspace, tags
from pipeline.config import Recipe
from pipeline.data.items import load_items
from pipeline.models.registry import build_model, load_model, save_model
from pipeline.training.collective import ALONE, Collective
from pipeline.training.features import keepable
from pipeline.training.inputs import Inputs, Rows, kind_of
from pipeline.training.loop import Progress, TrainingError, fingerprint, fit
from pipeline.training.state import DivergedError


def train(recipe: Recipe, workspace: Workspace, *, tcm: bool, console: Console) -> Path:
    """The trained model's file; ``tcm`` False leaves the threshold-consistent term out.

    A model that is there is not trained again, and an interrupted training goes on from its last
    checkpoint. With ``train.workers`` above 0 it runs under Ray Train, otherwise in this process.
    """
    tag = "tcm" if tcm else "base"
    recipe = _as_trained(recipe, tcm)
    path = workspace.model(tag)
    inputs, labels, _ = training_set(workspace)
    if path.exists() and load_model(path)[1] == fingerprint(recipe, inputs, labels):
        console.print(f"The {tag} model is trained already.")
        return path
    sizes = np.unique(labels, return_counts=True)[1]
    single = int((sizes == 1).sum())
    console.print(
        f"Training the {tag} model ({_loss_in_words(recipe)}) on {len(inputs):,} items of "
        f"{len(sizes):,} classes, {_place_in_words(recipe)}."
        + (f" {single:,} classes with a single item are in no batch." if single else "")
    )
    folder = workspace.folder / "metrics" / tag
    with training_bar(console, recipe.train.steps) as bar, Metrics(folder) as metrics:

        def show(progress: Progress) -> None:
            bar(progress)
            metrics.add(progress)

        if recipe.train.workers == 0:
            train_share(recipe, workspace, tag, show)
        else:
            # Ray takes seconds to import, and a machine without workers need not have it running.
            from jobs.workers import train_on_workers

            train_on_workers(recipe, workspace, tag, show)
    if not math.isnan(metrics.waited_share):
        console.print(f"Waited for data {metrics.waited_share:.1%} of the time; see {folder}.")
    return path


def train_share(
    recipe: Recipe, workspace: Workspace, tag: str, show: Callable[[Progress], None],
    collective: Collective = ALONE,
) -> None:  # fmt: skip
    """One worker's part of the training of ``tag``; the first of them writes the files."""
    inputs, labels, item_ids = training_set(workspace)
    mark = fingerprint(recipe, inputs, labels)
    checkpoint, first = checkpoint_of(workspace, tag), collective.rank == 0
    kind = kind_of(inputs)
    model = build_model(
        recipe.model,
        kind=kind,
        input_dimension=inputs.shape[1] if kind == "vector" else None,
        seed=recipe.seed,
    )
    features = keepable(recipe, model)
    if features:
        root, device = workspace.folder.parent / "features", torch.device(recipe.train.device)
        inputs = cached_features(model, inputs, root, device, collective)
    try:
        fit(
            inputs,
            labels,
            recipe=recipe,
            model=model,
            item_ids=item_ids,
            features=features,
            mark=mark,
            resume=checkpoint.read(mark),
            on_checkpoint=checkpoint.write if first else _say_nothing,
            progress=show if first else _say_nothing,
            collective=collective,
        )
    except DivergedError as error:
        raise TrainingError(f"{error}; {_last_good(checkpoint, mark)}") from None
    if first:
        save_model(model, workspace.model(tag), fingerprint=mark)
        checkpoint.remove()


def training_set(workspace: Workspace) -> tuple[Inputs, NDArray[np.str_], list[str]]:
    """Inputs (n, ...), class names (n,) and item ids (n,) of the items to train on.

    Pixels stay on disk until a batch asks for them.
    """
    items = load_items(workspace.items_path)
    rows = np.flatnonzero(items.split == "train")
    inputs = Rows(inputs_of(workspace, items), rows)
    return inputs, items.label[rows].astype(np.str_), items.item_id[rows].tolist()


def _as_trained(recipe: Recipe, tcm: bool) -> Recipe:
    if tcm or recipe.loss.tcm is None:
        return recipe
    return dataclasses.replace(recipe, loss=dataclasses.replace(recipe.loss, tcm=None))


def _last_good(checkpoint: Checkpoint, mark: str) -> str:
    state = checkpoint.read(mark)
    if state is None:
        return "there is no checkpoint yet"
    return f"the last good checkpoint, of step {state.step}, is {checkpoint.where}"


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


def _say_nothing(_: object) -> None:
    """Only the first worker writes and reports."""


def main(recipe: RecipeArgument, skip_bad_rows: SkipOption = False) -> None:
    """Train the embedding model of a recipe, and the base model where the report compares."""
    with staged(recipe, skip_bad_rows) as (resolved, workspace, console):
        for tag in tags(resolved):
            path = train(resolved, workspace, tcm=tag == "tcm", console=console)
            console.print(f"Model: {path}")


if __name__ == "__main__":
    script(main)
