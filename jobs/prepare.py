"""Items in: read, check, split and decode a table once for every later job of the run."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from jobs.workspace import ROOT, Workspace
from pipeline.config import Recipe
from pipeline.data.images import decode_all
from pipeline.data.items import Items, load_items
from pipeline.data.readers import read_items
from pipeline.data.split import assign_splits


def prepare(recipe: Recipe, console: Console, *, skip_bad_rows: bool = False) -> Workspace:
    """The workspace of ``recipe``, its items read, checked, split and decoded.

    Reads the table every time, since the workspace is named by what is in it; decodes only
    what is not there yet. Raises ``ItemsError`` with one line for the first bad row, or sets bad
    rows aside in ``rejected.parquet`` under ``skip_bad_rows``.
    """
    source = Path(recipe.data.items)
    setting_aside = ROOT / f"{recipe.name}.rejected.parquet" if skip_bad_rows else None
    if setting_aside is not None:
        ROOT.mkdir(parents=True, exist_ok=True)
        setting_aside.unlink(missing_ok=True)
    items = assign_splits(read_items(source, rejected=setting_aside), recipe.data)
    workspace = Workspace(ROOT / f"{recipe.name}-{_key(recipe, items)}")
    _describe(settle(items, workspace, recipe, console, rejected=setting_aside), console)
    if setting_aside is not None and setting_aside.exists():
        setting_aside.replace(workspace.rejected_path)
        console.print(f"Bad rows were set aside in {workspace.rejected_path}.")
    return workspace


def settle(
    items: Items, workspace: Workspace, recipe: Recipe, console: Console, *, rejected: Path | None
) -> Items:
    """Decode ``items`` into the workspace unless they are there; the rows that are kept."""
    if workspace.items_path.exists():
        return load_items(workspace.items_path)
    workspace.folder.mkdir(parents=True, exist_ok=True)
    if items.kind == "image":
        console.print(f"Decoding {len(items):,} images to {recipe.model.image_size} px.")
        items, pixels = decode_all(
            items, recipe.model.image_size, source=recipe.data.items, rejected=rejected
        )
        save_array(workspace.pixels_path, pixels)
    items.write(workspace.items_path)
    return items


def inputs_of(workspace: Workspace, items: Items) -> NDArray[np.generic]:
    """What the network takes, aligned with ``items`` of the workspace: pixels or vectors."""
    if items.kind == "image":
        pixels: NDArray[np.generic] = np.load(workspace.pixels_path, mmap_mode="r")
        return pixels
    return np.asarray(items.content, np.float32)


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write ``array`` to ``path`` whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(path)


def _key(recipe: Recipe, items: Items) -> str:
    # The path of the table is no part of a run; what stands in it is.
    what = {"recipe": recipe.resolved(), "items": items.digest()}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


def _describe(items: Items, console: Console) -> None:
    counts = Counter(items.split.tolist())
    customers = {customer for customer in items.customer.tolist() if customer is not None}
    console.print(
        f"{len(items):,} items of {len(customers)} customers: {counts['train']:,} to train on, "
        f"{counts['calibrate']:,} to calibrate on, {counts['report']:,} to report on"
        + "".join(
            f", {counts[name]:,} {what}"
            for name, what in (("held_out", "held out"), ("unlabelled", "without a label"))
            if counts[name]
        )
        + "."
    )
