"""The gallery: order, segments, and what it refuses."""

import numpy as np
import pytest

from pipeline.search.gallery import GalleryError, build_gallery, open_gallery
from tests.search_world import make_gallery, make_items, unit_rows


def small(customers, ids, roles=None, vectors=None):
    rng = np.random.default_rng(0)
    rows = unit_rows(rng, len(customers), 4) if vectors is None else vectors
    return rows, make_items(customers, rows, rng, ids=ids, roles=roles)


def test_rows_are_sorted_shared_first_then_by_customer_then_by_item_id():
    customers = ["b", None, "a", "b", None, "a"]
    vectors, items = small(customers, ["é", "y", "n", "Z", "x", "m"])
    gallery = build_gallery(vectors, items)
    assert gallery.customer.tolist() == [None, None, "a", "a", "b", "b"]
    assert gallery.item_id.tolist() == ["x", "y", "m", "n", "Z", "é"]
    np.testing.assert_array_equal(gallery.vectors, vectors[[4, 1, 5, 2, 3, 0]])
    assert gallery.metadata["number"].to_pylist() == [4, 1, 5, 2, 3, 0]
    assert gallery.label.tolist() == items.label[[4, 1, 5, 2, 3, 0]].tolist()
    assert gallery.segments() == {None: slice(0, 2), "a": slice(2, 4), "b": slice(4, 6)}


def test_a_customer_sees_the_shared_rows_and_its_own():
    gallery = make_gallery()
    for customer in (None, "acme", "zeta", "tiny", "nobody", ""):
        rows = [row for part in gallery.visible(customer) for row in range(part.start, part.stop)]
        expected = [
            row for row, owner in enumerate(gallery.customer) if owner is None or owner == customer
        ]
        assert rows == expected


def test_ranks_order_ids_by_code_point_and_equal_ids_are_equal():
    ids = ["b", "a", "\U0001f600", "\uffee", "B", "b", "é", "e\u0301"]
    vectors, items = small(list("stuvwxyz"), ids)
    gallery = build_gallery(vectors, items)
    by_rank = sorted(range(len(ids)), key=lambda row: gallery.rank[row])
    assert [gallery.item_id[row] for row in by_rank] == sorted(ids)
    assert len(set(gallery.rank.tolist())) == len(set(ids))


def test_rows_of_role_query_are_left_out():
    vectors, items = small(["a"] * 4, list("wxyz"), roles=["both", "query", "gallery", "query"])
    gallery = build_gallery(vectors, items)
    assert gallery.item_id.tolist() == ["w", "y"]
    assert gallery.role.tolist() == ["both", "gallery"]


def test_what_is_written_is_read_back_and_stays_on_disk(tmp_path):
    gallery = make_gallery()
    gallery.write(tmp_path)
    opened = open_gallery(tmp_path)
    for name in ("vectors", "item_id", "label", "customer", "role", "split", "rank"):
        np.testing.assert_array_equal(getattr(opened, name), getattr(gallery, name))
    assert opened.metadata.equals(gallery.metadata)
    assert opened.segments() == gallery.segments()
    assert isinstance(opened.vectors.base, np.memmap)
    assert not opened.vectors.flags.writeable
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gallery.npy", "items.parquet"]


def test_equal_galleries_are_equal_files(tmp_path):
    for name in ("a", "b"):
        make_gallery().write(tmp_path / name)
    for name in ("gallery.npy", "items.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_empty_gallery_is_a_gallery(tmp_path):
    vectors, items = small(["a"], ["x"], roles=["query"])
    build_gallery(vectors, items).write(tmp_path)
    opened = open_gallery(tmp_path)
    assert len(opened) == 0
    assert opened.dimension == 4
    assert opened.visible("a") == ()


@pytest.mark.parametrize(("customers", "ids"), [
    (["a", "b", "a"], ["x", "x", "x"]),
    ([None, "b", "a"], ["x", "y", "x"]),
    ([None, None], ["x", "x"]),
])
def test_an_id_that_a_customer_would_see_twice_is_refused(customers, ids):
    with pytest.raises(GalleryError, match=r"item_id 'x': a customer would see it twice"):
        build_gallery(*small(customers, ids))


@pytest.mark.parametrize("fault", [0.0, np.nan, np.inf, 1.002])
def test_a_vector_that_is_not_of_unit_length_is_refused_by_name(fault):
    vectors, items = small(["a"] * 3, list("xyz"))
    vectors[1] *= np.float32(fault)
    with pytest.raises(GalleryError, match=r"item 'y': vector of norm .*; expected 1"):
        build_gallery(vectors, items)


def test_vectors_of_another_number_or_type_are_refused():
    vectors, items = small(["a"] * 3, list("xyz"))
    with pytest.raises(GalleryError, match=r"float32 \(2, 4\); expected float32 \(3, d\)"):
        build_gallery(vectors[:2], items)
    with pytest.raises(GalleryError, match=r"float64 \(3, 4\)"):
        build_gallery(vectors.astype(np.float64), items)


def test_files_of_different_lengths_are_refused(tmp_path):
    make_gallery().write(tmp_path)
    np.save(tmp_path / "gallery.npy", unit_rows(np.random.default_rng(0), 3, 6))
    with pytest.raises(GalleryError, match=r"gallery.npy: .* a row for each item"):
        open_gallery(tmp_path)
