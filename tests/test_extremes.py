"""eps-OPIS and spreads, against sorting at every threshold, and against worlds without any."""

import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pipeline import distance
from pipeline.consistency.curves import HALVES
from pipeline.consistency.extremes import Corrected, eps_opis, rate_spreads
from pipeline.consistency.opis import opis_of
from pipeline.counting.operating import BUCKETS, Grid, OperatingCounts
from pipeline.counting.pairs import count_classes
from tests import slow_opis
from tests.opis_world import GRID, THRESHOLDS, customers


def forms(chosen_on, evaluated, number):
    """Per threshold: gaps best - worst and rest - worst, and worst and rest as lists of groups.

    Ties are taken as they come: the worlds below have none.
    """
    gaps, sets = [], []
    for k in range(chosen_on.shape[1]):
        order = sorted(range(len(chosen_on)), key=lambda g, k=k: chosen_on[g, k])
        worst, rest, best = order[:number], order[number:], order[-number:]
        low, others, high = (
            np.mean([evaluated[g, k] for g in some]) for some in (worst, rest, best)
        )
        gaps.append((high - low, others - low))
        sets.append((worst, rest))
    return gaps, sets


def product(a, b, some, k):
    return np.mean((a[some, k] - a[some, k].mean()) * (b[some, k] - b[some, k].mean()))


def slow_forms(a, b, number):
    """The three forms from two halves: chosen on one, evaluated on the other, both ways."""
    (first, sets), (second, turned) = forms(a, b, number), forms(b, a, number)
    squares = [np.mean([x[i] * y[i] for x, y in zip(first, second, strict=True)]) for i in (0, 1)]
    gaps = [
        product(a, b, worst, k) - product(a, b, rest, k)
        for both in (sets, turned)
        for k, (worst, rest) in enumerate(both)
    ]
    return [*squares, np.mean(gaps)]


def utilities(counts, kept):
    part = OperatingCounts(GRID, counts.groups, counts.pairs * kept[None, :, None, None])
    return slow_opis.utility(np.stack([part.far(), part.sensitivity()], axis=1))


def both(entry, kind):
    return [getattr(form, kind) for form in (entry.best_worst, entry.worst_rest, entry.opis_gap)]


# Thresholds at which the curves of customers hold no ties: neither all nor none accepted.
INNER = slice(6, 16)


@pytest.mark.parametrize(
    ("share", "number", "groups"), [(0.1, 1, 8), (0.25, 2, 8), (0.5, 4, 8), (0.3, 18, 60)]
)
def test_the_three_forms_follow_their_definitions(share, number, groups):
    counts = customers(np.random.default_rng(0), np.linspace(-0.1, 0.1, groups), 80)
    found = eps_opis(counts, THRESHOLDS[INNER], share=share)
    assert (found.share, found.groups) == (share, number)
    whole = utilities(counts, np.ones(BUCKETS))[:, INNER]
    assert_allclose(both(found, "raw"), slow_forms(whole, whole, number), rtol=1e-10)
    halves = [
        slow_forms(utilities(counts, h)[:, INNER], utilities(counts, ~h)[:, INNER], number)
        for h in HALVES
    ]
    # Of 60 groups two may tie in a half: the oracle takes either.
    rtol = 1e-9 if groups == 8 else 1e-3
    assert_allclose(both(found, "corrected"), np.mean(halves, axis=0), rtol=rtol)


def test_the_raw_forms_by_hand():
    # Utility 1, .6, .8, 0 at the only threshold, no negative accepted: sens s gives 2 s / (1 + s).
    sens = [1, 3 / 7, 2 / 3, 0]
    pairs = np.zeros((4, BUCKETS, 2, 2))
    pairs[:, 0, 0, 1], pairs[:, 0, 1, 0] = 10, np.asarray(sens) * 21
    pairs[:, 0, 1, 1] = 21 - pairs[:, 0, 1, 0]
    at = np.asarray([0.5], np.float32)
    found = eps_opis(OperatingCounts(Grid(at), tuple("abcd"), pairs), at, share=0.5)
    # Worst 0 and .6, mean .3; best .8 and 1, mean .9. Variances .09 and .01.
    assert_allclose(both(found, "raw"), [0.36, 0.36, 0.08])
    assert all(math.isnan(value) for value in both(found, "corrected"))
    found = eps_opis(OperatingCounts(Grid(at), tuple("abcd"), pairs), at)
    # Worst 0, best 1, rest .6 .8 1 of mean .8 and variance .08 / 3; one group alone has none.
    assert_allclose(both(found, "raw"), [1.0, 0.64, -0.08 / 3])
    assert found.groups == 1


