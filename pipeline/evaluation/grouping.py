"""The same items with two kinds of groups: customers, or classes.

``customer``: the pairs of a customer are (its query, an item that it sees). ``label``: every
unordered pair of distinct labelled items once, whatever its customer or role (docs/methods.md
section 1). Both count first on a fine grid, pooled, to find thresholds, then on the grid asked
for. Only items marked as counted take part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.calibration.class_points import class_points
from pipeline.calibration.points import OperatingPoint, operating_points
from pipeline.consistency.ranges import FarCurve, class_far, fine_grid
from pipeline.counting.classes import SPLITS, ClassCounts
from pipeline.counting.operating import NEGATIVE, POSITIVE, Grid, OperatingCounts
from pipeline.counting.pairs import count_classes
from pipeline.counting.queries import SHARED, IdentityCounts, count_pairs
from pipeline.data.items import Items
from pipeline.evaluation.embedding import REPORT, Population, population
from pipeline.evaluation.retrieval import Retrieval, retrieval

GROUPINGS = ("customer", "label")

_CUSTOMERS = 128  # counted at a time on the fine grid: 34 MB

_ROWS = 256  # of a class, whose distances to the rest of it are held at a time

Points = tuple[OperatingPoint, tuple[OperatingPoint, ...]]


class GroupingError(ValueError):
    """Items whose groups cannot be compared; the message is one line with the remedy."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """What the fine grid says of all groups together."""

    far: FarCurve
    """Over customers their mean, over classes all pairs."""
    pairs: NDArray[np.float64]
    """(2, T + 1) all pairs; axis 0 is NEGATIVE, POSITIVE."""


@dataclass(frozen=True)
class Customers:
    """Groups are the customers of the queries."""

    people: Population

    def retrieval(self, ks: tuple[int, ...]) -> Retrieval:
        """R@k and MAP@R over the items that each query sees."""
        queries, counted = self.people.of(REPORT)
        return retrieval(queries, self.people.gallery, counted, ks)

    def pooled(self) -> Pooled:
        """Counts on the fine grid, some customers at a time."""
        queries, counted = self.people.of(REPORT)
        grid = fine_grid()
        far, pairs, usable = np.zeros(grid.edges.size), np.zeros((2, grid.bins)), 0
        names = sorted(set(queries.customer.tolist()), key=str)
        for start in range(0, len(names), _CUSTOMERS):
            part = set(names[start : start + _CUSTOMERS])
            mine = np.fromiter((name in part for name in queries.customer), np.bool_)
            found = count_pairs(grid, queries.take(mine), self.people.gallery, counted, pooled=True)
            pairs += found.pairs.sum(axis=0)
            both = found.pairs[(found.pairs.sum(axis=2) > 0).all(axis=1), NEGATIVE]
            far += (both[:, :-1].cumsum(axis=1) / both.sum(axis=1, keepdims=True)).sum(axis=0)
            usable += len(both)
        _require(usable, "customer")
        return Pooled(FarCurve(grid.edges, far / usable), pairs)

    @property
    def bytes_an_edge(self) -> int:
        """Memory that ``count`` takes for each edge of its grid."""
        owners, labels = self.people.queries.customer, self.people.queries.label
        return 2 * 8 * len(set(zip(owners.tolist(), labels.tolist(), strict=True)))

    def count(self, grid: Grid) -> IdentityCounts:
        """Pairs by customer and identity."""
        queries, counted = self.people.of(REPORT)
        return count_pairs(grid, queries, self.people.gallery, counted)

    def points(self, counts: IdentityCounts | ClassCounts, threshold: np.float32) -> Points:
        """Rates of the mean and of each customer at the ``threshold``."""
        assert isinstance(counts, IdentityCounts)
        return operating_points(counts, threshold)


@dataclass(frozen=True)
class Classes:
    """Groups are the classes."""

    items: Items
    """Counted items alone."""

    @cached_property
    def _people(self) -> Population:
        """All of them in one place, where everyone sees everything."""
        ids = self.items.item_id
        if len(set(ids.tolist())) < len(ids):  # several customers use one id
            owners = [SHARED if owner is None else owner for owner in self.items.customer]
            ids = np.asarray([f"{i}\0{o}" for i, o in zip(ids, owners, strict=True)], np.object_)
        nobody = np.full(len(ids), None, np.object_)
        both = np.full(len(ids), "both", np.object_)
        flat = replace(self.items, item_id=ids, customer=nobody, role=both)
        return population(np.asarray(flat.content, np.float32), flat)

    def retrieval(self, ks: tuple[int, ...]) -> Retrieval:
        """R@k and MAP@R over all items."""
        queries, counted = self._people.of(REPORT)
        return retrieval(queries, self._people.gallery, counted, ks)

    def pooled(self) -> Pooled:
        """Counts on the fine grid, every unordered pair once."""
        vectors, grid = np.asarray(self.items.content, np.float32), fine_grid()
        pairs = np.zeros((2, grid.bins))
        order = np.argsort(self.items.label.astype(np.str_), kind="stable")
        _, sizes = np.unique(self.items.label.astype(np.str_), return_counts=True)
        for rows in np.split(order, sizes.cumsum()[:-1]):
            for start in range(0, rows.size, _ROWS):
                some = vectors[rows[start : start + _ROWS]]
                bins = grid.bin_of(distance.deciding(some, vectors[rows[start:]]))
                later = np.triu(np.ones(bins.shape, np.bool_), 1)
                pairs[POSITIVE] += np.bincount(bins[later], minlength=grid.bins)
        total = (sizes.sum() ** 2 - np.square(sizes).sum()) / 2
        _require(int(total > 0 and pairs[POSITIVE].sum() > 0), "class")
        far = class_far(vectors, self.items.label.tolist())
        accepted = np.rint(far.far * total)
        pairs[NEGATIVE] = np.diff(accepted, prepend=0, append=total)
        return Pooled(far, pairs)

    @property
    def bytes_an_edge(self) -> int:
        """Memory that ``count`` takes for each edge of its grid."""
        return 2 * 8 * (1 + 2 * SPLITS) * len(set(self.items.label.tolist()))

    def count(self, grid: Grid) -> ClassCounts:
        """Pairs by class, and by halves of its items."""
        items = self.items
        vectors = np.asarray(items.content, np.float32)
        return count_classes(vectors, items.label, items.item_id, grid)

    def points(self, counts: IdentityCounts | ClassCounts, threshold: np.float32) -> Points:
        """Rates over all pairs and of each class at the ``threshold``."""
        assert isinstance(counts, ClassCounts)
        return class_points(counts, threshold)


def grouped(items: Items, counted: NDArray[np.bool_], group: str) -> Customers | Classes:
    """The ``items``, whose content are unit vectors, with ``group`` as groups.

    ``counted`` (n,): labelled items that take part. Under ``customer`` the others still lie in
    the gallery, uncounted. Raises ``GroupingError`` for an unknown group.
    """
    if group not in GROUPINGS:
        raise GroupingError(f"group {group!r}; expected one of {', '.join(GROUPINGS)}")
    split = np.where(counted, REPORT, "").astype(np.object_)
    if group == "label":
        return Classes(items.with_splits(split).take(np.flatnonzero(counted)))
    vectors = np.asarray(items.content, np.float32)
    return Customers(population(vectors, items.with_splits(split)))


def operating_of(counts: IdentityCounts | ClassCounts) -> OperatingCounts | ClassCounts:
    """What curves and OPIS are read from."""
    return counts.operating() if isinstance(counts, IdentityCounts) else counts


def _require(usable: int, group: str) -> None:
    if not usable:
        raise GroupingError(
            f"no {group} has both a positive and a negative pair; expected labels that some items "
            "share and others do not"
        )
