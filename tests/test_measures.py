"""What is measured of one embedding equals loops over every pair, by the definitions."""

import math

import numpy as np
import pyarrow as pa
import pytest

from pipeline import distance
from pipeline.consistency.ranges import fine_grid
from pipeline.data.items import Items
from pipeline.evaluation.grouping import GroupingError
from pipeline.evaluation.measures import Settings, difference, measure_items


def world(seed: int, *, classes: int = 12, each: int = 7, customers: int = 3, noise: float = 0.7):
    """Classes around centres; customers own classes in turn; roles and shared items mixed in."""
    rng = np.random.default_rng(seed)
    n = classes * each
    label = np.arange(n) // each
    centres = rng.standard_normal((classes, 8))
    vectors = distance.unit(centres[label] + noise * rng.standard_normal((n, 8)))
    names = {
        "item_id": [f"i{i:03d}" for i in rng.permutation(n)],
        "label": [f"l{value:02d}" for value in label],
        "customer": [None if value == 0 else f"c{value % customers}" for value in label],
        "role": [("both", "both", "query", "gallery")[i % 4] for i in range(n)],
        "split": [""] * n,
    }
    columns = {name: np.asarray(values, np.object_) for name, values in names.items()}
    items = Items(**columns, kind="vector", content=vectors, metadata=pa.table({}))
    counted = np.arange(n) % 13 != 5
    return items, counted


def pairs(items: Items, counted: np.ndarray, group: str):
    """Every pair as (group, positive, distance), from its definition."""
    for a in range(len(items)):
        for b in range(len(items)):
            if a == b or not (counted[a] and counted[b]):
                continue
            positive = items.label[a] == items.label[b]
            total = np.float64(0)
            for x, y in zip(items.content[a], items.content[b], strict=True):
                total += np.float64(x) * np.float64(y)
            d = np.float32(min(max(1.0 - total, 0.0), 2.0))
            if group == "label":
                if positive and b < a:
                    continue  # an unordered pair inside a class counts once
                yield items.label[a], positive, d
                continue
            if items.role[a] == "gallery" or items.role[b] == "query":
                continue
            if items.customer[b] in (None, items.customer[a]):
                yield items.customer[a] or "_shared", positive, d


def rates(seen, names, threshold):
    """FAR, FRR, precision, utility of each group at a threshold, by counting."""
    found = {}
    for name in names:
        negatives = [d for who, positive, d in seen if who == name and not positive]
        positives = [d for who, positive, d in seen if who == name and positive]
        false = sum(d <= threshold for d in negatives)
        true = sum(d <= threshold for d in positives)
        far = false / len(negatives) if negatives else math.nan
        sens = true / len(positives) if positives else math.nan
        spec = 1 - far
        utility = 0.0 if spec + sens == 0 else 2 * spec * sens / (spec + sens)
        twice = 2 if name.startswith("l") else 1  # either end of a pair in a class may ask
        precision = twice * true / (twice * true + false) if true + false else math.nan
        found[name] = (far, 1 - sens, precision, utility)
    return found


def pooled_far(seen, group, names, threshold):
    negatives = [(who, d) for who, positive, d in seen if not positive]
    if group == "label":
        return np.mean([d <= threshold for _, d in negatives])
    means = []
    for name in names:
        if any(who == name and positive for who, positive, _ in seen):
            mine = [d <= threshold for who, d in negatives if who == name]
            if mine:
                means.append(np.mean(mine))
    return np.mean(means)


