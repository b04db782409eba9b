"""The test worlds of docs/methods.md section 1: what OPIS has to read where the truth is known."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pipeline import distance
from pipeline.consistency.opis import opis, opis_of, opis_population
from pipeline.consistency.ranges import class_far, spaced
from pipeline.counting.operating import BUCKETS, Grid, OperatingCounts
from pipeline.counting.pairs import count_classes
from tests.opis_world import classes

TRUE = 0.728e-3  # of scatter uniform in (.6, 1.4)


def worlds(scatter, items, number, seed=0):
    rng = np.random.default_rng(seed)
    return [opis(*classes(rng, scatter(rng), items)) for _ in range(number)]


def alike(rng):
    return np.ones(300)


def unlike(rng):
    return rng.uniform(0.6, 1.4, 300)


def within(values, expected, allowance=0.0):
    """Whether the mean of ``values`` is ``expected``, up to 4 standard errors and a share."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 4 * error + allowance * expected
    assert error < 0.25 * expected  # else the test says nothing


def test_classes_alike_read_a_sixth_of_the_raw_value_once_corrected():
    found = worlds(alike, 10, 12)
    within([entry.raw for entry in found], 2.5e-5)
    # .3e-5 +- .3e-5; the truth is .4e-5.
    corrected = np.mean([entry.corrected.value for entry in found])
    assert 0 < corrected < 0.6e-5
    assert {(entry.groups_raw, entry.groups_corrected) for entry in found} == {(300, 300)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("items", "raw", "number"), [(4, 2.79e-3, 60), (6, 1.62e-3, 60), (10, 1.12e-3, 40),
                                 (20, 0.86e-3, 24)]
)  # fmt: skip
def test_classes_of_unlike_scatter_read_as_published(items, raw, number):
    found = worlds(unlike, items, number, seed=items)
    within([entry.raw for entry in found], raw, 0.02)
    corrected = [entry.corrected.value for entry in found]
    assert np.mean(corrected) < np.mean([entry.raw for entry in found])
    if items >= 10:  # nearly unbiased from 10 items on
        within(corrected, TRUE, 2 / items)


@pytest.mark.slow
def test_many_items_read_the_truth():
    # Scatter in even steps instead of draws: less noise of the classes themselves.
    rng = np.random.default_rng(3)
    even = np.linspace(0.6, 1.4, 601)[1::2]
    found = [opis(*classes(rng, even, 40)) for _ in range(5)]
    within([opis_population(entry) for entry in found], TRUE)
    within([entry.raw for entry in found], TRUE)


def identities_world(rng, customers=8, identities=24, items=8):
    """Customers drawn from one population; (gallery, queries' identity) of all their items."""
    shape = (customers * identities, items, 16)
    centres = rng.standard_normal((shape[0], 1, 16))
    wide = rng.uniform(0.5, 1.3, (shape[0], 1, 1))  # identities differ, customers do not
    points = centres + wide * rng.standard_normal(shape)
    return distance.unit(points.reshape(-1, 16)).reshape(shape)


def customers_counts(points, thresholds, halves_of):
    """Counts of 8 customers; ``halves_of`` gives each (identity, item) its bucket."""
    grid = Grid(thresholds)
    identities, items, _ = points.shape
    each = identities // 8
    total = np.zeros((8, BUCKETS, 2, grid.bins))
    for customer in range(8):
        own = points[customer * each : (customer + 1) * each].reshape(each * items, -1)
        bins = grid.bin_of(distance.deciding(own, own))
        label = np.repeat(np.arange(each), items)
        buckets = halves_of(label, np.tile(np.arange(items), each))
        for row in range(len(own)):
            others = np.arange(len(own)) != row
            positive = (label == label[row])[others].astype(int)
            np.add.at(total[customer, buckets[row]], (positive, bins[row][others]), 1)
    return OperatingCounts(grid, tuple(f"c{i}" for i in range(8)), total)


def test_identity_halves_remove_the_noise_that_item_halves_leave():
    rng = np.random.default_rng(1)
    by_item, by_identity, raw = [], [], []
    for _ in range(12):
        points = identities_world(rng)
        labels = [str(i) for i in range(len(points)) for _ in range(points.shape[1])]
        flat = points.reshape(-1, points.shape[2])
        thresholds = spaced(*class_far(flat, labels).range(), "euclidean", points=21)
        items = customers_counts(points, thresholds, lambda label, item: (label * 8 + item) % 32)
        whole = customers_counts(points, thresholds, lambda label, item: label)
        by_item.append(opis_of(items, thresholds).corrected.value)
        by_identity.append(opis_of(whole, thresholds).corrected.value)
        raw.append(opis_of(whole, thresholds).raw)
        assert_allclose(opis_of(items, thresholds).raw, raw[-1], rtol=1e-12)
    # The truth is 0.
    error = np.std(by_identity, ddof=1) / np.sqrt(12)
    assert abs(np.mean(by_identity)) < 3 * error
    assert np.mean(by_item) > 0.6 * np.mean(raw)
    assert np.mean(by_item) > 8 * abs(np.mean(by_identity))


def test_a_class_of_counts_and_plain_arrays_agree():
    rng = np.random.default_rng(5)
    vectors, labels = classes(rng, rng.uniform(0.6, 1.4, 40), 6)
    curve = class_far(vectors, labels)
    for spacing in ("euclidean", "cosine", "log_far"):
        thresholds = spaced(*curve.range((0.02, 0.2)), spacing, far_curve=curve)
        counts = count_classes(vectors, labels, [""] * len(labels), Grid(thresholds))
        assert opis_of(counts, thresholds, c=2.0) == opis(
            vectors, labels, far=(0.02, 0.2), spacing=spacing, c=2.0
        )

