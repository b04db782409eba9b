"""``limen tune``: look for margins and a learning rate by trial; run again, it goes on.

One machine: ``limen tune jobs/recipes/emoji.toml --trials 16 --out tuned.toml``
Cluster:     ``ray job submit -- python -m jobs.tune jobs/recipes/emoji.toml``, the workspace on a
             shared disk
"""

from __future__ import annotations

import math
import os
import textwrap
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from jobs.command import script, terminal
from jobs.margins import document, require_searchable
from jobs.prepare import prepare
from jobs.stage import RecipeArgument, SkipOption
from jobs.tuning import Range, Space, search
from jobs.workspace import alone
from pipeline.canonical import canonical_json
from pipeline.config import Recipe, load_recipe
from pipeline.durable import write_durably
from pipeline.recipe_text import recipe_text
from pipeline.strict import RecipeError
from pipeline.training.trials import Choice, Trial, choose, described, table

_DEFAULT = Space()


@dataclass(slots=True)
class Found:
    """What a search has so far."""

    base: Trial | None = None
    """The base loss alone, which sets the floor of R@1."""
    trials: list[Trial] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        """Take in a trial that ended."""
        if trial.setting.margins is None:
            self.base = trial
        else:
            self.trials.append(trial)
            self.trials.sort(key=lambda entry: entry.opis)

    def choice(self) -> Choice | None:
        """None as long as there is no floor of R@1."""
        if self.base is None or self.base.opis == math.inf:
            return None
        return choose(self.base, self.trials)


def tune(
    path: Path, out: Path, space: Space, trials: int, console: Console, *,
    skip_bad_rows: bool = False,
) -> Choice:  # fmt: skip
    """Search around the recipe at ``path``: the best as the recipe ``out``, all as JSON beside it.

    An interrupted search leaves the JSON of what is done, and goes on when called again. Raises
    ``RecipeError`` and ``ItemsError`` before anything is trained.
    """
    recipe = load_recipe(path)
    _require_place(path, out)
    found = Found()

    def add(trial: Trial) -> None:
        found.add(trial)
        console.print(f"{trial.setting}: {described(trial)}.")

    with alone(recipe.name, console):
        workspace = prepare(recipe, console, skip_bad_rows=skip_bad_rows)
        require_searchable(recipe, workspace, "limen tune")
        console.print(f"Training the base loss alone, the recipe as it stands, {trials} drawn.")
        try:
            search(recipe, workspace, space, trials, add)
        finally:
            written = document(found.base, found.trials, found.choice())
            write_durably(out.with_suffix(".json"), canonical_json(written))
    assert found.base is not None  # a search ends with all of its trials
    choice = choose(found.base, found.trials)
    for line in (*table(found.base, found.trials, choice.trial), choice.reason):
        console.print(line)
    write_durably(out, _tuned(path, recipe, choice, out).encode())
    return choice


def _require_place(path: Path, out: Path) -> None:
    """``RecipeError`` where the result could not be written."""
    if out.suffix != ".toml" or out.resolve() == path.resolve() or not out.parent.is_dir():
        raise RecipeError(
            f"--out: {out}: expected a .toml file, not the recipe itself, in a folder that exists"
        )


def _tuned(path: Path, recipe: Recipe, choice: Choice, out: Path) -> str:
    """The recipe at ``path`` with the chosen margins and rate, as it reads from ``out``."""
    written: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    chosen = choice.trial.setting
    written.setdefault("train", {})["learning_rate"] = chosen.learning_rate
    loss = written.setdefault("loss", {})
    tcm = loss.pop("tcm", {})
    if chosen.margins is not None:
        tcm.pop("margins", None)
        tcm |= {"positive_margin": chosen.margins.positive,
                "negative_margin": chosen.margins.negative}
        loss["tcm"] = tcm
    if out.resolve().parent != path.resolve().parent:
        _move(written, recipe, out.resolve().parent)
    said = textwrap.wrap(f"Written by limen tune from {path.name}. {choice.reason}", 96)
    return "".join(f"# {line}\n" for line in said) + recipe_text(written)


def _move(written: dict[str, Any], recipe: Recipe, folder: Path) -> None:
    """Make the paths of ``written`` relative to ``folder``."""
    backbone, weights = recipe.model.folder, recipe.model.weights_file
    written["data"]["items"] = os.path.relpath(recipe.data.items, folder)
    if backbone is not None:
        written["model"]["backbone"] = f"transformers:./{os.path.relpath(backbone, folder)}"
    if weights is not None:
        written["model"]["weights"] = os.path.relpath(weights, folder)


def main(
    recipe: RecipeArgument,
    trials: Annotated[int, typer.Option(min=1, help="Settings to draw and train.")] = 16,
    out: Annotated[
        Path | None, typer.Option(help="The best recipe, TOML [default: RECIPE.tuned.toml].")
    ] = None,
    negative_margin: Annotated[
        Range, typer.Option(help="Lowest and highest negative margin.")
    ] = _DEFAULT.negative_margin,
    gap: Annotated[
        Range, typer.Option(help="Least and largest distance up to the positive margin.")
    ] = _DEFAULT.gap,
    rate: Annotated[
        Range, typer.Option(help="Learning rates, in multiples of the recipe's.")
    ] = _DEFAULT.rate,
    skip_bad_rows: SkipOption = False,
) -> None:
    """Look for margins and a learning rate by trial; the best becomes a recipe."""
    console = terminal()
    place = out or recipe.with_name(f"{recipe.stem}.tuned.toml")
    space = Space(negative_margin=negative_margin, gap=gap, rate=rate)
    tune(recipe, place, space, trials, console, skip_bad_rows=skip_bad_rows)
    console.print(f"Recipe: {place}; all trials: {place.with_suffix('.json')}")


if __name__ == "__main__":
    script(main)
