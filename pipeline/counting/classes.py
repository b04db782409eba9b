"""Counts of all pairs with classes as groups: the published form of threshold consistency.

Every unordered pair of distinct labelled items counts once, whatever its customer or role.
Positives of a class are the pairs inside it, negatives the pairs with exactly one end in it, so
every negative pair counts for two classes. Beside the whole stand fixed random halves of each
class's items, from which values without sampling noise are made (docs/methods.md section 1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.counting.operating import NEGATIVE, Grid, Rates

SPLITS = 8
"""Fixed random halves of each class. Memory is linear in their number: 0.26 GB at 10,000 classes
and 101 edges. In the test world of methods.md, a corrected OPIS over 8 splits has a standard
deviation 3 to 19 % above that over all splits; over 16 it would be 1 to 10 % above."""

UNITS = 32
"""Most units of a class: its items, or where it has more, groups of them of equal size."""


@dataclass(frozen=True, slots=True)
class ClassCounts(Rates):
    """Pairs by class, kind and distance bin: all of them, and those of each half of a class."""

    grid: Grid
    groups: tuple[str, ...]
    """(G,) names of the classes, sorted and unique."""
    items: NDArray[np.int64]
    """(G,) items of each class."""
    whole: NDArray[np.float64]
    """(G, 2, T + 1) counts; axis 1 is NEGATIVE, POSITIVE."""
    halves: NDArray[np.float64]
    """(G, SPLITS, 2, 2, T + 1) counts: split, half, kind, bin. A positive pair counts for a half
    that holds both its ends, a negative pair for the half that holds the class's own end."""

    def __post_init__(self) -> None:
        """Refuse shapes and names that do not fit."""
        groups, bins = len(self.groups), self.grid.bins
        shapes = {
            "items": (groups,),
            "whole": (groups, 2, bins),
            "halves": (groups, SPLITS, 2, 2, bins),
        }
        for name, expected in shapes.items():
            found = getattr(self, name).shape
            if found != expected:
                raise ValueError(f"{name}: expected shape {expected}, got {found}")
        if list(self.groups) != sorted(set(self.groups)):
            raise ValueError("groups: expected sorted, unique names")

    def __add__(self, other: ClassCounts) -> ClassCounts:
        """The counts of two shards of the same items.

        Raises ``ValueError`` for other grids, classes or numbers of items: every pair has two
        ends, so counts of different items leave out the pairs between them and do not add.
        """
        self.grid.require_same(other.grid)
        if self.groups != other.groups or not np.array_equal(self.items, other.items):
            raise ValueError("counts of different items cannot be added; count them together")
        return ClassCounts(
            self.grid,
            self.groups,
            self.items,
            self.whole + other.whole,
            self.halves + other.halves,
        )

    def totals(self) -> NDArray[np.float64]:
        """(G, 2) pairs of each class: negatives, positives."""
        return np.asarray(self.whole.sum(axis=2))

    def accepted(self) -> NDArray[np.float64]:
        """(G, 2, T) pairs of each class accepted at each edge."""
        return np.asarray(self.whole[:, :, :-1].cumsum(axis=2))

    def pooled(self) -> NDArray[np.float64]:
        """(2, T + 1) pairs of all classes together, every unordered pair once."""
        total = self.whole.sum(axis=0)
        total[NEGATIVE] /= 2  # each was counted at both its ends
        return np.asarray(total)


def ranks_in_class(
    codes: NDArray[np.int64],
    item_ids: Sequence[str],
    vectors: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(n,) place of each item inside its class, by a digest of its id: from 0 up, never tied.

    ``codes`` (n,) class of each item, ``item_ids`` (n,), ``rows`` (n,) its row of ``vectors``.

    A function of the class's items alone: neither the order of rows nor the names of labels
    moves it. Where two customers use one id, their vectors decide; if those are equal too, the
    two items are interchangeable.
    """
    digests = _digests([item.encode() for item in item_ids])
    order = np.lexsort((digests, codes))
    first, second = order[:-1], order[1:]
    tied = (codes[first] == codes[second]) & (digests[first] == digests[second])
    if tied.any():
        twice = np.unique(np.concatenate([first[tied], second[tied]]))
        further = np.zeros(len(codes), np.uint64)
        further[twice] = _digests([vectors[row].tobytes() for row in rows[twice]])
        order = np.lexsort((further, digests, codes))
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    ranks = np.empty(len(codes), np.int64)
    ranks[order] = np.arange(len(codes)) - starts[codes[order]]
    return ranks


def _digests(texts: Sequence[bytes]) -> NDArray[np.uint64]:
    joined = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(joined, "<u8")


@cache
def half_bits(items: int) -> NDArray[np.uint8]:
    """(min(items, 32),) for each unit of a class of so many items, its half in each split.

    Bit s is the half in split s. Item r belongs to unit r mod 32. The halves of every split hold
    equally many items, give or take one. The same for ever: gauges must be reproducible.
    """
    units = min(items, UNITS)
    larger = items % UNITS if items > UNITS else 0
    bits = np.zeros(units, np.uint8)
    for split in range(SPLITS):
        # The larger units come first and halves alternate, so no half gets two more than the
        # other; of an odd number of items, the halves take turns to hold one more.
        order = sorted(range(units), key=lambda unit: (unit >= larger, _draw(split, units, unit)))
        for place, unit in enumerate(order):
            bits[unit] |= np.uint8(((place + split) % 2) << split)
    bits.flags.writeable = False  # cached, so shared
    return bits


def _draw(split: int, units: int, unit: int) -> bytes:
    return hashlib.blake2b(f"{split}/{units}/{unit}".encode(), digest_size=8).digest()
