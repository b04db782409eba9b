"""The one row of a short SELECT, asked at every request.

On an SQLite file one connection is held open and the statement runs on the bare driver: some 15
microseconds, where a transaction through the pool takes 400. What any process committed before
the call is seen.
"""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

import sqlalchemy as sa

from pipeline.live.database import Database
from pipeline.live.database_file import Identity
from pipeline.live.decisions import RecordsUnavailableError


class Glance:
    """One statement on one database; safe to use from several threads."""

    def __init__(self, database: Database, statement: str) -> None:
        """``statement`` selects one row; its parameters are written ``:name``."""
        self._database = database
        self._statement = statement
        self._lock = threading.Lock()
        self._held: tuple[sqlite3.Connection, Identity] | None = None

    def row(self, **values: str) -> tuple[Any, ...]:
        """The row as it is now; ``RecordsUnavailableError`` where it cannot be read."""
        file = self._database.file
        if file is None:
            with self._database.glance() as connection:
                return tuple(connection.execute(sa.text(self._statement), values).one())
        with self._lock:
            try:
                held = self._connection(file.require())
                found: tuple[Any, ...] = held.execute(self._statement, values).fetchone()
            except sqlite3.Error as error:
                self._let_go()  # whatever it was, the next call begins anew
                raise RecordsUnavailableError(f"records: {error}") from error
            return found

    def _connection(self, identity: Identity) -> sqlite3.Connection:
        """The held connection, or a new one where the file is not the one it was."""
        if self._held is None or self._held[1] != identity:
            self._let_go()
            self._held = self._database.driver_connection(), identity
        return self._held[0]

    def _let_go(self) -> None:
        if self._held is not None:
            self._held[0].close()
            self._held = None
