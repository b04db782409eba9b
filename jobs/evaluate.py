"""``limen evaluate EMBEDDINGS ITEMS``: how alike one threshold treats every customer or class.

EMBEDDINGS is a ``.npy`` array with a row for each item, a Parquet file with a column of lists
(joined by ``item_id`` where it has one), or a sealed release, which embeds the items itself.
ITEMS names each item's label, and its customer where there are any.

One machine: ``limen evaluate embeddings.npy items.csv --html report.html``
Cluster:     ``limen evaluate 3f9c1a items.parquet --store s3://bucket/releases --json``
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from jobs.command import script, terminal
from jobs.subjects import Sources, Subject, load_subject
from jobs.workspace import STORE
from pipeline.canonical import canonical_json
from pipeline.consistency.ranges import RANGE_FAR, SPACINGS
from pipeline.data.items import missing
from pipeline.data.labels import Labels, read_labels
from pipeline.durable import write_durably
from pipeline.evaluation.evaluated import Evaluated, document
from pipeline.evaluation.grouping import GROUPINGS
from pipeline.evaluation.measures import Measures, Settings, difference, measure_items
from pipeline.evaluation.retrieval import KS
from pipeline.reports.earlier import read_run
from pipeline.reports.evaluated_rows import summary_rows
from pipeline.reports.evaluation_page import render
from pipeline.reports.numerals import thousandths_interval
from pipeline.reports.plots_runs import Arrow
from pipeline.reports.report_parts import POINT_HEAD, point_cells, worst_first
from pipeline.statistics.intervals import Interval

_SHOWN = 10  # groups in the table on the terminal


class EvaluateError(ValueError):
    """Options or items that cannot be used; the message is one line with the remedy."""


def evaluate(
    subjects: list[Subject], settings: Settings, console: Console
) -> tuple[list[Evaluated], Interval | None]:
    """Measure each of one or two subjects, and the paired difference of their OPIS."""
    counted, notes = _counted(subjects)
    entries = []
    for subject in subjects:
        own = settings.threshold if subject is subjects[0] else None
        threshold = subject.threshold if own is None else own
        wanted = Settings(
            group=settings.group, threshold=threshold, far_target=settings.far_target,
            range_far=settings.range_far, spacing=settings.spacing, ks=settings.ks,
            widen=settings.threshold is not None or any(s.threshold is not None for s in subjects),
        )  # fmt: skip
        with console.status(f"Counting every pair of {int(counted.sum()):,} items"):
            measures = measure_items(subject.items, counted, wanted)
        mark = "given threshold" if own is not None else "served threshold"
        if threshold is None:
            mark = f"threshold at FAR {settings.far_target:g}"
        entries.append(Evaluated(
            name=subject.name, digest=subject.digest, dimension=subject.dimension, mark=mark,
            measures=measures, release=subject.release,
            notes=(*notes, *_notes(subject, measures, threshold is None)),
        ))  # fmt: skip
    paired = None
    if len(entries) > 1:
        paired = difference(entries[0].measures, entries[1].measures)
    return entries, paired


def _counted(subjects: list[Subject]) -> tuple[NDArray[np.bool_], list[str]]:
    """(n,) the items that count for every subject, and what was left out."""
    items = subjects[0].items
    unlabelled = missing(items.label)
    training = ~unlabelled & (items.split == "train")
    known = np.zeros(len(items), np.bool_)
    for subject in subjects:
        known |= subject.knows(items.label)
    known &= ~training & ~unlabelled
    counted = ~(unlabelled | training | known)
    notes = [
        f"{int(left.sum()):,} of {len(items):,} items are not counted: {why}."
        for left, why in (
            (unlabelled, "they have no label"),
            (training, "they are of the split train"),
            (known, "the release was trained on their class"),
        )
        if left.any()
    ]
    if not counted.any():
        raise EvaluateError(
            "no item is left to count: " + (" ".join(notes) or "there is none")
            + " Expected labelled items of classes that no model here was trained on"
        )
    return counted, notes


def _notes(subject: Subject, measures: Measures, chosen_here: bool) -> list[str]:
    notes = []
    if subject.scaled:
        notes.append(f"{subject.scaled:,} embeddings were not of unit length and were scaled.")
    if chosen_here:
        notes.append(
            "The threshold was chosen on these very items: its FAR is what was asked for, not a "
            "finding."
        )
    if measures.main.opis.corrected.upper < 0:
        notes.append(
            "Corrected OPIS lies below 0 beyond its interval, which no truth does: the items of a "
            "group are no independent draws (variants of one item, say), so that its halves "
            "differ more than chance; read the raw value, which is too high, as an upper bound."
        )
    if measures.widened:
        notes.append("The calibration range was widened to hold the threshold.")
    return notes


def show(entries: list[Evaluated], paired: Interval | None, console: Console) -> None:
    """What was measured, as tables."""
    table = Table("", *(entry.name for entry in entries))
    for name, cells in summary_rows(entries):
        table.add_row(name, *cells)
    console.print(table)
    if paired is not None:
        console.print(
            f"OPIS, corrected, {entries[0].name} minus {entries[1].name}, paired: "
            f"{thousandths_interval(paired)} e-3."
        )
    one, many = entries[0].unit
    ranked = worst_first(entries[0].measures.points)
    worst = Table(f"{one}, lowest utility first", *POINT_HEAD)
    for point in ranked[:_SHOWN]:
        worst.add_row(point.name, *point_cells(point))
    console.print(worst)
    if len(ranked) > _SHOWN:
        console.print(f"And {len(ranked) - _SHOWN:,} more {many}; all are in --json.")
    for entry in entries:
        for note in entry.notes:
            console.print(f"{entry.name}: {note}")
    console.print("Brackets: 95 %; identities or items are the unit, since pairs share them.")


def _settings(
    group: str | None, labels: Labels, options: tuple[float | None, float, str, str],
    far: tuple[float, float],
) -> Settings:  # fmt: skip
    """The options checked; ``EvaluateError`` with one line for the first that cannot be."""
    threshold, far_target, spacing, ks = options
    has_customers = not missing(labels.customer).all()
    group = group or ("customer" if has_customers else "label")
    if group not in GROUPINGS:
        raise EvaluateError(f"--group {group}: expected {' or '.join(GROUPINGS)}")
    if group == "customer" and not has_customers:
        raise EvaluateError("--group customer: the items name no customer; take --group label")
    if spacing not in SPACINGS:
        raise EvaluateError(f"--spacing {spacing}: expected one of {', '.join(SPACINGS)}")
    if threshold is not None and not 0 < threshold <= 2:
        raise EvaluateError(f"--threshold {threshold:g}: expected a cosine distance, 0 to 2")
    if not 0 < far_target < 1:
        raise EvaluateError(f"--far-target {far_target:g}: expected a FAR between 0 and 1")
    if not 0 < far[0] < far[1] < 1:
        raise EvaluateError(f"--far {far[0]:g} {far[1]:g}: expected two FARs, 0 < LOW < HIGH < 1")
    parts = [part.strip() for part in ks.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise EvaluateError(f"--k {ks}: expected whole numbers from 1 up, such as 1,5,10")
    depths = tuple(sorted({1, *(int(part) for part in parts)}))  # R@1 is in every figure
    own = None if threshold is None else np.float32(threshold)
    return Settings(
        group=group, threshold=own, far_target=far_target, range_far=far, spacing=spacing, ks=depths
    )


def _arrows(pairs: list[str], spacing: str) -> list[Arrow]:
    arrows = []
    for pair in pairs:
        base, comma, tcm = pair.partition(",")
        if not (base and comma and tcm):
            raise EvaluateError(f"--arrow {pair}: expected two files, BASE.json,TCM.json")
        arrows.append(Arrow(read_run(Path(base), spacing), read_run(Path(tcm), spacing)))
    return arrows


def main(
    embeddings: Annotated[str, typer.Argument(help=".npy, .parquet, or a release.")],
    items: Annotated[Path, typer.Argument(help="Items table, or a folder of images.")],
    group: Annotated[str | None, typer.Option(help="customer or label.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Operating point.")] = None,
    far_target: Annotated[float, typer.Option(help="FAR that chooses it, else.")] = 1e-3,
    far: Annotated[tuple[float, float], typer.Option(help="FARs that end the range.")] = RANGE_FAR,
    spacing: Annotated[str, typer.Option(help="Main spacing of thresholds.")] = "euclidean",
    k: Annotated[str, typer.Option(help="Depths of R@k.")] = ",".join(map(str, KS)),
    column: Annotated[str | None, typer.Option(help="Embeddings in Parquet.")] = None,
    against: Annotated[str | None, typer.Option(help="A second embedding of the items.")] = None,
    arrow: Annotated[list[str] | None, typer.Option(help="BASE.json,TCM.json; repeatable.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report here.")] = None,
    store: Annotated[str, typer.Option(help="Folder or URL of the store.")] = STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Measure how consistently one threshold treats every customer or class."""
    console = terminal()
    if as_json:
        console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    labels = read_labels(items)
    settings = _settings(group, labels, (threshold, far_target, spacing, k), far)
    arrows = _arrows(arrow or [], spacing)
    if html is not None and not html.absolute().parent.is_dir():
        raise EvaluateError(f"--html {html}: no folder {html.parent}; make it first")
    sources = Sources(items, labels, store, column)
    subjects = [load_subject(name, sources, console) for name in (embeddings, against) if name]
    if settings.threshold is not None and subjects[0].threshold is not None:
        raise EvaluateError(f"--threshold: {subjects[0].name} has its own; it is for embeddings")
    entries, paired = evaluate(subjects, settings, console)
    other = entries[1] if len(entries) > 1 else None
    if html is not None:
        digests = {entry.name: entry.digest for entry in entries}
        provenance = {**digests, "labels of the items": labels.digest()}
        write_durably(html, render(entries, paired, arrows, provenance).encode())
    if as_json:
        typer.echo(canonical_json(document(entries[0], labels.digest(), other, paired)).decode())
        return
    show(entries, paired, console)
    if html is not None:
        console.print(f"Report: {html}")


if __name__ == "__main__":
    script(main)
