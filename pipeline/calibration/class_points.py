"""FAR and FRR of each class at a threshold, with the items of the class as units.

The variance of a class's rate is read off the fixed random halves of its items: two halves of m
items differ by twice the standard error of the whole. The other classes are taken as they are.
Over all classes the class is the unit (docs/methods.md section 6).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.calibration.points import OperatingPoint, utility_of
from pipeline.counting.classes import SPLITS, ClassCounts
from pipeline.counting.operating import NEGATIVE, POSITIVE
from pipeline.statistics.intervals import UNKNOWN, Interval, clustered_rate, wilson

OVERALL = "all pairs"

_WIDER = float(stats.t.ppf(0.975, SPLITS) / stats.norm.ppf(0.975)) ** 2
"""A variance from so few splits is itself uncertain: Student's quantile in place of Gauss's."""


def class_points(
    counts: ClassCounts, threshold: np.float32
) -> tuple[OperatingPoint, tuple[OperatingPoint, ...]]:
    """All pairs together, and each class, at ``threshold``, which is an edge of the grid.

    Precision is the share of true matches among those that the items of a class, as queries,
    get. ``identities`` of a point are the items of the class.
    """
    edge = int(counts.grid.position(np.asarray([threshold], np.float32))[0])
    accepted, totals = counts.accepted()[:, :, edge], counts.totals()
    utility = counts.utility()[:, edge]
    # A query of the class returns a positive pair from either of its ends, a negative from one.
    true = 2 * accepted[:, POSITIVE]
    cut = counts.halves[..., : edge + 1].sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        halves = cut / counts.halves.sum(axis=-1)
        precision = true / (true + accepted[:, NEGATIVE])
    points = []
    for i, name in enumerate(counts.groups):
        far = _rate(
            (accepted[i, NEGATIVE], totals[i, NEGATIVE]), halves[i, :, :, NEGATIVE],
            int(counts.items[i]), ends=1,
        )  # fmt: skip
        frr = _rate(
            (totals[i, POSITIVE] - accepted[i, POSITIVE], totals[i, POSITIVE]),
            1.0 - halves[i, :, :, POSITIVE], int(counts.items[i]), ends=2,
        )  # fmt: skip
        points.append(
            OperatingPoint(
                name, far, frr, float(precision[i]), float(utility[i]), int(counts.items[i]),
                utility_of(far, frr),
            )
        )  # fmt: skip
    return _overall(counts, accepted, totals, utility), tuple(points)


def _overall(
    counts: ClassCounts,
    accepted: NDArray[np.float64],
    totals: NDArray[np.float64],
    utility: NDArray[np.float64],
) -> OperatingPoint:
    rejected = totals[:, POSITIVE] - accepted[:, POSITIVE]
    right = accepted[:, POSITIVE].sum()
    returned = right + accepted[:, NEGATIVE].sum() / 2  # a negative pair stands in two classes
    known = utility[~np.isnan(utility)]
    return OperatingPoint(
        OVERALL,
        clustered_rate(accepted[:, NEGATIVE], totals[:, NEGATIVE], both_ends=True),
        clustered_rate(rejected, totals[:, POSITIVE], both_ends=False),
        float(right / returned) if returned else math.nan,
        float(known.mean()) if known.size else math.nan,
        int(counts.items.sum()),
    )


def _rate(
    pairs: tuple[float, float], halves: NDArray[np.float64], items: int, *, ends: int
) -> Interval:
    """A rate with its interval; ``pairs`` are errors and all, ``halves`` (S, 2) the halves' rates.

    ``ends``: how many ends of a pair are items of this class. Without an error, or with nothing
    else: the rule of three on items, which spoil a pair at either end. Where the halves hold no
    pair (under 4 items): as many independent pairs as the items can make.
    """
    errors, total = float(pairs[0]), float(pairs[1])
    if total == 0:
        return UNKNOWN
    rate = errors / total
    if rate in (0.0, 1.0):
        slack = min(1.0, 3.0 * ends / items)
        return Interval(rate, max(0.0, rate - slack), min(1.0, rate + slack))
    gaps = halves[:, 0] - halves[:, 1]
    known = gaps[~np.isnan(gaps)]
    units = items // ends
    variance = _WIDER * float(np.square(known).mean()) / 4 if known.size else math.nan
    if not variance > 0:
        return wilson(rate, float(min(units, total)))
    return wilson(rate, min(total, rate * (1 - rate) / variance))
