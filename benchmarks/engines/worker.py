"""One engine in this process: built, or opened, tuned on some queries, scored on the others.

    PYTHON -m benchmarks.engines.worker build ENGINE FOLDER
    PYTHON -m benchmarks.engines.worker search ENGINE FOLDER

Building and searching are two processes, so that what a build leaves in memory is not counted.
The last line that this prints is a JSON object.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.engines import usage
from benchmarks.engines.trial import Engine, Trial, share

ENGINES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "limen": ("own", "Limen", {}),
    "qdrant": ("qdrant", "Qdrant", {"codes": False}),
    "qdrant-int8": ("qdrant", "Qdrant", {"codes": True}),
    "pgvector-hnsw": ("pgvector", "Pgvector", {"kind": "hnsw"}),
    "pgvector-ivfflat": ("pgvector", "Pgvector", {"kind": "ivfflat"}),
    "chroma": ("chroma", "Chroma", {"http": False}),
    "chroma-http": ("chroma", "Chroma", {"http": True}),
    "lancedb-ivf-flat": ("lance", "Lance", {"kind": "ivf-flat"}),
    "lancedb-ivf-pq": ("lance", "Lance", {"kind": "ivf-pq"}),
    "lancedb-hnsw-sq": ("lance", "Lance", {"kind": "hnsw-sq"}),
}
"""By name: module, class and arguments. Only Limen's module imports the project."""


def built(name: str) -> str:
    """The name of the build that an engine opens: in process and over HTTP share one."""
    return name.removesuffix("-http")


def made(name: str, trial: Trial) -> Engine:
    """The engine of this name; its library is imported now, not before."""
    module, kind, options = ENGINES[name]
    room = importlib.import_module(f"benchmarks.engines.{module}")
    make = partial(getattr(room, kind), trial, trial.folder / built(name))
    engine: Engine = make(**options)
    return engine


def build(name: str, trial: Trial) -> dict[str, Any]:
    """Seconds of the processor from rows in memory to an index on disk."""
    rows = trial.vectors.copy()
    engine = made(name, trial)
    begun = usage.seconds([os.getpid()])
    counted = engine.build(rows)
    took = usage.seconds(usage.family(engine.servers())) - begun
    engine.close()
    return {"build_s": took if counted is None else counted}


def search(name: str, trial: Trial) -> dict[str, Any]:
    """Effort, share, memory and speed of what was built."""
    engine = made(name, trial)
    gc.collect()
    before = usage.memory([])
    engine.open()
    try:
        setting = trial.tuned(engine)
        engine.use(setting)
        reached = share(engine.search, trial.scored, trial.scored_truth)
        after = usage.memory(engine.servers())
        answering = usage.family(engine.servers())
        taken = {part: after[part] - before[part] for part in after}
        return {**engine.about(), "setting": setting, "share": reached, "memory": taken,
                **trial.timed(engine.search, partial(usage.seconds, answering))}  # fmt: skip
    finally:
        engine.close()


def main() -> None:
    """Parse, do the one or the other, print."""
    verb, name, folder = sys.argv[1:]
    if verb == "search":
        usage.one_core()
    report = {"build": build, "search": search}[verb](name, Trial(Path(folder)))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
