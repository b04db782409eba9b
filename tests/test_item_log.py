"""The log of online changes: what it keeps, in which order, and what it says twice."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.item_log.changes import Accepted, Content, KeyReusedError, NewItem, RequestKey
from pipeline.item_log.log import ItemLog
from pipeline.live.database import Database
from pipeline.live.decisions import RecordsUnavailableError

ROOT = Path(__file__).parent.parent


def open_log(folder):
    return ItemLog(Database(f"sqlite:///{folder / 'records.db'}"))


@pytest.fixture
def log(tmp_path):
    return open_log(tmp_path)


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
    assert log.answered("acme", once) is None
    first = log.put("acme", [item("a"), item("b")], 0.0, once)
    log.put("acme", [item("c")], 0.0)
    assert log.put("acme", [item("a"), item("b")], 9.0, once) == first == Accepted(2, 2)
    assert log.answered("acme", once) == first
    for again in (lambda: log.put("acme", [item("z")], 0.0, other),
                  lambda: log.delete("acme", "a", 0.0, in_gallery=True, request=other),
                  lambda: log.answered("acme", other)):
        with pytest.raises(KeyReusedError, match="'k' came before with another request"):
            again()
    # Another customer's keys are its own.
    assert log.put("zeta", [item("z")], 0.0, other) == Accepted(1, 1)
    gone = RequestKey("g", "d3")
    deleted = log.delete("acme", "a", 0.0, in_gallery=False, request=gone)
    assert log.delete("acme", "a", 0.0, in_gallery=False, request=gone) == deleted
    assert log.end().number == 5


def test_a_log_keeps_its_identity_and_another_has_another(tmp_path, log):
    assert open_log(tmp_path).end() == log.end()
    (tmp_path / "other").mkdir()
    assert open_log(tmp_path / "other").end().log != log.end().log


def test_a_log_whose_file_is_gone_says_so_and_goes_on_when_it_is_back(tmp_path, log):
    log.put("acme", [item("a")], 0.0)
    assert log.end_of("acme").number == 1
    path = tmp_path / "records.db"
    path.rename(tmp_path / "away.db")
    with pytest.raises(RecordsUnavailableError, match=r"records\.db is gone"):
        log.end_of("acme")
    (tmp_path / "away.db").rename(path)
    assert log.end_of("acme").number == 1


def test_a_log_that_was_replaced_is_read_anew(tmp_path, log):
    log.put("acme", [item("a")], 0.0)
    before = log.end_of("acme")
    (tmp_path / "other").mkdir()
    other = open_log(tmp_path / "other")
    other.put("acme", [item("a"), item("b")], 0.0)
    copy = sqlite3.connect(tmp_path / "other" / "records.db")
    copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy.close()
    for name in ("records.db", "records.db-wal", "records.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "other" / "records.db").rename(tmp_path / "records.db")
    after = log.end_of("acme")
    assert (after.number, after.log != before.log) == (2, True)


def test_a_damaged_log_is_refused_and_read_again_once_it_is_whole(tmp_path, log):
    log.put("acme", [item("a")], 0.0)
    log.end_of("acme")
    plain = sqlite3.connect(tmp_path / "records.db")
    plain.execute("ALTER TABLE item_changes RENAME TO elsewhere")
    with pytest.raises(RecordsUnavailableError, match="no such table"):
        log.end_of("acme")
    plain.execute("ALTER TABLE elsewhere RENAME TO item_changes")
    plain.close()
    assert log.end_of("acme").number == 1


WRITER = """
import sys
from pipeline.item_log.changes import RequestKey
from tests.test_item_log import item, open_log
from pathlib import Path
folder, name, requests = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
log = open_log(folder)
for k in range(requests):
    accepted = log.put(name, [item(f"{k}-{i}", bytes(4000)) for i in range(3)], 0.0,
                       RequestKey(f"k{k}", "d"))
    print(k, accepted.own_number, flush=True)
"""


def start_writer(folder, name, requests):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(requests)], text=True,
        stdout=subprocess.PIPE, cwd=ROOT,
    )


def test_processes_that_write_at_once_number_everything_once(tmp_path):
    writers = [start_writer(tmp_path, f"w{i}", 12) for i in range(3)]
    for writer in writers:
        writer.communicate(timeout=120)
    changes = said(open_log(tmp_path))
    assert [change[0] for change in changes] == list(range(1, 109))
    for name in ("w0", "w1", "w2"):
        own = [change for change in changes if change[1] == name]
        assert [change[2] for change in own] == list(range(1, 37))
        # The changes of a request stand together.
        starts = [change[0] for change in own[::3]]
        assert [change[0] for change in own] == [s + i for s in starts for i in range(3)]


@pytest.mark.parametrize("requests", [1, 23])
def test_a_process_killed_amid_its_puts_has_lost_none_and_left_no_half(tmp_path, requests):
    writer = start_writer(tmp_path, "w", 1_000_000)
    acknowledged = [tuple(map(int, writer.stdout.readline().split())) for _ in range(requests)]
    os.kill(writer.pid, signal.SIGKILL)
    rest, _ = writer.communicate(timeout=60)
    acknowledged += [tuple(map(int, line.split())) for line in rest.splitlines(keepends=True)
                     if line.endswith("\n")]
    assert writer.returncode == -signal.SIGKILL
    # Read the file without this project's code.
    plain = sqlite3.connect(tmp_path / "records.db")
    kept = plain.execute(
        "SELECT request_key, count(*), max(own_number) FROM item_changes GROUP BY request_key"
    ).fetchall()
    plain.close()
    assert {(f"k{k}", 3, number) for k, number in acknowledged} <= set(kept)
    assert len(acknowledged) <= len(kept) <= len(acknowledged) + 1
    assert {count for _, count, _ in kept} == {3}
