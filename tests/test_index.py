"""Every search path against brute force, hit by hit."""

import itertools
import json

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import IndexConfig
from pipeline.search.gallery import build_gallery, open_gallery
from pipeline.search.index import IVF_FROM, SearchIndexError, build_index, open_index
from pipeline.search.lists import Lists, cluster, list_angles
from tests.search_world import (
    brute_distances,
    brute_order,
    clustered,
    make_gallery,
    make_items,
    tied_thresholds,
    unit_rows,
)

MANY = 1024
MEASURED_TO = 0.5
CUSTOMERS = (None, "acme", "zeta", "tiny", "nobody")


def opened(folder, gallery, *, kind="auto", recall=0.999, **options):
    gallery.write(folder)
    build_index(gallery, IndexConfig(kind=kind, match_recall=recall), folder, **options)
    return open_index(folder, open_gallery(folder))


def facts(folder):
    return json.loads((folder / "index" / "index.json").read_text())["segments"]


def one_segment(vectors, seed=0):
    rng = np.random.default_rng(seed)
    return build_gallery(vectors, make_items(["acme"] * len(vectors), vectors, rng))


def queries_of(gallery, seed=1):
    """Items of the gallery, rows next to them, and directions of their own."""
    rng = np.random.default_rng(seed)
    rows = gallery.vectors[rng.choice(len(gallery), 3, replace=False)]
    near = rows.astype(np.float64) + 0.05 * rng.standard_normal(rows.shape)
    near = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    return np.concatenate([rows, near, unit_rows(rng, 2, gallery.dimension)])


def assert_is(found, order, threshold, at_least):
    """``found`` is the head of ``order``: all matches, one more, at least so many; bit by bit."""
    matches = sum(distance <= float(threshold) for distance, _, _ in order)
    expected = order[: max(matches + 1, at_least)]
    assert found.match_count == matches
    assert found.rows.tolist() == [row for _, _, row in expected]
    assert found.distances.dtype == np.float32
    assert found.distances.tolist() == [distance for distance, _, _ in expected]


@pytest.fixture(scope="module")
def gallery():
    return make_gallery()


@pytest.fixture(scope="module")
def flat(gallery, tmp_path_factory):
    return opened(tmp_path_factory.mktemp("flat"), gallery, kind="flat")


@pytest.fixture(scope="module")
def ivf(gallery, tmp_path_factory):
    # A low target leaves most lists unprobed, so that what is missed is much.
    return opened(tmp_path_factory.mktemp("ivf"), gallery, kind="ivf", recall=0.5,
                  horizon=MEASURED_TO)


def test_the_world_has_the_ties_that_the_tests_are_about(gallery):
    steps = []
    for query in queries_of(gallery):
        order = brute_order(gallery, "acme", query)
        levels = np.asarray([distance for distance, _, _ in order], np.float32)
        assert (np.diff(levels) == 0).sum() > 50
        steps.append((levels[1:] == np.nextafter(levels[:-1], np.float32(3))).sum())
    assert sum(steps) > 50


@pytest.mark.parametrize("customer", CUSTOMERS)
def test_a_flat_index_finds_what_brute_force_finds(flat, gallery, customer):
    for query in queries_of(gallery):
        order = brute_order(gallery, customer, query)
        for threshold in (*tied_thresholds(gallery, customer, query), *np.float32([0, 0.2, 1, 2])):
            found = flat.search(customer, query, threshold)
            assert_is(found, order, threshold, 1)
            assert found.proven


@pytest.mark.parametrize("customer", CUSTOMERS)
def test_an_ivf_index_asked_for_proof_finds_what_brute_force_finds(ivf, gallery, customer):
    for query in queries_of(gallery):
        order = brute_order(gallery, customer, query)
        for threshold in tied_thresholds(gallery, customer, query):
            found = ivf.search(customer, query, threshold, exact=True)
            assert_is(found, order, threshold, 1)
            assert found.proven


