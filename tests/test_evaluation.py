"""The threshold is measured again where it serves: through the index, ties included."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from pipeline.calibration.choice import CalibrationError, Choice
from pipeline.calibration.rules import CalibrationConfig
from pipeline.config import IndexConfig
from pipeline.counting.operating import Grid
from pipeline.counting.queries import count_pairs
from pipeline.evaluation.embedding import (
    chosen,
    measure,
    measure_at,
    population,
    require_measurable,
)
from pipeline.search.index import build_index, open_index
from tests.lattice_world import lattice, pairs_of


def indexed(folder, kind, match_recall=1.0):
    """Items with their population and an index that answers for it."""
    items = lattice(7, 240)
    people = population(items.content, items)
    people.gallery.write(folder)
    with pytest.MonkeyPatch.context() as patched:
        # No segment is too small for lists.
        patched.setattr("pipeline.search.index.SCANNED_BELOW", 8)
        # Distances lie on both sides of the horizon, past which every search is exact.
        build_index(people.gallery, IndexConfig(kind=kind, match_recall=match_recall), folder,
                    horizon=0.8)
    return items, people, open_index(folder, people.gallery)


@pytest.fixture(scope="module", params=["flat", "ivf"])
def served(request, tmp_path_factory):
    """``ivf`` misses some rows."""
    return indexed(tmp_path_factory.mktemp(request.param), request.param, 0.6)


def test_the_inexact_index_of_these_tests_misses_rows(served, request):
    _, people, index = served
    asked = zip(people.queries.customer, people.queries.vectors, strict=True)
    reached = sum(index.reach(customer, vector).rows.size for customer, vector in asked)
    visible = sum(
        entry.stop - entry.start
        for customer in people.queries.customer for entry in people.gallery.visible(customer)
    )  # fmt: skip
    assert (reached < visible) == (request.node.callspec.params["served"] == "ivf")


def item_rows(items, others):
    """Rows among the items of a gallery's rows, or of queries."""
    row = {key: i for i, key in enumerate(zip(items.customer, items.item_id, strict=True))}
    return [row[key] for key in zip(others.customer, others.item_id, strict=True)]


def answered(items, people, index, split, threshold):
    """Accepted pairs (customer, positive) by asking the index every query."""
    counted = {(q, g): (owner, positive) for owner, _, positive, _, q, g in pairs_of(items, split)}
    rows, accepted = item_rows(items, people.gallery), Counter()
    for q in sorted({q for q, _ in counted}):
        found = index.search(items.customer[q], items.content[q], threshold)
        for match in found.rows[: found.match_count]:
            if (pair := counted.get((q, rows[match]))) is not None:
                accepted[pair] += 1
    return accepted


def measured(people, index, threshold):
    """What a report measures at ``threshold``: accepted pairs by (customer, positive)."""
    choice = Choice(threshold, np.float32(threshold / 2), np.float32(threshold * 2), False, "")
    found = measure_at(people, choice, "euclidean", index.reach)
    counts = found.report.operating()
    edge = counts.grid.position(np.asarray([threshold]))[0]
    accepted = Counter({
        (owner, bool(kind)): int(counts.accepted()[g, kind, edge])
        for g, owner in enumerate(counts.groups) for kind in (0, 1)
    })  # fmt: skip
    return found, +accepted


def tied_threshold(items):
    distances = Counter(d for *_, d, _, _ in pairs_of(items, "report"))
    return distances.most_common(2)[1]


@pytest.mark.parametrize("match_recall", [0.3, 0.6])
def test_every_query_is_counted_as_the_index_answers_it_at_every_edge(tmp_path, match_recall):
    items, people, index = indexed(tmp_path, "ivf", match_recall)
    pairs = {(q, g): (positive, d) for *_, positive, d, q, g in pairs_of(items, "report")}
    edges = np.unique([d for _, d in pairs.values()])[::6].astype(np.float32)
    (queries, counted), rows = people.of("report"), item_rows(items, people.gallery)
    missed = in_full = 0
    for place, asked in enumerate(item_rows(items, queries)):
        one, query = queries.take(np.asarray([place])), items.content[asked]
        counts = count_pairs(Grid(edges), one, people.gallery, counted, index.reach)
        reach = index.reach(items.customer[asked], query).rows.size
        for edge, ours in zip(edges, counts.pairs.sum(axis=0).cumsum(axis=1).T, strict=False):
            found = index.search(items.customer[asked], query, edge)
            matches = [
                pairs.get((asked, rows[match]), (None,))[0]
                for match in found.rows[: found.match_count]
            ]
            if items.label[asked] is not None:
                assert ours.tolist() == [matches.count(False), matches.count(True)]
            exact = index.search(items.customer[asked], query, edge, exact=True)
            missed += exact.match_count > found.match_count
            in_full += found.match_count > reach
    assert len(edges) > 10
    assert missed > 100
    assert in_full > 100


