"""Chroma in process, and over HTTP with ``chroma run``: k nearest, cut by their distances.

It has no query by distance; ``n_results`` is k. ``ef_search`` takes effect when a collection is
opened, so every setting opens it again.
"""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.trial import SLACK, Foreign, Rows, Setting, Trial, Vectors, depths

BUILD_DEPTH, NEIGHBOURS = 200, 16
READY_SECONDS = 120


class Chroma:
    """One collection in a folder, HNSW, inner product."""

    def __init__(self, trial: Trial, folder: Path, *, http: bool) -> None:
        """``folder``: of the collection; ``http``: ask a server."""
        self.api: Any = importlib.import_module("chromadb")
        self.settings = importlib.import_module("chromadb.config").Settings
        self.trial, self.folder, self.http = trial, folder, http
        self.server: subprocess.Popen[bytes] | None = None
        self.collection: Any = None

    def build(self, vectors: Vectors) -> None:
        """Add in the largest batches that it takes."""
        client = self._inside()
        collection = client.create_collection("items", embedding_function=None, configuration={
            "hnsw": {"space": "ip", "ef_construction": BUILD_DEPTH, "num_threads": 1,
                     "max_neighbors": NEIGHBOURS}})  # fmt: skip
        size = client.get_max_batch_size()
        for start in range(0, len(vectors), size):
            part = vectors[start : start + size]
            ids = [str(row) for row in range(start, start + len(part))]
            collection.add(ids=ids, embeddings=part)

    def open(self) -> None:
        """Nothing yet: ``use`` opens."""

    def ladders(self) -> list[list[Setting]]:
        """``ef_search``."""
        return [[{"ef_search": ef} for ef in depths(self.trial.k, 2048)]]

    def use(self, setting: Setting) -> None:
        """Write the setting into the collection and open it afresh."""
        self.close()
        self._inside().get_collection("items", embedding_function=None).modify(
            configuration={"hnsw": setting})  # fmt: skip
        self._forget()
        client = self._outside() if self.http else self._inside()
        self.collection = client.get_collection("items", embedding_function=None)
        self.search(self.trial.tuning[:1])

    def _inside(self) -> Foreign:
        quiet = self.settings(anonymized_telemetry=False)
        return self.api.PersistentClient(str(self.folder), settings=quiet)

    def _outside(self) -> Foreign:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(self.folder),
                   "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
        self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_SECONDS
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no server: {' '.join(command)}")
            time.sleep(0.1)
        quiet = self.settings(anonymized_telemetry=False)
        return self.api.HttpClient(host="127.0.0.1", port=port, settings=quiet)

    def search(self, queries: Vectors) -> list[Rows]:
        """One call for all queries."""
        found = self.collection.query(query_embeddings=queries, n_results=self.trial.k,
                                      include=["distances"])  # fmt: skip
        most = self.trial.threshold + SLACK
        return [np.asarray(ids, np.int64)[np.asarray(levels) <= most]
                for ids, levels in zip(found["ids"], found["distances"], strict=True)]  # fmt: skip

    def about(self) -> dict[str, Any]:
        """Version, batch call, index."""
        return {"version": f"chromadb {version('chromadb')}", "batch": "query",
                "index": f"HNSW M={NEIGHBOURS} ef_construction={BUILD_DEPTH}"}  # fmt: skip

    def servers(self) -> list[int]:
        """None: the server is a child of this process."""
        return []

    def close(self) -> None:
        """Forget the client; stop the server."""
        self.collection = None
        self._forget()
        if self.server is not None:
            self.server.terminate()
            self.server.wait(30)
            self.server = None

    def _forget(self) -> None:
        shared = importlib.import_module("chromadb.api.shared_system_client")
        shared.SharedSystemClient.clear_system_cache()
