"""What a customer is told does not depend on what the others own or do.

Two worlds hold the same of customer A and of what all share. In the busy one B and C own more
items, some with A's ids, and are at work between the requests of A; in the quiet one C owns
nothing, B little, and neither does anything. A's requests, through every route, with ids, cursors
and idempotency keys that B got, are answered alike to the byte, but for the release's own id.

The calibration is of all customers together, and the same in both worlds: the threshold, its
guarantee, and which of A's own pairs are worth a review are what it tells each of them.
"""

import asyncio
import base64
import json
import uuid
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest

from pipeline.counting.operating import BUCKETS
from pipeline.data.items import Items
from serving.access.admission import ROUTES, Head
from serving.access.keys import SCOPES, add_key
from serving.answers import answering
from serving.assembly import Settings, front_of
from serving.releases import engine
from tests.serving_release import SIZE, embedding_of, grid_of, png, seal_items
from tests.test_api import Link

A, B, C = "acme", "birds/sea", "cats"
SHARED, OWN = 30, 60
PLAIN = ("query", "verdict", "items", "threshold:override")
generator = np.random.default_rng  # the worlds put another in its place
OWN_CONSISTENCY = ("GET", "/v1/customers/{customer}/consistency")


class Stream:
    """Randomness of its own for each customer: the test compares words, not dice."""

    def __init__(self):
        self.actor = ""
        self._counts = {}
        self._generators = {}

    def uuid4(self):
        self._counts[self.actor] = number = self._counts.get(self.actor, 0) + 1
        return uuid.uuid5(uuid.NAMESPACE_URL, f"{self.actor} {number}")

    def __getattr__(self, name):
        seed = sum(map(ord, self.actor))
        return getattr(self._generators.setdefault(self.actor, generator(seed)), name)


