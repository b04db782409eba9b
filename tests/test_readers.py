"""Tables and folders in: what is read, and one clear line for everything that is wrong."""

from __future__ import annotations

import io
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.images import decode_all
from pipeline.data.items import ItemsError
from pipeline.data.readers import read_items


def png(colour, size=(8, 8)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def rows(n=4, **columns):
    """n good rows of vectors; ``columns`` replace or, being None, remove a column."""
    table = {
        "item_id": [f"i{k}" for k in range(n)],
        "label": [f"class{k // 2}" for k in range(n)],
        "customer": ["acme"] * n,
        "vector": [[1.0, float(k)] for k in range(n)],
    }
    return {name: values for name, values in (table | columns).items() if values is not None}


def write(tmp_path, table):
    path = tmp_path / "items.parquet"
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path)
    return path


def test_parquet_arrow_and_csv_give_the_same_items(tmp_path):
    table = pa.table(rows(price=[1, 2, 3, 4], role=["both", None, "query", "gallery"]))
    pq.write_table(table, tmp_path / "a.parquet")
    pyarrow.feather.write_feather(table, tmp_path / "a.feather")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    lines = ["item_id,label,customer,vector,price,role"]
    for k, role in enumerate(["both", "", "query", "gallery"]):
        lines.append(f'i{k},class{k // 2},acme,"[1.0, {k}]",{k + 1},{role}')
    (tmp_path / "a.csv").write_text("\n".join(lines))
    read = [read_items(tmp_path / f"a.{s}") for s in ("parquet", "feather", "arrow", "csv")]
    assert len({items.digest() for items in read}) == 1
    assert read[0].role.tolist() == ["both", "both", "query", "gallery"]
    assert read[0].split.tolist() == [""] * 4
    np.testing.assert_array_equal(read[0].content, [[1, 0], [1, 1], [1, 2], [1, 3]])
    assert read[0].metadata.to_pydict() == {"price": [1, 2, 3, 4]}


def test_csv_keeps_names_that_look_like_numbers_or_nulls(tmp_path):
    (tmp_path / "a.csv").write_text(
        'item_id,label,customer,text\n007,NA,null,x\n7,nan,,"two\nlines"\n'
    )
    items = read_items(tmp_path / "a.csv")
    assert items.item_id.tolist() == ["007", "7"]
    assert items.label.tolist() == ["NA", "nan"]
    assert items.customer.tolist() == ["null", None]
    assert items.content.tolist() == ["x", "two\nlines"]


def test_whole_numbers_and_categories_are_read_as_names(tmp_path):
    table = pa.table(rows(item_id=[1, 2, 3, 4]))
    table = table.set_column(1, "label", table["label"].dictionary_encode())
    items = read_items(write(tmp_path, table))
    assert items.item_id.tolist() == ["1", "2", "3", "4"]
    assert items.label.tolist() == ["class0", "class0", "class1", "class1"]


@pytest.mark.parametrize(
    "arrow",
    [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2),
     pa.list_(pa.int64())],
)
def test_vectors_are_read_from_every_kind_of_list(tmp_path, arrow):
    table = rows(vector=pa.array([[1, 0], [0, 2], [3, 0], [0, 4]], arrow))
    content = read_items(write(tmp_path, table)).content
    assert content.dtype == np.float32
    np.testing.assert_array_equal(content, [[1, 0], [0, 2], [3, 0], [0, 4]])


def test_a_null_label_and_a_null_customer_are_allowed(tmp_path):
    items = read_items(write(tmp_path, rows(label=[None] * 4, customer=[None] * 4)))
    assert items.label.tolist() == [None] * 4
    assert items.customer.tolist() == [None] * 4


def test_two_customers_may_use_the_same_id(tmp_path):
    table = rows(item_id=["a", "a", "b", "b"], customer=["acme", "other", "acme", "other"])
    assert len(read_items(write(tmp_path, table))) == 4


