"""Does TCM lower OPIS, and at what cost? Every base loss with and without it, over seeds.

    .venv/bin/python -m benchmarks.study            # about 2 hours on 2 quiet cores; resumes
    .venv/bin/python -m benchmarks.study --page     # the pages again, from the record alone
    .venv/bin/python -m benchmarks.study --quick    # every kind of run for a few steps: 5 minutes
    .venv/bin/python -m benchmarks.study --only icons/cnn --margins .7 .3    # other margins

A finished run is a line of ``docs/study/runs.jsonl`` and is not repeated, on any machine. Images,
features and embeddings lie in ``runs/study`` and may be deleted.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.study.page import write_pages
from benchmarks.study.plan import MARGINS, SEEDS, runs
from benchmarks.study.record import append_record, read_records
from benchmarks.study.running import recorded
from benchmarks.study.worlds import World, world

OUT = Path("docs/study")
SCRATCH = Path("runs/study")
_QUICK = 6


def main() -> None:
    """Finish what is not in the record yet, then write the pages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study")
    parser.add_argument("--page", action="store_true", help="only write the pages")
    parser.add_argument("--quick", action="store_true", help="a few steps of one seed, set aside")
    parser.add_argument("--only", default="", help="comparisons with this in their name")
    parser.add_argument("--margins", type=float, nargs=2, default=MARGINS,
                        metavar=("POSITIVE", "NEGATIVE"), help="other margins, besides")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
    out, seeds, steps = OUT, tuple(options.seeds), 0
    if options.quick:
        out, seeds, steps = SCRATCH / "quick", (0,), _QUICK
    if not options.page:
        finish(out / "runs.jsonl", options.only, tuple(options.margins), seeds, steps)
    for path in write_pages(read_records(out / "runs.jsonl"), out):
        print(path)


def finish(
    path: Path, only: str, margins: tuple[float, float], seeds: tuple[int, ...], steps: int
) -> None:
    """Do the runs that ``path`` does not have, one line each."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    worlds: dict[tuple[str, int], World] = {}
    done = {record["key"] for record in read_records(path)}
    planned = list(runs(only, margins, seeds, steps))
    started = time.monotonic()
    for number, run in enumerate(planned, 1):
        where = run.comparison.data, run.seed
        if where not in worlds:
            worlds[where] = world(*where)
        if run.key(worlds[where].digest) in done:
            continue
        print(f"{number} of {len(planned)}: {run.name}", flush=True)
        record = recorded(run, worlds[where], SCRATCH, lambda text: print(text, flush=True))
        append_record(path, record)
        print(f"  {record.get('failed') or summary(record)}; "
              f"{(time.monotonic() - started) / 60:.1f} minutes so far", flush=True)


def summary(record: dict[str, object]) -> str:
    """The numbers of a run in one line."""
    label = record["label"]
    assert isinstance(label, dict)
    recall, opis = record["recall"], label["opis"]["corrected"]["value"]
    return f"R@1 {recall}, OPIS {opis} over classes, {record['seconds']} s"


if __name__ == "__main__":
    main()
