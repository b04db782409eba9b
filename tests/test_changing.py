"""Items put and deleted over HTTP, on two replicas that share nothing but the database."""

import asyncio
import base64
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from pipeline.distance import deciding
from pipeline.live.database import Database, decode_histogram
from pipeline.live.tables import DECISIONS
from serving.access.admission import Head
from serving.access.keys import add_key
from serving.answers.retriever import Retriever
from serving.assembly import front_of
from serving.schema.items import DeletedAnswer, ItemsAnswer
from tests.serving_release import CUSTOMERS, DIMENSION, THRESHOLD, embedding_of, png
from tests.test_api import Link, Server, error

UNIT = [1.0] + [0.0] * (DIMENSION - 1)


class Replicas(Server):
    """Two replicas over one database."""

    def __init__(self, folder: Path, records: str = "", **settings: object) -> None:
        super().__init__(folder, records, **settings)
        self.fronts = [self.front, front_of(self.settings, Link(self.settings))]
        self.keys["nobody"] = add_key(Path(self.settings.keys), "nobody", ["query", "items"])

    def change(self, method, path, body=b"", *, key="all", repeat="", which=0):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()

        async def read() -> bytes:
            return data

        head = Head(method=method, path=path, request_id="r-1", idempotency_key=repeat,
                    authorization=f"Bearer {self.keys.get(key, key)}")
        return asyncio.run(self.fronts[which].handle(head, read))

    def put(self, items, **how):
        response = self.change("PUT", "/v1/items", {"items": items}, **how)
        return response.status, json.loads(response.body)

    def ids(self, embedding, *, key="all", which=1, **fields):
        body = {"queries": [{"embedding": embedding}], "limit": 1000, **fields}
        response = self.send("POST", "/v1/query", key, body, front=self.fronts[which])
        assert response.status == 200, response.body
        return [match["item_id"] for match in json.loads(response.body)["results"][0]["matches"]]


@pytest.fixture
def server(tmp_path, url):
    return Replicas(tmp_path, url)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """For requests that change nothing."""
    return Replicas(tmp_path_factory.mktemp("untouched"))


def picture(rng):
    """An image nobody has yet: its pixels, its base64, its embedding."""
    pixels = rng.integers(1, 256, (2, 2, 3), dtype=np.uint8)
    return base64.b64encode(png(pixels)).decode(), embedding_of(pixels)


def b64(values):
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def test_what_was_put_is_found_on_every_replica_at_its_deciding_distance(server):
    rng = np.random.default_rng(1)
    image, vector = picture(rng)
    status, answer = server.put([
        {"item_id": "new/ü 1", "image": image, "label": "lamp", "metadata": {"name": "L", "n": 1}},
        {"item_id": "new 2", "embedding": vector.tolist()},
        {"item_id": "new 3", "embedding_b64": b64(vector)},
    ])
    assert (status, answer) == (200, {"accepted": 3, "change": 3, "request_id": "r-1"})
    ItemsAnswer.model_validate(answer)
    for front in server.fronts:
        body = {"queries": [{"image": image}], "with": ["metadata"]}
        found = json.loads(server.send("POST", "/v1/query", body=body, front=front).body)
        matches = {match["item_id"]: match for match in found["results"][0]["matches"]}
        assert matches["new/ü 1"]["metadata"] == {"name": "L", "n": 1}
        assert matches["new 2"]["metadata"] == {}
        own = float(deciding(vector[None], vector[None])[0, 0])
        assert [matches[f"new {i}"]["distance"] for i in (2, 3)] == [own, own]
        assert matches["new/ü 1"]["distance"] == own
    for key in ("other", "nobody"):
        assert not {"new/ü 1", "new 2", "new 3"} & set(server.ids(vector.tolist(), key=key))
    response = server.change("DELETE", "/v1/items/new%2F%C3%BC%201", which=1)
    assert (response.status, json.loads(response.body)) == (200, {"change": 4, "request_id": "r-1"})
    DeletedAnswer.model_validate(json.loads(response.body))
    assert sorted(set(server.ids(vector.tolist(), which=0)) & {"new/ü 1", "new 2", "new 3"}) == [
        "new 2", "new 3",
    ]