def test_an_ivf_index_finds_what_brute_force_finds_in_its_reach(ivf, gallery):
    missed = proofs = 0
    for query, customer in itertools.product(queries_of(gallery), CUSTOMERS):
        order = brute_order(gallery, customer, query)
        reach = ivf.reach(customer, query).rows
        reached = brute_order(gallery, customer, query, reach)
        level = np.float32(MEASURED_TO)
        beside = (np.nextafter(level, np.float32(0)), level, np.nextafter(level, np.float32(2)))
        for threshold in (*tied_thresholds(gallery, customer, query), *beside):
            matches = sum(distance <= float(threshold) for distance, _, _ in order)
            found = ivf.search(customer, query, threshold)
            if threshold <= level and threshold < np.float32(max(reached, default=(-1,))[0]):
                assert_is(found, reached, threshold, 1)
            else:
                # Past what was measured the search is exact. And where all that is reached
                # matches, what was rejected is sought among all.
                assert_is(found, order, threshold, 1)
                assert threshold <= level or found.proven
            missed += matches - found.match_count
            proofs += found.proven and len(reach) < len(order)
            if found.proven:
                assert found.match_count == matches
            else:
                assert 0.5 <= found.match_recall < 1
    assert missed > 0, "the reach was everything: this test saw nothing"
    assert proofs > 0, "no list was excluded by its angle: this test saw nothing"


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("at_least", [1, 2, 65, 400, 10_000])
def test_at_least_so_many_of_the_nearest_are_found(flat, ivf, gallery, at_least, exact):
    for query in queries_of(gallery):
        order = brute_order(gallery, "acme", query)
        threshold = np.float32(order[3][0])
        found = flat.search("acme", query, threshold, at_least=at_least, exact=exact)
        assert_is(found, order, threshold, at_least)
        loose = ivf.search("acme", query, threshold, at_least=at_least, exact=exact)
        assert len(loose.rows) >= min(at_least, len(order))
        if exact:
            assert_is(loose, order, threshold, at_least)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_an_answer_has_the_same_bits_alone_and_in_any_batch(flat, ivf, gallery, kind):
    index = {"flat": flat, "ivf": ivf}[kind]
    rng = np.random.default_rng(5)
    queries = np.concatenate([gallery.vectors[rng.choice(len(gallery), 40)],
                              unit_rows(rng, 24, gallery.dimension)])
    threshold = np.float32(brute_order(gallery, "acme", queries[0])[30][0])
    alone = [index.search("acme", query, threshold) for query in queries]
    for size in (2, 7, 32, 64):
        for start in range(0, 64, size):
            batch = index.search_batch("acme", queries[start : start + size], threshold)
            for one, other in zip(batch, alone[start : start + size], strict=True):
                assert one.rows.tobytes() == other.rows.tobytes()
                assert one.distances.tobytes() == other.distances.tobytes()
                assert (one.match_count, one.match_recall) == (
                    other.match_count, other.match_recall
                )


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_more_duplicates_than_any_look_takes_are_all_found(tmp_path, kind):
    rng = np.random.default_rng(2)
    vectors = np.concatenate([np.repeat(unit_rows(rng, 1, 16), MANY + 500, axis=0),
                              unit_rows(rng, 300, 16)])
    gallery = one_segment(vectors)
    index = opened(tmp_path, gallery, kind=kind)
    order = brute_order(gallery, "acme", vectors[0])
    for threshold in tied_thresholds(gallery, "acme", vectors[0], (0, MANY + 700)):
        assert_is(index.search("acme", vectors[0], threshold, exact=True), order, threshold, 1)


@pytest.mark.parametrize("dimension", [2, 3, 512])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_the_dimension_does_not_matter(tmp_path, kind, dimension):
    gallery = make_gallery(3, dimension=dimension, large=220)
    index = opened(tmp_path, gallery, kind=kind)
    for query in queries_of(gallery)[::2]:
        order = brute_order(gallery, "zeta", query)
        for threshold in tied_thresholds(gallery, "zeta", query, (0, 30)):
            found = index.search("zeta", query, threshold, exact=True)
            assert_is(found, order, threshold, 1)


@pytest.mark.parametrize("length", [0.999, 1.001])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_query_of_a_length_just_off_one_is_searched_as_it_is(flat, ivf, gallery, kind, length):
    index = {"flat": flat, "ivf": ivf}[kind]
    for query in queries_of(gallery) * np.float32(length):
        order = brute_order(gallery, "acme", query)
        for threshold in tied_thresholds(gallery, "acme", query):
            found = index.search("acme", query, threshold, exact=True)
            assert_is(found, order, threshold, 1)
            loose = index.search("acme", query, threshold)
            assert not loose.proven or loose.match_count == found.match_count


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_distances_cut_off_at_two_are_ties_like_any_other(tmp_path, kind):
    rng = np.random.default_rng(6)
    query = np.zeros(8, np.float32)
    query[0] = 1.001
    # Inner products from -1 to -1.0018: past -1 every distance is 2, whatever FAISS ranks first.
    vectors = np.zeros((600, 8), np.float32)
    vectors[:, 0] = -rng.uniform(0.999, 1.0008, 600)
    gallery = one_segment(vectors)
    index = opened(tmp_path, gallery, kind=kind)
    order = brute_order(gallery, "acme", query)
    assert order[-300][0] == 2
    for threshold in tied_thresholds(gallery, "acme", query, (100, 599)):
        for at_least in (1, 590):
            found = index.search("acme", query, threshold, at_least=at_least, exact=True)
            assert_is(found, order, threshold, at_least)


