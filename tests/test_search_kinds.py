"""Kinds of index that miss some matches, and what they say about it; codes and their bounds."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import distance
from pipeline.config import IndexConfig
from pipeline.search.codes import Rows, encode
from pipeline.search.effort import share_of, true_matches
from pipeline.search.gallery import build_gallery, open_gallery
from pipeline.search.index import build_index, open_index
from pipeline.search.lists import Chosen
from tests.search_world import (
    brute_distances,
    brute_order,
    clustered,
    make_items,
    tied_thresholds,
    unit_rows,
    with_ties,
)

INEXACT = ("ivf", "hnsw", "rabitq")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A gallery of 2,000 rows and ties, 40 queries of classes in it, an index of every kind."""
    rng = np.random.default_rng(3)
    rows = clustered(rng, 1240, 24, spread=0.8)
    asked = np.arange(0, 1240, 31)
    vectors = with_ties(rng, np.delete(rows, asked, axis=0))
    gallery = build_gallery(vectors, make_items(["acme"] * len(vectors), vectors, rng))
    found = {}
    for kind in ("flat", *INEXACT):
        folder = tmp_path_factory.mktemp(kind)
        gallery.write(folder)
        build_index(gallery, IndexConfig(kind=kind, match_recall=0.9), folder, horizon=0.4)
        found[kind] = folder
    queries = np.concatenate([rows[asked], gallery.vectors[:: 400]])
    return gallery, queries, found


def of_one(lists):
    """The lists that a single query looks into."""
    return Chosen(lists.astype(np.int32), np.asarray([0, lists.size]))


def opened(folder):
    return open_index(folder, open_gallery(folder))


def facts_of(folder):
    (segment,) = json.loads((folder / "index" / "index.json").read_text())["segments"]
    return segment


@pytest.mark.parametrize("kind", INEXACT)
def test_what_an_inexact_kind_finds_are_matches_and_the_missed_ones_are_accounted_for(world, kind):
    gallery, queries, folders = world
    index, facts = opened(folders[kind]), facts_of(folders[kind])
    assert facts["kind"] == kind
    found = total = unproven = 0
    for query in queries:
        order = brute_order(gallery, "acme", query)
        threshold = np.float32(0.4)
        answer = index.search("acme", query, threshold)
        truth = {row: level for level, _, row in order if level <= float(threshold)}
        rows = answer.rows[: answer.match_count].tolist()
        assert set(rows) <= set(truth)
        assert len(set(rows)) == answer.match_count
        assert [truth[row] for row in rows] == answer.distances[: answer.match_count].tolist()
        if answer.proven:
            assert answer.match_count == len(truth)
        else:
            assert answer.match_recall == facts["match_recall"] < 1
            unproven += 1
        found, total = found + len(rows), total + len(truth)
    assert total > 500
    assert unproven > 5
    assert found / total > 0.85


@pytest.mark.parametrize("kind", INEXACT)
def test_an_inexact_kind_answers_as_its_reach_says(world, kind):
    gallery, queries, folders = world
    index = opened(folders[kind])
    for query in queries[::4]:
        reach = index.reach("acme", query)
        reached = brute_order(gallery, "acme", query, reach.rows)
        whole = brute_order(gallery, "acme", query)
        for threshold in tied_thresholds(gallery, "acme", query, (0, 20, 90)):
            answer = index.search("acme", query, threshold)
            expected = reached if float(threshold) < reach.all_from else whole
            matches = sum(level <= float(threshold) for level, _, _ in expected)
            assert answer.match_count == matches
            assert answer.rows.tolist() == [row for _, _, row in expected[: matches + 1]]


@pytest.mark.parametrize("kind", INEXACT)
def test_an_inexact_kind_asked_for_proof_finds_what_brute_force_finds(world, kind):
    gallery, queries, folders = world
    index = opened(folders[kind])
    for query in queries[::6]:
        order = brute_order(gallery, "acme", query)
        for threshold in tied_thresholds(gallery, "acme", query, (0, 20, 300)):
            answer = index.search("acme", query, threshold, exact=True)
            assert answer.proven
            assert answer.match_count == sum(level <= float(threshold) for level, _, _ in order)
            head = order[: answer.match_count + 1]
            assert answer.rows.tolist() == [row for _, _, row in head]
            assert answer.distances.tolist() == [level for level, _, _ in head]


@pytest.mark.parametrize("kind", ["flat", *INEXACT])
def test_every_kind_answers_alike_alone_in_batches_and_opened_again(world, kind):
    _, queries, folders = world
    index, again = opened(folders[kind]), opened(folders[kind])
    threshold = np.float32(0.35)
    alone = [index.search("acme", query, threshold) for query in queries]
    for size in (2, 7, 32):
        for start in range(0, len(queries), size):
            batch = again.search_batch("acme", queries[start : start + size], threshold)
            for one, other in zip(batch, alone[start : start + size], strict=True):
                assert one.rows.tobytes() == other.rows.tobytes()
                assert one.distances.tobytes() == other.distances.tobytes()
                assert one.match_recall == other.match_recall