def test_an_item_of_the_gallery_is_replaced_and_deleted(server):
    row = int(np.flatnonzero(server.world.items.customer == CUSTOMERS[0])[3])
    item_id, vector = server.world.items.item_id[row], server.world.vectors[row].tolist()
    image, elsewhere = picture(np.random.default_rng(2))
    assert item_id in server.ids(vector)
    server.put([{"item_id": item_id, "image": image}])
    assert item_id not in server.ids(vector, threshold=0.0001)
    assert item_id in server.ids(elsewhere.tolist(), threshold=0.0001)
    for status in (200, 404):
        assert server.change("DELETE", f"/v1/items/{item_id}").status == status
        assert item_id not in server.ids(elsewhere.tolist(), threshold=2.0)


def test_nobody_changes_what_is_shared_or_anothers(server):
    items = server.world.items
    shared = items.item_id[items.customer == None][0]  # noqa: E711 - an array compares by element
    anothers = items.item_id[items.customer == CUSTOMERS[1]][0]
    image, _ = picture(np.random.default_rng(3))
    response = server.change("PUT", "/v1/items", {"items": [
        {"item_id": "fine", "image": image}, {"item_id": shared, "image": image},
    ]})
    assert error(response) == (409, "shared_item", {"index": 1})
    refusals = [
        server.change("DELETE", f"/v1/items/{name}")
        for name in (shared, anothers, "nothing", "fine", "%FF", "a%00b", "{item_id}")
    ]
    assert {error(refusal)[:2] for refusal in refusals} == {(404, "unknown_item")}
    # One text for all: a customer cannot tell another's item from none.
    assert len({refusal.body for refusal in refusals}) == 1
    server.put([{"item_id": anothers, "image": image}])
    other = int(np.flatnonzero(items.customer == CUSTOMERS[1])[0])
    assert anothers in server.ids(server.world.vectors[other].tolist(), key="other")


@pytest.mark.parametrize(("item", "field", "message"), [
    ({"embedding": UNIT[:-1]}, "embedding", "11 coordinates; expected 12"),
    ({"embedding": [1e39, *UNIT[1:]]}, "embedding", "not finite"),
    ({"embedding": [1.0011, *UNIT[1:]]}, "embedding", "norm 1.0011"),
    ({"embedding_b64": b64([np.nan, *UNIT[1:]])}, "embedding_b64", "not finite"),
    ({"embedding_b64": b64([0.0] * DIMENSION)}, "embedding_b64", "all zero"),
    ({"embedding_b64": "AAA="}, "embedding_b64", "4 bytes each"),
    ({"embedding_b64": "*"}, "embedding_b64", "not base64"),
    ({"image": "*"}, "image", "not base64"),
    ({"image": base64.b64encode(b"no image").decode()}, "image", "undecodable"),
    ({"text": "a cat"}, "text", "this release embeds images; send 'image' or an embedding"),
    ({"text": "a" * 100_001}, "text", "100001 characters; expected at most 100000"),
    ({"vector": [1.0]}, "vector", "this release embeds images"),
    ({"item_id": "one", "embedding": UNIT}, "item_id", "the same as of items.0"),
])
def test_one_bad_item_refuses_the_request_and_nothing_is_kept(untouched, item, field, message):
    items = [{"item_id": "one", "embedding": UNIT}, {"item_id": "two", **item}]
    response = untouched.change("PUT", "/v1/items", {"items": items})
    assert error(response) == (422, "invalid_item", {"index": 1, "field": field})
    assert message in json.loads(response.body)["error"]["message"]
    assert untouched.change("DELETE", "/v1/items/one").status == 404


@pytest.mark.parametrize(("fields", "place"), [
    ({"item_id": ""}, "items.0.item_id"),
    ({"item_id": "a\0"}, "items.0.item_id"),
    ({"item_id": "a" * 201}, "items.0.item_id"),
    ({"metadata": {"list": [1]}}, "items.0.metadata.list"),
    ({"metadata": {"long": "a" * 4001}}, "items.0.metadata.long"),
    ({"metadata": {f"n{i}": i for i in range(65)}}, "items.0.metadata"),
    ({"metadata": {f"n{i}": "a" * 2000 for i in range(4)}}, "items.0.metadata"),
    ({"label": 7}, "items.0.label"),
    ({"image": "AAAA"}, "items.0"),
    ({"customer": "birds/sea"}, "items.0.customer"),
])
def test_a_malformed_item_is_named(untouched, fields, place):
    item = {"item_id": "x", "embedding": UNIT, **fields}
    status, _, details = error(untouched.change("PUT", "/v1/items", {"items": [item]}))
    assert status == 400
    assert details["index"] == 0
    assert details["field"].startswith(place)


@pytest.mark.parametrize("body", [{}, {"items": []}, {"items": [
    {"item_id": str(i), "embedding": UNIT} for i in range(257)]}])
