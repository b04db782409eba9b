"""One engine in this process: built, tuned on some queries, scored and timed on others."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.data import QUERIES
from benchmarks.search.peers import PEERS
from pipeline.config import IndexConfig
from pipeline.distance import Vectors
from pipeline.search.gallery import Gallery, open_gallery
from pipeline.search.index import build_index, open_index

TARGET = 0.999
ASKED = (0.999, 0.9993, 0.9996, 0.9999)
LARGE = 5_000_000
"""Rows from which a build takes minutes: it begins with what a million rows needed."""
ROUNDS = 5
DEPTHS = (16, 24, 32, 48, 64, 72, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512, 1024, 2048)

Search = Callable[[Vectors], list[NDArray[np.int64]]]
"""Queries (n, d) to the rows that match each."""


class Trial:
    """One engine in this process: built, tuned and timed."""

    def __init__(self, folder: Path) -> None:
        """``folder``: what ``prepare`` wrote."""
        self.folder = folder
        self.vectors: Vectors = np.load(folder / "gallery.npy", mmap_mode="r").view(np.ndarray)
        queries = np.load(folder / "queries.npy")
        self.tuning, self.scored = queries[:QUERIES], queries[QUERIES:]
        self.threshold = np.float32(np.load(folder / "threshold.npy"))
        truth = np.load(folder / "truth.npz")
        bounds = np.searchsorted(truth["owner"], np.arange(2 * QUERIES + 1))
        self.truth = [truth["rows"][a:b] for a, b in pairwise(bounds)]
        self.k: int = max(1, math.ceil(np.quantile(np.diff(bounds), 0.999)))

    def share(self, search: Search, *, scored: bool) -> float:
        """The share of all true matches that a search finds."""
        found = search(self.scored if scored else self.tuning)
        truth = self.truth[QUERIES:] if scored else self.truth[:QUERIES]
        hits = sum(np.isin(mine, rows).sum() for mine, rows in zip(truth, found, strict=True))
        return float(hits / max(1, sum(mine.size for mine in truth)))

    def tuned(self, set_depth: Callable[[int], None], search: Search) -> int:
        """The least depth that reaches the target on the tuning queries, as far as ``k`` lets it.

        What a query with more than ``k`` matches has to lose, no depth brings back.
        """
        sizes = np.asarray([mine.size for mine in self.truth[:QUERIES]])
        target = TARGET * np.minimum(sizes, self.k).sum() / max(1, sizes.sum())
        for depth in DEPTHS:
            set_depth(max(depth, self.k))
            if self.share(search, scored=False) >= target:
                return max(depth, self.k)
        return DEPTHS[-1]

    def timed(self, search: Search) -> dict[str, float]:
        """Queries a second alone and in batches of 32, the best of the rounds."""
        best = {1: math.inf, 32: math.inf}
        for _ in range(ROUNDS):
            for size in best:
                begun = time.process_time()
                for start in range(0, QUERIES, size):
                    search(self.scored[start : start + size])
                best[size] = min(best[size], time.process_time() - begun)
        return {f"queries_s_{size}": QUERIES / seconds for size, seconds in best.items()}


def build(trial: Trial, kind: str) -> dict[str, Any]:
    """Build an index of Limen, of this kind; in a process of its own, which keeps the memory.

    It calibrates itself on rows of the gallery; the tuning queries may ask for a little more.
    """
    gallery = open_gallery(trial.folder)
    for asked in ASKED if len(gallery) < LARGE else ASKED[2:]:
        begun = time.process_time()
        build_index(gallery, IndexConfig(kind=kind, match_recall=asked), trial.folder / kind,
                    horizon=float(trial.threshold))  # fmt: skip
        built = time.process_time() - begun
        if trial.share(search_of(trial, gallery, kind), scored=False) >= TARGET:
            break
    return {"build_s": built, "asked": asked}


def ours(trial: Trial, kind: str) -> dict[str, Any]:
    """The index that ``build`` built."""
    empty = anonymous_bytes()
    gallery = open_gallery(trial.folder)
    rows = gallery.rank.size  # computed now: what the gallery holds is no part of the index
    begun_with = anonymous_bytes()
    search = search_of(trial, gallery, kind)
    where = trial.folder / kind / "index"
    (facts,) = json.loads((where / "index.json").read_text())["segments"]
    effort = {name: facts[name] for name in ("kind", "lists", "nearness", "probes", "candidates")}
    mapped = (where / facts["file"]).stat().st_size / trial.vectors.nbytes
    return measured(trial, search, begun_with) | {
        "effort": effort, "rows": rows, "mapped": mapped,
        "ids": (begun_with - empty) / trial.vectors.nbytes,
    }  # fmt: skip


def search_of(trial: Trial, gallery: Gallery, kind: str) -> Search:
    """The search through the index of this kind in the trial's folder."""
    index = open_index(trial.folder / kind, gallery)

    def search(queries: Vectors) -> list[NDArray[np.int64]]:
        found = index.search_batch("one", queries, trial.threshold)
        return [one.rows[: one.match_count] for one in found]

    return search


def build_peer(trial: Trial, name: str) -> dict[str, Any]:
    """Another library's graph over all rows, in a file."""
    graph = PEERS[name]()
    begun = time.process_time()
    graph.build(trial.vectors)
    built = time.process_time() - begun
    graph.write(trial.folder / f"{name}.graph")
    return {"build_s": built}


def peer(trial: Trial, name: str) -> dict[str, Any]:
    """The graph that ``build_peer`` wrote, as deep as the target takes."""
    begun_with = anonymous_bytes()
    graph = PEERS[name]()
    graph.read(trial.folder / f"{name}.graph", trial.vectors.shape[1])

    def search(queries: Vectors) -> list[NDArray[np.int64]]:
        rows, levels = graph.nearest(queries, trial.k)
        within = levels <= trial.threshold + np.float32(1e-6)
        return [mine[near] for mine, near in zip(rows, within, strict=True)]

    depth = trial.tuned(graph.set_depth, search)
    return measured(trial, search, begun_with) | {"effort": {"k": trial.k, "depth": depth}}


def measured(trial: Trial, search: Search, begun_with: int) -> dict[str, Any]:
    """What is reported of every engine."""
    share = trial.share(search, scored=True)
    taken = anonymous_bytes() - begun_with
    return {
        "share": share, "memory": taken / trial.vectors.nbytes, **trial.timed(search),
    }  # fmt: skip


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/smaps_rollup: no line 'Anonymous:'; Linux is needed")
