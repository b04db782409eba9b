"""Base losses by name, their options with defaults and ranges, and which of them take a memory.

Knows no torch, so that a recipe is checked before anything heavy is loaded. What each name
computes stands in ``pipeline/losses/base.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.strict import RecipeError, require

if TYPE_CHECKING:
    from pipeline.losses.config import LossConfig


@dataclass(frozen=True, slots=True)
class Option:
    """One number of a loss: its default, and the closed range that it may be in."""

    default: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Offer:
    """What a recipe may say about one base loss."""

    options: Mapping[str, Option]
    takes_memory: bool = True
    """Whether it compares embeddings with one another; proxies stand for all others instead."""


def _temperature(default: float) -> Option:
    return Option(default, 1e-4, 10.0)


def _scale(default: float) -> Option:
    return Option(default, 0.1, 1000.0)


# Margins are cosine similarities; arcface's is an angle in degrees. Defaults are the papers'.
OFFERS: Mapping[str, Offer] = {
    "multi_similarity": Offer(
        {"alpha": _scale(2), "beta": _scale(50), "base": Option(0.5, -1, 1)}
    ),
    "supervised_contrastive": Offer({"temperature": _temperature(0.1)}),
    "contrastive": Offer(
        {"positive_margin": Option(1.0, -1, 1), "negative_margin": Option(0.5, -1, 1)}
    ),
    "triplet": Offer({"margin": Option(0.1, 0, 2)}),
    "infonce": Offer({"temperature": _temperature(0.07)}),
    "circle": Offer({"margin": Option(0.4, 0, 1), "scale": _scale(80)}),
    "smooth_ap": Offer({"temperature": _temperature(0.01)}),
    "recall_at_k": Offer(
        {"temperature": _temperature(0.01), "step_temperature": _temperature(1.0)}
    ),
    "uss": Offer({"margin": Option(0.1, 0, 2), "scale": _scale(64)}),
    "arcface": Offer({"margin": Option(28.6, 0, 90), "scale": _scale(64)}, takes_memory=False),
    "proxy_anchor": Offer(
        {"margin": Option(0.1, 0, 1), "alpha": _scale(32)}, takes_memory=False
    ),
}

BASE_LOSSES: tuple[str, ...] = tuple(OFFERS)
"""Names that ``[loss] base`` may have."""


def require_loss(config: LossConfig) -> None:
    """Check the loss's name, its options and their ranges, and whether it takes a memory.

    A ``LossConfig`` does so at birth; raises ``RecipeError``.
    """
    base, given = config.base, config.options
    if base not in OFFERS:
        raise RecipeError(f"base: unknown loss {base!r}; known: {', '.join(BASE_LOSSES)}")
    offer = OFFERS[base]
    unknown = [name for name in given if name not in offer.options]
    if unknown:
        known = ", ".join(f"{name} = {o.default:g}" for name, o in offer.options.items())
        raise RecipeError(f"options: {base} has no option {unknown[0]!r}; it has: {known}")
    for name, value in given.items():
        option = offer.options[name]
        require(
            option.least <= value <= option.most,
            f"options.{name}",
            f"{option.least:g} to {option.most:g} for {base} (default {option.default:g}), "
            f"got {value:g}",
        )
    if config.memory > 0 and not offer.takes_memory:
        takers = ", ".join(name for name, other in OFFERS.items() if other.takes_memory)
        raise RecipeError(
            f"memory: {base} compares embeddings with its proxies, not with one another; set it "
            f"to 0, or base to one of {takers}"
        )


def all_options(config: LossConfig) -> dict[str, float]:
    """Every option of the base loss: as the recipe has it, else its default."""
    offered = OFFERS[config.base].options
    return {name: float(config.options.get(name, o.default)) for name, o in offered.items()}