def test_a_report_at_a_threshold_full_of_ties_is_what_the_index_answers(served):
    items, people, index = served
    threshold, ties = tied_threshold(items)
    assert ties > 50
    found, ours = measured(people, index, threshold)
    expected = answered(items, people, index, "report", threshold)
    assert ours == expected
    # A hair below, every tie is rejected, and by the index as well.
    below = np.nextafter(threshold, np.float32(0))
    fewer = measured(people, index, below)[1]
    assert fewer == answered(items, people, index, "report", below)
    assert fewer.total() < ours.total()
    overall, customers = found.points("report")
    counts = found.report.operating()
    for point in customers:
        totals = counts.totals()[counts.groups.index(point.name)]
        accepted = [expected[point.name, positive] for positive in (False, True)]
        assert point.far.value == pytest.approx(accepted[0] / totals[0], abs=1e-15)
        assert point.frr.value == pytest.approx(1 - accepted[1] / totals[1], abs=1e-15)
    assert overall.far.value == pytest.approx(np.mean([point.far.value for point in customers]))


@pytest.mark.parametrize("unit", ["customer", "label"])
@pytest.mark.parametrize("rule", ["far_target", "frr_target", "max_mean_utility"])
def test_what_is_measured_is_the_threshold_that_was_chosen(served, rule, unit):
    _, people, index = served
    config = CalibrationConfig(rule=rule, unit=unit, far_target=0.2, frr_target=0.6,
                               range_far=(0.1, 0.4))
    found = measure(people, config, index.reach)
    assert found.choice == chosen(people, config, index.reach)
    overall, _ = found.points("calibrate")
    if unit == "customer" and rule == "far_target":
        assert overall.far.value <= 0.2
    if unit == "customer" and rule == "frr_target":
        # Through the index, whose misses are rejections.
        assert overall.frr.value <= 0.6
    assert found.choice.units == (3 if unit == "customer" else 5)


def test_classes_as_units_choose_by_the_mean_over_classes(served):
    items, people, _ = served
    config = CalibrationConfig(unit="label", far_target=0.2, range_far=(0.1, 0.4))
    threshold = chosen(people, config).threshold
    pairs = list(pairs_of(items, "calibrate"))
    negatives = {label: [] for _, label, *_ in pairs}
    for _, label, positive, d, *_ in pairs:
        if not positive:
            negatives[label].append(d)

    def mean_far(limit):
        return np.mean([np.mean(np.asarray(entry) <= limit) for entry in negatives.values()])

    assert mean_far(threshold) <= 0.2
    steps = sorted({d for *_, d, _, _ in pairs if d > threshold})
    assert mean_far(steps[0]) > 0.2


def test_a_false_promise_is_refused_before_a_training():
    items = lattice(8)
    require_measurable(items, "number", CalibrationConfig())
    require_measurable(items, "", CalibrationConfig(far_target=0.3, control="crc"))
    with pytest.raises(CalibrationError, match=r"FAR 0\.001 on 3 customers even without an error: "
                                               "it takes 999, 996 more"):
        require_measurable(items, "", CalibrationConfig(control="crc"))
    config = CalibrationConfig(rule="frr_target", frr_target=0.1, control="crc", unit="label")
    with pytest.raises(CalibrationError, match=r"FRR 0\.1 on 5 classes even without an error: "
                                               "it takes 9, 4 more; add classes"):
        require_measurable(items, "", config)
    require_measurable(lattice(8, 200, classes=22), "", config)
    assert_array_equal(items.metadata.column_names, ["number"])
    assert isinstance(items.metadata, pa.Table)
