"""The recorder: a sampled share of the queries, every visible pair counted, some drawn."""

import numpy as np
import pytest

from pipeline.counting.operating import Grid
from pipeline.live.decisions import RecordsError, Verdict
from pipeline.live.evidence import reviewed_queries, volumes
from pipeline.live.population import draw_plan, live_counts, within_horizon
from pipeline.live.records import open_records
from serving.answers.recorder import Answered, Recorder
from tests.live_world import CUSTOMERS, calibrated, full_counts, queries

WORLD = calibrated()
ME = CUSTOMERS[3]


class Gallery:
    """Visible pairs by query: the first coordinate of an embedding is the query's row."""

    def __init__(self, pairs):
        # Rows come in no order of distance.
        self.shuffle = np.random.default_rng(8).permutation(pairs.distances.shape[1])
        self.distances = pairs.distances[:, self.shuffle]
        self.is_match = pairs.is_match[:, self.shuffle]
        self.asked = []

    def visible(self, customer, embedding, overlay):
        row = int(embedding[0])
        self.asked.append((customer, row))
        return np.arange(1000, 1000 + self.distances.shape[1]), self.distances[row]


@pytest.fixture
def records(url):
    opened = open_records(url)
    yield opened
    opened.close()


def recorder(records, gallery, *, rate, seed=0, release="r"):
    return Recorder(
        records, WORLD.plan, release=release, grid=WORLD.grid, rate=rate,
        visible=gallery.visible, item_id=lambda row, _: f"item-{row}",
        rng=np.random.default_rng(seed),
    )


def answered(n, prefix="q"):
    return [
        Answered(query_id=f"{prefix}{i}", customer=ME, embedding=np.array([i, 0], np.float32),
                 threshold=WORLD.threshold, match_count=2)
        for i in range(n)
    ]


def judge_all(records, gallery, release, prefix):
    """Give every drawn pair of ``release`` its true verdict."""
    verdicts = []
    for pair in records.reviews(100_000, None, release):
        row, item = int(pair.query_id[len(prefix):]), int(pair.item_id.removeprefix("item-"))
        assert np.float32(pair.distance) == gallery.distances[row, item - 1000]
        verdicts.append(
            Verdict(query_id=pair.query_id, item_id=pair.item_id, draw_id=pair.draw_id,
                    is_match=bool(gallery.is_match[row, item - 1000]))
        )
    records.add_verdicts(verdicts, None, at=0.0)


def test_a_recorded_query_has_all_its_visible_pairs_counted_and_its_draws_judged(records):
    pairs = queries(ME, 12, np.random.default_rng(1))
    gallery = Gallery(pairs)
    assert recorder(records, gallery, rate=1.0).record(answered(12), at=3.0) == [True] * 12
    assert gallery.asked == [(ME, i) for i in range(12)]
    judge_all(records, gallery, "r", "q")
    found = reviewed_queries(records.database, "r", window=99)
    truth = full_counts(pairs, WORLD.grid, ME, [f"q{i}" for i in range(12)])
    live = live_counts(found, WORLD.grid)
    np.testing.assert_array_equal(live.pairs.sum(axis=2), truth.pairs.sum(axis=2))
    # Far matches apart, nearly all lie within the horizon: 16 draws a query see many of them.
    assert 0.5 < live.totals()[0, 1] / within_horizon(truth).totals()[0, 1] < 2


def test_with_a_quarter_recorded_every_query_counts_four_times_and_the_mean_is_right(records):
    n, repeats = 40, 40
    pairs = queries(ME, n, np.random.default_rng(2))
    gallery = Gallery(pairs)
    estimates, recorded = [], 0
    for repeat in range(repeats):
        release, prefix = f"r{repeat}", f"{repeat}:"
        writer = recorder(records, gallery, rate=0.25, seed=repeat, release=release)
        kept = writer.record(answered(n, prefix), at=0.0)
        recorded += sum(kept)
        judge_all(records, gallery, release, prefix)
        found = reviewed_queries(records.database, release, window=99)
        assert {query.recorded_probability for query in found} == {0.25}
        assert volumes(records.database, release)[0].queries == 4 * sum(kept)
        estimates.append(live_counts(found, WORLD.grid).accepted()[0])
    chance = n * repeats * 0.25
    assert abs(recorded - chance) < 4 * np.sqrt(chance * 0.75)
    names = [f"{i}" for i in range(n)]
    truth = within_horizon(full_counts(pairs, WORLD.grid, ME, names)).accepted()[0]
    error = np.std(estimates, axis=0, ddof=1) / np.sqrt(repeats)
    assert (np.abs(np.mean(estimates, axis=0) - truth) <= 4 * error).all()


def test_ties_with_an_edge_count_on_the_match_side_and_nothing_visible_is_fine(records):
    grid = Grid(np.array([0.25, 0.5], np.float32))
    flat = np.zeros((1, 32, 2, 3))
    flat[0, :4] = 5.0
    plan = draw_plan(type(WORLD.baseline)(grid, (ME,), flat), np.float32(0.25))
    edges = np.array([0.5, 0.25, 0.25, 0.75], np.float32)
    seen = {0: edges, 1: edges[:0]}
    writer = Recorder(
        records, plan, release="r", grid=grid, rate=1.0,
        visible=lambda customer, e, _: (np.arange(seen[int(e[0])].size), seen[int(e[0])]),
        item_id=lambda row, _: str(row), rng=np.random.default_rng(0),
    )
    writer.record(answered(2), at=0.0)
    pairs = records.reviews(9, None, "r")
    assert [(pair.item_id, pair.distance) for pair in pairs] == [
        ("1", 0.25), ("2", 0.25), ("0", 0.5)  # row 3 lies beyond the horizon
    ]
    (empty,) = reviewed_queries(records.database, "r", window=9)
    assert (empty.query_id, empty.histogram.tolist()) == ("q1", [0, 0, 0])
    records.add_verdicts(
        [Verdict(query_id="q0", item_id=p.item_id, draw_id=p.draw_id, is_match=True)
         for p in pairs], ME, at=0.0,
    )
    full = reviewed_queries(records.database, "r", window=9)[0]
    assert full.histogram.tolist() == [2, 1, 1]
    assert sorted(full.positive_bins) == [0, 0, 1]
    assert full.positive_probabilities.tolist() == [1, 1, 1]


def test_nothing_is_recorded_at_rate_zero_and_the_gallery_is_not_even_asked(records):
    gallery = Gallery(queries(ME, 2, np.random.default_rng(0)))
    assert recorder(records, gallery, rate=0.0).record(answered(2), at=0.0) == [False, False]
    assert gallery.asked == []
    assert volumes(records.database, "r") == []


def test_a_request_with_a_known_query_id_is_recorded_not_at_all(records):
    gallery = Gallery(queries(ME, 2, np.random.default_rng(0)))
    writer = recorder(records, gallery, rate=1.0)
    writer.record(answered(1), at=0.0)
    with pytest.raises(RecordsError, match="query_id"):
        writer.record(list(reversed(answered(2))), at=0.0)
    assert {pair.query_id for pair in records.reviews(99, None, "r")} == {"q0"}


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_that_is_no_share_is_refused(records, rate):
    with pytest.raises(ValueError, match="rate: expected a share between 0 and 1"):
        recorder(records, Gallery(queries(ME, 1, np.random.default_rng(0))), rate=rate)
