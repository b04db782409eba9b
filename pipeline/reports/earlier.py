"""What an earlier ``limen evaluate --json`` said, as a point of the scatter of runs."""

from __future__ import annotations

import math
from pathlib import Path

from pipeline.canonical import parse_object
from pipeline.evaluation.evaluated import KIND, SCHEMA
from pipeline.reports.plots_runs import Run
from pipeline.statistics.intervals import Interval


class EarlierError(ValueError):
    """A file that holds no evaluation; the message is one line."""


def read_run(path: Path, spacing: str) -> Run:
    """The evaluation in ``path`` as a point, its OPIS under ``spacing``; unknown numbers are NaN.

    Raises ``EarlierError`` for a file that is none, or one of another schema.
    """
    try:
        found = parse_object(path.read_bytes())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise EarlierError(
            f"{path}: {why}; expected what `limen evaluate --json` printed"
        ) from None
    if found.get("kind") != KIND or found.get("schema") != SCHEMA:
        raise EarlierError(
            f"{path}: kind {found.get('kind')!r}, schema {found.get('schema')!r}; expected "
            f"{KIND!r}, schema {SCHEMA}: run `limen evaluate --json` again"
        )
    try:
        recall = _number(found, "retrieval", "recall_at", "1")
        ends = [_number(found, "opis", spacing, "corrected", name)
                for name in ("value", "lower", "upper")]  # fmt: skip
    except ValueError as error:
        raise EarlierError(f"{path}: {error}; run `limen evaluate --json` again") from None
    return Run(str(found.get("name", path.stem)), 1.0 - recall, Interval(*ends))


def _number(found: object, *keys: str) -> float:
    """What stands below ``keys``, NaN for null; ``ValueError`` where there is no number."""
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            raise ValueError(f"{'.'.join(keys)} is missing")
        found = found[key]
    if found is None:
        return math.nan
    if not isinstance(found, int | float):
        raise ValueError(f"{'.'.join(keys)} is no number")
    return float(found)
