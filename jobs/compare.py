"""``limen compare RELEASE_A RELEASE_B ITEMS``: which decisions flip from one release to the next.

Each release embeds the items with its own encoder and decides with its own threshold, through an
index of its own kind built over the items: the decisions are those that it would serve on them.
Every item takes part; only labels that neither release was trained on say what is right.

One machine: ``limen compare production 3f9c1a items.parquet``
Cluster:     the same with ``--store s3://bucket/releases``
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jobs.command import script, terminal
from jobs.index import label_hash
from jobs.workspace import STORE
from pipeline.config import Recipe, parse_recipe
from pipeline.data.items import Items, Strings, missing
from pipeline.data.readers import read_items
from pipeline.distance import Vectors
from pipeline.encoding.encoder import Encoder
from pipeline.encoding.inputs import PART, embed_items, require_inputs
from pipeline.evaluation.changes import Change, Difference, Share
from pipeline.evaluation.comparison import Comparison, Contender, compare
from pipeline.evaluation.embedding import Population, population
from pipeline.evaluation.flips import Decider
from pipeline.releases.manifest import MANIFEST
from pipeline.releases.release import Release, open_release
from pipeline.releases.store import Store
from pipeline.search.index import build_index, open_index

Pair = tuple[Release, Release]


def compare_releases(releases: Pair, table: Path, console: Console) -> Comparison:
    """The second release against the first on the items in ``table``.

    Raises ``ItemsError`` where the items are not what both encoders take, and
    ``ComparisonError`` where they carry no curve.
    """
    items, source = read_items(table), str(table)
    recipes = [recipe_of(release) for release in releases]
    vectors = _embedded(releases, items, source, console)
    measured = _measured(releases, items)
    _say_what_is_measured(items, measured, console)
    with tempfile.TemporaryDirectory() as folder, console.status("Deciding every pair twice"):
        sides = [
            _contender(release, recipe, population(rows, items), Path(folder) / str(place))
            for place, (release, recipe, rows) in enumerate(
                zip(releases, recipes, vectors, strict=True)
            )
        ]
        return compare(sides[0], sides[1], measured, recipes[1].calibration.spacing)


def find_release(name: str, store: str) -> Release:
    """The verified release in the folder ``name``, or the one that the name means in ``store``."""
    folder = Path(name)
    return open_release(folder) if (folder / MANIFEST).exists() else Store(store).open(name)


def recipe_of(release: Release) -> Recipe:
    """The recipe that a release was made by."""
    return parse_recipe(dict(release.manifest.facts.recipe), f"release {release.id12}: recipe")


def _embedded(releases: Pair, items: Items, source: str, console: Console) -> list[Vectors]:
    """(n, d) embeddings of the items under each release."""
    encoders = []
    for release in releases:
        encoder = Encoder(release.folder / "model.onnx", threads=os.cpu_count() or 1)
        require_inputs(encoder, items, source, f"the encoder of release {release.id12}")
        encoders.append(encoder)
    parts = track(
        embed_items(encoders, items, source), f"Embedding {len(items):,} items twice",
        total=-(-len(items) // PART), console=console,
    )  # fmt: skip
    return [np.concatenate(side) for side in zip(*parts, strict=True)]


def _measured(releases: Pair, items: Items) -> Strings:
    """Labels of the items that neither release was trained on."""
    trained: set[int] = set()
    for release in releases:
        path = release.folder / "trained.npy"
        if path.exists():
            trained |= set(np.load(path, allow_pickle=False).tolist())
    labels = sorted(set(items.label[~missing(items.label)].tolist()))
    return np.asarray([label for label in labels if label_hash(label) not in trained], np.object_)


def _say_what_is_measured(items: Items, measured: Strings, console: Console) -> None:
    known = set(measured.tolist())
    judged = sum(label in known for label in items.label)
    unlabelled = int(missing(items.label).sum())
    console.print(
        f"{len(items):,} items, all decided about. What is right is known of {judged:,} with "
        f"{measured.size:,} labels; {unlabelled:,} have none, "
        f"{len(items) - judged - unlabelled:,} one that a release was trained on."
    )


def _contender(release: Release, recipe: Recipe, people: Population, folder: Path) -> Contender:
    """The release with an index over the items such as its recipe asks for, in ``folder``."""
    folder.mkdir()
    build_index(people.gallery, recipe.index, folder, threads=os.cpu_count() or 1)
    index = open_index(folder, people.gallery)
    decider = Decider(people, release.threshold, index.reach if index.inexact else None)
    return Contender(release.id12, decider, release.calibration_range)


SHOWN = 20
"""Customers in the table; ``--json`` has them all."""

_COLUMNS = ("matches\nbefore\nafter", "lost\ngained", "right\nwrong", "flips,\n% of\nmatches",
            "change of\nFAR,\npoints", "change of\nFRR,\npoints")  # fmt: skip


def show(found: Comparison, console: Console) -> None:
    """What was found, as a table of the customers with the most flips and a few lines."""
    before, after = found.names
    table = Table(title=f"{after} (after) against {before} (before)", box=box.SIMPLE_HEAD,
                  pad_edge=False)
    table.add_column("customer", overflow="fold", min_width=9)
    for header in _COLUMNS:
        table.add_column(header, justify="right", no_wrap=True)
    worst = sorted(found.customers, key=lambda one: -one.flips / max(1, sum(one.matches)))
    for one in (found.overall, *worst[:SHOWN]):
        table.add_row(*_cells(one))
    console.print(table)
    if len(worst) > SHOWN:
        console.print(f"{len(worst) - SHOWN} customers with fewer flips are left out: see --json.")
    whole = found.overall
    console.print(
        f"{whole.flips:,} of {whole.decisions:,} decisions flip: {_percent(whole.decision_share)}. "
        f"{whole.lost:,} from accept to reject: {_percent(whole.lost_share)} of the matches "
        f"before. {whole.gained:,} from reject to accept. Of the labelled flips {whole.right:,} "
        f"are right, {whole.wrong:,} wrong."
    )
    values = [_number(entry.corrected.value) for entry in found.opis]
    change = found.opis_change
    console.print(
        f"OPIS over the customers, corrected, {found.spacing} spacing, each release over its own "
        f"calibration range: {values[0]} before, {values[1]} after, change "
        f"{_number(change.value)} ({_number(change.lower)} to {_number(change.upper)})."
    )
    console.print(
        "Matches that flip: of the pairs that either release accepts. FAR and FRR: after minus "
        "before; over all customers, of their means. Ranges: 95 %, the identity as the unit."
    )


def _cells(one: Difference) -> tuple[str, ...]:
    return (
        one.name, f"{one.matches[0]:,}\n{one.matches[1]:,}", f"{one.lost:,}\n{one.gained:,}",
        f"{one.right:,}\n{one.wrong:,}",
        *(_percents(entry, "\n{} to {}") for entry in (one.flip_share, one.far, one.frr)),
    )  # fmt: skip


def _percent(share: Share) -> str:
    return _percents(share, " % ({} to {})")


def _percents(measured: Share | Change, around: str) -> str:
    """In percent, its interval as ``around`` says."""
    found = measured.interval()
    if math.isnan(found.value):
        return "unknown"
    low, high = _short(100 * found.lower), _short(100 * found.upper)
    return _number(100 * found.value) + around.format(low, high)


def _short(value: float) -> str:
    """Two digits, or all that stand before the point."""
    return f"{value:.0f}" if abs(value) >= 10 else "?" if math.isnan(value) else f"{value:.2g}"


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.3g}"


def main(
    release_a: Annotated[str, typer.Argument(help="The release now: folder, id or alias.")],
    release_b: Annotated[str, typer.Argument(help="The one to follow: folder, id or alias.")],
    items: Annotated[Path, typer.Argument(help="Items table; labels say what is right.")],
    store: Annotated[str, typer.Option(help="Folder or URL of the store.")] = STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Compare two releases in what they decide about the same items."""
    releases = find_release(release_a, store), find_release(release_b, store)
    if as_json:
        silent = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        typer.echo(json.dumps(compare_releases(releases, items, silent).document(), indent=1))
        return
    console = terminal()
    show(compare_releases(releases, items, console), console)


if __name__ == "__main__":
    script(main)
