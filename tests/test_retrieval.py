"""R@k and MAP@R against sorting every pair, ties and visibility included."""

import math

import numpy as np
import pyarrow as pa
import pytest

from pipeline import distance
from pipeline.data.items import Items
from pipeline.evaluation.embedding import population
from pipeline.evaluation.retrieval import Retrieval, recall_at_1, retrieval
from pipeline.search.gallery import build_gallery
from pipeline.search.visibility import Queries

ROLES = ("both", "both", "query", "gallery")


def world(seed: int, n: int = 90, *, lattice: bool = True) -> tuple[Items, np.ndarray]:
    """Two customers and shared items; on a coarse lattice most distances are tied."""
    rng = np.random.default_rng(seed)
    if lattice:
        raw = rng.integers(-1, 2, size=(n, 5)) + np.asarray([2, 0, 0, 0, 0])
    else:
        raw = rng.standard_normal((n, 40))
    columns = {
        "item_id": [f"i{i}" for i in rng.permutation(n)],
        "label": [None if i % 11 == 0 else f"l{i % 9}" for i in range(n)],
        "customer": [(None, "ada", "bob")[i % 3] for i in range(n)],
        "role": [ROLES[i % 4] for i in range(n)],
        "split": ["report" if i % 5 else "calibrate" for i in range(n)],
    }
    names = {name: np.asarray(values, np.object_) for name, values in columns.items()}
    vectors = distance.unit(raw)
    vendor = pa.table({"vendor": [f"v{i % 2}" for i in range(n)]})
    return Items(**names, kind="vector", content=vectors, metadata=vendor), vectors


def ranked(items: Items, vectors: np.ndarray, q: int, *, apart: bool = False) -> list[bool]:
    """Whether each item that query ``q`` meets has its label, nearest first, ties by id."""
    found = []
    vendor = items.metadata["vendor"].to_pylist()
    for g in range(len(items)):
        if g == q or items.role[g] == "query" or items.label[g] is None:
            continue
        if items.split[g] != "report" or items.customer[g] not in (None, items.customer[q]):
            continue
        if apart and vendor[g] == vendor[q]:
            continue
        total = np.float64(0)
        for a, b in zip(vectors[q], vectors[g], strict=True):
            total += np.float64(a) * np.float64(b)
        d = np.float32(min(max(1.0 - total, 0.0), 2.0))
        found.append((d, items.item_id[g], items.label[g] == items.label[q]))
    return [right for *_, right in sorted(found)]


def oracle(items: Items, vectors: np.ndarray, ks, *, apart: bool = False) -> Retrieval:
    recalls, precisions = {k: [] for k in ks}, []
    for q in range(len(items)):
        if items.role[q] == "gallery" or items.label[q] is None or items.split[q] != "report":
            continue
        order = ranked(items, vectors, q, apart=apart)
        relevant = sum(order)
        if relevant == 0:
            continue
        for k in ks:
            recalls[k].append(any(order[:k]))
        hits, total = 0, 0.0
        for place in range(relevant):
            if order[place]:
                hits += 1
                total += hits / (place + 1)
        precisions.append(total / relevant)
    means = {k: sum(values) / len(values) for k, values in recalls.items()}
    return Retrieval(means, sum(precisions) / len(precisions), len(precisions))


def measured(items: Items, vectors: np.ndarray, ks, *, apart: bool = False) -> Retrieval:
    people = population(vectors, items, "vendor")
    queries, counted = people.of("report")
    sides = None
    if apart:
        sides = (people.across[0][people.split == "report"], people.across[1])
    return retrieval(queries, people.gallery, counted, ks, apart=sides)


def measured_all(items: Items, vectors: np.ndarray, ks) -> Retrieval:
    people = population(vectors, items)
    queries, counted = people.of("report")
    return retrieval(queries, people.gallery, counted, ks)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lattice", [True, False])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("ks", [(1, 2), (1, 7, 1000)])
def test_r_at_k_and_map_at_r_are_those_of_sorting_every_pair(seed, lattice, apart, ks):
    items, vectors = world(seed, lattice=lattice)
    ours, theirs = (f(items, vectors, ks, apart=apart) for f in (measured, oracle))
    assert ours.queries == theirs.queries
    assert ours.recall == pytest.approx(theirs.recall, abs=1e-12)
    assert ours.map_at_r == pytest.approx(theirs.map_at_r, abs=1e-12)


