"""What the record says: means over seeds, paired differences, and how often TCM helped.

A comparison is a base loss and the same with TCM on the same seeds. Changes over seeds are paired
Student intervals: they hold what other initial weights and batches would give on these classes.
With three seeds they are wide (4.3 standard errors). The paired interval inside a seed holds what
other classes, or other identities of these customers, would give for these two networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.study.plan import Margins
from benchmarks.study.record import Record
from pipeline.statistics.intervals import UNKNOWN, Interval, student

POINTS = 0.002
"""R@1 that consistency may cost: 0.2 points."""

Metric = Callable[[Record], float]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Paired:
    """Runs of one comparison, seed by seed."""

    name: tuple[str, str, str]
    """Data, backbone, loss."""
    margins: Margins
    steps: int
    base: tuple[Record, ...]
    tcm: tuple[Record, ...]

    def mean(self, metric: Metric) -> tuple[float, float]:
        """Over the seeds, of base and of TCM; NaN where a run has no such number."""
        both = self.values(metric)
        return float(both[0].mean()), float(both[1].mean())

    def change(self, metric: Metric) -> Interval:
        """TCM minus base over the seeds; without ends where there are fewer than two."""
        base, tcm = self.values(metric)
        gaps = tcm - base
        if np.isnan(gaps).any():
            return UNKNOWN
        variance = float(gaps.var(ddof=1)) / gaps.size if gaps.size > 1 else math.nan
        return student(float(gaps.mean()), variance, gaps.size - 1)

    def values(self, metric: Metric) -> tuple[Values, Values]:
        """(seeds,) of base and of TCM."""
        base, tcm = ([metric(record) for record in side] for side in (self.base, self.tcm))
        return np.asarray(base), np.asarray(tcm)


def number(*keys: str) -> Metric:
    """The number below ``keys`` of a record; NaN where it is unknown or the run failed."""

    def metric(record: Record) -> float:
        found: object = record
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return float(found) if isinstance(found, int | float) else math.nan

    return metric


RECALL = number("recall")
ACROSS = number("recall_across")


def opis(group: str) -> Metric:
    """Corrected OPIS with ``label`` or ``customer`` as groups."""
    return number(group, "opis", "corrected", "value")


def comparisons(records: Sequence[Record]) -> list[Paired]:
    """Every base and TCM on the same items, steps and seeds, with at least one seed of both.

    In the order in which they first stand in the record.
    """
    runs: dict[tuple[str, str, str, int], dict[Margins | None, dict[int, Record]]] = {}
    for record in records:
        name = (record["data"], record["backbone"], record["loss"], record["steps"])
        margins = tuple(record["margins"]) if record["margins"] else None
        runs.setdefault(name, {}).setdefault(margins, {})[record["seed"]] = record
    found = []
    for (data, backbone, loss, steps), sides in runs.items():
        base = sides.get(None, {})
        for margins, tcm in sides.items():
            if margins is not None and (seeds := sorted(set(base) & set(tcm))):
                found.append(Paired(
                    (data, backbone, loss), margins, steps,
                    tuple(base[seed] for seed in seeds), tuple(tcm[seed] for seed in seeds),
                ))  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class Tally:
    """In how many comparisons TCM did what."""

    comparisons: int
    lower: int
    """OPIS lower in the mean over seeds."""
    surely_lower: int
    """Its paired interval over seeds lies below 0."""
    surely_higher: int
    better_recall: int
    worse_recall: int
    """R@1 lower by more than ``POINTS``."""
    both: int
    """OPIS lower and R@1 no more than ``POINTS`` lower."""
    seeds: int
    """Pairs of runs."""
    seeds_lower: int
    """Whose own paired interval over classes or identities lies below 0."""
    seeds_higher: int


def tally(found: Sequence[Paired], group: str) -> Tally:
    """Counts over the comparisons in which corrected OPIS over ``group`` is known."""
    known = [c for c in found if not math.isnan(c.change(opis(group)).value)]
    changes = [c.change(opis(group)) for c in known]
    recalls = [c.change(RECALL).value for c in known]
    inside = [(r.get("minus_base") or {}).get(group) or {} for c in known for r in c.tcm]
    return Tally(
        comparisons=len(known),
        lower=sum(c.value < 0 for c in changes),
        surely_lower=sum(c.upper < 0 for c in changes),
        surely_higher=sum(c.lower > 0 for c in changes),
        better_recall=sum(r > 0 for r in recalls),
        worse_recall=sum(r < -POINTS for r in recalls),
        both=sum(c.value < 0 and r >= -POINTS for c, r in zip(changes, recalls, strict=True)),
        seeds=len(inside),
        seeds_lower=sum((i.get("upper") or 0.0) < 0 for i in inside),
        seeds_higher=sum((i.get("lower") or 0.0) > 0 for i in inside),
    )
