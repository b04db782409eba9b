"""Everything that ``limen evaluate`` says of one embedding: arrays in, numbers out.

First a fine grid gives the calibration range and, unless one is given, the threshold; then all
pairs are counted exactly at the thresholds of three spacings and at the operating point. Formulas:
docs/methods.md sections 1 and 6; unknown numbers are NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.calibration.points import OperatingPoint
from pipeline.consistency import extremes
from pipeline.consistency.extremes import EpsOpis, eps_opis
from pipeline.consistency.opis import Opis, opis_difference, opis_of, opis_population
from pipeline.consistency.ranges import RANGE_FAR, SPACINGS, spaced
from pipeline.counting.classes import ClassCounts
from pipeline.counting.histogram import Histogram, histogram
from pipeline.counting.operating import Curve, Grid, OperatingCounts
from pipeline.counting.queries import IdentityCounts
from pipeline.data.items import Items
from pipeline.evaluation.grouping import (
    Classes,
    Customers,
    GroupingError,
    Pooled,
    grouped,
    operating_of,
)
from pipeline.evaluation.retrieval import KS, Retrieval
from pipeline.statistics.intervals import UNKNOWN, Interval

_UNION_BYTES = 3e8
"""Counts up to this size are made for all spacings in one pass over the pairs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is measured."""

    group: str = "customer"
    """One of ``grouping.GROUPINGS``."""
    threshold: np.float32 | None = None
    """The operating point, a cosine distance; None: the largest threshold with ``far_target``."""
    far_target: float = 1e-3
    """Pooled FAR that chooses the threshold where none is given."""
    range_far: tuple[float, float] = RANGE_FAR
    """Pooled FARs that bound the calibration range."""
    spacing: str = "euclidean"
    """Spacing of curves, spreads and the paired difference; OPIS comes under all three."""
    ks: tuple[int, ...] = KS
    """Depths of R@k."""
    widen: bool = False
    """Whether the calibration range has to hold the threshold."""


@dataclass(frozen=True, slots=True)
class SpacedOpis:
    """OPIS under one spacing of the thresholds."""

    spacing: str
    thresholds: NDArray[np.float32]
    """(101,); empty where the range holds no such thresholds."""
    opis: Opis
    population: float
    """Corrected OPIS times T / (T - 1): the variance over groups yet to come."""
    eps: EpsOpis | None
    """The worst against the best; None where nothing is known."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How far one rate, FAR or FRR, lies apart between the groups."""

    lowest: float
    """At the operating point."""
    highest: float
    deviation: float
    """Standard deviation over the groups at the operating point."""
    over_range: extremes.Spread
    """Over the calibration range: mean squared gap to the mean, as OPIS is for utility."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """One embedding of counted items, under one grouping."""

    settings: Settings
    items: int
    """Items that were counted."""
    retrieval: Retrieval
    range_low: np.float32
    range_high: np.float32
    widened: bool
    """Whether the range had to grow to contain the threshold."""
    threshold: np.float32
    spaced: tuple[SpacedOpis, ...]
    """In the order of ``SPACINGS``."""
    overall: OperatingPoint
    """At the threshold: the mean over customers, or all pairs of the classes."""
    points: tuple[OperatingPoint, ...]
    """Each group at the threshold, by name."""
    far_spread: Spread
    frr_spread: Spread
    utility: Curve
    """(G, 101) utility of each group over the range under the main spacing; NaN where unknown."""
    histogram: Histogram
    counts: OperatingCounts | ClassCounts
    """On the thresholds of the main spacing and the operating point."""

    @property
    def main(self) -> SpacedOpis:
        """OPIS under the main spacing."""
        return next(entry for entry in self.spaced if entry.spacing == self.settings.spacing)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, sorted."""
        return self.counts.groups