def test_a_request_holds_1_to_256_items(untouched, body):
    assert error(untouched.change("PUT", "/v1/items", body))[:2] == (400, "invalid_request")


def test_a_repeated_request_gets_the_same_answer_and_happens_once(server):
    image, vector = picture(np.random.default_rng(4))
    items = [{"item_id": "a", "image": image}]
    first = server.put(items, repeat="k1")
    deleted = server.change("DELETE", "/v1/items/a", repeat="k2")
    assert server.put(items, repeat="k1", which=1) == first == (
        200, {"accepted": 1, "change": 1, "request_id": "r-1"},
    )
    again = server.change("DELETE", "/v1/items/a", repeat="k2", which=1)
    assert (again.status, again.body) == (deleted.status, deleted.body)
    assert "a" not in server.ids(vector.tolist(), threshold=2.0)
    for method, path, body in (("PUT", "/v1/items", {"items": [{**items[0], "label": "x"}]}),
                               ("DELETE", "/v1/items/a", b""), ("DELETE", "/v1/items/b", b"")):
        refused = server.change(method, path, body, repeat="k1")
        assert error(refused)[:2] == (409, "idempotency_key_reused")
    # Keys are a customer's own.
    assert server.put(items, repeat="k1", key="other")[1]["change"] == 1
    for bad in ("a b", "ü", "x" * 201):
        assert error(server.change("PUT", "/v1/items", {"items": items}, repeat=bad)) == (
            400, "invalid_request", {"field": "Idempotency-Key"},
        )


def test_pages_show_what_was_there_when_paging_began_and_nothing_deleted_since(server):
    image, vector = picture(np.random.default_rng(5))
    names = [f"p{i:02d}" for i in range(12)]
    server.put([{"item_id": name, "image": image} for name in names])
    query = {"queries": [{"embedding": vector.tolist()}], "limit": 3, "threshold": 0.00001}

    def page(which, cursor=None):
        body = {**query, "cursor": cursor}
        found = server.send("POST", "/v1/query", body=body, front=server.fronts[which])
        result = json.loads(found.body)["results"][0]
        return [m["item_id"] for m in result["matches"]], result["match_count"], result[
            "next_cursor"]

    first = page(0)
    assert first[:2] == (names[:3], 12)
    server.put([{"item_id": "p02x", "image": image}, {"item_id": "p05", "image": image}], which=1)
    server.change("DELETE", "/v1/items/p04")
    second = page(1, first[2])
    assert second[:2] == (["p03", "p06", "p07"], 10)
    server.put([{"item_id": "p08x", "image": image}])
    third = page(0, second[2])
    assert third[:2] == (["p08", "p09", "p10"], 10)
    assert page(1, third[2]) == (["p11"], 10, None)
    assert page(0)[:2] == (["p00", "p01", "p02"], 13)


def test_a_deletion_amid_a_search_is_not_given_any_more(server, monkeypatch):
    row = int(np.flatnonzero(server.world.items.customer == CUSTOMERS[0])[5])
    item_id, vector = server.world.items.item_id[row], server.world.vectors[row].tolist()
    answer, searches = Retriever.answer, []

    def slow(self, *arguments, **fields):
        found = answer(self, *arguments, **fields)
        searches.append(1)
        if len(searches) == 1:
            # The other replica acknowledges a deletion while this one has searched already.
            assert server.change("DELETE", f"/v1/items/{item_id}", which=0).status == 200
        return found

    monkeypatch.setattr(Retriever, "answer", slow)
    assert item_id not in server.ids(vector, which=1)
    assert len(searches) == 2


def test_deletions_without_end_do_not_keep_an_answer_for_ever(server, monkeypatch):
    own = server.world.items.item_id[server.world.items.customer == CUSTOMERS[0]]
    answer, searches = Retriever.answer, []

    def slow(self, *arguments, **fields):
        found = answer(self, *arguments, **fields)
        assert server.change("DELETE", f"/v1/items/{own[len(searches)]}").status == 200
        searches.append(1)
        return found

    monkeypatch.setattr(Retriever, "answer", slow)
    assert not set(own[:3]) & set(server.ids(UNIT, threshold=2.0))
    assert len(searches) == 4


