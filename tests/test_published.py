"""Published data sets: recognised by their files, split as published, decoded from disk."""

from __future__ import annotations

import hashlib
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.io

from pipeline.config import DataConfig
from pipeline.data.decoding import ImageError
from pipeline.data.images import decode_all, encoded_image
from pipeline.data.items import ItemsError, load_items
from pipeline.data.labels import read_labels
from pipeline.data.published import LAYOUTS, layout_of, read_published
from pipeline.data.readers import join_rejected, read_items
from pipeline.data.split import assign_splits
from tests import published_world as world

SETS = {
    "birds": world.birds, "cars": world.cars, "car_devkit": world.car_devkit,
    "products": world.products, "species": world.species,
}  # fmt: skip


@pytest.fixture(params=SETS)
def folder(request, tmp_path):
    found = tmp_path / request.param
    SETS[request.param](found)
    return found


def halves(classes_of):
    """The split of test classes ``{customer: labels}``, worked out apart from the reader."""
    place, found = 0, {}
    for customer in sorted(classes_of):
        labels = classes_of[customer]
        for label in sorted(labels, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
            found[label] = "calibrate" if place % 2 == 0 else "report"
            place += 1
    return found


def columns(items, *names):
    return list(zip(*(getattr(items, name).tolist() for name in names), strict=True))


def test_birds_train_on_classes_up_to_100(tmp_path):
    world.birds(tmp_path)
    items = read_items(tmp_path)
    test = halves({"": [f"{n:03d}.Bird_{n}" for n in range(101, 107)]})
    assert columns(items, "item_id", "label", "customer", "split") == [
        (f"images/{label}/Bird_{n}_{k:04d}_{n * k}.jpg", label, None, test.get(label, "train"))
        for n in range(95, 107) for label in [f"{n:03d}.Bird_{n}"] for k in range(2)
    ]  # fmt: skip


def test_cars_train_on_classes_up_to_98_and_are_called_by_their_names(tmp_path):
    world.cars(tmp_path)
    items = read_items(tmp_path)
    names = {n: f"Make{n} Model C/V {n} 2012" for n in range(94, 104)}
    test = halves({"": [names[n] for n in range(99, 104)]})
    assert columns(items, "item_id", "label", "customer", "split") == [
        (f"car_ims/{n * 10 + k:06d}.jpg", names[n], None, test.get(names[n], "train"))
        for n in range(94, 104) for k in range(2)
    ]  # fmt: skip


def test_both_folders_of_the_devkit_hold_train_and_test_classes(tmp_path):
    world.cars(tmp_path / "a")
    world.car_devkit(tmp_path / "b")
    old, new = read_items(tmp_path / "a"), read_items(tmp_path / "b")
    assert set(columns(old, "label", "customer", "split")) == set(
        columns(new, "label", "customer", "split")
    )
    assert new.item_id.tolist() == [
        f"cars_{part}/{n:05d}.jpg" for part in ("train", "test") for n in range(94, 104)
    ]


def test_products_are_split_by_their_files_and_the_super_class_is_the_customer(tmp_path):
    world.products(tmp_path)
    items = read_items(tmp_path)
    groups = {"bicycle": 1000, "chair": 2000, "sofa": 3000}
    test = halves({name: [str(n + k) for k in range(3, 6)] for name, n in groups.items()})
    assert columns(items, "item_id", "label", "customer", "split") == [
        (f"{name}_final/11{n + k}_{shot}.JPG", str(n + k), name, test.get(str(n + k), "train"))
        for part in (range(3), range(3, 6))
        for name, n in groups.items() for k in part for shot in range(2)
    ]  # fmt: skip


def test_species_are_split_by_their_files_and_the_super_category_is_the_customer(tmp_path):
    world.species(tmp_path)
    items = read_items(tmp_path)
    groups = {"Aves": range(1, 7), "Fungi": range(7, 13), "Plantae": range(13, 19)}
    test = halves({name: [str(n) for n in found if n % 2] for name, found in groups.items()})
    assert columns(items, "item_id", "label", "customer", "split") == [
        (f"train_val2018/{name}/{n}/{n:08d}{shot}.jpg", str(n), name, test.get(str(n), "train"))
        for odd in (0, 1) for name, found in groups.items() for n in found if n % 2 == odd
        for shot in range(2)
    ]  # fmt: skip


@pytest.mark.parametrize(("write", "classes", "trained"), [
    (world.birds, 200, 100), (world.cars, 196, 98), (world.car_devkit, 196, 98),
])  # fmt: skip
def test_the_split_of_all_classes_has_the_published_sizes(tmp_path, write, classes, trained):
    write(tmp_path, classes=range(1, classes + 1))
    items = read_items(tmp_path)
    sizes = {
        name: len(set(items.label[items.split == name]))
        for name in ("train", "calibrate", "report")
    }
    rest = (classes - trained) // 2
    assert sizes == {"train": trained, "calibrate": rest, "report": classes - trained - rest}


def test_every_customer_calibrates_and_reports_on_classes_of_its_own(tmp_path):
    world.products(tmp_path, groups=tuple("abcdefg"), classes=10, each=1)
    items = read_items(tmp_path)
    for customer in "abcdefg":
        mine = items.split[items.customer == customer].tolist()
        assert mine.count("train") == 5
        assert sorted((mine.count("calibrate"), mine.count("report"))) == [2, 3]


def test_a_data_set_goes_from_its_folder_to_pixels_on_disk(folder, tmp_path):
    items = read_items(folder)
    split = assign_splits(items, DataConfig(items=str(folder)))
    assert split.split.tolist() == items.split.tolist()
    kept, pixels = decode_all(
        split, 8, source=str(folder), fit="crop", into=tmp_path / "pixels.npy"
    )
    assert kept is split
    red = [world.redness(path) for path in items.item_id]
    np.testing.assert_allclose(pixels[:, 4, 4, 0], red, atol=3)
    np.testing.assert_array_equal(np.load(tmp_path / "pixels.npy"), pixels)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, "pixels.npy"])


