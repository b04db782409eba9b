"""How fast all pairs are counted, as ratios measured in one run.

    .venv/bin/python -m benchmarks.all_pairs              # about 2 minutes on 2 cores
    .venv/bin/python -m benchmarks.all_pairs --quick      # without the 100,000 items

Times are the best of several alternating rounds; a busy machine moves the ratios all the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipeline.consistency.opis import opis_of
from pipeline.counting.classes import ClassCounts
from pipeline.counting.operating import Grid
from pipeline.counting.pairs import count_classes
from pipeline.distance import Vectors, from_euclidean, to_euclidean

PER_CLASS = 10
FAR = (1e-2, 1e-1)
EDGES = 101
TARGETS = {512: 0.75, 128: 1.2}
"""Most that counting may take, in times of the product alone, by dimension."""

Data = tuple[Vectors, list[str], list[str]]


def world(items: int, dimension: int) -> Data:
    """Unit vectors in classes of 10 around random centres (docs/methods.md section 1)."""
    generator = np.random.default_rng(0)
    classes = items // PER_CLASS
    centres = generator.standard_normal((classes, dimension), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    label = generator.permutation(np.repeat(np.arange(classes), PER_CLASS))
    vectors = np.empty((items, dimension), np.float32)
    for start in range(0, items, 4096):  # in parts: the peak of memory is measured later
        some = label[start : start + 4096]
        noise = generator.standard_normal((some.size, dimension), np.float32)
        part = centres[some] + noise / np.float32(np.sqrt(dimension))
        vectors[start : start + 4096] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return vectors, [f"class {i}" for i in label], [f"item {i}" for i in range(items)]


def grid_of(vectors: Vectors) -> Grid:
    """101 thresholds between the two false accept rates, with equal steps of chord length."""
    sample = np.sort(1 - (vectors[:1000] @ vectors[1000:4000].T).ravel())
    low, high = (to_euclidean(sample[int(far * sample.size)]) for far in FAR)
    return Grid(from_euclidean(np.linspace(low, high, EDGES)).astype(np.float32))


def product(vectors: Vectors) -> None:
    """The plain N x N float32 product, a block of rows at a time."""
    block = np.empty((2048, len(vectors)), np.float32)
    for start in range(0, len(vectors), 2048):
        rows = vectors[start : start + 2048]
        np.matmul(rows, vectors.T, out=block[: len(rows)])


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def against_the_product(items: int, dimension: int, threads: int, rounds: int) -> None:
    """Counting against the product alone, in alternating rounds."""
    data = world(items, dimension)
    grid = grid_of(data[0])
    alone, counting = [], []
    with threadpool_limits(threads, user_api="blas"):
        for _ in range(rounds):
            alone.append(seconds(lambda: product(data[0])))
            counting.append(seconds(lambda: count_classes(*data, grid, threads=threads)))
    ratio = min(counting) / min(alone)
    print(
        f"{items:,} items of {dimension} dimensions in classes of {PER_CLASS}, {threads} threads: "
        f"counting takes {ratio:.2f} times the product alone "
        f"({min(counting):.2f} s against {min(alone):.2f} s); target {TARGETS[dimension]}."
    )


def by_threshold(data: Data, grid: Grid) -> Callable[[], object]:
    """Rates of each class, threshold by threshold, from a matrix of distances held in memory."""
    order = np.argsort(data[1], kind="stable")
    vectors = data[0][order]
    distances = 1 - vectors @ vectors.T
    starts = np.arange(0, len(order), PER_CLASS)
    inside = np.stack([distances[i : i + PER_CLASS, i : i + PER_CLASS] for i in starts])

    def rates() -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        found = []
        for edge in grid.edges:
            every = np.add.reduceat((distances <= edge).sum(axis=1), starts)
            own = (inside <= edge).sum(axis=(1, 2))
            positives = PER_CLASS * (PER_CLASS - 1)
            negatives = PER_CLASS * (len(order) - PER_CLASS)
            found.append(((own - PER_CLASS) / positives, (every - own) / negatives))
        return found

    return rates


def against_a_held_matrix(items: int, threads: int) -> None:
    """Counting against thresholds one after the other, the matrix of distances given."""
    data = world(items, 128)
    grid = grid_of(data[0])
    slow = seconds(by_threshold(data, grid))
    fast = min(seconds(lambda: count_classes(*data, grid, threads=threads)) for _ in range(3))
    print(
        f"{items:,} items: {slow / fast:.0f} times as fast as the rates of each class threshold by "
        f"threshold from a matrix held in memory ({fast:.2f} s against {slow:.1f} s); target 20."
    )


def time_of_the_interval(groups: int, threads: int) -> None:
    """OPIS of many classes with its interval, from their counts."""
    data = world(groups * PER_CLASS, 128)
    grid = grid_of(data[0])
    counts = count_classes(*data, grid, threads=threads)
    taken = seconds(lambda: opis_of(counts, grid.edges))
    print(f"OPIS of {groups:,} classes with its interval: {taken:.1f} s; target 10.")


def peak_memory(items: int, dimension: int) -> int:
    """Most bytes that this process has held after one count, less those of the embeddings."""
    data = world(items, dimension)
    counts: ClassCounts = count_classes(*data, grid_of(data[0]))
    if int(counts.items.sum()) != items:
        raise AssertionError("not every item was counted")
    status = Path("/proc/self/status").read_text("utf-8")
    held = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(held.split()[1]) * 1024 - data[0].nbytes


def memory(items: int, dimension: int) -> None:
    """Measure the peak in a process of its own, so that nothing else is in it."""
    command = [sys.executable, "-m", "benchmarks.all_pairs", "--memory-of", str(items)]
    found = subprocess.run(
        [*command, "--dimension", str(dimension)], check=True, capture_output=True, text=True
    )
    print(
        f"{items:,} items of {dimension} dimensions: at most {int(found.stdout) / 1e9:.2f} GB "
        "above the embeddings, Python and its libraries included; target 1."
    )


def main() -> None:
    """Run every part, or with ``--quick`` all but the largest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="leave out the 100,000 items")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dimension", type=int, default=128, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.memory_of:
        print(peak_memory(chosen.memory_of, chosen.dimension))
        return
    print(f"{os.cpu_count()} cores, {chosen.threads} of them used; best of {chosen.rounds} rounds.")
    small = world(4000, 128)
    count_classes(*small, grid_of(small[0]))  # compiled before any clock runs
    for dimension in TARGETS:
        against_the_product(30_000, dimension, chosen.threads, chosen.rounds)
    against_a_held_matrix(10_000, chosen.threads)
    time_of_the_interval(1000, chosen.threads)
    if not chosen.quick:
        memory(100_000, 128)


if __name__ == "__main__":
    main()
