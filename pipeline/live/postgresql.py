"""Sessions of PostgreSQL that neither wait for ever nor lose what they acknowledged.

Left alone, a session waits without end for a lock, for a server that is gone, and for a writer
whose machine has lost its power; and a database whose commits do not wait for the disk would
acknowledge what it can still lose.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

LOCK_TIMEOUT_MS = 3_000
"""Longer is an outage, to be said before a client gives up."""

_CONNECTING = {
    "connect_timeout": "3",
    # A server that fell silent is given up after as long as one that does not answer at all.
    "keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
_SESSION = (
    f"SET lock_timeout = {LOCK_TIMEOUT_MS}",
    # The server lets go of the locks of a client that vanished without a word.
    "SET tcp_keepalives_idle = 5", "SET tcp_keepalives_interval = 2",
    "SET tcp_keepalives_count = 3",
)
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) " \
           "WHERE current_setting('synchronous_commit') = 'off'"
_TURN = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('limen ' || :turn, 0))")


def driver_url(url: sa.URL) -> sa.URL:
    """``url`` with the one driver that is used, and its limits where the URL names none."""
    url = url.set(drivername="postgresql+psycopg")
    missing = {name: value for name, value in _CONNECTING.items() if name not in url.query}
    return url.update_query_dict(missing)


def prepare(connection: DBAPIConnection, _record: object) -> None:
    """Settings of a session that was just opened by the driver."""
    cursor = connection.cursor()
    for statement in (*_SESSION, _DURABLE):
        cursor.execute(statement)
    cursor.close()
    connection.commit()  # a rollback would take the settings back


def take_turn(connection: sa.Connection, turn: str) -> None:
    """Wait until no other transaction holds ``turn``, and hold it to the end of this one.

    Not a lock of the table: that would stop, and be stopped by, the vacuuming of it.
    """
    connection.execute(_TURN, {"turn": turn})
