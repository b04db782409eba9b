"""Databases read without this project's code."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    """What ``statement`` gives, by the plain driver."""
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as plain:
            return plain.execute(statement).fetchall()
    import psycopg

    with psycopg.connect(url) as link:
        return link.execute(statement).fetchall()
