"""``limen index``: embed the served items with the exported model, lay out gallery and index.

One machine: ``limen index jobs/recipes/emoji.toml``
Cluster:     ``ray job submit -- python -m jobs.index jobs/recipes/emoji.toml``
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from jobs.command import script
from jobs.embedding import embed
from jobs.prepare import inputs_of
from jobs.stage import RecipeArgument, SkipOption, staged
from jobs.workspace import Workspace, WorkspaceError, main_tag
from pipeline.config import Recipe
from pipeline.data.items import load_items
from pipeline.evaluation.embedding import Population, population
from pipeline.search.gallery import Gallery
from pipeline.search.index import build_index

SERVED = ("calibrate", "report", "unlabelled")
"""Splits that a release holds; what it was trained on stays out, or it would look too good."""


def index(recipe: Recipe, workspace: Workspace, console: Console) -> Path:
    """Lay out the candidate: model, gallery and index. Returns its folder.

    Raises ``WorkspaceError`` where there is no exported model yet.
    """
    if workspace.candidate.exists():
        return workspace.candidate
    tag = main_tag(recipe)
    gallery = people(recipe, workspace, tag, console).gallery
    items = load_items(workspace.items_path)
    trained = sorted({label_hash(label) for label in items.label[items.split == "train"]})
    lay_out(
        gallery, workspace.onnx(tag), recipe, np.asarray(trained, np.uint64), workspace.candidate
    )
    console.print(f"Indexed {len(gallery):,} items in {len(gallery.segments())} segments.")
    return workspace.candidate


def people(recipe: Recipe, workspace: Workspace, tag: str, console: Console) -> Population:
    """Gallery and queries of the run under the exported model ``tag``."""
    model = workspace.onnx(tag)
    if not model.exists():
        raise WorkspaceError(f"{model}: no exported model; run `limen export` first")
    items = load_items(workspace.items_path)
    rows = np.flatnonzero(np.isin(items.split.astype(np.str_), SERVED))
    inputs = inputs_of(workspace, items)
    vectors = embed(model, inputs, rows, workspace.embeddings(tag), console)
    return population(vectors, items.take(rows), recipe.report.across)


def lay_out(
    gallery: Gallery, model: Path, recipe: Recipe, trained: NDArray[np.uint64], folder: Path
) -> None:
    """Put model, gallery, index and recipe into ``folder``, which appears whole or not at all."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(model, partial / "model.onnx")
    gallery.write(partial)
    build_index(gallery, recipe.index, partial, threads=os.cpu_count() or 1)
    np.save(partial / "trained.npy", trained)
    (partial / "recipe.json").write_text(json.dumps(recipe.resolved(), indent=2, sort_keys=True))
    partial.rename(folder)


def label_hash(label: str) -> int:
    """64 bits that stand for a label: enough to know later what a model was trained on."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest(), "big")


def main(recipe: RecipeArgument, skip_bad_rows: SkipOption = False) -> None:
    """Embed the served items and build their gallery and index."""
    with staged(recipe, skip_bad_rows) as (resolved, workspace, console):
        console.print(f"Candidate: {index(resolved, workspace, console)}")


if __name__ == "__main__":
    script(main)
