"""What is searched: families of classes or real embeddings, a threshold, and the true matches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import distance
from pipeline.data.items import Items
from pipeline.distance import Vectors
from pipeline.search.effort import true_matches
from pipeline.search.gallery import Gallery, build_gallery

PER_CLASS, FAMILY = 20, 50
MATCHES = 16.0
"""Mean number of matches of a query, which sets the threshold."""
QUERIES = 1000
"""That tune an engine, and as many others that score it."""


def world(items: int, dimension: int) -> Vectors:
    """Unit rows in random order: classes of 20 around centres, 50 of them to a family."""
    generator = np.random.default_rng(0)
    classes = -(-items // PER_CLASS)
    families = distance.unit(generator.standard_normal((max(1, classes // FAMILY), dimension)))
    noise = generator.standard_normal((classes, dimension)) / dimension**0.5
    centres = distance.unit(families[generator.integers(len(families), size=classes)] + 0.9 * noise)
    spread = generator.uniform(0.5, 1.1, classes).astype(np.float32)
    label = generator.permutation(np.repeat(np.arange(classes), PER_CLASS)[:items])
    out = np.empty((items, dimension), np.float32)
    for start in range(0, items, 65_536):
        part = label[start : start + 65_536]
        scattered = generator.standard_normal((part.size, dimension), np.float32)
        scattered *= spread[part, None] / np.float32(dimension**0.5)
        out[start : start + 65_536] = distance.unit(centres[part] + scattered)
    return out


def prepare(vectors: Vectors, folder: Path) -> None:
    """Write the gallery, the queries, the threshold and the true matches of every query."""
    queries, rows = vectors[: 2 * QUERIES], vectors[2 * QUERIES :]
    gallery = in_order(rows)
    gallery.write(folder)
    np.save(folder / "queries.npy", queries)
    sample = 1 - (queries[:100] @ gallery.vectors.T).ravel()
    place = int(MATCHES * 100)
    threshold = np.float32(np.partition(sample, place)[place])
    np.save(folder / "threshold.npy", threshold)
    together = np.concatenate([gallery.vectors, queries])
    asked = np.arange(len(gallery), len(together))
    truth = true_matches(together, asked, float(threshold))
    inside = truth.matches < len(gallery)
    np.savez(folder / "truth.npz", owner=truth.owner[inside], rows=truth.matches[inside])


def in_order(vectors: Vectors) -> Gallery:
    """A gallery of one customer without metadata."""
    count = len(vectors)
    none = np.full(count, None, np.object_)
    return build_gallery(vectors, Items(
        item_id=np.asarray([f"i{k:09d}" for k in range(count)], np.object_), label=none,
        customer=np.full(count, "one", np.object_), role=np.full(count, "both", np.object_),
        split=np.full(count, "", np.object_), kind="vector", content=vectors, metadata=pa.table({}),
    ))  # fmt: skip
