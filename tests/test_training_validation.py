"""Held-out classes: which, what is measured on them, which measurement is the best."""

import itertools
import math

import numpy as np
import pytest

from pipeline.consistency.opis import opis
from pipeline.data.items import ItemsError
from pipeline.distance import unit
from pipeline.statistics.intervals import Interval
from pipeline.training.validation import (
    Validation,
    best_of,
    exhausted,
    similarity_at_far,
    similarity_at_frr,
    validate,
    validation_rows,
)


def world(classes=30, items=6, seed=0):
    """Unit vectors of noisy classes, their names, ids in another order than the rows."""
    rng = np.random.default_rng(seed)
    labels = np.asarray([f"class {number:02d}" for number in range(classes)]).repeat(items)
    centres = rng.normal(size=(classes, 16)).repeat(items, axis=0)
    vectors = unit(centres + rng.normal(0, 0.9, (labels.size, 16)))
    return vectors, labels, [f"i{number}" for number in rng.permutation(labels.size)]


def pairs(vectors, labels):
    """Similarities of all unordered pairs in float64, and whether each is positive."""
    wide = vectors.astype(np.float64)
    first, second = np.asarray(list(itertools.combinations(range(len(labels)), 2))).T
    return (wide[first] * wide[second]).sum(axis=1), labels[first] == labels[second]


def test_whole_classes_are_held_out_by_their_names_alone():
    labels = np.asarray([f"c{number}" for number in range(40)]).repeat(3)
    held_out = validation_rows(labels, 0.3, 0)
    assert held_out.dtype == np.bool_
    by_class = held_out.reshape(40, 3)
    assert (by_class.all(axis=1) | ~by_class.any(axis=1)).all()
    assert by_class[:, 0].sum() == 12
    shuffled = np.random.default_rng(0).permutation(labels.size)
    np.testing.assert_array_equal(
        validation_rows(labels[shuffled], 0.3, 0), held_out[shuffled]
    )
    assert (validation_rows(labels, 0.3, 1) != held_out).any()
    assert not validation_rows(labels, 0.0, 0).any()
    # More of them keep those that there were; another class moves at most one.
    assert (validation_rows(labels, 0.5, 0) >= held_out).all()
    more = np.append(labels, "another")
    assert (validation_rows(more, 0.3, 0)[:-1] != held_out).sum() <= 3


def test_at_least_two_classes_are_held_out_and_two_are_left():
    labels = np.arange(9).repeat(2)
    assert validation_rows(labels, 0.01, 0).sum() == 4
    with pytest.raises(ItemsError, match=r"holds 8 of 9 training classes out; .* lower it"):
        validation_rows(labels, 0.9, 0)
    with pytest.raises(ItemsError, match=r"holds 2 of 3 training classes out"):
        validation_rows(np.arange(3), 0.1, 0)


def test_a_measurement_is_r_at_1_and_opis_of_the_held_out_items():
    vectors, labels, ids = world()
    found = validate(vectors, labels, ids, step=7)
    similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(similarity, -2)
    assert found.recall == (labels[similarity.argmax(axis=1)] == labels).mean()
    assert 0.5 < found.recall < 1
    expected = opis(vectors, labels.tolist())
    assert found.opis_raw == pytest.approx(expected.raw, rel=1e-9)
    # The library's own halves follow the vectors, these follow the ids: equal but for the draw.
    assert found.opis.lower < expected.corrected.value < found.opis.upper
    assert (found.classes, found.items, found.step) == (30, 180, 7)
    assert math.isfinite(found.eps_opis)
    assert validate(vectors, labels, ids).step == 0


def test_ids_decide_the_halves_and_the_order_of_rows_does_not():
    vectors, labels, ids = world()
    found = validate(vectors, labels, ids)
    order = np.random.default_rng(1).permutation(len(ids))
    again = validate(vectors[order], labels[order], [ids[row] for row in order])
    assert again == found
    renamed = validate(vectors, labels, [f"other {name}" for name in ids])
    assert renamed.opis != found.opis
    assert (renamed.recall, renamed.opis_raw) == (found.recall, found.opis_raw)


def test_equal_neighbours_are_taken_in_the_order_of_their_ids():
    # Rows 1 and 2 are as near to row 0 as each other; only row 1 has its label.
    vectors = unit(np.asarray([[1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    labels = np.asarray(["a", "a", "b"])
    assert validate(vectors, labels, ["i", "j", "k"]).recall == 1.0
    # With the other first, row 0 finds it; row 1 still finds row 0.
    assert validate(vectors, labels, ["i", "k", "j"]).recall == 0.5
    # Two customers may use one id.
    assert validate(vectors, labels, ["i", "i", "i"]).recall == 1.0


def test_a_network_that_makes_all_alike_is_measured_as_unknown_not_refused():
    labels = np.arange(4).repeat(5)
    found = validate(unit(np.ones((20, 3))), labels, [str(row) for row in range(20)])
    assert math.isnan(found.opis.value)
    assert math.isnan(found.opis_raw)
    assert 0 <= found.recall <= 1
    assert best_of([found], 0.0) is None


def at(step, opis_value, recall=0.9):
    return Validation(recall, Interval(opis_value, -1, 1), 0.1, 0.1, 9, 90, step)


def test_the_best_has_the_lowest_opis_as_it_is_among_those_at_the_floor_of_recall():
    history = [at(1, 0.3), at(2, -0.1, recall=0.79), at(3, -0.05, 0.8), at(4, -0.05), at(5, 0.0)]
    assert best_of(history, 0.8).step == 3
    assert best_of(history, 0.0).step == 2
    assert best_of(history, 0.95) is None
    assert best_of([at(1, math.nan), at(2, 0.1, math.nan)], 0.0) is None
    assert best_of([], 0.0) is None


def test_patience_counts_from_the_best_measurement():
    history = [at(1, 0.3), at(2, 0.1), at(3, 0.2), at(4, 0.2)]
    assert exhausted(history, 0.0, 2)
    assert not exhausted(history, 0.0, 3)
    assert not exhausted(history, 0.0, 0)
    assert not exhausted(history, 0.95, 1)
    assert not exhausted(history[:2], 0.0, 1)


@pytest.mark.parametrize("target", [0.01, 0.1, 0.5])
def test_similarities_at_a_rate_are_those_of_all_pairs(target):
    vectors, labels, _ = world()
    similarity, positive = pairs(vectors, labels)
    step = 3e-4  # of the fine grid
    far = similarity_at_far(vectors, labels, target)
    assert (similarity[~positive] > far + 1e-6).mean() <= target
    assert (similarity[~positive] > far - step).mean() >= target - 1e-3
    frr = similarity_at_frr(vectors, labels, target)
    assert (similarity[positive] < frr - 1e-6).mean() <= target
    assert (similarity[positive] < frr + step).mean() >= target - 5e-3


def test_a_similarity_needs_pairs_of_its_kind():
    vectors = unit(np.eye(3))
    with pytest.raises(ValueError, match="no class has two items"):
        similarity_at_frr(vectors, np.arange(3), 0.1)
    with pytest.raises(ValueError, match="no group has both"):
        similarity_at_far(vectors, np.zeros(3, int), 0.1)


def test_a_measurement_comes_back_from_its_numbers():
    vectors, labels, ids = world(classes=12)
    found = validate(vectors, labels, ids, step=3)
    assert Validation.of_numbers(found.as_numbers()) == found
