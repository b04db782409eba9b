"""What one customer sees: a gallery under the online changes, searched as if it were one.

The index proposes gallery rows as ever; those that are gone are left out. Of the added items all
are looked at, and every one that could decide the answer is compared exactly. Added items have
rows too: ``len(gallery)`` plus the number of the change that added them, the same for ever and in
every picture of the changes.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.distance import Distances, Vectors
from pipeline.item_log.overlay import UNCHANGED, Overlay
from pipeline.search.gallery import Gallery
from pipeline.search.threshold import Found, Index

FOLDED_METADATA = "limen_metadata"
"""Column of a gallery with the metadata of items that were put online, each as one JSON text:
as columns, their names would be told to every customer."""

SCANNED_BELOW = 256
"""So few added items are compared exactly at once."""

Position = tuple[np.float32, str]
"""(distance, item_id) of a match: where the next page starts, after it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The items of one customer and the shared ones."""

    index: Index
    customer: str | None
    changes: Overlay = UNCHANGED
    up_to: int | None = None
    """Items added by a later change of the customer are not there yet; None: all are."""

    @property
    def gallery(self) -> Gallery:
        """The gallery below the changes."""
        return self.index.gallery

    def item_id(self, row: int) -> str:
        """The id of a row's item."""
        if row < len(self.gallery):
            return str(self.gallery.item_id[row])
        return self.changes.item_id(self.changes.place_of(row - len(self.gallery)))

    def metadata(self, row: int) -> dict[str, object]:
        """The metadata of a row's item; empty where there is none."""
        if row >= len(self.gallery):
            return dict(self.changes.metadata(self.changes.place_of(row - len(self.gallery))))
        table = self.gallery.metadata
        found = {name: table[name][row].as_py() for name in table.column_names}
        folded = found.pop(FOLDED_METADATA, None)
        if folded is None:
            return found
        put: dict[str, object] = json.loads(folded)
        return put

    def distances(self, query: NDArray[np.float32]) -> tuple[NDArray[np.int64], Distances]:
        """All rows (m,) and their deciding distances (m,) from ``query`` (d,)."""
        rows = [np.empty(0, np.int64)]
        distances = [np.empty(0, np.float32)]
        for segment in self.gallery.visible(self.customer):
            rows.append(np.arange(segment.start, segment.stop))
            distances.append(distance.deciding(query[None, :], self.gallery.vectors[segment])[0])
        kept = ~np.isin(np.concatenate(rows), self.changes.gone)
        places = self._shown()
        added = distance.deciding_one(query, self.changes.known(), places)
        return (
            np.concatenate([np.concatenate(rows)[kept], self._rows(places)]),
            np.concatenate([np.concatenate(distances)[kept], added]),
        )

    def search(self, queries: Vectors, threshold: np.float32, *, exact: bool) -> list[Found]:
        """For each of the queries (n, d) all matches and the nearest rejected, as ``Index`` does.

        What is proven of the gallery is proven of the whole.
        """
        found = self.index.search_batch(self.customer, queries, threshold, exact=exact)
        if self.changes.is_empty:
            return found
        shown = self._shown()
        return [
            self._merged(self._without_gone(one, query, threshold, exact), query, shown, threshold)
            for one, query in zip(found, queries, strict=True)
        ]

    def place_after(self, found: Found, after: Position) -> int:
        """The first place in ``found`` behind ``after`` in the order of (distance, item_id)."""
        level = np.float32(after[0])
        first = int(np.searchsorted(found.distances, level, side="left"))
        beyond = int(np.searchsorted(found.distances, level, side="right"))
        return bisect_right(
            range(beyond), after[1], lo=first,
            key=lambda place: self.item_id(int(found.rows[place])),
        )

    def _shown(self) -> NDArray[np.int64]:
        """Places of the added items that are there."""
        places = self.changes.places
        if self.up_to is None:
            return places
        return places[self.changes.numbers(places) <= self.up_to]

    def _rows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(len(self.gallery) + self.changes.numbers(places), np.int64)

    def _deciding(
        self, query: NDArray[np.float32], places: NDArray[np.int64], threshold: np.float32
    ) -> NDArray[np.int64]:
        """Those of the added items at ``places`` that can match, or be the nearest rejected."""
        if places.size < SCANNED_BELOW:
            return places
        known = self.changes.known()
        # Cut off at 2, as distances are: those beyond are ties, and matches at that threshold.
        near = np.minimum(1.0 - (known @ query)[places].astype(np.float64), distance.MAX_DISTANCE)
        # The bound of a float32 sum of products of unit vectors, d * 2**-24 (Higham, Accuracy and
        # Stability of Numerical Algorithms, section 3.1), twice: for norms a little over 1 and
        # the rounding of distances.
        error = (known.shape[1] + 2) * 2.0**-23
        rejected = near[near > float(threshold) + error]
        if not rejected.size:
            return places
        return np.asarray(places[near <= rejected.min() + 2 * error])

    def _without_gone(
        self, found: Found, query: NDArray[np.float32], threshold: np.float32, exact: bool
    ) -> Found:
        """What is left of ``found`` once gone rows are out, looking further for one to reject."""
        gone = self.changes.gone
        count = found.match_count
        matches = ~np.isin(found.rows[:count], gone)
        further, asked = found, 1
        while True:
            places = np.arange(further.match_count, further.rows.size)
            left = places[~np.isin(further.rows[places], gone)][:1]
            if left.size or further.rows.size < max(further.match_count + 1, asked):
                break
            # The matches stay those of the first look: pages must not differ by how much of the
            # gallery happens to be gone.
            asked = 2 * further.rows.size
            further = self.index.search(
                self.customer, query, threshold, at_least=asked, exact=exact
            )
        return Found(
            np.concatenate([found.rows[:count][matches], further.rows[left]]),
            np.concatenate([found.distances[:count][matches], further.distances[left]]),
            int(np.count_nonzero(matches)), found.match_recall,
        )

    def _merged(
        self, found: Found, query: NDArray[np.float32], shown: NDArray[np.int64],
        threshold: np.float32,
    ) -> Found:
        """``found`` with those of the added items that match, or are the nearest rejected."""
        places = self._deciding(query, shown, threshold)
        rows = self._rows(places)
        distances = distance.deciding_one(query, self.changes.known(), places)
        matches = distance.accepts(distances, threshold)
        new = self._ordered(rows[matches], distances[matches])
        rejected = distances[~matches]
        if rejected.size:
            nearest = rejected == rejected.min()
            new += self._ordered(rows[~matches][nearest], rejected[nearest])[:1]
        at = [self.place_after(found, (near, item_id)) for near, item_id, _ in new]
        count = found.match_count + int(np.count_nonzero(matches))
        return Found(
            np.insert(found.rows, at, [row for _, _, row in new])[: count + 1],
            np.insert(found.distances, at, [near for near, _, _ in new])[: count + 1],
            count, found.match_recall,
        )

    def _ordered(
        self, rows: Sequence[int] | NDArray[np.int64], distances: Distances
    ) -> list[tuple[np.float32, str, int]]:
        return sorted(
            (near, self.item_id(int(row)), int(row))
            for near, row in zip(distances, rows, strict=True)
        )