@given(st.integers(0, 2**32), st.sampled_from([0.999, 1.0, 1.001]), st.sampled_from([2, 5, 40]))
def test_no_row_of_a_list_is_nearer_than_its_angle_allows(seed, length, dimension):
    rng = np.random.default_rng(seed)
    centroids = unit_rows(rng, 5, dimension)
    assigned = rng.integers(0, 4, 60)  # the fifth list stays empty
    vectors = centroids[assigned] + rng.choice([0.0, 0.3]) * unit_rows(rng, 60, dimension)
    vectors *= rng.uniform(0.999, 1.001, (60, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors.astype(np.float32)
    norm = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max())
    angles = list_angles(vectors, centroids, assigned)
    lists = Lists(np.ascontiguousarray(centroids.T), angles, norm)
    for query in np.concatenate([vectors[:3], unit_rows(rng, 3, dimension)]) * np.float32(length):
        distances = brute_distances(query, vectors)
        for one in range(4):
            nearest = distances[assigned == one].min(initial=np.inf)
            if nearest == np.inf:
                continue
            for horizon in (nearest, np.nextafter(nearest, np.float32(3)), np.float32(2)):
                assert one in lists.within(query, float(horizon))
            if angles[one] < 1e-5 and length == 1.0:  # rows along the centroid: a tight bound
                assert one not in lists.within(query, float(min(nearest, 1)) - 0.005)
        assert 4 not in lists.within(query, 2.0)


def test_centroids_are_of_unit_length_where_no_row_is_and_lists_lose_their_rows():
    rng = np.random.default_rng(0)
    rows = np.repeat(unit_rows(rng, 12, 16), 40, axis=0) * np.float32(0.9991)
    centroids = cluster(rows, 60, rng.permutation(len(rows)))
    lengths = np.linalg.norm(centroids.astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_a_segment_past_the_hundred_thousandth_has_files_of_its_own(tmp_path, gallery):
    opened(tmp_path, gallery, kind="flat")
    where = tmp_path / "index"
    for path in where.glob("00001.*"):
        path.rename(where / f"1{path.name}")
    index = where / "index.json"
    index.write_text(index.read_text().replace('"00001.', '"100001.'))
    found = open_index(tmp_path, gallery).search("acme", gallery.vectors[0], np.float32(0.1))
    assert_is(found, brute_order(gallery, "acme", gallery.vectors[0]), np.float32(0.1), 1)


def test_an_empty_gallery_finds_nothing_and_is_proven(tmp_path):
    gallery = build_gallery(np.empty((0, 4), np.float32), make_items(
        [], np.empty((0, 4), np.float32), np.random.default_rng(0)))
    index = opened(tmp_path, gallery)
    found = index.search("acme", np.asarray([1, 0, 0, 0], np.float32), np.float32(2), exact=True)
    assert (found.rows.size, found.match_count, found.proven) == (0, 0, True)
    assert index.reach("acme", np.asarray([1, 0, 0, 0], np.float32)).rows.size == 0


def test_the_reach_of_an_exact_index_is_all_that_is_visible(flat, gallery):
    for customer in CUSTOMERS:
        expected = [row for _, _, row in brute_order(gallery, customer, gallery.vectors[0])]
        assert flat.reach(customer, gallery.vectors[0]).rows.tolist() == sorted(expected)


def test_the_reach_of_an_ivf_index_says_from_which_threshold_on_everything_is_found(ivf, gallery):
    later = beyond = 0
    for query, customer in itertools.product(queries_of(gallery), CUSTOMERS):
        reach = ivf.reach(customer, query)
        if reach.all_from == np.inf:
            assert len(reach.rows) == len(brute_order(gallery, customer, query))
            continue
        reached = brute_order(gallery, customer, query, reach.rows)
        past = float(np.nextafter(np.float32(MEASURED_TO), np.float32(2)))
        expected = min(reached[-1][0] if reached else -np.inf, past)
        assert reach.all_from == expected
        assert ivf.reach(customer, query, expected).all_from == expected
        assert ivf.reach(customer, query, expected - 1e-6).all_from > expected - 1e-6
        later += len(reached) > 0
        beyond += expected == past
    assert later > 5
    assert beyond > 0


def test_probes_are_calibrated_to_the_target_and_hold_it_on_new_queries(tmp_path):
    rng = np.random.default_rng(4)
    vectors = clustered(rng, 6400, 24, spread=0.9)
    fresh = np.arange(0, 6400, 80)  # one of every fourth class
    gallery, queries = one_segment(np.delete(vectors, fresh, axis=0)), vectors[fresh]
    index = opened(tmp_path, gallery, kind="ivf", recall=0.95)
    (segment,) = facts(tmp_path)
    assert 1 < segment["probes"] < segment["lists"] / 2
    assert 0.95 <= segment["match_recall"] < 1
    found = total = 0
    for query in queries:
        order = brute_order(gallery, "acme", query)
        total += sum(distance <= segment["horizon"] for distance, _, _ in order)
        found += index.search("acme", query, np.float32(segment["horizon"])).match_count
    assert total > 200
    assert found / total > 0.93


def test_a_higher_target_and_a_wider_horizon_take_more_probes(tmp_path):
    gallery = one_segment(clustered(np.random.default_rng(4), 3200, 24, spread=0.7))
    probes = {}
    for recall, horizon in itertools.product((0.8, 0.99), (0.2, 0.6)):
        folder = tmp_path / f"{recall}-{horizon}"
        opened(folder, gallery, kind="ivf", recall=recall, horizon=horizon)
        (segment,) = facts(folder)
        assert segment["horizon"] == horizon
        probes[recall, horizon] = segment["probes"]
    assert probes[0.8, 0.2] < probes[0.99, 0.2] < probes[0.99, 0.6]
    assert probes[0.8, 0.2] < probes[0.8, 0.6]


def test_without_a_match_to_calibrate_on_every_list_is_probed(tmp_path):
    gallery = one_segment(unit_rows(np.random.default_rng(0), 400, 24))
    index = opened(tmp_path, gallery, kind="ivf", recall=0.5, horizon=1e-6)
    (segment,) = facts(tmp_path)
    assert segment["probes"] == segment["lists"]
    assert index.search("acme", gallery.vectors[0], np.float32(0.5)).proven


def test_the_kind_of_a_segment_follows_its_size(tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"a": 255, "b": 256, "c": IVF_FROM - 1, "d": IVF_FROM}
    customers = [customer for customer, size in sizes.items() for _ in range(size)]
    vectors = unit_rows(rng, len(customers), 2)
    gallery = build_gallery(vectors, make_items(customers, vectors, rng))
    opened(tmp_path, gallery)
    kinds = {segment["customer"]: segment["kind"] for segment in facts(tmp_path)}
    assert kinds == {"a": "scan", "b": "flat", "c": "flat", "d": "ivf"}


@pytest.mark.parametrize(("spread", "kind"), [(0.3, "ivf"), (3.0, "flat")])
def test_lists_that_would_nearly_all_be_probed_give_way_to_a_flat_index(
    tmp_path, monkeypatch, spread, kind
):
    monkeypatch.setattr("pipeline.search.index.IVF_FROM", 1000)
    gallery = one_segment(clustered(np.random.default_rng(4), 1000, 24, spread=spread))
    index = opened(tmp_path, gallery, horizon=0.3)
    (segment,) = facts(tmp_path)
    assert segment["kind"] == kind
    assert (segment["lists"] > 1) == (kind == "ivf")
    query = gallery.vectors[4]
    order = brute_order(gallery, "acme", query)
    assert_is(index.search("acme", query, np.float32(0.6), exact=True), order, np.float32(0.6), 1)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_build_replaces_an_earlier_one_and_repeats_itself(tmp_path, gallery, kind):
    contents = []
    for folder in ("once", "twice", "twice"):
        opened(tmp_path / folder, gallery, kind=kind)
        files = sorted((tmp_path / folder / "index").iterdir())
        contents.append({path.name: path.read_bytes() for path in files})
        opened(tmp_path / "twice", make_gallery(9, large=500), kind="ivf")
    assert contents[0] == contents[1] == contents[2]


def test_the_threads_asked_for_are_the_threads_used(tmp_path, gallery):
    gallery.write(tmp_path)
    build_index(gallery, IndexConfig(kind="hnsw"), tmp_path, threads=1)
    for threads in (2, 1):
        index = open_index(tmp_path, gallery, threads=threads)
        index.search("acme", gallery.vectors[0], np.float32(0.1))
        assert faiss.omp_get_max_threads() == threads


def test_an_index_of_another_gallery_is_refused(tmp_path, gallery):
    opened(tmp_path, gallery)
    with pytest.raises(SearchIndexError, match=r"index.json: rows \d+, expected \d+"):
        open_index(tmp_path, make_gallery(large=299))
    with pytest.raises(SearchIndexError, match=r"index.json: dimension 6, expected 7"):
        open_index(tmp_path, make_gallery(dimension=7))
    with pytest.raises(SearchIndexError, match="other customers than the gallery"):
        open_index(tmp_path, make_gallery(shared=163, small=17))
