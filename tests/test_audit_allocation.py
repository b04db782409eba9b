"""How few labels hold the margins, against Cochran, Neyman and a general optimiser."""

import numpy as np
import pytest
from scipy.optimize import minimize

from pipeline.audit.allocation import Z, for_budget, for_margin, independent
from pipeline.audit.cells import AuditError, cells_of
from pipeline.audit.strata import scatter
from pipeline.audit.targets import difference, precision
from tests.audit_world import NAMES, voting_world


def precisions(cells):
    return [precision(cells, name) for name in cells.sets]


def test_one_set_alone_needs_cochrans_sample():
    # n0 = 1.96^2 * .25 / .05^2 = 384.15; of 2,000 rows 384.15 / (1 + 383.15 / 2000) = 322.4.
    cells, _ = cells_of("a", [np.ones(2000, bool)])
    targets = precisions(cells)
    assert independent(targets[0], 0.05) == 323
    assert for_margin(cells, targets, 0.05).total == 323


def test_disjoint_sets_gain_nothing_and_lose_at_most_two_a_cell():
    columns = list(np.repeat(np.eye(3, dtype=bool), 700, axis=1))
    cells, _ = cells_of("abc", columns)
    targets = precisions(cells)
    alone = sum(independent(target, 0.05) for target in targets)
    assert alone <= for_margin(cells, targets, 0.05).total <= alone + 6


def test_a_set_inside_another_costs_hardly_more_than_the_other_alone():
    outer = np.ones(10_000, bool)
    inner = np.arange(10_000) < 9000
    cells, _ = cells_of(("outer", "inner"), [outer, inner])
    targets = precisions(cells)
    assert for_margin(cells, targets, 0.05).total < 1.15 * independent(targets[0], 0.05)


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("margin", [0.03, 0.1])
def test_no_other_allocation_needs_fewer_labels(overlap, margin):
    rng = np.random.default_rng(2)
    cells, _ = voting_world(rng, overlap, 3000, (0.9, 0.6)).cells()
    targets = [*precisions(cells), difference(cells, "first", "vote")]
    shares = rng.uniform(0.1, 0.9, cells.size.size)
    found = for_margin(cells, targets, margin, shares)
    spread = scatter(cells, found.strata, targets, shares)
    size = found.strata.size

    def slack(labels):
        return (margin / Z) ** 2 * 1e6 - 1e6 * (1 / labels - 1 / size) @ spread

    best = minimize(lambda labels: labels.sum(), size / 2, method="SLSQP",
                    bounds=[(2, float(rows)) for rows in size],
                    constraints={"type": "ineq", "fun": slack},
                    options={"maxiter": 1000, "ftol": 1e-9})
    assert best.success
    assert found.total <= best.fun + 2 * size.size
    assert (found.margin <= margin * (1 + 1e-9)).all()
    assert found.total >= best.fun - 1e-3


def test_no_plan_costs_more_than_independent_samples_and_two_labels_a_cell():
    rng = np.random.default_rng(3)
    for _ in range(60):
        count = int(rng.integers(1, 6))
        latent = rng.random(int(rng.integers(20, 3000)))
        noise = rng.normal(0, rng.uniform(0, 0.5), (count, latent.size))
        columns = [latent + one > rng.uniform(0.1, 0.8) for one in noise]
        if not all(column.any() for column in columns):
            continue
        cells, _ = cells_of([str(n) for n in range(count)], columns)
        targets = precisions(cells)
        margin = float(rng.uniform(0.02, 0.3))
        alone = sum(independent(target, margin) for target in targets)
        found = for_margin(cells, targets, margin)
        assert found.total <= alone + 2 * cells.size.size
        assert (found.margin <= margin * (1 + 1e-9)).all()
        assert (found.labels <= found.strata.size).all()


def test_a_budget_buys_the_margin_that_would_cost_it():
    cells, _ = voting_world(np.random.default_rng(4), 0.6, 4000, (0.9, 0.6)).cells()
    targets = precisions(cells)
    planned = for_margin(cells, targets, 0.04)
    bought = for_budget(cells, targets, planned.total)
    assert bought.total <= planned.total
    assert bought.margin.max() == pytest.approx(0.04, rel=0.01)
    assert for_budget(cells, targets, 10**9).margin.max() == 0.0


def test_more_cells_than_labels_are_merged_and_the_margins_still_hold():
    rng = np.random.default_rng(5)
    columns = [rng.random(4000) < 0.5 for _ in range(14)]
    cells, _ = cells_of([str(n) for n in range(14)], columns)
    assert cells.size.size > 3000
    found = for_margin(cells, precisions(cells), 0.08)
    assert found.total < 3000
    assert 4 * found.strata.size.size <= found.total
    assert (found.margin <= 0.08 * (1 + 1e-9)).all()


def test_what_an_earlier_audit_knows_saves_labels():
    cells, _ = voting_world(np.random.default_rng(6), 0.6, 4000, (0.9, 0.6)).cells()
    known = np.full(cells.size.size, 0.9)
    # .9 * .1 / .25 = .36
    assert for_margin(cells, precisions(cells), 0.03, known).total < 0.45 * for_margin(
        cells, precisions(cells), 0.03).total
    unknown = np.full(cells.size.size, np.nan)
    assert for_margin(cells, precisions(cells), 0.03, unknown).total == for_margin(
        cells, precisions(cells), 0.03).total


def test_margins_and_budgets_that_cannot_be_are_refused():
    cells, _ = cells_of("a", [np.ones(9, bool)])
    for margin in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(AuditError, match="margin: expected between 0 and 1"):
            for_margin(cells, precisions(cells), margin)
    with pytest.raises(AuditError, match="budget: expected at least 2 labels, got 1"):
        for_budget(cells, precisions(cells), 1)


def test_the_names_of_the_world_are_its_sets():
    cells, _ = voting_world(np.random.default_rng(0), 0.5, 100, (0.9, 0.6)).cells()
    assert cells.sets == NAMES


def test_a_stratum_has_two_labels_however_wide_the_margin():
    cells, _ = voting_world(np.random.default_rng(0), 0.5, 100, (0.9, 0.6)).cells()
    found = for_margin(cells, precisions(cells), 0.9)
    assert found.labels.min() == 2
