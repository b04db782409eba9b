"""A ``limen serve`` with two replicas in a process of its own, and the processes it is made of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np

from pipeline.releases.store import Store
from serving.access.keys import SCOPES, add_key
from serving.machine.launch import free_block
from serving.machine.processes import family, program, runs
from tests.serving_release import CUSTOMERS, make_world

ROOT = Path(__file__).parent.parent
READY_SECONDS, STOP_SECONDS = 300, 60
"""Enough for a machine that is busy with other things."""
BACK_SECONDS = 180
"""On an idle machine a process is back in seconds; a starved one takes its time."""
REPLICA, MONITOR = "ServeReplica:limen:Server", "ServeReplica:limen:MonitorServer"


class Server:
    """A ``limen serve`` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = make_world(folder / "candidate")
        self.other = make_world(folder / "other", seed=8, threshold=np.float32(0.07))
        store = Store(str(folder / "store"))
        for name in ("candidate", "other"):
            store.add(folder / name)
        store.promote("production", self.world.release.id)
        self.port, self.grpc_port = free_block(1), free_block(1)
        self.url = f"http://127.0.0.1:{self.port}"
        keys = folder / "keys.json"
        self.key = add_key(keys, CUSTOMERS[0], SCOPES)
        self.client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=30
        )

    def command(self) -> list[str]:
        return [sys.executable, "-m", "jobs.cli", "serve", "production",
                "--store", str(self.folder / "store"), "--replicas", "2",
                "--port", str(self.port), "--grpc-port", str(self.grpc_port),
                "--keys", str(self.folder / "keys.json"),
                "--records", f"sqlite:///{self.folder / 'records.db'}"]

    def start(self) -> None:
        self.log = (self.folder / "serve.log").open("w+")
        self.process = subprocess.Popen(
            self.command(), cwd=ROOT, stdout=self.log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            until(self._is_ready, READY_SECONDS, "the server")
        except AssertionError:
            self.end()
            raise AssertionError(self.output()) from None
        self.ready = time.monotonic()

    def _is_ready(self) -> bool:
        assert self.process.poll() is None
        if "Stop with Ctrl-C" not in self.output():
            return False
        assert self.client.get("/readyz").status_code == 200
        return True

    def end(self) -> None:
        """Let it stop in order, whatever became of it."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(STOP_SECONDS)

    def output(self) -> str:
        return (self.folder / "serve.log").read_text()

    def limen(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "jobs.cli", *arguments], cwd=ROOT, text=True,
            capture_output=True, timeout=READY_SECONDS, check=False,
            env={**os.environ, "LIMEN_KEY": self.key, "COLUMNS": "200", **environment},
        )

    def query(self, row: int) -> dict:
        answer = self.client.post("/v1/query", json={
            "queries": [{"embedding": self.world.vectors[row].tolist()}], "limit": 1000,
        })
        assert answer.status_code == 200, answer.text
        return answer.json()


def processes(server: Server, name: str) -> set[int]:
    """Descendants of the server that run ``name``, the dead that are not yet buried left out.

    An actor of Ray calls itself ``ray::NAME``, and ``ray::NAME.METHOD`` while it is in a method.
    """
    found = set()
    for process in family(server.process.pid):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0].decode()
            names = (program(process), words.removeprefix("ray::").partition(".")[0])
            if name in names and runs(process):
                found.add(process)
        except OSError:
            continue
    return found


def killed(server: Server, name: str) -> set[int]:
    """The processes that ran ``name``, of which one was killed just now."""
    before = processes(server, name)
    assert before, name
    os.kill(min(before), signal.SIGKILL)
    return before


def until(holds: Callable[[], object], seconds: float, what: str) -> float:
    """Seconds until ``holds``; a server that cannot be reached does not hold."""
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        try:
            if holds():
                return time.monotonic() - started
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{what} not in {seconds} s")


def whole(server: Server) -> bool:
    """Whether monitor and replicas all answer."""
    lines = server.client.get("/metrics").text.splitlines()
    alive = sum(float(line.rpartition(" ")[2]) for line in lines
                if line.startswith("limen_replicas{"))
    return alive >= 2 and server.client.get("/readyz").status_code == 200
