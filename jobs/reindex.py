"""``limen reindex ALIAS ITEMS``: a new gallery under the same encoder and the same threshold.

The threshold travels only if it still holds: its FAR is measured again through the new index,
on the labelled items whose class the model was not trained on, and may not lie beyond what the
release's own report could not exclude. Interrupted, the same command
goes on with the embeddings it has.

One machine: ``limen reindex production items.parquet``
Cluster:     ``ray job submit -- python -m jobs.reindex production items.parquet``
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from jobs.calibrate import write_measured
from jobs.command import script
from jobs.embedding import embed
from jobs.index import label_hash, lay_out
from jobs.prepare import inputs_of, settle
from jobs.sealing import seal_and_promote
from jobs.workspace import ROOT, STORE, Workspace
from pipeline.calibration import CalibrationError, Choice
from pipeline.config import Recipe, parse_recipe
from pipeline.data.items import Items
from pipeline.data.readers import read_items
from pipeline.evaluation import REPORT, Measurement, Population, measure_at, population
from pipeline.index import open_index
from pipeline.release import Release
from pipeline.store import Store


def reindex(
    alias: str, table: Path, store: str, console: Console, *, skip_bad_rows: bool = False
) -> Release:
    """Index ``table`` under the release that ``alias`` means, verify its threshold, promote.

    Raises ``CalibrationError`` where the threshold cannot be verified or does not hold.
    """
    old = Store(store).open(alias)
    console.print(f"Reindexing under release {old.id12}, threshold {old.threshold:.6f}.")
    recipe = parse_recipe(dict(old.manifest.facts.recipe), f"{old.folder}: recipe")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, items=str(table)))
    trained = np.load(old.folder / "trained.npy", allow_pickle=False)
    rejected = ROOT / f"{alias}.rejected.parquet" if skip_bad_rows else None
    ROOT.mkdir(parents=True, exist_ok=True)
    items = _counted(read_items(table, rejected=rejected), trained)
    key = hashlib.sha256(f"{old.id} {items.digest()}".encode()).hexdigest()[:8]
    workspace = Workspace(ROOT / f"reindex-{key}")
    items = settle(items, workspace, recipe, console, rejected=rejected)
    model = old.folder / "model.onnx"
    rows = np.arange(len(items))
    vectors = embed(
        model, inputs_of(workspace, items), rows, workspace.embeddings("served"), console
    )
    people = population(vectors, items, recipe.report.across)
    if not workspace.candidate.exists():
        lay_out(people.gallery, model, recipe, trained, workspace.candidate)
    with console.status("Measuring the threshold through the new index"):
        measured = _verified(old, recipe, people, workspace)
    write_measured(workspace, recipe, measured, None, items.digest())
    return seal_and_promote(workspace.candidate, recipe, store, alias, console)


def _counted(items: Items, trained: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> Items:
    """Every row is served; only labels that the model never saw may measure it."""
    split = [
        "unlabelled" if label is None else "train" if label_hash(label) in known else REPORT
        for known in [set(trained.tolist())]
        for label in items.label
    ]
    return dataclasses.replace(items, split=np.asarray(split, np.object_))


def _verified(
    old: Release, recipe: Recipe, people: Population, workspace: Workspace
) -> Measurement:
    """The old threshold measured through the new index; refused where it no longer holds."""
    low, high = (np.float32(end) for end in old.calibration_range)
    guarantee = (
        f"Carried over from release {old.id12} and measured again on this gallery: "
        f"{old.manifest.facts.guarantee}"
    )
    choice = Choice(old.threshold, low, high, bool(low == old.threshold), guarantee)
    reach = open_index(workspace.candidate, people.gallery).reach
    measured = measure_at(people, choice, recipe.calibration.spacing, reach)
    far = measured.points(REPORT)[0].far
    if np.isnan(far.value):
        raise CalibrationError(
            "the threshold cannot be verified: no customer has labelled negative pairs among the "
            "classes that the model was not trained on; label some items"
        )
    if far.lower > (limit := _far_limit(old)):
        raise CalibrationError(
            f"threshold {old.threshold:.6f} does not hold on these items: FAR {far.value:.2e} "
            f"(at least {far.lower:.2e}), expected at most {limit:.2e}; calibrate anew with "
            "`limen run`"
        )
    return measured


def _far_limit(old: Release) -> float:
    """What the old release's FAR may have been: what its report could not exclude."""
    calibration: dict[str, Any] = old.calibration
    return float(calibration["operating_points"][REPORT]["overall"]["far"]["upper"])


def main(
    alias: Annotated[str, typer.Argument(help="Alias, id or prefix of the release.")],
    items: Annotated[Path, typer.Argument(help="The new items table.")],
    store: Annotated[str, typer.Option(help="Folder or URL of the store.")] = STORE,
    skip_bad_rows: Annotated[bool, typer.Option(help="Set bad rows aside.")] = False,
) -> None:
    """Build, verify, seal and promote a new gallery under the same encoder."""
    console = Console(highlight=False)
    release = reindex(alias, items, store, console, skip_bad_rows=skip_bad_rows)
    console.print(f"Release {release.id12} is {alias} in {store}.")


if __name__ == "__main__":
    script(main)
