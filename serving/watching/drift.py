"""The gauges: how each customer stands today against the day of calibration.

Pure functions from counts to a ``Snapshot``. A monitor is looked at again and again, so its
intervals are confidence sequences: they hold at every look, not only at one. All rates are
within the horizon (``pipeline/live/population.py``). A customer with too little evidence has no
gauge at all. A customer without counts at calibration is measured against the release's mean
curve, and marked so.
Formulas: docs/methods.md section 1, "Live population" and "Drift: three numbers".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.consistency.curves import MIN_EVIDENCE, BucketCurves, Thresholds
from pipeline.consistency.opis import Opis, opis_of
from pipeline.consistency.shift import curve_shift, inconsistency, reference_curve, utility_change
from pipeline.counting.operating import Curve, OperatingCounts
from pipeline.live.decisions import Volume
from pipeline.live.population import within_horizon
from pipeline.statistics.intervals import (
    UNKNOWN,
    Interval,
    jackknife_variance,
    sequence_tail,
    student,
)

MIN_REVIEWED = 8
"""Least reviewed queries for a customer's gauges to appear."""

MAX_CUSTOMERS = 100
"""Customers with gauges of their own; the rest are ``OTHER`` together."""

OTHER = "_other"


@dataclass(frozen=True, kw_only=True, slots=True)
class CustomerGauges:
    """One customer's numbers; NaN where unknown."""

    customer: str
    calibrated: bool
    """Whether compared with its own calibration; else with the release's mean curve."""
    reviewed: int
    """Reviewed queries behind these numbers."""
    far: float
    """Share of negative pairs accepted at the served threshold, in [0, 1]."""
    frr: float
    """Share of true matches within the horizon rejected at the served threshold, in [0, 1]."""
    precision: float
    """Share of accepted pairs that are true matches, in [0, 1]."""
    inconsistency: Interval
    """Mean squared gap between its utility curve and the release's mean curve."""
    inconsistency_drift: Interval
    """The same minus its value at calibration."""
    curve_shift: Interval
    """Mean squared move of its utility curve since calibration; 0 in mean without change."""
    utility_change: Interval
    """Utility at the served threshold minus that at calibration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What a release says about its customers."""

    release: str
    """Id of the release."""
    baseline: OperatingCounts
    """Counts of the population that is served, by customer."""
    thresholds: Thresholds
    """(K,) edges of the baseline's grid: the calibration range, equally spaced."""
    threshold: np.float32
    """The served threshold, an edge of the grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Everything that is known about one release from its records."""

    release: str
    threshold: np.float32
    opis: Opis | None
    """Over all customers with enough evidence; None below two of them."""
    customers: tuple[CustomerGauges, ...]
    volumes: tuple[Volume, ...]


