"""An engine in a process of its own: built there, and scored in another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from benchmarks.search.engines import Trial, build, build_peer, ours, peer
from benchmarks.search.peers import PEERS


def built(folder: Path, name: str) -> dict[str, Any]:
    """Seconds of the build of an engine; those of an earlier one where ``folder`` keeps it."""
    kept = folder / f"{name}.json"
    if not kept.exists():
        kept.write_text(json.dumps(_in_a_process(folder, "build", name)))
    report: dict[str, Any] = json.loads(kept.read_text())
    return report


def scored(folder: Path, name: str) -> dict[str, Any]:
    """What an engine that was built measures."""
    return _in_a_process(folder, "score", name)


def _in_a_process(folder: Path, verb: str, name: str) -> dict[str, Any]:
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.search.worker", verb, name, str(folder)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(said.stdout)
    return report


def main() -> None:
    """Build or score one engine, on one thread; its report as JSON."""
    verb, name, folder = sys.argv[1:]
    with threadpool_limits(1):
        trial = Trial(Path(folder))
        act = {"build": (build, build_peer), "score": (ours, peer)}[verb][name in PEERS]
        print(json.dumps(act(trial, name)))


if __name__ == "__main__":
    main()
