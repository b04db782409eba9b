"""The pages and pictures of the study, made from the record of runs alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.analysis import RECALL, Paired, Tally, comparisons, number, opis, tally
from benchmarks.study.columns import FURTHER_COLUMNS, MAIN_COLUMNS, TITLES, Column
from benchmarks.study.plan import ASIDE, MAIN, MARGINS, Comparison, run_of, runs
from benchmarks.study.record import Record
from benchmarks.study.table_picture import table_picture
from pipeline.durable import write_durably
from pipeline.reports.plots_runs import Arrow, Run, runs_figure
from pipeline.reports.plots_style import to_svg
from pipeline.statistics.intervals import Interval

WHY = "why.md"
"""Written by people, and taken into the page as it is."""
TOY = ("toy_base.svg", "toy_tcm.svg")


def write_pages(records: Sequence[Record], out: Path) -> list[Path]:
    """Write README.md, the picture of the table and the scatters into ``out``; their paths."""
    out.mkdir(parents=True, exist_ok=True)
    # Runs of settings that are no longer those of the plan stay in the record, not on the page.
    records = [record for record in records if run_of(record).key(record["items"]) == record["key"]]
    found = comparisons(records)
    main = _of(found, MAIN)
    files = {"table.svg": table_picture(main)}
    for data, backbone in dict.fromkeys(pair.name[:2] for pair in main):
        arrows = [_arrow(pair) for pair in main if pair.name[:2] == (data, backbone)]
        files[f"scatter_{data}_{backbone}.svg"] = to_svg(runs_figure(arrows))
    why = out / WHY
    text = why.read_text(encoding="utf-8") if why.exists() else "To be written.\n"
    files["README.md"] = _page(records, found, list(files), text, out).encode()
    for name, content in files.items():
        write_durably(out / name, content)
    return [out / name for name in files]


def _of(found: Sequence[Paired], wanted: Sequence[Comparison]) -> list[Paired]:
    """The comparisons at the margins of the paper, in the order of the plan."""
    at = {pair.name: pair for pair in found if pair.margins == MARGINS}
    names = [(one.data, one.backbone, one.loss) for one in wanted]
    return [at[name] for name in names if name in at]


def _arrow(pair: Paired) -> Arrow:
    """Means over the seeds; the interval is the mean of the runs' own over classes."""
    ends = [pair.mean(number("label", "opis", "corrected", end)) for end in ("lower", "upper")]
    recall, value = pair.mean(RECALL), pair.mean(opis("label"))
    names = TITLES[pair.name[2]], "with TCM"
    base, tcm = (
        Run(names[side], 1.0 - recall[side], Interval(value[side], ends[0][side], ends[1][side]))
        for side in (0, 1)
    )
    return Arrow(base, tcm)


def _page(
    records: Sequence[Record], found: Sequence[Paired], pictures: Sequence[str], why: str, out: Path
) -> str:
    main, aside = _of(found, MAIN), _of(found, ASIDE)
    others = [pair for pair in found if pair.margins != MARGINS]
    picture = "![The table: base, with TCM, change](table.svg)\n"
    parts = [HEAD, _unfinished(records), _counts(main), picture, TABLE]
    scatters = [name for name in pictures if name.startswith("scatter")]
    parts.append("## OPIS against recognition error\n\n" + SCATTER + "\n".join(
        f"<img alt=\"{_caption(name)}\" src=\"{name}\" width=\"49%\">" for name in scatters) + "\n")
    parts.append("## Where TCM does not help, and why\n\n" + why)
    parts.append("## Changes over the seeds\n\n" + CHANGES + _changes(main, MAIN_COLUMNS))
    parts.append(_changes(main, FURTHER_COLUMNS))
    parts.append("## Skin tones as classes of their own; digits\n\n" + ASIDE_TEXT
                 + _changes(aside, (*MAIN_COLUMNS, *FURTHER_COLUMNS)))
    if others:
        parts.append("## Other margins\n\n" + _changes(others, MAIN_COLUMNS, margins=True))
    if all((out / name).exists() for name in TOY):
        parts.append(TOY_TEXT)
    parts.append(_facts(records))
    return "\n".join(parts)


def _counts(main: Sequence[Paired]) -> str:
    lines = [_count(tally(main, group), words) for group, words in (
        ("label", "Classes as groups, the published form"), ("customer", "Customers as groups"),
    )]  # fmt: skip
    return "\n".join(lines) + "\n"


