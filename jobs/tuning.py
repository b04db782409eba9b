"""Trials of margins and learning rates under Ray Tune; decides nothing.

Random search, since nothing about a trial is known before its end: an untrained network is as
consistent as can be, so its OPIS cannot say which trials to stop early. Trials read and write the
workspace, which on a cluster lies on a disk that all nodes share.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.cluster import connected
from jobs.margins import failed, tried
from jobs.workspace import Workspace
from pipeline.config import Recipe
from pipeline.losses.config import TcmConfig
from pipeline.strict import require
from pipeline.training.precision import device_of
from pipeline.training.trials import Margins, Setting, Trial

if TYPE_CHECKING:
    from ray.tune import Callback
    from ray.tune.experiment import Trial as RayTrial

Range = tuple[float, float]

_BASE, _RECIPE = "base", "recipe"


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Where settings are drawn from; equal ends fix a value."""

    negative_margin: Range = (0.3, 0.8)
    """A cosine similarity, uniform."""
    gap: Range = (0.1, 0.5)
    """From the negative margin to the positive one, which ends at 1; uniform."""
    rate: Range = (0.3, 3.0)
    """Times the recipe's learning rate; uniform in its logarithm."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        low, high = self.negative_margin
        require(-1 <= low <= high <= 0.95, "--negative-margin", "LOW HIGH in [-1, 0.95]")
        require(0.05 <= self.gap[0] <= self.gap[1] <= 2, "--gap", "LOW HIGH in [0.05, 2]")
        require(0.001 <= self.rate[0] <= self.rate[1] <= 1000, "--rate", "LOW HIGH in [.001, 1000]")

    def around(self, rate: float) -> dict[str, Any]:
        """The space as Ray Tune has it, around the learning ``rate``."""
        from ray import tune

        ends = {
            "negative_margin": (tune.uniform, self.negative_margin),
            "gap": (tune.uniform, self.gap),
            "learning_rate": (tune.loguniform, (rate * self.rate[0], rate * self.rate[1])),
        }
        return {
            "point": "",
            **{name: draw(*span) if span[0] < span[1] else span[0]
               for name, (draw, span) in ends.items()},
        }  # fmt: skip


def search(
    recipe: Recipe, workspace: Workspace, space: Space, trials: int, add: Callable[[Trial], None]
) -> None:
    """Train the base loss alone, the recipe as it stands, and ``trials`` settings of ``space``.

    ``add`` gets each trial as it ends, failed ones included; one that was done before is not
    trained again. A trial has a core, and a GPU where the recipe wants one. An interrupt ends the
    search as a ``KeyboardInterrupt``.
    """
    # Ray's own handler would let an interrupted search pass for a whole one.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output has no silence
    workspace = dataclasses.replace(workspace, folder=workspace.folder.absolute())
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, workers=0))
    needs: dict[str, float] = {"cpu": 1, "gpu": _gpus(recipe)}
    account, points = workspace.folder / "ray", _points(recipe)
    with connected(0):
        from ray import tune
        from ray.tune.search.basic_variant import BasicVariantGenerator

        trial = tune.with_parameters(_trial, recipe=recipe, workspace=workspace)
        try:
            tune.Tuner(
                tune.with_resources(trial, needs),
                param_space=space.around(recipe.train.learning_rate),
                tune_config=tune.TuneConfig(
                    num_samples=trials + len(points),
                    search_alg=BasicVariantGenerator(points, random_state=recipe.seed),
                    reuse_actors=True,  # a worker has torch imported already
                ),
                run_config=tune.RunConfig(
                    name="tune", storage_path=str(account), verbose=0,
                    callbacks=[_teller(recipe, add)],
                ),
            ).fit()
        finally:
            # Ray's own account of the search; ours are the trials' files.
            shutil.rmtree(account, ignore_errors=True)


def _points(recipe: Recipe) -> list[dict[str, Any]]:
    """What is tried before anything is drawn: the base loss alone, the recipe as it stands."""
    given = recipe.loss.tcm is None or recipe.loss.tcm.margins == "given"
    return [{"point": name} for name in (_BASE, _RECIPE)[: 1 + given]]


def _setting(config: Mapping[str, Any], recipe: Recipe) -> Setting:
    """What a configuration stands for; what was drawn is rounded to be read by people."""
    if config["point"] == _BASE:
        return Setting(None, recipe.train.learning_rate)
    if config["point"] == _RECIPE:
        tcm = recipe.loss.tcm or TcmConfig()
        margins = Margins(tcm.negative_margin, tcm.positive_margin)
        return Setting(margins, recipe.train.learning_rate)
    negative = round(config["negative_margin"], 2)
    positive = round(min(negative + config["gap"], 1.0), 2)
    return Setting(Margins(negative, positive), float(f"{config['learning_rate']:.3g}"))


def _trial(config: Mapping[str, Any], recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    """What a worker of Ray Tune runs; the trial in numbers."""
    setting = _setting(config, recipe)
    # What is drawn twice is trained once: whoever comes second waits, and finds it done.
    with (workspace.folder / f".{setting.name}.lock").open("ab") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        try:
            trial = tried(recipe, setting, workspace, lambda _: None)
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            trial = failed(setting, error)
        if setting.margins is not None:
            workspace.model(setting.name).unlink(missing_ok=True)  # its worth is known
    return {"trial": trial.as_numbers()}


def _teller(recipe: Recipe, add: Callable[[Trial], None]) -> Callback:
    """What hands each trial on as it ends."""
    from ray.tune import Callback

    class Teller(Callback):
        def __init__(self, add: Callable[[Trial], None]) -> None:
            self._add = add

        def on_trial_complete(
            self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: object
        ) -> None:
            self._add(Trial.of_numbers(trial.last_result["trial"]))

        def on_trial_error(
            self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: object
        ) -> None:
            why = "its process ended: out of memory, or killed"
            self._add(Trial(_setting(trial.config, recipe), None, why))

        def __getstate__(self) -> dict[str, object]:
            return {}  # Ray writes its callbacks down for a resumption of its own

    return Teller(add)


def _gpus(recipe: Recipe) -> int:
    """GPUs of a trial; ``TrainingError`` where trials would wait for one for ever."""
    if recipe.train.device != "cuda":
        return 0
    if "RAY_ADDRESS" not in os.environ:
        device_of(recipe.train.device)
    return 1
