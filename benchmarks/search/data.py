"""What is searched: families of classes or real embeddings, a threshold, and the true matches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.lib.format import open_memmap

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
_BLOCK = 65_536


def world(items: int, dimension: int, file: Path | None = None) -> Vectors:
    """Unit rows in random order: classes of 20 around centres, 50 of them to a family.

    In memory, or in a new ``file`` that is mapped.
    """
    generator = np.random.default_rng(0)
    classes = -(-items // PER_CLASS)
    families = distance.unit(generator.standard_normal((max(1, classes // FAMILY), dimension)))
    noise = generator.standard_normal((classes, dimension)) / dimension**0.5
    centres = distance.unit(families[generator.integers(len(families), size=classes)] + 0.9 * noise)
    del noise  # half a gigabyte for ten million items
    spread = generator.uniform(0.5, 1.1, classes).astype(np.float32)
    label = generator.permutation(np.repeat(np.arange(classes), PER_CLASS)[:items])
    shape = items, dimension
    out: Vectors = np.empty(shape, np.float32) if file is None else open_memmap(
        file, "w+", np.float32, shape).view(np.ndarray)  # fmt: skip
    for start in range(0, items, _BLOCK):
        part = label[start : start + _BLOCK]
        scattered = generator.standard_normal((part.size, dimension), np.float32)
        scattered *= spread[part, None] / np.float32(dimension**0.5)
        out[start : start + _BLOCK] = distance.unit(centres[part] + scattered)
    return out


def prepare(vectors: Vectors, folder: Path) -> None:
    """Write the gallery, the queries, the threshold and the true matches of every query.

    The first ``vectors`` ask, the others are the gallery.
    """
    asked = np.arange(2 * QUERIES)
    in_order(vectors[asked.size :]).write(folder)
    np.save(folder / "queries.npy", vectors[asked])
    place = int(MATCHES * 100)
    sample = np.empty(0, np.float32)
    for start in range(asked.size, len(vectors), _BLOCK):
        some = 1 - (vectors[:100] @ vectors[start : start + _BLOCK].T).ravel()
        sample = np.concatenate([sample, some])
        sample = np.partition(sample, min(place, sample.size - 1))[: place + 1]
    threshold = sample.max()
    np.save(folder / "threshold.npy", threshold)
    truth = true_matches(vectors, asked, float(threshold))
    inside = truth.matches >= asked.size
    np.savez(folder / "truth.npz", owner=truth.owner[inside],
             rows=truth.matches[inside] - asked.size)  # fmt: skip


def in_order(vectors: Vectors) -> Gallery:
    """A gallery of one customer without metadata."""
    count = len(vectors)
    none = np.full(count, None, np.object_)
    return build_gallery(vectors, Items(
        item_id=np.asarray([f"i{k:09d}" for k in range(count)], np.object_), label=none,
        customer=np.full(count, "one", np.object_), role=np.full(count, "both", np.object_),
        split=np.full(count, "", np.object_), kind="vector", content=vectors, metadata=pa.table({}),
    ))  # fmt: skip