def test_groups_that_tie_for_the_last_place_share_it():
    # Halves of 8 groups with many equal utilities: names must not decide who is the worst.
    rng = np.random.default_rng(1)
    pairs = rng.integers(1, 3, (6, BUCKETS, 2, 3)).astype(float)
    at = np.asarray([0.3, 0.6], np.float32)
    counts = OperatingCounts(Grid(at), tuple("abcdef"), pairs)
    turned = OperatingCounts(Grid(at), tuple("abcdef"), pairs[::-1])
    one, two = eps_opis(counts, at, share=0.4), eps_opis(turned, at, share=0.4)
    assert_allclose(both(one, "corrected"), both(two, "corrected"), rtol=1e-9)
    # All alike at 1 threshold: every way of choosing gives 0.
    same = OperatingCounts(Grid(at), tuple("abcdef"), np.broadcast_to(pairs[:1], pairs.shape))
    assert_allclose(both(eps_opis(same, at), "corrected"), 0, atol=1e-15)
    # Two tie for one place: each of them is half of the worst.
    sens = np.asarray([0.5, 0.5, 1.0])
    pairs = np.zeros((3, BUCKETS, 2, 2))
    pairs[:, :8, 0, 1], pairs[:, :8, 1, 0] = 4, 4 * sens[:, None]
    pairs[:, :8, 1, 1] = 4 - pairs[:, :8, 1, 0]
    at = at[:1]
    gap = 1 - 2 / 3  # U = 2/3, 2/3, 1
    found = eps_opis(OperatingCounts(Grid(at), tuple("abc"), pairs), at)
    assert_allclose(both(found, "raw")[0], gap**2)
    # Rest: half of each of the tied and the best: (1/3 + 1/3 + 1) / 2 = 5/6.
    assert_allclose(both(found, "raw")[1], (5 / 6 - 2 / 3) ** 2)


def test_without_a_difference_corrected_extremes_are_zero_in_mean_and_raw_ones_are_not():
    rng = np.random.default_rng(2)
    found = [eps_opis(customers(rng, [0.0] * 20, 60), THRESHOLDS) for _ in range(40)]
    for form in ("best_worst", "worst_rest", "opis_gap"):
        corrected = np.asarray([getattr(entry, form).corrected for entry in found])
        raw = np.asarray([getattr(entry, form).raw for entry in found])
        error = corrected.std(ddof=1) / np.sqrt(corrected.size)
        assert abs(corrected.mean()) < 4 * error + 0.1 * abs(raw.mean()), form


def test_with_a_difference_corrected_extremes_lie_between_nothing_and_the_raw_ones():
    rng = np.random.default_rng(3)
    shifts = np.where(np.arange(20) < 2, 0.15, 0.0)
    truth = eps_opis(customers(rng, shifts, 5000), THRESHOLDS)
    found = [eps_opis(customers(rng, shifts, 60), THRESHOLDS) for _ in range(20)]
    for form in ("best_worst", "worst_rest"):
        corrected = np.mean([getattr(entry, form).corrected for entry in found])
        assert 0.6 < corrected / getattr(truth, form).raw < 1.05, form
        assert np.mean([getattr(entry, form).raw for entry in found]) > corrected


