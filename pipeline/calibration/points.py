"""What a threshold does: rates with intervals, of each customer and of their mean.

The identity is the unit of every interval (docs/methods.md section 6), the customers are taken
as given: the overall rate is the mean of these customers' true rates, not of future ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.counting.operating import NEGATIVE, POSITIVE, utility
from pipeline.counting.queries import IdentityCounts
from pipeline.statistics.intervals import TAIL, UNKNOWN, Interval, clustered_rate, mean_of


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Rates at the threshold: over all customers (their mean), or of one."""

    name: str
    far: Interval
    frr: Interval
    precision: float
    utility: float
    identities: int
    """Identities with a positive pair."""
    utility_interval: Interval = UNKNOWN
    """``utility`` with its interval, which holds what those of FAR and FRR allow."""


def operating_points(
    counts: IdentityCounts, threshold: np.float32
) -> tuple[OperatingPoint, tuple[OperatingPoint, ...]]:
    """The mean over customers, and each customer, at the served ``threshold``."""
    operating = counts.operating()
    edge = int(operating.grid.position(np.asarray([threshold], np.float32))[0])
    precision, utilities = operating.precision()[:, edge], operating.utility()[:, edge]
    points = []
    for i, (group, mine) in enumerate(_customers(counts)):
        far, frr = _rates(mine, edge)
        identities = int((mine[:, POSITIVE].sum(axis=1) > 0).sum())
        points.append(
            OperatingPoint(
                group, far, frr, float(precision[i]), float(utilities[i]), identities,
                utility_of(far, frr),
            )
        )  # fmt: skip
    overall = OperatingPoint(
        "mean over customers",
        *_rates(counts.pairs, edge, strata=counts.groups.astype(np.str_)),
        _mean([point.precision for point in points]),
        _mean([point.utility for point in points]),
        sum(point.identities for point in points),
        mean_of([point.utility_interval for point in points]),
    )
    return overall, tuple(points)


def class_point(counts: IdentityCounts, threshold: np.float32) -> OperatingPoint:
    """The mean over classes, each of weight 1, at the served ``threshold``.

    What a guarantee with ``unit = "label"`` speaks of, measured.
    """
    edge = int(counts.grid.position(np.asarray([threshold], np.float32))[0])
    names, row = np.unique(counts.identities.astype(np.str_), return_inverse=True)
    pairs = np.zeros((names.size, *counts.pairs.shape[1:]))
    np.add.at(pairs, row, counts.pairs)
    both = (pairs.sum(axis=2) > 0).all(axis=1)
    shares = pairs[both, :, : edge + 1].sum(axis=2) / pairs[both].sum(axis=2)
    accepted = pairs[both, :, : edge + 1].sum(axis=2)
    one = np.ones(shares.shape[0])
    far = clustered_rate(shares[:, NEGATIVE], one, both_ends=True)
    frr = clustered_rate(1.0 - shares[:, POSITIVE], one, both_ends=False)
    with np.errstate(invalid="ignore", divide="ignore"):
        precisions = accepted[:, POSITIVE] / accepted.sum(axis=1)
    useful = utility(shares[:, POSITIVE], 1.0 - shares[:, NEGATIVE])
    return OperatingPoint(
        "mean over classes", far, frr, _mean(precisions.tolist()), _mean(useful.tolist()),
        one.size,
    )  # fmt: skip


def least_utility(counts: IdentityCounts, threshold: np.float32) -> Interval:
    """Utility of the worst customer at ``threshold``, with an interval for the truly worst one.

    The customer that looks worst is in part unlucky; so every customer's interval is made for as
    many looks as there are customers, and the ends are the least of all.
    """
    edge = int(counts.grid.position(np.asarray([threshold], np.float32))[0])
    customers = list(_customers(counts))
    intervals = [
        utility_of(*_rates(mine, edge, tail=TAIL / len(customers))) for _, mine in customers
    ]
    known = [entry for entry in intervals if not math.isnan(entry.value)]
    if not known:
        return UNKNOWN
    return Interval(
        min(entry.value for entry in known),
        min(entry.lower for entry in known),
        min(entry.upper for entry in known),
    )


def utility_of(far: Interval, frr: Interval) -> Interval:
    """Utility (c = 1) of rates whose errors are independent.

    Each end is as far off as FAR's and FRR's ends each move the utility, in quadrature
    (Zou and Donner's "variance estimates recovery", Statistics in Medicine 2008).
    """
    if math.isnan(far.value + frr.value):
        return UNKNOWN
    centre = _utility(far.value, frr.value)
    below = math.hypot(
        centre - _utility(far.upper, frr.value), centre - _utility(far.value, frr.upper)
    )
    above = math.hypot(
        _utility(far.lower, frr.value) - centre, _utility(far.value, frr.lower) - centre
    )
    return Interval(centre, max(0.0, centre - below), min(1.0, centre + above))


def _utility(far: float, frr: float) -> float:
    return float(utility(np.asarray(1.0 - frr), np.asarray(1.0 - far)))


def _customers(counts: IdentityCounts) -> Sequence[tuple[str, NDArray[np.float64]]]:
    """Each customer with the rows (I, 2, T + 1) of its identities, sorted by name."""
    return [
        (group, counts.pairs[counts.groups == group])
        for group in sorted(set(counts.groups.tolist()))
    ]


def _rates(
    rows: NDArray[np.float64],
    edge: int,
    *,
    strata: NDArray[np.str_] | None = None,
    tail: float = TAIL,
) -> tuple[Interval, Interval]:
    """FAR and FRR of these identities (I, 2, T + 1) at an edge, or their mean over ``strata``."""
    accepted, totals = rows[:, :, : edge + 1].sum(axis=2), rows.sum(axis=2)
    rejected = totals - accepted
    return (
        clustered_rate(
            accepted[:, NEGATIVE], totals[:, NEGATIVE], both_ends=True, strata=strata, tail=tail
        ),
        clustered_rate(
            rejected[:, POSITIVE], totals[:, POSITIVE], both_ends=False, strata=strata, tail=tail
        ),
    )


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
