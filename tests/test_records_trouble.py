"""A database in trouble: said at once, and nothing that was acknowledged is lost."""

import pytest

from pipeline.live.decisions import RecordsUnavailableError
from pipeline.live.records import open_records
from tests.test_records import decision, drawn


def _queries(records):
    return {review.query_id for review in records.reviews(99, None, "r")}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.db"


@pytest.fixture
def records(path):
    opened = open_records(f"sqlite:///{path}")
    opened.record([decision("kept")], drawn("kept"))
    yield opened
    opened.close()


def test_a_deleted_file_takes_no_further_write_and_no_empty_one_takes_its_place(records, path):
    path.unlink()
    for _ in range(3):
        with pytest.raises(RecordsUnavailableError, match=r"records\.db is gone; put it back"):
            records.record([decision("lost")], drawn("lost"))
        with pytest.raises(RecordsUnavailableError, match="is gone"):
            records.reviews(9, None, "r")
    assert not path.exists()


def test_a_file_that_was_put_back_is_used_again(records, path):
    away = path.with_name("away")
    path.rename(away)
    with pytest.raises(RecordsUnavailableError):
        records.record([decision("lost")], drawn("lost"))
    away.rename(path)
    records.record([decision("later")], drawn("later"))
    assert _queries(records) == {"kept", "later"}


def test_a_file_put_in_its_place_is_the_one_that_is_written(records, path):
    other = open_records(f"sqlite:///{path.with_name('other.db')}")
    other.close()
    path.with_name("other.db").replace(path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    records.record([decision("new")], drawn("new"))
    again = open_records(f"sqlite:///{path}")
    assert _queries(again) == {"new"}
    again.close()


def test_a_damaged_file_is_unavailable_not_a_fault(records, path):
    records.close()
    path.write_bytes(b"garbage!" * 2000)
    with pytest.raises(RecordsUnavailableError, match="not a database"):
        records.record([decision("q")], drawn("q"))
