"""The comparison with other engines: its counting and its tuning, on tiny data, Limen alone."""

import numpy as np
import pytest

from benchmarks.engines import usage, worker
from benchmarks.engines.trial import TARGET, Trial, depths, share
from benchmarks.search import data


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    queries = data.QUERIES
    data.QUERIES = 30
    try:
        data.prepare(data.world(1560, 16), folder)
    finally:
        data.QUERIES = queries
    return Trial(folder)


def brute_force(trial, queries):
    """Row numbers within the threshold, by a product of the deciding distance's own precision."""
    levels = 1 - queries.astype(np.float64) @ trial.vectors.astype(np.float64).T
    return [np.flatnonzero(row.astype(np.float32) <= np.float32(trial.threshold))
            for row in levels]  # fmt: skip


class Stepped:
    """An engine whose effort is the share of the true matches that it gives."""

    def __init__(self, trial, ladders):
        self.trial, self.steps = trial, ladders

    def ladders(self):
        return self.steps

    def use(self, setting):
        self.setting = setting

    def search(self, queries):
        return [rows[: int(np.ceil(self.setting["part"] * rows.size))]
                for rows in brute_force(self.trial, queries)]  # fmt: skip


def test_the_true_matches_are_those_of_brute_force(trial):
    for queries, truth in ((trial.tuning, trial.tuning_truth), (trial.scored, trial.scored_truth)):
        for mine, rows in zip(truth, brute_force(trial, queries), strict=True):
            np.testing.assert_array_equal(np.sort(mine), rows)
    sizes = [rows.size for rows in (*trial.tuning_truth, *trial.scored_truth)]
    np.testing.assert_array_equal(trial.counts, sizes)
    assert np.mean(np.asarray(sizes) <= trial.k) >= 0.999


def test_a_share_counts_the_true_matches_that_are_found_and_nothing_else():
    # 3 of 4 true matches; the false row 9 adds nothing.
    truth = [np.array([1, 2, 3]), np.array([], np.int64), np.array([4])]
    found = iter([np.array([1, 3, 9]), np.array([9]), np.array([4])])
    queries = np.zeros((3, 2), np.float32)
    assert share(lambda some: [next(found) for _ in some], queries, truth) == 0.75
    assert share(lambda some: [np.array([7])] * len(some), queries[:1], [truth[1]]) == 1.0


@pytest.mark.parametrize("least", range(6))
def test_tuning_takes_the_least_effort_that_reaches_the_target(trial, least):
    ladder = [{"part": 1.0 if step >= least else 0.5, "step": step} for step in range(6)]
    assert trial.tuned(Stepped(trial, [ladder]))["step"] == least


def test_where_no_effort_reaches_the_target_the_most_complete_is_taken(trial):
    ladders = [[{"part": 0.2}, {"part": 0.5}], [{"part": 0.1}, {"part": 0.8}]]
    assert trial.tuned(Stepped(trial, ladders)) == {"part": 0.8}


def test_of_two_ways_only_one_that_reaches_the_target_is_taken(trial):
    assert trial.tuned(Stepped(trial, [[{"part": 0.9}], [{"part": 1.0}]])) == {"part": 1.0}


def test_depths_rise_from_the_least_to_the_most():
    assert depths(1, 6) == [1, 2, 3, 4, 5, 6]
    assert depths(64, 100) == [64, 80, 100]
    assert depths(5, 5) == [5]


def test_limen_built_by_the_worker_reaches_the_target_on_other_queries_too(trial):
    built = worker.build("limen", trial)
    report = worker.search("limen", trial)
    assert built["build_s"] > 0
    assert report["share"] >= TARGET - 0.01
    engine = worker.made("limen", trial)
    engine.open()
    for rows, truth in zip(engine.search(trial.scored), brute_force(trial, trial.scored),
                           strict=True):  # fmt: skip
        assert set(rows.tolist()) <= set(truth.tolist())


def test_memory_and_seconds_are_of_this_process():
    before = usage.memory([])
    held = np.ones(50_000_000 // 8)
    grown = usage.memory([])["own"] - before["own"]
    assert 0.9 * held.nbytes < grown < 1.3 * held.nbytes
    assert usage.seconds(usage.family([])) > 0
