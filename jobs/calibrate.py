"""``limen calibrate``: choose the one threshold through the served path, and report on it.

One machine: ``limen calibrate jobs/recipes/emoji.toml``
Cluster:     ``ray job submit -- python -m jobs.calibrate jobs/recipes/emoji.toml``
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from jobs.command import script
from jobs.index import people
from jobs.margins import margins_path
from jobs.reporting import content
from jobs.stage import RecipeArgument, SkipOption, staged
from jobs.workspace import Workspace, WorkspaceError, main_tag, tags
from pipeline.canonical import canonical_json
from pipeline.config import Recipe
from pipeline.counting.operating import save_counts
from pipeline.data.items import load_items
from pipeline.durable import write_durably
from pipeline.evaluation.embedding import Measurement, measure
from pipeline.evaluation.findings import findings
from pipeline.releases.release import measure_digests
from pipeline.reports.report import write_report
from pipeline.search.index import open_index


def calibrate(recipe: Recipe, workspace: Workspace, console: Console) -> Path:
    """Measure the candidate through its own index and write what a release says of it.

    Leaves ``margins.json``, where margins were looked for, ``counts.npz``, ``report.html`` and,
    last, ``calibration.json``; returns its path.
    """
    candidate = workspace.candidate
    if not candidate.exists():
        raise WorkspaceError(f"{candidate}: no candidate; run `limen index` first")
    written = candidate / "calibration.json"
    if written.exists():
        return written
    served = people(recipe, workspace, main_tag(recipe), console)
    compared = len(tags(recipe)) > 1
    other = people(recipe, workspace, "base", console) if compared else None
    with console.status("Counting every pair of the calibrate and report classes"):
        ours = measure(served, recipe.calibration, open_index(candidate, served.gallery).reach)
        base = None if other is None else measure(other, recipe.calibration)
    digest = load_items(workspace.items_path).digest()
    if margins_path(workspace).exists():
        shutil.copyfile(margins_path(workspace), candidate / "margins.json")
    return write_measured(workspace, recipe, ours, base, digest)


def write_measured(
    workspace: Workspace,
    recipe: Recipe,
    ours: Measurement,
    base: Measurement | None,
    data_digest: str,
    origin: Mapping[str, object] | None = None,
) -> Path:
    """Write counts, report and, last, ``calibration.json`` into the candidate.

    ``origin``: where a threshold comes from that was not chosen on these items.
    """
    candidate = workspace.candidate
    save_counts(
        candidate / "counts.npz",
        {
            "calibrate": ours.calibrate.operating(),
            "report": ours.report.operating(),
            "baseline": ours.baseline,
        },
    )
    digests = measure_digests(candidate)
    provenance = {"data": data_digest, **digests}
    document = findings(recipe.calibration, ours, base, digests, data_digest)
    if origin is not None:
        document["carried_over"] = dict(origin)
    write_report(candidate / "report.html", content(recipe, ours, base, provenance))
    write_durably(candidate / "calibration.json", canonical_json(document))
    return candidate / "calibration.json"


def main(recipe: RecipeArgument, skip_bad_rows: SkipOption = False) -> None:
    """Choose the one threshold through the served path."""
    with staged(recipe, skip_bad_rows) as (resolved, workspace, console):
        console.print(f"Calibration: {calibrate(resolved, workspace, console)}")


if __name__ == "__main__":
    script(main)
