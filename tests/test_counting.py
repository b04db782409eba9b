"""Pair counts and R@1 against loops over every pair, ties and shared items included."""

import math

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from pipeline import distance
from pipeline.counting.operating import Grid, bucket_of
from pipeline.counting.queries import SHARED, count_pairs
from pipeline.data.items import Items
from pipeline.evaluation.embedding import population
from pipeline.evaluation.retrieval import recall_at_1
from pipeline.search.threshold import Reached
from pipeline.search.visibility import Queries

ROLES = ("both", "both", "query", "gallery")


def make(seed: int, n: int = 70) -> tuple[Items, np.ndarray]:
    """Items of two customers and shared ones; vectors on a coarse lattice, so that ties abound."""
    rng = np.random.default_rng(seed)
    columns = {
        "item_id": np.asarray([f"i{i}" for i in range(n)], np.object_),
        "label": np.asarray([None if i % 11 == 0 else f"l{i % 7}" for i in range(n)], np.object_),
        "customer": np.asarray([(None, "ada", "bob")[i % 3] for i in range(n)], np.object_),
        "role": np.asarray([ROLES[i % 4] for i in range(n)], np.object_),
        "split": np.asarray([("calibrate", "report")[i % 7 < 3] for i in range(n)], np.object_),
    }  # fmt: skip
    vectors = distance.unit(rng.integers(-1, 2, size=(n, 6)) + np.asarray([2, 0, 0, 0, 0, 0]))
    vendor = pa.table({"vendor": [f"v{i % 2}" for i in range(n)]})
    return Items(**columns, kind="vector", content=vectors, metadata=vendor), vectors


def pairs_of(items: Items, vectors: np.ndarray, split: str):
    """Every counted pair by the definition: (customer, identity, positive, distance, q, g)."""
    for q in range(len(items)):
        for g in range(len(items)):
            if items.role[q] == "gallery" or items.role[g] == "query":
                continue
            if items.split[q] != split or items.split[g] != split or q == g:
                continue
            if items.label[q] is None or items.label[g] is None:
                continue
            if items.customer[g] not in (None, items.customer[q]):
                continue
            d = distance.deciding(vectors[q : q + 1], vectors[g : g + 1])[0, 0]
            positive = items.label[q] == items.label[g]
            yield items.customer[q] or SHARED, items.label[q], positive, d, q, g


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("split", ["calibrate", "report"])
def test_every_visible_pair_is_counted_once_where_it_belongs(seed, split):
    items, vectors = make(seed)
    people = population(vectors, items)
    pairs = list(pairs_of(items, vectors, split))
    edges = np.unique([d for *_, d, _, _ in pairs])[:-1]  # every edge is a tie
    grid = Grid(edges.astype(np.float32))
    counted = count_pairs(grid, people.of(split)[0], people.gallery, people.of(split)[1])
    expected = np.zeros_like(counted.pairs)
    rows = list(zip(counted.groups, counted.identities, strict=True))
    for group, identity, positive, d, _, _ in pairs:
        bin_ = sum(d > edge for edge in grid.edges)
        expected[rows.index((group, identity)), int(positive), bin_] += 1
    assert_array_equal(counted.pairs, expected)
    assert counted.pairs.sum() == len(pairs) > 100


def test_identities_sum_into_their_bucket_and_customer():
    items, vectors = make(0)
    people = population(vectors, items)
    queries, counted = people.of("calibrate")
    grid = Grid(np.asarray([0.1, 0.5], np.float32))
    rows = count_pairs(grid, queries, people.gallery, counted)
    total = rows.operating()
    pooled = count_pairs(grid, queries, people.gallery, counted, pooled=True)
    assert total.groups == (SHARED, "ada", "bob")
    for i, (group, identity) in enumerate(zip(rows.groups, rows.identities, strict=True)):
        g, b = total.groups.index(group), int(bucket_of([identity])[0])
        assert (total.pairs[g, b] >= rows.pairs[i]).all()
    assert_array_equal(total.pairs.sum(axis=1), pooled.pairs)
    assert_array_equal(rows.pairs.sum(axis=0), total.pairs.sum(axis=(0, 1)))


def test_what_the_index_does_not_find_is_never_accepted():
    items, vectors = make(1)
    people = population(vectors, items)
    queries, counted = people.of("report")
    grid = Grid(np.asarray([0.05, 0.3, 2.0], np.float32))
    everything = count_pairs(grid, queries, people.gallery, counted)

    def proposing(*found):
        reached = Reached(*found)
        return count_pairs(grid, queries, people.gallery, counted, lambda *_: reached)

    none, whole = np.empty(0, np.int64), np.arange(len(people.gallery))
    nothing = proposing(none, math.inf)
    assert nothing.pairs[:, :, :-1].sum() == 0
    assert_array_equal(nothing.pairs.sum(axis=2), everything.pairs.sum(axis=2))
    for all_found in (proposing(whole, math.inf), proposing(none, -math.inf)):
        assert_array_equal(all_found.pairs, everything.pairs)


def test_what_the_index_does_not_propose_is_accepted_once_all_it_proposes_is():
    items, vectors = make(1)
    people = population(vectors, items)
    queries, counted = people.of("report")
    grid = Grid(np.asarray([0.05, 0.3, 0.4], np.float32))
    everything = count_pairs(grid, queries, people.gallery, counted).pairs
    late = Reached(np.empty(0, np.int64), float(np.float32(0.3)))
    found = count_pairs(grid, queries, people.gallery, counted, lambda *_: late).pairs
    assert everything[:, :, 0].sum() > 0
    assert_array_equal(found[:, :, 0], 0)
    assert_array_equal(found[:, :, 1], everything[:, :, :2].sum(axis=2))
    assert_array_equal(found[:, :, 2:], everything[:, :, 2:])


@pytest.mark.parametrize("seed", range(4))
def test_recall_at_1_by_hand_and_across_vendors(seed):
    items, vectors = make(seed)
    people = population(vectors, items, across="vendor")
    queries, counted = people.of("report")
    values, totals = [], []
    for apart in (False, True):
        right = asked = 0
        best: dict[int, list] = {}
        for *_, positive, d, q, g in pairs_of(items, vectors, "report"):
            vendor = items.metadata["vendor"].to_pylist()
            if not (apart and vendor[q] == vendor[g]):
                best.setdefault(q, []).append((d, items.item_id[g], positive))
        for found in best.values():
            if any(positive for *_, positive in found):
                asked += 1
                right += min(found)[2]  # equally near: the first id, as a server orders them
        values.append(right)
        totals.append(asked)
    plain = recall_at_1(queries, people.gallery, counted)
    asked = people.split == "report"
    across = recall_at_1(
        queries, people.gallery, counted, (people.across[0][asked], people.across[1])
    )
    for ours, right, total in zip((plain, across), values, totals, strict=True):
        assert ours == (right / total, total)


def test_no_query_is_a_value_not_a_crash():
    items, vectors = make(3)
    people = population(vectors, items)
    none = Queries(vectors[:0], *(np.empty(0, np.object_) for _ in range(3)))
    grid = Grid(np.asarray([0.5], np.float32))
    empty = count_pairs(grid, none, people.gallery, people.of("report")[1])
    assert empty.operating().groups == ()
    assert np.isnan(recall_at_1(none, people.gallery, people.of("report")[1])[0])
