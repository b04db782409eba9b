"""What a customer's online changes make of a release's gallery: an immutable picture.

It says which gallery rows are gone and which items were added. An item put again is both: its old
row is gone, the new one is added. Shared items belong to nobody who could change them. Further
changes make a new picture that shares its vectors with the one before. Each customer has its own
picture, so that nobody waits for what others change.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.distance import Vectors
from pipeline.item_log.changes import Change, LogEnd, Metadata
from pipeline.search.gallery import Gallery

Embedded = tuple[Change, NDArray[np.float32] | None]
"""A change with its item's unit vector (d,); None where it is deleted or set aside."""

_NONE = np.empty(0, np.int64)
_NONE.flags.writeable = False


class _Pile:
    """Items one after the other; pictures see the first ones, and only the newest one adds."""

    def __init__(self, dimension: int) -> None:
        self.item_ids: list[str] = []
        self.metadata: list[Metadata | None] = []
        self.place: dict[str, int] = {}
        """Of each item the last place."""
        self._vectors = np.empty((16, dimension), np.float32)
        self._numbers = np.empty(16, np.int64)

    def __len__(self) -> int:
        return len(self.item_ids)

    def add(self, change: Change, vector: NDArray[np.float32]) -> int:
        """The place of a new item."""
        place = len(self)
        if place == len(self._vectors):  # a reader keeps the array that it has
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
            self._numbers = np.concatenate([self._numbers, np.empty_like(self._numbers)])
        self._vectors[place] = vector
        self._numbers[place] = change.own_number
        self.item_ids.append(change.item_id)
        self.metadata.append(change.metadata)
        self.place[change.item_id] = place
        return place

    def vectors(self, count: int) -> Vectors:
        return self._vectors[:count]

    def numbers(self, count: int) -> NDArray[np.int64]:
        return self._numbers[:count]

    def only(self, places: NDArray[np.int64]) -> _Pile:
        """A pile of its own with the items at ``places``, ascending."""
        pile = _Pile(self._vectors.shape[1])
        room = max(16, 2 * places.size)
        pile._vectors = np.empty((room, self._vectors.shape[1]), np.float32)
        pile._vectors[: places.size] = self._vectors[places]
        pile._numbers = np.empty(room, np.int64)
        pile._numbers[: places.size] = self._numbers[places]
        pile.item_ids = [self.item_ids[place] for place in places]
        pile.metadata = [self.metadata[place] for place in places]
        pile.place = {item_id: place for place, item_id in enumerate(pile.item_ids)}
        return pile


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """The changes of one customer, relative to one gallery. Numbers are the customer's own."""

    log: str = ""
    """Identity of the log they are of; empty before one was read."""
    number: int = 0
    """Of the last change: all up to it are in here, or in the gallery itself."""
    last_removal: int = 0
    """Of the last change that took something away which was there."""
    gone: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    """(g,) gallery rows that are no longer there, ascending."""
    places: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    """(a,) places in the pile of the items that are there, ascending."""
    count: int = 0
    """Of the pile this picture knows the first ``count``."""
    pile: _Pile | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the gallery alone says what there is."""
        return not self.gone.size and not self.places.size

    def known(self) -> Vectors:
        """(count, d) vectors of added items, those of ``places`` and some that are gone."""
        return np.empty((0, 0), np.float32) if self.pile is None else self.pile.vectors(self.count)

    def numbers(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The change numbers of the items at ``places``."""
        return _NONE if self.pile is None else self.pile.numbers(self.count)[places]

    def place_of(self, number: int) -> int:
        """The place of the item that was added by change ``number``; ``KeyError`` if none was."""
        if self.pile is not None:
            numbers = self.pile.numbers(self.count)
            place = int(np.searchsorted(numbers, number))
            if place < self.count and numbers[place] == number:
                return place
        raise KeyError(f"change {number} added no item")

    def adds(self, item_id: str) -> bool:
        """Whether an item of this id was added and is there."""
        place = None if self.pile is None else self.pile.place.get(item_id)
        return place is not None and self._has(place)

    def item_id(self, place: int) -> str:
        """The id of the item at a place."""
        assert self.pile is not None
        return self.pile.item_ids[place]

    def metadata(self, place: int) -> Metadata:
        """The metadata of the item at a place; empty where it has none."""
        assert self.pile is not None
        return self.pile.metadata[place] or {}

    def then(
        self, changes: Iterable[Embedded], end: LogEnd, gallery: Gallery, rows: slice | None
    ) -> Overlay:
        """The picture after further changes of the customer, which reach ``end`` at least.

        ``rows``: those of the customer in ``gallery``.
        """
        pile = self.pile or _Pile(gallery.dimension)
        if len(pile) != self.count:  # another picture has grown from this one
            pile = pile.only(np.arange(self.count))
        number, last_removal = max(self.number, end.number), self.last_removal
        taken: set[int] = set()
        gone: set[int] = set()
        for change, vector in changes:
            number = max(number, change.own_number)
            place = pile.place.get(change.item_id)
            if place is not None and place not in taken and self._has(place):
                taken.add(place)
                last_removal = change.own_number
            row = row_of(gallery, rows, change.item_id)
            if row is not None and row not in gone and not _holds(self.gone, row):
                gone.add(row)
                last_removal = change.own_number
            if vector is not None:
                pile.add(change, vector)
        places = np.concatenate([self.places, np.arange(self.count, len(pile))])
        if taken:
            places = places[~np.isin(places, list(taken))]
        if places.size < len(pile) // 2:
            pile, places = pile.only(places), np.arange(places.size)
        all_gone = np.union1d(self.gone, list(gone)).astype(np.int64) if gone else self.gone
        return Overlay(end.log, number, last_removal, all_gone, places, len(pile), pile)

    def _has(self, place: int) -> bool:
        """Whether the item at a place is there: those past ``count`` came after this picture."""
        return place >= self.count or _holds(self.places, place)


UNCHANGED = Overlay()


def row_of(gallery: Gallery, segment: slice | None, item_id: str) -> int | None:
    """The row of an item within one segment of ``gallery``, which is sorted by id; None if none."""
    if segment is None:
        return None
    row = bisect_left(gallery.item_id, item_id, segment.start, segment.stop)
    found = row < segment.stop and gallery.item_id[row] == item_id
    return row if found else None


def _holds(ascending: NDArray[np.int64], value: int) -> bool:
    place = int(np.searchsorted(ascending, value))
    return place < ascending.size and bool(ascending[place] == value)
