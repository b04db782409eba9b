"""Margins of the threshold-consistent term, from what the base loss makes of held-out classes.

The base loss is trained first; the similarities that it gives to classes it was not trained on
say where the margins belong (docs/methods.md section 2):

    m- = similarity at the FAR target        m+ = max(similarity at the FRR target, m- + 0.1)

Trials move each of them by 0.1. Similarities of the classes that were trained on are saturated:
no margin comes from them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.calibration.rules import targets
from pipeline.config import Recipe
from pipeline.consistency.curves import MIN_EVIDENCE
from pipeline.data.items import ItemsError
from pipeline.strict import RecipeError
from pipeline.training.trials import Margins

FAR_TARGET, FRR_TARGET = 1e-2, 0.1
"""Shares of the held-out negative and positive pairs that are hard for the first margins, where
the recipe's calibration has no target of its own."""

STEP = 0.1
"""Of the search around the first margins, and the least distance between the two."""

MIN_CLASSES = 10
"""Held-out classes of 4 items or more without which OPIS is noise alone."""


def require_held_out(
    recipe: Recipe, labels: NDArray[np.generic], held_out: NDArray[np.bool_]
) -> None:
    """Refuse a search that could measure nothing; ``held_out`` (n,) marks rows of ``labels`` (n,).

    Raises ``ItemsError`` with the number of classes that it takes.
    """
    sizes = np.unique(labels[held_out], return_counts=True)[1]
    usable, share = int((sizes >= MIN_EVIDENCE).sum()), recipe.train.validate_share
    if usable < MIN_CLASSES:
        raise ItemsError(
            f"{usable} of {len(np.unique(labels))} training classes are held out for a search of "
            f"margins and have {MIN_EVIDENCE} items or more; expected at least {MIN_CLASSES}, so "
            f"about {math.ceil(MIN_CLASSES / share)} classes at train.validate_share = {share:g}: "
            "add classes, raise it, or give the margins"
        )


def require_share(recipe: Recipe, what: str) -> None:
    """``RecipeError`` naming ``what`` is asked for, where no class is held out to measure on."""
    if recipe.train.validate_share == 0:
        raise RecipeError(
            f"train.validate_share: expected above 0 with {what}, since margins are found on "
            "classes that the trials do not train on; set it to 0.2, say"
        )


def pair_targets(recipe: Recipe) -> tuple[float, float]:
    """The FAR and the FRR at which the first margins are read off.

    What the recipe's calibration holds the threshold to, so that the hard negatives are those
    that the served threshold would accept.
    """
    known = targets(recipe.calibration)
    return known.get("far", FAR_TARGET), known.get("frr", FRR_TARGET)


def first(at_far: float, at_frr: float) -> Margins:
    """The margins in the middle of the search, to two decimals.

    ``at_far``, ``at_frr``: similarities of held-out pairs at the two targets. Raises
    ``RecipeError`` where negatives are so close together that no margin fits above them.
    """
    negative = round(at_far, 2)
    positive = round(min(max(at_frr, negative + STEP), 1.0), 2)
    if positive - negative < STEP / 2:
        raise RecipeError(
            "loss.tcm.margins: 'auto' finds none, the base loss leaves the hardest of the "
            f"held-out negative pairs at similarity {at_far:.3f} or above; train it longer, or "
            "give the margins"
        )
    return Margins(negative, positive)


def candidates(middle: Margins) -> tuple[Margins, ...]:
    """``middle``, then those around it in which either margin or both move by ``STEP``.

    All within [-1, 1], with at least ``STEP`` between the margins, or what ``middle`` has.
    """
    least = min(STEP, middle.positive - middle.negative) - 1e-9
    moves = sorted(((n, p) for n in (-1, 0, 1) for p in (-1, 0, 1)), key=lambda m: m != (0, 0))
    moved = (
        Margins(round(middle.negative + n * STEP, 2), round(middle.positive + p * STEP, 2))
        for n, p in moves
    )
    return tuple(
        margins for margins in moved
        if margins.negative >= -1 and margins.positive <= 1
        and margins.positive - margins.negative >= least
    )  # fmt: skip
