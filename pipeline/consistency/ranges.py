"""The calibration range and the thresholds in it, at which curves are compared.

The range lies between the thresholds where the pooled FAR equals two targets. Pooling is over
``pairs`` where classes are the groups, and over ``groups`` (their mean) for customers, since
one large customer would otherwise set range and threshold alone. OPIS moves with the spacing
of the thresholds, except for ``log_far``; so the spacing is printed with every number.

Formulas: docs/methods.md section 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.counting.binning import ruler_of
from pipeline.counting.classes import ClassCounts
from pipeline.counting.operating import NEGATIVE, POSITIVE, Curve, Grid, OperatingCounts
from pipeline.counting.pairs import count_negatives, lay_out
from pipeline.distance import Vectors, from_euclidean, to_euclidean
from pipeline.threads import cores

CURVE_POINTS = 101
"""Thresholds in the calibration range, ends included."""

RANGE_FAR = (1e-2, 1e-1)
"""FARs that bound the calibration range where nothing else is said."""

SPACINGS = ("euclidean", "cosine", "log_far")
"""Equal steps of chord length, of cosine distance, or of the logarithm of the pooled FAR."""

POOLINGS = ("pairs", "groups")
"""FAR of all pairs together, or the mean of the groups' FARs."""

_FINE_BINS = 16_384


@dataclass(frozen=True, slots=True)
class FarCurve:
    """Pooled FAR at the edges of a fine grid."""

    edges: NDArray[np.float32]
    """(T,) strictly increasing cosine distances."""
    far: Curve
    """(T,) share of negative pairs accepted, in [0, 1]; never falls."""

    def largest(self, target: float) -> np.float32:
        """The largest edge whose FAR is at most ``target``; 0 where none is."""
        passed = int(np.searchsorted(self.far, target, side="right"))
        return np.float32(self.edges[passed - 1]) if passed else np.float32(0)

    def range(self, far: tuple[float, float] = RANGE_FAR) -> tuple[np.float32, np.float32]:
        """The largest edges with FAR at most each of ``far``, at least the first edge.

        ``low <= high``; they are equal where the negatives are too few or too close together.
        """
        if not 0 < far[0] < far[1] < 1:
            raise ValueError(f"far: expected two FARs, 0 < low < high < 1, got {far}")
        low, high = (max(self.largest(target), self.edges[0]) for target in far)
        return low, high


def fine_grid() -> Grid:
    """The grid on which ranges are looked for: equal steps of chord length over [0, 2]."""
    chords = np.linspace(0.0, 2.0, _FINE_BINS + 1)
    return Grid(np.unique(from_euclidean(chords).astype(np.float32)))


