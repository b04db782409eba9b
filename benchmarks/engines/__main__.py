"""Limen's threshold query against other engines' own: one run, one machine, one thread each.

    python3.11 -m venv ENV && ENV/bin/pip install -r benchmarks/engines/requirements.txt
    .venv/bin/python -m benchmarks.engines --items 100000 --python ENV/bin/python

Data, threshold, queries and true matches are those of ``benchmarks.search``. Every engine runs in
processes of its own: one builds; another, kept on one core with its server, opens what was built,
finds the least effort that reaches .999 of all true matches on 1,000 queries, and is scored and
timed on 1,000 others, in seconds of the processor, its server's too, which a busy machine moves
less than those of the clock. Prints a table in Markdown with the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.trial import TARGET, Trial
from benchmarks.engines.worker import ENGINES, built
from benchmarks.search.data import QUERIES, prepare, world

Report = dict[str, Any]
COLUMNS = ("engine", "share of matches", "queries/s alone", "queries/s in 32s",
           "alone: Limen is", "in 32s: Limen is", "build (s)", "memory (MB)", "mapped (MB)",
           "index", "effort")  # fmt: skip


def worked(python: str, verb: str, name: str, folder: Path) -> Report:
    """What a worker reports; its other output goes to standard error."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    said = subprocess.run(
        [python, "-m", "benchmarks.engines.worker", verb, name, str(folder)],
        check=True, stdout=subprocess.PIPE, text=True, env=os.environ | threads,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    report: Report = json.loads(said.stdout.splitlines()[-1])
    return report


def ready(folder: Path, items: int, dimension: int) -> Trial:
    """The data in the folder, made unless it is there."""
    if not (folder / "truth.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        prepare(world(items + 2 * QUERIES, dimension), folder)
    trial = Trial(folder)
    if trial.vectors.shape != (items, dimension):
        raise SystemExit(f"{folder}: holds {trial.vectors.shape}, not {(items, dimension)}; "
                         "name another --folder")  # fmt: skip
    return trial


def build(python: str, name: str, folder: Path) -> Report:
    """What the build of an engine took, now or when the folder's was made."""
    kept = folder / f"{built(name)}.json"
    if not kept.exists():
        kept.write_text(json.dumps(worked(python, "build", name, folder)))
    report: Report = json.loads(kept.read_text())
    return report


def line(name: str, one: Report, ours: Report | None) -> str:
    """One row of the table; a ratio above 1 means that Limen is faster."""
    times = [f"{ours[key] / one[key]:.2f} x" if ours else ""
             for key in ("queries_s_1", "queries_s_32")]  # fmt: skip
    share = f"{one['share']:.4f}" + ("" if one["share"] >= TARGET else " (short)")
    effort = ", ".join(f"{key} {value}" for key, value in one["setting"].items())
    return "| " + " | ".join([
        name, share, f"{one['queries_s_1']:,.0f}", f"{one['queries_s_32']:,.0f}", *times,
        f"{one['build_s']:.1f}", *(f"{one['memory'][part] / 1e6:,.0f}" for part in
                                   ("own", "mapped")), one["index"], effort]) + " |"  # fmt: skip


def main() -> None:
    """Prepare, build, search, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--engines", default=",".join(ENGINES), help="with commas between")
    parser.add_argument("--python", default=sys.executable, help="where the others are installed")
    parser.add_argument("--folder", type=Path, help="keeps data and builds for another run")
    parser.add_argument("--build", action="store_true", help="only build, into the folder")
    args = parser.parse_args()
    names = args.engines.split(",")
    if unknown := set(names) - set(ENGINES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(ENGINES)}")
    with nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        trial = ready(folder, args.items, args.dimension)
        found: dict[str, Report] = {}
        for name in names:
            python = sys.executable if name == "limen" else args.python
            report = build(python, name, folder)
            if not args.build:
                found[name] = report | worked(python, "search", name, folder)
                print(line(name, found[name], found.get("limen")), file=sys.stderr, flush=True)
    if found:
        show(trial, found)


def show(trial: Trial, found: dict[str, Report]) -> None:
    """The data, the table, the versions."""
    print(
        f"{len(trial.vectors):,} x {trial.vectors.shape[1]}, threshold {trial.threshold:.4f}, "
        f"{trial.counts.mean():.1f} matches a query, k = {trial.k} (which holds "
        f"{np.minimum(trial.counts, trial.k).sum() / trial.counts.sum():.5f} of all)\n"
    )
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    for name, one in found.items():
        print(line(name, one, found.get("limen")))
    versions = dict.fromkeys(one["version"] for one in found.values())
    calls = dict.fromkeys(f"{one['batch']} ({name})" for name, one in found.items())
    print(f"\nVersions: {'; '.join(versions)}; NumPy {np.__version__}.")
    print(f"Batch calls: {', '.join(calls)}.")


if __name__ == "__main__":
    main()
