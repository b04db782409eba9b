"""Other libraries' graphs: built with 16 neighbours a row, 200 deep, by one thread, and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.distance import Vectors

NEIGHBOURS, BUILD_DEPTH = 16, 200

Ranked = tuple[NDArray[np.integer], NDArray[np.float32]]
"""The nearest rows (n, k) and their distances."""


class Graph(Protocol):
    """One library's graph over rows."""

    def build(self, vectors: Vectors) -> None:
        """A graph over ``vectors`` (m, d)."""

    def write(self, file: Path) -> None:
        """Keep the graph, rows included."""

    def read(self, file: Path, dimension: int) -> None:
        """Load what ``write`` kept into memory."""

    def set_depth(self, depth: int) -> None:
        """How many rows a search keeps in view."""

    def nearest(self, queries: Vectors, k: int) -> Ranked:
        """The ``k`` nearest rows to each of the queries (n, d)."""


class Hnswlib:
    """hnswlib."""

    def build(self, vectors: Vectors) -> None:
        """A graph over ``vectors``."""
        import hnswlib

        self.index: Any = hnswlib.Index("ip", vectors.shape[1])
        self.index.init_index(
            len(vectors), M=NEIGHBOURS, ef_construction=BUILD_DEPTH, random_seed=1
        )
        self.index.set_num_threads(1)
        self.index.add_items(vectors, num_threads=1)

    def write(self, file: Path) -> None:
        """Keep it."""
        self.index.save_index(str(file))

    def read(self, file: Path, dimension: int) -> None:
        """Load it."""
        import hnswlib

        self.index = hnswlib.Index("ip", dimension)
        self.index.load_index(str(file))
        self.index.set_num_threads(1)

    def set_depth(self, depth: int) -> None:
        """Its ``ef``."""
        self.index.set_ef(depth)

    def nearest(self, queries: Vectors, k: int) -> Ranked:
        """Its ``knn_query``."""
        rows, distances = self.index.knn_query(queries, k, num_threads=1)
        return rows, distances


class Usearch:
    """usearch."""

    def build(self, vectors: Vectors) -> None:
        """A graph over ``vectors``."""
        self._begin(vectors.shape[1])
        self.index.add(np.arange(len(vectors)), vectors, threads=1)

    def write(self, file: Path) -> None:
        """Keep it."""
        self.index.save(file)

    def read(self, file: Path, dimension: int) -> None:
        """Load it."""
        self._begin(dimension)
        self.index.load(file)

    def set_depth(self, depth: int) -> None:
        """Its ``expansion_search``."""
        self.index.expansion_search = depth

    def nearest(self, queries: Vectors, k: int) -> Ranked:
        """Its ``search``."""
        found = self.index.search(queries, k, threads=1)
        shape = (len(queries), -1)
        return found.keys.reshape(shape).astype(np.int64), found.distances.reshape(shape)

    def _begin(self, dimension: int) -> None:
        from usearch.index import Index

        self.index: Any = Index(ndim=dimension, metric="ip", dtype="f32", connectivity=NEIGHBOURS,
                                expansion_add=BUILD_DEPTH)  # fmt: skip


class FaissHnsw:
    """FAISS's ``IndexHNSWFlat``."""

    def build(self, vectors: Vectors) -> None:
        """A graph over ``vectors``."""
        import faiss

        faiss.omp_set_num_threads(1)
        self.index: Any = faiss.IndexHNSWFlat(
            vectors.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT
        )
        self.index.hnsw.efConstruction = BUILD_DEPTH
        self.index.add(vectors)

    def write(self, file: Path) -> None:
        """Keep it."""
        import faiss

        faiss.write_index(self.index, str(file))

    def read(self, file: Path, dimension: int) -> None:
        """Load it."""
        import faiss

        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index(str(file))

    def set_depth(self, depth: int) -> None:
        """Its ``efSearch``."""
        self.index.hnsw.efSearch = depth

    def nearest(self, queries: Vectors, k: int) -> Ranked:
        """Its ``search``."""
        products, rows = self.index.search(queries, k)
        return rows, 1 - products


PEERS: dict[str, type[Graph]] = {
    "hnswlib": Hnswlib, "usearch": Usearch, "faiss-hnsw": FaissHnsw,
}  # fmt: skip
