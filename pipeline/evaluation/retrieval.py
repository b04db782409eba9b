"""Whether the nearest items are the right ones, whatever the threshold: R@k and MAP@R.

Neighbours stand in the order of an answer: by deciding distance, then by item id. Distances in
float32 only propose: whoever lies within their rounding of the last place is measured again, so
that every number is the one that brute force gives, ties included.

    R@k   = share of queries with an item of their label among the k nearest
    MAP@R = mean over queries of 1/R sum_{i <= R} precision_i [i-th nearest has the label],
            R = the query's number of items of its label

MAP@R: Musgrave, Belongie and Lim, "A Metric Learning Reality Check", ECCV 2020, arXiv:2003.08505.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.search.gallery import Gallery
from pipeline.search.visibility import Queries, blocks, label_codes, own_rows

KS = (1, 5, 10)
"""Depths of R@k where none are asked for."""

Apart = tuple[NDArray[np.object_], NDArray[np.object_]]
"""A value of each query and of each gallery row (the vendor, say); pairs with equal values are
left out."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What the nearest items are worth, over the queries that have a positive to find."""

    recall: dict[int, float]
    """R@k by k, in [0, 1]; NaN without queries."""
    map_at_r: float
    """MAP@R, in [0, 1]; NaN without queries or where it was not asked for."""
    queries: int
    """Queries with a positive among the items that they see."""


def retrieval(
    queries: Queries,
    gallery: Gallery,
    counted: NDArray[np.bool_],
    ks: tuple[int, ...] = KS,
    *,
    apart: Apart | None = None,
    map_at_r: bool = True,
) -> Retrieval:
    """R@k for each of ``ks`` and MAP@R of the ``queries`` against the rows in ``counted`` (m,).

    Every query meets the items that its customer sees, never itself. A query whose k reaches
    beyond its items has all of them among the nearest.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"k: expected whole numbers from 1 up, got {ks}")
    codes, stored = label_codes(queries.label, gallery.label)
    own = own_rows(queries, gallery)
    hits, precision, total = np.zeros(len(ks)), 0.0, 0
    for block, rows in blocks(queries, gallery):
        rows = rows[counted[rows] & (stored[rows] >= 0)]
        left_out = own[block][:, None] == rows[None, :]
        if apart is not None:
            left_out |= apart[0][block][:, None] == apart[1][rows][None, :]
        positive = (codes[block][:, None] == stored[rows][None, :]) & ~left_out
        relevant = positive.sum(axis=1)
        asked = np.flatnonzero(relevant)
        if not asked.size:
            continue
        depths = np.maximum(relevant[asked], max(ks)) if map_at_r else np.full(asked.size, max(ks))
        nearest = _nearest(queries, gallery, (block[asked], rows), left_out[asked], depths)
        for query, found in zip(asked, nearest, strict=True):
            right = positive[query, found]
            hits += [right[:k].any() for k in ks]
            if map_at_r:
                precision += _average_precision(right[: relevant[query]], int(relevant[query]))
        total += asked.size
    if not total:
        return Retrieval(dict.fromkeys(ks, np.nan), np.nan, 0)
    recall = {k: float(hit) / total for k, hit in zip(ks, hits, strict=True)}
    return Retrieval(recall, precision / total if map_at_r else np.nan, total)


def recall_at_1(
    queries: Queries,
    gallery: Gallery,
    counted: NDArray[np.bool_],
    apart: Apart | None = None,
) -> tuple[float, int]:
    """Share of queries whose nearest item has their label, and the number of such queries.

    Only queries with a positive to find count.
    """
    found = retrieval(queries, gallery, counted, (1,), apart=apart, map_at_r=False)
    return found.recall[1], found.queries


def _average_precision(right: NDArray[np.bool_], relevant: int) -> float:
    """AP@R of one query: ``right`` (<= R,) says which of its R nearest have its label."""
    places = np.flatnonzero(right)
    return float(((np.arange(places.size) + 1) / (places + 1)).sum() / relevant)


def _nearest(
    queries: Queries,
    gallery: Gallery,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    left_out: NDArray[np.bool_],
    depths: NDArray[np.int64],
) -> list[NDArray[np.int64]]:
    """For each query row of ``pairs[0]``: the columns of its ``depths`` nearest, in order.

    ``pairs[1]``: the gallery rows that the columns stand for. ``left_out`` (b, r) columns that
    a query does not meet.
    """
    asking, rows = pairs
    vectors = np.ascontiguousarray(gallery.vectors[rows])
    proposed = queries.vectors[asking] @ vectors.T
    proposed[left_out] = -np.inf
    # Error of a float32 sum of d products, for vectors whose norms are within the tolerance.
    slack = 2.1 * (vectors.shape[1] + 2) * float(np.finfo(np.float32).eps)
    depth = int(min(depths.max(), rows.size))
    last = np.partition(proposed, rows.size - depth, axis=1)[:, rows.size - depth :]
    last.sort(axis=1)
    nearest = []
    for i, query in enumerate(asking):
        place = depth - min(int(depths[i]), depth)
        near = np.flatnonzero(proposed[i] >= last[i, place] - slack)
        near = near[~left_out[i, near]]
        exact = distance.deciding(queries.vectors[query][None], vectors[near])[0]
        order = np.lexsort((gallery.rank[rows[near]], exact))
        nearest.append(near[order[: depths[i]]])
    return nearest