def pooled_far(grid: Grid, pairs: NDArray[np.float64], pooling: str) -> FarCurve:
    """FAR pooled over the rows of ``pairs`` (R, 2, T + 1), one row a group, by distance bin.

    Only rows with both positive and negative pairs count, under either pooling. Raises
    ``ValueError`` where there is none, or for an unknown pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling: unknown {pooling!r}; expected one of {', '.join(POOLINGS)}")
    totals = pairs.sum(axis=2)
    usable = (totals[:, NEGATIVE] > 0) & (totals[:, POSITIVE] > 0)
    if not usable.any():
        raise ValueError("no group has both a positive and a negative pair: no FAR to range over")
    accepted = pairs[usable, NEGATIVE, :-1].cumsum(axis=1)
    if pooling == "pairs":
        return FarCurve(grid.edges, accepted.sum(axis=0) / totals[usable, NEGATIVE].sum())
    return FarCurve(grid.edges, (accepted / totals[usable, NEGATIVE, None]).mean(axis=0))


def far_curve(counts: OperatingCounts | ClassCounts, pooling: str) -> FarCurve:
    """Pooled FAR of ``counts``; over ``pairs``, each unordered pair of items counts once."""
    if isinstance(counts, OperatingCounts):
        return pooled_far(counts.grid, counts.pairs.sum(axis=1), pooling)
    rows = counts.pooled()[None] if pooling == "pairs" else counts.whole
    return pooled_far(counts.grid, rows, pooling)


def class_far(vectors: Vectors, labels: Sequence[str | None]) -> FarCurve:
    """FAR on the fine grid of all pairs of labelled items, each unordered pair once.

    ``vectors`` (n, d) float32 unit rows. Memory does not grow with the number of classes.
    Raises ``ValueError`` where there are not both positive and negative pairs.
    """
    layout = lay_out(vectors, labels, [""] * len(labels))
    sizes, grid = np.diff(layout.spans), fine_grid()
    negatives = np.zeros(grid.bins)
    if sizes.size:  # one unit for all items: the sum over classes, each pair from both its ends
        pooled = replace(layout, units=np.zeros_like(layout.units), bits=np.zeros(1, np.uint8))
        ruler, workers = ruler_of(grid, layout.vectors), cores()
        negatives += count_negatives(pooled, ruler, (0, 1), workers)[0] / 2
        negatives[-1] -= negatives[:-1].sum()
    positives = np.zeros(grid.bins)
    positives[-1] = (sizes * (sizes - 1) // 2).sum()
    return pooled_far(grid, np.stack([negatives, positives])[None], "pairs")


def calibration_range(
    counts: OperatingCounts | ClassCounts,
    far: tuple[float, float] = RANGE_FAR,
    pooling: str = "pairs",
) -> tuple[np.float32, np.float32]:
    """``(low, high)``: the largest edges whose pooled FAR is at most each of ``far``.

    ``counts`` are on a fine grid (``fine_grid``). A caller that serves a threshold widens the
    range until it holds it. Raises ``ValueError`` where no group has pairs of both kinds.
    """
    return far_curve(counts, pooling).range(far)


def spaced(
    low: float | np.float32,
    high: float | np.float32,
    spacing: str,
    *,
    far_curve: FarCurve | None = None,
    points: int = CURVE_POINTS,
) -> NDArray[np.float32]:
    """(points,) strictly increasing thresholds from exactly ``low`` to exactly ``high``.

    ``log_far`` reads the pooled FAR at both ends from ``far_curve`` and spaces the logarithm of
    FAR equally between them; an end that accepts no negative counts as half the least FAR above
    0. Raises ``ValueError`` for an unknown spacing and for a range that holds no such thresholds.
    """
    low, high = np.float32(low), np.float32(high)
    if spacing not in SPACINGS:
        raise ValueError(f"spacing: unknown {spacing!r}; expected one of {', '.join(SPACINGS)}")
    if points < 2:
        raise ValueError(f"points: expected at least the two ends, got {points}")
    if not low < high:
        raise ValueError(f"the calibration range is empty: {low:g} to {high:g}; add classes")
    if spacing == "cosine":
        inside = np.linspace(low, high, points)
    elif spacing == "euclidean":
        ends = to_euclidean(np.asarray([low, high]))
        inside = from_euclidean(np.linspace(ends[0], ends[1], points))
    else:
        inside = _log_far(float(low), float(high), far_curve, points)
    thresholds = inside.astype(np.float32)
    thresholds[[0, -1]] = low, high
    if not (np.diff(thresholds) > 0).all():
        raise ValueError(
            f"the calibration range {low:g} to {high:g} is too narrow for {points} thresholds"
        )
    return thresholds


def _log_far(low: float, high: float, curve: FarCurve | None, points: int) -> NDArray[np.float64]:
    """Thresholds of equal steps of log FAR; linear between the edges at which FAR rises next."""
    if curve is None:
        raise ValueError("log_far: expected far_curve, the pooled FAR on a fine grid")
    rises = np.append(np.diff(curve.far) > 0, True)
    at_ends = np.interp([low, high], curve.edges, curve.far)
    inside = rises & (curve.edges > low) & (curve.edges < high)
    inside &= (curve.far > at_ends[0]) & (curve.far < at_ends[1])
    edges = np.concatenate([[low], curve.edges[inside], [high]])
    far = np.concatenate([at_ends[:1], curve.far[inside], at_ends[1:]])
    if not far[0] < far[-1]:
        raise ValueError(f"log_far: FAR does not rise between {low:g} and {high:g}; add classes")
    far[0] = max(far[0], far[far > 0].min() / 2)
    steps = np.linspace(np.log(far[0]), np.log(far[-1]), points)
    return np.asarray(np.interp(steps, np.log(far), edges))
