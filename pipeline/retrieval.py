"""Whether the nearest items are the right ones, whatever the threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.gallery import Gallery
from pipeline.visibility import Queries, blocks, label_codes, own_rows


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
    codes, stored = label_codes(queries.label, gallery.label)
    own = own_rows(queries, gallery)
    right = total = 0
    for block, rows in blocks(queries, gallery):
        rows = rows[counted[rows] & (stored[rows] >= 0)]
        distances = distance.deciding(queries.vectors[block], gallery.vectors[rows])
        left_out = own[block][:, None] == rows[None, :]
        if apart is not None:
            left_out |= apart[0][block][:, None] == apart[1][rows][None, :]
        positive = (codes[block][:, None] == stored[rows][None, :]) & ~left_out
        asked = positive.any(axis=1)
        distances[left_out] = np.inf
        nearest = _nearest(distances[asked], gallery.rank[rows])
        right += int(positive[asked][np.arange(nearest.size), nearest].sum())
        total += nearest.size
    return (right / total if total else float("nan")), total


def _nearest(distances: NDArray[np.float32], rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) column of each row's nearest item; of equally near ones the first id, as served."""
    if distances.size == 0:
        return np.zeros(len(distances), np.int64)
    ties = distances == distances.min(axis=1, keepdims=True)
    return np.asarray(np.where(ties, rank, np.iinfo(np.int64).max).argmin(axis=1))
