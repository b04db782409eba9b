"""The one row of a short SELECT, asked at every request.

One connection is held open and the statement runs on the bare driver: on an SQLite file some 15
microseconds, where a transaction through the pool takes 400; on PostgreSQL one way there and back.
What any process committed before the call is seen.
"""

from __future__ import annotations

import re
import threading
from typing import Any

from sqlalchemy.engine.interfaces import DBAPIConnection

from pipeline.live.database import Database
from pipeline.live.database_file import Identity
from pipeline.live.decisions import RecordsUnavailableError


class Glance:
    """One statement on one database; safe to use from several threads."""

    def __init__(self, database: Database, statement: str) -> None:
        """``statement`` selects one row; its parameters are written ``:name``."""
        self._database = database
        self._statement = (
            statement if database.is_sqlite else re.sub(r":(\w+)", r"%(\1)s", statement)
        )
        self._lock = threading.Lock()
        self._held: tuple[DBAPIConnection, Identity | None] | None = None

    def row(self, **values: str) -> tuple[Any, ...]:
        """The row as it is now; ``RecordsUnavailableError`` where it cannot be read."""
        with self._lock:
            if self._held is not None:
                try:
                    return self._ask(values)
                except self._database.driver_error:
                    self._let_go()  # it may be of a server that was restarted since
            try:
                return self._ask(values)
            except self._database.driver_error as error:
                self._let_go()
                line = " ".join(str(error).split())
                raise RecordsUnavailableError(f"records: {line}") from error

    def _ask(self, values: dict[str, str]) -> tuple[Any, ...]:
        cursor = self._connection().cursor()
        cursor.execute(self._statement, values)
        found: Any = cursor.fetchone()
        cursor.close()
        return tuple(found)

    def _connection(self) -> DBAPIConnection:
        """The held connection, or a new one where the file is not the one it was."""
        file = self._database.file
        identity = None if file is None else file.require()
        if self._held is None or self._held[1] != identity:
            self._let_go()
            self._held = self._database.driver_connection(), identity
        return self._held[0]

    def _let_go(self) -> None:
        if self._held is not None:
            self._held[0].close()
            self._held = None
