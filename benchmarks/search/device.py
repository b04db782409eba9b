"""Exact threshold search over all rows on a GPU: against memory bandwidth, and against FAISS.

    .venv/bin/python -m benchmarks.search.device --device cuda                     # 1 M x 128
    .venv/bin/python -m benchmarks.search.device --device cuda --items 10000000 --dimension 512
    .venv/bin/python -m benchmarks.search.device --device cpu:0 --items 20000      # tries the path

The floor: bytes of the gallery over the bandwidth of a copy on the device, reads and writes
counted. FAISS: ``range_search_gpu``, its k nearest on the GPU and a range search on the CPU for
the queries that have more matches; where it finds no GPU its index stays on the CPU. Both find
every match by the deciding distance, or the share says what they miss. Seconds of the clock, the
best of several rounds, for batches of 1, 32 and 256.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from faiss.contrib.exhaustive_search import range_search_gpu

from benchmarks.search.data import QUERIES, prepare, world
from benchmarks.search.engines import Search, Trial
from pipeline.config import IndexConfig
from pipeline.cuda import device_named
from pipeline.distance import Vectors
from pipeline.search.gallery import open_gallery
from pipeline.search.index import build_index, open_index

ROUNDS = 5
SIZES = (1, 32, 256)
_COPIED = 2**28  # bytes: far more than any cache holds


def best(call: Callable[[], object]) -> float:
    """Seconds of the quickest of several calls, after one that is not counted."""
    least = math.inf
    for warm in (True, *[False] * ROUNDS):
        begun = time.perf_counter()
        call()
        least = least if warm else min(least, time.perf_counter() - begun)
    return least


def bandwidth(device: str) -> float:
    """Bytes a second that a copy on the device reads and writes."""
    place = device_named(device)
    source = torch.zeros(_COPIED // 4, device=place)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    return 2 * _COPIED / best(copy)


def ours(trial: Trial, device: str) -> Search:
    """All rows on the device; each match decided from the gallery."""
    gallery = open_gallery(trial.folder)
    build_index(gallery, IndexConfig(kind="flat"), trial.folder)
    index = open_index(trial.folder, gallery, device=device)

    def search(queries: Vectors) -> list[np.ndarray]:
        found = index.search_batch("one", queries, trial.threshold)
        return [one.rows[: one.match_count] for one in found]

    return search


def theirs(trial: Trial) -> Search:
    """FAISS's emulation of a range search on a GPU, by its own distances."""
    flat = faiss.IndexFlatIP(trial.vectors.shape[1])
    flat.add(trial.vectors)
    gpus = getattr(faiss, "get_num_gpus", int)()
    placed = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, flat) if gpus else flat
    radius = float(1 - trial.threshold)

    def search(queries: Vectors) -> list[np.ndarray]:
        found: Any = range_search_gpu
        ends, _, rows = found(queries, radius, placed, flat)
        return np.split(rows, ends[1:-1])

    return search


def main() -> None:
    """Prepare the data, search by both, print times as multiples of the floor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", required=True, help="of torch: cuda, cuda:1, cpu:0")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = folder / "world.npy"
        prepare(world(args.items + 2 * QUERIES, args.dimension, raw), folder)
        raw.unlink()
        trial = Trial(folder)
        floor = trial.vectors.nbytes / bandwidth(args.device)
        print(f"{args.items:,} x {args.dimension} on {args.device}: floor {1e3 * floor:.3f} ms")
        for who, search in (("limen", ours(trial, args.device)), ("faiss", theirs(trial))):
            print(f"{who}: {trial.share(search, scored=True):.5f} of all matches")
            for size in SIZES:
                queries = np.ascontiguousarray(trial.scored[:size])
                seconds = best(partial(search, queries))
                print(f"  batch {size}: {1e3 * seconds:.3f} ms, {seconds / floor:.2f} x the floor",
                      flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
