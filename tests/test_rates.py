"""Mean rates over customers and classes: against loops over every pair."""

import math
from collections import defaultdict

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.calibration import rates
from pipeline.calibration.rates import class_rates, customer_rates, fine_counts, mean_rates
from pipeline.consistency.ranges import fine_grid
from pipeline.counting.operating import Grid
from pipeline.evaluation.embedding import population
from pipeline.search.threshold import Reached
from tests.lattice_world import lattice, pairs_of


def slow_means(pairs, unit, thresholds):
    """(units, FAR, FRR, mean utility, least utility) by trying every threshold on every pair."""
    by_unit = defaultdict(lambda: ([], []))
    for owner, label, positive, d, *_ in pairs:
        by_unit[owner if unit == "customer" else label][int(positive)].append(d)
    both = [(np.asarray(n), np.asarray(p)) for n, p in by_unit.values() if n and p]
    far = np.asarray([[np.mean(n <= t) for t in thresholds] for n, _ in both])
    frr = np.asarray([[np.mean(p > t) for t in thresholds] for _, p in both])
    with np.errstate(invalid="ignore"):
        utility = np.nan_to_num(2 * (1 - far) * (1 - frr) / (2 - far - frr))
    return len(both), far.mean(0), frr.mean(0), utility.mean(0), utility.min(0)


def world(seed):
    items = lattice(seed)
    people = population(items.content, items)
    queries, counted = people.of("calibrate")
    return queries, people.gallery, counted, list(pairs_of(items, "calibrate"))


def assert_means(found, pairs, unit):
    edges = found.edges[::257]
    units, *curves = slow_means(pairs, unit, edges)
    assert (found.unit, found.units) == (unit, units)
    for mine, theirs in zip(
        (found.far, found.frr, found.mean_utility, found.least_utility), curves, strict=True
    ):
        assert_allclose(mine[::257], theirs, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_class_rates_are_those_of_every_pair_however_few_rows_are_held(seed, rows, monkeypatch):
    monkeypatch.setattr(rates, "_ROWS", rows)
    *given, pairs = world(seed)
    found = class_rates(*given)
    assert_means(found, pairs, "label")
    assert found.units == 5
    assert (np.diff(found.far) >= 0).all()
    assert (np.diff(found.frr) <= 0).all()


@pytest.mark.parametrize("pooled", [False, True])
def test_customer_rates_are_those_of_every_pair(pooled):
    *given, pairs = world(4)
    assert_means(customer_rates(fine_counts(*given, pooled=pooled)), pairs, "customer")


def test_a_positive_that_is_not_found_is_rejected_at_every_threshold():
    queries, gallery, counted, _ = world(5)

    def even_rows(customer, query, limit):
        return Reached(np.arange(0, len(gallery), 2), math.inf)

    everything = fine_counts(queries, gallery, counted, pooled=True)
    served = fine_counts(queries, gallery, counted, even_rows, pooled=True)
    assert_array_equal(served.pairs[:, 0], everything.pairs[:, 0])
    assert_array_equal(served.pairs.sum(axis=2), everything.pairs.sum(axis=2))
    assert (served.pairs[:, 1, -1] > 0).all()
    found = class_rates(queries, gallery, counted, even_rows)
    assert found.frr[-1] > 0.2
    assert found.far[-1] == 1.0
    assert class_rates(queries, gallery, counted).frr[-1] == 0.0


def test_units_without_a_positive_or_a_negative_are_in_no_mean_by_hand():
    edges = np.asarray([0.1, 0.2], np.float32)
    ada = np.asarray([[0.0, 1, 3], [1, 1, 0]])  # FAR 0, 1/4; FRR 1/2, 0
    bob = np.asarray([[2.0, 0, 2], [0, 2, 2]])  # FAR 1/2, 1/2; FRR 1, 1/2
    lone = np.asarray([[5.0, 0, 0], [0, 0, 0]])
    found = mean_rates(edges, "label", [ada, lone, bob, lone[::-1]])
    assert found.units == 2
    assert_allclose(found.far, [0.25, 0.375])
    assert_allclose(found.frr, [0.75, 0.25])
    # ada: 2 * 1 * .5 / 1.5 = 2/3 and 2 * .75 / 1.75 = 6/7; bob: 0 and .5.
    assert_allclose(found.mean_utility, [1 / 3, (6 / 7 + 0.5) / 2])
    assert_allclose(found.least_utility, [0, 0.5])


def test_no_unit_at_all_has_unknown_rates():
    found = mean_rates(fine_grid().edges, "customer", [])
    assert found.units == 0
    for curve in (found.far, found.frr, found.mean_utility, found.least_utility):
        assert np.isnan(curve).all()
        assert curve.shape == found.edges.shape


def test_the_grid_that_is_looked_on_begins_at_zero_and_ends_at_two():
    grid = fine_grid()
    assert isinstance(grid, Grid)
    assert (grid.edges[0], grid.edges[-1], grid.edges.size) == (0, 2, 16_385)