class World:
    """A server, with B's items made of ``others`` and so many."""

    def __init__(self, folder, monkeypatch, *, busy):
        folder.mkdir()
        self.busy = busy
        self.stream = Stream()
        monkeypatch.setattr(answering, "uuid", SimpleNamespace(uuid4=self.stream.uuid4))
        self.release = _release(folder / "candidate", busy)
        monkeypatch.setattr(engine.np.random, "default_rng",
                            lambda *seed: generator(*seed) if seed else self.stream)
        keys = folder / "keys.json"
        self.keys = {A: add_key(keys, A, PLAIN), "A observes": add_key(keys, A, SCOPES),
                     B: add_key(keys, B, SCOPES), C: add_key(keys, C, SCOPES)}
        self.settings = Settings(
            release=str(folder / "candidate"), keys=str(keys), store=str(folder / "store"),
            records=f"sqlite:///{folder / 'records.db'}",
        )
        self.front = front_of(self.settings, Link(self.settings))

    def send(self, actor, method, path, body=None, *, query="", idempotency_key=""):
        self.stream.actor = actor
        data = b"" if body is None else json.dumps(body).encode()

        async def read():
            return data

        head = Head(method=method, path=path, query=query, request_id="r-1",
                    authorization=f"Bearer {self.keys[actor]}", idempotency_key=idempotency_key)
        return asyncio.run(self.front.handle(head, read))

    def ask(self, actor, row, **fields):
        body = {"queries": [{"embedding": row.tolist()}], **fields}
        return self.send(actor, "POST", "/v1/query", body)

    def told(self, response):
        """What was answered, without the id of the release, which is its content's."""
        text = response.body.decode("utf-8", "replace")
        for name in (self.release.id, self.release.id12):
            text = text.replace(name, "RELEASE")
        if response.content_type == "application/json" and "next_cursor" in text:
            content = json.loads(text)
            for result in content.get("results", ()):
                if result["next_cursor"]:
                    result["next_cursor"] = self.opened(result["next_cursor"])
            text = json.dumps(content)
        return response.status, dict(response.headers), text

    def opened(self, cursor):
        content = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        return content.replace(self.release.id12, "RELEASE")

    def closed(self, opened):
        content = opened.replace("RELEASE", self.release.id12).encode()
        return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _pixels(seed, count):
    return np.random.default_rng(seed).integers(1, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


SHARED_PIXELS, A_PIXELS, B_PIXELS, C_PIXELS = (
    _pixels(1, SHARED), _pixels(2, OWN), _pixels(3, 200), _pixels(4, 100)
)
B_PIXELS[:20] = A_PIXELS[:20]  # the nearest of all to what A asks
B_PIXELS[20:30] = SHARED_PIXELS[:10]


def _release(folder, busy):
    parts = [(None, SHARED_PIXELS, "shared"), (A, A_PIXELS, "own"),
             (B, B_PIXELS if busy else _pixels(5, 3), "own" if busy else "quiet")]
    if busy:
        parts.append((C, C_PIXELS, "own"))
    pixels = np.concatenate([part for _, part, _ in parts])
    ids = [f"{name}-{i}" for _, part, name in parts for i in range(len(part))]
    owners = [owner for owner, part, _ in parts for _ in part]
    vectors = np.stack([embedding_of(entry) for entry in pixels])
    size = len(ids)
    items = Items(
        item_id=np.asarray(ids, object),
        label=np.asarray([f"label-{i % 9}" for i in range(size)], object),
        customer=np.asarray(owners, object), role=np.full(size, "both", object),
        split=np.full(size, "report", object), kind="image",
        content=np.asarray([png(entry) for entry in pixels], object),
        metadata=pa.table({"name": [f"{who}'s {i}" for who, i in zip(owners, ids, strict=True)]}),
    )
    shape = (BUCKETS, 2, grid_of().bins)
    counts = {who: np.random.default_rng(i).integers(1, 9, shape).astype(float)
              for i, who in enumerate([A, B, C])}
    return seal_items(folder, items, vectors, counts).release


# What B does, and what A knows of it


def _others_work(world, number):
    """B and C ask, put, delete and judge."""
    rows = [embedding_of(entry) for entry in B_PIXELS]
    for actor in (B, C):
        world.ask(actor, rows[number % len(rows)], limit=1)
        world.send(actor, "PUT", "/v1/items", {"items": [
            {"item_id": f"online-{number}", "embedding": rows[number % 20].tolist()},
            {"item_id": f"own-{number}", "embedding": rows[number % 30].tolist()},
        ]}, idempotency_key=f"key-{number}")
    world.send(B, "DELETE", f"/v1/items/own-{100 + number}")
    reviews = json.loads(world.send(B, "GET", "/v1/reviews", query="budget=5").body)["reviews"]
    if reviews:
        world.send(B, "POST", "/v1/verdicts", {"verdicts": [
            {name: r[name] for name in ("query_id", "item_id", "draw_id")} | {"is_match": True}
            for r in reviews
        ]})


def _stolen(world):
    """A cursor, a query, a draw and an item of B's."""
    answer = json.loads(world.ask(B, embedding_of(A_PIXELS[0]), limit=1, threshold=2.0).body)
    result = answer["results"][0]
    review = json.loads(world.send(B, "GET", "/v1/reviews", query="budget=1").body)["reviews"][0]
    world.send(B, "PUT", "/v1/items", {"items": [
        {"item_id": "stolen", "embedding": embedding_of(A_PIXELS[1]).tolist()},
    ]}, idempotency_key="stolen-key")
    return {"cursor": world.opened(result["next_cursor"]), "query_id": result["query_id"],
            "draw": review}


class Script:
    """A's requests, in order; the answers, and which routes they went through."""

    def __init__(self, world, stolen):
        self.world = world
        self.stolen = stolen
        self.answers = []
        self.routes = set()

    def send(self, method, path, body=None, *, route=None, **fields):
        if self.world.busy and len(self.answers) % 4 == 0:
            _others_work(self.world, len(self.answers))
        self.routes.add((method, route or path))
        response = self.world.send(A, method, path, body, **fields)
        self.answers.append((method, path, body, *self.world.told(response)))
        return json.loads(response.body) if response.content_type == "application/json" else None

    def query(self, row, **fields):
        body = {"queries": [{"embedding": row.tolist()}], "with": ["metadata"], **fields}
        return self.send("POST", "/v1/query", body)

    def pages(self, row, **fields):
        cursor = None
        while True:
            answer = self.query(row, cursor=cursor, limit=20, **fields)
            cursor = answer["results"][0]["next_cursor"]
            if cursor is None:
                return

    def play(self):
        self._read(A_PIXELS[0], B_PIXELS[5], B_PIXELS[40], C_PIXELS[0], SHARED_PIXELS[2])
        self._judge()
        self._change()
        self._read(B_PIXELS[5], B_PIXELS[40])

    def _read(self, *asked):
        for method, path in ROUTES:
            if method == "GET" and "{" not in path:
                self.send(method, path)
        for row in asked:
            for fields in ({}, {"limit": 1}, {"exact": True}, {"threshold": 2.0},
                           {"threshold": 0.0}):
                self.query(embedding_of(row), **fields)
        self.pages(embedding_of(A_PIXELS[0]), threshold=2.0)
        theirs = self.world.closed(self.stolen["cursor"])
        self.query(embedding_of(A_PIXELS[0]), cursor=theirs, limit=1, threshold=2.0)
        for name in (A, B, C, "nobody", A.upper(), ""):
            path = f"/v1/customers/{quote(name, safe='')}/consistency"
            self.send("GET", path, route=OWN_CONSISTENCY[1])
        for method, path in (("POST", "/v1/admin/promote"), ("POST", "/v1/admin/rollback")):
            self.send(method, path, {"release": self.world.release.id12})
        for path in ("/v1/items", "/v1/items/own-100", "/v1/items/stolen", "/v1/nothing"):
            self.send("GET", path)

    def _judge(self):
        reviews = self.send("GET", "/v1/reviews", query="budget=1000")["reviews"]
        assert reviews
        mine, theirs = reviews[0], self.stolen["draw"]
        own = {name: mine[name] for name in ("query_id", "item_id", "draw_id")}
        for wrong in (
            {**own, "query_id": theirs["query_id"]}, {**own, "draw_id": theirs["draw_id"]},
            {**own, "item_id": theirs["item_id"]}, {**own, "query_id": "nobody's"},
            {name: theirs[name] for name in ("query_id", "item_id", "draw_id")},
            {"query_id": self.stolen["query_id"], "item_id": "own-0"},
            {"query_id": mine["query_id"], "item_id": "online-0"},
            {"query_id": mine["query_id"], "item_id": "own-150"}, own, own,
        ):
            self.send("POST", "/v1/verdicts", {"verdicts": [{**wrong, "is_match": True}]})
        self.send("POST", "/v1/verdicts", {"verdicts": [{**own, "is_match": False}]})
        self.send("GET", "/v1/reviews", query="budget=1000")

    def _change(self):
        item = "/v1/items/{item_id}"
        for name in ("own-150", "stolen", "online-0", "nobody's", "shared-0", "own-3", "own-3"):
            self.send("DELETE", f"/v1/items/{name}", route=item)
        self.send("DELETE", "/v1/items/own-4", route=item, idempotency_key="stolen-key")
        for name, key in (("stolen", "stolen-key"), ("mine", "key-1"), ("mine", "key-1"),
                          ("online-1", ""), ("own-150", ""), ("shared-1", ""), ("own-5", "")):
            row = embedding_of(B_PIXELS[len(name)])
            self.send("PUT", "/v1/items", {"items": [{"item_id": name, "embedding": row.tolist()}]},
                      idempotency_key=key)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """(answers, routes) of the busy world and of the quiet one, and the busy world."""
    folder = tmp_path_factory.mktemp("isolation")
    with pytest.MonkeyPatch.context() as patch:
        busy = World(folder / "busy", patch, busy=True)
        stolen = _stolen(busy)
        first = Script(busy, stolen)
        first.play()
    with pytest.MonkeyPatch.context() as patch:
        second = Script(World(folder / "quiet", patch, busy=False), stolen)
        second.play()
    return first, second


def test_every_answer_is_the_same_whatever_the_others_own_and_do(played):
    busy, quiet = played
    assert len(busy.answers) == len(quiet.answers)
    for number, (one, other) in enumerate(zip(busy.answers, quiet.answers, strict=True)):
        body, theirs = one[2], other[2]
        if isinstance(body, dict) and {"cursor", "release"} & set(body):
            one, other = (*one[:2], *one[3:]), (*other[:2], *other[3:])  # they name the release
        else:
            assert body == theirs, number
        assert one == other, number


def test_every_route_is_among_them(played):
    wanted = {*ROUTES, OWN_CONSISTENCY}
    assert wanted <= played[0].routes == played[1].routes


def test_the_requests_found_what_there_was_to_find(played):
    """Else two empty worlds would be alike."""
    statuses = [answer[3] for answer in played[0].answers]
    assert {200, 202, 307, 400, 403, 404, 405, 409} <= set(statuses)
    text = "".join(answer[5] for answer in played[0].answers)
    for found in ("own-0", "shared-0", "mine", "unknown_item", "unknown_pair", "shared_item",
                  "invalid_cursor", "verdict_contradicted", f"{A}'s own-1"):
        assert found in text
    assert f"{B}'s" not in text
    assert f"{C}'s" not in text


def test_who_may_observe_sees_numbers_of_customers_and_no_item_or_query_of_theirs(played):
    busy = played[0]
    for path in ("/metrics", "/v1/consistency", "/v1/release/report"):
        response = busy.world.send("A observes", "GET", path)
        assert response.status == 200
        for theirs in ("own-", "shared-", "online-", "stolen", busy.stolen["query_id"],
                       busy.stolen["draw"]["draw_id"]):
            assert theirs not in response.body.decode()


def test_the_trail_names_keys_and_customers_and_no_item(played):
    trail = Path(played[0].world.settings.keys).with_name("trail.jsonl").read_text()
    assert B in trail
    for name in ("own-", "online-", "stolen"):
        assert name not in trail