def test_images_of_a_data_set_stay_on_disk_and_count_by_name_and_size(folder, tmp_path):
    items = read_items(folder)
    assert items.on_disk
    assert items.content[0] == str(folder / items.item_id[0])
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    assert read_items(moved).digest() == items.digest()
    (moved / items.item_id[3]).write_bytes(b"another image")
    assert read_items(moved).digest() != items.digest()
    items.write(tmp_path / "items.parquet")
    again = load_items(tmp_path / "items.parquet")
    assert again.digest() == items.digest()
    assert again.content.tolist() == items.content.tolist()
    assert encoded_image(again.content[2]) == (folder / items.item_id[2]).read_bytes()
    (folder / items.item_id[2]).unlink()
    with pytest.raises(ItemsError, match=f"^{re.escape(items.content[2])}: No such file"):
        again.digest()
    with pytest.raises(ImageError, match=r"^cannot read .*No such file"):
        encoded_image(again.content[2])


def test_names_alone_are_read_without_the_images(folder):
    items = read_items(folder)
    for path in items.content:
        (folder / path).unlink()
    names = read_labels(folder)
    for column in ("item_id", "label", "customer", "role", "split"):
        assert getattr(names, column).tolist() == getattr(items, column).tolist()


@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
def test_a_data_set_that_is_partly_there_says_what_is_missing_and_where_it_is(tmp_path, layout):
    write, layout = list(SETS.values())[layout], LAYOUTS[layout]
    needed = (*layout.signs, *layout.others)
    for place, name in enumerate(needed):
        if layout.signs == (name,):
            continue  # Nothing is left to know the data set by.
        folder = tmp_path / str(place)
        write(folder)
        assert layout_of(folder) is layout
        shutil.move(folder / name, tmp_path / f"{place}.gone")
        with pytest.raises(ItemsError) as raised:
            read_items(folder)
        line = f"{folder}: {layout.name} without {name}; expected it as published at {layout.home}"
        assert str(raised.value) == line


def test_a_whole_data_set_is_taken_where_a_part_of_another_lies_beside_it(tmp_path):
    world.cars(tmp_path)
    world.car_devkit(tmp_path / "other")
    shutil.move(tmp_path / "other" / "devkit", tmp_path / "devkit")
    shutil.rmtree(tmp_path / "other")
    assert read_items(tmp_path).item_id[0] == "car_ims/000940.jpg"


def test_another_folder_of_images_is_no_data_set(tmp_path):
    world.put(tmp_path, ["images/a.jpg", "cars_train/b.jpg", "devkit/c.jpg"])
    assert layout_of(tmp_path) is None
    assert read_items(tmp_path).label.tolist() == ["cars_train", "devkit", "images"]
    assert not read_items(tmp_path).on_disk


def test_an_image_that_is_missing_or_broken_is_one_line_or_set_aside(folder, tmp_path):
    whole = read_items(folder)
    gone, broken = whole.item_id[1], whole.item_id[4]
    (folder / gone).unlink()
    (folder / broken).write_bytes(b"no image")
    with pytest.raises(ItemsError) as raised:
        read_items(folder)
    assert str(raised.value) == (
        f"{folder}: row 1 (item '{gone}'), column 'image': cannot read '{gone}' (No such file or "
        f"directory); expected a file below {folder}"
    )
    read, undecodable = tmp_path / "read.parquet", tmp_path / "undecodable.parquet"
    items = read_items(folder, rejected=read)
    with pytest.raises(ItemsError, match=rf"row 3 \(item '{re.escape(broken)}'\).*undecodable"):
        decode_all(items, 8, source=str(folder))
    kept, pixels = decode_all(
        items, 8, source=str(folder), rejected=undecodable, into=tmp_path / "pixels.npy"
    )
    assert kept.item_id.tolist() == [i for i in whole.item_id if i not in (gone, broken)]
    assert pixels.shape == (len(whole) - 2, 8, 8, 3)
    join_rejected([read, undecodable], tmp_path / "rejected.parquet")
    assert pq.read_table(tmp_path / "rejected.parquet")["item_id"].to_pylist() == [gone, broken]