BAD_ROWS = {
    "duplicate id": (
        {"item_id": ["a", "b", "a", "c"]}, 2, "item_id", "'a' is already in row 0.*'acme'"),
    "duplicate shared id": (
        {"item_id": ["a", "b", "c", "b"], "customer": [None] * 4}, 3, "item_id",
        "'b' is already in row 1.*shared items"),
    "own id equal to a later shared id": (
        {"item_id": ["a", "b", "c", "b"], "customer": ["acme", "acme", None, None]}, 1,
        "item_id", "'b' of customer 'acme' is also a shared item, row 3.*another id"),
    "no id": ({"item_id": ["a", None, "c", "d"]}, 1, "item_id", "no id"),
    "empty label": ({"label": ["x", "x", "y", ""]}, 3, "label", "empty.*or null"),
    "empty customer": ({"customer": ["a", "a", "", "a"]}, 2, "customer", "empty.*shared by all"),
    "unknown role": ({"role": ["both", "asker", None, None]}, 1, "role", "'asker'.*both, query"),
    "unknown split": (
        {"split": ["train", "train", "test", "test"]}, 2, "split", "'test'.*calibrate, report"),
    "a class in two splits": (
        {"split": ["train", "report", "calibrate", "calibrate"]}, 1, "split",
        "class 'class0' is in 'report' here and in 'train' in row 0"),
    "a label without a split": (
        {"split": ["train", "train", None, "report"]}, 2, "split", "no split"),
    "NaN vector": (
        {"vector": [[1.0, 2.0], [np.nan, 1.0], [1.0, 1.0], [1.0, 1.0]]}, 1, "vector",
        "NaN or infinity; expected 2 finite numbers"),
    "a null inside a vector": (
        {"vector": [[1.0, 2.0], [1.0, 1.0], [None, 1.0], [1.0, 1.0]]}, 2, "vector", "NaN"),
    "infinite in float32": (
        {"vector": [[1e39, 2.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]}, 0, "vector", "infinity"),
    "zero vector": (
        {"vector": [[1.0, 2.0], [1.0, 1.0], [1.0, 1.0], [0.0, -0.0]]}, 3, "vector",
        "vector is zero"),
    "zero in float32": (
        {"vector": [[1.0, 2.0], [1e-60, 0.0], [1.0, 1.0], [1.0, 1.0]]}, 1, "vector", "is zero"),
    "wrong dimension": (
        {"vector": [[1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]}, 0, "vector",
        "vector of 1 numbers; expected 2 finite numbers.*as in most rows"),
    "no vector": (
        {"vector": [[1.0, 1.0], None, [1.0, 1.0], [1.0, 1.0]]}, 1, "vector", "no vector"),
    "blank text": ({"vector": None, "text": ["a", "b", " \n", "c"]}, 2, "text", "no text"),
    "no image": ({"vector": None, "image": [b"x", b"", b"z", b"w"]}, 1, "image", "no image"),
    "image file that is not there": (
        {"vector": None, "image": ["items.parquet", "items.parquet", "no.png", "no.png"]}, 2,
        "image", "cannot read 'no.png' .*No such file"),
    "image path with a null byte": (
        {"vector": None, "image": ["a\x00b", "items.parquet", "items.parquet", "items.parquet"]},
        0, "image", "cannot read"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_one_line_or_set_aside(case, tmp_path):
    columns, row, column, reason = BAD_ROWS[case]
    path = write(tmp_path, rows(**columns))
    with pytest.raises(ItemsError) as raised:
        read_items(path)
    line = str(raised.value)
    assert line.startswith(f"{path}: row {row} (item ")
    assert re.search(f"column '{column}': .*{reason}", line), line
    assert "\n" not in line

    rejected = tmp_path / "rejected.parquet"
    kept = read_items(path, rejected=rejected)
    aside = pq.read_table(rejected).to_pylist()
    assert len(kept) + len(aside) == 4
    assert aside[0]["rejected_row"] == row
    assert aside[0]["rejected_column"] == column
    assert re.search(reason, aside[0]["reason"])
    assert aside[0]["item_id"] == pq.read_table(path)["item_id"].to_pylist()[row]
    assert read_items(path, rejected=rejected).digest() == kept.digest()


def test_a_bad_row_is_no_witness_against_a_good_one(tmp_path):
    table = rows(item_id=["a", "a", "b", "c"], vector=[[0.0, 0.0], *[[1.0, 1.0]] * 3],
                 split=["train", "report", "calibrate", "calibrate"])
    kept = read_items(write(tmp_path, table), rejected=tmp_path / "rejected.parquet")
    assert kept.item_id.tolist() == ["a", "b", "c"]


def test_held_out_rows_may_share_a_class_with_a_split(tmp_path):
    table = rows(split=["train", "held_out", "calibrate", "held_out"])
    assert read_items(write(tmp_path, table)).split.tolist()[1] == "held_out"


BAD_TABLES = {
    "missing column": (rows(customer=None), "column 'customer' is missing; expected item_id"),
    "no content": (rows(vector=None), "no content columns; expected exactly one of image, text"),
    "two contents": (rows(text=["a"] * 4), "text and vector content columns"),
    "no rows": (pa.table(rows()).slice(0, 0), "no items"),
    "ids of floats": (rows(item_id=[1.5, 2.5, 3.5, 4.5]), "column 'item_id': expected strings"),
    "vectors of strings": (rows(vector=[["a"]] * 4), "column 'vector': expected lists of numbers"),
    "images of numbers": (rows(vector=None, image=[1] * 4), "column 'image': expected file paths"),
    "texts of numbers": (rows(vector=None, text=[1] * 4), "column 'text': expected strings"),
    "only bad rows": (rows(vector=[[0.0]] * 4), "row 0 .*vector is zero"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_one_line_that_names_the_file(case, tmp_path):
    table, reason = BAD_TABLES[case]
    path = write(tmp_path, table)
    for options in ({}, {"rejected": tmp_path / "rejected.parquet"}):
        with pytest.raises(ItemsError, match=reason) as raised:
            read_items(path, **options)
        assert str(raised.value).startswith(f"{path}: ")
        assert "\n" not in str(raised.value)


def test_a_csv_header_that_repeats_a_column_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("item_id,label,customer,text,label\na,b,c,d,e\n")
    with pytest.raises(ItemsError, match="column 'label' stands 2 times"):
        read_items(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.parquet", None, "no such file"),
        ("a.parquet", b"PAR1 but not really", "not a readable parquet file"),
        ("a.feather", b"", "not a readable feather file"),
        ("a.csv", b"item_id,label\na,b,c\n", "not a readable csv file"),
        ("a.csv", b"", "not a readable csv file"),
        ("a.xlsx", b"x", "unknown format; expected .parquet, .csv"),
    ],
)
def test_an_unreadable_file_is_one_line(name, data, reason, tmp_path):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ItemsError, match=re.escape(reason)) as raised:
        read_items(tmp_path / name)
    assert str(raised.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(raised.value)


def test_a_bad_vector_in_csv_is_named(tmp_path):
    (tmp_path / "a.csv").write_text(
        'item_id,label,customer,vector\na,b,c,"[1, 2]"\nd,b,c,"1 2"\ne,b,c,"[[1], [2]]"\n'
        'f,b,c,5\ng,b,c,"[3, 4]"\n'
    )
    with pytest.raises(ItemsError, match=r"row 1 .*not a vector; expected JSON such as"):
        read_items(tmp_path / "a.csv")
    kept = read_items(tmp_path / "a.csv", rejected=tmp_path / "rejected.parquet")
    assert kept.item_id.tolist() == ["a", "g"]


def test_a_folder_is_read_by_label_or_by_customer_and_label(tmp_path):
    files = {"cat/1.png": "red", "dog/1.PNG": "blue", "acme/cat/9.png": "green", "top.png": "red"}
    for name, colour in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(colour))
    (tmp_path / ".DS_Store").write_bytes(b"x")
    items = read_items(tmp_path)
    found = {
        i: (label, customer)
        for i, label, customer in zip(items.item_id, items.label, items.customer, strict=True)
    }
    assert found == {
        "cat/1.png": ("cat", None), "dog/1.PNG": ("dog", None),
        "acme/cat/9.png": ("cat", "acme"), "top.png": (None, None),
    }
    assert items.content[items.item_id.tolist().index("acme/cat/9.png")] == png("green")


@pytest.mark.parametrize(("name", "reason"), [
    ("cat/notes.txt", "cat/notes.txt: expected only images"),
    ("a/b/c/d.png", "expected label/file or customer/label/file"),
])
def test_a_file_that_does_not_belong_into_a_folder_is_named(name, reason, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(png("red"))
    with pytest.raises(ItemsError, match=reason):
        read_items(tmp_path)


def test_a_file_whose_name_is_no_text_is_named(tmp_path):
    (tmp_path / "label").mkdir()
    (tmp_path / "label" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    with pytest.raises(ItemsError, match=r"'label/.+udcff.png': the name is not UTF-8"):
        read_items(tmp_path)


def test_an_empty_folder_has_no_items(tmp_path):
    with pytest.raises(ItemsError, match="no items"):
        read_items(tmp_path)


def image_rows(*images):
    n = len(images)
    return rows(n, vector=None, image=list(images), label=[k // 2 for k in range(n)])


def test_images_are_decoded_in_row_order_whether_path_or_bytes(tmp_path):
    (tmp_path / "r.png").write_bytes(png("red"))
    (tmp_path / "b.png").write_bytes(png("blue"))
    by_path = read_items(write(tmp_path, image_rows("r.png", "b.png")))
    by_bytes = read_items(write(tmp_path, image_rows(png("red"), png("blue"))))
    assert by_path.digest() == by_bytes.digest()
    items, pixels = decode_all(by_path, 8, source="items.parquet")
    assert items is by_path
    assert pixels.shape == (2, 8, 8, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[:, 0, 0], [[255, 0, 0], [0, 0, 255]])


def test_an_undecodable_image_is_one_line_or_set_aside_beside_other_bad_rows(tmp_path):
    images = [png("red"), b"no image at all", png("blue"), b"", png("lime")[:40]]
    path = write(tmp_path, image_rows(*images))
    rejected = tmp_path / "rejected.parquet"
    items = read_items(path, rejected=rejected)
    assert items.item_id.tolist() == ["i0", "i1", "i2", "i4"]
    with pytest.raises(ItemsError, match=r"^t: row 1 \(item 'i1'\), column 'image': ") as raised:
        decode_all(items, 8, source="t")
    assert "\n" not in str(raised.value)
    kept, pixels = decode_all(items, 8, source="t", rejected=rejected)
    assert kept.item_id.tolist() == ["i0", "i2"]
    np.testing.assert_array_equal(pixels[:, 4, 4], [[255, 0, 0], [0, 0, 255]])
    aside = pq.read_table(rejected)
    assert aside["item_id"].to_pylist() == ["i3", "i1", "i4"]
    assert aside["label"].to_pylist() == ["1", "0", "2"]
    assert aside["rejected_row"].to_pylist() == [3, None, None]
    assert all(aside["reason"].to_pylist())


def test_decoding_refuses_what_is_no_image_and_what_leaves_nothing(tmp_path):
    vectors = read_items(write(tmp_path, rows()))
    with pytest.raises(ItemsError, match="items hold vector; expected a column 'image'"):
        decode_all(vectors, 8, source="t")
    broken = read_items(write(tmp_path, image_rows(b"x", b"y")))
    with pytest.raises(ItemsError, match="none of 2 images can be decoded"):
        decode_all(broken, 8, source="t", rejected=tmp_path / "rejected.parquet")


def numbered(count):
    """Images whose pixels tell their number, as rows of a table."""
    return [png((number, 255 - number, number // 2)) for number in range(count)]


def test_decoding_to_a_file_gives_the_same_pixels_as_in_memory(tmp_path):
    items = read_items(write(tmp_path, image_rows(*numbered(200))))
    path = tmp_path / "pixels.npy"
    kept, pixels = decode_all(items, 8, source="t", into=path)
    assert kept is items
    np.testing.assert_array_equal(pixels[:, 3, 3, 0], np.arange(200))
    np.testing.assert_array_equal(pixels, decode_all(items, 8, source="t")[1])
    np.testing.assert_array_equal(np.load(path), pixels)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["items.parquet", "pixels.npy"]


def test_the_file_closes_up_over_images_that_were_left_out(tmp_path):
    images, bad = numbered(200), [0, 1, 63, 64, 130, 199]
    for row in bad:
        images[row] = b"no image"
    items = read_items(write(tmp_path, image_rows(*images)))
    good = [row for row in range(200) if row not in bad]
    for into in (tmp_path / "pixels.npy", None):
        rejected = tmp_path / f"{into is None}.parquet"
        kept, pixels = decode_all(items, 8, source="t", rejected=rejected, into=into)
        assert kept.item_id.tolist() == [f"i{row}" for row in good]
        assert pixels.shape == (194, 8, 8, 3)
        np.testing.assert_array_equal(pixels[:, 3, 3, 0], good)
        assert pq.read_table(rejected)["item_id"].to_pylist() == [f"i{row}" for row in bad]
    stored = np.load(tmp_path / "pixels.npy")
    np.testing.assert_array_equal(stored[:, 3, 3, 0], good)
    # A header and the pixels that are left, nothing behind them.
    offset = np.load(tmp_path / "pixels.npy", mmap_mode="r").offset
    assert (tmp_path / "pixels.npy").stat().st_size == offset + stored.nbytes


def test_the_first_bad_image_is_named_whatever_thread_finds_one_first(tmp_path):
    images = numbered(250)
    for row in (70, 130, 131, 249):
        images[row] = b"no image"
    # The part before the bad one takes longest.
    images[:64] = [png((1, 2, 3), (500, 500))] * 64
    items = read_items(write(tmp_path, image_rows(*images)))
    for _ in range(3):
        with pytest.raises(ItemsError, match=r"^t: row 70 \(item 'i70'\)"):
            decode_all(items, 8, source="t", into=tmp_path / "pixels.npy")
    assert [entry.name for entry in tmp_path.iterdir()] == ["items.parquet"]


def test_images_are_fitted_into_the_square_as_asked_for(tmp_path):
    items = read_items(write(tmp_path, image_rows(png("red", (16, 4)), png("blue", (4, 16)))))
    padded = decode_all(items, 8, source="t")[1]
    cropped = decode_all(items, 8, source="t", fit="crop")[1]
    np.testing.assert_array_equal(padded[:, 0, 0], [[255, 255, 255], [255, 255, 255]])
    np.testing.assert_array_equal(cropped[:, 0, 0], [[255, 0, 0], [0, 0, 255]])