class Drift:
    """Measures the customers of one release; remembers what it measured last, nothing else."""

    def __init__(self, reference: Reference) -> None:
        """Read off the release what every customer is compared with."""
        self._reference = reference
        self._thresholds = reference.thresholds
        self._served = np.asarray([reference.threshold], np.float32)
        self._baseline = within_horizon(reference.baseline)
        self._curve = reference_curve(self._baseline, self._thresholds)
        self._utility = float(reference_curve(self._baseline, self._served)[0])
        self._last: dict[str, tuple[Curve, CustomerGauges]] = {}

    def snapshot(
        self, live: OperatingCounts, reviewed: Mapping[str, int], volumes: Sequence[Volume]
    ) -> Snapshot:
        """The gauges of ``live`` counts from so many ``reviewed`` queries of each customer."""
        ranked = sorted(volumes, key=lambda volume: (-volume.queries, volume.customer))
        named = {volume.customer for volume in ranked[:MAX_CUSTOMERS]} - {OTHER}
        alone = {name: live.select([name]) for name in live.groups}
        compared = [name for name, counts in alone.items() if _enough(counts, reviewed[name])]
        measured = [
            self._of(name, alone[name], self._baseline.select([name]), reviewed[name])
            for name in compared
            if name in named
        ]
        rest = [name for name in live.groups if name not in named]
        if rest:
            now, then = _merged_rest(live.select(rest), self._baseline)
            queries = sum(reviewed[name] for name in rest)
            if _enough(now, queries):
                measured.append(self._of(OTHER, now, then, queries))
        return Snapshot(
            release=self._reference.release,
            threshold=self._reference.threshold,
            opis=self._fleet(live.select(compared), [reviewed[name] for name in compared]),
            customers=tuple(measured),
            volumes=tuple(_bounded(volumes, named)),
        )

    def _fleet(self, live: OperatingCounts, reviewed: Sequence[int]) -> Opis | None:
        """OPIS over the customers with enough evidence."""
        if len(reviewed) < 2:
            return None
        return opis_of(live, self._thresholds, tail=sequence_tail(min(reviewed)))

    def _of(
        self, name: str, now: OperatingCounts, then: OperatingCounts, reviewed: int
    ) -> CustomerGauges:
        """The gauges of ``name``: measured anew where its counts are not those of last time."""
        evidence = np.concatenate([now.pairs, then.pairs])
        last = self._last.get(name)
        if last is None or last[1].reviewed != reviewed or not np.array_equal(last[0], evidence):
            last = self._last[name] = (evidence, self._measured(name, now, then, reviewed))
        return last[1]

    def _measured(
        self, name: str, now: OperatingCounts, then: OperatingCounts, reviewed: int
    ) -> CustomerGauges:
        """The gauges of ``now`` against ``then``: both of one group, ``then`` maybe empty."""
        tail = sequence_tail(reviewed)
        gap = inconsistency(now, self._curve, self._thresholds, tail=tail)[0]
        calibrated = _evidence(then) >= MIN_EVIDENCE
        if calibrated:
            before = inconsistency(then, self._curve, self._thresholds, tail=tail)[0]
            gap_change = _difference(gap, before)
            shift = curve_shift(now, then, self._thresholds, tail=tail)[0]
            change = utility_change(now, then, self._reference.threshold, tail=tail)[0]
        else:
            gap_change, shift, change = UNKNOWN, gap, self._change_from_mean(now, tail)
        edge = int(now.grid.position(self._served)[0])
        return CustomerGauges(
            customer=name,
            calibrated=calibrated,
            reviewed=reviewed,
            far=_share(now.far(), edge),
            frr=_share(now.frr(), edge),
            precision=_share(now.precision(), edge),
            inconsistency=gap,
            inconsistency_drift=gap_change,
            curve_shift=shift,
            utility_change=change,
        )

    def _change_from_mean(self, now: OperatingCounts, tail: float) -> Interval:
        """Utility at the served threshold minus that of the release's mean curve."""
        curves = BucketCurves(now, self._served)

        def change(kept: NDArray[np.bool_]) -> NDArray[np.float64]:
            return np.asarray(curves.curve(kept)[0, 0] - self._utility)

        variance = float(jackknife_variance(change, curves.occupied))
        return student(
            float(curves.curve()[0, 0] - self._utility), variance,
            int(curves.evidence[0]) - 1, tail,
        )


def _enough(counts: OperatingCounts, reviewed: int) -> bool:
    return reviewed >= MIN_REVIEWED and _evidence(counts) >= MIN_EVIDENCE


def _evidence(counts: OperatingCounts) -> int:
    """Buckets of one group that hold a positive pair."""
    return int(BucketCurves(counts, counts.grid.edges[:1]).evidence[0])


def _difference(now: Interval, before: Interval) -> Interval:
    """``now`` minus an independent ``before``, their half-widths in quadrature."""
    value = now.value - before.value
    half = math.hypot(now.upper - now.value, before.upper - before.value)
    return Interval(value, value - half, value + half)


def _share(rates: Curve, edge: int) -> float:
    """One group's rate at ``edge``; an unbiased estimate may lie a little outside [0, 1]."""
    return float(np.clip(rates[0, edge], 0.0, 1.0))


def _merged_rest(
    live: OperatingCounts, baseline: OperatingCounts
) -> tuple[OperatingCounts, OperatingCounts]:
    """The groups of ``live`` as one, now and at calibration, each with today's share of pairs.

    Without that weight a change of who asks would look like a change of the customers. Where
    some were calibrated, the others are left out.
    """
    known = [name for name in live.groups if name in baseline.groups]
    live = live.select(known) if known else live
    then = baseline.select(live.groups)
    now_pairs, then_pairs = (counts.totals().sum(axis=1) for counts in (live, then))
    weight = np.divide(now_pairs, then_pairs, out=np.zeros_like(now_pairs), where=then_pairs > 0)
    weighted = then.pairs * weight[:, None, None, None]
    return (
        OperatingCounts(live.grid, (OTHER,), live.pairs.sum(axis=0, keepdims=True)),
        OperatingCounts(live.grid, (OTHER,), weighted.sum(axis=0, keepdims=True)),
    )


def _bounded(volumes: Sequence[Volume], named: set[str]) -> list[Volume]:
    """The volumes of the named customers, and one for all the rest."""
    rest = [volume for volume in volumes if volume.customer not in named]
    kept = [volume for volume in volumes if volume.customer in named]
    if rest:
        kept.append(
            Volume(
                customer=OTHER,
                queries=sum(volume.queries for volume in rest),
                recorded=sum(volume.recorded for volume in rest),
                drawn_verdicts=sum(volume.drawn_verdicts for volume in rest),
                volunteered_verdicts=sum(volume.volunteered_verdicts for volume in rest),
            )
        )
    return kept
