"""The committed table of icons: what its script and its licence file say of it is so."""

from __future__ import annotations

import io
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.datasets import build_icons, icon_names
from jobs.datasets.icon_names import plainest, titles, words_of
from pipeline.config import load_recipe
from pipeline.data.items import CLASS_SPLITS
from pipeline.data.readers import read_items
from pipeline.data.split import assign_splits

TABLE = Path(build_icons.__file__).with_name("icons.parquet")
LICENCES = TABLE.with_name("icons_licences.md").read_text(encoding="utf-8")
RECIPE = TABLE.parents[1] / "recipes" / "icons.toml"
SETS = {*build_icons.CUSTOMERS, *build_icons.GALLERY}


@pytest.fixture(scope="module")
def items():
    return read_items(TABLE)


@pytest.fixture(scope="module")
def metadata(items):
    return items.metadata.to_pydict()


def test_the_counts_are_the_ones_that_the_script_states(items):
    says = " ".join((build_icons.__doc__ or "").split())
    classes, asking = Counter(items.label.tolist()), int((items.role == "query").sum())
    customers, gallery = len(build_icons.CUSTOMERS), len(build_icons.GALLERY)
    assert (
        f"{len(items):,} images of {len(classes):,} classes, {customers} customers and a gallery "
        f"of {gallery} sets, {TABLE.stat().st_size / 1e6:.1f} MB; {asking:,} rows only ask, "
        f"{len(items) - asking:,} are only asked for"
    ) in says
    least, most = min(classes.values()), max(classes.values())
    assert least == build_icons.LEAST_SETS
    assert f"A class has {least} to {most} images, one a set" in says
    assert TABLE.stat().st_size <= 8e6


def test_the_number_of_images_that_equal_one_of_another_class_is_the_one_stated(items):
    labels = defaultdict(set)
    for image, label in zip(items.content, items.label, strict=True):
        labels[image].add(label)
    equal = sum(len(labels[image]) > 1 for image in items.content)
    assert f"{equal} images equal one of another class" in " ".join(build_icons.__doc__.split())


def test_every_set_stands_in_the_licence_file_with_its_count_and_a_free_licence(metadata):
    spelt = {"MIT": "MIT", "ISC": "ISC", "Apache-2.0": "Apache 2.0", "CC-BY-4.0": "CC BY 4.0"}
    counted = Counter(zip(metadata["set"], metadata["licence"], strict=True))
    assert {name for name, _ in counted} == SETS
    for (name, licence), count in counted.items():
        assert licence in build_icons.LICENCES
        row = rf"^\| `{name}` \| {count:,} \| .+ \| .+ \| \[.+\]\(http.+\) \| \[?{spelt[licence]}\b"
        assert re.search(row, LICENCES, re.MULTILINE), name
    assert len(re.findall("^\\| `", LICENCES, re.MULTILINE)) == len(SETS)
    assert build_icons.FOLDER.split("/")[0].rpartition("-")[2] in LICENCES


def test_customers_only_ask_and_the_gallery_belongs_to_all(items, metadata):
    for name, customer, role in zip(metadata["set"], items.customer, items.role, strict=True):
        asks = name in build_icons.CUSTOMERS
        assert (customer, role) == ((name, "query") if asks else (None, "gallery"))


def test_a_class_has_one_image_a_set_and_both_queries_and_a_gallery(items, metadata):
    pairs = Counter(zip(items.label, metadata["set"], strict=True))
    assert set(pairs.values()) == {1}
    for role in ("query", "gallery"):
        assert set(items.label[items.role == role]) == set(items.label)


def test_a_sample_of_images_is_grey_48_pixels_and_shows_something(items):
    for row in range(0, len(items), 31):
        with Image.open(io.BytesIO(items.content[row])) as image:
            assert (image.format, image.size, image.mode) == ("WEBP", (48, 48), "RGB")
            pixels = np.asarray(image, np.int64)
        np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])
        assert set(np.unique(pixels)) <= set(range(0, 256, 17))
        assert pixels.max() - pixels.min() > 40, items.item_id[row]


def test_the_recipe_reads_the_table_and_every_split_holds_every_customer(items):
    recipe = load_recipe(RECIPE)
    split = assign_splits(items, recipe.data).split
    labels = {name: set(items.label[split == name]) for name in CLASS_SPLITS}
    assert sum(map(len, labels.values())) == len(set.union(*labels.values()))
    assert len(labels["report"]) >= 200
    for name in CLASS_SPLITS:
        assert set(items.customer[split == name]) == {*build_icons.CUSTOMERS, None}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("home", ("home",)),
        ("house-16-solid", ("home",)),
        ("home-01", ("home",)),
        ("home-2", ("home", "2")),
        ("outline-home", ("home",)),
        ("user-add-line-duotone", ("user", "plus")),
        ("magnifying-glass-plus", ("search", "plus")),
        ("round", ("round",)),
        ("round-table", ("round", "table")),
        ("headline", ("headline",)),
        ("", ()),
    ],
)
def test_the_words_of_a_name_are_what_is_left_without_its_style(name, words):
    assert words_of(name, ("outline",), ("", "line-duotone", "duotone", "16-solid")) == words


