"""The file behind an SQLite database: refused once it is gone, opened anew where it was replaced.

SQLite goes on writing to a deleted file: what was acknowledged then would be lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from pipeline.live.decisions import RecordsUnavailableError

Identity = tuple[int, int]
"""Which file it is, whatever its name."""


@dataclass(frozen=True, slots=True)
class DatabaseFile:
    """A file that has to be there."""

    path: Path

    @classmethod
    def behind(cls, engine: sa.Engine) -> DatabaseFile | None:
        """The file of ``engine``, watched from its first connection on; None in memory."""
        named = engine.url.database
        if not named or named == ":memory:" or named.startswith("file:"):
            return None
        file = cls(Path(named))
        file._watch(engine)
        return file

    def require(self) -> Identity:
        """Which file it is now; ``RecordsUnavailableError`` where there is none."""
        identity = self._identity()
        if identity is None:
            raise RecordsUnavailableError(
                f"records: {self.path} is gone; put it back, or start again to begin a new one"
            )
        return identity

    def _identity(self) -> Identity | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _watch(self, engine: sa.Engine) -> None:
        def opened(_connection: object, record: sa.pool.ConnectionPoolEntry) -> None:
            record.info["file"] = self._identity()
            if not sa.event.contains(engine, "do_connect", before):
                sa.event.listen(engine, "do_connect", before)  # from now on it has to be there

        def before(*_: object) -> None:
            self.require()

        def taken(_connection: object, record: sa.pool.ConnectionPoolEntry, _proxy: object) -> None:
            if record.info["file"] != self.require():
                raise sa.exc.DisconnectionError

        sa.event.listen(engine, "connect", opened)
        sa.event.listen(engine, "checkout", taken)
