"""How fast all matches are found, as ratios to other engines measured in one run.

    .venv/bin/python -m pip install hnswlib usearch
    .venv/bin/python -m benchmarks.search --items 100000             # 3 minutes
    .venv/bin/python -m benchmarks.search --items 1000000 --folder F # an hour on 2 cores; what F
                                                       # keeps is not built again: then 5 minutes
    .venv/bin/python -m benchmarks.search --items 1000000 --folder F --build   # only build
    .venv/bin/python -m benchmarks.search --vectors embeddings.npy   # real embeddings, unit rows
    .venv/bin/python -m benchmarks.search.growth --folder F          # ours alone, 10 k to 10 M
    .venv/bin/python -m benchmarks.search.device --device cuda       # all rows, on a GPU

Data: families of classes of 20 items, a spread to each class; or real embeddings. 1,000 queries
tune every engine to the same share of all true matches (brute force by the deciding distance),
1,000 others score it. An engine without a threshold query asks for k neighbours, k the 99.9th
percentile of the numbers of true matches, and cuts them by its own distances. One thread each, in
a process of its own, which measures its anonymous memory; the best of several rounds, in seconds
of the processor, which a busy machine moves less than those of the clock.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.data import QUERIES, prepare, world
from benchmarks.search.engines import Trial
from benchmarks.search.peers import PEERS
from benchmarks.search.worker import built, scored


def show(name: str, one: dict[str, Any]) -> None:
    """One line of an engine."""
    mapped = f" + {one['mapped']:.2f} mapped" if "mapped" in one else ""
    print(
        f"{name:12} {one['share']:.4f} of all matches  {one['queries_s_1']:8.0f} /s alone"
        f"  {one['queries_s_32']:8.0f} /s in 32s  built in {one['build_s']:7.1f} s"
        f"  memory {one['memory']:.2f}{mapped} x float32  {one['effort']}",
        flush=True,
    )  # fmt: skip


def ratios(mine: dict[str, Any], others: dict[str, dict[str, Any]], kind: str) -> None:
    """How many times as fast, and what the target is."""
    for name, one in others.items():
        print(
            f"{kind} / {name}: alone {mine['queries_s_1'] / one['queries_s_1']:.2f} x (1.3),"
            f" in 32s {mine['queries_s_32'] / one['queries_s_32']:.2f} x (2),"
            f" build {one['build_s'] / mine['build_s']:.1f} x (10)"
        )
    print(f"{kind}: memory {mine['memory']:.2f} x float32 (at most 0.6)", flush=True)


def compare(folder: Path, kinds: list[str], *, build_only: bool) -> None:
    """Build what the folder lacks, score every engine in turn, print the lines."""
    trial = Trial(folder)
    mean = sum(rows.size for rows in trial.truth) / len(trial.truth)
    print(f"{len(trial.vectors):,} x {trial.vectors.shape[1]}, threshold {trial.threshold:.4f}, "
          f"{mean:.1f} matches a query, k = {trial.k}", flush=True)  # fmt: skip
    made = {}
    for name in (*kinds, *PEERS):
        made[name] = built(folder, name)
        if build_only:
            print(f"{name:12} built in {made[name]['build_s']:7.1f} s", flush=True)
    if build_only:
        return
    for name, one in made.items():
        one |= scored(folder, name)
        show(name, one)
    for kind in kinds:
        ratios(made[kind], {name: made[name] for name in PEERS}, kind)


def main() -> None:
    """Read the command line, prepare the data, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--vectors", type=Path, help="(n, d) unit rows instead of the generator")
    parser.add_argument("--kinds", default="ivf", help="of ours, with commas between")
    parser.add_argument("--folder", type=Path, help="keeps data and indexes for the next run")
    parser.add_argument("--build", action="store_true", help="only build what the folder lacks")
    args = parser.parse_args()
    items, dimension = args.items, args.dimension
    if args.vectors:
        rows, dimension = np.load(args.vectors, mmap_mode="r").shape
        items = rows - 2 * QUERIES
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        if not (folder / "truth.npz").exists():
            prepare(np.load(args.vectors) if args.vectors else world(
                items + 2 * QUERIES, dimension), folder)  # fmt: skip
        kept = Trial(folder).vectors.shape
        if kept != (items, dimension):
            parser.error(f"{folder}: keeps {kept[0]} x {kept[1]}, expected {items} x {dimension};"
                         " name another folder")  # fmt: skip
        compare(folder, args.kinds.split(","), build_only=args.build)


if __name__ == "__main__":
    main()
