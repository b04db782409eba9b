"""The log of online changes: what it keeps, in which order, and what it says twice."""

import pytest

from pipeline.item_log.changes import Accepted, Content, KeyReusedError, NewItem, RequestKey
from pipeline.item_log.log import KEYS_KEPT, ItemLog
from pipeline.live.database import Database
from tests.databases import rows


def open_log(url):
    return ItemLog(Database(url))


@pytest.fixture
def log(url):
    return open_log(url)


def item(item_id, data=b"\0\0\0\0", **fields):
    return NewItem(item_id=item_id, content=Content(kind="vector", data=data), **fields)


def said(log, number=0, **scope):
    return [(change.number, change.customer, change.own_number, change.item_id,
             change.content is not None) for change in log.since(number, **scope)]


def test_an_item_comes_back_as_it_was_put(log):
    content = Content(kind="embedding", data=bytes(range(256)), encoder="ab" * 32)
    metadata = {"name": "é\0\n", "price": 1.5, "none": None, "is": True}
    new = NewItem(item_id="x/ü", content=content, label="lamp", metadata=metadata)
    assert log.put("acme", [new, item("plain")], 7.0) == Accepted(2, 2)
    first, second = log.since(0)
    assert (first.customer, first.item_id, first.content) == ("acme", "x/ü", content)
    assert (first.label, first.metadata) == ("lamp", metadata)
    assert (second.label, second.metadata, second.content.encoder) == (None, None, None)


def test_changes_are_numbered_in_order_and_for_each_customer_apart(log):
    assert log.end().number == 0
    assert log.put("acme", [item("a"), item("b")], 0.0) == Accepted(2, 2)
    assert log.put("zeta", [item("a")], 0.0) == Accepted(1, 1)
    assert log.delete("acme", "a", 0.0, in_gallery=False) == Accepted(1, 3)
    assert said(log) == [(2, "acme", 2, "b", True), (3, "zeta", 1, "a", True),
                         (4, "acme", 3, "a", False)]
    assert said(log, 2) == [(3, "zeta", 1, "a", True), (4, "acme", 3, "a", False)]
    assert said(log, 0, customer="acme", own_number=2) == [(4, "acme", 3, "a", False)]
    assert said(log, 3, customer="acme") == [(4, "acme", 3, "a", False)]
    assert said(log, 0, customer="zeta") == [(3, "zeta", 1, "a", True)]
    assert log.end().number == 4
    ends = {name: log.end_of(name).number for name in ("acme", "zeta", "nobody")}
    assert ends == {"acme": 3, "zeta": 1, "nobody": 0}
    assert log.end_of("acme").log == log.end().log
    assert log.customers() == ["acme", "zeta"]


def test_what_there_is_to_delete_is_said_by_the_log_and_else_by_the_gallery(log):
    assert log.delete("acme", "x", 0.0, in_gallery=False) is None
    assert log.delete("acme", "x", 0.0, in_gallery=True) == Accepted(1, 1)
    assert log.delete("acme", "x", 0.0, in_gallery=True) is None
    log.put("acme", [item("x")], 0.0)
    assert log.delete("zeta", "x", 0.0, in_gallery=False) is None
    assert log.delete("acme", "x", 0.0, in_gallery=False) == Accepted(1, 3)


def test_the_same_request_again_changes_nothing_and_gets_the_same_answer(log):
    once, other = RequestKey("k", "d1"), RequestKey("k", "d2")
    assert log.answered("acme", once, 0.0) is None
    first = log.put("acme", [item("a"), item("b")], 0.0, once)
    log.put("acme", [item("c")], 0.0)
    assert log.put("acme", [item("a"), item("b")], 9.0, once) == first == Accepted(2, 2)
    assert log.answered("acme", once, 9.0) == first
    for again in (lambda: log.put("acme", [item("z")], 0.0, other),
                  lambda: log.delete("acme", "a", 0.0, in_gallery=True, request=other),
                  lambda: log.answered("acme", other, 0.0)):
        with pytest.raises(KeyReusedError, match="'k' came before with another request"):
            again()
    # Another customer's keys are its own.
    assert log.put("zeta", [item("z")], 0.0, other) == Accepted(1, 1)
    gone = RequestKey("g", "d3")
    deleted = log.delete("acme", "a", 0.0, in_gallery=False, request=gone)
    assert log.delete("acme", "a", 0.0, in_gallery=False, request=gone) == deleted
    assert log.end().number == 5


def test_a_request_is_known_again_for_a_day(log):
    once = RequestKey("k", "d")
    log.put("acme", [item("a")], 0.0, once)
    assert log.answered("acme", once, KEYS_KEPT - 1) == Accepted(1, 1)
    assert log.answered("acme", once, KEYS_KEPT) is None
    # The key is as good as new, for another request as well.
    assert log.put("acme", [item("a")], KEYS_KEPT, RequestKey("k", "e")) == Accepted(1, 2)


def contents(url):
    return rows(url, "SELECT number, item_id, content, label, metadata FROM item_changes "
                     "ORDER BY number")


def test_what_was_overtaken_keeps_no_content(url, log):
    for name in ("a", "b"):
        log.put("acme", [item(name, b"abcd", label="l", metadata={"m": 1})], 0.0)
    log.put("zeta", [item("a", b"efgh")], 0.0)
    log.put("acme", [item("a", b"ijkl")], 0.0)
    log.delete("acme", "b", 0.0, in_gallery=False)
    kept = {number: None if content is None else bytes(content)
            for number, _, content, *_ in contents(url)}
    assert kept == {1: None, 2: None, 3: b"efgh", 4: b"ijkl", 5: None}
    assert [(label, text) for *_, label, text in contents(url)] == [(None, None)] * 5


def test_trimming_takes_what_was_overtaken_and_nobody_can_tell(url, log):
    once = RequestKey("k", "d")
    for k in range(30):
        log.put("acme", [item("often"), item(f"once {k}")], float(k))
    log.delete("acme", "once 3", 30.0, in_gallery=False)
    log.put("zeta", [item("often")], 31.0)
    log.put("acme", [item("often"), item("late")], KEYS_KEPT, once)

    def told():
        return (
            [said(log, number) for number in range(0, 70, 7)],
            [said(log, 0, customer="acme", own_number=own) for own in range(0, 70, 7)],
            log.end(), [log.end_of(name) for name in ("acme", "zeta")], log.customers(),
            log.answered("acme", once, 2 * KEYS_KEPT - 1),
        )

    before = told()
    # Of the 30 puts of "often" and of "once 3", those of the first 15 seconds are old enough.
    assert log.trim(KEYS_KEPT + 14.0) == 15 + 1
    assert log.trim(KEYS_KEPT + 14.0) == 0
    assert told() == before
    assert log.trim(9 * KEYS_KEPT) == 15
    assert told()[:-1] == before[:-1]
    # One row for each item that was ever changed: 30 + "often" and "late", and one of zeta.
    assert len(contents(url)) == 33
    assert log.delete("acme", "once 3", 0.0, in_gallery=True) is None
    assert log.put("acme", [item("new")], 0.0) == Accepted(1, 64)
    assert log.end().number == 65


def test_a_log_keeps_its_identity_and_another_has_another(url, log, tmp_path):
    assert open_log(url).end() == log.end()
    other = open_log(f"sqlite:///{tmp_path / 'other.db'}")
    assert other.end().log != log.end().log
