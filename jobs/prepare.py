"""Items in: a table read, checked, split, decoded or tokenised once for all later jobs of the run.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from jobs.workspace import ROOT, Workspace
from pipeline.calibration.choice import CalibrationError
from pipeline.config import Recipe
from pipeline.data.images import decode_all
from pipeline.data.items import Items, ItemsError, load_items
from pipeline.data.readers import join_rejected, read_items
from pipeline.data.split import assign_splits
from pipeline.data.texts import tokenise_all
from pipeline.data.tokeniser import Tokeniser, TokeniserError
from pipeline.durable import partial_of, sync
from pipeline.evaluation.embedding import require_measurable
from pipeline.models.text_tokeniser import tokeniser_of


def prepare(recipe: Recipe, console: Console, *, skip_bad_rows: bool = False) -> Workspace:
    """The workspace of ``recipe``, its items read, checked, split and decoded.

    Reads the table every time, since the workspace is named by what is in it; decodes only
    what is not there yet. Raises ``ItemsError`` with one line for the first bad row, or sets bad
    rows aside in ``rejected.parquet`` under ``skip_bad_rows``; ``RecipeError`` for a backbone
    that cannot be built; ``CalibrationError`` for items that no threshold could be calibrated on.
    """
    aside = bad_rows_of(recipe.name)
    source = read_items(Path(recipe.data.items), rejected=aside if skip_bad_rows else None)
    items = assign_splits(source, recipe.data)
    tokeniser = _tokeniser(recipe) if items.kind == "text" else None
    workspace = Workspace(ROOT / f"{recipe.name}-{_key(recipe, items)}")
    if not workspace.items_path.exists():
        _require_trainable(recipe, items.kind)
    items = settle(
        items, workspace, recipe, console, tokeniser=tokeniser, skip_bad_rows=skip_bad_rows
    )
    _describe(items, console)
    keep_rejected(workspace, aside, console)
    try:
        require_measurable(items, recipe.report.across, recipe.calibration)
    except CalibrationError as error:
        raise CalibrationError(f"{recipe.data.items}: {error}") from None
    return workspace


def bad_rows_of(name: str) -> Path:
    """An empty place for the bad rows of a table, before its workspace is known."""
    ROOT.mkdir(parents=True, exist_ok=True)
    path = ROOT / f"{name}.rejected.parquet"
    path.unlink(missing_ok=True)
    return path


def settle(
    items: Items, workspace: Workspace, recipe: Recipe, console: Console, *,
    tokeniser: Tokeniser | None, skip_bad_rows: bool,
) -> Items:  # fmt: skip
    """Decode ``items`` into the workspace unless they are there; the rows that are kept.

    ``tokeniser``: of the model that is to embed texts; None for other items. Raises
    ``ItemsError`` for an image that cannot be decoded or a text that cannot be read, now or in
    an earlier job that was allowed to skip it, unless ``skip_bad_rows``.
    """
    if not workspace.items_path.exists():
        workspace.folder.mkdir(parents=True, exist_ok=True)
        workspace.undecodable_path.unlink(missing_ok=True)
        rejected = workspace.undecodable_path if skip_bad_rows else None
        if items.kind == "image":
            items = _decode(items, workspace, recipe, console, rejected)
        elif tokeniser is not None:
            items, ids = tokenise_all(
                items, tokeniser, source=recipe.data.items, rejected=rejected
            )
            save_array(workspace.tokens_path, ids)
        items.write(workspace.items_path)
        return items
    kept = load_items(workspace.items_path)
    if len(kept) < len(items) and not skip_bad_rows:
        raise ItemsError(
            f"{recipe.data.items}: {len(items) - len(kept)} {items.kind}s cannot be read, see "
            f"{workspace.undecodable_path}; mend them, or leave them out: --skip-bad-rows"
        )
    return kept


def _decode(
    items: Items, workspace: Workspace, recipe: Recipe, console: Console, rejected: Path | None
) -> Items:
    size = recipe.model.image_size
    console.print(f"Decoding {len(items):,} images to {size} px.")
    return decode_all(
        items, size, fit=recipe.model.fit, source=recipe.data.items, rejected=rejected,
        into=workspace.pixels_path,
    )[0]  # fmt: skip


def _tokeniser(recipe: Recipe) -> Tokeniser:
    try:
        return tokeniser_of(recipe.model)
    except TokeniserError as error:
        raise ItemsError(f"{recipe.data.items}: the items hold text: {error}") from error


def _require_trainable(recipe: Recipe, kind: str) -> None:
    """``RecipeError`` for what would show only after minutes of decoding."""
    # torch takes seconds to import, and most stages do without.
    from pipeline.models.registry import require_backbone

    require_backbone(recipe.model, kind)


def keep_rejected(workspace: Workspace, aside: Path, console: Console) -> None:
    """All rows set aside, by the reader in ``aside`` and by the decoder, in one file."""
    found = [path for path in (aside, workspace.undecodable_path) if path.exists()]
    if not found:
        return
    join_rejected(found, workspace.rejected_path)
    aside.unlink(missing_ok=True)
    console.print(f"Bad rows were set aside in {workspace.rejected_path}.")


def inputs_of(workspace: Workspace, items: Items) -> NDArray[np.generic]:
    """What the network takes, aligned with ``items`` of the workspace."""
    if items.kind == "vector":
        return np.asarray(items.content, np.float32)
    path = workspace.pixels_path if items.kind == "image" else workspace.tokens_path
    kept: NDArray[np.generic] = np.load(path, mmap_mode="r")
    return kept


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write ``array`` to ``path`` whole or not at all."""
    partial = partial_of(path)
    with partial.open("wb") as file:
        np.save(file, array)
    sync(partial)
    partial.replace(path)


def _key(recipe: Recipe, items: Items) -> str:
    # The paths of table, weights, tokenizer and own code are no part of a run; their content is.
    what = {"recipe": recipe.resolved(), "items": items.digest()}
    model = recipe.model
    if (model.folder, model.weights_file, model.module) != (None, None, None):
        from pipeline.models.weights import weights_digest  # imports torch

        what["weights"] = weights_digest(model)
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
