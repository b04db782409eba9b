"""Operating-point inconsistency: how far the utility curves of the groups lie apart.

    OPIS = mean over thresholds and groups of (U_i(d) - Ubar(d))^2

Raw OPIS is inflated by sampling noise; the corrected value is the product of two independent
halves of the noisy units (identities of a customer, items of a class), averaged over fixed
random splits. Zhang et al., ICLR 2024, arXiv:2307.04047; correction: docs/methods.md section 1.

Functions take the counts of customers (``OperatingCounts``) or of classes (``ClassCounts``) and
the ``thresholds`` (K,) float32 of the calibration range, which must be edges of their grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.consistency.curves import (
    ALL,
    MIN_EVIDENCE,
    BucketCurves,
    ClassCurves,
    Kept,
    Thresholds,
    curves_of,
)
from pipeline.consistency.ranges import RANGE_FAR, class_far, spaced
from pipeline.counting.classes import ClassCounts
from pipeline.counting.operating import Curve, Grid, OperatingCounts
from pipeline.counting.pairs import count_classes
from pipeline.distance import unit
from pipeline.statistics.intervals import (
    TAIL,
    UNKNOWN,
    Interval,
    jackknife_deviations,
    jackknife_variance,
    resampled_mean,
    student,
)
from pipeline.statistics.squares import squared_norm


@dataclass(frozen=True, slots=True)
class Opis:
    """OPIS over the groups, raw and corrected for sampling noise."""

    raw: float
    """Mean squared gap to the mean curve; at least 1 positive pair a group."""
    corrected: Interval
    """Split-half corrected; may be slightly negative where the truth is 0."""
    groups_raw: int
    """Groups in the raw value."""
    groups_corrected: int
    """Groups in the corrected value: customers with positives in 4 buckets or more, classes of 4
    items or more."""


def opis(
    vectors: NDArray[np.floating],
    labels: Sequence[str | int | None] | NDArray[np.generic],
    *,
    far: tuple[float, float] = RANGE_FAR,
    spacing: str = "euclidean",
    c: float = 1.0,
) -> Opis:
    """OPIS of embeddings ``vectors`` (n, d) with ``labels`` (n,), classes as groups.

    Labels are str or int; an item of label None is left out. Vectors are scaled to unit length.
    The calibration range lies between the thresholds where
    the FAR of all pairs equals the two of ``far``; 101 thresholds, spaced by one of
    ``ranges.SPACINGS``. Neither the order of the rows nor the names of the labels matter.

    >>> import numpy as np
    >>> from pipeline.consistency.opis import opis
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([f"class {i}" for i in range(60)], 10)
    >>> centres = np.repeat(rng.normal(size=(60, 32)), 10, axis=0)
    >>> alike = opis(centres + rng.normal(0, 1.0, (600, 32)), labels)
    >>> scatter = np.repeat(rng.uniform(0.5, 1.5, 60), 10)[:, None]  # some classes are wide
    >>> unlike = opis(centres + scatter * rng.normal(0, 1.0, (600, 32)), labels)
    >>> bool(unlike.corrected.lower > alike.corrected.upper), unlike.groups_corrected
    (True, 60)

    Raises ``ValueError`` where no range exists: no vectors, a single class, no two items of one
    class, all vectors equal; and for vectors that are zero or not finite.
    """
    rows = np.asarray(vectors)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"vectors: shape {rows.shape}; expected (n, d) with at least one row")
    if len(labels) != len(rows):
        raise ValueError(f"{len(rows)} vectors, {len(labels)} labels; expected one label a row")
    names = [_name(row, label) for row, label in enumerate(labels)]
    units, nameless = unit(rows), [""] * len(names)  # without ids, vectors order the items
    curve = class_far(units, names)
    thresholds = spaced(*curve.range(far), spacing, far_curve=curve)
    return opis_of(count_classes(units, names, nameless, Grid(thresholds)), thresholds, c=c)


def _name(row: int, label: object) -> str | None:
    if label is None or isinstance(label, str):
        return label
    if isinstance(label, int | np.integer):
        return str(label)
    raise ValueError(f"row {row}: label {label!r}; expected a str, an int, or None for no label")


def opis_of(
    counts: OperatingCounts | ClassCounts,
    thresholds: Thresholds,
    *,
    c: float = 1.0,
    tail: float = TAIL,
) -> Opis:
    """OPIS of the groups in ``counts``; NaN where fewer than two groups can be compared.

    The interval of customers is that of OPIS of these very customers over new identities; the
    interval of classes is that of OPIS over as many new classes of the same population.
    ``tail``: probability on either side of it, by default for one look
    (``intervals.sequence_tail`` for a monitor).
    """
    curves = curves_of(counts, thresholds, c)
    plain = curves.curve()
    seen = ~np.isnan(plain).any(axis=1)
    raw = math.nan
    if seen.sum() > 1:
        raw = float(np.square(plain[seen] - plain[seen].mean(axis=0)).mean())
    products = split_products(curves.splits(), curves.evidence >= MIN_EVIDENCE)
    known = ~np.isnan(products)
    if not known.any():
        interval = UNKNOWN
    elif isinstance(curves, ClassCurves):
        interval = resampled_mean(products[known], tail)
    else:
        interval = _over_identities(curves, known, float(products[known].mean()), tail)
    return Opis(raw, interval, int(seen.sum()), int(known.sum()))


def opis_difference(
    ours: OperatingCounts | ClassCounts,
    theirs: OperatingCounts | ClassCounts,
    thresholds: tuple[Thresholds, Thresholds],
) -> Interval:
    """Corrected OPIS of ``ours`` minus that of ``theirs``, over the groups that both have.

    ``thresholds``: the calibration range of each, since two embeddings have different scales.
    Paired by bucket of identities (customers), or by class; over new ones of which the interval
    holds: ``opis_of``. ``ValueError`` for customers against classes.
    """
    pair = curves_of(ours, thresholds[0]), curves_of(theirs, thresholds[1])
    first, second = pair
    masks = _in_both(pair)
    if isinstance(first, ClassCurves) and isinstance(second, ClassCurves):
        products = [
            split_products(curves.splits(), mask)[mask]
            for curves, mask in zip(pair, masks, strict=True)
        ]
        gaps = products[0] - products[1]
        return resampled_mean(gaps[~np.isnan(gaps)])
    if not (isinstance(first, BucketCurves) and isinstance(second, BucketCurves)):
        raise ValueError("counts of customers against counts of classes; expected one kind")

    def difference(kept: Kept) -> NDArray[np.float64]:
        return _corrected(first, kept, masks[0]) - _corrected(second, kept, masks[1])

    occupied = first.occupied | second.occupied
    variance = jackknife_variance(difference, occupied)
    return student(float(difference(ALL)), float(variance), int(occupied.sum()) - 1)


def opis_population(opis: Opis) -> float:
    """Variance over the population of groups, ``T / (T - 1)`` times the corrected value."""
    groups = opis.groups_corrected
    return opis.corrected.value * groups / (groups - 1) if groups > 1 else math.nan


def split_products(
    splits: Iterable[tuple[Curve, Curve]], groups: Kept
) -> NDArray[np.float64]:
    """(G,) mean over ``splits`` and thresholds of the product of the halves' gaps to their mean.

    ``splits``: curves (G, K) from either half; over the ``groups`` (G,) marked. A group counts in
    the splits of which both halves know it and another one; NaN where there is none.
    """
    total, counted = np.zeros(groups.size), np.zeros(groups.size)
    for first, second in splits:
        known = ~np.isnan((first + second).sum(axis=1)) & groups
        # A group alone in a split has no gap to a mean: a gap of 0 would be made up.
        if known.sum() < 2:
            continue
        gaps = [half[known] - half[known].sum(axis=0) / known.sum() for half in (first, second)]
        total[known] += np.einsum("gk,gk->g", *gaps) / first.shape[1]
        counted[known] += 1
    return np.where(counted > 0, total / np.maximum(counted, 1), np.nan)


def _corrected(curves: BucketCurves, kept: Kept, groups: Kept) -> NDArray[np.float64]:
    """Corrected OPIS of the marked ``groups`` from the ``kept`` buckets."""
    products = split_products(curves.splits(kept), groups)
    known = ~np.isnan(products)
    return np.asarray(products[known].mean() if known.any() else np.nan)


def _over_identities(curves: BucketCurves, known: Kept, value: float, tail: float) -> Interval:
    """OPIS is the mean square of the ``known`` groups' gaps to their mean curve."""
    shape = (-1, 1, int(known.sum()) * curves.curve().shape[1])
    gaps = [entry - entry.mean(axis=-2, keepdims=True) for entry in (
        curves.curve()[known], jackknife_deviations(curves.curve, curves.occupied)[:, known]
    )]  # fmt: skip
    degrees = np.asarray([int(curves.occupied.sum()) - 1])
    return squared_norm(
        np.asarray([value]), gaps[0].reshape(shape)[0], gaps[1].reshape(shape), degrees, tail
    )[0]


def _in_both(pair: tuple[BucketCurves | ClassCurves, BucketCurves | ClassCurves]) -> list[Kept]:
    """Marks the groups of each that both know well enough for a corrected value."""
    names = [np.asarray(curves.groups, np.object_) for curves in pair]
    enough = [curves.evidence >= MIN_EVIDENCE for curves in pair]
    both = set(names[0][enough[0]].tolist()) & set(names[1][enough[1]].tolist())
    return [np.asarray([name in both for name in curves.groups], np.bool_) for curves in pair]
