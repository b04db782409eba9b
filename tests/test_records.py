"""Records: what was acknowledged is kept, all or nothing, whoever else is writing."""

import dataclasses

import numpy as np
import pytest

from pipeline.counting.operating import bucket_of
from pipeline.live.decisions import (
    ContradictoryVerdictError,
    Decision,
    Draw,
    RecordsError,
    RecordsUnavailableError,
    UnknownPairError,
    Verdict,
)
from pipeline.live.evidence import marker, reviewed_queries, volumes
from pipeline.live.records import open_records, review_rank, without_password

BINS = 5


def decision(query_id, customer="a", release="r", at=0.0, probability=1.0):
    return Decision(
        query_id=query_id, release=release, customer=customer, at=at,
        recorded_probability=probability, threshold=0.5, match_count=1,
        histogram=np.array([1, 0, 2, 70_000, 4_000_000_000], np.uint32),
    )


def drawn(query_id, n=3):
    return [
        Draw(draw_id=f"{query_id}.{k}", query_id=query_id, item_id=f"item-{k}",
             distance=0.1 * k, bin=k, probability=0.5)
        for k in range(n)
    ]


def verdict(review, is_match=True):
    return Verdict(query_id=review.query_id, item_id=review.item_id, is_match=is_match,
                   draw_id=review.draw_id)


@pytest.fixture
def records(url):
    opened = open_records(url)
    yield opened
    opened.close()


def record(records, *query_ids, n=3, **facts):
    draws = [draw for query_id in query_ids for draw in drawn(query_id, n)]
    records.record([decision(query_id, **facts) for query_id in query_ids], draws)


def test_a_query_counts_once_all_its_draws_have_verdicts(records):
    record(records, "q")
    pairs = records.reviews(10, None, "r")
    assert [pair.item_id for pair in pairs] == ["item-0", "item-1", "item-2"]
    records.add_verdicts([verdict(pairs[0]), verdict(pairs[1], False)], None, at=1.0)
    assert reviewed_queries(records.database, "r", window=9) == []
    records.add_verdicts([verdict(pairs[2])], None, at=2.0)
    (query,) = reviewed_queries(records.database, "r", window=9)
    np.testing.assert_array_equal(query.histogram, decision("q").histogram)
    np.testing.assert_array_equal(query.positive_bins, [0, 2])
    np.testing.assert_array_equal(query.positive_probabilities, [0.5, 0.5])
    assert records.reviews(10, None, "r") == []
    assert reviewed_queries(records.database, "another release", window=9) == []


def test_a_query_from_which_nothing_was_drawn_counts_as_reviewed(records):
    record(records, "q", n=0)
    (query,) = reviewed_queries(records.database, "r", window=9)
    assert query.positive_bins.size == 0


def test_only_the_latest_queries_of_each_customer_are_in_the_window(records):
    for k in range(5):
        record(records, f"a{k}", n=0, at=float(k))
        record(records, f"b{k}", n=0, customer="b", at=float(-k))
    found = reviewed_queries(records.database, "r", window=2)
    assert [query.query_id for query in found] == ["a3", "a4", "b1", "b0"]


def test_reviews_go_whole_query_by_whole_query_in_hash_order_in_turn_over_customers(records):
    names = [f"q{k}" for k in range(6)]
    record(records, *names)
    record(records, "z", customer="b")
    first, second, *_ = sorted(names, key=review_rank)
    pairs = records.reviews(9, None, "r")
    assert [pair.query_id for pair in pairs] == [first] * 3 + ["z"] * 3 + [second] * 3
    assert [pair.query_id for pair in records.reviews(99, "b", "r")] == ["z"] * 3
    assert records.reviews(99, "nobody", "r") == []
    assert records.reviews(0, None, "r") == records.reviews(-1, None, "r") == []


def test_a_query_cut_short_by_the_budget_is_completed_by_the_next_call(records):
    record(records, "q0", "q1")
    first = records.reviews(2, None, "r")
    records.add_verdicts([verdict(pair) for pair in first], None, at=0.0)
    rest = records.reviews(1, None, "r")
    assert [pair.query_id for pair in first + rest] == [first[0].query_id] * 3


def test_the_queries_reviewed_first_are_spread_over_the_buckets():
    names = sorted((f"query-{k}" for k in range(2000)), key=review_rank)[:64]
    # 64 balls in 32 boxes: 27.8 boxes are hit in the mean, fewer than 22 once in 20,000.
    assert len(set(bucket_of(names).tolist())) >= 22


