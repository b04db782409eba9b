"""Several processes at the records: none loses what it was told is kept."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.live.decisions import RecordsUnavailableError, Verdict
from pipeline.live.evidence import marker, reviewed_queries, volumes
from pipeline.live.records import open_records
from tests.databases import rows
from tests.test_records import decision, drawn

WRITER = """
import sys
from pipeline.live.records import open_records
from tests.test_records import decision, drawn, verdict
url, name, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
records = open_records(url)
for k in range(n):
    query = f"{name}-{k}"
    records.record([decision(query, customer=name)], drawn(query))
    pairs = records.reviews(3, name, "r")
    assert [pair.query_id for pair in pairs] == [query] * 3
    records.add_verdicts([verdict(pair) for pair in pairs], name, at=0.0)
print("acknowledged", flush=True)
sys.stdin.read()
"""


def start_writer(url, name, n):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, name, str(n)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent,
    )


def test_several_processes_write_at_once_and_nothing_is_lost(url):
    writers = [start_writer(url, f"writer{i}", 8) for i in range(3)]  # they also create it at once
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0] * 3
    records = open_records(url)
    assert len(reviewed_queries(records.database, "r", window=99)) == 24
    assert marker(records.database, "r") == (24, 72)


def test_a_process_killed_right_after_its_verdicts_were_taken_has_lost_none(url):
    writer = start_writer(url, "w", 3)
    assert writer.stdout.readline() == "acknowledged\n"
    os.kill(writer.pid, signal.SIGKILL)
    assert writer.wait(timeout=30) == -signal.SIGKILL
    writer.stdin.close()
    writer.stdout.close()
    assert rows(url, "SELECT is_match, count(*) FROM verdicts GROUP BY is_match") == [(True, 9)]


def test_the_same_verdicts_said_many_times_at_once_are_kept_once(url):
    speakers = [open_records(url) for _ in range(4)]
    speakers[0].record([decision("q")], drawn("q", 40))
    for k in range(20):
        said = [Verdict(query_id="q", item_id=f"item-{i}", is_match=True, draw_id=draw)
                for i in (2 * k, 2 * k + 1) for draw in (f"q.{i}", None)]
        together = threading.Barrier(len(speakers))

        def say(records, said=said, together=together):
            together.wait(30)
            return records.add_verdicts(said, "a", at=0.0)

        with ThreadPoolExecutor(len(speakers)) as pool:
            assert sorted(pool.map(say, speakers)) == [0, 0, 0, 4]
    (volume,) = volumes(speakers[0].database, "r")
    assert (volume.drawn_verdicts, volume.volunteered_verdicts) == (40, 40)


def test_a_writer_that_waits_in_vain_for_the_lock_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.live.database._BUSY_TIMEOUT_MS", 50)
    records = open_records(f"sqlite:///{tmp_path / 'records.db'}")
    with records.database.write():
        with pytest.raises(RecordsUnavailableError, match="locked"):
            records.record([decision("q")], drawn("q"))
        # Readers are not kept out.
        assert records.reviews(9, None, "r") == []
    records.record([decision("q")], drawn("q"))
    assert len(records.reviews(9, None, "r")) == 3
