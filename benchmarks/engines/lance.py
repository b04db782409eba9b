"""LanceDB in process, by its asynchronous calls: ``distance_range``, or k nearest cut by ours.

Over quantised vectors the range is seen to act on the quantised distances, so there the k nearest
are asked for, refined, and cut by their distances.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.trial import SLACK, Foreign, Rows, Setting, Trial, Vectors, depths

os.environ.setdefault("LANCE_CPU_THREADS", "1")  # read when the library is loaded


class Lance:
    """One table of ids and vectors, with one of LanceDB's indexes."""

    def __init__(self, trial: Trial, folder: Path, *, kind: str) -> None:
        """``folder``: of this engine alone; ``kind``: ``ivf-flat``, ``ivf-pq`` or ``hnsw-sq``."""
        self.api: Any = importlib.import_module("lancedb")
        self.trial, self.folder, self.kind = trial, folder, kind
        self.lists = round(4 * len(trial.vectors) ** 0.5)
        self.loop = asyncio.new_event_loop()
        self.table: Any = None
        self.setting: Setting = {}

    def build(self, vectors: Vectors) -> None:
        """One write of all rows, then the index."""
        arrow: Any = importlib.import_module("pyarrow")
        indexes: Any = importlib.import_module("lancedb.index")
        column = arrow.FixedSizeListArray.from_arrays(
            arrow.array(np.asarray(vectors).ravel()), vectors.shape[1])  # fmt: skip
        table = self.api.connect(str(self.folder)).create_table(
            "items", arrow.table({"id": np.arange(len(vectors)), "vector": column}))  # fmt: skip
        config = {
            "ivf-flat": lambda: indexes.IvfFlat(distance_type="dot", num_partitions=self.lists),
            "ivf-pq": lambda: indexes.IvfPq(distance_type="dot", num_partitions=self.lists,
                                            num_sub_vectors=vectors.shape[1] // 8),
            "hnsw-sq": lambda: indexes.HnswSq(distance_type="dot", num_partitions=1),
        }[self.kind]()  # fmt: skip
        table.create_index("vector", config=config)

    def open(self) -> None:
        """Open the table."""
        self.table = self.loop.run_until_complete(self._opened())

    async def _opened(self) -> Foreign:
        return await (await self.api.connect_async(str(self.folder))).open_table("items")

    def ladders(self) -> list[list[Setting]]:
        """Probes or ``ef``, and how many are refined."""
        if self.kind == "ivf-flat":
            return [[{"nprobes": many} for many in depths(1, self.lists)]]
        if self.kind == "ivf-pq":
            return [[{"nprobes": many, "refine_factor": factor} for many in depths(1, self.lists)]
                    for factor in (4, 10)]  # fmt: skip
        return [[{"ef": ef, "refine_factor": factor} for ef in depths(factor * self.trial.k, 2048)]
                for factor in (1, 2)]  # fmt: skip

    def use(self, setting: Setting) -> None:
        """From the next query on."""
        self.setting = setting

    def search(self, queries: Vectors) -> list[Rows]:
        """One call for all queries; it numbers them where they are more than one."""
        found = self.loop.run_until_complete(self._asked(queries))
        levels = found["_distance"].to_numpy()
        near = levels <= self.trial.threshold + SLACK
        rows = found["id"].to_numpy()[near]
        if len(queries) == 1:
            return [rows]
        place = found["query_index"].to_numpy()[near]
        return [rows[place == one] for one in range(len(queries))]

    async def _asked(self, queries: Vectors) -> Foreign:
        one = queries[0] if len(queries) == 1 else list(queries)
        query = self.table.query().nearest_to(one).distance_type("dot").limit(self.trial.k)
        columns = ["id", "_distance"] + ["query_index"] * (len(queries) > 1)
        query = query.select(columns)
        if self.kind == "ivf-flat":
            query = query.distance_range(upper_bound=self.trial.threshold + SLACK)
        for name, value in self.setting.items():
            query = getattr(query, name)(value)
        return await query.to_arrow()

    def about(self) -> dict[str, Any]:
        """Version, batch call, index."""
        index = {"ivf-flat": f"IVF_FLAT, {self.lists} partitions",
                 "ivf-pq": f"IVF_PQ, {self.lists} partitions, refined",
                 "hnsw-sq": "IVF_HNSW_SQ, 1 partition, refined"}[self.kind]  # fmt: skip
        return {"version": f"lancedb {version('lancedb')}", "batch": "nearest_to", "index": index}

    def servers(self) -> list[int]:
        """None: all in this process."""
        return []

    def close(self) -> None:
        """End the loop."""
        self.loop.close()
