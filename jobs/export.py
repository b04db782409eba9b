"""``limen export``: torch to ONNX, refused unless the decisions agree.

One machine: ``limen export jobs/recipes/emoji.toml``
Cluster:     ``ray job submit -- python -m jobs.export jobs/recipes/emoji.toml``
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from jobs.command import script
from jobs.prepare import inputs_of
from jobs.stage import RecipeArgument, SkipOption, staged
from jobs.workspace import Workspace, WorkspaceError, main_tag, tags
from pipeline.canonical import parse_object
from pipeline.config import Recipe
from pipeline.data.items import Items, load_items
from pipeline.distance import Vectors
from pipeline.durable import partial_of
from pipeline.encoding.batching import LARGEST, Batching, probe
from pipeline.encoding.encoder import Encoder
from pipeline.encoding.export import Parity, add_facts, check_parity, export_onnx
from pipeline.evaluation.embedding import CALIBRATE, chosen, population
from pipeline.models.registry import EmbeddingModel, load_model
from pipeline.training.features import through

_COMPARED = 1500  # items, so about a million pairs; batch 1 takes most of the time


def export(recipe: Recipe, workspace: Workspace, tag: str, console: Console) -> Path:
    """Export the model ``tag``; the file appears only once its decisions were found to agree.

    The provisional range of thresholds comes from the torch model on the calibrate classes.
    Raises ``ExportError`` or ``WorkspaceError``.
    """
    path = workspace.onnx(tag)
    if path.exists():
        return path
    model = _trained(workspace, tag)
    items = load_items(workspace.items_path)
    rows = np.flatnonzero(items.split == CALIBRATE)
    inputs = inputs_of(workspace, items)
    with console.status(f"Exporting the {tag} model to ONNX and comparing decisions"):
        vectors = through(model, inputs, rows, torch.device("cpu"))
        choice = choose_provisionally(recipe, items, rows, vectors)
        partial = partial_of(path)
        export_onnx(model, partial)
        parity = check_parity(
            model,
            Encoder(partial, threads=os.cpu_count() or 1),
            _compared(inputs, rows),
            low=choice[0],
            high=choice[1],
        )
        found = probe(Encoder(partial), _spread(inputs, rows, LARGEST))  # one thread, as in service
        add_facts(partial, found.facts())
        partial.replace(path)
    console.print(f"Exported the {tag} model: {_sentence(parity)}; {_batches(found)}.")
    return path


def require_parity(
    recipe: Recipe, workspace: Workspace, calibration: Path, console: Console
) -> None:
    """Compare the decisions once more, at the final threshold. Raises ``ExportError``."""
    tag = main_tag(recipe)
    items = load_items(workspace.items_path)
    inputs = _compared(inputs_of(workspace, items), np.flatnonzero(items.split == CALIBRATE))
    threshold = float(str(parse_object(calibration.read_bytes())["threshold"]))
    encoder = Encoder(workspace.candidate / "model.onnx", threads=os.cpu_count() or 1)
    with console.status("Comparing decisions at the final threshold"):
        parity = check_parity(
            _trained(workspace, tag), encoder, inputs, low=threshold, high=threshold
        )
    console.print(f"At the final threshold: {_sentence(parity)}.")


def choose_provisionally(
    recipe: Recipe, items: Items, rows: NDArray[np.int64], vectors: Vectors
) -> tuple[float, float]:
    """Lowest and highest threshold that the trained model may end up with."""
    choice = chosen(population(vectors, items.take(rows)), recipe.calibration)
    return float(choice.range_low), float(choice.range_high)


def _trained(workspace: Workspace, tag: str) -> EmbeddingModel:
    path = workspace.model(tag)
    if not path.exists():
        raise WorkspaceError(f"{path}: no trained model; run `limen train` first")
    return load_model(path)[0].eval()


def _compared(inputs: NDArray[np.generic], rows: NDArray[np.int64]) -> NDArray[np.generic]:
    return _spread(inputs, rows, min(rows.size, _COMPARED))


def _spread(
    inputs: NDArray[np.generic], rows: NDArray[np.int64], number: int
) -> NDArray[np.generic]:
    """``number`` inputs from all over ``rows``, some of them twice where there are fewer."""
    places = np.linspace(0, rows.size - 1, number).astype(np.int64)
    return np.asarray(inputs[rows[places]])


def _batches(found: Batching) -> str:
    if found.band == 0.0:
        return "rows have equal bits in every batch"
    if found.at_once > 1:
        return f"rows have equal bits in batches of {found.at_least} and more"
    return "rows have other bits in other batches: queries will be embedded one by one"


def _sentence(parity: Parity) -> str:
    return (
        f"{parity.pairs:,} pairs at batch 1 and 64, no decision differs outside "
        f"+-{parity.guard:g}; largest change of a distance {parity.max_distance_change:.1e}"
    )


def main(recipe: RecipeArgument, skip_bad_rows: SkipOption = False) -> None:
    """Export the recipe's models to ONNX; refused unless decisions agree."""
    with staged(recipe, skip_bad_rows) as (resolved, workspace, console):
        for tag in tags(resolved):
            console.print(f"Model: {export(resolved, workspace, tag, console)}")


if __name__ == "__main__":
    script(main)
