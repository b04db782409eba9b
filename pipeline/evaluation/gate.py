"""``[gate]``: how far a release may lie from the one that it is to follow.

Every limit is on the worst customer, each with its own interval. By default the gate refuses
what is *proven* worse: the interval lies wholly above the limit, at 95 % for all customers
together, so that a fleet of many customers is not refused for the noise of one. ``strict``
refuses what is not *proven* fine: the interval reaches above the limit, or is unknown; it asks
for many labelled items, and for a limit with room above 0. A limit about which the items say
nothing for any customer fails either way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.strict import require

if TYPE_CHECKING:  # whoever reads a recipe needs no NumPy
    from pipeline.evaluation.changes import Change, Difference, Share
    from pipeline.evaluation.comparison import Comparison
    from pipeline.statistics.intervals import Interval

NO_LIMIT = 1.0
"""The default of every limit: no share and no rate can rise by more."""


class GateError(ValueError):
    """A release that may not be promoted, or a gate that cannot be asked; one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig:
    """``[gate]``: limits of ``limen releases promote --gate``; 1, the default, limits nothing."""

    max_flip_share: float = NO_LIMIT
    """Share of the pairs that either release accepts on which the two decide differently."""
    max_lost_share: float = NO_LIMIT
    """Share of the current release's matches that the next one rejects."""
    max_wrong_flip_share: float = NO_LIMIT
    """Share of the labelled pairs that either accepts on which only the next one is wrong."""
    max_far_increase: float = NO_LIMIT
    """FAR of the next release minus that of the current one."""
    max_frr_increase: float = NO_LIMIT
    """FRR of the next release minus that of the current one."""
    max_opis_increase: float = NO_LIMIT
    """Corrected OPIS over the customers, next minus current."""
    strict: bool = False
    """Refuse what is not proven to keep the limits, not only what is proven to break them."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        limits = self.limits()
        require(bool(limits), "gate", "at least one limit below 1; leave the section out for none")
        for name, limit in limits.items():
            require(0 <= limit <= 1, name, "between 0 and 1; 1 limits nothing")

    def limits(self) -> dict[str, float]:
        """The limits that limit anything, by name."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in named.items() if k != "strict" and v != NO_LIMIT}


_OF_CUSTOMERS: dict[str, tuple[str, Callable[[Difference], Change | Share]]] = {
    "max_flip_share": ("share of matches that flip", lambda one: one.flip_share),
    "max_lost_share": ("share of matches that are lost", lambda one: one.lost_share),
    "max_wrong_flip_share": ("share of wrong flips", lambda one: one.wrong_share),
    "max_far_increase": ("increase of FAR", lambda one: one.far),
    "max_frr_increase": ("increase of FRR", lambda one: one.frr),
}
"""Limit: what it is on, and how to read that off a customer."""


@dataclass(frozen=True, slots=True)
class _Clause:
    """One thing that was measured, on one customer or on all."""

    who: str
    what: str
    found: Interval


def verdict(comparison: Comparison, config: GateConfig) -> list[str]:
    """What speaks against the release, a clause for each limit that it breaks; empty: it passes.

    Each names the limit, the worst customer, what was found and what is allowed.
    """
    failures = []
    for name, limit in config.limits().items():
        if name == "max_opis_increase":
            found = [_Clause("all customers", "increase of OPIS", comparison.opis_change)]
        else:
            found = _customers(comparison, name, config.strict)
        failures += _failure(name, limit, found, config.strict)
    return failures


def _customers(comparison: Comparison, name: str, strict: bool) -> list[_Clause]:
    what, read = _OF_CUSTOMERS[name]
    # Each customer at its own 95 % would refuse a fleet of 100 for the noise of a few; whoever
    # has to be fine in every customer, on the other hand, is no likelier to pass by chance.
    among = 1 if strict else len(comparison.customers)
    return [_Clause(one.name, what, read(one).interval(among)) for one in comparison.customers]


def _failure(name: str, limit: float, found: list[_Clause], strict: bool) -> list[str]:
    """The worst clause that breaks ``limit``, in words; empty where none does."""
    known = [clause for clause in found if not math.isnan(clause.found.value)]
    if not known:
        return [
            f"{name}: the items do not tell the {found[0].what if found else 'difference'}; "
            "expected labelled items that neither release was trained on, of two identities or "
            "more: add some"
        ]
    if strict and (unknown := [c for c in found if math.isnan(c.found.upper)]):
        return [
            f"{name}: the {unknown[0].what} of {unknown[0].who} is unknown{_more(len(unknown))}, "
            "expected an interval under strict: add items of it, labelled ones"
        ]
    # A lower end that is unknown proves nothing: such a comparison is false.
    broken = [c for c in known if (c.found.upper if strict else c.found.lower) > limit]
    if not broken:
        return []
    worst = max(broken, key=lambda clause: clause.found.value)
    low, high = worst.found.lower, worst.found.upper
    return [
        f"{name}: {worst.what} of {worst.who}: {worst.found.value:.3g} ({low:.3g} to {high:.3g})"
        f"{_more(len(broken))}, expected at most {limit:g}{' with certainty' if strict else ''}"
    ]


def _more(count: int) -> str:
    return f" (and of {count - 1} more)" if count > 1 else ""
