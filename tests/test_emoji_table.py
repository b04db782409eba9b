"""The committed demo table: what its script and its licence file say of it is so."""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.datasets import build_emoji, emoji_names
from pipeline.config import DataConfig
from pipeline.data.items import CLASS_SPLITS
from pipeline.data.readers import read_items
from pipeline.data.split import assign_splits

TABLE = Path(build_emoji.__file__).with_name("emoji.parquet")
LICENCES = TABLE.with_name("emoji_licences.md").read_text(encoding="utf-8")
HELD_OUT = "fluent-high-contrast"


@pytest.fixture(scope="module")
def items():
    return read_items(TABLE)


@pytest.fixture(scope="module")
def metadata(items):
    return items.metadata.to_pydict()


def test_the_counts_are_the_ones_that_the_script_states(items, metadata):
    says = " ".join((build_emoji.__doc__ or "").split())
    assert f"{len(items):,} images of {len(set(items.label)):,} classes" in says
    for style, count in Counter(metadata["style"]).items():
        assert re.search(rf"\b{style} {count:,}\b", says), style
    assert f"{(items.role == 'query').sum():,} rows only ask" in says
    assert f"{TABLE.stat().st_size / 1e6:.1f} MB" in says
    assert len(items) >= 18_000
    assert len(set(items.label)) >= 1_900
    assert TABLE.stat().st_size <= 12e6


def test_every_style_stands_in_the_licence_file_with_its_count(metadata):
    for style, count in Counter(metadata["style"]).items():
        assert re.search(rf"^\| `{style}` \| {count:,} \| .+ \| (Apache|CC BY 4.0|MIT)", LICENCES,
                         re.MULTILINE), style
    for style in build_emoji.STYLES:
        name, _, version = style.folder.split("/")[0].rpartition("-")
        assert re.search(rf"`@?{name.replace('lobehub-', 'lobehub/')}` {version} \|", LICENCES)
    assert {style.name for style in build_emoji.STYLES} == set(metadata["style"])


def test_a_sample_of_images_decodes_to_48_pixels_and_shows_something(items):
    for row in range(0, len(items), 29):
        with Image.open(io.BytesIO(items.content[row])) as image:
            assert (image.format, image.size, image.mode) == ("WEBP", (48, 48), "RGB")
            pixels = np.asarray(image, np.int64)
        assert pixels.max() - pixels.min() > 20, items.item_id[row]


def test_a_class_has_one_category_and_one_name_and_an_item_in_the_gallery(items, metadata):
    customers, names = defaultdict(set), defaultdict(set)
    gallery = Counter(items.label[items.role != "query"].tolist())
    for label, customer, name in zip(items.label, items.customer, metadata["name"], strict=True):
        customers[label].add(customer)
        names[label].add(name)
    assert {len(found) for found in customers.values()} == {1}
    assert {len(found) for found in names.values()} == {1}
    assert set(gallery) == set(customers)
    assert min(gallery.values()) == 1
    assert len({c for found in customers.values() for c in found}) == 9


def test_one_in_five_images_only_asks_and_so_does_the_whole_held_out_style(items, metadata):
    style = np.array(metadata["style"])
    assert set(items.role[style == HELD_OUT]) == {"query"}
    asking = items.role[style != HELD_OUT] == "query"
    assert abs(asking.mean() - 0.2) < 0.01
    # A random sample: flags, most of which have two images, ask as often as the rest.
    flags = items.customer[style != HELD_OUT] == "Flags"
    assert abs(asking[flags].mean() - 0.2) < 0.05


def test_a_label_is_the_base_code_and_a_tone_never_makes_a_class(items, metadata):
    tones = set(emoji_names.TONES.values()) - {""}
    for label, item_id, tone, style in zip(
        items.label, items.item_id, metadata["tone"], metadata["style"], strict=True
    ):
        assert not tones & set(label.split("-"))
        assert set(tone.split("-")) <= tones | {""}
        assert item_id == f"{style}/{label}" + (f"-tone-{tone}" if tone else "")
    vendors = set(zip(metadata["vendor"], metadata["style"], strict=True))
    assert vendors == {(style.vendor, style.name) for style in build_emoji.STYLES}


def test_the_split_is_class_disjoint_and_holds_every_customer(items):
    config = DataConfig(items=str(TABLE), held_out_column="style", held_out_values=(HELD_OUT,))
    split = assign_splits(items, config).split
    labels = {name: set(items.label[split == name]) for name in CLASS_SPLITS}
    assert sum(map(len, labels.values())) == len(set.union(*labels.values()))
    for name in CLASS_SPLITS:
        assert set(items.customer[split == name]) == set(items.customer)
    assert (split == "held_out").sum() == Counter(items.metadata["style"].to_pylist())[HELD_OUT]


def test_the_table_was_written_as_it_is_read():
    assert pq.read_schema(TABLE).names == [
        "item_id", "label", "customer", "image", "name", "vendor", "style", "tone", "role"]


CATALOGUE = {
    "1f385": emoji_names.Drawn("1f385", "", "People & Body", "Santa Claus"),
    "1f385-1f3fc": emoji_names.Drawn("1f385", "1f3fc", "People & Body", "Santa Claus"),
    "1f9d1-1f91d-1f9d1": emoji_names.Drawn("1f9d1-1f91d-1f9d1", "", "People", "people holding"),
    "1f9d1-1f3ff-1f91d-1f9d1-1f3ff": emoji_names.Drawn(
        "1f9d1-1f91d-1f9d1", "1f3ff-1f3ff", "People", "people holding"),
    "1f6a6": emoji_names.Drawn("1f6a6", "", "Travel", "vertical traffic light"),
    "1f9df": emoji_names.Drawn("1f9df", "", "People", "zombie"),
}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("santa-claus", "1f385"),
        ("santa-claus-default", "1f385"),
        ("santa-claus-medium-light", "1f385-1f3fc"),
        ("santa-claus-light", None),
        ("people-holding-dark", "1f9d1-1f3ff-1f91d-1f9d1-1f3ff"),
        ("vertical-traffic-light", "1f6a6"),
        ("vertical-traffic", None),
        ("person-zombie", "1f9df"),
        ("person-genie", None),
    ],
)
def test_a_fluent_name_finds_its_emoji_and_tone(name, code):
    assert emoji_names.fluent_codes(CATALOGUE).get(name) == code


def test_codes_are_compared_without_selectors_zeros_and_end_tags():
    assert emoji_names.code_key("0023-FE0F-20E3") == emoji_names.code_key("23-20e3")
    assert emoji_names.code_key("1F3F4-E0067_E0062-E007F") == "1f3f4-e0067-e0062"
    assert emoji_names.slug("woman\u2019s hat & piñata: #") == "womans-hat-and-pinata-hashtag"


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_drawing_lies_on_white(alpha, tmp_path):
    Image.new("RGBA", (64, 64), (200, 30, 30, alpha)).save(tmp_path / "a.png")
    with Image.open(io.BytesIO(build_emoji.draw(tmp_path / "a.png"))) as image:
        assert image.size == (48, 48)
        np.testing.assert_allclose(
            np.asarray(image)[24, 24], [200, 30, 30] if alpha else [255, 255, 255], atol=6)


def test_missing_packages_are_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"emoji.json: not there; expected the npm packages"):
        build_emoji.main([str(tmp_path), "--out", str(tmp_path / "out.parquet")])
    assert not (tmp_path / "out.parquet").exists()
