"""Customers that put and delete items while the server dies under them, and know what must hold.

Every request has an idempotency key and is sent again, with the same key, until it is answered:
whether or not the server had kept it before it died, it happens once. A few are given up after
their first failure: these may have happened or not, but whole.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from dataclasses import dataclass
from urllib.parse import quote

import httpx
import numpy as np

from serving.access.keys import SCOPES, add_key
from tests.search_world import brute_distances, unit_rows
from tests.served import Server
from tests.serving_release import DIMENSION

_PATIENCE = 90
_GIVEN_UP = 0.3  # of the requests that were not answered at once


@dataclass(frozen=True)
class Request:
    """What was sent: the content of each item after it, None for a deleted one."""

    method: str
    path: str
    body: bytes
    key: str
    items: dict[str, np.ndarray | None]


class Writer:
    """One customer at work with its own items; ``wrong`` is what it was told and should not be."""

    def __init__(self, server: Server, customer: str, seed: int) -> None:
        self.server, self.customer = server, customer
        self.rng = np.random.default_rng(seed)
        self.key = add_key(server.folder / "keys.json", customer, SCOPES)
        world = server.world
        own = [row for row, owner in enumerate(world.items.customer) if owner == customer]
        self.shared = {world.items.item_id[row]: world.vectors[row]
                       for row, owner in enumerate(world.items.customer) if owner is None}
        self.items = {world.items.item_id[row]: world.vectors[row] for row in own}
        self.open: list[Request] = []
        """Given up: whether they happened is not known."""
        self.acknowledged: list[tuple[Request, bytes]] = []
        self.repeated = 0
        self.failures = 0
        self.wrong: list[str] = []
        self._made = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No further request; the last one is answered or wrong when this returns."""
        self._stop.set()
        self._thread.join(2 * _PATIENCE)
        assert not self._thread.is_alive()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.server.url, timeout=30,
                            headers={"Authorization": f"Bearer {self.key}"})

    def _work(self) -> None:
        with self.client() as client:
            while not self._stop.is_set():
                request = self._next()
                answer = self._sent(client, request)
                if answer is None:
                    self.open.append(request)
                    continue
                self.acknowledged.append((request, answer))
                asked = {name: self.items.get(name) if vector is None else vector
                         for name, vector in request.items.items()}
                self.items = after(self.items, [request])
                self._look(client, request, asked)

    def _next(self) -> Request:
        """A put of new items or of other content for old ones, or the deletion of one."""
        uncertain = {item_id for request in self.open for item_id in request.items}
        known = sorted(self.items.keys() - uncertain)
        if known and self.rng.random() < 0.4:
            item_id = known[self.rng.integers(len(known))]
            return Request("DELETE", f"/v1/items/{quote(item_id, safe='')}", b"",
                           uuid.uuid4().hex, {item_id: None})
        items: dict[str, np.ndarray | None] = {}
        for vector in unit_rows(self.rng, int(self.rng.integers(1, 6)), DIMENSION):
            old = known and self.rng.random() < 0.3
            name = known[self.rng.integers(len(known))] if old else f"new-{self._made}"
            self._made += 1
            items[name] = vector
        body = {"items": [{"item_id": name, "embedding": vector.tolist()}
                          for name, vector in items.items() if vector is not None]}
        return Request("PUT", "/v1/items", json.dumps(body).encode(), uuid.uuid4().hex, items)

    def _sent(self, client: httpx.Client, request: Request) -> bytes | None:
        """The body of the answer; None where the request was given up."""
        until = time.monotonic() + _PATIENCE
        for tries in range(10**6):
            try:
                answer = send(client, request)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 200:
                self.repeated += tries > 0
                return what(answer)
            self.failures += 1
            if answer is not None and answer.status_code != 503:
                self.wrong.append(f"{request.method} {request.path}: {answer.status_code} "
                                  f"{answer.text[:200]}")
                return None
            if time.monotonic() > until:
                self.wrong.append(f"{request.method} {request.path}: no answer")
                return None
            if tries == 0 and self.rng.random() < _GIVEN_UP:
                return None
            time.sleep(0.05)
        raise AssertionError

    def _look(
        self, client: httpx.Client, request: Request, asked: dict[str, np.ndarray]
    ) -> None:
        """What was acknowledged is seen by the next query, whoever answers it."""
        queries = [{"id": name, "embedding": vector.tolist()} for name, vector in asked.items()]
        try:
            answer = client.post("/v1/query", json={"queries": queries, "limit": 1000})
        except httpx.TransportError:
            return
        if answer.status_code == 503:
            return
        for result in answer.json()["results"]:
            names = {match["item_id"] for match in result["matches"]}
            if (result["id"] in names) != (request.items[result["id"]] is not None):
                self.wrong.append(f"{request.method} of {result['id']} acknowledged; {names}")

    def listed(self, query: np.ndarray) -> list[tuple[float, str]]:
        """(distance, item_id) of all that the server shows this customer, page by page."""
        found, cursor = [], None
        with self.client() as client:
            while True:
                answer = client.post("/v1/query", json={
                    "queries": [{"embedding": query.tolist()}], "limit": 250, "cursor": cursor,
                    "threshold": 2.0, "exact": True,
                })
                assert answer.status_code == 200, answer.text
                result = answer.json()["results"][0]
                found += [(match["distance"], match["item_id"]) for match in result["matches"]]
                cursor = result["next_cursor"]
                if cursor is None:
                    assert len(found) == result["match_count"]
                    return found

    def expected(self, query: np.ndarray, happened: list[Request]) -> list[tuple[float, str]]:
        """The same from what was acknowledged, and of the uncertain what ``happened``."""
        items = after(self.items, happened)
        items |= self.shared
        distances = brute_distances(query, np.stack(list(items.values())))
        return sorted((float(d), name) for d, name in zip(distances, items, strict=True))


