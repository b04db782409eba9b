"""The servers that are compared, each in a process of its own, and the requests to them."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.http.release import CUSTOMER
from pipeline.distance import Vectors
from serving.access.key_file import Limit
from serving.access.keys import add_key, set_limit
from serving.machine.launch import free_block

_READY_SECONDS = 300.0
_LIMIT = Limit(per_second=1e6, burst=1_000_000, at_once=64)
"""A quota that is kept, and never reached."""


def key_of(folder: Path) -> str:
    """A key, with a quota of its customer, in ``folder/keys.json``."""
    set_limit(folder / "keys.json", CUSTOMER, _LIMIT)
    return add_key(folder / "keys.json", CUSTOMER, ["query"])


@contextmanager
def limen(release: Path, folder: Path, replicas: int, *options: str) -> Iterator[tuple[int, int]]:
    """``limen serve`` as a user starts it: its ports of HTTP and gRPC."""
    http, grpc = free_block(1), free_block(1)
    log = folder / f"serve{replicas}.log"
    command = ["-m", "jobs.cli", "serve", str(release), "--port", str(http),
               "--grpc-port", str(grpc), "--keys", str(folder / "keys.json"),
               "--records", f"sqlite:///{folder / f'records{replicas}.db'}",
               "--replicas", str(replicas), *options]  # fmt: skip
    with _process(command, log) as server:
        _wait(server, log, lambda: "Stop with Ctrl-C" in log.read_text())
        yield http, grpc


@contextmanager
def bare(release: Path, folder: Path) -> Iterator[int]:
    """uvicorn, Starlette and the retriever: its port."""
    port, log = free_block(1), folder / "bare.log"

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with _process(["-m", "benchmarks.http.bare", str(release), str(port)], log) as server:
        _wait(server, log, listens)
        yield port


def requests(
    queries: Vectors, key: str, *, together: int = 1, as_bytes: bool = False
) -> list[bytes]:
    """HTTP requests that ask every one of ``queries`` (n, d), so many ``together``."""
    entries = [
        {"embedding_b64": base64.b64encode(row.tobytes()).decode()} if as_bytes
        else {"embedding": row.tolist()}
        for row in queries
    ]  # fmt: skip
    return [_post(entries[start : start + together], key)
            for start in range(0, len(entries) - together + 1, together)]


def _post(entries: Sequence[object], key: str) -> bytes:
    body = json.dumps({"queries": entries}).encode()
    head = (f"POST /v1/query HTTP/1.1\r\nHost: limen\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")
    return head.encode() + body


@contextmanager
def _process(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        server = subprocess.Popen([sys.executable, *command], stdout=file,
                                  stderr=subprocess.STDOUT)
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait(server: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not ready():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no server: {log.read_text()}")
        time.sleep(0.2)
