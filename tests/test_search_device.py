"""Threshold search by products on a device, against brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import IndexConfig
from pipeline.cuda import DeviceError
from pipeline.search.cuda import DeviceRows
from pipeline.search.gallery import open_gallery
from pipeline.search.index import build_index, open_index
from tests.search_world import (
    brute_distances,
    brute_order,
    make_gallery,
    tied_thresholds,
    unit_rows,
    with_ties,
)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32), dimension=st.sampled_from([2, 16, 67]),
    place=st.integers(0, 199), step=st.sampled_from([-1, 0, 1]),
    at_least=st.sampled_from([1, 2, 40, 500]), length=st.sampled_from([0.999, 1.0, 1.001]),
)  # fmt: skip
def test_a_look_leaves_out_no_row_that_the_answer_needs(
    seed, dimension, place, step, at_least, length
):
    rng = np.random.default_rng(seed)
    vectors = with_ties(rng, unit_rows(rng, 120, dimension))
    # The last ones are opposite: beyond -1 every distance is 2.
    queries = np.concatenate([vectors[:2], unit_rows(rng, 1, dimension), -vectors[5:7]])
    queries *= np.float32(length)
    true = [brute_distances(query, vectors) for query in queries]
    level = np.sort(true[0])[place]
    threshold = np.nextafter(level, np.float32(step * 4)) if step else level
    found = DeviceRows(vectors, "cpu").near(queries, threshold, at_least)
    for rows, distances in zip(found, true, strict=True):
        order = np.sort(distances)
        matches = np.count_nonzero(order <= threshold)
        last = order[min(max(matches + 1, at_least), len(vectors)) - 1]
        assert set(np.flatnonzero(distances <= last).tolist()) <= set(rows.tolist())


def test_distances_cut_off_at_two_are_ties_whatever_their_products():
    query = np.zeros((1, 8), np.float32)
    query[0, 0] = 1.001
    # Inner products from -1 to -1.0018: past -1 every distance is 2.
    vectors = np.zeros((600, 8), np.float32)
    vectors[:, 0] = -np.random.default_rng(6).uniform(0.999, 1.0008, 600)
    distances = brute_distances(query[0], vectors)
    assert (distances == 2).sum() > 300
    for threshold, at_least in ((1.5, 600), (np.nextafter(np.float32(2), np.float32(0)), 1)):
        (rows,) = DeviceRows(vectors, "cpu").near(query, np.float32(threshold), at_least)
        assert set(np.flatnonzero(distances == 2).tolist()) <= set(rows.tolist())


def test_a_look_at_few_matches_decides_about_few_rows():
    vectors = unit_rows(np.random.default_rng(0), 5000, 32)
    (rows,) = DeviceRows(vectors, "cpu").near(vectors[:1], np.float32(0.2), 1)
    assert 2 <= rows.size < 20


def test_a_device_that_is_not_there_is_refused_in_one_line(tmp_path):
    gallery = make_gallery()
    gallery.write(tmp_path)
    build_index(gallery, IndexConfig(kind="flat"), tmp_path)
    with pytest.raises(DeviceError, match=r"device 'cuda:99' cannot be used .*try 'cpu'"):
        open_index(tmp_path, open_gallery(tmp_path), device="cuda:99")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_an_index_on_a_gpu_finds_what_brute_force_finds(tmp_path, kind):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    gallery = make_gallery()
    gallery.write(tmp_path)
    build_index(gallery, IndexConfig(kind=kind, match_recall=0.5), tmp_path)
    index = open_index(tmp_path, open_gallery(tmp_path), device="cuda")
    for query in gallery.vectors[:: 200]:
        order = brute_order(gallery, "acme", query)
        for threshold in tied_thresholds(gallery, "acme", query):
            found = index.search("acme", query, threshold)
            assert found.proven
            assert found.match_count == sum(level <= float(threshold) for level, _, _ in order)
            head = order[: found.match_count + 1]
            assert found.rows.tolist() == [row for _, _, row in head]
            assert found.distances.tolist() == [level for level, _, _ in head]
