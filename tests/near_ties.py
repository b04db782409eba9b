"""A release full of ties and of items within one ulp of the threshold, and its brute force.

Beside plain items, several queries have a cloud of items around the threshold: some exactly at it,
some one unit in the last place of a distance below, some one above. Everybody owns the same
vectors under other ids, so that a leak shows as a tie.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.config import IndexConfig
from pipeline.counting.operating import BUCKETS
from pipeline.data.items import Items
from tests.search_world import brute_distances, clustered, unit_rows, with_ties
from tests.serving_release import (
    CUSTOMERS,
    DIMENSION,
    FLAT,
    THRESHOLD,
    World,
    grid_of,
    png,
    seal_items,
)

CLOUDS = 24
"""Queries with a cloud."""
LEVELS = (
    np.nextafter(THRESHOLD, np.float32(0)), THRESHOLD, np.nextafter(THRESHOLD, np.float32(2)),
)


def cloud(rng, query, each=3, tries=40_000):
    """Unit rows whose distance from ``query`` is each of the levels, ``each`` of every one."""
    asked = query
    sides = unit_rows(rng, tries, len(query)).astype(np.float64)
    query = query / (query @ query)  # so that the product with the float32 row is as meant
    sides -= (sides @ query)[:, None] * query
    sides /= np.linalg.norm(sides, axis=1, keepdims=True)
    near = 1.0 - float(THRESHOLD)
    rows = (near * query + np.sqrt(1 - near**2) * sides).astype(np.float32)
    distances = brute_distances(asked, rows)
    found = [rows[distances == level][:each] for level in LEVELS]
    assert min(map(len, found)) == each
    return np.concatenate(found)


def near_ties(
    folder: Path, seed: int = 3, index: IndexConfig = FLAT
) -> tuple[World, np.ndarray]:
    """The sealed release, and queries (n, d): those with clouds, items, and others."""
    rng = np.random.default_rng(seed)
    clouds = unit_rows(rng, CLOUDS, DIMENSION)
    edges = np.concatenate([cloud(rng, query.astype(np.float64)) for query in clouds])
    plain = with_ties(rng, clustered(rng, 900, DIMENSION, spread=0.1))
    own = np.concatenate([edges, plain])
    owners = [None] * len(edges) + [name for name in CUSTOMERS for _ in own]
    vectors = np.concatenate([edges, own, own])
    shuffled = rng.permutation(len(vectors))
    number = np.arange(len(vectors))
    image = png(np.full((2, 2, 3), 9, np.uint8))
    items = Items(
        item_id=np.asarray([f"i{k:05d}" for k in rng.permutation(number)], object),
        label=np.asarray([f"c{k % 50}" for k in number], object),
        customer=np.asarray([owners[k] for k in shuffled], object),
        role=np.full(len(number), "gallery", object),
        split=np.full(len(number), "report", object),
        kind="image",
        content=np.asarray([image] * len(number), object),
        metadata=pa.table({"number": number}),
    )
    pairs = rng.integers(1, 9, (len(CUSTOMERS), BUCKETS, 2, grid_of().bins)).astype(np.float64)
    counts = dict(zip(sorted(CUSTOMERS), pairs, strict=True))
    world = seal_items(folder, items, vectors[shuffled], counts, index=index)
    queries = np.concatenate([clouds, plain[rng.permutation(len(plain))[:60]],
                              unit_rows(rng, 20, DIMENSION)])
    return world, queries


def brute_force(world: World, customer: str, query: np.ndarray) -> list[tuple[float, str]]:
    """(distance, item_id) of all that ``customer`` sees, in the order of an answer."""
    rows = world.rows_of(customer)
    distances = brute_distances(query, world.vectors[rows])
    ids = world.items.item_id[rows]
    return sorted((float(d), name) for d, name in zip(distances, ids, strict=True))
