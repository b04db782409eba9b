"""Embeddings made elsewhere meet the right items, or are refused in one line."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.embeddings import EmbeddingsError, read_embeddings
from pipeline.data.items import ItemsError
from pipeline.data.labels import Labels, read_labels


def labels_of(folder, **columns) -> Labels:
    table = {"item_id": ["a", "b", "c"], "label": ["x", None, "y"], **columns}
    pq.write_table(pa.table(table), folder / "items.parquet")
    return read_labels(folder / "items.parquet")


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


VECTORS = unit([[1, 2, 3], [0, 1, 0], [-1, 0.5, 2]])


def written(folder, vectors=VECTORS, **columns):
    path = folder / "e.parquet"
    pq.write_table(pa.table({**columns, "embedding": np.asarray(vectors).tolist()}), path)
    return path


def test_an_array_is_in_the_order_of_the_items_and_keeps_its_bits(tmp_path):
    np.save(tmp_path / "e.npy", VECTORS)
    found = read_embeddings(tmp_path / "e.npy", labels_of(tmp_path))
    np.testing.assert_array_equal(found.vectors, VECTORS)
    assert found.scaled == 0
    assert found.vectors.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int16])
def test_rows_of_any_length_are_scaled_and_counted(tmp_path, dtype):
    raw = np.asarray([[3, 4, 0], [0, 1, 0], [0, 0, -7]], dtype)
    np.save(tmp_path / "e.npy", raw)
    found = read_embeddings(tmp_path / "e.npy", labels_of(tmp_path))
    np.testing.assert_allclose(found.vectors, [[0.6, 0.8, 0], [0, 1, 0], [0, 0, -1]], rtol=1e-7)
    assert found.scaled == 2


def test_a_table_is_joined_by_item_id_whatever_its_order(tmp_path):
    path = written(tmp_path, VECTORS[[2, 0, 1]], item_id=["c", "a", "b"])
    found = read_embeddings(path, labels_of(tmp_path))
    np.testing.assert_array_equal(found.vectors, VECTORS)


def test_more_embeddings_than_items_are_no_fault_where_they_are_joined(tmp_path):
    four = np.concatenate([VECTORS[[2, 0, 1]], VECTORS[:1]])
    path = written(tmp_path, four, item_id=["c", "a", "b", "elsewhere"])
    found = read_embeddings(path, labels_of(tmp_path))
    np.testing.assert_array_equal(found.vectors, VECTORS)


def test_customers_tell_equal_ids_apart(tmp_path):
    items = labels_of(tmp_path, item_id=["a", "a", "c"], customer=["x", "y", None])
    path = written(
        tmp_path, VECTORS[[1, 2, 0]], item_id=["a", "c", "a"], customer=["y", None, "x"]
    )
    np.testing.assert_array_equal(read_embeddings(path, items).vectors, VECTORS)
    with pytest.raises(EmbeddingsError, match=r"'a' stands in rows 0 and 2.*column 'customer'"):
        read_embeddings(written(tmp_path, VECTORS, item_id=["a", "c", "a"]), items)
    with pytest.raises(EmbeddingsError, match="repeat an item_id for several customers"):
        read_embeddings(written(tmp_path, VECTORS, item_id=["a", "c", "b"]), items)


def test_a_table_without_ids_is_in_the_order_of_the_items(tmp_path):
    found = read_embeddings(written(tmp_path), labels_of(tmp_path))
    np.testing.assert_array_equal(found.vectors, VECTORS)
    with pytest.raises(EmbeddingsError, match="2 rows for 3 items"):
        read_embeddings(written(tmp_path, VECTORS[:2]), labels_of(tmp_path))


def test_one_of_several_columns_is_named(tmp_path):
    path = written(tmp_path, other=VECTORS[::-1].tolist(), tags=[["p"], ["q"], ["r"]])
    items = labels_of(tmp_path)
    with pytest.raises(EmbeddingsError, match="found: other, embedding; name one with --column"):
        read_embeddings(path, items)
    np.testing.assert_array_equal(read_embeddings(path, items, "other").vectors, VECTORS[::-1])
    with pytest.raises(EmbeddingsError, match="no column 'tags' of lists of numbers"):
        read_embeddings(path, items, "tags")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([np.nan, 0, 1], r"row 1 \(item 'b'\) is NaN or infinite"),
        ([np.inf, 0, 1], r"row 1 \(item 'b'\) is NaN or infinite"),
        ([0, 0, 0], r"row 1 \(item 'b'\) is zero"),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_row_without_a_direction_is_named(tmp_path, bad, message, kind):
    vectors = np.asarray([VECTORS[0], bad, VECTORS[2]], np.float32)
    path = tmp_path / "e.npy"
    np.save(path, vectors)
    if kind == "parquet":
        path = written(tmp_path, vectors)
    with pytest.raises(EmbeddingsError, match=message) as caught:
        read_embeddings(path, labels_of(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_array_of_rows_is_refused(tmp_path):
    items = labels_of(tmp_path)
    path = tmp_path / "e.npy"
    for array, message in (
        (VECTORS[:2], "2 rows for 3 items"),
        (VECTORS[0], r"float32 \(3,\); expected an array of floats"),
        (np.asarray([["a"], ["b"], ["c"]]), "expected an array of floats"),
    ):
        np.save(path, array)
        with pytest.raises(EmbeddingsError, match=message):
            read_embeddings(path, items)
    path.write_bytes(b"no numpy at all")
    with pytest.raises(EmbeddingsError, match=r"not a readable \.npy array"):
        read_embeddings(path, items)
    np.save(path, np.asarray([{}, {}, {}]), allow_pickle=True)
    with pytest.raises(EmbeddingsError, match=r"not a readable \.npy array"):
        read_embeddings(path, items)
    with pytest.raises(EmbeddingsError, match="no such file"):
        read_embeddings(tmp_path / "absent.npy", items)
    np.save(path, VECTORS)
    with pytest.raises(EmbeddingsError, match="--column is for Parquet"):
        read_embeddings(path, items, "embedding")


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[1.0, 2.0], None, [1.0, 0.0]], "row 1 has no embedding"),
        ([[1.0, 2.0], [1.0], [1.0, 0.0]], "row 1 has 1 numbers .* expected 2, as in row 0"),
        ([[1.0, 2.0], [1.0, None], [1.0, 0.0]], "row 1 .* is NaN or infinite"),
        ([[], [], []], "row 0 has 0 numbers"),
        ([[1e100, 0.0], [0.0, 0.0], [1.0, 0.0]], "row 1 .* is zero"),
    ],
)
def test_a_row_of_another_shape_is_named(tmp_path, lists, message):
    path = tmp_path / "e.parquet"
    pq.write_table(pa.table({"embedding": pa.array(lists, pa.list_(pa.float64()))}), path)
    with pytest.raises(EmbeddingsError, match=message):
        read_embeddings(path, labels_of(tmp_path))


def test_an_item_without_an_embedding_is_named(tmp_path):
    path = written(tmp_path, VECTORS[:2], item_id=["c", "b"])
    with pytest.raises(EmbeddingsError, match=r"no embedding for item 'a' \(1 of 3 items\)"):
        read_embeddings(path, labels_of(tmp_path))


def test_labels_alone_are_enough(tmp_path):
    pq.write_table(pa.table({"label": ["x", None, "y"]}), tmp_path / "labels.parquet")
    found = read_labels(tmp_path / "labels.parquet")
    assert found.label.tolist() == ["x", None, "y"]
    assert found.item_id.tolist() == ["0", "1", "2"]
    assert found.customer.tolist() == [None] * 3
    assert set(found.role) == {"both"}
    assert set(found.split) == {""}


def test_no_content_is_read_for_its_labels(tmp_path):
    table = {"item_id": ["a"], "label": ["x"], "customer": [None], "image": ["no/such/file.png"]}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    assert len(read_labels(tmp_path / "items.parquet")) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["a", "a"], "label": ["x", "y"]}, "row 1 .*'a' is already in row 0"),
        ({"item_id": ["a", "b"]}, "column 'label' is missing"),
        ({"item_id": ["a", ""], "label": ["x", "y"]}, "row 1 .*no id"),
        ({"label": ["x", "x"], "split": ["train", "report"]}, "class 'x' is in 'report' here"),
        ({"label": [1.5, 2.5]}, "column 'label': expected strings, got double"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    with pytest.raises(ItemsError, match=message) as caught:
        read_labels(tmp_path / "items.parquet")
    assert "\n" not in str(caught.value)
    with pytest.raises(ItemsError, match="no such file"):
        read_labels(tmp_path / "absent.parquet")


def test_a_digest_is_of_the_names_not_of_the_file(tmp_path):
    first = labels_of(tmp_path)
    path = tmp_path / "items.csv"
    path.write_text("item_id,label,customer\na,x,\nb,,\nc,y,\n")
    assert read_labels(path).digest() == first.digest()
    path.write_text("item_id,label,customer\na,x,\nb,,\nc,z,\n")
    assert read_labels(path).digest() != first.digest()
