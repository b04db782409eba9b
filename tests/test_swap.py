"""Releases swapped while requests go on: no failure, no mixture, nothing left behind."""

import asyncio
import base64
import gc
import json
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.live.records import open_records
from pipeline.releases.store import Store
from serving import assembly
from serving.assembly import gauges_of, replica_of
from serving.counters import Counters
from serving.releases.engine import EngineError, open_engine
from serving.releases.engines import Engines
from serving.releases.following import REFUSED, SWAPS, Follower
from serving.settings import open_named
from tests.replica_world import ALIAS, Link, expected_matches, open_shop, send, until
from tests.serving_release import CUSTOMERS, make_world


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return open_shop(tmp_path_factory.mktemp("made"))


@pytest.fixture
def shop(made, tmp_path):
    return made.copy(tmp_path / "shop")


def engine_of(shop, name, counters=None):
    release = shop.store.open(name)
    records = open_records(shop.settings.records)
    return open_engine(release, shop.settings, records, counters or Counters())


def queries_of(shop):
    """Queries of both worlds, with what each release has to answer to them."""
    rows = [vectors[row] for world in shop.worlds.values() for vectors in (world.vectors,)
            for row in (0, 50, 51, 345)]
    return [
        ({"queries": [{"embedding": row.tolist()}], "limit": 1000},
         {id[:12]: expected_matches(world, row) for id, world in shop.worlds.items()})
        for row in rows
    ]


async def ask_until(stop, replica, shop, asked):
    """Ask one query after another; every answer has to be whole and of one release."""
    thresholds = {id[:12]: float(world.release.threshold) for id, world in shop.worlds.items()}
    answers = {release: 0 for release in thresholds}
    while not stop.is_set():
        for body, expected in asked:
            status, answer = await send(replica, shop.key, "POST", "/v1/query", body)
            assert status == 200, answer
            release = answer["release"]
            assert answer["threshold"]["value"] == thresholds[release]
            found = answer["results"][0]["matches"]
            assert [(m["distance"], m["item_id"]) for m in found] == expected[release]
            answers[release] += 1
    return answers


async def swap_under_load(shop, promotions):
    replica, _ = shop.replica(follow_seconds=0.005)
    store, stop = shop.store, threading.Event()

    async def promote():
        try:
            for number in range(promotions):
                meant = shop.ids[(number + 1) % 2]
                if number % 3 == 2:
                    await asyncio.to_thread(store.rollback, ALIAS)
                else:
                    await asyncio.to_thread(store.promote, ALIAS, meant)
                await until(lambda meant=meant: replica.standing().release == meant)
        finally:
            stop.set()

    asked = queries_of(shop)
    asking = [ask_until(stop, replica, shop, asked[place::2]) for place in range(2)]
    *counted, _ = await asyncio.gather(*asking, promote())
    assert replica.standing().refusal is None
    totals = replica.counters.totals()
    assert totals[SWAPS.name, ()] == promotions
    assert totals[REFUSED.name, ()] == 0
    for release in (id[:12] for id in shop.ids):
        assert sum(answers[release] for answers in counted) > 0
    return counted


def test_no_request_fails_and_no_answer_mixes_two_releases(shop):
    asyncio.run(swap_under_load(shop, 12))


@pytest.mark.long
def test_a_thousand_promotions_under_load_fail_no_request(shop):
    counted = asyncio.run(swap_under_load(shop, 1000))
    assert sum(sum(answers.values()) for answers in counted) > 1000


def test_a_request_keeps_its_engine_and_the_last_one_frees_it(shop):
    first, second = shop.ids
    engines = Engines(engine_of(shop, first))
    gone = weakref.ref(engines.current())
    gallery = str(Path(shop.settings.store) / "releases" / first[:12] / "gallery.npy")
    held = engines.current()
    gc.collect()
    gc.disable()  # counting references has to be enough
    try:
        engines.replace(engine_of(shop, second))
        query = shop.worlds[first].vectors[50]
        found = held.retriever.answer(CUSTOMERS[0], query[None, :], limit=1000)[0].matches
        assert [(float(m.distance), m.item_id) for m in found] == expected_matches(
            shop.worlds[first], query)
        assert gallery in Path("/proc/self/maps").read_text()
        del held
        assert gone() is None
        assert gallery not in Path("/proc/self/maps").read_text()
    finally:
        gc.enable()


def test_requests_over_and_over_leave_no_old_engine_behind(shop):
    replica, _ = shop.replica()
    engines = replica.front._api._engines
    gone = []

    async def swaps():
        for number in range(4):
            gone.append(weakref.ref(engines.current()))
            for body, _ in queries_of(shop)[:3]:
                assert (await send(replica, shop.key, "POST", "/v1/query", body))[0] == 200
            meant = shop.ids[(number + 1) % 2]
            shop.store.promote(ALIAS, meant)
            await until(lambda meant=meant: replica.standing().release == meant)

    asyncio.run(swaps())
    gc.collect()
    assert [ref() for ref in gone] == [None] * 4
    assert engines.current() is not None