def test_of_many_items_the_nearest_are_found_among_all():
    rng = np.random.default_rng(5)
    labels = np.arange(1200) % 40
    centres = rng.standard_normal((40, 24))
    vectors = distance.unit(centres[labels] + 1.4 * rng.standard_normal((1200, 24)))
    columns = {
        "item_id": np.asarray([f"{i:04d}" for i in range(1200)], np.object_),
        "label": np.asarray([f"l{label}" for label in labels], np.object_),
        "customer": np.full(1200, None, np.object_),
        "role": np.full(1200, "both", np.object_),
        "split": np.full(1200, "report", np.object_),
    }
    items = Items(**columns, kind="vector", content=vectors, metadata=pa.table({}))
    cosine = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(cosine, -2)
    right = labels[np.argsort(-cosine, axis=1)[:, :29]] == labels[:, None]
    precisions = right.cumsum(axis=1) / np.arange(1, 30)
    found = measured_all(items, vectors, (1, 3))
    assert found.recall == pytest.approx({1: right[:, 0].mean(), 3: right[:, :3].any(1).mean()})
    assert found.map_at_r == pytest.approx((precisions * right).sum(axis=1).mean() / 29)
    assert 0.05 < found.map_at_r < 0.9


def test_map_at_r_by_hand():
    # One query with R = 3 positives; its nearest: right, wrong, right, right.
    # 1/3 (1/1 + 0 + 2/3) = 5/9: the fourth place lies beyond R.
    angles = np.radians([0, 10, 20, 30, 40])
    vectors = distance.unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    names = {
        "item_id": [*"qabcd"], "label": [*"xxyxx"], "customer": [None] * 5,
        "role": ["query", *["gallery"] * 4], "split": ["report"] * 5,
    }  # fmt: skip
    columns = {name: np.asarray(values, np.object_) for name, values in names.items()}
    items = Items(**columns, kind="vector", content=vectors, metadata=pa.table({}))
    found = measured_all(items, vectors, (1, 2))
    assert found == Retrieval({1: 1.0, 2: 1.0}, pytest.approx(5 / 9), 1)


def test_of_equally_near_items_the_first_id_comes_first():
    vectors = distance.unit(np.asarray([[1.0, 0], [1, 1], [1, 1]]))
    for ids, expected in ((("q", "a", "b"), 0.0), (("q", "b", "a"), 1.0)):
        columns = {
            "item_id": np.asarray(ids, np.object_),
            "label": np.asarray(["x", "y", "x"], np.object_),
            "customer": np.full(3, None, np.object_),
            "role": np.asarray(["query", "both", "both"], np.object_),
            "split": np.full(3, "report", np.object_),
        }
        items = Items(**columns, kind="vector", content=vectors, metadata=pa.table({}))
        queries = Queries(vectors[:1], items.item_id[:1], items.label[:1], items.customer[:1])
        gallery = build_gallery(vectors, items)
        assert recall_at_1(queries, gallery, np.ones(2, np.bool_)) == (expected, 1)


def test_nearness_below_the_rounding_of_float32_still_decides():
    # The two items differ by one ulp in their last coordinate: a float32 product cannot tell.
    rng = np.random.default_rng(0)
    wrong = 0
    for trial in range(40):
        query = distance.unit(rng.standard_normal((1, 64)))
        near = distance.unit(rng.standard_normal((1, 64)))
        other = near.copy()
        place = int(np.abs(query[0]).argmax())
        other[0, place] = np.nextafter(other[0, place], np.float32(2 * np.sign(query[0, place])))
        vectors = np.concatenate([query, near, other])
        d = distance.deciding(query, vectors[1:])[0]
        columns = {
            "item_id": np.asarray(["q", "a", "b"], np.object_),
            "label": np.asarray(["x", "y", "x"], np.object_),
            "customer": np.full(3, None, np.object_),
            "role": np.asarray(["query", "both", "both"], np.object_),
            "split": np.full(3, "report", np.object_),
        }
        items = Items(**columns, kind="vector", content=vectors, metadata=pa.table({}))
        people = population(vectors, items)
        queries, counted = people.of("report")
        expected = float(d[1] < d[0])  # a tie goes to "a"
        mine = queries.take(queries.item_id == "q")
        assert recall_at_1(mine, people.gallery, counted)[0] == expected, trial
        wrong += expected == 0.0
    assert 0 < wrong < 40  # both outcomes were seen


def test_nothing_to_find_is_unknown():
    items, vectors = world(0)
    alone = [None if label is None else f"{label}-{i}" for i, label in enumerate(items.label)]
    names = {name: getattr(items, name) for name in ("item_id", "customer", "role", "split")}
    lonely = Items(
        **names, label=np.asarray(alone, np.object_), kind="vector", content=vectors,
        metadata=items.metadata,
    )  # fmt: skip
    found = measured(lonely, vectors, (1, 5))
    assert found.queries == 0
    assert all(math.isnan(value) for value in (*found.recall.values(), found.map_at_r))


def test_a_depth_below_one_is_refused():
    items, vectors = world(0)
    with pytest.raises(ValueError, match="expected whole numbers from 1 up"):
        measured(items, vectors, (0, 1))
