"""Limen in process: one customer's rows in an index of kind ``ivf``, matches by exact distances."""

from __future__ import annotations

import json
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.trial import TARGET, Rows, Search, Setting, Trial, Vectors, share
from benchmarks.search.data import in_order
from pipeline.config import IndexConfig
from pipeline.search.gallery import Gallery, open_gallery
from pipeline.search.index import build_index, open_index

ASKED = (0.999, 0.9993, 0.9996, 0.9999)
"""Of the index's own calibration, on rows of the gallery; the queries may need a little more."""


class Limen:
    """A gallery in the engine's folder, and its index."""

    def __init__(self, trial: Trial, folder: Path) -> None:
        """``folder``: of this engine alone."""
        self.trial, self.folder = trial, folder
        self.find: Search
        self.effort: Setting = {}

    def build(self, vectors: Vectors) -> float:
        """Make the gallery, then the index, which calibrates itself; its last try counts."""
        begun = time.process_time()
        self.folder.mkdir(parents=True)
        in_order(vectors).write(self.folder)
        gallery = open_gallery(self.folder)
        made = time.process_time() - begun
        for asked in ASKED:
            shutil.rmtree(self.folder / "index", ignore_errors=True)
            begun = time.process_time()
            build_index(gallery, IndexConfig(kind="ivf", match_recall=asked), self.folder,
                        horizon=self.trial.threshold)  # fmt: skip
            took = time.process_time() - begun
            find = self._search_of(gallery)
            if share(find, self.trial.tuning, self.trial.tuning_truth) >= TARGET:
                break
        return made + took

    def _search_of(self, gallery: Gallery) -> Search:
        index = open_index(self.folder, gallery)

        def search(queries: Vectors) -> list[Rows]:
            found = index.search_batch("one", queries, np.float32(self.trial.threshold))
            return [one.rows[: one.match_count] for one in found]

        return search

    def open(self) -> None:
        """Open the gallery and the index."""
        self.find = self._search_of(open_gallery(self.folder))
        (facts,) = json.loads((self.folder / "index/index.json").read_text())["segments"]
        self.effort = {name: round(facts[name], 3) for name in ("nearness", "probes")}
        self.lists = facts["lists"]

    def ladders(self) -> list[list[Setting]]:
        """One step: the index was calibrated when it was built."""
        return [[self.effort]]

    def use(self, setting: Setting) -> None:
        """Nothing to set."""

    def search(self, queries: Vectors) -> list[Rows]:
        """The same call for one and for more."""
        return self.find(queries)

    def about(self) -> dict[str, Any]:
        """Version, batch call, index."""
        return {"version": f"limen {version('limen')}, faiss-cpu {version('faiss-cpu')}",
                "batch": "search_batch", "index": f"IVF, {self.lists} lists"}  # fmt: skip

    def servers(self) -> list[int]:
        """None: all in this process."""
        return []

    def close(self) -> None:
        """Nothing to close."""
