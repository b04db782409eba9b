"""``limen audit``: the precision of many deciders from few labels.

One machine: ``limen audit plan june --table predictions.parquet --sets a,b,c --margin 0.05``
Cluster:     the same with ``--records postgresql://...``; several people may label at once.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import typer
from rich.table import Table

from jobs.command import run_verb, terminal
from pipeline.audit.allocation import independent
from pipeline.audit.audits import Audits
from pipeline.audit.cells import AuditError
from pipeline.audit.ensemble import Ensemble, majority
from pipeline.audit.estimates import answers
from pipeline.audit.plan import Plan, Wish, plan
from pipeline.audit.tables import Decisions
from pipeline.audit.targets import Question
from pipeline.live.database import Database
from pipeline.statistics.intervals import TAIL, Interval, sequence_tail

app = typer.Typer(help="Measure many deciders with few labels.", add_completion=False)

RECORDS = "sqlite:///records.db"
_WORDS = {"y": True, "n": False, "u": None}

NameArgument = Annotated[str, typer.Argument(help="Name of the audit.")]
RecordsOption = Annotated[str, typer.Option(help="SQL store that keeps audits and labels.")]


@app.command("plan")
def make_plan(
    name: NameArgument,
    table: Annotated[Path, typer.Option("--table", "--decisions", help="Parquet or Arrow table "
                     "or folder: a row for each thing decided, a boolean column for each set.")],
    sets: Annotated[str, typer.Option(help="Its boolean columns, with commas between.")],
    by: Annotated[str | None, typer.Option(help="A column that divides every set.")] = None,
    key: Annotated[str, typer.Option(help="Columns that name a row for good, with commas between; "
                                          "its label then serves later audits.")] = "",
    ensemble: Annotated[list[str] | None, typer.Option(
        help="A further set: NAME=a+b+c (majority) or NAME=2:a+b+c (2 of them).")] = None,
    ask: Annotated[list[str] | None, typer.Option(
        help="What to estimate, such as precision:a, recall:a,near or difference:a,b; "
             "absent: the precision of every set.")] = None,
    margin: Annotated[float | None, typer.Option(help="Half-width of every interval.")] = None,
    budget: Annotated[int | None, typer.Option(help="Most labels there may be.")] = None,
    score: Annotated[str | None, typer.Option(help="A column of P(match) before labels.")] = None,
    show: Annotated[str, typer.Option(help="Columns to show to whoever labels.")] = "",
    records: RecordsOption = RECORDS,
) -> None:
    """Choose the rows to label, and say what their labels will tell."""
    decisions = Decisions(
        path=table, sets=_names(sets), by=by, key=_names(key), score=score,
        ensembles=tuple(map(_ensemble, ensemble or ())),
    )
    wish = Wish(
        questions=[_question(one) for one in ask or ()], margin=margin, budget=budget,
        shown=_names(show),
    )
    # Rows without a key are those of this very file: no other audit can mean them.
    scope = "+".join(decisions.key) or str(table.resolve())
    audits = Audits(Database(records))
    made = plan(decisions, wish, audits.seed(scope), audits.known(scope))
    told = {"table": str(table), "margin": margin, "budget": budget, "by": by}
    audits.add(name, scope, made, told, time.time())
    _show_plan(made, len(audits.to_label(audits.open(name))))
    terminal().print(f"Next: limen audit label {name}")


@app.command()
def label(
    name: NameArgument,
    verdicts: Annotated[Path | None, typer.Option(
        help="Parquet or CSV with the columns key and is_match (empty: nobody could tell); "
             "absent: ask here.")] = None,
    records: RecordsOption = RECORDS,
) -> None:
    """Label the rows of an audit here, row by row, or from a file; stop whenever you like."""
    audits = Audits(Database(records))
    kept = audits.open(name)
    if verdicts is not None:
        new = audits.label(kept, _verdicts(verdicts), time.time())
        terminal().print(f"{new} new labels; {len(audits.to_label(kept))} rows to go.")
        return
    for row in audits.to_label(kept):
        terminal().print(f"{row.place + 1}. " + ", ".join(
            f"{column} {value}" for column, value in {"row": row.key, **row.shown}.items()))
        word = typer.prompt("a match? y, n, u (cannot tell), q (stop)").strip().lower()
        if word == "q":
            break
        if word in _WORDS:
            audits.label(kept, {row.key: _WORDS[word]}, time.time())
        else:
            terminal().print("y, n, u or q; this row comes again next time.")
    terminal().print(f"{len(audits.to_label(kept))} rows to go.")


@app.command()
def estimate(
    name: NameArgument,
    every_look: Annotated[bool, typer.Option("--every-look", help=(
        "Intervals that hold however often one looks: to stop as soon as they are narrow enough."
    ))] = False,
    records: RecordsOption = RECORDS,
) -> None:
    """What the labels so far say of every set, with intervals."""
    audits = Audits(Database(records))
    kept = audits.open(name)
    found = audits.labels(kept)
    tail = sequence_tail(found.labels.cell.size) if every_look else TAIL
    shown = Table("what", "of", "estimate", "interval (95 %)", "labels", "alone")
    for one in answers(
        kept.cells, kept.strata, kept.questions, found.labels, found.undecided, tail=tail
    ):
        alone = independent(one.target, _half(one.interval))
        shown.add_row(one.target.criterion, one.target.name, f"{one.interval.value:.3f}",
                      f"{one.interval.lower:.3f} to {one.interval.upper:.3f}",
                      str(one.labels), str(alone))
    terminal().print(shown)
    terminal().print(
        f"{found.done} of {found.drawn} drawn rows are labelled, {int(found.undecided.sum())} of "
        "them undecided. Alone: labels of an independent sample for an interval as narrow.")


@app.command("list")
def list_audits(records: RecordsOption = RECORDS) -> None:
    """Every audit, the oldest first."""
    audits = Audits(Database(records))
    shown = Table("audit", "table", "rows drawn", "labelled")
    for name in audits.names():
        kept = audits.open(name)
        found = audits.labels(kept)
        shown.add_row(name, str(kept.told.get("table")), str(found.drawn), str(found.done))
    terminal().print(shown)


def _show_plan(made: Plan, missing: int) -> None:
    shown = Table("what", "of", "rows", "expected margin", "labels", "alone")
    total = 0
    for place, target in enumerate(made.targets):
        margin = float(made.allocation.margin[place])
        alone = independent(target, margin) if margin > 0 else target.rows
        total += alone
        shown.add_row(target.criterion, target.name, f"{target.rows:,}", f"{margin:.3f}",
                      str(int(made.allocation.needed[place])), str(alone))
    terminal().print(shown)
    labels = made.allocation.total
    terminal().print(
        f"{labels} labels in all, {labels - missing} of them known already; independent samples "
        f"for the same margins: {total}. Saved: {1 - labels / total:.0%}." if total else
        "Nothing to label: no row bears on what is asked.")


def _half(interval: Interval) -> float:
    half = (interval.upper - interval.lower) / 2
    return half if half > 0 else 1.0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _ensemble(text: str) -> Ensemble:
    name, _, votes = text.partition("=")
    least, _, members = votes.rpartition(":")
    if not name or not members or (least and not least.isdigit()):
        raise AuditError(f"ensemble {text!r}: expected NAME=a+b+c or NAME=2:a+b+c")
    voters = members.split("+")
    return Ensemble(name, tuple(voters), int(least)) if least else majority(name, voters)


def _question(text: str) -> Question:
    criterion, _, sets = text.partition(":")
    return Question(criterion, _names(sets))


def _verdicts(path: Path) -> dict[str, bool | None]:
    """What a file says of each row; the same row twice has to say the same."""
    try:
        read = pyarrow.csv.read_csv if path.suffix == ".csv" else pq.read_table
        table: pa.Table = read(path)
        rows = zip(table["key"].cast(pa.string()).to_pylist(),
                   table["is_match"].cast(pa.bool_()).to_pylist(), strict=True)
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise AuditError(f"{path}: expected a Parquet or CSV table with the columns key and "
                         f"is_match ({reason})") from None
    found: dict[str, bool | None] = {}
    for key, verdict in rows:
        if found.setdefault(key, verdict) != verdict:
            raise AuditError(f"{path}: row {key!r} stands there twice, with two verdicts")
    return found


if __name__ == "__main__":
    run_verb(app)
