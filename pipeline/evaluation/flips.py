"""What two releases decide on the same pairs, counted side by side.

The pairs are those of ``pipeline/search/visibility.py``: a query and an item that its customer
may see, its own and the shared ones, never itself. Both releases embed the same items, so pair
for pair the two decisions stand beside each other. They are those of the served path: a pair that
a release's index does not propose is not accepted by it, however near the two are, but where
nothing that it proposes is rejected. Memory is O(queries + customers), time that of the distances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.counting.operating import BUCKETS, NEGATIVE, POSITIVE, bucket_of
from pipeline.counting.queries import SHARED, Proposals
from pipeline.evaluation.embedding import Population
from pipeline.search.visibility import blocks, label_codes, own_rows

UNKNOWN_KIND = 2
"""Beside NEGATIVE and POSITIVE: a pair of which nobody knows whether it is one."""

_CODES = 3 * 4  # kind, accepted by the first, accepted by the second
_COLUMNS = 16_384  # gallery rows looked at together: their distances take a few megabytes

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Decider:
    """A release, as it decides about items that it has embedded."""

    people: Population
    """The items as gallery and queries under the release's own encoder."""
    threshold: np.float32
    """A cosine distance."""
    proposals: Proposals | None = None
    """What the index finds; None: everything."""

    def accepts(self, asking: Rows, rows: Rows) -> NDArray[np.bool_]:
        """(b, r) whether the queries ``asking`` (b,) match the gallery ``rows`` (r,).

        By the deciding distance: a float32 product settles the pairs that are further from the
        threshold than it can err, the others are decided one by one.
        """
        queries, gallery = self.people.queries, self.people.gallery
        vectors, others = queries.vectors[asking], gallery.vectors[rows]
        least = float(distance.least_sums(np.asarray([self.threshold]))[0])
        error = distance.error_of_products(vectors, others)
        products = vectors @ others.T
        accepted = np.asarray(products > np.nextafter(np.float32(least + error), np.float32(5)))
        possible = products >= np.nextafter(np.float32(least - error), np.float32(-5))
        doubtful = possible ^ accepted
        for place in np.flatnonzero(doubtful.any(axis=1)):
            near = np.flatnonzero(doubtful[place])
            found = distance.deciding_one(vectors[place], others, near)
            accepted[place, near] = distance.accepts(found, self.threshold)
        if self.proposals is not None:
            for decided, query in zip(accepted, asking, strict=True):
                reached = self.proposals(
                    queries.customer[query], queries.vectors[query], float(self.threshold)
                )
                if self.threshold < reached.all_from:
                    decided &= np.isin(rows, reached.rows)
        return accepted


@dataclass(frozen=True, slots=True)
class Flips:
    """Pairs by kind (NEGATIVE, POSITIVE, UNKNOWN_KIND) and by what each release decides."""

    customers: tuple[str, ...]
    """(G,) sorted names; ``_shared`` are queries without a customer."""
    customer: NDArray[np.int64]
    """(U,) place in ``customers`` of each unit: one customer's queries of one identity."""
    identities: NDArray[np.object_]
    """(U,) label of each unit's queries; a query without one is an identity of its own."""
    pairs: NDArray[np.float64]
    """(U, 3, 2, 2) pairs of each unit: kind, accepted by the first, by the second release."""
    touched: NDArray[np.float64]
    """(G, 32, 3, 2, 2) pairs with either end in each bucket of identities."""


