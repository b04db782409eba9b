"""The log of online changes, as reindexing reads it and clears it up."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.item_log.changes import Change, LogEnd
from pipeline.item_log.log import ItemLog
from pipeline.live.database import Database
from pipeline.live.decisions import RecordsError


@dataclass(frozen=True, slots=True)
class Log:
    """A log as it was at one moment."""

    end: LogEnd
    changes: tuple[Change, ...]
    """The last one of every item that was changed."""

    def digest(self, table: str) -> str:
        """Of a table, by its digest, under these changes."""
        return hashlib.sha256(f"{table} {self.end.log} {self.end.number}".encode()).hexdigest()


def read_log(url: str) -> Log:
    """The log in the records at ``url``; ``RecordsError`` where there are none."""
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not path.exists():  # it would be made, and be empty
        raise RecordsError(f"--changes: {path}: no such file; expected the records of the server")
    database = Database(url)
    log = ItemLog(database)
    changes = tuple(log.since(0))
    number = changes[-1].number if changes else 0
    identity = log.end().log
    database.close()
    return Log(LogEnd(identity, number), changes)


def trim_log(url: str, at: float) -> int:
    """Clear the log of what nobody reads any more; returns how many changes that were."""
    database = Database(url)
    removed = ItemLog(database).trim(at)
    database.close()
    return removed