@pytest.mark.parametrize("kind", INEXACT)
def test_the_share_is_kept_with_its_interval_and_an_index_says_that_it_may_miss(world, kind):
    _, _, folders = world
    facts = facts_of(folders[kind])
    assert 0.9 <= facts["match_recall"] < 1
    assert 0 < facts["match_recall_lower"] <= facts["match_recall"] <= facts["match_recall_upper"]
    assert facts["match_recall_upper"] - facts["match_recall_lower"] < 0.2
    assert facts["horizon"] == 0.4
    assert opened(folders[kind]).inexact
    assert not opened(folders["flat"]).inexact


def test_true_matches_are_those_of_brute_force(world):
    gallery, _, _ = world
    held_out = np.asarray([3, 900, 41])
    level = brute_distances(gallery.vectors[3], gallery.vectors)[np.asarray([3, 10, 11])].max()
    for horizon in (level, np.nextafter(level, np.float32(0)), np.float32(0.3)):
        truth = true_matches(gallery.vectors, held_out, float(horizon))
        for place, row in enumerate(held_out):
            near = brute_distances(gallery.vectors[row], gallery.vectors) <= horizon
            near[row] = False
            assert truth.matches[truth.owner == place].tolist() == np.flatnonzero(near).tolist()


def test_the_interval_of_a_share_takes_the_query_as_the_unit(world):
    gallery, _, _ = world
    truth = true_matches(gallery.vectors, np.arange(0, 1600, 16), 0.4)
    generator = np.random.default_rng(0)
    scattered = share_of(truth, generator.random(truth.matches.size) > 0.2)
    lost = generator.random(truth.queries.size) > 0.2
    together = share_of(truth, lost[truth.owner])
    widths = [one.match_recall_upper - one.match_recall_lower for one in (scattered, together)]
    assert widths[1] > 2 * widths[0]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32), dimension=st.sampled_from([2, 5, 16, 67]),
    place=st.integers(0, 150), step=st.sampled_from([-1, 0, 1]),
    at_least=st.sampled_from([1, 2, 40, 500]), lists=st.sampled_from([1, 4]),
)  # fmt: skip
def test_codes_leave_nothing_out(seed, dimension, place, step, at_least, lists):
    rng = np.random.default_rng(seed)
    vectors = with_ties(rng, unit_rows(rng, 120, dimension))
    query = vectors[3].copy()
    query[0] = np.nextafter(query[0], np.float32(2))
    true = brute_distances(query, vectors)
    level = np.sort(true)[min(place, len(vectors) - 1)]
    threshold = np.nextafter(level, np.float32(step * 4)) if step else level
    assigned = np.sort(rng.integers(0, lists, len(vectors)))
    starts = np.searchsorted(assigned, np.arange(lists + 1))
    order = rng.permutation(len(vectors))
    rows = Rows(encode(vectors, order), vectors, starts, 1 + 1e-6)
    chosen = np.arange(0, lists, 2)
    reached = np.concatenate([order[starts[one] : starts[one + 1]] for one in chosen])
    got, levels, ends, within = rows.look(query[None, :], of_one(chosen), threshold, at_least)
    assert ends.tolist() == [0, got.size]
    np.testing.assert_array_equal(levels, true[got])
    order = np.sort(true[reached])
    matches = np.count_nonzero(order <= threshold)
    if max(matches + 1, at_least) <= reached.size:
        assert within[0] >= order[max(matches + 1, at_least) - 1]
    assert set(reached[true[reached] <= within[0]].tolist()) <= set(got.tolist())
    assert set(got.tolist()) <= set(reached.tolist())


def test_codes_of_vectors_that_round_badly_still_bound_their_distances():
    # One large coordinate makes the whole numbers coarse; the others round to 0 or 1.
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((400, 32)) * np.r_[60.0, np.full(31, 0.25)]
    vectors = distance.unit(vectors)
    codes = encode(vectors, np.arange(400))
    left = vectors - codes.values * codes.scales[:, None].astype(np.float64)
    lengths = np.sqrt(np.square(left).sum(axis=1))
    assert (codes.errors >= lengths).all()
    np.testing.assert_allclose(codes.errors, lengths, rtol=1e-5)
    rows = Rows(codes, vectors, np.asarray([0, 400]), 1 + 1e-6)
    for query in vectors[:20]:
        true = brute_distances(query, vectors)
        threshold = np.sort(true)[30]
        got, _, _, _ = rows.look(query[None, :], of_one(np.asarray([0])), threshold)
        assert set(np.flatnonzero(true <= threshold)) <= set(got.tolist())
