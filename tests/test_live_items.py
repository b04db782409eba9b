"""Online changes on two replicas over one log, against a dictionary of items."""

import dataclasses
import logging
import sqlite3
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule

from pipeline.item_log.changes import Change, Content, LogEnd, NewItem
from pipeline.item_log.folded import write_folded
from pipeline.item_log.log import ItemLog
from pipeline.item_log.overlay import UNCHANGED
from pipeline.live.database import Database
from serving.answers.live_items import LiveItems
from serving.answers.retriever import Retriever
from serving.counters import Counters
from serving.responses import RefusedError
from tests.live_items_world import (
    CUSTOMERS,
    MODEL,
    Oracle,
    check,
    make_release,
    pairs,
    put_item,
    release_of,
    replica,
)
from tests.search_world import brute_distances, tied_thresholds, unit_rows


@pytest.fixture(scope="module", params=["flat", "ivf"])
def release(request, tmp_path_factory):
    return make_release(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def world(release, tmp_path):
    """Two replicas, their log, and the oracle."""
    replicas = [replica(release, tmp_path) for _ in range(2)]
    retriever, live = replicas[0]
    return SimpleNamespace(replicas=replicas, retriever=retriever, live=live, log=live.log,
                           gallery=retriever.gallery, oracle=Oracle(retriever.gallery))


def answer(retriever, live, customer, query, **fields):
    found, = retriever.answer(
        customer, query[None, :], exact=True, overlay=live.latest(customer), **fields
    )
    return found


class Replicas(RuleBasedStateMachine):
    """Puts, deletions, queries and pages in any order, on either of two replicas."""

    release = None

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.replicas = [replica(self.release, Path(self.folder.name)) for _ in range(2)]
        gallery = self.replicas[0][0].gallery
        self.gallery, self.oracle = gallery, Oracle(gallery)
        own = [gallery.item_id[row] for row in np.flatnonzero(gallery.customer == "acme")[:4]]
        self.ids = [*own, "new-a", "new-b", "~", "", "i00000x"]
        fresh = unit_rows(np.random.default_rng(5), 15, gallery.dimension)
        self.pool = np.concatenate([gallery.vectors[:26], fresh])

    def teardown(self):
        self.folder.cleanup()

    pages = Bundle("pages")
    replicas_ = st.integers(0, 1)
    customers = st.sampled_from(CUSTOMERS[:2])
    # Vectors of the gallery, others, and their near copies: ties and near-ties are common.
    vectors = st.tuples(st.integers(0, 40), st.sampled_from([-1, 0, 0, 1]))

    def vector(self, drawn):
        row, step = drawn
        vector = self.pool[row].copy()
        if step:
            vector[0] = np.nextafter(vector[0], np.float32(step * 2))
        return vector

    @rule(customer=customers, puts=st.dictionaries(st.integers(0, 8), vectors, min_size=1))
    def put(self, customer, puts):
        vectors = {self.ids[place]: self.vector(drawn) for place, drawn in puts.items()}
        new = [put_item(item_id, vector) for item_id, vector in vectors.items()]
        accepted = self.replicas[0][1].log.put(customer, new, 0.0)
        self.oracle.put(customer, vectors)
        assert accepted.own_number == self.oracle.numbers[customer]

    @rule(customer=customers, place=st.integers(0, 8), which=replicas_)
    def delete(self, customer, place, which):
        live, item_id = self.replicas[which][1], self.ids[place]
        there = live.is_in_gallery(customer, item_id)
        accepted = live.log.delete(customer, item_id, 0.0, in_gallery=there)
        assert (accepted is not None) == self.oracle.delete(customer, item_id)

    @rule(which=replicas_, customer=st.sampled_from(CUSTOMERS), drawn=vectors,
          place=st.integers(0, 14), limit=st.sampled_from([1, 5, 1000]))
    def ask(self, which, customer, drawn, place, limit):
        query = self.vector(drawn)
        order = self.oracle.order(customer, query)
        put = [entry for entry in order if entry[1] in self.ids]
        # Every other threshold lies beside an item that may have been put.
        order_of = put[place:] if place % 2 and put[place:] else order[place // 3 * 9 :]
        level = np.float32(order_of[0][0])
        level = np.nextafter(level, np.float32([-1, level, 3][place % 3]))
        threshold = max(level, np.float32(0))
        retriever, live = self.replicas[which]
        found = answer(retriever, live, customer, query, threshold=threshold, limit=limit)
        check(found, order, threshold, limit)
        rows, distances = retriever.visible_distances(customer, query, live.latest(customer))
        named = [retriever.item_id(int(row), live.latest(customer)) for row in rows]
        assert sorted(zip(distances.tolist(), named, strict=True)) == order

    @rule(target=pages, customer=customers, drawn=vectors, place=st.integers(3, 60))
    def open_pages(self, customer, drawn, place):
        query = self.vector(drawn)
        order = self.oracle.order(customer, query)
        put = [entry for entry in order if entry[1] in self.ids]
        # Every other time all that may have been put is within the threshold.
        threshold = np.float32(put[-1][0] if place % 2 and put else order[place][0])
        return customer, query, threshold, self.oracle.numbers[customer], None

    @rule(target=pages, page=consumes(pages), which=replicas_, limit=st.integers(1, 9))
    def turn_page(self, page, which, limit):
        customer, query, threshold, up_to, after = page
        retriever, live = self.replicas[which]
        found = answer(retriever, live, customer, query, threshold=threshold, limit=limit,
                       after=after, up_to=up_to)
        order = self.oracle.order(customer, query, up_to)
        check(found, order, threshold, limit, after and (float(after[0]), after[1]))
        if found.next_after is None:
            return multiple()
        return customer, query, threshold, up_to, found.next_after


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_replicas_answer_as_brute_force_over_the_changed_items(kind, tmp_path):
    machine = type("Machine", (Replicas,), {"release": make_release(tmp_path, kind)})
    machine.TestCase.settings = settings(
        max_examples=12, stateful_step_count=25, deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    machine.TestCase().runTest()


def test_an_answer_in_a_batch_equals_the_answer_alone_under_changes(world):
    rng = np.random.default_rng(3)
    own = np.flatnonzero(world.gallery.customer == "acme")
    put = {f"n{i}": world.gallery.vectors[row] for i, row in enumerate(own[:40])}
    world.log.put("acme", [put_item(name, vector) for name, vector in put.items()], 0.0)
    for row in own[40:90]:
        world.log.delete("acme", world.gallery.item_id[row], 0.0, in_gallery=True)
    overlay = world.live.latest("acme")
    queries = world.gallery.vectors[rng.permutation(len(world.gallery))[:48]]
    for size in (2, 7, 48):
        batch = world.retriever.answer("acme", queries[:size], limit=50, overlay=overlay)
        for query, one in zip(queries, batch, strict=False):
            alone, = world.retriever.answer("acme", query[None, :], limit=50, overlay=overlay)
            assert dataclasses.replace(one, query_index=0) == alone
    # The other replica embedded and folded for itself: equal bits.
    retriever, live = world.replicas[1]
    assert retriever.answer("acme", queries, overlay=live.latest("acme")) == (
        world.retriever.answer("acme", queries, overlay=overlay)
    )


def test_thresholds_on_and_beside_every_added_item_decide_as_brute_force_does(world):
    rng = np.random.default_rng(9)
    vectors = np.concatenate([unit_rows(rng, 12, world.gallery.dimension),
                              world.gallery.vectors[:6]])
    put = {f"{'i0' if k % 2 else 'z'}{k}": vector for k, vector in enumerate(vectors)}
    world.log.put("acme", [put_item(name, vector) for name, vector in put.items()], 0.0)
    world.oracle.put("acme", put)
    for query in (world.gallery.vectors[0], vectors[3]):
        order = world.oracle.order("acme", query)
        for level in {np.float32(distance) for distance, name in order if name in put}:
            for towards in (-1, level, 3):
                threshold = np.nextafter(level, np.float32(towards))
                if threshold >= 0:
                    found = answer(world.retriever, world.live, "acme", query,
                                   threshold=threshold, limit=1000)
                    check(found, order, threshold, 1000)


def test_of_many_added_items_every_one_that_decides_is_compared(world):
    rng = np.random.default_rng(10)
    row = world.gallery.vectors[0]
    crowd = unit_rows(rng, 380, world.gallery.dimension)
    # Copies, and copies moved by an ulp: near-ties around every threshold.
    moved = np.repeat(crowd[:40], 3, axis=0)
    moved[1::3, 0] = np.nextafter(moved[1::3, 0], np.float32(2))
    moved[2::3, 1] = np.nextafter(moved[2::3, 1], np.float32(-2))
    put = {f"m{k:03d}": vector for k, vector in enumerate(np.concatenate([crowd, moved]))}
    items = [put_item(name, vector) for name, vector in put.items()]
    world.log.put("acme", items, 0.0)
    world.oracle.put("acme", put)
    for k in range(0, 380, 9):
        world.log.delete("acme", f"m{k:03d}", 0.0, in_gallery=False)
        world.oracle.delete("acme", f"m{k:03d}")
    order = world.oracle.order("acme", row)
    levels = {np.float32(distance) for distance, name in order if name in put}
    for level in (*sorted(levels)[::9], np.float32(0), np.float32(2)):
        for towards in (-1, level, 3):
            threshold = np.nextafter(level, np.float32(towards))
            if 0 <= threshold <= 2:
                found = answer(world.retriever, world.live, "acme", row, threshold=threshold,
                               limit=1000)
                check(found, order, threshold, 1000)
    page = answer(world.retriever, world.live, "acme", row, threshold=np.float32(2), limit=1000,
                  up_to=300)
    check(page, world.oracle.order("acme", row, 300), np.float32(2), 1000)


def test_of_many_added_items_those_past_the_largest_distance_are_ties_and_match_there(world):
    rng = np.random.default_rng(11)
    query = world.gallery.vectors[0] * np.float32(1.0009 / np.linalg.norm(world.gallery.vectors[0]))
    # Products from -1.0018 to -1: every distance is 2, or just below it.
    lengths = rng.uniform(0.9992, 1.0009, (300, 1)) / np.linalg.norm(query)
    put = {f"m{k:03d}": row for k, row in enumerate((-query * lengths).astype(np.float32))}
    world.log.put("acme", [put_item(name, vector) for name, vector in put.items()], 0.0)
    world.oracle.put("acme", put)
    order = world.oracle.order("acme", query)
    assert sum(distance == 2 for distance, _ in order) > 100
    for threshold in (np.float32(2), np.nextafter(np.float32(2), np.float32(0)), np.float32(1.99)):
        found = answer(world.retriever, world.live, "acme", query, threshold=threshold, limit=1000)
        check(found, order, threshold, 1000)


def test_nearest_rejected_is_found_behind_any_number_of_deleted_items(world):
    query = world.gallery.vectors[np.flatnonzero(world.gallery.customer == "acme")[0]]
    while order := world.oracle.order("acme", query):
        own = [item_id for _, item_id in order if item_id not in world.oracle.shared]
        for item_id in own[:60]:
            assert world.log.delete("acme", item_id, 0.0, in_gallery=True)
            world.oracle.delete("acme", item_id)
        for threshold in tied_thresholds(world.gallery, None, query, (0, 3)):
            if threshold >= 0:
                order = world.oracle.order("acme", query)
                check(answer(world.retriever, world.live, "acme", query, threshold=threshold),
                      order, threshold, 10)
        if not own:
            break
    assert answer(world.retriever, world.live, "acme", query, threshold=np.float32(2),
                  limit=1000).match_count == len(world.oracle.shared)


def test_a_customer_sees_no_change_of_another_not_even_its_number(world):
    before = pairs(answer(world.retriever, world.live, "zeta", world.gallery.vectors[0]).matches)
    new = put_item("mine", world.gallery.vectors[0], metadata={"secret": 1})
    assert world.log.put("acme", [new] * 1, 0.0).own_number == 1
    assert world.live.latest("zeta").number == 0
    after = answer(world.retriever, world.live, "zeta", world.gallery.vectors[0])
    assert pairs(after.matches) == before
    assert world.log.put("zeta", [put_item("mine", world.gallery.vectors[1])], 0.0).own_number == 1


def test_added_items_have_metadata_and_an_id_of_their_own(world):
    vector = world.gallery.vectors[0]
    world.log.put("acme", [put_item("with", vector, metadata={"a": [1]}), put_item("w", vector)],
                  0.0)
    overlay = world.live.latest("acme")
    found, = world.retriever.answer("acme", vector[None, :], limit=1000, overlay=overlay)
    rows = {match.item_id: match.row for match in found.matches}
    assert world.retriever.metadata(rows["with"], overlay) == {"a": [1]}
    assert world.retriever.metadata(rows["w"], overlay) == {}
    assert world.retriever.metadata(0, overlay) == world.retriever.metadata(0)
    with pytest.raises(KeyError, match="change 99 added no item"):
        world.retriever.item_id(len(world.gallery) + 99, overlay)


def test_an_older_picture_stays_what_it_was(world):
    vectors = world.gallery.vectors
    world.log.put("acme", [put_item("a", vectors[0]), put_item("b", vectors[1])], 0.0)
    old = world.live.latest("acme")
    asked = world.retriever.answer("acme", vectors[:9], limit=1000, overlay=old)
    for step in range(40):
        world.log.put("acme", [put_item("a", vectors[step]), put_item(f"c{step}", vectors[2])],
                      0.0)
        world.live.latest("acme")
    world.log.delete("acme", "b", 0.0, in_gallery=False)
    assert world.live.latest("acme").number == 83
    assert world.retriever.answer("acme", vectors[:9], limit=1000, overlay=old) == asked


def test_pictures_grown_from_the_same_one_do_not_disturb_each_other(world):
    vectors = world.gallery.vectors

    def then(picture, number, name):
        change = Change(number=number, customer="acme", own_number=number, item_id=name,
                        content=None)
        return picture.then([(change, vectors[number])], LogEnd("l", number), world.gallery, None)

    first = then(UNCHANGED, 1, "first")
    grown = {name: then(first, number, name) for number, name in ((2, "left"), (3, "right"))}
    for number, name in ((2, "left"), (3, "right")):
        picture = grown[name]
        assert [picture.item_id(place) for place in picture.places] == ["first", name]
        np.testing.assert_array_equal(picture.known(), vectors[[1, number]])
    assert [first.item_id(place) for place in first.places] == ["first"]


def test_only_what_is_taken_away_makes_an_answer_stale(world):
    vector = world.gallery.vectors[0]
    world.log.put("acme", [put_item("a", vector)], 0.0)
    overlay = world.live.latest("acme")
    assert world.live.is_still(overlay, "acme")
    world.log.put("acme", [put_item("b", vector)], 0.0)
    world.log.delete("zeta", world.gallery.item_id[-1], 0.0, in_gallery=True)
    assert world.live.is_still(overlay, "acme")
    world.log.put("acme", [put_item("a", -vector)], 0.0)
    assert not world.live.is_still(overlay, "acme")
    later = world.live.latest("acme")
    world.log.delete("acme", "b", 0.0, in_gallery=False)
    assert not world.live.is_still(later, "acme")
    last = world.live.latest("acme")
    own = world.gallery.item_id[world.gallery.segments()["acme"].start]
    world.log.delete("acme", own, 0.0, in_gallery=True)
    assert not world.live.is_still(last, "acme")


@pytest.mark.parametrize(("content", "why"), [
    (Content(kind="embedding", data=bytes(24), encoder=MODEL), "all zero"),
    (Content(kind="embedding", data=bytes(20), encoder=MODEL), "5 coordinates; expected 6"),
    (Content(kind="embedding", data=np.eye(6, dtype="<f4")[0].tobytes(), encoder="x" * 64),
     "an embedding of another encoder"),
])
def test_what_a_release_cannot_show_is_set_aside_and_its_old_row_is_gone(
    release, tmp_path, caplog, content, why
):
    retriever = Retriever(release)
    log, counters = ItemLog(Database(f"sqlite:///{tmp_path / 'records.db'}")), Counters()
    live = LiveItems(log, retriever, counters)
    row = int(np.flatnonzero(retriever.gallery.customer == "acme")[0])
    item_id, vector = retriever.gallery.item_id[row], retriever.gallery.vectors[row]
    log.put("acme", [NewItem(item_id=item_id, content=content)], 0.0)
    with caplog.at_level(logging.WARNING):
        found = answer(retriever, live, "acme", vector, threshold=np.float32(2), limit=1000)
    assert item_id not in [match.item_id for match in found.matches]
    seen = sum(rows.stop - rows.start for rows in retriever.gallery.visible("acme"))
    assert found.match_count == seen - 1
    assert why in caplog.text
    assert counters.totals() == {("limen_changes_set_aside", ()): 1.0}


def test_an_id_that_a_later_release_shares_is_set_aside(world, caplog):
    shared = world.gallery.item_id[0]
    assert world.live.is_shared(shared)
    world.log.put("acme", [put_item(shared, world.gallery.vectors[9])], 0.0)
    found = answer(world.retriever, world.live, "acme", world.gallery.vectors[0],
                   threshold=np.float32(2), limit=1000)
    assert [match.item_id for match in found.matches].count(shared) == 1
    assert "shared item of the same id" in caplog.text


def test_a_replica_takes_up_a_log_that_was_replaced_or_set_back(release, tmp_path):
    retriever, live = replica(release, tmp_path)
    query = retriever.gallery.vectors[0]
    live.log.put("acme", [put_item("old", query)], 0.0)
    assert "old" in [m.item_id for m in answer(retriever, live, "acme", query).matches]
    for path in tmp_path.glob("records.db*"):
        path.unlink()
    with pytest.raises(RefusedError) as refused:
        live.latest("acme")
    assert (refused.value.status, refused.value.code) == (503, "changes_unavailable")
    assert str(tmp_path) not in str(refused.value)
    other = ItemLog(Database(f"sqlite:///{tmp_path / 'records.db'}"))
    other.put("acme", [put_item("new", query)], 0.0)
    found = [m.item_id for m in answer(retriever, live, "acme", query).matches]
    assert "new" in found
    assert "old" not in found


def test_a_replica_takes_up_an_older_copy_of_its_log(release, tmp_path):
    retriever, live = replica(release, tmp_path)
    query = retriever.gallery.vectors[0]
    live.log.put("acme", [put_item("kept", query)], 0.0)
    older, now = tmp_path / "older.db", tmp_path / "records.db"
    with sqlite3.connect(now) as source, sqlite3.connect(older) as copy:
        source.backup(copy)
    live.log.put("acme", [put_item("lost", query)], 0.0)
    both = {m.item_id for m in answer(retriever, live, "acme", query, limit=1000).matches}
    assert {"kept", "lost"} <= both
    for path in tmp_path.glob("records.db-*"):
        path.unlink()
    older.replace(now)
    left = {m.item_id for m in answer(retriever, live, "acme", query, limit=1000).matches}
    assert left == both - {"lost"}


def test_a_release_that_holds_changes_starts_behind_them(release, tmp_path):
    folder = tmp_path / "release"
    folder.mkdir()
    gallery = Retriever(release).gallery
    for path in release.folder.rglob("*"):
        if path.is_file():
            copy = folder / path.relative_to(release.folder)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    log = ItemLog(Database(f"sqlite:///{tmp_path / 'records.db'}"))
    log.put("acme", [put_item("folded", gallery.vectors[0])], 0.0)
    log.put("zeta", [put_item("folded", gallery.vectors[0])], 0.0)
    write_folded(folder, LogEnd(log.end().log, 2))
    retriever, live = replica(release_of(folder, gallery), tmp_path)
    live.warm()
    overlay = live.latest("acme")
    assert (overlay.number, overlay.is_empty) == (1, True)
    log.put("acme", [put_item("later", gallery.vectors[0])], 0.0)
    found = answer(retriever, live, "acme", gallery.vectors[0], limit=1000)
    ids = [match.item_id for match in found.matches]
    assert ("later" in ids, "folded" in ids) == (True, False)
    # Of another log nothing is held.
    write_folded(folder, LogEnd("another", 2))
    retriever, live = replica(release_of(folder, gallery), tmp_path)
    found = answer(retriever, live, "acme", gallery.vectors[0], limit=1000)
    assert "folded" in [match.item_id for match in found.matches]
    # A log that ends before what the release holds has lost changes.
    write_folded(folder, LogEnd(log.end().log, 9))
    _, live = replica(release_of(folder, gallery), tmp_path)
    with pytest.raises(RuntimeError, match="the log ends at change 3, the release holds 9"):
        live.warm()
    with pytest.raises(RefusedError, match="cannot be read now"):
        live.latest("acme")


def test_vectors_kept_ready_are_those_that_are_shown(world, monkeypatch):
    vectors = [world.gallery.vectors[3], world.gallery.vectors[4]]
    accepted = world.log.put("acme", [put_item("a", vectors[0]), put_item("b", vectors[1])], 0.0)
    world.live.keep_ready("acme", accepted.own_number, vectors)
    with monkeypatch.context() as patch:
        patch.setattr(world.live.embedder, "embed", None)  # there is nothing left to embed
        overlay = world.live.latest("acme")
    rows, distances = world.retriever.visible_distances("acme", vectors[0], overlay)
    named = {world.retriever.item_id(int(row), overlay): d
             for row, d in zip(rows, distances, strict=True)}
    expected = brute_distances(vectors[0], np.stack(vectors))
    assert [named["a"], named["b"]] == expected.tolist()
    # What was folded already is not kept.
    world.live.keep_ready("acme", accepted.own_number, vectors)
    assert world.live.latest("acme") is overlay
