"""Cells, targets and strata against counting by hand."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.audit.cells import AuditError, cells_of
from pipeline.audit.ensemble import Ensemble, majority
from pipeline.audit.strata import SMALLEST, scatter, strata_of
from pipeline.audit.targets import difference, false_accept_share, precision, recall

decisions = st.integers(1, 40).flatmap(
    lambda rows: arrays(np.bool_, (3, rows), elements=st.booleans())
).filter(lambda columns: columns.any(axis=1).all())


@given(decisions)
def test_cells_are_the_patterns_that_occur(columns):
    cells, cell = cells_of("abc", list(columns))
    expected = Counter(map(tuple, columns.T.tolist()))
    expected.pop((False, False, False), None)
    found = {tuple(line): int(rows) for line, rows in zip(
        cells.member.tolist(), cells.size, strict=True)}
    assert found == expected
    for row, pattern in enumerate(columns.T.tolist()):
        assert (cell[row] == -1) == (not any(pattern))
        if any(pattern):
            assert cells.member[cell[row]].tolist() == pattern
    np.testing.assert_array_equal(cells.set_sizes(), columns.sum(axis=1))


@given(decisions, st.randoms(use_true_random=False))
def test_each_target_is_its_share_counted_row_by_row(columns, random):
    match = np.array([random.random() < 0.5 for _ in columns.T])
    cells, cell = cells_of("abc", list(columns))
    inside = cell >= 0
    share = np.bincount(cell[inside], match[inside], cells.size.size) / cells.size
    a, b, _ = columns

    def value(target):
        return target.constant + float(target.weight @ share)

    assert value(precision(cells, "a")) == pytest.approx(match[a].mean())
    assert value(false_accept_share(cells, "b")) == pytest.approx((~match[b]).mean())
    right = (match == a).astype(int) - (match == b).astype(int)
    assert value(difference(cells, "a", "b")) == pytest.approx(right.sum() / (a | b).sum())
    assert difference(cells, "a", "b").rows == (a != b).sum()
    near = b & ~a
    if near.any() and match[a | near].any():
        cells, cell = cells_of(("a", "near"), [a, near])
        share = np.bincount(cell[cell >= 0], match[cell >= 0], cells.size.size) / cells.size
        expected = match[a].sum() / match[a | near].sum()
        assert value(recall(cells, "a", "near", share)) == pytest.approx(expected)


def test_a_difference_needs_no_label_where_the_two_agree():
    cells, _ = cells_of("ab", [np.array([1, 1, 0], bool), np.array([1, 0, 1], bool)])
    both = cells.member.all(axis=1)
    assert difference(cells, "a", "b").weight[both].tolist() == [0.0]


def test_small_cells_join_the_stratum_whose_sets_differ_least():
    rows = {(1, 0, 0): 50, (0, 1, 1): 40, (1, 1, 1): 3, (1, 0, 1): 2}
    columns = np.repeat(np.array(list(rows), bool).T, list(rows.values()), axis=1)
    cells, _ = cells_of("abc", list(columns))
    strata = strata_of(cells, 10)
    assert sorted(strata.size.tolist()) == [43, 52]
    of = {tuple(line): int(place)
          for line, place in zip(
              cells.member.astype(int).tolist(), strata.of_cell, strict=True)}
    assert of[(1, 1, 1)] == of[(0, 1, 1)]
    assert of[(1, 0, 1)] == of[(1, 0, 0)]
    assert strata_of(cells, 1).size.tolist() == [95]
    assert min(rows.values()) < SMALLEST


def test_the_scatter_of_a_stratum_is_that_of_its_rows():
    rng = np.random.default_rng(7)
    columns = rng.random((3, 300)) < np.array([[0.6], [0.3], [0.05]])
    match = rng.random(300) < 0.4
    cells, cell = cells_of("abc", list(columns))
    strata = strata_of(cells, 3)
    inside = cell >= 0
    share = np.bincount(cell[inside], match[inside], cells.size.size) / cells.size
    targets = [precision(cells, "a"), difference(cells, "b", "c")]
    found = scatter(cells, strata, targets, share)
    for place, target in enumerate(targets):
        value = (target.weight / cells.size)[cell] * match
        for stratum, rows in enumerate(strata.size):
            here = inside & (strata.of_cell[cell] == stratum)
            assert found[stratum, place] == pytest.approx(rows**2 * value[here].var())


def test_nested_thresholds_have_one_cell_more_than_they_are_few():
    distance = np.random.default_rng(1).random(5000)
    sets = [distance <= threshold for threshold in np.linspace(0.1, 0.9, 40)]
    cells, _ = cells_of([str(n) for n in range(40)], sets)
    assert cells.size.size == 40


def test_votes_are_counted():
    columns = [np.array(line, bool) for line in ([1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 1, 1])]
    assert majority("m", "abc").accepts(columns).tolist() == [True, False, True, False]
    assert Ensemble("any", tuple("abc"), 1).accepts(columns).tolist() == [True] * 4
    assert Ensemble("all", tuple("abc"), 3).accepts(columns).tolist() == [False, False, True, False]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: cells_of("ab", [np.ones(3, bool), np.ones(4, bool)]), "unequal length: 3 and 4 rows"),
    (lambda: cells_of("ab", [np.ones(3, bool), np.zeros(3, bool)]), "set 'b' holds no row"),
    (lambda: cells_of("aa", [np.ones(3, bool)] * 2), "two sets are called 'a'"),
    (lambda: cells_of("", []), "expected 1 to 63 columns"),
    (lambda: precision(cells_of("a", [np.ones(3, bool)])[0], "b"),
     "unknown set 'b'; known sets: a"),
    (lambda: recall(cells_of("ab", [np.ones(3, bool)] * 2)[0], "a", "b", np.ones(1)),
     "near misses 'b' and set 'a' share rows"),
    (lambda: Ensemble("e", ("a", "b"), 3), "at_least: expected 1 to 2, got 3"),
    (lambda: Ensemble("e", ("a", "a"), 1), "each named once"),
    (lambda: Ensemble("a", ("a", "b"), 1), "member of itself"),
])
def test_what_cannot_be_is_said_in_one_line(make, message):
    with pytest.raises(AuditError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_sets_that_a_cell_lacks_count_as_much_as_those_it_has():
    rows = {(1, 1, 1): 50, (1, 1, 0): 40, (1, 0, 0): 3}
    columns = np.repeat(np.array(list(rows), bool).T, list(rows.values()), axis=1)
    cells, _ = cells_of("abc", list(columns))
    assert sorted(strata_of(cells, 10).size.tolist()) == [43, 50]
