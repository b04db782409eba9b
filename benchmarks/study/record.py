"""The record of finished runs: one JSON object a line, appended to and never rewritten."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class RecordError(ValueError):
    """A line that is no run; the message names file and line."""


def read_records(path: Path) -> list[Record]:
    """Every finished run by its line; of runs with one key the last. No file: none.

    A last line without its end was being written when the study was killed: it is left out.
    Raises ``RecordError`` for any other line that is no run.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    found: dict[str, Record] = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            record = json.loads(line)
            found[record["key"]] = record
        except (ValueError, TypeError, KeyError):
            raise RecordError(
                f"{path}, line {number}: no run; expected a JSON object with a 'key': delete the "
                "line, and its run is repeated"
            ) from None
    return list(found.values())


def append_record(path: Path, record: Record) -> None:
    """Add ``record`` as a line of its own, safe on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        # What a killed study left of a line is no part of the next one.
        whole = path.read_bytes().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(json.dumps(record, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
