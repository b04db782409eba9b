"""Several processes at the log of online changes: one order, nothing lost, nothing twice."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.item_log.changes import Accepted, RequestKey
from pipeline.live.decisions import RecordsUnavailableError
from tests.databases import rows
from tests.test_item_log import item, open_log, said

ROOT = Path(__file__).parent.parent

WRITER = """
import sys
from pipeline.item_log.changes import RequestKey
from tests.test_item_log import item, open_log
url, name, requests = sys.argv[1], sys.argv[2], int(sys.argv[3])
log = open_log(url)
for k in range(requests):
    accepted = log.put(name, [item(f"{k}-{i}", bytes(4000)) for i in range(3)], 0.0,
                       RequestKey(f"k{k}", "d"))
    print(k, accepted.own_number, flush=True)
"""

HALTED = """
import sys, time
from pipeline.item_log import log as module
from tests.test_item_log import item, open_log
def halt(*_):
    print("halted", flush=True)
    time.sleep(600)
log = open_log(sys.argv[1])
log.put("w", [item("kept")], 0.0)
module._empty_overtaken = halt  # after the rows are written, before the transaction ends
log.put("w", [item("kept"), item("lost")], 0.0)
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], text=True, stdout=subprocess.PIPE,
        cwd=ROOT,
    )


def kill(writer):
    os.kill(writer.pid, signal.SIGKILL)
    rest, _ = writer.communicate(timeout=60)
    assert writer.returncode == -signal.SIGKILL
    return [tuple(map(int, line.split())) for line in rest.splitlines(keepends=True)
            if line.endswith("\n")]


def test_processes_that_write_at_once_number_everything_once(url):
    writers = [start(WRITER, url, f"w{i}", 12) for i in range(3)]  # they also create it at once
    for writer in writers:
        writer.communicate(timeout=120)
    assert [writer.returncode for writer in writers] == [0] * 3
    changes = said(open_log(url))
    assert [change[0] for change in changes] == list(range(1, 109))
    for name in ("w0", "w1", "w2"):
        own = [change for change in changes if change[1] == name]
        assert [change[2] for change in own] == list(range(1, 37))
        # The changes of a request stand together.
        starts = [change[0] for change in own[::3]]
        assert [change[0] for change in own] == [s + i for s in starts for i in range(3)]


def test_whoever_has_read_up_to_a_number_has_read_everything_up_to_it(url):
    log = open_log(url)
    writers = [start(WRITER, url, f"w{i}", 15) for i in range(2)]
    seen, own, looks = [], 0, 0
    while len(seen) < 90:
        assert all(writer.poll() in (None, 0) for writer in writers)
        new = [change[0] for change in said(log, seen[-1] if seen else 0)]
        assert new == list(range(len(seen) + 1, len(seen) + 1 + len(new)))
        seen += new
        looks += bool(new)
        # The end of one customer never says more than is there to be read.
        end = log.end_of("w0").number
        assert end >= own
        assert len(said(log, 0, customer="w0")) >= end
        own = end
    for writer in writers:
        writer.communicate(timeout=60)
    assert looks > 1


@pytest.mark.parametrize("requests", [1, 23])
def test_a_process_killed_amid_its_puts_has_lost_none_and_left_no_half(url, requests):
    writer = start(WRITER, url, "w", 1_000_000)
    acknowledged = [tuple(map(int, writer.stdout.readline().split())) for _ in range(requests)]
    acknowledged += kill(writer)
    kept = rows(url, "SELECT request_key, count(*), max(own_number) FROM item_changes "
                     "GROUP BY request_key")
    assert {(f"k{k}", 3, number) for k, number in acknowledged} <= set(kept)
    assert len(acknowledged) <= len(kept) <= len(acknowledged) + 1
    assert {count for _, count, _ in kept} == {3}


def test_a_process_killed_between_two_statements_holds_nobody_up(url):
    log = open_log(url)
    writer = start(HALTED, url)
    assert writer.stdout.readline() == "halted\n"
    with pytest.raises(RecordsUnavailableError, match=r"locked|lock timeout"):
        log.put("other", [item("a")], 0.0)
    assert said(log) == [(1, "w", 1, "kept", True)]  # readers are not kept out
    kill(writer)
    deadline = time.monotonic() + 30  # the server has to notice that the client is gone
    while True:
        try:
            assert log.put("other", [item("a")], 0.0) == Accepted(1, 1)
            break
        except RecordsUnavailableError:
            assert time.monotonic() < deadline
    assert said(log) == [(1, "w", 1, "kept", True), (2, "other", 1, "a", True)]


def test_a_server_killed_amid_puts_has_lost_none_and_left_no_half(postgres):
    url = postgres.new_url()
    log, acknowledged, refused = open_log(url), [], []

    def write(name):
        own = open_log(url)
        for k in range(10_000):
            try:
                done = own.put(name, [item(f"{k}-{i}") for i in range(3)], 0.0,
                               RequestKey(f"{name} {k}", "d"))
                acknowledged.append((f"{name} {k}", 3, done.own_number))
            except RecordsUnavailableError as error:
                refused.append(str(error))
                return

    threads = [threading.Thread(target=write, args=(f"w{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 40:
        time.sleep(0.01)
    postgres.kill()
    for thread in threads:
        thread.join(60)
    assert len(refused) == 3
    assert not any("\n" in line for line in refused)
    with pytest.raises(RecordsUnavailableError):
        log.end_of("w0")
    postgres.start()
    kept = rows(url, "SELECT request_key, count(*), max(own_number) FROM item_changes "
                     "GROUP BY request_key")
    assert set(acknowledged) <= set(kept)
    assert len(kept) <= len(acknowledged) + 3
    assert {count for _, count, _ in kept} == {3}
    # What was open before goes on, with the next number.
    assert log.put("w0", [item("after")], 0.0).own_number == log.end_of("w0").number
    assert log.end().number == 3 * len(kept) + 1


def test_one_request_sent_many_times_at_once_happens_once(url):
    logs = [open_log(url) for _ in range(4)]
    for k in range(10):
        together = threading.Barrier(len(logs))

        def put(log, key=f"k{k}", together=together):
            together.wait(30)
            return log.put("acme", [item("a"), item("b")], 0.0, RequestKey(key, "d"))

        with ThreadPoolExecutor(len(logs)) as pool:
            answers = list(pool.map(put, logs))
        assert answers == [Accepted(2, 2 * k + 2)] * len(logs)