def measure_items(items: Items, counted: NDArray[np.bool_], settings: Settings) -> Measures:
    """Measure ``items``, whose content are unit vectors (n, d), where ``counted`` (n,) says so.

    Raises ``GroupingError`` for items and targets that carry no calibration range.
    """
    groups = grouped(items, counted, settings.group)
    pooled = groups.pooled()
    threshold = settings.threshold
    if threshold is None:
        threshold = pooled.far.largest(settings.far_target)
        if threshold <= 0:
            raise GroupingError(
                f"no threshold above 0 has a FAR of at most {settings.far_target:g}: different "
                "labels lie on the same point; raise --far-target or give a --threshold"
            )
    low, high = pooled.far.range(settings.range_far)
    widened = settings.widen and not low <= threshold <= high
    if widened:
        low, high = min(low, threshold), max(high, threshold)
    thresholds = _thresholds((low, high), pooled, settings)
    spacings, main = _counted(groups, thresholds, threshold, settings)
    operating = operating_of(main)
    overall, points = groups.points(main, threshold)
    curve = thresholds[settings.spacing]
    over = extremes.rate_spreads(operating, curve)
    return Measures(
        settings=settings, items=int(counted.sum()), retrieval=groups.retrieval(settings.ks),
        range_low=low, range_high=high, widened=widened, threshold=threshold,
        spaced=spacings, overall=overall, points=points,
        far_spread=_spread([p.far for p in points], over[0]),
        frr_spread=_spread([p.frr for p in points], over[1]),
        utility=_at(operating, operating.utility(), curve),
        histogram=histogram(pooled.far.edges, pooled.pairs), counts=operating,
    )  # fmt: skip


def difference(ours: Measures, theirs: Measures) -> Interval:
    """Corrected OPIS of ``ours`` minus that of ``theirs``, paired, under the main spacing."""
    return opis_difference(
        ours.counts, theirs.counts, (ours.main.thresholds, theirs.main.thresholds)
    )


def _thresholds(
    ends: tuple[np.float32, np.float32], pooled: Pooled, settings: Settings
) -> dict[str, NDArray[np.float32]]:
    """Thresholds by spacing; empty where the range holds none, which the main one must not be."""
    found = {}
    for spacing in SPACINGS:
        try:
            found[spacing] = spaced(*ends, spacing, far_curve=pooled.far)
        except ValueError as error:
            if spacing == settings.spacing:
                low, high = settings.range_far
                raise GroupingError(
                    f"no calibration range between FAR {low:g} and {high:g}: {error}; give other "
                    "targets with --far LOW HIGH or more labelled items"
                ) from None
            found[spacing] = np.empty(0, np.float32)
    return found


def _counted(
    groups: Customers | Classes,
    thresholds: dict[str, NDArray[np.float32]],
    threshold: np.float32,
    settings: Settings,
) -> tuple[tuple[SpacedOpis, ...], IdentityCounts | ClassCounts]:
    """OPIS under every spacing, and the counts under the main one."""
    every = np.unique(np.append(np.concatenate(list(thresholds.values())), threshold))
    if groups.bytes_an_edge * every.size <= _UNION_BYTES:
        main = groups.count(Grid(every))
        counts = operating_of(main)
        return tuple(
            _spaced(name, counts, edges) if edges.size else _unknown(name)
            for name, edges in thresholds.items()
        ), main
    found = []
    for name, edges in thresholds.items():
        if name == settings.spacing:
            main = groups.count(Grid(np.unique(np.append(edges, threshold))))
            found.append(_spaced(name, operating_of(main), edges))
        else:
            found.append(_spaced(name, operating_of(groups.count(Grid(edges))), edges)
                         if edges.size else _unknown(name))
    return tuple(found), main


def _spaced(
    spacing: str, counts: OperatingCounts | ClassCounts, thresholds: NDArray[np.float32]
) -> SpacedOpis:
    opis = opis_of(counts, thresholds)
    return SpacedOpis(
        spacing, thresholds, opis, opis_population(opis), eps_opis(counts, thresholds)
    )


def _unknown(spacing: str) -> SpacedOpis:
    nothing = Opis(math.nan, UNKNOWN, 0, 0)
    return SpacedOpis(spacing, np.empty(0, np.float32), nothing, math.nan, None)


def _at(
    counts: OperatingCounts | ClassCounts, rates: Curve, thresholds: NDArray[np.float32]
) -> Curve:
    return np.asarray(rates[:, counts.grid.position(thresholds)])


def _spread(rates: list[Interval], over_range: extremes.Spread) -> Spread:
    known = np.asarray([rate.value for rate in rates if not math.isnan(rate.value)])
    if not known.size:
        return Spread(math.nan, math.nan, math.nan, over_range)
    deviation = float(known.std()) if known.size > 1 else math.nan
    return Spread(float(known.min()), float(known.max()), deviation, over_range)
