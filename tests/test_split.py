"""The open-world split: whole classes, every customer in every split, moved only by the seed."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import DataConfig
from pipeline.data.items import CLASS_SPLITS, Items, ItemsError
from pipeline.data.split import assign_splits


def objects(values):
    column = np.empty(len(values), np.object_)
    column[:] = values
    return column


def items_of(pairs, split=None, style=None):
    """Items of (label, customer) ``pairs``."""
    n = len(pairs)
    return Items(
        item_id=objects([f"i{k}" for k in range(n)]),
        label=objects([label for label, _ in pairs]),
        customer=objects([customer for _, customer in pairs]),
        role=objects(["both"] * n),
        split=objects(split or [""] * n),
        kind="text",
        content=objects(["x"] * n),
        metadata=pa.table({"style": style}) if style else pa.table({}),
    )


def config(**options):
    return DataConfig(items="items.parquet", **options)


def classes(customer, n):
    return [(f"{customer}{k}", customer) for k in range(n) for _ in range(2)]


@given(
    st.lists(st.tuples(st.integers(0, 9).map(str), st.sampled_from(["a", "b", None])), max_size=60),
    st.integers(0, 3),
)
def test_no_class_lies_in_two_splits(pairs, seed):
    pairs = [*pairs, ("x", "a"), ("y", "a"), ("z", "a"), (None, "a")]
    split = assign_splits(items_of(pairs), config(split_seed=seed)).split
    found = defaultdict(set)
    for (label, _), name in zip(pairs, split, strict=True):
        found[label].add(name)
    assert found.pop(None) == {"unlabelled"}
    assert all(len(names) == 1 and names <= set(CLASS_SPLITS) for names in found.values())


@pytest.mark.parametrize(("calibrate", "report"), [(0.01, 0.9), (0.9, 0.01), (0.49, 0.5)])
def test_every_customer_with_three_classes_has_one_in_each_split(calibrate, report):
    pairs = [pair for n, name in ((3, "a"), (4, "b"), (40, "c")) for pair in classes(name, n)]
    shares = config(calibrate_share=calibrate, report_share=report)
    items = assign_splits(items_of(pairs), shares)
    for name in "abc":
        assert set(items.split[items.customer == name]) == set(CLASS_SPLITS)


def test_the_shares_are_shares_of_the_classes():
    split = assign_splits(
        items_of(classes("a", 200)), config(calibrate_share=0.2, report_share=0.3)
    ).split
    # 200 classes of two items: 0.2 -> 40 classes, 0.3 -> 60 classes, 100 remain.
    assert Counter(split) == {"calibrate": 80, "report": 120, "train": 200}


def test_customers_with_fewer_than_three_classes_are_split_together():
    pairs = [(f"only{k}", f"customer{k}") for k in range(40)]
    split = assign_splits(items_of(pairs), config()).split
    assert Counter(split) == {"train": 20, "calibrate": 10, "report": 10}


def test_a_class_of_two_customers_counts_for_the_first():
    # b's three own classes stay three, so that each goes to another split; a has the other nine.
    pairs = [*classes("a", 9), *classes("b", 3), *[(f"a{k}", "b") for k in range(9)]]
    for seed in range(5):
        items = assign_splits(items_of(pairs), config(split_seed=seed))
        assert set(items.split[18:24]) == set(CLASS_SPLITS)


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows():
    items = items_of(classes("a", 50))
    first = assign_splits(items, config())
    order = np.random.default_rng(0).permutation(len(items))
    shuffled = assign_splits(items.take(order), config())
    assert shuffled.split.tolist() == first.split[order].tolist()
    assert assign_splits(items, config(split_seed=1)).split.tolist() != first.split.tolist()


def test_the_assignment_is_pinned_so_that_runs_of_old_recipes_keep_their_split():
    items = assign_splits(items_of(classes("a", 8)), config())
    # In order of sha256 of "0\\n" + label: a1 a2 a6 a4 a0 a3 a5 a7.
    assert " ".join(items.split[::2]) == (
        "train report report train calibrate train calibrate train"
    )


def test_a_split_column_is_kept():
    pairs = [("x", "a"), ("y", "a"), ("z", "a"), (None, "a")]
    given_splits = ["report", "train", "calibrate", ""]
    items = assign_splits(items_of(pairs, split=given_splits), config())
    assert items.split.tolist() == ["report", "train", "calibrate", "unlabelled"]


def test_held_out_values_leave_every_split_and_do_not_move_the_others():
    pairs = [*classes("a", 6), *((f"new{k}", "a") for k in range(8)), (None, "a")]
    style = ["flat", "flat", "line", *["flat"] * 9, *["line"] * 9]
    options = {"held_out_column": "style", "held_out_values": ("line",)}
    items = assign_splits(items_of(pairs, style=style), config(**options))
    held = [k for k, name in enumerate(items.split) if name == "held_out"]
    assert held == [2, *range(12, 21)]
    # The new classes are only in held-out rows: they take no place among the six.
    kept = items.take(np.flatnonzero(items.split != "held_out"))
    six = assign_splits(items_of(classes("a", 6)), config())
    expected = dict(zip(six.label, six.split, strict=True))
    assert dict(zip(kept.label, kept.split, strict=True)) == expected


def test_held_out_numbers_are_compared_as_they_are_written():
    items = items_of(classes("a", 3), style=[1, 1, 1, 1, 1, 2])
    options = {"held_out_column": "style", "held_out_values": ("2",)}
    assert assign_splits(items, config(**options)).split[5] == "held_out"


@pytest.mark.parametrize(
    ("items", "options", "reason"),
    [
        (items_of(classes("a", 2)), {}, "no class in split 'calibrate', of 2 classes in all"),
        (items_of([(None, "a")] * 3), {}, "no class in split 'train', of 0 classes in all"),
        (items_of(classes("a", 2), split=["train", "train", "report", "report"]), {},
         "no class in split 'calibrate'.*at least three classes"),
        (items_of(classes("a", 3), style=["x"] * 6),
         {"held_out_column": "vendor", "held_out_values": ("x",)},
         "no column 'vendor' for held_out_column; further columns: style"),
        (items_of(classes("a", 3), style=["x"] * 6),
         {"held_out_column": "style", "held_out_values": ("y",)},
         "no row has 'y' in column 'style'; expected one of x"),
    ],
)
def test_a_split_that_cannot_be_made_is_one_line(items, options, reason):
    with pytest.raises(ItemsError, match=reason) as raised:
        assign_splits(items, config(**options))
    assert str(raised.value).startswith("items.parquet: ")
    assert "\n" not in str(raised.value)
