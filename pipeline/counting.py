"""Pairs into counts: every query against every item its customer may see.

The pairs of a customer are (query of that customer, item it can see: its own and the shared
ones), never an item with itself; the pair's customer is the query's. Unlabelled items and
queries are not counted. Rows per identity live only here, inside a job; what a release keeps
is the sum by bucket (docs/methods.md section 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.distance import Vectors
from pipeline.gallery import Gallery
from pipeline.intervals import Interval, clustered_rate
from pipeline.operating import (
    BUCKETS,
    NEGATIVE,
    POSITIVE,
    Grid,
    OperatingCounts,
    bucket_of,
)

SHARED = "_shared"
"""Group of the queries that belong to no customer and see the shared items alone."""

_BLOCK = 256  # queries whose distances to all visible items are held at a time

Proposals = Callable[[str | None, NDArray[np.float32]], NDArray[np.int64]]
"""Gallery rows that the served path would find for (customer, query (d,)) in the whole range."""


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries with what is known of them; all arrays of length n."""

    vectors: Vectors
    item_id: NDArray[np.object_]
    label: NDArray[np.object_]
    customer: NDArray[np.object_]

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.item_id)

    def take(self, rows: NDArray[np.generic]) -> Queries:
        """The queries at ``rows`` (indices or a mask)."""
        return Queries(
            self.vectors[rows], self.item_id[rows], self.label[rows], self.customer[rows]
        )


@dataclass(frozen=True, slots=True)
class IdentityCounts:
    """Pairs by (customer, identity of the query), kind and distance bin."""

    grid: Grid
    groups: NDArray[np.object_]
    """(I,) customer of each row."""
    identities: NDArray[np.object_]
    """(I,) label of each row's queries."""
    pairs: NDArray[np.float64]
    """(I, 2, T + 1) counts; axis 1 is NEGATIVE, POSITIVE."""

    def operating(self) -> OperatingCounts:
        """The sums by customer and bucket of identities."""
        groups = tuple(sorted(set(self.groups.tolist())))
        row = {name: i for i, name in enumerate(groups)}
        total = np.zeros((len(groups), BUCKETS, 2, self.grid.bins))
        group = np.fromiter((row[name] for name in self.groups), np.int64)
        np.add.at(total, (group, bucket_of(self.identities)), self.pairs)
        return OperatingCounts(self.grid, groups, total)

    def rates(self, group: str, threshold: np.float32) -> tuple[Interval, Interval]:
        """FAR and FRR of one customer at ``threshold``, clustered by identity."""
        edge = int(self.grid.position(np.asarray([threshold], np.float32))[0])
        mine = self.pairs[self.groups == group]
        accepted, totals = mine[:, :, : edge + 1].sum(axis=2), mine.sum(axis=2)
        far = clustered_rate(accepted[:, NEGATIVE], totals[:, NEGATIVE], both_ends=True)
        rejected = totals[:, POSITIVE] - accepted[:, POSITIVE]
        return far, clustered_rate(rejected, totals[:, POSITIVE], both_ends=False)


def count_pairs(
    grid: Grid,
    queries: Queries,
    gallery: Gallery,
    counted: NDArray[np.bool_],
    proposals: Proposals | None = None,
) -> IdentityCounts:
    """Count the pairs of ``queries`` with the gallery rows marked in ``counted`` (m,).

    With ``proposals`` the count is that of the served path: a pair that the index does not
    propose is not accepted at any threshold, and falls beyond the last edge.
    """
    queries = queries.take(np.asarray([label is not None for label in queries.label], np.bool_))
    names = np.asarray([SHARED if c is None else c for c in queries.customer], np.object_)
    keys = sorted(set(zip(names.tolist(), queries.label.tolist(), strict=True)))
    row = {key: i for i, key in enumerate(keys)}
    index = np.fromiter(
        (row[key] for key in zip(names.tolist(), queries.label.tolist(), strict=True)), np.int64
    )
    codes = _label_codes(queries.label, gallery.label)
    pairs = np.zeros((len(keys), 2, grid.bins))
    for name in sorted(set(names.tolist())):
        mine = np.flatnonzero(names == name)
        for start in range(0, mine.size, _BLOCK):
            block = mine[start : start + _BLOCK]
            for segment in gallery.visible(None if name == SHARED else name):
                rows = np.arange(segment.start, segment.stop)
                bins = _bins(grid, queries, block, gallery, rows, proposals)
                known = counted[rows] & (codes[1][rows] >= 0)
                valid = known[None, :] & (
                    queries.item_id[block][:, None] != gallery.item_id[rows][None, :]
                )
                positive = codes[0][block][:, None] == codes[1][rows][None, :]
                cell = (index[block][:, None] * 2 + positive) * grid.bins + bins
                pairs += np.bincount(cell[valid], minlength=pairs.size).reshape(pairs.shape)
    groups = np.asarray([key[0] for key in keys], np.object_)
    return IdentityCounts(grid, groups, np.asarray([key[1] for key in keys], np.object_), pairs)


def _bins(
    grid: Grid,
    queries: Queries,
    block: NDArray[np.int64],
    gallery: Gallery,
    rows: NDArray[np.int64],
    proposals: Proposals | None,
) -> NDArray[np.int64]:
    """(b, r) bin of each pair; beyond the last edge where the served path does not propose it."""
    bins = grid.bin_of(distance.deciding(queries.vectors[block], gallery.vectors[rows]))
    if proposals is not None:
        for i, query in enumerate(block):
            found = np.zeros(rows.size, np.bool_)
            proposed = proposals(queries.customer[query], queries.vectors[query])
            found[proposed[(proposed >= rows[0]) & (proposed <= rows[-1])] - rows[0]] = True
            bins[i, ~found] = grid.bins - 1
    return bins


def recall_at_1(
    queries: Queries,
    gallery: Gallery,
    counted: NDArray[np.bool_],
    apart: tuple[NDArray[np.object_], NDArray[np.object_]] | None = None,
) -> tuple[float, int]:
    """Share of queries whose nearest item has their label, and the number of such queries.

    Only queries with a positive to find count. ``apart``: a value of each query and of each
    gallery row (the vendor, say); a pair with equal values is left out.
    """
    codes = _label_codes(queries.label, gallery.label)
    right = total = 0
    for i in range(len(queries)):
        if codes[0][i] < 0:
            continue
        rows = np.concatenate(
            [np.arange(s.start, s.stop) for s in gallery.visible(queries.customer[i])]
        )
        usable = counted[rows] & (codes[1][rows] >= 0)
        usable &= gallery.item_id[rows] != queries.item_id[i]
        if apart is not None:
            usable &= apart[1][rows] != apart[0][i]
        rows = rows[usable]
        positive = codes[1][rows] == codes[0][i]
        if not positive.any():
            continue
        distances = distance.deciding_one(queries.vectors[i], gallery.vectors, rows)
        right += int(positive[distances.argmin()])
        total += 1
    return (right / total if total else float("nan")), total


def _label_codes(
    first: NDArray[np.object_], second: NDArray[np.object_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Integer codes of two label arrays, equal where the labels are; -1 where there is none."""
    code = {
        label: i
        for i, label in enumerate(sorted({*first.tolist(), *second.tolist()} - {None}))
    }
    return (
        np.fromiter((code.get(label, -1) for label in first), np.int64),
        np.fromiter((code.get(label, -1) for label in second), np.int64),
    )
