"""Estimates against every sample there is, and in simulated audits."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from pipeline.audit.allocation import Allocation, for_margin
from pipeline.audit.cells import AuditError, cells_of
from pipeline.audit.draws import Drawer
from pipeline.audit.estimates import Labels, answers, estimates
from pipeline.audit.numbers import of_rows, of_texts
from pipeline.audit.strata import Strata, strata_of
from pipeline.audit.targets import Question, difference, false_accept_share, precision
from tests.audit_world import draw, labels_of, voting_world


def everything(cells):
    return [*(precision(cells, name) for name in cells.sets),
            difference(cells, "first", "second"), false_accept_share(cells, "vote")]


def truths(world):
    right = [np.where(column == world.match, 1, 0) for column in world.columns[:2]]
    either = world.columns[0] | world.columns[1]
    return np.array([*world.precisions(), (right[0] - right[1]).sum() / either.sum(),
                     1 - world.precisions()[3]])


def test_the_mean_over_every_possible_sample_is_the_truth():
    # Two strata, the second of two cells: 3 of 6 rows and 2 of 5.
    columns = [np.array([1] * 6 + [0] * 5, bool), np.array([1] * 6 + [1] * 3 + [0] * 2, bool),
               np.array([0] * 6 + [0] * 3 + [1] * 2, bool)]
    match = np.array([1, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1], bool)
    cells, cell = cells_of("abc", columns)
    large = int(cells.size.argmax())
    of_cell = np.where(np.arange(cells.size.size) == large, 0, 1)
    strata = Strata(of_cell, np.array([6, 5]))
    targets = [precision(cells, name) for name in "abc"] + [difference(cells, "a", "b")]
    rows = [np.flatnonzero(of_cell[cell] == place) for place in (0, 1)]
    found = []
    for some in itertools.product(itertools.combinations(rows[0], 3),
                                  itertools.combinations(rows[1], 2)):
        chosen = np.array([*some[0], *some[1]])
        labels = Labels(cell[chosen], match[chosen], np.array([0.5] * 3 + [0.4] * 2))
        # Not the interval's value: that is kept within [0, 1].
        found.append([
            target.constant + sum(
                size * (target.weight / cells.size)[cell[list(part)]] @ match[list(part)]
                / len(part) for size, part in zip((6, 5), some, strict=True))
            for target in targets
        ])
        for target, value, one in zip(targets, found[-1], estimates(
                cells, strata, targets, labels), strict=True):
            bounds = (0, 1) if target.is_share else (-1, 1)
            assert one.interval.value == pytest.approx(np.clip(value, *bounds))
    right = (match == columns[0]).astype(int) - (match == columns[1]).astype(int)
    expected = [match[column].mean() for column in columns] + [
        right.sum() / (columns[0] | columns[1]).sum()]
    np.testing.assert_allclose(np.mean(found, axis=0), expected)


def test_a_census_is_known_exactly():
    world = voting_world(np.random.default_rng(0), 0.5, 60, (0.9, 0.5))
    cells, cell = world.cells()
    strata = strata_of(cells, 10)
    inside = np.flatnonzero(cell >= 0)
    labels = Labels(cell[inside], world.match[inside], np.ones(inside.size))
    for estimate, truth in zip(estimates(cells, strata, everything(cells), labels),
                               truths(world), strict=True):
        ends = (estimate.interval.value, estimate.interval.lower, estimate.interval.upper)
        assert ends == pytest.approx((truth,) * 3)


def simulated(world, allocation, cells, cell, draws, *, score=None, with_scores=False):
    targets = everything(cells)
    found = []
    for seed in range(draws):
        labels = labels_of(world, draw(allocation, cell, seed), score if with_scores else None)
        found.append([one.interval for one in estimates(
            cells, allocation.strata, targets, labels)])
    return np.array([[(i.value, i.lower, i.upper) for i in line] for line in found])


@pytest.mark.slow
@pytest.mark.parametrize(("overlap", "shares"), [
    (0.3, (0.95, 0.6)), (0.6, (0.5, 0.5)), (0.9, (0.98, 0.9)),
])
def test_estimates_are_unbiased_and_their_intervals_cover(overlap, shares):
    world = voting_world(np.random.default_rng(11), overlap, 3000, shares)
    cells, cell = world.cells()
    targets = everything(cells)
    allocation = for_margin(cells, targets, 0.06)
    found = simulated(world, allocation, cells, cell, 2000)
    bias = found[:, :, 0].mean(axis=0) - truths(world)
    error = found[:, :, 0].std(axis=0) / np.sqrt(2000)
    assert (np.abs(bias) < 4 * error).all()
    assert (np.abs(bias) < 0.005).all()
    covered = ((found[:, :, 1] <= truths(world)) & (truths(world) <= found[:, :, 2])).mean(axis=0)
    assert (covered >= 0.93).all(), covered
    assert (covered <= 0.985).all(), covered


@pytest.mark.slow
@pytest.mark.parametrize("quality", [0.0, 0.2, 1.0])
def test_scores_help_where_they_know_something_and_never_harm(quality):
    rng = np.random.default_rng(12)
    world = voting_world(rng, 0.6, 3000, (0.8, 0.5))
    score = np.clip(0.5 + quality * (world.match - 0.5) + rng.normal(0, 0.2, world.match.size),
                    0, 1)
    cells, cell = world.cells(score)
    allocation = for_margin(cells, everything(cells), 0.06)
    plain = simulated(world, allocation, cells, cell, 500)
    leaned = simulated(world, allocation, cells, cell, 500, score=score, with_scores=True)
    bias = np.abs(leaned[:, :, 0].mean(axis=0) - truths(world))
    assert (bias < 4 * leaned[:, :, 0].std(axis=0) / np.sqrt(500)).all()
    ratio = leaned[:, :, 0].var(axis=0) / plain[:, :, 0].var(axis=0)
    assert (ratio < 1.05).all(), ratio
    if quality == 1.0:
        assert (ratio < 0.45).all(), ratio
    covered = ((leaned[:, :, 1] <= truths(world)) & (truths(world) <= leaned[:, :, 2])).mean(axis=0)
    assert (covered > 0.925).all(), covered


def test_scores_that_say_the_opposite_are_not_leaned_on():
    world = voting_world(np.random.default_rng(13), 0.6, 500, (0.8, 0.5))
    score = 0.9 - 0.8 * world.match
    cells, cell = world.cells(score)
    allocation = for_margin(cells, everything(cells), 0.1)
    drawn = draw(allocation, cell, 1)
    found = estimates(cells, allocation.strata, everything(cells), labels_of(world, drawn, score))
    plain = estimates(cells, allocation.strata, everything(cells), labels_of(world, drawn))
    assert [one.leaned for one in found] == [0.0] * 6
    assert [one.interval for one in found] == [one.interval for one in plain]


@pytest.mark.slow
def test_labels_of_an_earlier_audit_stay_of_use_and_unbiased():
    """Other sets, other strata: rows are drawn by the same numbers, and weighted by both draws."""
    rng = np.random.default_rng(14)
    world = voting_world(rng, 0.5, 2000, (0.9, 0.5))
    earlier, earlier_cell = cells_of("x", [(rng.random(world.match.size) < 0.5) | ~world.match])
    first = for_margin(earlier, [precision(earlier, "x")], 0.05)
    cells, cell = world.cells()
    allocation = for_margin(cells, everything(cells), 0.08)
    found, saved = [], []
    for seed in range(800):
        numbers = of_rows(0, cell.size, seed)
        before = draw(first, earlier_cell, seed)
        drawer = Drawer(allocation, (before.number, before.inclusion))
        drawer.add(0, cell, numbers)
        drawn, known = drawer.drawn(), drawer.known()
        inclusion = dict(zip(drawn.row.tolist(), drawn.inclusion.tolist(), strict=True))
        saved.append(np.isin(drawn.row, before.row).mean())
        for row, share in zip(known.row.tolist(), known.inclusion.tolist(), strict=True):
            inclusion[row] = max(share, inclusion.get(row, 0.0))
        rows = np.array(list(inclusion))
        labels = Labels(cell[rows], world.match[rows], np.array(list(inclusion.values())))
        found.append([(one.interval.value, one.interval.lower, one.interval.upper)
                      for one in estimates(cells, allocation.strata, everything(cells), labels)])
    values = np.array(found)
    bias = np.abs(values[:, :, 0].mean(axis=0) - truths(world))
    assert (bias < 0.005).all(), bias
    covered = ((values[:, :, 1] <= truths(world)) & (truths(world) <= values[:, :, 2])).mean(axis=0)
    assert (covered >= 0.93).all(), covered
    assert np.mean(saved) > 0.2  # labels that the second audit need not ask for again


def test_a_row_keeps_its_number_and_numbers_are_uniform():
    rows = of_rows(0, 20_000, 5)
    np.testing.assert_array_equal(of_rows(100, 50, 5), rows[100:150])
    assert not np.isin(of_rows(0, 20_000, 6), rows).any()
    keys = pa.array([f"query-{n}\x1fitem-{n % 7}" for n in range(20_000)])
    texts = of_texts(keys, 5)
    np.testing.assert_array_equal(of_texts(keys[100:150], 5), texts[100:150])
    assert np.unique(texts).size == texts.size
    for numbers in (rows, texts):
        assert ((numbers > 0) & (numbers < 1)).all()
        seen = np.bincount((numbers * 20).astype(int), minlength=20)
        assert ((seen - 1000) ** 2 / 1000).sum() < 45  # chi-square, 19 degrees: P < .001
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.03


def test_every_row_of_a_stratum_is_drawn_alike_often():
    world = voting_world(np.random.default_rng(0), 0.5, 40, (0.9, 0.5))
    cells, cell = world.cells()
    strata = strata_of(cells, 10)
    labels = np.minimum(strata.size, 6)
    allocation = Allocation(strata, labels, np.zeros(1), np.zeros(1, np.int64))
    times = np.zeros(cell.size)
    for seed in range(3000):
        drawn = draw(allocation, cell, seed)
        assert (np.bincount(strata.of_cell[drawn.cell], minlength=labels.size) == labels).all()
        assert (drawn.number < drawn.inclusion).all()
        times[drawn.row] += 1
    expected = (labels / strata.size)[strata.of_cell[cell]] * 3000
    assert (np.abs(times - expected) < 5 * np.sqrt(expected)).all()


def test_whoever_stops_early_has_gone_equally_far_in_every_stratum():
    world = voting_world(np.random.default_rng(0), 0.8, 1000, (0.9, 0.5))
    cells, cell = world.cells()
    drawn = draw(for_margin(cells, everything(cells), 0.05), cell, 3)
    assert np.unique(drawn.inclusion).size > 1
    assert (np.diff(drawn.number / drawn.inclusion) >= 0).all()


def test_rows_nobody_could_tell_widen_the_interval():
    world = voting_world(np.random.default_rng(3), 0.5, 500, (0.9, 0.5))
    cells, cell = world.cells()
    targets = everything(cells)
    allocation = for_margin(cells, targets, 0.08)
    labels = labels_of(world, draw(allocation, cell, 0))
    questions = [Question("precision", ("vote",)), Question("difference", ("first", "second"))]
    none = np.zeros(labels.match.size, bool)
    sure = answers(cells, allocation.strata, questions, labels, none)
    assert [one.interval for one in sure] == [
        one.interval
        for one in estimates(cells, allocation.strata, [targets[3], targets[4]], labels)]
    some = none.copy()
    some[::10] = True
    for open_, known in zip(answers(cells, allocation.strata, questions, labels, some), sure,
                            strict=True):
        assert open_.interval.upper - open_.interval.lower > (
            known.interval.upper - known.interval.lower)


def test_a_recall_is_estimated_from_the_set_and_its_near_misses():
    rng = np.random.default_rng(5)
    accepted, near = np.arange(4000) < 2500, np.arange(4000) >= 2500
    match = rng.random(4000) < np.where(accepted, 0.9, 0.2)
    cells, cell = cells_of(("served", "near"), [accepted, near])
    question = Question("recall", ("served", "near"))
    allocation = for_margin(cells, [precision(cells, "served"), precision(cells, "near")], 0.05)
    covered = 0
    values = []
    for seed in range(300):
        drawn = draw(allocation, cell, seed)
        labels = Labels(drawn.cell, match[drawn.row], drawn.inclusion)
        one = answers(cells, allocation.strata, [question], labels, np.zeros(drawn.row.size, bool))
        interval = one[0].interval
        values.append(interval.value)
        covered += interval.lower <= match[accepted].sum() / match.sum() <= interval.upper
    assert np.mean(values) == pytest.approx(match[accepted].sum() / match.sum(), abs=0.003)
    assert covered > 0.92 * 300


def test_what_no_label_bears_on_is_unknown():
    cells, _ = cells_of("ab", [np.arange(40) < 20, np.arange(40) >= 20])
    strata = strata_of(cells, 10)
    labels = Labels(np.zeros(5, np.int64), np.ones(5, bool), np.full(5, 0.25))
    found = {one.target.name: one.interval.value
             for one in estimates(cells, strata, [precision(cells, name) for name in "ab"], labels)}
    assert sum(np.isnan(value) for value in found.values()) == 1
    with pytest.raises(AuditError, match="no labels"):
        estimates(cells, strata, [], Labels(np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0)))
    with pytest.raises(AuditError, match="above 0 and at most 1"):
        estimates(cells, strata, [], Labels(np.zeros(1, np.int64), np.ones(1, bool), np.zeros(1)))
