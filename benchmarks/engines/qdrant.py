"""Qdrant in process (``qdrant-edge-py``): HNSW, with ``score_threshold``; a batch call."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.trial import SLACK, Foreign, Rows, Setting, Trial, Vectors, depths

BUILD_DEPTH, NEIGHBOURS = 200, 16
AT_ONCE = 2000
"""Points of one call that stores."""


class Qdrant:
    """One shard, the vectors in float32; or beside them int8 codes, which are rescored."""

    def __init__(self, trial: Trial, folder: Path, *, codes: bool) -> None:
        """``folder``: of this engine alone."""
        self.api: Any = importlib.import_module("qdrant_edge")
        self.trial, self.folder, self.codes = trial, folder, codes
        self.shard: Any = None
        self.params: Any = None

    def build(self, vectors: Vectors) -> None:
        """Upsert, then optimise into one indexed segment."""
        api = self.api
        coded = api.ScalarQuantizationConfig(type=api.ScalarType.Int8, memory=api.Memory.Pinned)
        self.folder.mkdir(parents=True)
        self.shard = api.EdgeShard.create(str(self.folder), api.EdgeConfig(
            vectors=api.EdgeVectorParams(size=vectors.shape[1], distance=api.Distance.Dot),
            hnsw_config=api.HnswIndexConfig(m=NEIGHBOURS, ef_construct=BUILD_DEPTH,
                                            full_scan_threshold=10, max_indexing_threads=1),
            quantization_config=coded if self.codes else None,
            optimizers=api.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=1,
                                                max_segment_size=2**31),
            max_search_threads=1,
        ))  # fmt: skip
        for start in range(0, len(vectors), AT_ONCE):
            part = vectors[start : start + AT_ONCE].tolist()
            points = [api.Point(start + place, row, None) for place, row in enumerate(part)]
            self.shard.update(api.UpdateOperation.upsert_points(points))
        self.shard.optimize()
        self.shard.flush()

    def open(self) -> None:
        """Load the shard."""
        self.shard = self.api.EdgeShard.load(str(self.folder))
        indexed = self.shard.info().indexed_vectors_count
        if indexed < len(self.trial.vectors):
            raise RuntimeError(f"{self.folder}: {indexed} vectors are indexed, not all")

    def ladders(self) -> list[list[Setting]]:
        """``hnsw_ef``; with codes also how many are rescored."""
        efs = depths(self.trial.k, 2048)
        over = (1.0, 1.5, 2.0) if self.codes else (0.0,)
        return [[{"hnsw_ef": ef, "oversampling": more} if more else {"hnsw_ef": ef} for ef in efs]
                for more in over]  # fmt: skip

    def use(self, setting: Setting) -> None:
        """The parameters of every search."""
        more = setting.get("oversampling")
        rescored = more and self.api.QuantizationSearchParams(rescore=True, oversampling=more)
        self.params = self.api.SearchParams(hnsw_ef=setting["hnsw_ef"],
                                            quantization=rescored or None)  # fmt: skip

    def search(self, queries: Vectors) -> list[Rows]:
        """``query`` for one, ``query_batch`` for more."""
        requests = [self._request(query) for query in queries.tolist()]
        if len(requests) == 1:
            found = [self.shard.query(requests[0])]
        else:
            found = self.shard.query_batch(self.api.QueryBatchRequest(requests))
        return [np.fromiter((point.id for point in one), np.int64, len(one)) for one in found]

    def _request(self, query: list[float]) -> Foreign:
        return self.api.QueryRequest(
            limit=self.trial.k, query=self.api.Query.Nearest(query), params=self.params,
            score_threshold=1 - self.trial.threshold - SLACK,
        )  # fmt: skip

    def about(self) -> dict[str, Any]:
        """Version, batch call, index."""
        codes = " on int8 codes, rescored" if self.codes else ""
        return {"version": f"qdrant-edge-py {version('qdrant-edge-py')}", "batch": "query_batch",
                "index": f"HNSW m={NEIGHBOURS} ef_construct={BUILD_DEPTH}{codes}"}  # fmt: skip

    def servers(self) -> list[int]:
        """None: all in this process."""
        return []

    def close(self) -> None:
        """Close the shard."""
        self.shard.close()
