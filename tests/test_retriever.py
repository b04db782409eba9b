"""Answers of a retriever against brute force, and how they are paged through."""

import sys

import numpy as np
import pytest

from pipeline.config import IndexConfig
from pipeline.search.gallery import build_gallery
from pipeline.search.index import build_index
from serving.answers.cursor import Bookmark, Question, decode, encode
from serving.answers.retriever import QueryError, Retriever
from tests.search_world import (
    as_release,
    brute_distances,
    brute_order,
    make_gallery,
    make_items,
    tied_thresholds,
    unit_rows,
)

CUSTOMERS = (None, "acme", "zeta", "tiny", "nobody")


@pytest.fixture(scope="module")
def gallery():
    return make_gallery()


@pytest.fixture(scope="module", params=["flat", "ivf"])
def retriever(request, gallery, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    gallery.write(folder)
    build_index(gallery, IndexConfig(kind=request.param, match_recall=0.5), folder)
    return Retriever(as_release(folder, gallery))


def triple(match):
    return float(match.distance), match.item_id, match.row


@pytest.mark.parametrize("customer", CUSTOMERS)
def test_an_answer_is_what_brute_force_says(retriever, gallery, customer):
    query = gallery.vectors[3]
    order = brute_order(gallery, customer, query)
    for threshold in tied_thresholds(gallery, customer, query):
        if threshold < 0:
            continue
        matches = [entry for entry in order if entry[0] <= float(threshold)]
        for limit in (1, 5, 10_000):
            answer, = retriever.answer(
                customer, query[None, :], limit=limit, threshold=threshold, exact=True
            )
            assert [triple(match) for match in answer.matches] == matches[:limit]
            assert answer.match_count == len(matches)
            assert (answer.complete, answer.match_recall) == (True, 1.0)
            rejected = order[len(matches)] if len(matches) < len(order) else None
            assert (answer.nearest_rejected and triple(answer.nearest_rejected)) == rejected
            assert (answer.next_after is None) == (limit >= len(matches))


def test_the_threshold_of_the_release_decides_unless_another_is_given(retriever, gallery):
    query = gallery.vectors[7]
    order = brute_order(gallery, "acme", query)
    served, = retriever.answer("acme", query[None, :], exact=True)
    assert served.match_count == sum(distance <= np.float32(0.3) for distance, _, _ in order)
    other, = retriever.answer("acme", query[None, :], threshold=np.float32(0.6), exact=True)
    assert other.match_count == sum(distance <= np.float32(0.6) for distance, _, _ in order)
    assert other.match_count > served.match_count


def test_an_empty_answer_names_the_nearest_item_it_rejected(retriever, gallery):
    query = -gallery.vectors[0] + np.float32(0.3)
    query = (query / np.linalg.norm(query)).astype(np.float32)
    nearest = brute_order(gallery, "acme", query)[0]
    threshold = np.nextafter(np.float32(nearest[0]), np.float32(-1))
    answer, = retriever.answer("acme", query[None, :], threshold=threshold, exact=True)
    assert (answer.matches, answer.match_count, answer.next_after) == ((), 0, None)
    assert triple(answer.nearest_rejected) == nearest


def test_a_customer_never_sees_the_items_of_another(retriever, gallery):
    for customer in CUSTOMERS:
        answers = retriever.answer(
            customer, gallery.vectors[::60], limit=10_000, threshold=np.float32(2), exact=True
        )
        for answer in answers:
            owners = {gallery.customer[match.row] for match in answer.matches}
            assert owners <= {None, customer}
            assert answer.match_count == sum(
                owner is None or owner == customer for owner in gallery.customer
            )
            assert answer.nearest_rejected is None


@pytest.mark.parametrize("size", [2, 7, 32, 64])
def test_answers_in_a_batch_equal_answers_alone(retriever, gallery, size):
    rng = np.random.default_rng(8)
    queries = np.concatenate([gallery.vectors[rng.choice(len(gallery), size // 2)],
                              unit_rows(rng, size - size // 2, gallery.dimension)])
    batch = retriever.answer("acme", queries, limit=50)
    assert [answer.query_index for answer in batch] == list(range(size))
    for query, answer in zip(queries, batch, strict=True):
        alone, = retriever.answer("acme", query[None, :], limit=50)
        assert alone.matches == answer.matches
        assert alone.nearest_rejected == answer.nearest_rejected
        assert (alone.match_count, alone.match_recall) == (answer.match_count, answer.match_recall)


@pytest.mark.parametrize("limit", [1, 3, 64, 1000])
@pytest.mark.parametrize("exact", [False, True])
def test_pages_hold_every_match_once_and_in_order(retriever, gallery, limit, exact):
    query = gallery.vectors[11]
    threshold = np.float32(brute_order(gallery, "acme", query)[90][0])
    question = Question(
        release="a1", customer="acme", query=query, threshold=threshold, exact=exact
    )
    whole, = retriever.answer(
        "acme", query[None, :], limit=10_000, threshold=threshold, exact=exact
    )
    paged, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        answer, = retriever.answer(
            "acme", query[None, :], limit=limit, threshold=threshold, exact=exact,
            after=None if cursor is None else decode(cursor, question).after,
        )
        assert answer.match_count == whole.match_count
        assert answer.nearest_rejected == whole.nearest_rejected
        paged.extend(answer.matches)
        cursor = answer.next_after and encode(question, Bookmark(*answer.next_after, 0))
        pages += 1
    assert tuple(paged) == whole.matches
    assert pages == -(-whole.match_count // limit)
    assert whole.match_count >= (91 if exact else 10)


def test_a_page_starts_behind_its_position_even_where_no_match_is_there(retriever, gallery):
    query = gallery.vectors[11]
    order = brute_order(gallery, "acme", query)[:40]
    threshold = np.float32(order[-1][0])
    for distance, item_id, _ in (order[10], (order[10][0], "", 0), (order[10][0], "~", 0),
                                 (0.0, "", 0), (float(threshold), "~", 0)):
        answer, = retriever.answer(
            "acme", query[None, :], limit=10_000, threshold=threshold, exact=True,
            after=(np.float32(distance), item_id),
        )
        expected = [entry for entry in brute_order(gallery, "acme", query)
                    if entry[:2] > (distance, item_id) and entry[0] <= float(threshold)]
        assert [triple(match) for match in answer.matches] == expected


@pytest.mark.parametrize("customer", CUSTOMERS)
def test_visible_distances_are_those_of_all_visible_rows(retriever, gallery, customer):
    rows, distances = retriever.visible_distances(customer, gallery.vectors[5])
    everything = brute_distances(gallery.vectors[5], gallery.vectors)
    expected = [row for row, owner in enumerate(gallery.customer) if owner in (None, customer)]
    assert rows.tolist() == expected
    np.testing.assert_array_equal(distances, everything[expected])


def test_rows_have_an_id_and_metadata(retriever, gallery):
    for row in (0, 17, len(gallery) - 1):
        assert retriever.item_id(row) == gallery.item_id[row]
        assert retriever.metadata(row) == {"number": gallery.metadata["number"][row].as_py()}


def test_the_self_query_passes_and_fails_where_the_gallery_is_not_the_indexed_one(
    retriever, gallery, tmp_path
):
    assert retriever.passes_self_query()
    gallery.write(tmp_path)
    build_index(gallery, IndexConfig(kind="flat"), tmp_path)
    # Vectors of the right shape that the index was not built from.
    np.save(tmp_path / "gallery.npy", gallery.vectors[::-1])
    assert not Retriever(as_release(tmp_path, gallery)).passes_self_query()


def test_an_empty_release_answers(tmp_path):
    none = np.empty((0, 4), np.float32)
    gallery = build_gallery(none, make_items([], none, np.random.default_rng(0)))
    gallery.write(tmp_path)
    build_index(gallery, IndexConfig(), tmp_path)
    retriever = Retriever(as_release(tmp_path, gallery))
    answer, = retriever.answer("acme", np.asarray([[1, 0, 0, 0]], np.float32))
    assert (answer.matches, answer.match_count, answer.nearest_rejected) == ((), 0, None)
    assert retriever.answer("acme", none) == []
    assert retriever.passes_self_query()


@pytest.mark.parametrize(("fault", "message"), [
    (np.nan, "query 1: norm nan; expected a unit vector"),
    (0.0, "query 1: norm 0; expected a unit vector"),
    (1.002, r"query 1: norm 1\.002; expected a unit vector"),
])
def test_an_embedding_that_is_no_unit_vector_is_refused_by_its_place(retriever, fault, message):
    queries = retriever.gallery.vectors[:3].copy()
    queries[1] *= np.float32(fault)
    with pytest.raises(QueryError, match=message) as caught:
        retriever.answer("acme", queries)
    assert caught.value.index == 1


def test_arguments_that_make_no_question_are_refused(retriever):
    query = retriever.gallery.vectors[:2]
    with pytest.raises(QueryError, match=r"shape \(5,\); expected \(6,\)"):
        retriever.answer("acme", query[:, :5])
    with pytest.raises(ValueError, match="limit: expected at least 1, got 0"):
        retriever.answer("acme", query, limit=0)
    for threshold in (np.nan, -0.1, 2.5):
        with pytest.raises(ValueError, match=r"threshold: .* is no cosine distance"):
            retriever.answer("acme", query, threshold=np.float32(threshold))
    with pytest.raises(ValueError, match="after: expected one query to continue, got 2"):
        retriever.answer("acme", query, after=(np.float32(0.1), "x"))


def test_the_encoder_is_opened_when_it_is_needed(retriever, monkeypatch):
    opened = []

    class Fake:
        kind, image_size, input_dimension = "image", 4, None

        def __init__(self, path, *, threads):
            opened.append((path, threads))

        def decode(self, data):
            return np.full((4, 4, 3), data[0], np.uint8)

        def embed_steadily(self, batch):
            assert (batch.dtype, batch.shape[1:]) == (np.uint8, (4, 4, 3))
            return batch[:, 0, 0, :1].astype(np.float32)

    name = "pipeline.encoding.encoder"
    monkeypatch.setitem(sys.modules, name, type(sys)(name))
    sys.modules[name].Encoder = Fake
    fresh = Retriever(retriever.release, threads=3)
    fresh.answer("acme", fresh.gallery.vectors[:1])
    assert opened == []
    assert fresh.embed_images([b"\x05", b"\x09"]).tolist() == [[5], [9]]
    assert fresh.embed_images([]).shape == (0, 1)
    assert (fresh.kind, fresh.input_dimension) == ("image", 0)
    assert opened == [(retriever.release.folder / "model.onnx", 3)]
