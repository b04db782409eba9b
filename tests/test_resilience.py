"""Each process of a server killed with SIGKILL, in turn, amid queries, verdicts and new items.

One server for all kills: it is never restarted by hand.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest

from pipeline.distance import deciding
from serving.access.keys import SCOPES, add_key
from serving.machine.processes import family
from serving.machine.supervisor import STEADY_SECONDS
from tests.served import (
    BACK_SECONDS,
    MONITOR,
    READY_SECONDS,
    REPLICA,
    Server,
    killed,
    processes,
    until,
)
from tests.serving_release import CUSTOMERS, DIMENSION, THRESHOLD

pytestmark = [pytest.mark.ray, pytest.mark.long]

HEAD_SECONDS = 10


class Load:
    """Queries and verdicts of one customer, new items of another; every answer is judged."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.wrong: list[str] = []
        self.answered, self.refused = 0, 0
        self.verdicts: set[tuple[str, str]] = set()
        self.items: dict[str, list[float]] = {}
        self.sent: set[str] = set()
        self.writer_key = add_key(server.folder / "keys.json", CUSTOMERS[1], SCOPES)
        world = server.world
        rows = world.rows_of(CUSTOMERS[0])
        distances = deciding(world.vectors, world.vectors[rows])
        ids = world.items.item_id[rows]
        self.expected = [
            sorted((float(d), str(i)) for d, i in zip(line, ids, strict=True) if d <= THRESHOLD)
            for line in distances
        ]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(work, key, seed), daemon=True)
            for seed, (work, key) in enumerate((
                (self._query, server.key), (self._query, server.key),
                (self._judge, server.key), (self._put, self.writer_key),
            ))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.server.url, timeout=60,
                            headers={"Authorization": f"Bearer {key}"})

    def _repeat(
        self, work: Callable[[httpx.Client, np.random.Generator], None], key: str, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        with self.client(key) as client:
            while not self._stop.wait(0.02):
                try:
                    work(client, rng)
                except httpx.TransportError as error:
                    if isinstance(error, httpx.TimeoutException):
                        self.wrong.append(f"no answer in 60 s: {error!r}")
                    self.refused += 1

    def _accepted(self, answer: httpx.Response, status: int) -> bool:
        """Whether it is what was asked for; everything but a clean refusal is wrong."""
        if answer.status_code == status:
            self.answered += 1
            return True
        self.refused += 1
        clean = answer.status_code == 503 and "Retry-After" in answer.headers
        if not (clean and set(answer.json()) == {"error", "request_id"}):
            self.wrong.append(f"{answer.request.url}: {answer.status_code} {answer.text[:200]}")
        return False

    def _query(self, client: httpx.Client, rng: np.random.Generator) -> dict | None:
        row = int(rng.integers(len(self.expected)))
        vector = self.server.world.vectors[row].tolist()
        answer = client.post("/v1/query", json={"queries": [{"embedding": vector}], "limit": 1000})
        if not self._accepted(answer, 200):
            return None
        result = answer.json()["results"][0]
        found = [(match["distance"], match["item_id"]) for match in result["matches"]]
        if found != self.expected[row] or not result["complete"]:
            self.wrong.append(f"row {row}: {found} is not {self.expected[row]}")
        return result

    def _judge(self, client: httpx.Client, rng: np.random.Generator) -> None:
        result = self._query(client, rng)
        if result is None or not result["recorded"] or not result["matches"]:
            return
        pair = (result["query_id"], result["matches"][0]["item_id"])
        verdict = {"query_id": pair[0], "item_id": pair[1], "is_match": True}
        answer = client.post("/v1/verdicts", json={"verdicts": [verdict]})
        if self._accepted(answer, 202):
            self.verdicts.add(pair)

    def _put(self, client: httpx.Client, rng: np.random.Generator) -> None:
        name = f"online-{len(self.sent)}"
        vector = rng.standard_normal(DIMENSION)
        vector = (vector / np.linalg.norm(vector)).astype(np.float32).tolist()
        self.sent.add(name)
        answer = client.put("/v1/items", json={"items": [{"item_id": name, "embedding": vector}]})
        if self._accepted(answer, 200):
            self.items[name] = vector


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("resilience"))
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="module")
def load(server) -> Iterator[Load]:
    load = Load(server)
    load.start()
    yield load
    load.stop()


@pytest.mark.parametrize(
    "name", [REPLICA, "haproxy", MONITOR, "ServeController", "HAProxyManager", "ProxyActor"]
)
def test_what_is_killed_comes_back_and_no_answer_is_wrong(server, load, name):
    before = killed(server, name)
    back = until(lambda: processes(server, name) - before, BACK_SECONDS, f"{name} back")
    answered = load.answered
    served = until(lambda: load.answered > answered + 20, BACK_SECONDS, "answers")
    until(lambda: server.client.get("/metrics").status_code == 200, BACK_SECONDS, "metrics")
    until(lambda: server.client.get("/readyz").status_code == 200, BACK_SECONDS, "ready")
    print(f"{name}: back after {back:.1f} s, 20 answers {served:.1f} s later, "
          f"{load.refused} refused so far")
    assert not load.wrong, load.wrong[:3]
    assert server.process.poll() is None


def test_every_acknowledged_write_is_there_and_nothing_that_was_not_sent(server, load):
    until(lambda: len(load.verdicts) > 5 and len(load.items) > 5, 60, "writes")
    load.stop()
    assert not load.wrong, load.wrong[:3]
    with sqlite3.connect(server.folder / "records.db") as records:
        kept = set(records.execute("SELECT query_id, item_id FROM verdicts"))
    assert load.verdicts <= kept
    own = {*server.world.items.item_id, *load.sent}
    with load.client(load.writer_key) as client:
        for name, vector in load.items.items():
            answer = client.post(
                "/v1/query", json={"queries": [{"embedding": vector}], "limit": 1000})
            assert answer.status_code == 200, answer.text
            found = {match["item_id"] for match in answer.json()["results"][0]["matches"]}
            assert name in found
            assert found <= own


def test_a_server_whose_ray_lost_its_head_starts_again_and_says_so(server, load):
    load.stop()
    time.sleep(STEADY_SECONDS)  # however few kills ran before
    process = server.process.pid
    os.kill(min(processes(server, "gcs_server")), signal.SIGKILL)
    until(lambda: "Ray's gcs_server ended: starting again" in server.output(), HEAD_SECONDS, "word")
    until(lambda: server.output().count("Stop with Ctrl-C") == 2, READY_SECONDS, "second start")
    assert server.process.pid == process
    assert server.process.poll() is None
    row = 50
    found = [(m["distance"], m["item_id"]) for m in server.query(row)["results"][0]["matches"]]
    assert found == load.expected[row]


def test_a_ray_that_falls_at_once_again_ends_the_server_with_one_line(server):
    os.kill(min(processes(server, "raylet")), signal.SIGKILL)
    assert server.process.wait(HEAD_SECONDS) == 1, server.output()
    said = server.output()[server.output().rindex("Stop with Ctrl-C"):]
    assert "Ray's raylet ended" in said
    assert "not started again" in said
    assert "Traceback" not in said
    until(lambda: not family(server.process.pid) - {server.process.pid}, 10, "end of all")
