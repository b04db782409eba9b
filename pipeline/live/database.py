"""Connections to the records that do not lose what they wrote.

SQLite by default: write-ahead log, full synchronisation, writers in turn, several processes at
once on one local disk. PostgreSQL by URL, with its driver installed; ``postgresql.py`` says on
what terms.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine.interfaces import DBAPIConnection

from pipeline.live import postgresql
from pipeline.live.database_file import DatabaseFile
from pipeline.live.decisions import RecordsError, RecordsUnavailableError
from pipeline.live.tables import METADATA

_BUSY_TIMEOUT_MS = 3_000  # longer is an outage, to be said before a client gives up
_IN_ONE_STATEMENT = 500  # databases bound how many values a statement may carry
_WRITES = "limen_writes"
_OF_THE_STATEMENT = (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.NotSupportedError)
# Of PostgreSQL. A writer sees, once it has its turn, what those before it wrote.
_READING, _WRITING = (
    {"isolation_level": level} for level in ("REPEATABLE READ", "READ COMMITTED")
)


class Database:
    """The tables behind one URL; safe to use from several threads and processes."""

    def __init__(self, url: str) -> None:
        """Connect and create the schema where it is missing.

        Raises ``RecordsError`` for an unusable URL, ``RecordsUnavailableError`` where nothing
        answers there.
        """
        self.file: DatabaseFile | None = None
        engine = _engine(url)
        self.is_sqlite = engine.dialect.name == "sqlite"
        if self.is_sqlite:
            _require_folder(engine.url.database)
            sa.event.listen(engine, "connect", _prepare_sqlite)
            sa.event.listen(engine, "begin", _begin_sqlite)
            self.file = DatabaseFile.behind(engine)
        else:
            sa.event.listen(engine, "connect", postgresql.prepare)
        self._engine = engine
        with self.write("schema") as connection:
            METADATA.create_all(connection)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One transaction that only reads, and sees one moment throughout."""
        # SQLite's transactions see one moment by themselves.
        engine = self._engine.execution_options(**({} if self.is_sqlite else _READING))
        with _clear_errors(), engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self, turn: str | None = None) -> Iterator[sa.Connection]:
        """One transaction that writes: on disk when the block has ended, undone if it raised.

        ``turn``: what no other transaction of the same turn does meanwhile; None: nothing.
        """
        # SQLite's writers take turns in any case.
        options = {_WRITES: True} if self.is_sqlite else _WRITING
        with _clear_errors(), self._engine.execution_options(**options).begin() as connection:
            if turn and not self.is_sqlite:
                postgresql.take_turn(connection, turn)
            yield connection

    def driver_connection(self) -> DBAPIConnection:
        """A connection of the driver's own, for whoever closes it; every statement by itself."""
        with _clear_errors():
            pooled = self._engine.raw_connection()
        held = pooled.dbapi_connection
        assert held is not None
        pooled.detach()
        if not self.is_sqlite:
            held.autocommit = True
        return held

    @property
    def driver_error(self) -> type[Exception]:
        """What the driver raises."""
        return self._engine.dialect.loaded_dbapi.Error

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def rows_where(
    connection: sa.Connection, statement: sa.Select[Any], column: sa.Column[str], values: set[str]
) -> Iterator[sa.Row[Any]]:
    """The rows of ``statement`` whose ``column`` is one of ``values``: few at a time, by index."""
    wanted = sorted(values)
    for start in range(0, len(wanted), _IN_ONE_STATEMENT):
        chunk = wanted[start : start + _IN_ONE_STATEMENT]
        yield from connection.execute(statement.where(column.in_(chunk)))


def encode_histogram(histogram: NDArray[np.uint32]) -> bytes:
    """Counts (T + 1,) as little-endian 32-bit integers, the form of ``decisions.histogram``."""
    return histogram.astype("<u4").tobytes()


def decode_histogram(stored: bytes) -> NDArray[np.uint32]:
    """The counts (T + 1,) that ``encode_histogram`` wrote."""
    return np.frombuffer(stored, "<u4").astype(np.uint32)


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        name = parsed.get_backend_name()
        if name == "postgresql":
            parsed = postgresql.driver_url(parsed)
        elif name != "sqlite":
            raise sa.exc.ArgumentError(f"{name!r} is no database that is known here")
        return sa.create_engine(
            parsed, hide_parameters=True,  # errors are logged
            pool_pre_ping=name == "postgresql",  # a server that was restarted is no error
        )
    except sa.exc.ArgumentError as error:
        raise RecordsError(
            f"records: {error}; expected a URL such as sqlite:///PATH or postgresql://..."
        ) from None
    except ImportError as error:
        raise RecordsError(f"records: {error}; pip install 'limen[postgresql]'") from None


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except _OF_THE_STATEMENT as error:
        raise RecordsError(f"records: {_line(error.orig)}") from error
    except sa.exc.DBAPIError as error:  # a lock, a full disk, a damaged file, no server
        raise RecordsUnavailableError(f"records: {_line(error.orig)}") from error
    except sa.exc.TimeoutError as error:
        raise RecordsUnavailableError("records: every connection is in use") from error


def _line(error: object) -> str:
    """What the driver says, in one line."""
    return " ".join(str(error).split())


def _require_folder(database: str | None) -> None:
    if database and not Path(database).parent.is_dir():
        raise RecordsUnavailableError(
            f"records: {Path(database).parent}: no such folder; create it or choose another path"
        )


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite
    for pragma in (
        f"busy_timeout = {_BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes the lock at once: one that had read first could not wait for it.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
