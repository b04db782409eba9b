"""How fast all matches are found, as ratios to other engines measured in one run.

    .venv/bin/python -m pip install hnswlib usearch
    .venv/bin/python -m benchmarks.search --items 1000000            # half an hour on 2 cores
    .venv/bin/python -m benchmarks.search --items 100000             # 3 minutes
    .venv/bin/python -m benchmarks.search --grow                     # ours alone, 10 k to 1 M
    .venv/bin/python -m benchmarks.search --vectors embeddings.npy   # real embeddings, unit rows

Data: families of classes of 20 items, a spread to each class; or real embeddings. 1,000 queries
tune every engine to the same share of all true matches (brute force by the deciding distance),
1,000 others score it. An engine without a threshold query asks for k neighbours, k the 99.9th
percentile of the numbers of true matches, and cuts them by its own distances. One thread each, in
a process of its own, which measures its anonymous memory; the best of several rounds, in seconds
of the processor, which a busy machine moves less than those of the clock.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.search.data import QUERIES, prepare, world
from benchmarks.search.engines import PEERS, Trial, build, ours, peer


def in_a_process(folder: Path, name: str) -> dict[str, Any]:
    """What an engine reports, from a process of its own."""
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.search", "--engine", name, "--folder", str(folder)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(said.stdout)
    return report


def show(name: str, one: dict[str, Any]) -> None:
    """One line of an engine."""
    print(
        f"{name:12} {one['share']:.4f} of all matches  {one['queries_s_1']:8.0f} /s alone"
        f"  {one['queries_s_32']:8.0f} /s in 32s  built in {one['build_s']:7.1f} s"
        f"  memory {one['memory']:.2f} x float32  {one['effort']}",
        flush=True,
    )  # fmt: skip


def ratios(mine: dict[str, Any], others: dict[str, dict[str, Any]], kind: str) -> None:
    """How many times as fast, and what the issue asks for."""
    for name, one in others.items():
        print(
            f"{kind} / {name}: alone {mine['queries_s_1'] / one['queries_s_1']:.2f} x (1.3),"
            f" in 32s {mine['queries_s_32'] / one['queries_s_32']:.2f} x (2),"
            f" build {one['build_s'] / mine['build_s']:.1f} x (10)"
        )
    print(f"{kind}: memory {mine['memory']:.2f} x float32 (at most 0.6)", flush=True)


def main() -> None:
    """Prepare the data, run every engine in turn, print the lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--vectors", type=Path, help="(n, d) unit rows instead of the generator")
    parser.add_argument("--kinds", default="ivf", help="of ours, with commas between")
    parser.add_argument("--grow", action="store_true", help="ours alone, at 10 k, 100 k, 1 M")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        with threadpool_limits(1):
            trial, name = Trial(args.folder), args.engine
            if name in PEERS:
                report = peer(trial, name)
            elif name.startswith("build "):
                report = build(trial, name.removeprefix("build "))
            else:
                report = ours(trial, name)
        print(json.dumps(report))
        return
    sizes = [10_000, 100_000, 1_000_000] if args.grow else [args.items]
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            vectors = np.load(args.vectors) if args.vectors else world(
                size + 2 * QUERIES, args.dimension)  # fmt: skip
            prepare(vectors, folder)
            trial = Trial(folder)
            mean = sum(rows.size for rows in trial.truth) / len(trial.truth)
            print(f"{len(trial.vectors):,} x {trial.vectors.shape[1]}, threshold "
                  f"{trial.threshold:.4f}, {mean:.1f} matches a query, k = {trial.k}")  # fmt: skip
            del vectors
            kinds = {}
            for kind in args.kinds.split(","):
                built = in_a_process(folder, f"build {kind}")
                kinds[kind] = in_a_process(folder, kind) | built
                show(kind, kinds[kind])
            if args.grow:
                continue
            others = {}
            for name in PEERS:
                others[name] = in_a_process(folder, name)
                show(name, others[name])
            for kind, one in kinds.items():
                ratios(one, others, kind)


if __name__ == "__main__":
    main()
