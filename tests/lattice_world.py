"""Items on a coarse lattice, so that distances tie; of two customers and shared, in two splits."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline import distance
from pipeline.counting.queries import SHARED
from pipeline.data.items import Items

ROLES = ("both", "both", "query", "both", "gallery")


def lattice(seed: int, n: int = 84, *, classes: int = 9) -> Items:
    """Labels cross customers; a few items have none; every class lies in one split."""
    rng = np.random.default_rng(seed)
    vectors = distance.unit(rng.integers(-1, 2, size=(n, 5)) + np.asarray([2, 0, 0, 0, 0]))
    return Items(
        item_id=np.asarray([f"i{i}" for i in range(n)], np.object_),
        label=np.asarray([f"l{i % classes}" if i % 13 else None for i in range(n)], np.object_),
        customer=np.asarray([(None, "ada", "bob", "ada")[i % 4] for i in range(n)], np.object_),
        role=np.asarray([ROLES[i % 5] for i in range(n)], np.object_),
        split=np.asarray([("calibrate", "report")[i % classes < 4] for i in range(n)], np.object_),
        kind="vector",
        content=vectors,
        metadata=pa.table({"number": np.arange(n)}),
    )


def pairs_of(items: Items, split: str) -> Iterator[tuple[str, str, bool, np.float32, int, int]]:
    """Every counted pair by its definition: customer, label, positive, distance, query, item."""
    for q in range(len(items)):
        for g in range(len(items)):
            if items.role[q] == "gallery" or items.role[g] == "query" or q == g:
                continue
            if items.split[q] != split or items.split[g] != split:
                continue
            if items.label[q] is None or items.label[g] is None:
                continue
            if items.customer[g] not in (None, items.customer[q]):
                continue
            d = distance.deciding(items.content[q : q + 1], items.content[g : g + 1])[0, 0]
            owner = items.customer[q] or SHARED
            yield owner, items.label[q], bool(items.label[q] == items.label[g]), d, q, g