def test_a_set_gives_its_plainest_icon_and_says_what_it_draws_twice():
    names = {
        "plus-circle-fill": ("plus", "circle"), "plus-circle": ("plus", "circle"),
        "sort-a-z": ("sort", "a", "z"), "sort-z-a": ("sort", "z", "a"), "b": ("b",), "a": ("b",),
    }  # fmt: skip
    chosen, twice = plainest(names)
    assert chosen == {("circle", "plus"): "plus-circle", ("a", "sort", "z"): "sort-a-z",
                      ("b",): "a"}
    assert twice == {("a", "sort", "z")}


def test_a_concept_is_called_as_most_sets_call_it():
    spellings = [("b", "a"), ("a", "b"), ("b", "a"), ("d", "c"), ("c", "d")]
    assert titles(spellings) == {("a", "b"): "b-a", ("c", "d"): "c-d"}


def test_no_word_stands_for_itself_or_for_a_word_that_is_replaced():
    assert not set(icon_names.WORDS) & set(icon_names.WORDS.values())
    assert not set(icon_names.WORDS) & icon_names.STYLES


@pytest.fixture
def package(tmp_path):
    """A package with eight sets that draw "dot", and one more icon each in two of them."""
    folder = tmp_path / build_icons.FOLDER
    (folder / "json").mkdir(parents=True)
    body = '<circle cx="6" cy="3" r="2" fill="currentColor"/>'
    chosen = [*build_icons.CUSTOMERS[:4], *build_icons.GALLERY[:4]]
    licences = {}
    for prefix in sorted(SETS):
        icons = {"dot-outline": {"body": body, "height": 6}} if prefix in chosen else {}
        if prefix == chosen[0]:
            icons["gone"] = {"body": body, "hidden": True}
            icons["alone"] = {"body": body}
        content = {"icons": icons, "width": 12, "height": 12}
        (folder / "json" / f"{prefix}.json").write_text(json.dumps(content))
        licences[prefix] = {"license": {"spdx": "MIT"}}
    (folder / "collections.json").write_text(json.dumps(licences))
    return tmp_path


def test_a_package_becomes_a_table_of_its_shared_concepts(package):
    table = build_icons.build(package).to_pylist()
    assert [row["label"] for row in table] == ["dot"] * 8
    assert [row["set"] for row in table] == sorted(row["set"] for row in table)
    assert table[0]["item_id"] == f"{table[0]['set']}/dot-outline"
    assert Counter(row["role"] for row in table) == {"query": 4, "gallery": 4}
    with Image.open(io.BytesIO(table[0]["image"])) as image:
        pixels = np.asarray(image.convert("L"))
    # 12 x 6 units in the middle of a square of 12: the dot is at its centre, 4 pixels a unit.
    dark = np.argwhere(pixels < 128)
    np.testing.assert_allclose(dark.mean(axis=0), [23.5, 23.5], atol=0.5)
    np.testing.assert_allclose(np.ptp(dark, axis=0), [15, 15], atol=1)


def test_a_concept_that_some_set_has_in_two_orders_is_left_out(package):
    path = package / build_icons.FOLDER / "json" / f"{build_icons.CUSTOMERS[0]}.json"
    content = json.loads(path.read_text())
    content["icons"] |= {"a-dot": {"body": ""}, "dot-a": {"body": ""}}
    path.write_text(json.dumps(content))
    one = build_icons.read_set(package / build_icons.FOLDER, build_icons.CUSTOMERS[0])
    assert plainest(one.words)[1] == {("a", "dot")}


def test_a_set_under_another_licence_is_refused(package):
    path = package / build_icons.FOLDER / "collections.json"
    about = json.loads(path.read_text())
    about["bi"]["license"]["spdx"] = "CC-BY-NC-4.0"
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"bi: licence CC-BY-NC-4.0; expected one of"):
        build_icons.build(package)


def test_a_missing_package_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"collections.json: not there; expected the npm packages"):
        build_icons.main([str(tmp_path), "--out", str(tmp_path / "out.parquet")])
    assert not (tmp_path / "out.parquet").exists()
