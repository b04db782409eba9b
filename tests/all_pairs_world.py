"""Clustered vectors, and a slow, independent count of all their pairs."""

from __future__ import annotations

import numpy as np

from pipeline import distance
from pipeline.counting.operating import Grid


def world(classes: int, items: int, dimension: int, seed: int = 0, sigma: float = 1.0):
    """Vectors (n, d), labels (n,) and item ids (n,) of methods.md's test world, rows shuffled."""
    rng = np.random.default_rng(seed)
    centres = distance.unit(rng.normal(size=(classes, dimension)))
    label = rng.permutation(np.repeat(np.arange(classes), items))
    noise = rng.normal(size=(label.size, dimension)) * sigma / np.sqrt(dimension)
    names = np.asarray([f"class {i:05d}" for i in label], np.object_)
    ids = np.asarray([f"item {i}" for i in range(label.size)], np.object_)
    return distance.unit(centres[label] + noise), names, ids


def lattice(n: int, classes: int, dimension: int, seed: int):
    """Vectors on a coarse lattice, so that equal vectors and equal distances abound."""
    rng = np.random.default_rng(seed)
    vectors = distance.unit(rng.integers(-1, 2, size=(n, dimension)) + np.eye(dimension)[0] * 2)
    names = np.asarray([f"class {i}" for i in rng.integers(classes, size=n)], np.object_)
    return vectors, names, np.asarray([f"item {i}" for i in range(n)], np.object_)


def edges_among(vectors: np.ndarray, count: int, seed: int = 0) -> Grid:
    """A grid whose edges are distances of the data: every edge has a pair exactly on it."""
    all_ = distance.deciding(vectors, vectors)[np.triu_indices(len(vectors), 1)]
    chosen = np.random.default_rng(seed).choice(np.unique(all_), count)
    return Grid(np.unique(chosen))


def by_brute_force(vectors, labels, bits, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """``whole`` and ``halves`` of ``ClassCounts``, pair by pair as the definition says.

    ``bits`` (n, S) 0 or 1: half of each item in each split.
    """
    groups = sorted({label for label in labels if label is not None})
    whole = np.zeros((len(groups), 2, grid.edges.size + 1))
    halves = np.zeros((len(groups), bits.shape[1], 2, *whole.shape[1:]))
    table = distance.deciding(vectors, vectors)
    split = np.arange(bits.shape[1])
    for i in range(len(labels)):
        for j in range(i):
            if labels[i] is None or labels[j] is None:
                continue
            bin_ = sum(table[i, j] > edge for edge in grid.edges)
            first, second = groups.index(labels[i]), groups.index(labels[j])
            if first == second:
                whole[first, 1, bin_] += 1
                both = bits[i] == bits[j]
                halves[first, split[both], bits[i][both], 1, bin_] += 1
            else:
                for end, group in ((i, first), (j, second)):
                    whole[group, 0, bin_] += 1
                    halves[group, split, bits[end], 0, bin_] += 1
    return whole, halves
