"""The log in an SQLite file that goes away, comes back, is replaced or damaged."""

import sqlite3

import pytest

from pipeline.live.decisions import RecordsUnavailableError
from tests import test_item_log
from tests.test_item_log import item


def open_log(folder):
    return test_item_log.open_log(f"sqlite:///{folder / 'records.db'}")


@pytest.fixture
def log(tmp_path):
    return open_log(tmp_path)


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
