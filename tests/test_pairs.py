"""All-pairs counts against a loop over every pair: ties on edges, shards, devices, bad input."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from pipeline import distance
from pipeline.counting import cuda, pairs
from pipeline.counting.binning import ruler_of
from pipeline.counting.classes import SPLITS, UNITS, half_bits, ranks_in_class
from pipeline.counting.cuda import negatives
from pipeline.counting.operating import Grid
from pipeline.counting.pairs import PairsError, count_classes, lay_out
from pipeline.cuda import DeviceError
from tests.all_pairs_world import by_brute_force, edges_among, lattice, world

COARSE = Grid(np.asarray([0.1, 0.5, 1.0], np.float32))


def bits_of(vectors, labels, ids) -> np.ndarray:
    """(n, S) half of each item in each split, item by item."""
    bits = np.zeros((len(labels), SPLITS), np.int64)
    for label in set(labels) - {None}:
        rows = np.flatnonzero(labels == label)
        ranks = ranks_in_class(np.zeros(len(rows), np.int64), list(ids[rows]), vectors, rows)
        bits[rows] = (half_bits(len(rows))[ranks % UNITS][:, None] >> np.arange(SPLITS)) & 1
    return bits


def require_equal(found, data, grid):
    vectors, labels, ids = data
    whole, halves = by_brute_force(vectors, labels, bits_of(vectors, labels, ids), grid)
    assert_array_equal(found.whole, whole)
    assert_array_equal(found.halves, halves)
    known = [label for label in labels if label is not None]
    assert found.groups == tuple(sorted(set(known)))
    assert_array_equal(found.items, [known.count(name) for name in found.groups])


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(pairs, "ROWS", 16)
    monkeypatch.setattr(pairs, "COLUMNS", 40)
    monkeypatch.setattr(pairs, "HELD", 2)


@pytest.mark.parametrize("dimension", [1, 2, 3, 16, 67, 512])
@pytest.mark.usefixtures("small_tiles")
def test_every_pair_is_counted_in_its_bin_with_edges_on_distances_of_the_data(dimension):
    data = world(17, 8, max(dimension, 2), seed=dimension)
    if dimension == 1:  # only +1 and -1: every distance is 0 or 2
        data = (np.sign(data[0][:, :1]), *data[1:])
    grid = edges_among(data[0], 40)
    require_equal(count_classes(*data, grid, threads=3), data, grid)


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 9), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_equal_vectors_and_equal_distances_are_counted_like_any_other(seed, n, classes, dimension):
    vectors, labels, ids = lattice(n, classes, dimension, seed)
    labels[::7] = None
    grid = edges_among(vectors, 12, seed)
    data = (vectors, labels, ids)
    require_equal(count_classes(*data, grid, threads=1), data, grid)


def test_large_classes_are_halved_by_units_of_their_items():
    data = world(3, 75, 8, seed=1)
    grid = edges_among(data[0], 30)
    require_equal(count_classes(*data, grid), data, grid)


@pytest.mark.parametrize("edges", [[0.0], [2.0], [-0.5], [-0.1, 0.0, 1.0, 2.0, 2.5]])
def test_edges_at_the_ends_of_the_range(edges):
    vectors = np.asarray([[1, 0], [1, 0], [-1, 0], [0, 1], [0.6, 0.8], [0.6, 0.8]], np.float32)
    labels = np.asarray(["a", "b", "b", "a", "c", "a"], np.object_)
    data = (vectors, labels, np.asarray(list("uvwxyz"), np.object_))
    grid = Grid(np.asarray(edges, np.float32))
    require_equal(count_classes(*data, grid), data, grid)


def test_a_grid_as_fine_as_float32_leaves_no_bin_to_the_product_alone():
    # Edges so close that every product lies within its error of one, and most sums of float64
    # decide; every fifth edge is a distance itself.
    data = world(6, 6, 32, seed=3)
    some = edges_among(data[0], 30).edges
    steps = [some]
    for _ in range(4):
        steps.append(np.nextafter(steps[-1], np.float32(2)))
    grid = Grid(np.unique(np.concatenate(steps)))
    require_equal(count_classes(*data, grid), data, grid)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
@pytest.mark.parametrize("dimension", [24, 768])
def test_a_narrow_grid_is_exact_where_products_are_off_by_more_than_a_cell(dimension, device):
    data = world(100, 4, dimension, seed=7)
    table = distance.deciding(data[0], data[0])[np.triu_indices(400, 1)]
    middle = np.sort(table)[30_000:30_100]  # next to each other, and pairs on every edge
    grid = Grid(np.unique(middle))
    found = count_classes(*data, grid, device=device).pooled().sum(axis=0)
    assert_array_equal(found, np.bincount(grid.bin_of(table), minlength=grid.bins))
    # The product alone would not do.
    product = (1 - data[0] @ data[0].T)[np.triu_indices(400, 1)]
    assert (np.bincount(grid.bin_of(product), minlength=grid.bins) != found).any()


def test_more_edges_than_a_small_table_can_number():
    data = world(10, 4, 16, seed=8)
    table = distance.deciding(data[0], data[0])[np.triu_indices(40, 1)]
    edges = np.linspace(0.2, 1.4, 40_000, dtype=np.float32)
    grid = Grid(np.unique(np.concatenate([edges, table])))
    assert_array_equal(
        count_classes(*data, grid).pooled().sum(axis=0),
        np.bincount(grid.bin_of(table), minlength=grid.bins),
    )


@pytest.mark.parametrize(("sign", "steps", "bin_"), [(1, 1, 1), (-1, 3, 0)])
@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
@pytest.mark.parametrize("labels", [["x", "y"], ["x", "x"]])
def test_where_even_the_float64_sum_is_too_near_an_edge_the_index_order_decides(
    sign, steps, bin_, device, labels
):
    # The first product puts 1 - sum halfway between two float32 distances. Each of the 40 others
    # is half a unit in the last place: lost if added one by one, not if added up first.
    tiny = np.full(40, 2.0**-27)
    x = 0.25 + steps * 2.0**-25
    a = np.concatenate([[1.0], tiny, [0.0]]).astype(np.float32)
    b = np.concatenate([[x], sign * tiny / 2, [np.sqrt(1 - x * x)]]).astype(np.float32)
    edge = np.float32(0.75 - (steps + 1) * 2.0**-25)  # the nearer one of the two distances
    wrong = np.float32(1 - math.fsum(a.astype(float) * b.astype(float)))
    right = distance.deciding(a[None], b[None])[0, 0]
    assert (right > edge) == bin_ != (wrong > edge)
    grid = Grid(np.asarray([edge], np.float32))
    found = count_classes(np.stack([a, b]), labels, names(2), grid, device=device)
    assert found.pooled().sum(axis=0).tolist() == [1 - bin_, bin_]


def names(n: int) -> np.ndarray:
    return np.asarray([f"item {i}" for i in range(n)], np.object_)


@given(st.integers(0, 1000), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_shards_add_up_to_the_whole(seed, shards):
    data = lattice(90, 12, 5, seed)
    grid = edges_among(data[0], 15, seed)
    before = pairs.ROWS, pairs.COLUMNS
    pairs.ROWS, pairs.COLUMNS = 16, 24
    try:
        whole = count_classes(*data, grid)
        parts = [count_classes(*data, grid, shard=(i, shards)) for i in range(shards)]
    finally:
        pairs.ROWS, pairs.COLUMNS = before
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert_array_equal(total.whole, whole.whole)
    assert_array_equal(total.halves, whole.halves)
    if shards > 1:
        assert max(part.whole.sum() for part in parts) < whole.whole.sum()


@given(st.permutations(range(40)), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_neither_the_order_of_rows_nor_the_names_of_classes_change_a_count(order, seed):
    vectors, labels, ids = lattice(40, 5, 4, seed)
    grid = edges_among(vectors, 10, seed)
    first = count_classes(vectors, labels, ids, grid)
    order = np.asarray(order)
    new = {f"class {i}": f"renamed {(i * 3) % 5}" for i in range(5)}
    renamed = np.asarray([new[label] for label in labels], np.object_)
    second = count_classes(vectors[order], renamed[order], ids[order], grid)
    rows = [second.groups.index(new[name]) for name in first.groups]
    assert_array_equal(second.whole[rows], first.whole)
    assert_array_equal(second.halves[rows], first.halves)


def test_large_tiles_and_many_threads_count_the_same():
    data = world(260, 7, 24, seed=5)  # 1,820 rows: several tiles of the real size
    grid = edges_among(data[0][:300], 50)
    one, four = (count_classes(*data, grid, threads=threads) for threads in (1, 4))
    assert_array_equal(one.halves, four.halves)
    table = grid.bin_of(distance.deciding(data[0], data[0]))
    same = data[1][:, None] == data[1][None, :]
    for place in (0, 100, 259):
        mine = data[1] == one.groups[place]
        negative = table[mine][~same[mine]]
        assert_array_equal(one.whole[place, 0], np.bincount(negative, minlength=grid.bins))


def test_a_device_of_torch_counts_the_same():
    data = world(60, 5, 48, seed=2)
    grid = edges_among(data[0], 60)
    plain, other = count_classes(*data, grid), count_classes(*data, grid, device="cpu:0")
    assert_array_equal(plain.halves, other.halves)
    assert_array_equal(plain.whole, other.whole)


@pytest.mark.parametrize("seed", range(3))
def test_the_tiles_of_a_device_cover_every_pair_once_ties_included(seed):
    data = lattice(70, 8, 4, seed)
    grid = edges_among(data[0], 12, seed)
    layout = lay_out(*data)
    ruler = ruler_of(grid, layout.vectors)
    whole = negatives(layout, ruler, (0, 1), "cpu")
    small = sum(negatives(layout, ruler, (i, 2), "cpu", tile=9) for i in range(2))
    assert_array_equal(small, whole)
    whole[:, -1] -= whole[:, :-1].sum(axis=1)
    expected = count_classes(*data, grid).halves[:, 0, :, 0].sum(axis=1)
    by_class = np.add.reduceat(whole, layout.firsts[:-1])
    assert_array_equal(by_class, expected)


@pytest.mark.gpu
def test_a_gpu_counts_the_same():
    for data in (world(400, 8, 96, seed=2), lattice(900, 40, 6, 1)):
        grid = edges_among(data[0][:500], 60)
        plain, other = count_classes(*data, grid), count_classes(*data, grid, device="cuda")
        assert_array_equal(plain.halves, other.halves)
        assert_array_equal(plain.whole, other.whole)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_one_clear_line(device):
    with pytest.raises(DeviceError, match=f"device '{device}' cannot be used .*; try 'cpu'") as e:
        count_classes(*world(2, 2, 4), COARSE, device=device)
    assert "\n" not in str(e.value)


def test_the_precision_of_torch_is_lent_and_given_back(monkeypatch):
    seen, real = [], cuda._bins_of_tile

    def watched(*arguments):
        seen.append(torch.get_float32_matmul_precision())
        return real(*arguments)

    monkeypatch.setattr(cuda, "_bins_of_tile", watched)
    torch.set_float32_matmul_precision("medium")
    try:
        count_classes(*world(2, 2, 4), COARSE, device="cpu:0")
        assert seen == ["highest"]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_after_an_error_no_thread_begins_another_tile(monkeypatch):
    begun = []

    def fail_once(*arguments):
        begun.append(arguments)
        if len(begun) == 3:
            raise MemoryError("no room")
        time.sleep(0.005)
        return 0

    monkeypatch.setattr(pairs, "bins_of_tile", fail_once)
    monkeypatch.setattr(pairs, "ROWS", 4)
    with pytest.raises(MemoryError, match="no room"):  # whichever thread it was
        count_classes(*world(50, 4, 8), COARSE, threads=2)
    assert 3 <= len(begun) <= 20  # of 50 tiles


def test_unlabelled_items_are_left_out():
    vectors, labels, ids = world(5, 4, 8)
    labels[::3] = None
    kept = np.asarray([label is not None for label in labels])
    some = count_classes(vectors, labels, ids, COARSE)
    same = count_classes(vectors[kept], labels[kept], ids[kept], COARSE)
    assert_array_equal(some.halves, same.halves)
    assert some.items.sum() == kept.sum() < len(labels)


def test_plain_lists_will_do():
    vectors, labels, ids = world(4, 4, 8)
    some = count_classes(vectors, labels.tolist(), ids.tolist(), COARSE)
    assert_array_equal(some.whole, count_classes(vectors, labels, ids, COARSE).whole)
    fixed = count_classes(vectors, labels.astype(str), ids.astype(str), COARSE)
    assert_array_equal(some.whole, fixed.whole)


def test_one_class_has_no_negatives_and_one_item_no_pairs():
    vectors, _, ids = world(3, 4, 8)
    alone = count_classes(vectors, ["a"] * 12, ids, COARSE)
    assert alone.totals().tolist() == [[0, 66]]
    assert np.isnan(alone.utility()).all()
    single = count_classes(vectors[:1], ["a"], ids[:1], COARSE)
    assert single.totals().tolist() == [[0, 0]]
    assert np.isnan(single.sensitivity()).all()
    singles = count_classes(vectors, ids.tolist(), ids, COARSE)
    assert (singles.totals() == [11, 0]).all()
    assert np.isnan(singles.utility()).all()


def test_nothing_to_count_is_a_value():
    for vectors, labels, ids in (
        (np.empty((0, 4), np.float32), [], []),
        (world(2, 2, 4)[0], [None] * 4, names(4)),
    ):
        nothing = count_classes(vectors, labels, ids, COARSE)
        assert nothing.groups == ()
        assert nothing.whole.shape == (0, 2, 4)
        assert nothing.pooled().sum() == 0


def changed(what: str):
    vectors, labels, ids = world(3, 4, 8)
    options = {}
    if what == "nan":
        vectors[3, 2] = np.nan
    elif what == "infinite":
        vectors[3, 2] = np.inf
    elif what == "zero":
        vectors[3] = 0
    elif what == "long":
        vectors[3] *= np.float32(1.01)
    elif what == "float64":
        vectors = vectors.astype(np.float64)
    elif what == "flat":
        vectors = vectors.ravel()
    elif what == "labels short":
        labels = labels[:-1]
    elif what == "ids short":
        ids = ids[:-1]
    elif what == "label a number":
        labels[3] = 7
    elif what == "label nan":
        labels[3] = float("nan")
    elif what == "id missing":
        ids[3] = None
    elif what == "shard":
        options = {"shard": (3, 3)}
    elif what == "threads":
        options = {"threads": 0}
    return (vectors, labels, ids, COARSE), options


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", "row 3: vector of length nan; expected unit rows"),
        ("infinite", "row 3: vector of length inf"),
        ("zero", "row 3: vector of length 0"),
        ("long", "row 3: vector of length 1.01; expected unit rows"),
        ("float64", r"vectors: float64 \(12, 8\); expected float32"),
        ("flat", r"vectors: float32 \(96,\); expected float32 \(n, d\)"),
        ("labels short", "12 vectors, 11 labels, 12 item ids"),
        ("ids short", "12 vectors, 12 labels, 11 item ids"),
        ("label a number", "row 3: label 7; expected a str, or None"),
        ("label nan", "row 3: label nan; expected a str, or None"),
        ("id missing", "row 3: item id None; expected a str"),
        ("shard", r"shard: \(3, 3\); expected \(i, n\) with 0 <= i < n"),
        ("threads", "threads: 0; expected at least 1"),
    ],
)
def test_bad_input_is_one_clear_line(what, message):
    arguments, options = changed(what)
    with pytest.raises(PairsError, match=message) as error:
        count_classes(*arguments, **options)
    assert "\n" not in str(error.value)


def test_a_threshold_between_edges_gets_bounds_that_hold():
    data = world(12, 6, 16, seed=4)
    found = count_classes(*data, Grid(np.linspace(0.3, 1.1, 9, dtype=np.float32)))
    thresholds = np.asarray([0.0, 0.3, 0.31, 0.4444, 0.9, 1.1, 1.3], np.float32)
    exact = count_classes(*data, Grid(thresholds))
    for place, threshold in enumerate(thresholds):
        lower, upper = found.bounds(threshold)
        truth = exact.accepted()[:, :, place]
        assert (lower <= truth).all()
        assert (truth <= upper).all()
        if threshold in found.grid.edges:
            assert_array_equal(lower, upper)
    assert (upper == found.totals()).all()
    assert (found.bounds(0.0)[0] == 0).all()
    with pytest.raises(ValueError, match="not a number"):
        found.bounds(float("nan"))