def test_the_same_verdict_again_changes_nothing(records):
    record(records, "q")
    pair = records.reviews(1, None, "r")[0]
    assert records.add_verdicts([verdict(pair), verdict(pair)], "a", at=0.0) == 1
    assert records.add_verdicts([verdict(pair)], "a", at=5.0) == 0
    free = Verdict(query_id="q", item_id="else", is_match=False)
    assert records.add_verdicts([free, free], "a", at=6.0) == 1
    assert records.add_verdicts([free], "a", at=7.0) == 0
    (volume,) = volumes(records.database, "r")
    assert (volume.drawn_verdicts, volume.volunteered_verdicts) == (1, 1)


def test_a_contradiction_of_a_drawn_verdict_is_refused_with_its_whole_batch(records):
    record(records, "q")
    first, second, _ = records.reviews(3, None, "r")
    records.add_verdicts([verdict(first)], None, at=0.0)
    with pytest.raises(ContradictoryVerdictError, match=r"verdict 1: .*is_match = True") as refused:
        records.add_verdicts([verdict(second), verdict(first, False)], None, at=1.0)
    assert refused.value.index == 1
    assert len(records.reviews(9, None, "r")) == 2
    with pytest.raises(ContradictoryVerdictError, match="verdict 1"):
        records.add_verdicts([verdict(second), verdict(second, False)], None, at=1.0)
    assert len(records.reviews(9, None, "r")) == 2


@pytest.mark.parametrize(
    ("change", "customer"),
    [
        ({"query_id": "nowhere"}, None),
        ({"draw_id": "nowhere"}, None),
        ({"item_id": "item-2"}, None),
        ({"query_id": "other"}, None),
        ({}, "b"),
        ({"draw_id": None}, "b"),
    ],
)
def test_a_verdict_on_an_unknown_pair_or_on_anothers_query_is_refused(records, change, customer):
    record(records, "q")
    record(records, "other", n=0)
    good = records.reviews(9, None, "r")[0]
    wrong = dataclasses.replace(verdict(good), **change)
    with pytest.raises(UnknownPairError, match="verdict 0: "):
        records.add_verdicts([wrong, verdict(good)], customer, at=0.0)
    assert volumes(records.database, "r")[0].drawn_verdicts == 0


def test_another_customers_query_is_refused_in_the_words_of_one_that_is_not_there(records):
    record(records, "q")
    said = []
    for name in ("q", "p"):
        with pytest.raises(UnknownPairError) as refused:
            records.add_verdicts([Verdict(query_id=name, item_id="i", is_match=True)], "b", 0.0)
        said.append(str(refused.value).replace(f"'{name}'", "''"))
    assert said[0] == said[1]


def test_a_query_is_recorded_once_and_what_comes_with_it_is_all_or_nothing(records):
    record(records, "q")
    with pytest.raises(RecordsError, match=r"decisions\.query_id|decisions_pkey"):
        record(records, "new", "q")
    assert {pair.query_id for pair in records.reviews(99, None, "r")} == {"q"}
    records.record([], [])
    assert marker(records.database, "r") == (1, 0)


def test_served_queries_are_estimated_from_the_recorded_share(records):
    record(records, "q0", "q1", probability=0.25)
    record(records, "q2", probability=0.5)
    (volume,) = volumes(records.database, "r")
    assert (volume.queries, volume.recorded) == (4 + 4 + 2, 3)


def test_sqlite_writes_through_to_the_disk_and_keeps_a_log_ahead(tmp_path):
    records = open_records(f"sqlite:///{tmp_path / 'records.db'}")
    with records.database.read() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]  # 2: FULL, every commit is synchronised


@pytest.mark.parametrize(("url", "shown"), [
    ("postgresql://u:SECRET@host:5432/limen", "postgresql://u:***@host:5432/limen"),
    ("sqlite:////var/records.db", "sqlite:////var/records.db"),
])
def test_a_url_is_shown_without_its_password(url, shown):
    assert without_password(url) == shown


def test_records_that_cannot_be_opened_say_why_in_one_line(tmp_path):
    with pytest.raises(RecordsUnavailableError, match="no such folder"):
        open_records(f"sqlite:///{tmp_path / 'nowhere' / 'records.db'}")
    with pytest.raises(RecordsError, match="expected a URL such as sqlite"):
        open_records("records.db")
    (tmp_path / "text.db").write_text("this is no database, whatever its name may say" * 40)
    with pytest.raises(RecordsError, match="not a database"):
        open_records(f"sqlite:///{tmp_path / 'text.db'}")
    with pytest.raises(RecordsError, match="'mysql' is no database that is known here; expected"):
        open_records("mysql://host/limen")


def test_customers_come_in_the_order_of_their_code_points_on_every_database(records):
    names = ["b", "a", "B", "A", "_", "é", "Zo\u0308", "Zö", "a-b", "ab"]
    for name in names:
        record(records, f"q of {name}", customer=name, n=1)
    assert [volume.customer for volume in volumes(records.database, "r")] == sorted(names)
    assert [query.customer for query in records.reviews(99, None, "r")] == sorted(names)
