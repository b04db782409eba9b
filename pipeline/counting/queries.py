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

from pipeline.counting.binning import ruler_of
from pipeline.counting.operating import (
    BUCKETS,
    NEGATIVE,
    POSITIVE,
    Grid,
    OperatingCounts,
    bucket_of,
)
from pipeline.counting.tallies import count_queries
from pipeline.counting.tiles import bins_of_tile, room_for
from pipeline.search.gallery import Gallery
from pipeline.search.threshold import Reached
from pipeline.search.visibility import BLOCK, Queries, blocks, label_codes, own_rows

SHARED = "_shared"
"""Group of the queries that belong to no customer and see the shared items alone."""

_COLUMNS = 16_384  # items that a block of queries is compared with at a time

Proposals = Callable[[str | None, NDArray[np.float32], float], Reached]
"""What the served path finds for (customer, query (d,), largest threshold): ``Index.reach``."""


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


def count_pairs(
    grid: Grid,
    queries: Queries,
    gallery: Gallery,
    counted: NDArray[np.bool_],
    proposals: Proposals | None = None,
    *,
    pooled: bool = False,
) -> IdentityCounts:
    """Count the pairs of ``queries`` with the gallery rows marked in ``counted`` (m,).

    With ``proposals`` the count at each edge is that of the served path: a pair that the index
    does not propose is accepted only from the threshold on at which the search looks at all rows.
    ``pooled``: one row a customer, its identities summed (for grids too fine to keep a row an
    identity).
    """
    queries = queries.take(np.asarray([label is not None for label in queries.label], np.bool_))
    names = [SHARED if customer is None else customer for customer in queries.customer]
    identities = [""] * len(names) if pooled else queries.label.tolist()
    keys = sorted(set(zip(names, identities, strict=True)))
    row = {key: i for i, key in enumerate(keys)}
    index = np.fromiter((row[key] for key in zip(names, identities, strict=True)), np.int64)
    codes, stored = label_codes(queries.label, gallery.label)
    own = own_rows(queries, gallery)
    pairs = np.zeros((len(keys), 2, grid.bins), np.int64)
    ruler, found = ruler_of(grid, queries.vectors, gallery.vectors), room_for(BLOCK * _COLUMNS)
    for block, visible in blocks(queries, gallery):
        visible = visible[counted[visible] & (stored[visible] >= 0)]
        asked = (index[block], codes[block], own[block])
        reached = _reached(grid, proposals, queries, block, visible)
        for start in range(0, visible.size, _COLUMNS):
            rows = visible[start : start + _COLUMNS]
            ends, shown = (queries.vectors[block], gallery.vectors[rows]), (rows, stored[rows])
            whole_rows = np.zeros(block.size, np.int64)
            near = bins_of_tile(ends[0] @ ends[1].T, whole_rows, ends, ruler, found)
            some = (found[0][:near], found[1][:near], found[2][:near])
            proposed = np.ascontiguousarray(reached[0][:, start : start + _COLUMNS])
            count_queries(some, asked, shown, (proposed, reached[1]), pairs)
            _count_all(asked, shown, pairs)
    pairs[:, :, -1] -= pairs[:, :, :-1].sum(axis=2)  # from all pairs to those beyond the grid
    named = [np.asarray([key[part] for key in keys], np.object_) for part in (0, 1)]
    return IdentityCounts(grid, named[0], named[1], pairs.astype(np.float64))


def _count_all(
    asked: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    shown: tuple[NDArray[np.int64], NDArray[np.int64]],
    out: NDArray[np.int64],
) -> None:
    """Add to the last bin how many pairs there are, near or far; as ``count_queries``."""
    (index, codes, own), (rows, labels) = asked, shown
    others = own[:, None] != rows[None, :]
    positive = ((codes[:, None] == labels[None, :]) & others).sum(axis=1)
    np.add.at(out[:, POSITIVE, -1], index, positive)
    np.add.at(out[:, NEGATIVE, -1], index, others.sum(axis=1) - positive)


def _reached(
    grid: Grid,
    proposals: Proposals | None,
    queries: Queries,
    block: NDArray[np.int64],
    visible: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(b, v) whether the served path proposes each pair, (b,) bin from which it finds the others.

    Empty where that is not asked.
    """
    if proposals is None:
        return np.empty((0, 0), np.bool_), np.empty(0, np.int64)
    proposed = np.empty((block.size, visible.size), np.bool_)
    others_from = np.empty(block.size, np.float32)
    for place, query in enumerate(block):
        reached = proposals(
            queries.customer[query], queries.vectors[query], float(grid.edges[-1])
        )
        proposed[place] = np.isin(visible, reached.rows)
        others_from[place] = reached.all_from
    return proposed, grid.bin_of(others_from)
