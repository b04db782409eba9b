"""The shadow release: flips counted as brute force counts them, and answers left alone."""

import asyncio
import base64
import threading

import numpy as np
import pytest

from pipeline.live.records import open_records
from pipeline.releases.store import StoreError
from serving.counters import Counters
from serving.releases.engine import open_engine
from serving.releases.engines import Engines
from serving.releases.shadow import FLIPS, QUERIES, SKIPPED, Shadow
from serving.schema.bodies import Query, QueryRequest
from tests.replica_world import expected_matches, open_shop, send
from tests.serving_release import CUSTOMERS, make_world

WHO = CUSTOMERS[0]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return open_shop(tmp_path_factory.mktemp("shadow"))


def engine_of(shop, release):
    records = open_records(shop.settings.records)
    return open_engine(release, shop.settings, records, Counters())


def asked(rows, **fields):
    return QueryRequest(
        queries=[Query(embedding=row.tolist()) for row in rows], **fields
    )


def compared(shop, shadow_release, request, *, customer=WHO):
    """Totals after one request was offered to a shadow of ``shadow_release``."""
    counters = Counters()
    shadow = Shadow(Engines(engine_of(shop, shadow_release)), counters, share=1.0)
    shadow.offer(engine_of(shop, shop.store.open(shop.ids[0])), customer, request)
    shadow.finish()
    return counters.totals()


def test_flips_are_those_of_brute_force(shop):
    first, second = shop.worlds.values()
    rows = np.concatenate([first.vectors[40:60], second.vectors[40:60]])
    totals = compared(shop, second.release, asked(rows))
    accepted = rejected = 0
    for row in rows:
        ours = {item for _, item in expected_matches(first, row)}
        theirs = {item for _, item in expected_matches(second, row)}
        accepted += len(theirs - ours)  # both galleries hold the same ids
        rejected += len(ours - theirs)
    pair = (first.release.id12, second.release.id12)
    assert accepted > 0
    assert rejected > 0
    assert totals[FLIPS.name, (*pair, WHO, "accepted")] == accepted
    assert totals[FLIPS.name, (*pair, WHO, "rejected")] == rejected
    assert totals[QUERIES.name, pair] == 40


def test_an_item_that_one_gallery_lacks_is_no_flip(shop, tmp_path):
    first = next(iter(shop.worlds.values()))
    fewer = make_world(tmp_path / "fewer", own=20)  # the same images as far as they go
    rows = first.vectors[300:340]
    totals = compared(shop, fewer.release, asked(rows))
    there = set(fewer.items.item_id[fewer.rows_of(WHO)])
    flips = gone = 0
    for row in rows:
        ours = {item for _, item in expected_matches(first, row)}
        theirs = {item for _, item in expected_matches(fewer, row)}
        gone += len(ours - there)
        flips += len((ours & there) ^ theirs)
    assert gone > 0
    counted = sum(value for (name, _), value in totals.items() if name == FLIPS.name)
    assert counted == flips


def test_embeddings_of_another_network_are_skipped_and_images_are_not(shop, tmp_path):
    larger = make_world(tmp_path / "larger", size=3)
    first = next(iter(shop.worlds.values()))
    image = base64.b64encode(first.items.content[50]).decode()
    request = QueryRequest(queries=[
        Query(embedding=first.vectors[50].tolist()), Query(image=image), Query(image=image),
    ])
    totals = compared(shop, larger.release, request)
    assert totals[SKIPPED.name, ("space",)] == 1
    assert totals[QUERIES.name, (first.release.id12, larger.release.id12)] == 2


def test_pages_overrides_and_the_release_itself_are_no_comparison(shop):
    first, second = shop.worlds.values()
    rows = first.vectors[:1]
    assert compared(shop, second.release, asked(rows, threshold=0.1)) == {}
    assert compared(shop, second.release, asked(rows, cursor="x")) == {}
    assert compared(shop, first.release, asked(rows)) == {}


def test_a_share_is_drawn_and_what_finds_no_place_is_dropped_and_counted(shop, monkeypatch):
    first, second = shop.worlds.values()
    draws = iter([0.0, 0.25, 0.49, 0.5, 0.9] * 20)
    counters = Counters()
    shadow = Shadow(Engines(engine_of(shop, second.release)), counters, share=0.5,
                    draw=lambda: next(draws))
    engine = engine_of(shop, first.release)
    waiting = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(Shadow, "_compare", lambda self, *_: waiting.wait(60))
        for _ in range(100):
            shadow.offer(engine, WHO, asked(first.vectors[:2]))
        waiting.set()
        shadow.finish()
    # 60 drawn; 32 find a place, and one more may have been taken up at once.
    assert counters.totals()[SKIPPED.name, ("full",)] in (2 * (60 - 32), 2 * (60 - 33))


def test_a_server_answers_as_without_a_shadow_and_shows_the_flips(shop):
    plain, _ = shop.replica()
    shadowed, link = shop.replica(shadow=shop.ids[1], shadow_share=1.0)
    first, second = shop.worlds.values()
    flips = 0
    for row in (50, 51, 345):
        vector = first.vectors[row]
        body = {"queries": [{"embedding": vector.tolist()}], "limit": 1000}
        answers = [asyncio.run(send(one, shop.key, "POST", "/v1/query", body))
                   for one in (plain, shadowed)]
        for status, answer in answers:
            assert status == 200
            answer["results"][0].pop("query_id")
        assert answers[0] == answers[1]
        flips += len({item for _, item in expected_matches(first, vector)}
                     ^ {item for _, item in expected_matches(second, vector)})
    shadowed.front._api._shadow.finish()
    link.gauges.replicas.report(shadowed.report())
    lines = link.gauges.metrics().decode().splitlines()
    shown = [line for line in lines if line.startswith("limen_shadow_flips_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in shown) == flips > 0
    assert all(f'shadow="{shop.ids[1][:12]}"' in line for line in shown)


def test_a_shadow_that_is_no_release_ends_the_start(shop):
    with pytest.raises(StoreError, match="no alias or release 'candidate'"):
        shop.replica(shadow="candidate")
