"""The items table in memory: alignment, digest, and the way to disk and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data.items import Items, load_items


def objects(*values):
    column = np.empty(len(values), np.object_)
    column[:] = values
    return column


def three_items(kind="text", content=None, metadata=None):
    return Items(
        item_id=objects("a", "b", "a"),
        label=objects("cat", None, "dog"),
        customer=objects("acme", None, "other"),
        role=objects("both", "query", "gallery"),
        split=objects("train", "unlabelled", "report"),
        kind=kind,
        content=objects("one", "zwei", "trois") if content is None else content,
        metadata=pa.table({"price": [1.5, None, 3.0], "tags": [["x"], [], ["y", "z"]]})
        if metadata is None else metadata,
    )


VECTORS = np.array([[1, 2], [0, -3], [1e-30, 5]], np.float32)
CONTENTS = {
    "text": None,
    "image": objects(b"\x00png", b"\xff", b"webp"),
    "vector": VECTORS,
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_items_come_back_from_disk_as_they_went(kind, tmp_path):
    items = three_items(kind, CONTENTS[kind])
    items.write(tmp_path / "items.parquet")
    back = load_items(tmp_path / "items.parquet")
    for name in ("item_id", "label", "customer", "role", "split"):
        assert getattr(back, name).tolist() == getattr(items, name).tolist()
    assert back.kind == kind
    np.testing.assert_array_equal(back.content, items.content)
    assert back.content.dtype == items.content.dtype
    assert back.metadata.to_pylist() == items.metadata.to_pylist()
    assert back.digest() == items.digest()
    assert [path.name for path in tmp_path.iterdir()] == ["items.parquet"]


def test_items_without_metadata_can_be_taken_and_written(tmp_path):
    items = three_items(metadata=pa.table({})).take(np.array([2, 0]))
    items.write(tmp_path / "items.parquet")
    assert load_items(tmp_path / "items.parquet").item_id.tolist() == ["a", "a"]
    assert load_items(tmp_path / "items.parquet").label.tolist() == ["dog", "cat"]


def test_take_keeps_all_columns_aligned():
    taken = three_items("vector", VECTORS).take(np.array([2, 2, 0]))
    assert taken.label.tolist() == ["dog", "dog", "cat"]
    assert taken.metadata["price"].to_pylist() == [3.0, 3.0, 1.5]
    np.testing.assert_array_equal(taken.content, VECTORS[[2, 2, 0]])


def test_take_refuses_a_mask():
    with pytest.raises(TypeError, match="flatnonzero"):
        three_items().take(np.array([True, False, True]))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("item_id", ("a", "b", "c")),
        ("label", ("cat", "None", "dog")),
        ("label", ("cat", "", "dog")),
        ("customer", ("acme", "acme", "other")),
        ("role", ("both", "both", "gallery")),
        ("split", ("train", "unlabelled", "train")),
        ("content", ("one", "zwei", "troi")),
        # The same letters in another division.
        ("content", ("onez", "wei", "trois")),
    ],
)
def test_the_digest_moves_with_every_column(column, values):
    items = three_items()
    assert replace(items, **{column: objects(*values)}).digest() != items.digest()


def test_the_digest_moves_with_the_order_the_metadata_and_one_bit_of_a_vector():
    items = three_items("vector", VECTORS)
    moved = VECTORS.copy()
    moved[1, 1] = np.nextafter(moved[1, 1], np.float32(0))
    digests = {
        items.digest(),
        items.take(np.array([1, 0, 2])).digest(),
        replace(items, content=moved).digest(),
        replace(items, content=VECTORS.reshape(3, 2)[:, ::-1]).digest(),
        replace(items, metadata=items.metadata.drop_columns(["tags"])).digest(),
        replace(items, metadata=items.metadata.rename_columns(["cost", "tags"])).digest(),
    }
    assert len(digests) == 6


def test_the_digest_ignores_how_arrow_stores_the_metadata():
    plain = three_items(metadata=pa.table({"style": ["flat", "flat", "round"]}))
    encoded = three_items(
        metadata=pa.table({"style": pa.array(["flat", "flat", "round"]).dictionary_encode()})
    )
    assert plain.digest() == encoded.digest()


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"different lengths.*'label': 2"):
        replace(three_items(), label=objects("cat", "dog"))
    with pytest.raises(ValueError, match=r"different lengths.*'metadata': 1"):
        three_items(metadata=pa.table({"price": [1.0]}))
    with pytest.raises(ValueError, match="kind: expected one of"):
        replace(three_items(), kind="sound")


def test_a_killed_writer_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "items.parquet"
    three_items().write(path)
    before = path.read_bytes()

    def fail(table, where, **options):
        where.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.data.items.pq.write_table", fail)
    with pytest.raises(KeyboardInterrupt):
        three_items().take(np.array([0])).write(path)
    assert path.read_bytes() == before
