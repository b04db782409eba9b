"""FAR, FRR and utility by threshold, as means over units: customers, or classes.

A rule needs the curves of the mean (and of the worst) unit alone, and risk control their number.
So units are taken in one at a time and forgotten: on the fine grid of 16,384 thresholds, a curve
of each of 10,000 classes would take 2.6 GB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from pipeline.consistency.ranges import fine_grid
from pipeline.counting.operating import NEGATIVE, POSITIVE, Curve, utility
from pipeline.counting.queries import SHARED, IdentityCounts, Proposals, count_pairs
from pipeline.search.gallery import Gallery
from pipeline.search.visibility import Queries

_ROWS = 64  # (class, customer) rows counted at a time on the fine grid: 17 MB


@dataclass(frozen=True, slots=True)
class UnitRates:
    """Curves over the units that have both a positive and a negative pair."""

    edges: NDArray[np.float32]
    """(T,) thresholds."""
    unit: str
    """``customer`` or ``label``: what the means are over."""
    units: int
    """How many; without any, all curves are NaN."""
    far: Curve
    """(T,) mean share of a unit's negative pairs accepted; never falls."""
    frr: Curve
    """(T,) mean share of a unit's positive pairs rejected; never rises."""
    mean_utility: Curve
    """(T,) mean of the units' utilities."""
    least_utility: Curve
    """(T,) utility of the worst unit, chosen anew at each threshold."""


def mean_rates(
    edges: NDArray[np.float32], unit: str, rows: Iterable[NDArray[np.float64]]
) -> UnitRates:
    """Curves over units, each given as its counts (2, T + 1) by kind and distance bin."""
    units, size = 0, edges.size
    far, frr, total, least = np.zeros(size), np.zeros(size), np.zeros(size), np.ones(size)
    for pairs in rows:
        all_pairs = pairs.sum(axis=1)
        if not (all_pairs > 0).all():
            continue
        accepted = pairs[:, :-1].cumsum(axis=1)
        shares = accepted / all_pairs[:, None]
        useful = utility(shares[POSITIVE], 1.0 - shares[NEGATIVE])
        units += 1
        far += shares[NEGATIVE]
        frr += (all_pairs[POSITIVE] - accepted[POSITIVE]) / all_pairs[POSITIVE]
        total += useful
        np.minimum(least, useful, out=least)
    n = units or np.nan
    return UnitRates(edges, unit, units, far / n, frr / n, total / n, least if units else far / n)


def customer_rates(counts: IdentityCounts) -> UnitRates:
    """Curves over the customers in ``counts``."""
    cells = zip(counts.groups, counts.pairs, strict=True)
    rows = _summed(sorted(cells, key=itemgetter(0)))
    return mean_rates(counts.grid.edges, "customer", rows)


def class_rates(
    queries: Queries,
    gallery: Gallery,
    counted: NDArray[np.bool_],
    proposals: Proposals | None = None,
) -> UnitRates:
    """Curves over the classes of the queries on the fine grid; arguments as for ``fine_counts``.

    The pairs of a class are those of its queries, whichever customers they belong to.
    """

    def cells() -> Iterator[tuple[str, NDArray[np.float64]]]:
        names = ["" if label is None else label for label in queries.label]
        owners = [SHARED if customer is None else customer for customer in queries.customer]
        keys = sorted(set(zip(names, owners, strict=True)))
        rank = {key: i for i, key in enumerate(keys)}
        chunk = np.fromiter((rank[key] for key in zip(names, owners, strict=True)), np.int64)
        for start in range(0, len(keys), _ROWS):
            rows = np.flatnonzero((chunk >= start) & (chunk < start + _ROWS))
            counts = fine_counts(queries.take(rows), gallery, counted, proposals)
            for i in np.argsort(counts.identities.astype(np.str_), kind="stable"):
                yield counts.identities[i], counts.pairs[i]

    return mean_rates(fine_grid().edges, "label", _summed(cells()))


def fine_counts(
    queries: Queries,
    gallery: Gallery,
    counted: NDArray[np.bool_],
    proposals: Proposals | None = None,
    *,
    pooled: bool = False,
) -> IdentityCounts:
    """Counts on the fine grid for choosing a threshold; arguments as for ``count_pairs``.

    With ``proposals``, a positive is rejected wherever the served path does not find it. Negatives
    count whether found or not: the calibration range is one of FARs that an index which looks at
    few rows could never reach, and a FAR that is met so is met when served.
    """
    counts = count_pairs(fine_grid(), queries, gallery, counted, pooled=pooled)
    if proposals is None:
        return counts
    served = count_pairs(fine_grid(), queries, gallery, counted, proposals, pooled=pooled)
    pairs = counts.pairs.copy()
    pairs[:, POSITIVE] = served.pairs[:, POSITIVE]
    return replace(counts, pairs=pairs)


def _summed(
    cells: Iterable[tuple[str, NDArray[np.float64]]],
) -> Iterator[NDArray[np.float64]]:
    """The sum (2, T + 1) of the rows of each name; equal names follow one another."""
    for _, rows in groupby(cells, key=itemgetter(0)):
        yield np.sum([pairs for _, pairs in rows], axis=0)