def test_a_folder_in_place_of_an_image_is_no_image(tmp_path):
    world.products(tmp_path)
    (tmp_path / "bicycle_final/111000_0.JPG").unlink()
    (tmp_path / "bicycle_final/111000_0.JPG").mkdir()
    with pytest.raises(ItemsError, match=r"cannot read 'bicycle_final/111000_0.JPG' \(not a file"):
        read_items(tmp_path)


@pytest.mark.parametrize(("name", "lines", "message"), [
    ("images.txt", ["1 001.A/x.jpg", "2"], "images.txt, line 2: 1 fields; expected 2"),
    ("images.txt", ["", "1 x.jpg"], "images.txt, line 2: 'x.jpg'; expected 1 folders above"),
    ("images.txt", ["77 001.A/x.jpg"], "images.txt, line 1: image 77 has no class; expected a"),
    ("image_class_labels.txt", ["1 x"], "labels.txt, line 1: class 'x'; expected a number"),
    ("Ebay_test.txt", ["header", "1 2 3"], "Ebay_test.txt, line 2: 3 fields; expected 4, as"),
    ("Ebay_train.txt", ["header", "1 2 3 x.jpg"], "Ebay_train.txt, line 2: 'x.jpg'; expected 1"),
    ("Inat_dataset_splits/Inaturalist_test_set1.txt", ["Aves/x.jpg"],
     "test_set1.txt, line 1: 'Aves/x.jpg'; expected 2 folders above the image"),
    ("Ebay_test.txt", ["header", "1 1000 3 chair_final/x.jpg"], "class '1000' is in '"),
])  # fmt: skip
def test_a_line_that_is_not_as_published_is_named(tmp_path, name, lines, message):
    write = {"i": world.birds, "E": world.products, "I": world.species}[name[0]]
    write(tmp_path)
    world.write_lines(tmp_path / name, lines)
    if "chair" in lines[-1]:
        world.put(tmp_path, ["chair_final/x.jpg"])
    with pytest.raises(ItemsError, match=re.escape(message)) as raised:
        read_items(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(raised.value)


def test_text_that_is_no_text_and_matlab_files_that_are_none_are_refused(tmp_path):
    world.products(tmp_path / "a")
    (tmp_path / "a" / "Ebay_test.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ItemsError, match=r"Ebay_test\.txt: not a readable text file"):
        read_items(tmp_path / "a")
    world.cars(tmp_path / "b")
    path = tmp_path / "b" / "cars_annos.mat"
    data = path.read_bytes()
    names = {"class_names": world.cell(world.CAR_NAMES)}
    scipy.io.savemat(path, names, do_compression=True)
    packed = bytearray(path.read_bytes())
    packed[200:220] = bytes(20)
    for content in (b"", b"no", data[: len(data) // 2], data[:200], bytes(packed)):
        path.write_bytes(content)
        with pytest.raises(ItemsError, match=r"annos\.mat: not a readable \.mat file") as raised:
            read_items(tmp_path / "b")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("content", "message"), [
    ({"class_names": world.cell(["a"])}, "no variable 'annotations'; expected it as published"),
    ({"annotations": world.annotations([("x.jpg", 1)], "relative_im_path")},
     "no variable 'class_names'"),
    ({"annotations": world.annotations([("x.jpg", 1)], "fname"), "class_names": world.cell(["a"])},
     "annotation 1: no class or no file name; expected both"),
    ({"annotations": world.annotations([("x.jpg", 1), ("y.jpg", 3)], "relative_im_path"),
      "class_names": world.cell(["a", "b"])}, "annotation 2: class 3; expected 1 to 2"),
    ({"annotations": np.arange(3), "class_names": world.cell(["a"])}, "annotation 1: no class"),
])  # fmt: skip
def test_annotations_that_are_not_as_published_are_named(tmp_path, content, message):
    world.cars(tmp_path)
    scipy.io.savemat(tmp_path / "cars_annos.mat", content)
    with pytest.raises(ItemsError, match=re.escape(f"{tmp_path}: cars_annos.mat")) as raised:
        read_items(tmp_path)
    assert message in str(raised.value)


def test_a_single_annotation_is_read_like_many(tmp_path):
    world.cars(tmp_path, classes=[98], each=1)
    layout = layout_of(tmp_path)
    assert read_published(tmp_path, layout)["split"].to_pylist() == ["train"]


def test_the_unlabelled_test_annotations_of_the_devkit_say_so(tmp_path):
    world.car_devkit(tmp_path)
    found = np.zeros((1, 1), [("fname", object), ("bbox_x1", object)])
    found[0, 0] = ("00001.jpg", 3)
    scipy.io.savemat(tmp_path / "cars_test_annos_withlabels.mat", {"annotations": found})
    with pytest.raises(ItemsError, match="with the labels of the test images"):
        read_items(tmp_path)
