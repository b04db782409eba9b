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

from pipeline.live.database_file import DatabaseFile
from pipeline.live.decisions import RecordsError, RecordsUnavailableError

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

ITEM_LOG = sa.Table(
    "item_log",
    METADATA,
    sa.Column("identity", sa.String, primary_key=True),
)
"""One row: which log the changes below are of."""
ITEM_CHANGES = sa.Table(
    "item_changes",
    METADATA,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True,
              autoincrement=False),
    sa.Column("customer", sa.String, nullable=False),
    sa.Column("own_number", sa.BigInteger, nullable=False),
    sa.Column("item_id", sa.String, nullable=False),
    sa.Column("action", sa.String, nullable=False),
    sa.Column("kind", sa.String),
    sa.Column("content", sa.LargeBinary),
    sa.Column("encoder", sa.String),
    sa.Column("label", sa.String),
    sa.Column("metadata", sa.Text),
    sa.Column("request_key", sa.String),
    sa.Column("request_digest", sa.String),
    sa.Column("at", sa.Double, nullable=False),
    sa.UniqueConstraint("customer", "own_number"),
    sa.Index("item_changes_of_item", "customer", "item_id", "number"),
    sa.Index("item_changes_of_request", "customer", "request_key"),
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
        self.file: DatabaseFile | None = None
        try:
            self._engine = sa.create_engine(url, hide_parameters=True)  # errors are logged
        except (sa.exc.ArgumentError, ImportError) as error:
            raise RecordsError(
                f"records: {error}; expected a URL such as sqlite:///PATH or postgresql://..."
            ) from None
        if self._engine.dialect.name == "sqlite":
            _require_folder(self._engine.url.database)
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
            self.file = DatabaseFile.behind(self._engine)
        # SQLite's transactions see one moment by themselves.
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        self._reader = self._engine.execution_options(**({} if self.is_sqlite else _ONE_MOMENT))
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

    @contextmanager
    def glance(self) -> Iterator[sa.Connection]:
        """A connection that only reads, every statement by itself."""
        level = {} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        engine = self._engine.execution_options(**level)
        with _clear_errors(), engine.connect() as connection:
            yield connection

    def driver_connection(self) -> sqlite3.Connection:
        """A connection of SQLite's own driver, for whoever closes it."""
        with _clear_errors():
            pooled = self._engine.raw_connection()
        held = pooled.driver_connection
        assert isinstance(held, sqlite3.Connection)
        pooled.detach()
        return held

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


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes the lock at once: one that had read first could not wait for it.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
