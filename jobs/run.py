"""``limen run``: from a recipe to a promoted release, in one command that resumes.

One machine: ``limen run jobs/recipes/emoji.toml``
Cluster:     ``ray job submit -- python -m jobs.run jobs/recipes/emoji.toml``
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from jobs.calibrate import calibrate
from jobs.command import script, terminal
from jobs.export import export, require_parity
from jobs.index import index
from jobs.margins import settled
from jobs.prepare import prepare
from jobs.reporting import outcome
from jobs.sealing import seal_and_promote
from jobs.stage import RecipeArgument, SkipOption
from jobs.train import train
from jobs.workspace import ALIAS, STORE, alone, tags
from pipeline.canonical import parse_object
from pipeline.config import Recipe, load_recipe
from pipeline.releases.release import Release
from pipeline.releases.signing import configured_key
from pipeline.releases.store import Store


def run(
    recipe: Recipe, store: str, alias: str, console: Console, *, skip_bad_rows: bool = False
) -> Release:
    """Train, export, index, calibrate, seal and promote; finished stages are not repeated."""
    with alone(recipe.name, console):
        workspace = prepare(recipe, console, skip_bad_rows=skip_bad_rows)
        Store(store).require_writable(alias)
        configured_key()
        recipe = settled(recipe, workspace, console)
        for tag in tags(recipe):
            train(recipe, workspace, tcm=tag == "tcm", console=console)
            export(recipe, workspace, tag, console)
        candidate = index(recipe, workspace, console)
        calibration = calibrate(recipe, workspace, console)
        console.print(outcome(parse_object(calibration.read_bytes())))
        require_parity(recipe, workspace, calibration, console)
        return seal_and_promote(candidate, recipe, store, alias, console)


def main(
    recipe: RecipeArgument,
    store: Annotated[str, typer.Option(help="Folder or URL that releases go to.")] = STORE,
    alias: Annotated[str, typer.Option(help="Alias to promote the release to.")] = ALIAS,
    skip_bad_rows: SkipOption = False,
) -> None:
    """Train, export, index, calibrate, seal and promote a recipe."""
    console = terminal()
    release = run(load_recipe(recipe), store, alias, console, skip_bad_rows=skip_bad_rows)
    console.print(f"Release {release.id12} is {alias} in {store}; serve it with `limen serve`.")
    console.print(f"Its report: {release.folder / 'report.html'}")


if __name__ == "__main__":
    script(main)
