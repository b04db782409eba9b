"""Releases promoted and rolled back over HTTP while clients ask, and every answer judged."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.replica_world import expected_matches
from tests.served import Server

CLIENTS = 3


def promotions_under_load(server: Server, count: int) -> Counter[str]:
    """Promote and roll back in turn, ``count`` moves in all; answers by release.

    No move and no request may fail, and every answer has to be whole and of one release. Starts
    and ends at ``server.world``.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(_ask_on, server, stop) for _ in range(CLIENTS)]
        try:
            for number in range(count):
                for future in asking:
                    if future.done():
                        future.result()  # it failed, and says why
                path, body, meant = (
                    ("rollback", {}, server.world) if number % 2 else
                    ("promote", {"release": server.other.release.id12}, server.other)
                )
                response = server.client.post(f"/v1/admin/{path}", json=body)
                assert response.status_code == 200, response.text
                moved = response.json()
                assert moved["release"] == meant.release.id12
                assert (moved["replicas"], moved["swapped"]) == (2, 2)
                assert server.query(0)["release"] == meant.release.id12
        finally:
            stop.set()
        return sum((future.result() for future in asking), Counter())


def _ask_on(server: Server, stop: threading.Event) -> Counter[str]:
    worlds = {world.release.id12: world for world in (server.world, server.other)}
    rows = server.world.vectors[[0, 50, 345]]
    expected = {(name, place): expected_matches(world, row) for name, world in worlds.items()
                for place, row in enumerate(rows)}
    answered = Counter(dict.fromkeys(worlds, 0))
    with httpx.Client(base_url=server.url, headers=server.client.headers, timeout=30) as client:
        while not stop.is_set():
            for place, row in enumerate(rows):
                response = client.post("/v1/query", json={
                    "queries": [{"embedding": row.tolist()}], "limit": 1000,
                })
                assert response.status_code == 200, response.text
                answer = response.json()
                release, found = answer["release"], answer["results"][0]["matches"]
                assert answer["threshold"]["value"] == float(worlds[release].release.threshold)
                assert [(m["distance"], m["item_id"]) for m in found] == expected[release, place]
                answered[release] += 1
    return answered
