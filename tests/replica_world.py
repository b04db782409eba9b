"""Two releases in one store, replicas that follow an alias of it, and what each would answer."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.distance import deciding
from pipeline.releases.store import Store
from serving.access.admission import Head
from serving.access.keys import SCOPES, add_key
from serving.assembly import gauges_of, replica_of
from serving.reporting import Replica
from serving.settings import Settings
from serving.watching.gauges import Gauges
from serving.watching.replicas import Report, Standing
from tests.serving_release import CUSTOMERS, World, make_world

ALIAS = "production"
WIDE = np.float32(0.07)


class Link:
    """The monitor in this process."""

    def __init__(self, gauges: Gauges) -> None:
        self.gauges = gauges

    async def metrics(self) -> bytes:
        return self.gauges.metrics()

    async def consistency(self, customer: str | None) -> bytes:
        return self.gauges.consistency(customer)

    async def report(self, report: Report) -> None:
        self.gauges.replicas.report(report)

    async def replicas(self) -> tuple[Standing, ...]:
        return self.gauges.replicas.live()


@dataclass
class Shop:
    """A store whose alias means the first of two releases, and a key for it."""

    folder: Path
    worlds: dict[str, World]
    """By full id: the first has the narrow threshold, the second other images and the wide one."""
    key: str
    settings: Settings

    @property
    def store(self) -> Store:
        return Store(self.settings.store)

    @property
    def ids(self) -> list[str]:
        return list(self.worlds)

    def copy(self, folder: Path) -> Shop:
        """The same releases in a store, with keys and records, of its own."""
        shutil.copytree(self.folder, folder)
        settings = replace(
            self.settings, store=str(folder / "store"), keys=str(folder / "keys.json"),
            records=f"sqlite:///{folder / 'records.db'}",
        )
        return replace(self, folder=folder, settings=settings)

    def replica(self, **changed: object) -> tuple[Replica, Link]:
        settings = replace(self.settings, **changed)
        link = Link(gauges_of(settings))
        return replica_of(settings, link), link


def open_shop(folder: Path) -> Shop:
    first = make_world(folder / "first")
    second = make_world(folder / "second", seed=8, threshold=WIDE)
    store = Store(str(folder / "store"))
    for name in ("first", "second"):
        store.add(folder / name)
    store.promote(ALIAS, first.release.id)
    keys = folder / "keys.json"
    return Shop(
        folder, {world.release.id: world for world in (first, second)},
        add_key(keys, CUSTOMERS[0], SCOPES),
        Settings(release=ALIAS, store=str(folder / "store"), keys=str(keys), record_rate=0.0,
                 records=f"sqlite:///{folder / 'records.db'}", follow_seconds=0.1),
    )


def expected_matches(world: World, query: np.ndarray, customer: str = CUSTOMERS[0]):
    """(distance, item_id) of every match, by brute force over the world's own vectors."""
    rows = world.rows_of(customer)
    distances = deciding(query[None, :], world.vectors[rows])[0]
    ids = world.items.item_id[rows]
    threshold = world.release.threshold
    return sorted((float(d), i) for d, i in zip(distances, ids, strict=True) if d <= threshold)


async def send(replica: Replica, key: str, method: str, path: str, body: object = None):
    """The status and the parsed body."""
    data = b"" if body is None else json.dumps(body).encode()

    async def read() -> bytes:
        return data

    head = Head(method=method, path=path, request_id="r-1", authorization=f"Bearer {key}")
    response = await replica.front.handle(head, read)
    return response.status, json.loads(response.body)


async def until(fact, seconds: float = 60.0) -> None:
    """Wait until ``fact()``; fails after ``seconds``."""
    for _ in range(int(seconds * 50)):
        if fact():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("waited in vain")