@pytest.mark.parametrize("group", ["customer", "label"])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_number_is_that_of_counting_pair_by_pair(group, seed):
    items, counted = world(seed)
    settings = Settings(group=group, far_target=0.02, range_far=(0.03, 0.2))
    found = measure_items(items, counted, settings)
    seen = list(pairs(items, counted, group))
    names = sorted({who for who, *_ in seen})
    assert list(found.groups) == names
    assert found.items == counted.sum()

    # Threshold and range: the largest fine edge whose pooled FAR is at most the target.
    edges = fine_grid().edges
    for value, target in (
        (found.threshold, 0.02), (found.range_low, 0.03), (found.range_high, 0.2),
    ):  # fmt: skip
        place = int(np.searchsorted(edges, value))
        assert edges[place] == value
        assert pooled_far(seen, group, names, value) <= target
        assert pooled_far(seen, group, names, edges[place + 1]) > target

    at = rates(seen, names, found.threshold)
    for point in found.points:
        ours = (point.far.value, point.frr.value, point.precision, point.utility)
        np.testing.assert_allclose(ours, at[point.name], atol=1e-12)
    known = {name: values for name, values in at.items() if not math.isnan(values[3])}
    for spread, column in ((found.far_spread, 0), (found.frr_spread, 1)):
        values = [entry[column] for entry in at.values() if not math.isnan(entry[column])]
        assert spread.lowest == pytest.approx(min(values), abs=1e-12)
        assert spread.highest == pytest.approx(max(values), abs=1e-12)
        assert spread.deviation == pytest.approx(np.std(values), abs=1e-12)

    for entry in found.spaced:
        curves = np.asarray([
            [values[3] for values in rates(seen, known, d).values()] for d in entry.thresholds[::20]
        ])  # fmt: skip
        some = np.square(curves - curves.mean(axis=1, keepdims=True)).mean(axis=1)
        if entry.spacing == "euclidean":
            rows = [found.groups.index(name) for name in known]
            np.testing.assert_allclose(found.utility[rows][:, ::20].T, curves, atol=1e-12)
            whole = np.square(found.utility[rows] - found.utility[rows].mean(axis=0)).mean()
            assert entry.opis.raw == pytest.approx(whole)
        assert some.min() / 2 <= entry.opis.raw <= some.max() * 2
        assert entry.opis.groups_raw == len(known)
        assert entry.thresholds[0] == found.range_low
        assert entry.thresholds[-1] == found.range_high
        assert len(entry.thresholds) == 101


@pytest.mark.parametrize("group", ["customer", "label"])
def test_spreads_over_the_range_are_mean_squared_gaps(group):
    items, counted = world(2)
    found = measure_items(items, counted, Settings(group=group, range_far=(0.03, 0.2)))
    seen = list(pairs(items, counted, group))
    for column, spread in ((0, found.far_spread), (1, found.frr_spread)):
        at = rates(seen, found.groups, 1.0)
        names = [name for name, values in at.items() if not math.isnan(values[column])]
        table = np.asarray([
            [values[column] for values in rates(seen, names, d).values()]
            for d in found.main.thresholds[::10]
        ])  # fmt: skip
        gaps = np.square(table - table.mean(axis=1, keepdims=True)).mean()
        assert spread.over_range.variance.raw == pytest.approx(gaps, rel=0.3)


@pytest.mark.parametrize("group", ["customer", "label"])
def test_neither_the_order_of_rows_nor_the_names_of_labels_matter(group):
    items, counted = world(3)
    order = np.random.default_rng(0).permutation(len(items))
    renamed = {label: f"z{hash(label) % 997}-{label}" for label in set(items.label)}
    moved = items.take(order)
    settings = Settings(group=group, range_far=(0.03, 0.2))
    first = measure_items(items, counted, settings)
    second = measure_items(moved, counted[order], settings)
    assert second.main.opis.raw == pytest.approx(first.main.opis.raw, abs=1e-15)
    assert second.threshold == first.threshold
    assert second.retrieval.recall == first.retrieval.recall
    if group == "label":
        named = Items(
            **{name: getattr(items, name) for name in ("item_id", "customer", "role", "split")},
            label=np.asarray([renamed[label] for label in items.label], np.object_),
            kind="vector", content=items.content, metadata=items.metadata,
        )  # fmt: skip
        third = measure_items(named, counted, settings)
        assert third.main.opis.raw == pytest.approx(first.main.opis.raw, abs=1e-15)
        assert third.main.opis.corrected.value == pytest.approx(
            first.main.opis.corrected.value, abs=1e-15
        )


@pytest.mark.parametrize("group", ["customer", "label"])
def test_spacings_apart_give_what_spacings_together_give(group, monkeypatch):
    items, counted = world(4)
    settings = Settings(group=group, range_far=(0.03, 0.2), spacing="cosine")
    together = measure_items(items, counted, settings)
    monkeypatch.setattr("pipeline.evaluation.measures._UNION_BYTES", 0)
    apart = measure_items(items, counted, settings)
    for one, other in zip(together.spaced, apart.spaced, strict=True):
        assert one.spacing == other.spacing
        assert one.opis.raw == pytest.approx(other.opis.raw, abs=1e-15)
    np.testing.assert_array_equal(together.utility, apart.utility)
    assert repr(together.points) == repr(apart.points)  # NaN is no equal of itself


