"""What is asked of an engine, and how its answers are scored: NumPy alone.

This runs in the interpreter of the other engines too, so nothing of the project is imported.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

TARGET = 0.999
"""The share of all true matches that a setting has to reach on the tuning queries."""
ROUNDS, ENOUGH = 5, 15.0
"""Rounds of the timing; after so many seconds of the clock no further one begins."""
LEAST = 0.5
"""Seconds of each round, at least."""
TIMED = 200
"""Tuning queries that choose between two ways to the target."""
SLACK = 1e-6
"""Added to the threshold that an engine is asked for: its float32 distances are not ours."""

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]
Foreign = Any
"""An object of a library that the project does not install."""
Setting = dict[str, Any]
"""One setting of an engine's effort at the time of a query."""
Search = Callable[[Vectors], list[Rows]]
"""Queries (n, d) to the rows that match each; more than one go in one call, where there is one."""


class Engine(Protocol):
    """What a worker asks of an engine."""

    def build(self, vectors: Vectors) -> float | None:
        """Take the rows in and index them, on disk; its seconds, if not all of it counts."""

    def open(self) -> None:
        """Open what was built, in a fresh process."""

    def ladders(self) -> list[list[Setting]]:
        """Ways to ask, each from the least effort to the most."""

    def use(self, setting: Setting) -> None:
        """Ask like this from now on."""

    def search(self, queries: Vectors) -> list[Rows]:
        """The rows that match each query."""

    def about(self) -> dict[str, Any]:
        """``version``, ``batch`` (the call for many queries) and ``index``."""

    def servers(self) -> list[int]:
        """Processes that answer, beside this one and its children."""

    def close(self) -> None:
        """Let go of everything; servers end."""


class Trial:
    """The rows, the queries and their true matches, as ``benchmarks.search.data`` wrote them."""

    def __init__(self, folder: Path) -> None:
        """``folder``: what ``prepare`` wrote."""
        self.folder = folder
        self.vectors: Vectors = np.load(folder / "gallery.npy", mmap_mode="r").view(np.ndarray)
        queries: Vectors = np.load(folder / "queries.npy")
        half = len(queries) // 2
        self.tuning, self.scored = queries[:half], queries[half:]
        self.threshold = float(np.load(folder / "threshold.npy"))
        truth = np.load(folder / "truth.npz")
        bounds = np.searchsorted(truth["owner"], np.arange(len(queries) + 1))
        rows = [truth["rows"][begin:end] for begin, end in pairwise(bounds)]
        self.tuning_truth, self.scored_truth = rows[:half], rows[half:]
        self.counts = np.diff(bounds)
        self.k = max(1, math.ceil(np.quantile(self.counts, 0.999)))

    def tuned(self, engine: Engine) -> Setting:
        """The cheapest setting that reaches the target on the tuning queries; the best if none."""
        tried = [self._least(engine, ladder) for ladder in engine.ladders()]
        enough = [setting for reached, setting in tried if reached >= TARGET]
        if not enough:
            return max(tried, key=lambda one: one[0])[1]
        if len(enough) == 1:
            return enough[0]
        return min(enough, key=lambda setting: self._seconds(engine, setting))

    def _least(self, engine: Engine, ladder: Sequence[Setting]) -> tuple[float, Setting]:
        """The least of a ladder that reaches the target, else its last, and what it reaches."""
        low, high = 0, len(ladder) - 1
        reached: dict[int, float] = {}
        while True:
            middle = (low + high) // 2
            engine.use(ladder[middle])
            reached[middle] = share(engine.search, self.tuning, self.tuning_truth)
            if reached[middle] >= TARGET:
                high = middle
            else:
                low = min(middle + 1, high)
            if low == high and low in reached:
                return reached[low], ladder[low]

    def _seconds(self, engine: Engine, setting: Setting) -> float:
        engine.use(setting)
        queries = self.tuning[:TIMED]
        asked(engine.search, queries[:32], 1)
        return asked(engine.search, queries, 1) + asked(engine.search, queries, 32)

    def timed(self, search: Search, clock: Callable[[], float]) -> dict[str, float]:
        """Queries a second of ``clock``, alone and in 32s, the best of the rounds."""
        best = {1: math.inf, 32: math.inf}
        deadline = time.perf_counter() + ENOUGH
        for turn in range(ROUNDS):
            if turn and time.perf_counter() > deadline:
                break
            for size in best:
                begun, passes = clock(), 0
                while not passes or clock() - begun < LEAST:
                    asked(search, self.scored, size)
                    passes += 1
                best[size] = min(best[size], (clock() - begun) / passes)
        return {f"queries_s_{size}": len(self.scored) / best[size] for size in best}


def asked(search: Search, queries: Vectors, size: int) -> float:
    """Seconds for all queries, so many at a time."""
    begun = time.perf_counter()
    for start in range(0, len(queries), size):
        search(queries[start : start + size])
    return time.perf_counter() - begun


def share(search: Search, queries: Vectors, truth: Sequence[Rows]) -> float:
    """The share of all true matches that a search finds; 1 where there are none."""
    found = [rows for start in range(0, len(queries), 32)
             for rows in search(queries[start : start + 32])]  # fmt: skip
    hits = sum(int(np.isin(mine, rows).sum()) for mine, rows in zip(truth, found, strict=True))
    true = sum(mine.size for mine in truth)
    return hits / true if true else 1.0


def depths(least: int, most: int) -> list[int]:
    """Efforts from ``least`` to ``most``, each about a quarter more than the one before."""
    out = [least]
    while out[-1] < most:
        out.append(min(most, max(out[-1] + 1, round(out[-1] * 1.25))))
    return out