def items(seed, sizes):
    rng = np.random.default_rng(seed)
    labels = [f"k{i}" for i, size in enumerate(sizes) for _ in range(size)]
    centres = np.repeat(rng.normal(size=(len(sizes), 6)), sizes, axis=0)
    vectors = distance.unit(centres + rng.normal(0, 0.6, (len(labels), 6)))
    distances = np.unique(distance.deciding(vectors, vectors))
    thresholds = distances[np.linspace(distances.size // 8, distances.size // 2, 6).astype(int)]
    return vectors, labels, thresholds


def test_spreads_of_classes_are_gaps_and_variances_of_their_rates():
    sizes = [6, 4, 3, 1, 8, 5]
    vectors, labels, thresholds = items(4, sizes)
    counts = count_classes(vectors, labels, [""] * len(labels), Grid(thresholds))
    whole = slow_opis.class_rates(vectors, labels, thresholds)
    halves = slow_opis.halves_of(vectors, labels)
    rates = [
        [slow_opis.class_rates(vectors, labels, thresholds, own) for own in (~half, half)]
        for half in halves
    ]
    for kind, found in enumerate(rate_spreads(counts, thresholds)):
        known = whole[~np.isnan(whole[:, kind]).any(axis=1), kind]
        assert len(known) == (6, 5)[kind]
        assert_allclose(found.gap, np.mean(known.max(axis=0) - known.min(axis=0)))
        assert_allclose(found.variance.raw, slow_opis.raw_opis(known), rtol=1e-12)
        pairs = [[side[:, kind] for side in both] for both in rates]
        parts = slow_opis.products(pairs, [size >= 4 for size in sizes])
        assert_allclose(found.variance.corrected, np.nanmean(parts), rtol=1e-9)


def test_a_shift_of_the_positives_spreads_frr_and_not_far():
    rng = np.random.default_rng(5)
    found = [rate_spreads(customers(rng, [0.0, 0.2, 0.0, -0.1]), THRESHOLDS) for _ in range(30)]
    far, frr = ([entry[i].variance.corrected for entry in found] for i in (0, 1))
    assert np.mean(frr) > 0.01
    assert abs(np.mean(far)) < 4 * np.std(far) / np.sqrt(30)


def test_two_groups_are_enough_to_lie_apart():
    counts = customers(np.random.default_rng(8), [0.0, 0.2])
    far, frr = rate_spreads(counts, THRESHOLDS)
    for spread, rates in ((far, counts.far()), (frr, counts.frr())):
        gap = np.abs(rates[0] - rates[1])
        assert_allclose(spread.gap, gap.mean(), rtol=1e-12)
        assert_allclose(spread.variance.raw, np.square(gap / 2).mean(), rtol=1e-12)


def test_too_few_groups_are_unknown_and_unusable_shares_refused():
    counts = customers(np.random.default_rng(6), [0.0, 0.1])
    assert eps_opis(counts, THRESHOLDS).groups == 1
    alone = counts.select(["c000"])
    found = eps_opis(alone, THRESHOLDS)
    assert found.groups == 0
    for value in itertools.chain(both(found, "raw"), both(found, "corrected")):
        assert math.isnan(value)
    for spread in rate_spreads(alone, THRESHOLDS):
        assert math.isnan(spread.gap)
        assert math.isnan(spread.variance.raw)
        assert math.isnan(spread.variance.corrected)
    for share in (0.0, 0.51, math.nan):
        with pytest.raises(ValueError, match=r"more than 0 and at most 0\.5"):
            eps_opis(counts, THRESHOLDS, share=share)


def test_a_group_without_evidence_enters_no_corrected_value():
    counts = customers(np.random.default_rng(7), [0.0, 0.1, -0.1])
    pairs = counts.pairs.copy()
    pairs[1, 3:, 1] = 0  # positives in 3 buckets
    thin = OperatingCounts(GRID, counts.groups, pairs)
    two = counts.select(["c000", "c002"])
    found, without = eps_opis(thin, THRESHOLDS), eps_opis(two, THRESHOLDS)
    assert_allclose(both(found, "corrected"), both(without, "corrected"), rtol=1e-12)
    assert both(found, "raw") != both(without, "raw")
    assert opis_of(thin, THRESHOLDS).groups_corrected == 2
    assert isinstance(found.best_worst, Corrected)
