"""Training batches: m items of c classes, even over classes, a pure function of the step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.batches import ClassBatches
from pipeline.data.items import ItemsError


def batches_of(labels, classes=3, items=4, seed=0):
    return ClassBatches(
        np.asarray(labels, np.int64), classes_per_batch=classes, items_per_class=items, seed=seed
    )


@given(
    st.lists(st.integers(-5, 5), max_size=40), st.integers(1, 3), st.integers(2, 5),
    st.integers(0, 50),
)
def test_a_batch_holds_m_items_of_each_of_c_classes(extra, classes, items, step):
    labels = np.array([*extra, 7, 7, 8, 8, 9, 9])
    rows = batches_of(labels, classes, items).rows(step)
    assert rows.dtype == np.int64
    assert Counter(Counter(labels[rows]).values()) == {items: classes}
    for label in set(labels[rows]):
        members = int((labels == label).sum())
        times = Counter(rows[labels[rows] == label].tolist()).values()
        # All members before any is repeated, and as evenly as the numbers allow.
        assert len(times) == min(members, items)
        assert max(times) - min(times) <= (0 if members >= items else 1)


def test_rows_of_a_class_stand_together():
    labels = np.repeat(np.arange(6), 5)
    assert (labels[batches_of(labels).rows(0)].reshape(3, 4).std(axis=1) == 0).all()


def test_a_batch_depends_on_seed_and_step_alone():
    labels = np.random.default_rng(0).integers(0, 20, 300)
    one, other = batches_of(labels), batches_of(labels)
    forwards = [one.rows(step) for step in range(12)]
    backwards = [other.rows(step) for step in reversed(range(12))][::-1]
    np.testing.assert_array_equal(forwards, backwards)
    assert len({rows.tobytes() for rows in forwards}) == 12
    assert not np.array_equal(batches_of(labels, seed=1).rows(0), forwards[0])


def test_every_class_comes_once_before_any_comes_again():
    labels = np.repeat(np.arange(12), 5)
    batches = batches_of(labels)
    for first in (0, 4, 8):  # 12 classes, 3 in a batch: rounds of 4 batches
        seen = np.concatenate([labels[batches.rows(first + k)] for k in range(4)])
        assert Counter(seen) == dict.fromkeys(range(12), 4)


def test_classes_that_a_round_leaves_over_come_in_other_rounds():
    labels = np.repeat(np.arange(5), 2)  # rounds of one batch of 3, two classes left over
    batches = batches_of(labels, items=2)
    seen = Counter(np.concatenate([labels[batches.rows(k)] for k in range(200)]).tolist())
    # Each class comes in 3 of 5 batches, two rows a batch: 240 rows, sd about 14.
    assert min(seen.values()) > 180
    assert max(seen.values()) < 300


def test_all_items_of_a_large_class_come_up():
    labels = np.repeat(np.arange(3), 20)
    batches = batches_of(labels)
    assert set(np.concatenate([batches.rows(k) for k in range(60)]).tolist()) == set(range(60))


def test_a_class_with_one_item_is_left_out_and_counted():
    batches = batches_of([0, 0, 1, 2, 2, 3, 3, 4])
    assert batches.left_out == 2
    assert not {2, 7} & set(np.concatenate([batches.rows(k) for k in range(20)]).tolist())


@pytest.mark.parametrize(("labels", "found"), [([0, 0, 1, 1, 2], 2), ([], 0)])
def test_too_few_classes_are_one_line(labels, found):
    with pytest.raises(ItemsError, match=f"^{found} classes .*classes_per_batch = 3: lower it"):
        batches_of(labels)
