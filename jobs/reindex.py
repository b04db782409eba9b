"""``limen reindex ALIAS ITEMS``: a new gallery under the same encoder and the same threshold.

The threshold travels only if it still holds: its FAR is measured again through the new index,
on the labelled items whose class the model was not trained on, and may not lie beyond what the
report of the release that it was chosen for could not exclude. Interrupted, the same command
goes on with the embeddings it has.

With ``--changes`` the new gallery holds the items as customers changed them online, and the
release says up to which change it does.

One machine: ``limen reindex production items.parquet --changes sqlite:////var/limen/records.db``
Cluster:     ``ray job submit -- python -m jobs.reindex production items.parquet``
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from jobs.calibrate import write_measured
from jobs.command import script, terminal
from jobs.embedding import embed
from jobs.index import label_hash, lay_out
from jobs.online import Log, read_log, trim_log
from jobs.prepare import bad_rows_of, inputs_of, keep_rejected, settle
from jobs.sealing import seal_and_promote
from jobs.workspace import ROOT, STORE, Workspace, alone
from pipeline.calibration.choice import CalibrationError
from pipeline.config import Recipe, parse_recipe
from pipeline.data.items import Items
from pipeline.data.readers import read_items
from pipeline.distance import Vectors
from pipeline.encoding.encoder import Encoder
from pipeline.encoding.inputs import require_inputs
from pipeline.evaluation.embedding import REPORT, Measurement, Population, measure_at, population
from pipeline.evaluation.findings import recorded_choice
from pipeline.item_log.content import Embedder
from pipeline.item_log.fold import fold
from pipeline.item_log.folded import write_folded
from pipeline.releases.aliases import StoreError
from pipeline.releases.release import ID_LENGTH, Release
from pipeline.releases.signing import configured_key
from pipeline.releases.store import Store
from pipeline.search.index import open_index


def reindex(
    alias: str, table: Path, store: str, console: Console, *, skip_bad_rows: bool = False,
    changes: str | None = None,
) -> Release:
    """Index ``table`` under the release that ``alias`` means, verify its threshold, promote.

    ``changes``: URL of the records with the online changes to fold in; None: ``table`` alone.
    Raises ``CalibrationError`` where the threshold cannot be verified or does not hold.
    """
    shelf = Store(store)
    if alias not in (known := shelf.aliases()):
        raise StoreError(
            f"{store}: no alias {alias!r}; aliases: {', '.join(known) or 'none'}; a release gets "
            "one with `limen releases promote ID --alias NAME`"
        )
    shelf.require_writable(alias)
    configured_key()
    old = shelf.open(alias)
    console.print(f"Reindexing under release {old.id12}, threshold {old.threshold:.6f}.")
    recipe = parse_recipe(dict(old.manifest.facts.recipe), f"{old.folder}: recipe")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, items=str(table)))
    log = None if changes is None else read_log(changes)
    with alone(f"reindex-{alias}", console):
        workspace, people, digest = _lay_out(old, recipe, alias, console, skip_bad_rows, log)
        with console.status("Measuring the threshold through the new index"):
            measured = _verified(old, recipe, people, workspace)
        write_measured(workspace, recipe, measured, None, digest, _origin(old))
        release = seal_and_promote(workspace.candidate, recipe, store, alias, console)
    if changes is not None:
        removed = trim_log(changes, time.time())
        console.print(f"Overtaken changes removed from the log: {removed:,}.")
    return release


def _lay_out(
    old: Release, recipe: Recipe, alias: str, console: Console, skip_bad_rows: bool,
    log: Log | None,
) -> tuple[Workspace, Population, str]:
    """The candidate's workspace, with gallery and index; its population; the items' digest."""
    trained = np.load(old.folder / "trained.npy", allow_pickle=False)
    aside = bad_rows_of(alias)
    source = read_items(Path(recipe.data.items), rejected=aside if skip_bad_rows else None)
    items = _counted(source, trained)
    digest = items.digest() if log is None else log.digest(items.digest())
    key = hashlib.sha256(f"{old.id} {digest}".encode()).hexdigest()[:8]
    workspace = Workspace(ROOT / f"reindex-{key}")
    model = old.folder / "model.onnx"
    encoder = Encoder(model)
    require_inputs(
        encoder, items, recipe.data.items, "the release's encoder",
        "train a model for them with `limen run`",
    )  # fmt: skip
    items = settle(
        items, workspace, recipe, console,
        tokeniser=encoder.tokeniser if items.kind == "text" else None,
        skip_bad_rows=skip_bad_rows,
    )  # fmt: skip
    keep_rejected(workspace, aside, console)
    vectors = embed(
        model,
        inputs_of(workspace, items),
        np.arange(len(items)),
        workspace.embeddings("served"),
        console,
    )
    if log is not None:
        items, vectors = _folded(items, vectors, log, Embedder(
            lambda: encoder, lambda: old.manifest.measured_with.model, encoder.dimension
        ), console)
        items = _counted(items, trained)
    people = population(vectors, items, recipe.report.across)
    if not workspace.candidate.exists():
        lay_out(people.gallery, model, recipe, trained, workspace.candidate)
    if log is not None:
        write_folded(workspace.candidate, log.end)
    return workspace, people, digest


def _folded(
    items: Items, vectors: Vectors, log: Log, embedder: Embedder, console: Console
) -> tuple[Items, Vectors]:
    with console.status(f"Folding in {len(log.changes):,} items changed online"):
        folded = fold(items, vectors, log.changes, embedder)
    for line in folded.set_aside:
        console.print(f"Set aside: {line}")
    console.print(
        f"Up to change {log.end.number}: {len(folded.items) - folded.table:,} items put online, "
        f"{len(items) - folded.table:,} of the table replaced or deleted."
    )
    return folded.items, folded.vectors


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
    origin = _origin(old)
    guarantee = (
        f"Carried over from release {str(origin['release'])[:ID_LENGTH]} and measured again on "
        f"this gallery: {origin['guarantee']}"
    )
    choice, spacing = recorded_choice(old, guarantee)
    reach = open_index(workspace.candidate, people.gallery).reach
    measured = measure_at(people, choice, spacing, reach)
    far = measured.points(REPORT)[0].far
    if np.isnan(far.value):
        raise CalibrationError(
            "the threshold cannot be verified: no customer has labelled negative pairs among the "
            "classes that the model was not trained on; label some items"
        )
    if far.lower > (limit := float(str(origin["far_limit"]))):
        raise CalibrationError(
            f"threshold {old.threshold:.6f} does not hold on these items: FAR {far.value:.2e} "
            f"(at least {far.lower:.2e}), expected at most {limit:.2e}; calibrate anew with "
            "`limen run`"
        )
    return measured


def _origin(old: Release) -> dict[str, object]:
    """The release whose threshold this is, what it promised, and what its FAR may have been.

    It is the first of a chain of reindexed releases: were each held to what the one before could
    not exclude, the FAR could creep up without end.
    """
    calibration: dict[str, Any] = old.calibration
    if "carried_over" in calibration:
        return dict(calibration["carried_over"])
    far = calibration["operating_points"][REPORT]["overall"]["far"]
    return {
        "release": old.id,
        "guarantee": old.manifest.facts.guarantee,
        "far_limit": far["upper"],
    }


def main(
    alias: Annotated[str, typer.Argument(help="Alias of the release; it moves to the new one.")],
    items: Annotated[Path, typer.Argument(help="The new items table.")],
    store: Annotated[str, typer.Option(help="Folder or URL of the store.")] = STORE,
    skip_bad_rows: Annotated[bool, typer.Option(help="Set bad rows aside.")] = False,
    changes: Annotated[
        str | None, typer.Option(help="URL of the records, to fold in the online changes.")
    ] = None,
) -> None:
    """Build, verify, seal and promote a new gallery under the same encoder."""
    console = terminal()
    release = reindex(
        alias, items, store, console, skip_bad_rows=skip_bad_rows, changes=changes
    )
    console.print(f"Release {release.id12} is {alias} in {store}.")


if __name__ == "__main__":
    script(main)
