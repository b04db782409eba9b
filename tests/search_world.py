"""A gallery full of ties, and the answers that brute force gives; shares no code with pipeline."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from pipeline.data.items import Items
from pipeline.search.gallery import Gallery, build_gallery


def unit_rows(rng, n, dimension):
    rows = rng.standard_normal((n, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(rng, n, dimension, *, spread, per_class=20):
    centres = rng.standard_normal((-(-n // per_class), dimension))
    rows = np.repeat(centres, per_class, axis=0)[:n]
    rows = rows + spread * rng.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def with_ties(rng, rows):
    """The rows, a third of them again, and a third moved by an ulp in one coordinate."""
    again = rows[:: 3]
    moved = rows[1 :: 3].copy()
    column = rng.integers(0, rows.shape[1], len(moved))
    place = (np.arange(len(moved)), column)
    moved[place] = np.nextafter(moved[place], np.float32(2))
    return np.concatenate([rows, again, moved])


def make_items(customers, vectors, rng, *, ids=None, roles=None):
    n = len(customers)
    return Items(
        item_id=np.asarray(ids or [f"i{k:05d}" for k in rng.permutation(n)], np.object_),
        label=np.asarray([f"c{k % 7}" if k % 5 else None for k in range(n)], np.object_),
        customer=np.asarray(customers, np.object_),
        role=np.asarray(roles or ["both"] * n, np.object_),
        split=np.asarray(["report"] * n, np.object_),
        kind="vector",
        content=vectors,
        metadata=pa.table({"number": pa.array(np.arange(n))}),
    )


def make_gallery(seed=0, *, dimension=6, shared=160, large=300, small=20) -> Gallery:
    """Shared items, two customers above the size that is scanned, one below; all with ties."""
    rng = np.random.default_rng(seed)
    parts = [(None, shared), ("acme", large), ("zeta", large), ("tiny", small)]
    vectors = [with_ties(rng, unit_rows(rng, n, dimension)) for _, n in parts]
    customers = [c for (c, _), rows in zip(parts, vectors, strict=True) for _ in rows]
    # The same vectors lie under several customers, so that a leak shows as a tie.
    vectors[2][:50] = vectors[1][:50]
    vectors[0][:5] = vectors[1][:5]
    vectors = np.concatenate(vectors)
    shuffled = rng.permutation(len(customers))
    items = make_items([customers[k] for k in shuffled], vectors[shuffled], rng)
    return build_gallery(vectors[shuffled], items)


def brute_distances(query, vectors):
    """``1 - sum`` in float64, summed in index order, rounded once to float32."""
    total = np.zeros(len(vectors), np.float64)
    for k in range(vectors.shape[1]):
        total = total + np.float64(query[k]) * vectors[:, k].astype(np.float64)
    return np.clip(1.0 - total, 0.0, 2.0).astype(np.float32)


def brute_order(gallery, customer, query, rows=None):
    """[(distance, item_id, row)] of what the customer may see, in the order of the answer."""
    distances = brute_distances(query, gallery.vectors)
    rows = range(len(gallery)) if rows is None else rows
    return sorted(
        (float(distances[row]), gallery.item_id[row], int(row))
        for row in rows
        if gallery.customer[row] is None or gallery.customer[row] == customer
    )


def tied_thresholds(gallery, customer, query, places=(0, 1, 7, 40, 200)):
    """Thresholds equal to a distance, and one ulp to each side of it."""
    order = brute_order(gallery, customer, query)
    for place in places:
        level = np.float32(order[min(place, len(order) - 1)][0])
        yield from (np.nextafter(level, np.float32(-1)), level, np.nextafter(level, np.float32(3)))


def as_release(folder, gallery, threshold=0.3):
    """What a retriever reads of a release, without the seal."""
    return SimpleNamespace(
        folder=folder, threshold=np.float32(threshold), dimension=gallery.dimension, id="r" * 64
    )