def test_records_that_fell_silent_are_no_answer_until_they_are_back(tmp_path, postgres):
    server = Replicas(tmp_path, postgres.new_url())
    image, vector = picture(np.random.default_rng(6))
    server.put([{"item_id": "kept", "image": image}])
    body = {"queries": [{"embedding": vector.tolist()}]}
    postgres.kill()
    try:
        for front in server.fronts:
            response = server.send("POST", "/v1/query", body=body, front=front)
            assert error(response) == (503, "changes_unavailable", {})
        for method, path, sent in (("PUT", "/v1/items", {"items": [{"item_id": "a",
                                                                   "image": image}]}),
                                   ("GET", "/v1/reviews", b"")):
            response = server.change(method, path, sent)
            assert response.status == 503
            assert b"limen-pg" not in response.body  # where the database is, is nobody's business
    finally:
        postgres.start()
    for which in (0, 1):
        assert "kept" in server.ids(vector.tolist(), which=which)
    assert server.put([{"item_id": "a", "image": image}], which=1)[0] == 200


def test_a_customer_may_put_so_many_items_online_and_others_as_many(tmp_path):
    server = Replicas(tmp_path, online_items=3)
    image, vector = picture(np.random.default_rng(8))
    new = [{"item_id": f"new{i}", "image": image} for i in range(4)]
    assert server.put(new)[1]["error"]["code"] == "too_many_online_items"  # all or none
    assert server.put(new[:2])[0] == 200
    for which in (0, 1):
        status, answer = server.put(new[2:], which=which)
        assert (status, answer["error"]["details"]) == (409, {"there": 2, "most": 3})
        assert "limen reindex ALIAS ITEMS --changes URL" in answer["error"]["message"]
    # Those that are there can be replaced and deleted, which makes room.
    assert server.put(new[:3], which=1)[0] == 200
    assert server.put(new[:3])[0] == 200
    assert server.put(new[3:])[0] == 409
    assert server.change("DELETE", "/v1/items/new1").status == 200
    assert server.put(new[1:2], which=1)[0] == 200
    assert server.put(new[1:2], key="nobody")[0] == 200
    # What of the gallery is replaced lies online as well; what is deleted does not.
    own = [name for name in server.world.items.item_id[server.world.items.customer == CUSTOMERS[0]]]
    assert server.put([{"item_id": own[0], "image": image}])[0] == 409
    assert server.change("DELETE", f"/v1/items/{own[1]}").status == 200
    assert server.put(new[3:])[0] == 409
    assert sorted(set(server.ids(vector.tolist())) & {item["item_id"] for item in new}) == [
        "new0", "new1", "new2",
    ]


def test_an_unreadable_log_is_no_answer_and_a_readable_one_is_again(tmp_path):
    server = Replicas(tmp_path)
    image, vector = picture(np.random.default_rng(6))
    server.put([{"item_id": "kept", "image": image}])
    body = {"queries": [{"embedding": vector.tolist()}]}
    plain = sqlite3.connect(tmp_path / "records.db")
    plain.execute("ALTER TABLE item_changes RENAME TO away")
    for front in server.fronts:
        response = server.send("POST", "/v1/query", body=body, front=front)
        assert error(response) == (503, "changes_unavailable", {})
        assert response.headers["Retry-After"] == "2"
    for method, path, sent in (("PUT", "/v1/items", {"items": [{"item_id": "a", "image": image}]}),
                               ("DELETE", "/v1/items/kept", b"")):
        assert error(server.change(method, path, sent))[0] == 503
    plain.execute("ALTER TABLE away RENAME TO item_changes")
    plain.close()
    for which in (0, 1):
        assert "kept" in server.ids(vector.tolist(), which=which)


def test_what_was_put_is_counted_and_drawn_for_review_and_what_is_deleted_is_not(server):
    image, vector = picture(np.random.default_rng(7))
    server.put([{"item_id": f"new{i}", "image": image} for i in range(60)])
    own = server.world.items.item_id[server.world.items.customer == CUSTOMERS[0]]
    for name in own[:50]:
        server.change("DELETE", f"/v1/items/{name}")
    server.ids(vector.tolist())
    database = Database(server.settings.records)
    with database.read() as connection:
        stored = connection.execute(DECISIONS.select()).one()
    database.close()
    seen = len(server.world.rows_of(CUSTOMERS[0])) + 60 - 50
    assert decode_histogram(stored.histogram).sum() == seen
    assert stored.match_count >= 60
    reviews = json.loads(server.send("GET", "/v1/reviews", query="budget=1000").body)["reviews"]
    drawn = {review["item_id"]: review["distance"] for review in reviews}
    zero = float(deciding(vector[None], vector[None])[0, 0])
    new = [distance for name, distance in drawn.items() if name.startswith("new")]
    assert new
    assert set(new) == {zero}
    assert not set(own[:50]) & set(drawn)
    assert zero < THRESHOLD
