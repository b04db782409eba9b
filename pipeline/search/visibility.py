"""Which items a query meets: those of its customer and the shared ones, never itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.distance import Vectors
from pipeline.search.gallery import Gallery

BLOCK = 256  # queries whose distances to all visible items are held at a time


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


def blocks(
    queries: Queries, gallery: Gallery
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Queries of one customer, a block at a time, with the gallery rows that they may see."""
    for customer in sorted(set(queries.customer.tolist()), key=str):
        segments = gallery.visible(customer)
        rows = np.concatenate([np.arange(s.start, s.stop) for s in segments] or [np.empty(0, int)])
        mine = np.flatnonzero(queries.customer == customer)
        for start in range(0, mine.size, BLOCK):
            yield mine[start : start + BLOCK], rows


def own_rows(queries: Queries, gallery: Gallery) -> NDArray[np.int64]:
    """(n,) gallery row of each query's own item, -1 where it is not in the gallery."""
    row = {key: i for i, key in enumerate(zip(gallery.customer, gallery.item_id, strict=True))}
    keys = zip(queries.customer, queries.item_id, strict=True)
    return np.fromiter((row.get(key, -1) for key in keys), np.int64)


def label_codes(
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
