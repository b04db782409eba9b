"""Promote and rollback over HTTP: what every replica does, and what is said when one will not."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from serving import assembly
from serving.access.keys import add_key
from serving.assembly import gauges_of, replica_of
from serving.schema.admin import MovedAnswer
from serving.web import administration
from tests.replica_world import ALIAS, Link, open_shop, send, until
from tests.serving_release import CUSTOMERS

PROMOTE, ROLLBACK = "/v1/admin/promote", "/v1/admin/rollback"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return open_shop(tmp_path_factory.mktemp("made"))


@pytest.fixture
def shop(made, tmp_path):
    return made.copy(tmp_path / "shop")


@asynccontextmanager
async def running(shop, count=2):
    """So many replicas over one store and one monitor, each reporting."""
    link = Link(gauges_of(shop.settings))
    replicas = [replica_of(shop.settings, link) for _ in range(count)]
    tasks = [asyncio.create_task(replica.report_always(link)) for replica in replicas]
    while len(link.gauges.replicas.live()) < count:
        await asyncio.sleep(0.01)
    try:
        yield replicas
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def trail(shop):
    lines = (shop.folder / "trail.jsonl").read_text().splitlines()
    moves = ("promote", "rollback")
    return [line for line in map(json.loads, lines) if line["event"].startswith(moves)]


def test_the_answer_comes_when_every_replica_serves_the_release(shop):
    first, second = shop.ids

    async def moved():
        async with running(shop) as replicas:
            for path, body, meant in (
                (PROMOTE, {"release": second[:10]}, second), (ROLLBACK, None, first),
                (PROMOTE, {"release": second}, second), (PROMOTE, {"release": second}, second),
                (ROLLBACK, {}, first),
            ):
                status, answer = await send(replicas[0], shop.key, "POST", path, body)
                assert status == 200, answer
                assert MovedAnswer.model_validate(answer).model_dump() == {
                    "alias": ALIAS, "release": meant[:12], "replicas": 2, "swapped": 2,
                    "request_id": "r-1",
                }
                assert [one.standing().release for one in replicas] == [meant] * 2
                assert shop.store.aliases()[ALIAS] == meant

    asyncio.run(moved())
    told = trail(shop)
    assert [line["event"] for line in told] == ["promote", "rollback", "promote", "promote",
                                                "rollback"]
    assert (told[0]["before"], told[0]["release"]) == (first, second)
    assert (told[0]["customer"], told[0]["request_id"]) == (CUSTOMERS[0], "r-1")
    assert shop.key.split("_")[2] not in (shop.folder / "trail.jsonl").read_text()


def test_a_release_without_room_is_refused_with_the_figure_and_the_alias_goes_back(
    shop, monkeypatch
):
    first, second = shop.ids

    async def refused():
        async with running(shop) as replicas:
            monkeypatch.setattr(assembly, "available_bytes", lambda: 3 * 2**20)
            for _ in range(2):  # asked again, it is tried again
                status, answer = await send(replicas[0], shop.key, "POST", PROMOTE,
                                            {"release": second})
                assert (status, answer["error"]["code"]) == (409, "release_refused")
                message = answer["error"]["message"]
                assert f"of 2 replicas refused {second[:12]}, {ALIAS} means {first[:12]} as " \
                    "before: release" in message
                assert "3 MiB are available" in message
                assert shop.store.aliases()[ALIAS] == first
                assert [one.standing().release for one in replicas] == [first] * 2
            monkeypatch.undo()
            status, _ = await send(replicas[0], shop.key, "POST", PROMOTE, {"release": second})
            assert status == 200
            assert [one.standing().release for one in replicas] == [second] * 2

    asyncio.run(refused())
    assert [line["event"] for line in trail(shop)] == [
        "promote", "promote_undone", "promote", "promote_undone", "promote",
    ]


def test_a_refused_release_is_taken_back_though_whoever_asked_has_left(shop, monkeypatch):
    first, second = shop.ids
    monkeypatch.setattr(assembly, "available_bytes", lambda: 3 * 2**20)

    async def left():
        async with running(shop) as (replica, _):
            asking = asyncio.create_task(
                send(replica, shop.key, "POST", PROMOTE, {"release": second})
            )
            await until(lambda: shop.store.aliases()[ALIAS] == second)
            asking.cancel()
            await until(lambda: shop.store.aliases()[ALIAS] == first, seconds=10)

    asyncio.run(left())
    assert [line["event"] for line in trail(shop)] == ["promote", "promote_undone"]


def test_what_cannot_be_moved_is_refused_and_nothing_moves(shop):
    first, second = shop.ids
    broken = Path(shop.settings.store) / "releases" / second[:12] / "report.html"

    async def refused():
        async with running(shop, 1) as (replica,):
            async def code(path, body):
                status, answer = await send(replica, shop.key, "POST", path, body)
                assert shop.settings.store not in answer["error"]["message"]
                return status, answer["error"]["code"]

            assert await code(PROMOTE, {"release": "0" * 12}) == (404, "unknown_release")
            assert await code(PROMOTE, {"release": second[:2]}) == (404, "unknown_release")
            assert await code(ROLLBACK, {}) == (409, "alias_not_moved")
            assert await code(PROMOTE, {}) == (400, "invalid_request")
            assert await code(ROLLBACK, {"release": second}) == (400, "unknown_field")
            broken.write_text("another report")
            assert await code(PROMOTE, {"release": second}) == (409, "release_refused")
            reader = add_key(shop.folder / "keys.json", "acme", ["query", "observe"])
            for path in (PROMOTE, ROLLBACK):
                status, _ = await send(replica, reader, "POST", path, {"release": second})
                assert status == 403

    asyncio.run(refused())
    assert shop.store.aliases()[ALIAS] == first


def test_a_server_of_one_release_moves_nothing(shop):
    replica, _ = shop.replica(release=shop.ids[0])
    for path, body in ((PROMOTE, {"release": shop.ids[1]}), (ROLLBACK, {})):
        status, answer = asyncio.run(send(replica, shop.key, "POST", path, body))
        assert (status, answer["error"]["code"]) == (409, "no_alias")
    assert shop.store.aliases()[ALIAS] == shop.ids[0]


def test_replicas_that_do_not_come_in_time_are_counted_as_not_swapped(shop, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(assembly, "require_room", lambda *_: gate.wait(60))
    monkeypatch.setattr(administration, "WAIT_SECONDS", 0.2)

    async def late():
        async with running(shop) as replicas:
            body = {"release": shop.ids[1]}
            status, answer = await send(replicas[0], shop.key, "POST", PROMOTE, body)
            assert (status, answer["replicas"], answer["swapped"]) == (200, 2, 0)
            gate.set()
            await until(lambda: all(one.standing().release == shop.ids[1] for one in replicas))

    asyncio.run(late())


def test_a_promotion_does_not_happen_where_it_cannot_be_told(shop):
    replica, _ = shop.replica()
    path = shop.folder / "trail.jsonl"
    path.unlink()
    path.mkdir()
    status, answer = asyncio.run(send(replica, shop.key, "POST", PROMOTE,
                                      {"release": shop.ids[1]}))
    assert (status, answer["error"]["code"]) == (503, "trail_unavailable")
    assert shop.store.aliases()[ALIAS] == shop.ids[0]
