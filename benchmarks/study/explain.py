"""Where the pairs of each comparison lie: what the margins are measured against.

    .venv/bin/python -m benchmarks.study.explain        # prints the table of docs/study/why.md

From the embeddings that finished runs left in ``runs/study``, on the report classes, which no
training saw; means over the seeds. TCM pulls positive pairs below its positive margin and pushes
negative ones above its negative margin, so a margin that nearly every pair, or none, violates
says what the term did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.study.__main__ import OUT, SCRATCH
from benchmarks.study.analysis import RECALL, Paired, comparisons, opis
from benchmarks.study.columns import TITLES
from benchmarks.study.measuring import measurable
from benchmarks.study.record import Record, read_records
from benchmarks.study.worlds import World, world
from pipeline.distance import Vectors

HEAD = (
    "comparison", "margins", "side", "positives, median", "positives, 10 %",
    "similarity at FAR 1e-1", "at FAR 1e-2", "positives below the margin (%)",
    "negatives above the margin (%)", "R@1 (%)", "OPIS, classes (e-3)",
)  # fmt: skip


def main() -> None:
    """Print a Markdown table, two lines a comparison: base, and with TCM."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    worlds: dict[tuple[str, int], World] = {}
    for pair in comparisons(read_records(OUT / "runs.jsonl")):
        for side, records in (("base", pair.base), ("TCM", pair.tcm)):
            if cells := _line(pair, side, records, worlds):
                print(f"| {' | '.join(cells)} |", flush=True)


def _line(
    pair: Paired, side: str, records: Sequence[Record], worlds: dict[tuple[str, int], World]
) -> list[str]:
    found = [numbers for record in records
             for numbers in _pairs_of(record, pair.margins, worlds)]
    if not found:
        return []
    recall, inconsistency = (pair.mean(metric)[side == "TCM"] for metric in (RECALL, opis("label")))
    means = np.mean(found, axis=0)
    return [
        ", ".join(TITLES[part] for part in pair.name), "{:g} and {:g}".format(*pair.margins), side,
        *(f"{value:.2f}" for value in means[:4]), *(f"{100 * value:.1f}" for value in means[4:]),
        f"{100 * recall:.2f}", f"{1000 * inconsistency:.2f}",
    ]


def _pairs_of(
    record: Record, margins: tuple[float, float], worlds: dict[tuple[str, int], World]
) -> Iterator[NDArray[np.float64]]:
    """Nothing where the embedding of a run is not kept."""
    path = SCRATCH / f"{record['key']}.npy"
    if not path.exists():
        return
    where = record["data"], record["seed"]
    if where not in worlds:
        worlds[where] = world(*where)
    yield _numbers(np.load(path), worlds[where], margins)


def _numbers(
    vectors: Vectors, items: World, margins: tuple[float, float]
) -> NDArray[np.float64]:
    """(6,) in the order of ``HEAD``, from all pairs of report items."""
    rows = np.flatnonzero(measurable(items))
    report = items.items.split[rows] == "report"
    unit = vectors[report]
    label = np.unique(items.items.label[rows][report].astype(np.str_), return_inverse=True)[1]
    above = np.triu_indices(len(unit), 1)
    similarity = (unit @ unit.T)[above]
    same = (label[:, None] == label)[above]
    positive, negative = similarity[same], similarity[~same]
    return np.asarray([
        *np.quantile(positive, (0.5, 0.1)), *np.quantile(negative, (0.9, 0.99)),
        (positive < margins[0]).mean(), (negative > margins[1]).mean(),
    ])


if __name__ == "__main__":
    main()
