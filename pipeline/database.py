"""The SQL schema of the records, and connections to it that do not lose what they wrote.

SQLite by default: write-ahead log, full synchronisation, writers in turn, several processes at
once on one local disk. PostgreSQL by URL, with its driver installed.
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

from pipeline.decisions import RecordsError, RecordsUnavailableError

METADATA = sa.MetaData()
DECISIONS = sa.Table(
    "decisions",
    METADATA,
    sa.Column("query_id", sa.String, primary_key=True),
    sa.Column("release", sa.String, nullable=False),
    sa.Column("customer", sa.String, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("recorded_probability", sa.Double, nullable=False),
    sa.Column("threshold", sa.Double, nullable=False),
    sa.Column("match_count", sa.Integer, nullable=False),
    sa.Column("histogram", sa.LargeBinary, nullable=False),
    sa.Column("review_rank", sa.BigInteger, nullable=False),
    sa.Index("decisions_in_review_order", "release", "customer", "review_rank"),
)
DRAWS = sa.Table(
    "draws",
    METADATA,
    sa.Column("draw_id", sa.String, primary_key=True),
    sa.Column("query_id", sa.ForeignKey("decisions.query_id"), nullable=False, index=True),
    sa.Column("item_id", sa.String, nullable=False),
    sa.Column("distance", sa.Double, nullable=False),
    sa.Column("bin", sa.Integer, nullable=False),
    sa.Column("probability", sa.Double, nullable=False),
)
VERDICTS = sa.Table(
    "verdicts",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("query_id", sa.ForeignKey("decisions.query_id"), nullable=False, index=True),
    sa.Column("item_id", sa.String, nullable=False),
    sa.Column("is_match", sa.Boolean, nullable=False),
    sa.Column("draw_id", sa.ForeignKey("draws.draw_id"), unique=True),
    sa.Column("customer", sa.String, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)
OVERRIDES = sa.Table(
    "overrides",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.String, nullable=False),
    sa.Column("key_id", sa.String, nullable=False),
    sa.Column("customer", sa.String, nullable=False),
    sa.Column("release", sa.String, nullable=False),
    sa.Column("threshold", sa.Double, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

_BUSY_TIMEOUT_MS = 3_000  # longer is an outage, to be said before a client gives up
_IN_ONE_STATEMENT = 500  # databases bound how many values a statement may carry
_WRITES = "limen_writes"
_OF_THE_STATEMENT = (
    sa.exc.IntegrityError, sa.exc.DataError, sa.exc.ProgrammingError, sa.exc.NotSupportedError,
)
_ONE_MOMENT: dict[str, Any] = {"isolation_level": "REPEATABLE READ"}


class Database:
    """The tables behind one URL; safe to use from several threads and processes."""

    def __init__(self, url: str) -> None:
        """Connect and create the schema where it is missing.

        Raises ``RecordsError`` for an unusable URL, ``RecordsUnavailableError`` where nothing
        answers there.
        """
        try:
            self._engine = sa.create_engine(url)
        except (sa.exc.ArgumentError, ImportError) as error:
            raise RecordsError(
                f"records: {error}; expected a URL such as sqlite:///PATH or postgresql://..."
            ) from None
        if self._engine.dialect.name == "sqlite":
            _require_folder(self._engine.url.database)
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
            _watch_file(self._engine)
        # SQLite's transactions see one moment by themselves.
        level = {} if self._engine.dialect.name == "sqlite" else _ONE_MOMENT
        self._reader = self._engine.execution_options(**level)
        with self.write() as connection:
            METADATA.create_all(connection)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One transaction that only reads, and sees one moment throughout."""
        with _clear_errors(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction that writes: on disk when the block has ended, undone if it raised."""
        engine = self._engine.execution_options(**{_WRITES: True})
        with _clear_errors(), engine.begin() as connection:
            yield connection

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


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except _OF_THE_STATEMENT as error:
        raise RecordsError(f"records: {error.orig}") from error
    except sa.exc.DatabaseError as error:  # a lock, a full disk, a damaged file, no server
        raise RecordsUnavailableError(f"records: {error.orig}") from error


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


def _watch_file(engine: sa.Engine) -> None:
    """Refuse a database file that is gone, and connect anew to one that was put in its place.

    SQLite goes on writing to a deleted file: what was acknowledged then would be lost.
    """
    named = engine.url.database
    if not named or named == ":memory:" or named.startswith("file:"):
        return
    path = Path(named)

    def opened(_connection: sqlite3.Connection, record: sa.pool.ConnectionPoolEntry) -> None:
        record.info["file"] = _identity(path)
        if not sa.event.contains(engine, "do_connect", before):
            sa.event.listen(engine, "do_connect", before)  # from now on it has to be there

    def before(*_: object) -> None:
        if _identity(path) is None:
            raise RecordsUnavailableError(
                f"records: {path} is gone; put it back, or start again to begin a new one"
            )

    def taken(_connection: object, record: sa.pool.ConnectionPoolEntry, _proxy: object) -> None:
        before()
        if record.info["file"] != _identity(path):
            raise sa.exc.DisconnectionError

    sa.event.listen(engine, "connect", opened)
    sa.event.listen(engine, "checkout", taken)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file this is, whatever its name; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes the lock at once: one that had read first could not wait for it.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
