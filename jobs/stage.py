"""What the verbs of a single stage share: a recipe, its workspace, and nobody else in there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.command import terminal
from jobs.margins import settled
from jobs.prepare import prepare
from jobs.workspace import Workspace, alone
from pipeline.config import Recipe, load_recipe

RecipeArgument = Annotated[Path, typer.Argument(help="The recipe, TOML.")]
SkipOption = Annotated[bool, typer.Option(help="Set bad rows aside.")]


@contextmanager
def staged(path: Path, skip_bad_rows: bool) -> Iterator[tuple[Recipe, Workspace, Console]]:
    """The recipe at ``path``, its prepared workspace and where to speak, for one job at a time.

    The recipe's margins are given: where it leaves them to be found, they are by then.
    """
    console, recipe = terminal(), load_recipe(path)
    with alone(recipe.name, console):
        workspace = prepare(recipe, console, skip_bad_rows=skip_bad_rows)
        yield settled(recipe, workspace, console), workspace, console
