"""What was measured, line by line: the same on the terminal and in the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.consistency.ranges import SPACINGS
from pipeline.evaluation.evaluated import Evaluated
from pipeline.evaluation.measures import Measures, SpacedOpis, Spread
from pipeline.reports import numerals
from pipeline.reports.report_parts import extreme_rows


def summary_rows(columns: Sequence[Evaluated]) -> list[tuple[str, list[str]]]:
    """Name and a cell for each embedding, line by line."""
    many = columns[0].unit[1]
    found = [column.measures for column in columns]
    rows = [("Threshold (cosine distance)", [numerals.distance(m.threshold) for m in found])]
    rows += [("… it is", [column.mark for column in columns])]
    rows += _rate_rows(found, many)
    rows += [
        ("Calibration range (cosine distance)",
         [f"{numerals.distance(m.range_low)} to {numerals.distance(m.range_high)}"
          + (", widened to hold the threshold" if m.widened else "") for m in found]),
    ]  # fmt: skip
    for spacing in SPACINGS:
        entries = [_under(m, spacing) for m in found]
        rows += [
            (f"OPIS, {spacing} spacing, raw (10⁻³)",
             [numerals.thousandths(e.opis.raw) for e in entries]),
            ("… corrected for noise (10⁻³)",
             [numerals.thousandths_interval(e.opis.corrected) for e in entries]),
        ]  # fmt: skip
    rows += _extreme_rows(found, many)
    rows += [(f"R@{k}", [numerals.share(m.retrieval.recall.get(k, math.nan)) for m in found])
             for k in sorted(found[0].retrieval.recall)]  # fmt: skip
    rows += [
        ("MAP@R", [numerals.share(m.retrieval.map_at_r) for m in found]),
        ("… queries with a positive to find", [f"{m.retrieval.queries:,}" for m in found]),
        ("Items counted", [f"{m.items:,}" for m in found]),
    ]
    return rows


def _rate_rows(found: Sequence[Measures], many: str) -> list[tuple[str, list[str]]]:
    """What happens at the threshold."""
    over = found[0].overall.name

    def spread(entry: Spread) -> str:
        ends = numerals.share_range([entry.lowest, entry.highest])
        return f"{ends}, std. dev. {numerals.share(entry.deviation)}"

    return [
        (f"FAR, {over}", [numerals.share_interval(m.overall.far) for m in found]),
        (f"… spread over the {many}", [spread(m.far_spread) for m in found]),
        (f"FRR, {over}", [numerals.share_interval(m.overall.frr) for m in found]),
        (f"… spread over the {many}", [spread(m.frr_spread) for m in found]),
        (f"Precision, {over}", [numerals.share(m.overall.precision) for m in found]),
        (f"… lowest and highest of the {many}",
         [numerals.share_range([p.precision for p in m.points]) for m in found]),
        (f"Utility, mean over {many}", [numerals.number(m.overall.utility) for m in found]),
    ]  # fmt: skip


def _extreme_rows(found: Sequence[Measures], many: str) -> list[tuple[str, list[str]]]:
    """OPIS beyond its value: population, extremes, spreads, and who is in it."""
    mains = [m.main for m in found]
    rows = [("OPIS of groups yet to come, corrected (10⁻³)",
             [numerals.thousandths(e.population) for e in mains])]  # fmt: skip
    rows += extreme_rows(
        [entry.eps for entry in mains],
        [(m.far_spread.over_range, m.frr_spread.over_range) for m in found],
    )
    groups = [len(m.groups) for m in found]
    return [
        *rows,
        (f"{many.capitalize()}", [f"{total:,}" for total in groups]),
        ("… in raw OPIS; without a positive pair",
         [f"{e.opis.groups_raw:,}; {total - e.opis.groups_raw:,}"
          for e, total in zip(mains, groups, strict=True)]),
        ("… in corrected OPIS; too few positives for it",
         [f"{e.opis.groups_corrected:,}; {total - e.opis.groups_corrected:,}"
          for e, total in zip(mains, groups, strict=True)]),
    ]  # fmt: skip


def _under(measures: Measures, spacing: str) -> SpacedOpis:
    return next(entry for entry in measures.spaced if entry.spacing == spacing)
