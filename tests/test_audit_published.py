"""The published procedure, and what it warns of: forms that look as good and are biased."""

import numpy as np
import pytest

from pipeline.audit.cells import AuditError
from pipeline.audit.published import sequential
from tests.audit_world import voting_world

SIZE = 357  # Cochran for 5,000 rows, a margin of .05


def parent_first(overlap, shares=(0.95, 0.6), rows=2000):
    world = voting_world(np.random.default_rng(21), overlap, rows, shares)
    return [world.columns[3], *world.columns[:3]], world.match


def found(sets, match, draws, **more):
    return [sequential(sets, match, [SIZE] * len(sets), np.random.default_rng(seed), **more)
            for seed in range(draws)]


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("mix", ["reshuffle", "resample"])
def test_every_precision_is_unbiased(overlap, mix):
    sets, match = parent_first(overlap)
    values = np.array([one.precision for one in found(sets, match, 1000, mix=mix)])
    bias = values.mean(axis=0) - [match[column].mean() for column in sets]
    assert (np.abs(bias) < 4 * values.std(axis=0) / np.sqrt(1000)).all()
    assert (np.abs(bias) < 0.005).all()


def test_drawing_again_with_replacement_doubles_the_variance():
    sets, match = parent_first(0.6)
    plain, again = (
        np.array([one.precision for one in found(sets, match, 400, mix=mix)]).var(axis=0)
        for mix in ("reshuffle", "resample"))
    assert (again / plain > 1.5).all()
    assert (again / plain < 3.0).all()


def test_labels_lent_by_the_parent_alone_say_too_much_of_a_child():
    sets, match = parent_first(0.5)
    rng = np.random.default_rng(0)
    biases = []
    for _ in range(300):
        parent = rng.choice(np.flatnonzero(sets[0]), SIZE, replace=False)
        lent = parent[sets[1][parent]]
        biases.append(match[lent].mean() - match[sets[1]].mean())
    error = np.std(biases) / np.sqrt(300)
    assert np.mean(biases) > 0.1
    assert np.mean(biases) > 20 * error


def test_pooled_labels_are_biased_from_the_second_child_on():
    """The union of the samples so far is no simple random sample of a set any more."""
    rng = np.random.default_rng(3)
    rows = 6000
    parent = np.arange(rows) < 2000
    one = (np.arange(rows) >= 1000) & (np.arange(rows) < 4000)
    two = np.arange(rows) >= 1500
    match = rng.random(rows) < np.where(parent, 0.9, np.where(one, 0.5, 0.1))
    pooled, by_cell = [], []
    for seed in range(400):
        sampled = sequential([parent, one, two], match, [200, 500, 500],
                             np.random.default_rng(seed))
        by_cell.append(sampled.precision[2])
        pooled.append(match[sampled.labelled & two].mean())
    truth = match[two].mean()
    assert abs(np.mean(by_cell) - truth) < 4 * np.std(by_cell) / np.sqrt(400)
    assert abs(np.mean(pooled) - truth) > 0.03


def test_labels_are_never_more_than_independent_samples_take():
    for overlap in (0.3, 0.6, 0.9):
        sets, match = parent_first(overlap)
        assert all(one.labels <= 4 * SIZE + 4 for one in found(sets, match, 5))


def test_sets_and_sizes_that_cannot_be_are_refused():
    rng = np.random.default_rng(0)
    match = np.ones(4, bool)
    with pytest.raises(AuditError, match="set 1: expected rows"):
        sequential([match, ~match], match, [2, 2], rng)
    with pytest.raises(AuditError, match="sample size of 1 or more"):
        sequential([match], match, [0], rng)
    disjoint = [np.array([1, 1, 0, 0], bool), np.array([0, 0, 1, 1], bool)]
    assert sequential(disjoint, match, [2, 2], rng).precision.tolist() == [1.0, 1.0]


def test_a_cell_without_any_label_gets_one():
    rows = np.arange(60)
    sets = [rows < 40, rows >= 20, rows % 2 == 0, rows % 3 == 0]
    for seed in range(20):
        found = sequential(sets, rows % 5 == 0, [1, 1, 1, 1], np.random.default_rng(seed))
        assert np.isfinite(found.precision).all()