def test_a_given_threshold_is_measured_and_widens_the_range_only_where_it_is_served():
    items, counted = world(5)
    far = (0.03, 0.2)
    plain = measure_items(items, counted, Settings(threshold=np.float32(0.01), range_far=far))
    assert plain.threshold == np.float32(0.01)
    assert plain.range_low > 0.01
    assert not plain.widened
    served = measure_items(
        items, counted, Settings(threshold=np.float32(0.01), range_far=far, widen=True)
    )
    assert served.widened
    assert served.range_low == np.float32(0.01)
    assert served.range_high == plain.range_high


def test_the_difference_to_itself_is_zero_and_changes_sign_with_its_sides():
    items, counted = world(6, customers=4, classes=40)
    settings = Settings(range_far=(0.03, 0.2))
    ours = measure_items(items, counted, settings)
    rng = np.random.default_rng(0)
    noisy = distance.unit(items.content + 0.3 * rng.standard_normal(items.content.shape))
    blurred = Items(
        **{n: getattr(items, n) for n in ("item_id", "label", "customer", "role", "split")},
        kind="vector", content=noisy, metadata=items.metadata,
    )  # fmt: skip
    theirs = measure_items(blurred, counted, settings)
    assert difference(ours, ours).value == pytest.approx(0, abs=1e-18)
    there, back = difference(ours, theirs), difference(theirs, ours)
    assert there.value == pytest.approx(-back.value)
    assert there.value == pytest.approx(
        ours.main.opis.corrected.value - theirs.main.opis.corrected.value
    )


def test_equal_ids_of_two_customers_are_two_items_of_a_class():
    items, counted = world(7)
    shared = items.customer == None  # noqa: E711 - elementwise
    ids = items.item_id.copy()
    first, second = np.flatnonzero(~shared & (items.customer == "c1"))[:1], np.flatnonzero(
        items.customer == "c2")[:1]  # fmt: skip
    ids[second] = ids[first]
    doubled = Items(
        **{n: getattr(items, n) for n in ("label", "customer", "role", "split")}, item_id=ids,
        kind="vector", content=items.content, metadata=items.metadata,
    )  # fmt: skip
    settings = Settings(group="label", range_far=(0.03, 0.2))
    found = measure_items(doubled, counted, settings)
    assert found.main.opis.raw == measure_items(items, counted, settings).main.opis.raw


@pytest.mark.parametrize("group", ["customer", "label"])
def test_what_has_no_pairs_of_both_kinds_is_refused_in_one_line(group):
    items, counted = world(8)
    one = np.full(len(items), "the same", np.object_)
    alone = np.asarray([f"l{i}" for i in range(len(items))], np.object_)
    for label in (one, alone):
        names = {n: getattr(items, n) for n in ("item_id", "customer", "role", "split")}
        changed = Items(**names, label=label, kind="vector", content=items.content,
                        metadata=items.metadata)  # fmt: skip
        with pytest.raises(GroupingError, match="both a positive and a negative pair") as caught:
            measure_items(changed, counted, Settings(group=group))
        assert "\n" not in str(caught.value)


def test_targets_that_fall_on_one_threshold_are_refused():
    items, counted = world(9)
    with pytest.raises(GroupingError, match="give other targets with --far"):
        measure_items(items, counted, Settings(group="label", range_far=(1e-7, 2e-7)))
    with pytest.raises(GroupingError, match="expected one of customer, label"):
        measure_items(items, counted, Settings(group="vendor"))


def test_labels_on_one_point_leave_no_threshold_to_choose():
    items, counted = world(10)
    content = items.content.copy()
    content[:] = content[0]
    names = {n: getattr(items, n) for n in ("item_id", "label", "customer", "role", "split")}
    same = Items(**names, kind="vector", content=content, metadata=items.metadata)
    for group in ("customer", "label"):
        with pytest.raises(GroupingError, match="no threshold above 0 has a FAR of at most"):
            measure_items(same, counted, Settings(group=group))
