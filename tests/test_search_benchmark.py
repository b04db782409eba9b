"""The search benchmark measures what it says: its truth, its shares, its figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.search.data import QUERIES, prepare, world
from benchmarks.search.engines import Trial, build, search_of
from benchmarks.search.growth import figure_of, measured
from pipeline.reports.plots_style import to_svg
from pipeline.search.gallery import open_gallery

ITEMS, DIMENSION = 3000, 16


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    folder: Path = tmp_path_factory.mktemp("trial")
    prepare(world(ITEMS + 2 * QUERIES, DIMENSION), folder)
    return Trial(folder)


def test_the_truth_is_that_of_brute_force(trial):
    queries = np.concatenate([trial.tuning, trial.scored]).astype(np.float64)
    distances = (1 - queries @ trial.vectors.astype(np.float64).T).astype(np.float32)
    for mine, row in zip(trial.truth, distances, strict=True):
        # Both sums are rounded to float32 once: an ulp apart at most.
        certain = np.abs(row - trial.threshold) > 1e-6
        np.testing.assert_array_equal(
            np.isin(np.arange(ITEMS), mine)[certain], (row <= trial.threshold)[certain]
        )
    assert sum(mine.size for mine in trial.truth) > 2 * QUERIES


def test_rows_in_a_file_are_the_rows_in_memory(tmp_path):
    np.testing.assert_array_equal(world(500, 8, tmp_path / "world.npy"), world(500, 8))


def test_a_search_that_leaves_matches_out_has_a_smaller_share(trial):
    truth = dict(zip(map(bytes, trial.scored), trial.truth[QUERIES:], strict=True))

    def whole(queries):
        return [truth[bytes(query)] for query in queries]

    assert trial.share(whole, scored=True) == 1.0
    # Of 1, 2, 3, ... matches the first is left out: the rest over all.
    every = sum(mine.size for mine in trial.truth[QUERIES:])
    some = sum(max(0, mine.size - 1) for mine in trial.truth[QUERIES:])
    found = trial.share(lambda queries: [rows[1:] for rows in whole(queries)], scored=True)
    assert found == pytest.approx(some / every)


def test_the_index_of_the_benchmark_reaches_its_target(trial):
    assert build(trial, "ivf")["build_s"] > 0
    search = search_of(trial, open_gallery(trial.folder), "ivf")
    assert trial.share(search, scored=False) >= 0.999


def test_all_rows_on_a_device_and_the_emulation_find_every_match(trial):
    faiss = pytest.importorskip("faiss.contrib.exhaustive_search")
    assert faiss
    from benchmarks.search.device import ours, theirs

    assert trial.share(ours(trial, "cpu:0"), scored=True) == 1.0
    # By its own float32 distances: a match at the very threshold may be missing.
    assert trial.share(theirs(trial), scored=True) > 0.999


@pytest.mark.slow
def test_growth_is_measured_and_drawn(tmp_path):
    sizes = [measured(tmp_path / str(size), size) for size in (500, 1000)]
    assert [one["items"] for one in sizes] == [500, 1000]
    assert all(one["vectors_mib"] == one["items"] * 512 / 2**20 for one in sizes)
    assert all(one["codes_mib"] == pytest.approx(one["vectors_mib"] / 4, rel=0.01) for one in sizes)
    drawn = to_svg(figure_of(sizes)).decode()
    assert "queries a second" in drawn
    assert "gallery, mapped" in drawn
