"""``margins = "auto"``: the trials, and the recipe with the margins that they found.

No verb: every verb that takes a recipe sees it settled. A trial is an ordinary training of the
recipe with its margins given, measured on the classes that ``train.validate_share`` holds out. So
the chosen one is the recipe's model, trained already, and an interrupted search goes on in the
trial that it stopped in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from jobs.metrics import Metrics
from jobs.workspace import Workspace
from pipeline.canonical import canonical_json, parse_object
from pipeline.config import Recipe
from pipeline.distance import Vectors
from pipeline.durable import write_durably
from pipeline.models.registry import load_model
from pipeline.training.features import through
from pipeline.training.inputs import Inputs
from pipeline.training.loop import Progress, TrainingError
from pipeline.training.margins import (
    candidates,
    first,
    pair_targets,
    require_held_out,
    require_share,
)
from pipeline.training.trials import (
    Choice,
    Margins,
    Setting,
    Trial,
    choose,
    described,
    require_measured,
    table,
)
from pipeline.training.validation import (
    similarity_at_far,
    similarity_at_frr,
    validate,
    validation_rows,
)

Show = Callable[[Progress], None]


def settled(recipe: Recipe, workspace: Workspace, console: Console) -> Recipe:
    """``recipe`` with its margins given; with ``margins = "auto"``, found and kept first.

    What was tried, what was chosen and why is in ``margins.json`` of the workspace, and goes into
    the release. Raises ``RecipeError`` or ``ItemsError`` where nothing can be found.
    """
    if recipe.loss.tcm is None or recipe.loss.tcm.margins == "given":
        return recipe
    path = margins_path(workspace)
    if not path.exists():
        _search(recipe, workspace, console)
    found: dict[str, Any] = parse_object(path.read_bytes())
    return Setting.of_numbers(found["chosen"]).applied(recipe)


def failed(setting: Setting, error: Exception) -> Trial:
    """The trial of a training that ended with ``error``, of which the first clause is kept.

    What follows is a remedy, and where checkpoints lie: no release says that.
    """
    return Trial(setting, None, str(error).partition(";")[0].strip())


def margins_path(workspace: Workspace) -> Path:
    """Where a search of margins says what it found; nothing is there without one."""
    return workspace.folder / "margins.json"


def require_searchable(recipe: Recipe, workspace: Workspace, what: str) -> None:
    """Refuse a search of margins that could measure nothing; ``what`` asked for it.

    Raises ``RecipeError`` or ``ItemsError``.
    """
    require_share(recipe, what)
    labels, held_out = _training_set(recipe, workspace)[1:3]
    require_held_out(recipe, labels, held_out)


def tried(recipe: Recipe, setting: Setting, workspace: Workspace, show: Show) -> Trial:
    """Train ``setting`` of ``recipe`` and measure it, unless that is done already.

    The model stays, under the setting's name, until the caller moves or removes it. A training
    that cannot go on is a failed trial; what the recipe or the items do not allow is raised.
    """
    kept = workspace.folder / f"{setting.name}.trial.json"
    if kept.exists():
        return Trial.of_numbers(parse_object(kept.read_bytes()))
    changed = setting.applied(recipe)
    try:
        _train(changed, workspace, setting.name, show)
    except TrainingError as error:
        return failed(setting, error)
    vectors, labels, ids = _held_out(changed, workspace, workspace.model(setting.name))
    trial = Trial(setting, validate(vectors, labels, ids, step=recipe.train.steps))
    write_durably(kept, canonical_json(trial.as_numbers()))
    return trial


def _search(recipe: Recipe, workspace: Workspace, console: Console) -> None:
    require_searchable(recipe, workspace, "loss.tcm.margins = 'auto'")
    rate = recipe.train.learning_rate

    def trial_of(margins: Margins | None, what: str) -> Trial:
        with console.status(what) as status:
            trial = tried(recipe, Setting(margins, rate), workspace, lambda now: status.update(
                f"{what}: step {now.step} of {now.steps}, loss {now.loss:.3f}"
            ))  # fmt: skip
        console.print(f"{what}: {described(trial)}.")
        return trial

    base = trial_of(None, "Looking for margins, the base loss alone")
    require_measured(base)
    far, frr = pair_targets(recipe)
    vectors, labels, _ = _held_out(recipe, workspace, workspace.model(base.setting.name))
    similarities = similarity_at_far(vectors, labels, far), similarity_at_frr(vectors, labels, frr)
    tries = candidates(first(*similarities))
    trials = [
        trial_of(margins, f"Margins {margins.positive:g} and {margins.negative:g} "
                          f"({number} of {len(tries)})")
        for number, margins in enumerate(tries, 1)
    ]  # fmt: skip
    choice = choose(base, trials)
    for line in (*table(base, trials, choice.trial), choice.reason):
        console.print(line)
    found = {
        "far": {"target": far, "similarity": similarities[0]},
        "frr": {"target": frr, "similarity": similarities[1]},
        **document(base, trials, choice),
    }
    write_durably(margins_path(workspace), canonical_json(found))
    _keep_one(workspace, choice, trials)


def document(base: Trial | None, trials: Sequence[Trial], choice: Choice | None) -> dict[str, Any]:
    """JSON-ready data of a search, whole or interrupted."""
    return {
        "base": None if base is None else base.as_numbers(),
        "trials": [trial.as_numbers() for trial in trials],
        "chosen": None if choice is None else choice.trial.as_numbers()["setting"],
        "reason": None if choice is None else choice.reason,
    }


def _keep_one(workspace: Workspace, choice: Choice, trials: Sequence[Trial]) -> None:
    """The chosen trial's model is the recipe's; those of the others have done their part."""
    if choice.trial.setting.margins is not None:
        workspace.model(choice.trial.setting.name).replace(workspace.model("tcm"))
    for trial in trials:
        workspace.model(trial.setting.name).unlink(missing_ok=True)


def _train(recipe: Recipe, workspace: Workspace, tag: str, show: Show) -> None:
    if workspace.model(tag).exists():
        return
    # Late: jobs.train imports this module, and Ray takes seconds to import.
    if recipe.train.workers:
        from jobs.workers import train_on_workers as train
    else:
        from jobs.train import train_share as train
    with Metrics(workspace.folder / "metrics" / tag) as metrics:

        def note(progress: Progress) -> None:
            show(progress)
            metrics.add(progress)

        train(recipe, workspace, tag, note)


def _held_out(
    recipe: Recipe, workspace: Workspace, model: Path
) -> tuple[Vectors, NDArray[np.str_], list[str]]:
    """(v, d) vectors of the held-out items under ``model``, their labels and ids."""
    inputs, labels, held_out, ids = _training_set(recipe, workspace)
    rows = np.flatnonzero(held_out)
    device, network = torch.device(recipe.train.device), load_model(model)[0]
    network.to(device)
    vectors = through(network, inputs, rows, device)
    return vectors, labels[rows], [ids[row] for row in rows]


def _training_set(
    recipe: Recipe, workspace: Workspace
) -> tuple[Inputs, NDArray[np.str_], NDArray[np.bool_], list[str]]:
    """Inputs, labels, whether held out, and ids (n,) of the items to train on."""
    from jobs.train import training_set

    inputs, labels, ids = training_set(workspace)
    held_out = validation_rows(labels, recipe.train.validate_share, recipe.data.split_seed)
    return inputs, labels, held_out, ids