def test_what_does_not_open_leaves_the_old_release_serving(shop, caplog):
    first, second = shop.ids
    alone = Link(gauges_of(replace(shop.settings, release=first)))  # it opens nothing more
    replica = replica_of(shop.settings, alone)
    shop.store.promote(ALIAS, second)
    asyncio.run(until(lambda: replica.standing().release == second))
    broken = Path(shop.settings.store) / "releases" / first[:12] / "counts.npz"
    whole = broken.read_bytes()
    opened = []

    def damaged(settings):
        opened.append(settings.release)
        broken.write_bytes(whole[:-1] + b"x")
        return open_named(settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "open_named", damaged)
        shop.store.promote(ALIAS, first)  # whole at that moment: what breaks it comes later
        asyncio.run(until(lambda: replica.standing().refusal is not None))
        asyncio.run(asyncio.sleep(0.5))  # it looks on, and does not try the same again
    assert opened == [first]
    standing = replica.standing()
    assert standing.release == second
    assert standing.refusal.release == first
    assert "counts.npz: sha256" in standing.refusal.why
    assert replica.counters.totals()[REFUSED.name, ()] == 1
    said = [record.message for record in caplog.records if record.name == "limen.swap"
            and record.levelname == "ERROR"]
    assert len(said) == 1
    assert said[0].startswith(f"release {first[:12]} refused, {second[:12]} stays: ")
    body, expected = queries_of(shop)[0]
    status, answer = asyncio.run(send(replica, shop.key, "POST", "/v1/query", body))
    assert (status, answer["release"]) == (200, second[:12])
    assert len(answer["results"][0]["matches"]) == len(expected[second[:12]])
    broken.write_bytes(whole)
    shop.store.rollback(ALIAS)  # back at what is served
    asyncio.run(until(lambda: replica.standing().refusal is None))
    shop.store.promote(ALIAS, first)
    asyncio.run(until(lambda: replica.standing().release == first))


def test_a_release_without_room_is_refused_with_both_figures(shop, monkeypatch):
    first, second = shop.ids
    replica, _ = shop.replica()
    monkeypatch.setattr(assembly, "available_bytes", lambda: 3 * 2**20)
    shop.store.promote(ALIAS, second)
    asyncio.run(until(lambda: replica.standing().refusal is not None))
    assert replica.standing().release == first
    assert f"release {second[:12]} needs" in replica.standing().refusal.why
    assert "MiB of memory beside what runs, 3 MiB are available" in replica.standing().refusal.why


def test_a_release_that_does_not_find_its_own_item_is_no_engine(shop, monkeypatch):
    from serving.answers.answering import Answering

    monkeypatch.setattr(Answering, "is_ready", lambda self: False)
    with pytest.raises(EngineError, match="does not find its own item"):
        engine_of(shop, shop.ids[0])


def test_another_dimension_is_served_and_old_embeddings_are_refused(shop, tmp_path):
    larger = make_world(tmp_path / "larger", size=3)
    shop.store.add(tmp_path / "larger")
    replica, _ = shop.replica()
    cursor_body = {"queries": [{"embedding": shop.worlds[shop.ids[0]].vectors[50].tolist()}],
                   "limit": 1}
    status, answer = asyncio.run(send(replica, shop.key, "POST", "/v1/query", cursor_body))
    assert status == 200
    cursor = answer["results"][0]["next_cursor"]
    shop.store.promote(ALIAS, larger.release.id)
    asyncio.run(until(lambda: replica.standing().release == larger.release.id))
    status, answer = asyncio.run(send(replica, shop.key, "POST", "/v1/query", cursor_body))
    assert status == 422
    assert answer["error"]["message"] == "queries.0.embedding: 12 coordinates; expected 27"
    image = base64.b64encode(larger.items.content[50]).decode()
    body = {"queries": [{"image": image}], "limit": 1000}
    status, answer = asyncio.run(send(replica, shop.key, "POST", "/v1/query", body))
    assert (status, answer["release"]) == (200, larger.release.id12)
    found = [(m["distance"], m["item_id"]) for m in answer["results"][0]["matches"]]
    assert found == expected_matches(larger, larger.vectors[50])
    old = {"queries": [{"image": image}], "limit": 1, "cursor": cursor}
    status, answer = asyncio.run(send(replica, shop.key, "POST", "/v1/query", old))
    assert (status, answer["error"]["code"]) == (409, "release_changed")


def test_an_id_and_a_folder_are_served_for_good(shop):
    first, second = shop.ids
    pinned, _ = shop.replica(release=first)
    in_place, _ = shop.replica(release=str(shop.folder / "first"))
    following, _ = shop.replica()
    shop.store.promote(ALIAS, second)
    asyncio.run(until(lambda: following.standing().release == second))
    assert pinned.standing().release == first
    assert in_place.standing().release == first


def test_the_monitor_shows_the_release_that_is_served(shop):
    _, link = shop.replica()
    shown = json.loads(link.gauges.consistency(None))
    assert shown["release"] == shop.ids[0][:12]
    shop.store.promote(ALIAS, shop.ids[1])

    def release():
        return json.loads(link.gauges.consistency(None))["release"]

    asyncio.run(until(lambda: release() == shop.ids[1][:12]))
    text = link.gauges.metrics().decode()
    assert f'limen_release_info{{release="{shop.ids[1][:12]}",rule="far_target 0.001"}} 1.0' in text
    assert shop.ids[0][:12] not in text


def test_an_alias_that_cannot_be_read_changes_nothing_and_is_said_once(shop, caplog):
    book = Path(shop.settings.store) / "aliases.json"
    whole, taken = book.read_bytes(), []
    store = Store(shop.settings.store)
    follower = Follower(lambda: store.aliases()[ALIAS], taken.append, served=shop.ids[0],
                        counters=Counters())
    for content in (b"{", b"{", None, None):
        if content is None:
            book.unlink(missing_ok=True)
        else:
            book.write_bytes(content)
        follower.look()
    assert len([r for r in caplog.records if "cannot be read" in r.message]) == 2
    book.write_bytes(whole)
    follower.look()
    assert taken == []
    shop.store.promote(ALIAS, shop.ids[1])
    follower.look()
    follower.look()
    assert taken == [shop.ids[1]]
