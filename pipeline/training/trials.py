"""Trials of margins and learning rates: what each was worth, and which one to go on with.

Every trial trains on the same classes and is measured on the same held-out ones. The lowest
corrected OPIS wins among those whose R@1 is no more than 0.2 points under the base loss's
(docs/methods.md section 2). The base loss is a contender too: a term that buys no consistency at
that R@1 is left out, and the reason says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import Recipe
from pipeline.losses.config import TcmConfig
from pipeline.strict import RecipeError
from pipeline.training.validation import Validation

TOLERANCE = 0.002
"""R@1 that consistency may cost: 0.2 points."""


@dataclass(frozen=True, slots=True)
class Margins:
    """Cosine similarities below which a positive, above which a negative pair is hard."""

    negative: float
    positive: float


@dataclass(frozen=True, slots=True)
class Setting:
    """What one trial differs in from the recipe."""

    margins: Margins | None
    """None: the base loss alone."""
    learning_rate: float

    @property
    def name(self) -> str:
        """One word for files."""
        if self.margins is None:
            return "base"
        return f"tcm-{self.margins.negative:g}-{self.margins.positive:g}-{self.learning_rate:g}"

    def __str__(self) -> str:
        """The setting in words."""
        if self.margins is None:
            return "Base loss alone"
        margins = f"{self.margins.positive:g} and {self.margins.negative:g}"
        return f"Margins {margins}, learning rate {self.learning_rate:g}"

    @staticmethod
    def of_numbers(numbers: Mapping[str, Any]) -> Setting:
        """The setting that ``dataclasses.asdict`` wrote down."""
        margins = numbers["margins"]
        return Setting(None if margins is None else Margins(**margins), numbers["learning_rate"])

    def applied(self, recipe: Recipe) -> Recipe:
        """``recipe`` with these margins, given, and this rate."""
        train = dataclasses.replace(recipe.train, learning_rate=self.learning_rate)
        tcm = None
        if self.margins is not None:
            tcm = dataclasses.replace(
                recipe.loss.tcm or TcmConfig(), margins="given",
                positive_margin=self.margins.positive, negative_margin=self.margins.negative,
            )  # fmt: skip
        return dataclasses.replace(
            recipe, train=train, loss=dataclasses.replace(recipe.loss, tcm=tcm)
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """A setting, and what its training was worth on the held-out classes."""

    setting: Setting
    found: Validation | None
    """None: it failed."""
    failed: str = ""
    """Why it failed, in one line."""

    @property
    def opis(self) -> float:
        """Corrected OPIS; infinite where there is none."""
        value = math.nan if self.found is None else self.found.opis.value
        return math.inf if math.isnan(value) else value

    def as_numbers(self) -> dict[str, Any]:
        """JSON-ready data, None for NaN, from which ``of_numbers`` makes the same trial."""
        return _without_nan(dataclasses.asdict(self))

    @staticmethod
    def of_numbers(numbers: Mapping[str, Any]) -> Trial:
        """The trial that ``as_numbers`` wrote down."""
        found = numbers["found"]
        return Trial(
            Setting.of_numbers(numbers["setting"]),
            None if found is None else Validation.of_numbers(_with_nan(found)),
            numbers["failed"],
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The trial to go on with, and why."""

    trial: Trial
    reason: str
    """One paragraph."""


def require_measured(base: Trial) -> Validation:
    """What the base loss alone is worth; ``RecipeError`` where nothing can be compared with it."""
    if base.found is None or base.opis == math.inf:
        why = base.failed or "its corrected OPIS is unknown on the held-out classes"
        raise RecipeError(f"nothing to compare margins with: the base loss alone: {why}")
    return base.found


def choose(base: Trial, trials: Sequence[Trial]) -> Choice:
    """The trial of lowest corrected OPIS among those that keep R@1, ``base`` among them.

    The first of equal ones, ``base`` before all. Raises ``RecipeError`` where ``base`` itself
    could not be measured.
    """
    alone = require_measured(base)
    floor = alone.recall - TOLERANCE
    kept = [t for t in trials if t.found is not None and t.found.recall >= floor - 1e-12]
    best = min((base, *kept), key=lambda trial: trial.opis)
    failed = sum(trial.found is None for trial in trials)
    opening = (
        f"The base loss alone has R@1 {alone.recall:.4f} and corrected OPIS {_opis(base)} on "
        f"{alone.classes} held-out classes. Of {len(trials)} trial"
        + ("s" if len(trials) != 1 else "")
        + (f", {failed} of which failed" if failed else "")
        + f", {len(kept)} have R@1 {floor:.4f} or more"
    )
    return Choice(best, f"{opening}{_ending(base, best, kept)}")


def table(base: Trial, trials: Sequence[Trial], chosen: Trial | None) -> list[str]:
    """Lines of a table of the trials, for people; ``chosen`` is marked."""
    head = f"  {'m-':>6} {'m+':>6} {'rate':>9} {'R@1':>7}  corrected OPIS (95 %)"
    return [head, *(_line(trial, trial == chosen) for trial in (base, *trials))]


def described(trial: Trial) -> str:
    """What a trial found, in a few words."""
    if trial.found is None:
        return f"failed: {trial.failed}"
    return f"R@1 {trial.found.recall:.4f}, corrected OPIS {_opis(trial)}"


def _ending(base: Trial, best: Trial, kept: Sequence[Trial]) -> str:
    if best != base and best.found is not None and base.found is not None:
        margins, rate = best.setting.margins, best.setting.learning_rate
        assert margins is not None  # only the base loss has none
        chance = best.found.opis.upper >= base.found.opis.lower
        return (
            f"; the lowest corrected OPIS of these is {_opis(best)}, with R@1 "
            f"{best.found.recall:.4f}, at margins {margins.positive:g} and {margins.negative:g}"
            + ("" if rate == base.setting.learning_rate else f" and learning rate {rate:g}")
            + (". The two intervals overlap: the gain may be chance." if chance else ".")
        )
    why = ", and none of these has a lower corrected OPIS" if kept else ""
    return f"{why}. So the term is left out; give the margins to have it all the same."


def _line(trial: Trial, chosen: bool) -> str:
    margins, found = trial.setting.margins, trial.found
    named = (
        f"{'base alone':>13}" if margins is None
        else f"{margins.negative:6.2f} {margins.positive:6.2f}"
    )  # fmt: skip
    facts = f"  {trial.failed}" if found is None else f"{found.recall:7.4f}  {_opis(trial)}"
    mark = ">" if chosen else " "
    return f"{mark} {named} {trial.setting.learning_rate:9.3g} {facts}"


def _opis(trial: Trial) -> str:
    if trial.found is None or trial.opis == math.inf:
        return "unknown"
    interval = trial.found.opis
    return f"{interval.value:.3g} ({interval.lower:.3g} to {interval.upper:.3g})"


def _without_nan(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """``numbers`` with None for NaN, which is no JSON."""
    return {
        key: _without_nan(value) if isinstance(value, dict)
        else None if isinstance(value, float) and math.isnan(value) else value
        for key, value in numbers.items()
    }  # fmt: skip


def _with_nan(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """``_without_nan`` undone, where every value is a number."""
    return {
        key: _with_nan(value) if isinstance(value, dict) else math.nan if value is None else value
        for key, value in numbers.items()
    }