def _count(t: Tally, words: str) -> str:
    of = t.comparisons
    return (
        f"- **{words}: OPIS is lower in {t.lower} of {of} comparisons**, significantly in "
        f"{t.surely_lower} (higher significantly in {t.surely_higher}); R@1 is higher in "
        f"{t.better_recall} of {of}, worse by more than 0.2 points in {t.worse_recall}; lower OPIS "
        f"at R@1 no more than 0.2 points worse in {t.both}. Of the {t.seeds} single pairs of runs "
        f"the paired interval lies below 0 in {t.seeds_lower}, above 0 in {t.seeds_higher}."
    )


def _changes(found: Sequence[Paired], columns: Sequence[Column], *, margins: bool = False) -> str:
    """A Markdown table of the changes with their intervals over the seeds."""
    head = ["comparison", *(column.title for column in columns)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for pair in found:
        name = ", ".join(TITLES[part] for part in pair.name)
        if margins:
            name += ", margins {:g} and {:g}".format(*pair.margins)
        lines.append(f"| {name} | {' | '.join(c.interval_text(pair) for c in columns)} |")
    return "\n".join(lines) + "\n"


def _caption(name: str) -> str:
    return name.removesuffix(".svg").removeprefix("scatter_").replace("_", ", ", 1)


def _facts(records: Sequence[Record]) -> str:
    """What the runs took and what was measured on."""
    lines = [RUNS_HEAD]
    for data, backbone in dict.fromkeys((r["data"], r["backbone"]) for r in records):
        mine = [r for r in records if (r["data"], r["backbone"]) == (data, backbone)]
        training = [r["training"]["seconds"] for r in mine if r.get("training")]
        steps = "/".join(str(value) for value in sorted({r["steps"] for r in mine}))
        classes = ", ".join(str(value) for value in mine[-1]["classes"].values())
        lines.append(
            f"| {TITLES[data]} | {TITLES[backbone]} | {len(mine)} | {steps} | "
            f"{_spread(training)} | {_spread([r['seconds'] for r in mine])} | {classes} |"
        )
    failed = [r for r in records if r.get("failed")]
    lines += [f"\nFailed: {r['data']}/{r['backbone']}/{r['loss']}, seed {r['seed']}, margins "
              f"{r['margins']}: {r['failed']}" for r in failed]  # fmt: skip
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f}, at most {max(values):.0f}" if values else "-"


def _unfinished(records: Sequence[Record]) -> str:
    """How much of the plan is there, as long as it is not all of it; else nothing."""
    planned = list(runs())
    done = {run_of(record) for record in records}
    there = sum(run in done for run in planned)
    if there == len(planned):
        return ""
    return f"**Unfinished: {there} of {len(planned)} runs so far;** `make study` goes on.\n"


HEAD = """# Base losses with and without TCM: what was measured

Written by `python -m benchmarks.study` from [runs.jsonl](runs.jsonl), one finished run a line;
settings are in `benchmarks/study/plan.py`. The published claim (Zhang et al., ICLR 2024, Table 1,
on iNaturalist, SOP, CUB and Cars with ResNet-50 and ViT): OPIS lower in 16 of 16 comparisons, by
up to 77.3 %, R@1 higher in 14 of 16. Here: two freely licensed sets of drawings, two small
networks, four losses, three seeds, a minute of training a run on two CPU cores.
"""

TABLE = """
R@1 is that of every report item among all others. OPIS is corrected for sampling noise (raw values
and the two other forms of eps-OPIS are below); worst customer's utility is at the threshold whose
mean FAR over the customers is 1e-2 on the calibrate classes. Blue is better, orange worse; strong
colours and bold: the paired Student interval over the seeds leaves out 0. Means over the seeds.
"""

SCATTER = """Means over the seeds, classes as groups; an arrow goes from a base loss to the same
loss with TCM. The bars are the runs' own 95 % intervals over classes.

"""

CHANGES = """TCM minus base with its paired 95 % Student interval over the seeds: what other initial
weights and batches would give on these classes. Changes of OPIS in percent of the base's.

"""

ASIDE_TEXT = """One loss each. The digits have no customers, and no class to spare for calibration:
five digits are trained on and the other five measured, other five for each seed, over the range of
FAR of these very five. Five groups carry no interval worth the name; read the three changes.

"""

RUNS_HEAD = """## The runs

| data | network | runs | steps | training (s) | all (s) | classes: train, calibrate, report |
|---|---|---|---|---|---|---|"""

TOY_TEXT = """## The toy of the original work

ArcFace on handwritten digits, embedded on a circle: without TCM and with it (`python -m
benchmarks.study.toy`).

<img alt="ArcFace alone" src="toy_base.svg" width="49%">
<img alt="ArcFace with TCM" src="toy_tcm.svg" width="49%">
"""