def after(
    items: dict[str, np.ndarray], requests: list[Request]
) -> dict[str, np.ndarray]:
    """``items`` once the ``requests`` have happened."""
    items = dict(items)
    for request in requests:
        for item_id, vector in request.items.items():
            items.pop(item_id, None)
            if vector is not None:
                items[item_id] = vector
    return items


def send(client: httpx.Client, request: Request) -> httpx.Response:
    return client.request(request.method, request.path, content=request.body,
                          headers={"Idempotency-Key": request.key})


def what(answer: httpx.Response) -> bytes:
    """The answer without the id of its request, which is of one try."""
    content = answer.json()
    del content["request_id"]
    return json.dumps(content, sort_keys=True).encode()


def check(server: Server, writers: list[Writer]) -> None:
    """The server shows what was acknowledged and nothing else; what is sent again changes nothing.
    """
    for writer in writers:
        writer.stop()
        assert not writer.wrong, (len(writer.wrong), writer.wrong[:3])
        kept = kept_requests(server, writer)
        happened = [request for request in writer.open if request.key in kept]
        for request in [*happened, *(request for request, _ in writer.acknowledged)]:
            assert kept[request.key] == len(request.items)  # whole
        query = unit_rows(np.random.default_rng(1), 1, DIMENSION)[0]
        for _ in range(4):  # by whichever replica
            assert writer.listed(query) == writer.expected(query, happened)
        with writer.client() as client:
            for request, answer in writer.acknowledged:
                again = send(client, request)
                assert (again.status_code, what(again)) == (200, answer), again.text
            for request in writer.open:
                first, second = send(client, request), send(client, request)
                assert first.status_code == second.status_code == 200, first.text
                assert what(first) == what(second)
        assert writer.listed(query) == writer.expected(query, writer.open)
        requests = [*writer.open, *(request for request, _ in writer.acknowledged)]
        assert kept_requests(server, writer) == {
            request.key: len(request.items) for request in requests
        }


def kept_requests(server: Server, writer: Writer) -> dict[str, int]:
    """How many changes the log has of each request of a writer."""
    with sqlite3.connect(server.folder / "records.db") as records:
        return dict(records.execute(
            "SELECT request_key, count(*) FROM item_changes WHERE customer = ? "
            "GROUP BY request_key", (writer.customer,)))
