"""How often 95 % intervals of OPIS and of its paired difference hold the truth.

At least 1,000 worlds each, of fixed seeds; the mean width is printed (``pytest -s``).
"""

import numpy as np
import pytest

from pipeline.consistency.opis import opis_difference, opis_of, opis_population
from pipeline.consistency.ranges import class_far, spaced
from pipeline.consistency.shift import curve_shift, inconsistency, reference_curve
from pipeline.counting.operating import Grid
from pipeline.counting.pairs import count_classes
from tests.opis_world import (
    THRESHOLDS,
    classes,
    customers,
    customers_truth,
    identity_draws,
)

pytestmark = pytest.mark.slow

WORLDS = 1000
GROUPS, ITEMS = 100, 10
SPREAD = [0.0, 0.12, -0.06, 0.05, 0.0, 0.1]


def covers(name, intervals, truth, most=0.985):
    hit = np.asarray([entry.lower <= truth <= entry.upper for entry in intervals])
    width = np.mean([entry.upper - entry.lower for entry in intervals])
    print(f"\n{name}: truth {truth:.3g}, covered {hit.mean():.3f}, mean width {width:.3g}")
    assert len(hit) >= WORLDS
    assert 0.93 <= hit.mean() <= most


@pytest.mark.parametrize(
    "shifts", [[0.0] * 6, [0.0, 0.05], SPREAD, np.linspace(-0.05, 0.05, 20).tolist()]
)
def test_opis_of_these_customers_over_new_identities(shifts):
    rng = np.random.default_rng(0)
    found = [opis_of(customers(rng, shifts), THRESHOLDS).corrected for _ in range(WORLDS)]
    covers(f"customers, {len(shifts)}", found, customers_truth(shifts))


@pytest.mark.parametrize(("one", "two"), [(SPREAD, [0.02] * 6), (SPREAD, SPREAD[::-1])])
def test_the_difference_of_two_embeddings_of_the_same_identities(one, two):
    rng, found = np.random.default_rng(1), []
    for _ in range(WORLDS):
        draws = identity_draws(rng, (6, 40))
        pair = customers(rng, one, draws=draws), customers(rng, two, draws=draws)
        found.append(opis_difference(*pair, (THRESHOLDS, THRESHOLDS)))
    covers("difference, customers", found, customers_truth(one) - customers_truth(two))


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.1])
def test_the_shift_of_a_curve_and_its_distance_from_a_reference(shift):
    rng = np.random.default_rng(2)
    large = [customers(rng, [moved], 20_000) for moved in (shift, 0.0)]
    reference = reference_curve(large[1], THRESHOLDS)
    truth = float(np.square(large[0].utility()[0] - reference).mean()) if shift else 0.0
    shifts, gaps = [], []
    for _ in range(WORLDS):
        now, then = customers(rng, [shift], 60), customers(rng, [0.0], 100)
        shifts.append(curve_shift(now, then, THRESHOLDS)[0])
        gaps.append(inconsistency(now, reference, THRESHOLDS)[0])
    covers(f"curve shift, {shift}", shifts, truth)
    covers(f"inconsistency, {shift}", gaps, truth)


def scatters(rng, groups):
    """Scatter of each class under two embeddings of the same items."""
    wide = rng.uniform(0.6, 1.4, groups)
    return wide, 1 + (wide - 1) / 2


def class_range():
    """11 thresholds between FAR 1e-2 and 1e-1 of a large world."""
    rng = np.random.default_rng(3)
    curve = class_far(*classes(rng, rng.uniform(0.6, 1.4, 300), 20))
    return spaced(*curve.range(), "euclidean", points=11)


def counted(rng, scatter, items, thresholds):
    vectors, labels = classes(rng, scatter, items)
    return count_classes(vectors, labels, [""] * len(labels), Grid(thresholds), threads=1)


def class_truth(thresholds, which):
    """Expected OPIS of 100 new classes: that of 300 of even scatter, from 50 items each."""
    rng = np.random.default_rng(4)
    even = np.linspace(0, 1, 601)[1::2] * 0.8 + 0.6
    scatter = (even, 1 + (even - 1) / 2)[which]
    known = opis_population(opis_of(counted(rng, scatter, 50, thresholds), thresholds))
    return known * (GROUPS - 1) / GROUPS


def test_opis_over_new_classes_of_the_same_population():
    thresholds, rng = class_range(), np.random.default_rng(5)
    found = [
        opis_of(counted(rng, scatters(rng, GROUPS)[0], ITEMS, thresholds), thresholds).corrected
        for _ in range(WORLDS)
    ]
    covers("classes", found, class_truth(thresholds, 0))


def test_the_difference_of_two_embeddings_over_new_classes():
    thresholds, found = class_range(), []
    for seed in range(WORLDS):
        wide, narrow = scatters(np.random.default_rng((seed, 0)), GROUPS)
        # The same centres and the same noise: two embeddings of the same items.
        pair = [
            counted(np.random.default_rng((seed, 1)), scatter, ITEMS, thresholds)
            for scatter in (wide, narrow)
        ]
        found.append(opis_difference(*pair, (thresholds, thresholds)))
    truth = class_truth(thresholds, 0) - class_truth(thresholds, 1)
    covers("difference, classes", found, truth)