def count_flips(first: Decider, second: Decider, measured: NDArray[np.object_]) -> Flips:
    """Count every pair of the items under both releases.

    ``first.people`` and ``second.people`` hold the same items in the same order. ``measured``:
    the labels that may say whether a pair is one; pairs of others are of UNKNOWN_KIND.
    """
    queries, gallery = first.people.queries, first.people.gallery
    _require_same(first.people, second.people)
    names = np.asarray([SHARED if c is None else c for c in queries.customer], np.object_)
    asked = _identities(queries.customer, queries.label, queries.item_id)
    stored = _identities(gallery.customer, gallery.label, gallery.item_id)
    units = sorted(set(zip(names, asked, strict=True)))
    unit_of = {unit: place for place, unit in enumerate(units)}
    unit = np.fromiter((unit_of[key] for key in zip(names, asked, strict=True)), np.int64)
    customers = tuple(sorted(set(names.tolist())))
    customer_of = {name: place for place, name in enumerate(customers)}
    customer = np.fromiter((customer_of[name] for name, _ in units), np.int64)
    buckets = bucket_of(asked), bucket_of(stored)
    pairs = np.zeros((len(units), _CODES))
    touched = np.zeros((len(customers), BUCKETS, _CODES))
    for asking, cells in _cells(first, second, measured, buckets[1]):
        np.add.at(pairs, unit[asking], cells.sum(axis=1))
        here = touched[customer[unit[asking[0]]]]
        mine = buckets[0][asking]
        here += cells.sum(axis=0)
        np.add.at(here, mine, cells.sum(axis=1))
        # Both ends in one bucket: counted with the item and with the query, but one pair.
        np.subtract.at(here, mine, cells[np.arange(asking.size), mine])
    return Flips(
        customers,
        customer,
        np.asarray([identity for _, identity in units], np.object_),
        pairs.reshape(-1, 3, 2, 2),
        touched.reshape(len(customers), BUCKETS, 3, 2, 2),
    )


def _cells(
    first: Decider, second: Decider, measured: NDArray[np.object_], bucket: Rows
) -> Iterator[tuple[Rows, NDArray[np.float64]]]:
    """Queries (b,) of one customer and their pairs (b, 32, 12) by the item's bucket and code."""
    queries, gallery = first.people.queries, first.people.gallery
    known = set(measured.tolist())
    codes, stored = label_codes(_only(queries.label, known), _only(gallery.label, known))
    own = own_rows(queries, gallery)
    for asking, visible in blocks(queries, gallery):
        cells = np.zeros((asking.size, BUCKETS, _CODES))
        for start in range(0, visible.size, _COLUMNS):
            rows = visible[start : start + _COLUMNS]
            _count(
                (first.accepts(asking, rows), second.accepts(asking, rows)),
                (codes[asking], own[asking]),
                (stored[rows], rows, bucket[rows]),
                cells,
            )
        yield asking, cells


@numba.njit(cache=True, nogil=True)
def _count(
    decided: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    asking: tuple[Rows, Rows],
    items: tuple[Rows, Rows, Rows],
    cells: NDArray[np.float64],
) -> None:
    """Add each pair of queries (code, own row) and items (code, row, bucket) to ``cells``."""
    (first, second), (codes, own), (stored, rows, bucket) = decided, asking, items
    for i in range(codes.size):
        for j in range(rows.size):
            if rows[j] == own[i]:
                continue
            kind = POSITIVE if codes[i] == stored[j] else NEGATIVE
            if codes[i] < 0 or stored[j] < 0:
                kind = UNKNOWN_KIND
            cells[i, bucket[j], kind * 4 + first[i, j] * 2 + second[i, j]] += 1.0


def _require_same(ours: Population, theirs: Population) -> None:
    for one, other in ((ours.queries, theirs.queries), (ours.gallery, theirs.gallery)):
        if not (
            np.array_equal(one.item_id, other.item_id)
            and np.array_equal(one.customer, other.customer)
        ):
            raise ValueError("two releases are compared on the same items in the same order")


def _identities(
    customer: NDArray[np.object_], label: NDArray[np.object_], item_id: NDArray[np.object_]
) -> NDArray[np.object_]:
    """(n,) label of each row; what has none is told apart by customer and id."""
    return np.asarray(
        [
            f"\0{whose or ''}\0{which}" if what is None else what
            for whose, what, which in zip(customer, label, item_id, strict=True)
        ],
        np.object_,
    )


def _only(labels: NDArray[np.object_], known: set[str]) -> NDArray[np.object_]:
    """(n,) the labels that are ``known``, None for the others."""
    return np.asarray([label if label in known else None for label in labels], np.object_)
