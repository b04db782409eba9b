"""How much of a log of online changes a release already holds: ``changes.json`` in its folder.

The file is sealed with the release. Without one, a release holds nothing of any log.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.canonical import parse_object
from pipeline.durable import write_durably
from pipeline.item_log.changes import LogEnd

CHANGES = "changes.json"


def write_folded(folder: Path, end: LogEnd) -> None:
    """Say that the candidate in ``folder`` holds the changes of a log up to ``end``."""
    document = {"log": end.log, "number": end.number}
    write_durably(folder / CHANGES, (json.dumps(document) + "\n").encode())


def read_folded(folder: Path) -> LogEnd | None:
    """What the release in ``folder`` holds; for a folder whose bytes were verified.

    Raises ``ValueError`` for a file that says something else.
    """
    path = folder / CHANGES
    if not path.exists():
        return None
    document = parse_object(path.read_bytes())
    log, number = document.get("log"), document.get("number")
    if not isinstance(log, str) or not isinstance(number, int) or len(document) != 2:
        raise ValueError(f"{path}: expected 'log' and 'number'; index the gallery again")
    return LogEnd(log, number)
