"""Flips between two releases against a loop over every pair, and their intervals by definition."""

import dataclasses
import json
import sys
import tracemalloc

import numpy as np
import pytest
import typer
from numpy.testing import assert_array_equal
from typer.testing import CliRunner

from jobs import compare as verb
from jobs.command import guarded
from pipeline import distance
from pipeline.config import parse_recipe
from pipeline.consistency.opis import opis_difference
from pipeline.consistency.ranges import spaced
from pipeline.counting.operating import NEGATIVE, POSITIVE, Grid, bucket_of
from pipeline.counting.queries import SHARED, count_pairs
from pipeline.data.items import Items, ItemsError
from pipeline.evaluation import changes, flips
from pipeline.evaluation.changes import Change, difference
from pipeline.evaluation.comparison import ComparisonError, Contender, compare
from pipeline.evaluation.embedding import population
from pipeline.evaluation.flips import UNKNOWN_KIND, Decider, Flips, count_flips
from pipeline.releases.store import Store
from pipeline.search import visibility
from pipeline.search.index import build_index, open_index
from pipeline.search.threshold import Reached
from pipeline.statistics.intervals import clustered_rate
from tests.compared import INPUTS, RANGE, add_release, embeddings, make_items, write

EYE = np.eye(INPUTS, dtype=np.float32)


def turned(seed: int, amount: float = 0.3) -> np.ndarray:
    """Weights of an encoder that differs a little from the identity."""
    noise = np.random.default_rng(seed).normal(size=(INPUTS, INPUTS))
    return (EYE + amount * noise).astype(np.float32)


def lattice(seed: int, n: int = 60) -> tuple[Items, np.ndarray, np.ndarray]:
    """Items with two embeddings on a coarse lattice, so that equal distances abound."""
    rng = np.random.default_rng(seed)
    items = make_items(seed=seed, labels=n // 5)
    base = np.asarray([2, 0, 0, 0, 0, 0])
    first = distance.unit(rng.integers(-1, 2, size=(n, 6)) + base)
    second = distance.unit(rng.integers(-1, 2, size=(n, 6)) + base)
    keep = rng.random(n) < 0.5
    second[keep] = first[keep]
    return items, first, second


def all_labels(items: Items) -> np.ndarray:
    return np.asarray(sorted({label for label in items.label if label is not None}), object)


def loop(items, sides, thresholds, measured, reached=None):
    """Every decided pair by the definition: customer, unit, ends' identities, kind, decisions."""
    gallery = population(sides[0], items).gallery
    place = {key: i for i, key in enumerate(zip(gallery.customer, gallery.item_id, strict=True))}
    for q in range(len(items)):
        for g in range(len(items)):
            if items.role[q] == "gallery" or items.role[g] == "query" or q == g:
                continue
            if items.customer[g] not in (None, items.customer[q]):
                continue
            decided = []
            for side, (vectors, threshold) in enumerate(zip(sides, thresholds, strict=True)):
                d = distance.deciding(vectors[q : q + 1], vectors[g : g + 1])[0, 0]
                accepted = bool(d <= np.float32(threshold))
                if reached is not None and reached[side] is not None:
                    row = place[items.customer[g], items.item_id[g]]
                    found = reached[side](items.customer[q], vectors[q], 2.0)
                    accepted &= row in found.rows or thresholds[side] >= found.all_from
                decided.append(accepted)
            kind = UNKNOWN_KIND
            if items.label[q] in measured and items.label[g] in measured:
                kind = POSITIVE if items.label[q] == items.label[g] else NEGATIVE
            yield items.customer[q] or SHARED, q, g, kind, *decided


def identity(items: Items, row: int) -> str:
    label = items.label[row]
    return f"\0{items.customer[row] or ''}\0{items.item_id[row]}" if label is None else label


def both(items, sides, thresholds, reached=(None, None)):
    return [
        Decider(population(vectors, items), np.float32(threshold), proposals)
        for vectors, threshold, proposals in zip(sides, thresholds, reached, strict=True)
    ]


def require_equal(found: Flips, items: Items, pairs: list) -> None:
    """Every count of ``found`` is that of the loop."""
    units = list(zip((found.customers[c] for c in found.customer), found.identities, strict=True))
    expected = np.zeros((len(units), 3, 2, 2))
    touched = np.zeros_like(found.touched)
    for customer, q, g, kind, a, b in pairs:
        expected[units.index((customer, identity(items, q))), kind, int(a), int(b)] += 1
        ends = set(bucket_of([identity(items, q), identity(items, g)]).tolist())
        for bucket in ends:
            touched[found.customers.index(customer), bucket, kind, int(a), int(b)] += 1
    assert_array_equal(found.pairs, expected)
    assert_array_equal(found.touched, touched)


@pytest.mark.parametrize("seed", range(4))
def test_every_pair_is_decided_twice_and_counted_once_ties_included(seed, monkeypatch):
    monkeypatch.setattr(flips, "_COLUMNS", 7)
    monkeypatch.setattr(visibility, "BLOCK", 5)
    items, *sides = lattice(seed)
    measured = all_labels(items)[::2]  # of the others nobody knows what is right
    # Thresholds that are distances of pairs: a tie is a match.
    thresholds = [np.sort(distance.deciding(v, v), axis=None)[len(items) ** 2 // 4] for v in sides]
    found = count_flips(*both(items, sides, thresholds), measured)
    pairs = list(loop(items, sides, thresholds, measured))
    ties = [
        (distance.deciding(v, v) == np.float32(t)).sum()
        for v, t in zip(sides, thresholds, strict=True)
    ]
    assert min(ties) > 3
    require_equal(found, items, pairs)
    assert {kind for *_, kind, _, _ in pairs} == {0, 1, 2}
    assert {(a, b) for *_, a, b in pairs} == {(x, y) for x in (0, 1) for y in (0, 1)}


def test_a_pair_next_to_the_threshold_is_decided_by_the_deciding_distance():
    # In 512 dimensions a float32 product errs by more than the steps between distances here.
    rng = np.random.default_rng(5)
    items = make_items(labels=24)
    near = rng.normal(size=512) + 0.02 * rng.normal(size=(len(items), 512))
    vectors = distance.unit(near)
    side = both(items, (vectors, vectors), (0, 0))[0]
    gallery, queries = side.people.gallery, side.people.queries
    exact = distance.deciding(queries.vectors, gallery.vectors)
    products = 1 - queries.vectors @ gallery.vectors.T
    rows = np.arange(len(queries)), np.arange(len(gallery))
    wrongly_accepted, wrongly_rejected = 0, 0
    for tie in np.sort(exact, axis=None)[200::97]:
        for threshold in (tie, np.nextafter(tie, np.float32(0)), np.nextafter(tie, np.float32(1))):
            found = dataclasses.replace(side, threshold=threshold).accepts(*rows)
            assert_array_equal(found, exact <= threshold)
            wrongly_accepted += int(((products <= threshold) & ~found).sum())
            wrongly_rejected += int((found & (products > threshold)).sum())
    assert wrongly_accepted > 50  # else this test would prove nothing
    assert wrongly_rejected > 50


def test_what_an_index_does_not_reach_is_rejected_unless_all_it_reaches_is_accepted():
    items, *sides = lattice(1)
    thresholds = [np.float32(0.3)] * 2

    def every_second_row(customer, query, limit):
        rows = np.arange(int(query[0] > 0.5), 48, 2)  # 48 of the 60 items are served
        return Reached(rows, float(thresholds[1]) if query[1] > 0 else np.inf)

    reached = (None, every_second_row)
    measured = all_labels(items)
    found = count_flips(*both(items, sides, thresholds, reached), measured)
    require_equal(found, items, list(loop(items, sides, thresholds, measured, reached)))


def test_the_same_release_twice_flips_nothing():
    items, first, _ = lattice(2)
    side = Contender("same", both(items, (first, first), (0.3, 0.3))[0], RANGE)
    found = compare(side, side, all_labels(items), "euclidean")
    for one in (found.overall, *found.customers):
        assert one.flips == one.right == one.wrong == 0
        assert one.matches[0] == one.matches[1]
        assert one.far.interval().value == one.frr.interval().value == 0
    assert found.opis_change.value == found.opis_change.lower == found.opis_change.upper == 0


def test_the_order_of_the_items_changes_nothing():
    items, *sides = lattice(3)
    order = np.random.default_rng(0).permutation(len(items))
    plain = count_flips(*both(items, sides, (0.3, 0.25)), all_labels(items))
    shuffled = items.take(order)
    other = count_flips(
        *both(shuffled, [v[order] for v in sides], (0.3, 0.25)), all_labels(items)
    )
    assert_array_equal(plain.pairs, other.pairs)
    assert_array_equal(plain.touched, other.touched)


def test_items_in_another_order_are_no_pair_of_releases():
    items, first, second = lattice(3)
    order = np.arange(len(items))[::-1]
    other = dataclasses.replace(items, item_id=items.item_id[order])
    deciders = Decider(population(first, items), np.float32(0.3)), Decider(
        population(second, other), np.float32(0.3)
    )
    with pytest.raises(ValueError, match="same items in the same order"):
        count_flips(*deciders, all_labels(items))


def test_what_changes_is_the_arithmetic_of_the_pairs():
    items, *sides = lattice(4)
    thresholds, measured = (0.3, 0.25), all_labels(items)
    found = count_flips(*both(items, sides, thresholds), measured)
    pairs = list(loop(items, sides, thresholds, measured))
    for place, name in enumerate(found.customers):
        mine = [pair for pair in pairs if pair[0] == name]
        one = difference(name, found, np.asarray([place]))
        assert one.decisions == len(mine)
        assert one.matches == (sum(p[4] for p in mine), sum(p[5] for p in mine))
        lost = [p for p in mine if p[4] and not p[5]]
        gained = [p for p in mine if p[5] and not p[4]]
        assert (one.lost, one.gained) == (len(lost), len(gained))
        assert one.right == sum(p[3] == NEGATIVE for p in lost) + sum(
            p[3] == POSITIVE for p in gained
        )
        assert one.wrong == sum(p[3] == POSITIVE for p in lost) + sum(
            p[3] == NEGATIVE for p in gained
        )
        either = sum(p[4] or p[5] for p in mine)
        assert one.decision_share.interval().value == pytest.approx(one.flips / len(mine))
        assert one.flip_share.interval().value == pytest.approx(one.flips / either)
        assert one.lost_share.interval().value == pytest.approx(one.lost / one.matches[0])
        negative = [p for p in mine if p[3] == NEGATIVE]
        positive = [p for p in mine if p[3] == POSITIVE]
        assert one.far.before == pytest.approx(np.mean([p[4] for p in negative]))
        assert one.far.after == pytest.approx(np.mean([p[5] for p in negative]))
        if positive:
            assert one.frr.before == pytest.approx(np.mean([not p[4] for p in positive]))
            assert one.frr.after == pytest.approx(np.mean([not p[5] for p in positive]))
        else:
            assert np.isnan(one.frr.before)
            assert np.isnan(one.frr.interval().value)


def test_shares_of_flips_are_clustered_by_identity():
    items, *sides = lattice(4)
    thresholds, measured = (0.3, 0.25), all_labels(items)
    found = count_flips(*both(items, sides, thresholds), measured)
    everywhere = difference("all", found, np.arange(len(found.customers)))
    lost, matches, wrong, either = ({} for _ in range(4))
    for _, q, _, kind, a, b in loop(items, sides, thresholds, measured):
        who = identity(items, q)
        lost[who] = lost.get(who, 0) + (a and not b)
        matches[who] = matches.get(who, 0) + a
        worse = (a and not b) if kind == POSITIVE else (b and not a)
        wrong[who] = wrong.get(who, 0) + (worse and kind != UNKNOWN_KIND)
        either[who] = either.get(who, 0) + ((a or b) and kind != UNKNOWN_KIND)
    names = sorted(lost)
    for share, top, bottom in (
        (everywhere.lost_share, lost, matches), (everywhere.wrong_share, wrong, either)
    ):  # fmt: skip
        expected = clustered_rate(
            np.asarray([top[n] for n in names], float),
            np.asarray([bottom[n] for n in names], float), both_ends=True,
        )  # fmt: skip
        assert dataclasses.astuple(share.interval()) == pytest.approx(dataclasses.astuple(expected))


@pytest.mark.parametrize("kind", [NEGATIVE, POSITIVE])
def test_a_change_leaves_out_every_pair_with_an_end_in_the_bucket(kind):
    items, *sides = lattice(6, 90)
    thresholds, measured = (0.3, 0.25), all_labels(items)
    found = count_flips(*both(items, sides, thresholds), measured)
    pairs = [p for p in loop(items, sides, thresholds, measured) if p[3] == kind]
    bucket = bucket_of([identity(items, row) for row in range(len(items))])

    def change(customers, without=None):
        values = []
        for name in customers:
            mine = [
                p for p in pairs
                if p[0] == name and (without is None or without not in (bucket[p[1]], bucket[p[2]]))
            ]  # fmt: skip
            sign = 1 if kind == NEGATIVE else -1
            if mine:
                values.append(sign * np.mean([int(p[5]) - int(p[4]) for p in mine]))
        return np.mean(values)

    for places in ([1], [0, 1, 2]):
        customers = [found.customers[place] for place in places]
        one = difference("", found, np.asarray(places))
        one = one.far if kind == NEGATIVE else one.frr
        ends = {bucket[row] for p in pairs if p[0] in customers for row in p[1:3]}
        deleted = np.asarray([change(customers, b) for b in sorted(ends)])
        m = len(deleted)
        assert one.after - one.before == pytest.approx(change(customers))
        assert 1 <= one.degrees <= m - 1
        spread = np.square(deleted - deleted.mean()).sum()
        assert one.variance == pytest.approx((m - 1) / m * spread)


def test_without_a_flip_the_rule_of_three_bounds_what_was_not_seen():
    calm = Change(before=0.1, after=0.1, variance=0.0, degrees=19, largest=1 / 60, flips=0)
    assert dataclasses.astuple(calm.interval()) == pytest.approx((0, -0.04993, 0.04993), abs=1e-5)
    assert calm.interval(among=10).upper == pytest.approx(np.log(200) / 60)
    alone = dataclasses.replace(calm, degrees=0, flips=2)
    assert np.isnan(alone.interval().lower)
    nothing = dataclasses.replace(calm, before=np.nan, after=np.nan, largest=np.nan)
    assert np.isnan(nothing.interval().value)


def test_the_rule_of_three_counts_effective_identities():
    # Positive pairs of three identities: 6, 3, 1: the first has 6 of 10. Negative: 2, 2, 4 of 8,
    # and each is at the other end of others as well. A second customer halves every weight.
    pairs = np.zeros((4, 3, 2, 2))
    pairs[:, POSITIVE, 1, 1] = 6, 3, 1, 5
    pairs[:, NEGATIVE, 0, 0] = 2, 2, 4, 0
    made = Flips(
        ("a", "b"), np.asarray([0, 0, 0, 1]), np.asarray(["x", "y", "z", "x"], object), pairs,
        np.ones((2, 32, 3, 2, 2)),
    )  # fmt: skip
    alone, together = (difference("", made, np.asarray(places)) for places in ([0], [0, 1]))
    assert alone.frr.largest == pytest.approx(0.6)
    assert alone.far.largest == 1.0
    assert together.frr.largest == pytest.approx(0.6 / 2 + 1 / 2)
    assert together.far.largest == 1.0
    pairs[2, NEGATIVE] /= 4
    assert difference("", made, np.asarray([0])).far.largest == pytest.approx(2 * 2 / 5)


def test_flips_in_few_buckets_leave_few_degrees_of_freedom():
    # Kurtosis m sum d^4 / (sum d^2)^2: all equal 1, all in one of 20 buckets 20.
    rng = np.random.default_rng(0)
    assert changes._degrees(np.full(20, 0.1)) == 19
    assert changes._degrees(np.eye(20)[0]) == 2  # 2 * 20 / (20 - 1) = 2.1
    assert changes._degrees(np.zeros(20)) == 19
    assert changes._degrees(rng.normal(size=32)) <= 31
    assert changes._degrees(np.full(1, np.nan)) == 0


def test_a_share_among_many_is_wider():
    rng = np.random.default_rng(0)
    share = changes.Share(rng.binomial(20, 0.2, 60).astype(float), np.full(60, 20.0))
    assert share.interval(100).lower < share.interval().lower < share.interval().value


def test_more_customers_together_make_a_wider_interval():
    one = Change(before=0.1, after=0.2, variance=0.01**2, degrees=31, largest=1 / 60, flips=9)
    # t quantiles with 31 degrees of freedom: 2.0395 at 2.5 %, 2.9 at .25 % and so on.
    assert one.interval().lower == pytest.approx(0.1 - 0.020395, abs=1e-6)
    assert one.interval(among=50).lower < one.interval().lower


def test_the_change_of_opis_is_that_of_the_counts_over_each_release_s_own_range():
    items = make_items(labels=60, each=6)
    sides = embeddings(items, EYE), embeddings(items, turned(1, 0.6))
    ranges = (0.02, 0.6), (0.05, 0.7)
    measured = all_labels(items)[:40]

    def first_two_hundred(customer, query, limit):
        return Reached(np.arange(200), 0.5)

    reached = first_two_hundred, None
    deciders = both(items, sides, (0.3, 0.35), reached)
    first, second = (
        Contender(name, decider, reach)
        for name, decider, reach in zip("ab", deciders, ranges, strict=True)
    )
    found = compare(first, second, measured, "cosine")
    counts, thresholds = [], []
    for decider, reach in zip(deciders, ranges, strict=True):
        people = decider.people
        asking = people.queries.take(np.asarray([v in measured for v in people.queries.label]))
        judged = np.asarray([v in measured for v in people.gallery.label])
        thresholds.append(spaced(*reach, "cosine"))
        counts.append(count_pairs(
            Grid(thresholds[-1]), asking, people.gallery, judged, decider.proposals
        ))  # fmt: skip
    expected = opis_difference(
        counts[1].operating(), counts[0].operating(), (thresholds[1], thresholds[0])
    )
    assert dataclasses.astuple(found.opis_change) == pytest.approx(dataclasses.astuple(expected))
    assert expected.value != 0
    reverse = compare(second, first, measured, "cosine")
    assert reverse.opis_change.value == pytest.approx(-expected.value)


@pytest.mark.parametrize("spacing", ["euclidean", "log_far"])
def test_items_without_a_label_flip_all_the_same(spacing):
    items, *sides = lattice(4)
    nothing = dataclasses.replace(items, label=np.full(len(items), None, object))
    first, second = (
        Contender(name, decider, RANGE)
        for name, decider in zip("ab", both(nothing, sides, (0.3, 0.25)), strict=True)
    )
    found = compare(first, second, np.empty(0, object), spacing)
    labelled = count_flips(*both(items, sides, (0.3, 0.25)), all_labels(items))
    flipped = labelled.pairs[:, :, 0, 1] + labelled.pairs[:, :, 1, 0]
    assert found.overall.flips == flipped.sum()
    assert found.overall.right == found.overall.wrong == 0
    assert np.isnan(found.overall.far.interval().value)
    assert np.isnan(found.overall.wrong_share.interval().value)
    assert np.isnan(found.opis_change.value)
    json.dumps(found.document(), allow_nan=False)


def test_items_that_never_ask_cannot_be_compared_on():
    items, *sides = lattice(4)
    silent = dataclasses.replace(items, role=np.full(len(items), "gallery", object))
    first, second = (Contender("", side, RANGE) for side in both(silent, sides, (0.3, 0.25)))
    with pytest.raises(ComparisonError, match="no item asks; expected items of role"):
        compare(first, second, all_labels(items), "cosine")


def test_a_range_without_room_for_the_thresholds_is_one_clear_line():
    items, *sides = lattice(4)
    narrow = (0.3, float(np.nextafter(np.float32(0.3), np.float32(1))))
    first, second = (Contender("x", side, narrow) for side in both(items, sides, (0.3, 0.25)))
    with pytest.raises(ComparisonError, match=r"release x: no curve to compare: .*too narrow"):
        compare(first, second, all_labels(items), "cosine")


def test_memory_grows_with_the_queries_not_with_their_square():
    items = make_items(labels=1200)
    items = dataclasses.replace(items, customer=np.full(len(items), "one", object))
    vectors = embeddings(items, EYE)
    deciders = both(items, (vectors, vectors), (0.1, 0.2))
    tracemalloc.start()
    count_flips(*deciders, all_labels(items))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.9 * 4 * len(items) ** 2  # bytes of one float32 matrix of all distances


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store with two releases, ``now`` the first one's alias, and a table to compare them on."""
    folder = tmp_path_factory.mktemp("two")
    items = make_items(labels=30)
    write(items, folder / "items.parquet")
    store = folder / "store"
    ids = [
        add_release(store, folder / "first", EYE, 0.3, trained=("l4", "l5")),
        add_release(store, folder / "second", turned(1), 0.25, trained=("l7",)),
    ]
    Store(str(store)).promote("now", ids[0])
    return folder, items, ids


def limen_compare(folder, *arguments: str):
    """``limen compare ARGUMENTS`` in this process."""
    app = typer.Typer()
    app.command()(guarded(verb.main))
    options = ["--store", str(folder / "store")]
    return CliRunner().invoke(app, [*map(str, arguments), *options], env={"COLUMNS": "200"})


def test_the_verb_decides_as_each_release_would(world):
    folder, items, (first, second) = world
    said = limen_compare(folder, "now", second[:6], folder / "items.parquet", "--json")
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["releases"] == [first, second]
    assert found["thresholds"] == [float(np.float32(0.3)), 0.25]
    sides = embeddings(items, EYE), embeddings(items, turned(1))
    measured = [label for label in all_labels(items) if label not in ("l4", "l5", "l7")]
    pairs = list(loop(items, sides, (0.3, 0.25), measured))
    assert found["overall"]["decisions"] == len(pairs)
    assert found["overall"]["lost"] == sum(a and not b for *_, a, b in pairs) > 0
    assert found["overall"]["gained"] == sum(b and not a for *_, a, b in pairs) > 0
    judged = [(kind, a, b) for *_, kind, a, b in pairs if kind != UNKNOWN_KIND and a != b]
    assert found["overall"]["right"] == sum(b == (kind == POSITIVE) for kind, _, b in judged) > 0
    assert found["overall"]["wrong"] == sum(b != (kind == POSITIVE) for kind, _, b in judged) > 0
    assert [one["name"] for one in found["customers"]] == [
        SHARED, "customer a", "customer b", "customer c"
    ]  # fmt: skip


def test_a_release_is_named_by_folder_id_prefix_or_alias(world):
    folder, _, (first, second) = world
    for name in (folder / "first", first, first[:5], "now"):
        said = limen_compare(folder, name, second, folder / "items.parquet", "--json")
        assert json.loads(said.stdout)["releases"] == [first, second]


def test_the_table_names_every_customer_and_says_what_it_shows(world):
    folder, items, (first, second) = world
    said = limen_compare(folder, first, second, folder / "items.parquet")
    assert said.exit_code == 0
    for name in ("customer a", "customer b", "customer c", SHARED, "all customers"):
        assert name in said.stdout
    assert f"{len(items)} items" in said.stdout
    assert "the identity as the unit" in said.stdout


def test_a_fleet_is_cut_to_the_customers_with_the_most_flips(world, monkeypatch):
    folder, _, (first, second) = world
    monkeypatch.setattr(verb, "SHOWN", 1)
    said = limen_compare(folder, first, second, folder / "items.parquet")
    assert "3 customers with fewer flips are left out" in said.stdout


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"content": np.ones((3, 5), np.float32)}, "hold vectors of 5 numbers, .*takes vectors of"),
        ({"kind": "text", "content": np.full(3, "word", object)}, "hold text, .*takes vector"),
    ],
)
def test_items_that_an_encoder_cannot_take_are_refused_in_one_line(world, change, expected):
    folder, items, (first, second) = world
    few = items.take(np.arange(3))
    path = folder / "other.parquet"
    write(dataclasses.replace(few, **change), path)
    with pytest.raises(ItemsError, match=expected) as caught:
        verb.compare_releases(
            (Store(str(folder / "store")).open(first), Store(str(folder / "store")).open(second)),
            path, verb.terminal(),
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert limen_compare(folder, first, second, path).exit_code == 1


@pytest.mark.parametrize("names", [("nowhere", "now"), ("now", "nowhere")])
def test_a_release_that_is_not_there_is_refused(world, names):
    folder, *_ = world
    said = limen_compare(folder, *names, folder / "items.parquet")
    assert said.exit_code == 1


def test_an_inexact_index_decides_as_it_is_served(tmp_path):
    rng = np.random.default_rng(0)
    items = make_items(labels=200, each=10, spread=1.0)
    items = dataclasses.replace(items, customer=np.full(len(items), "one", object))
    items = items.take(np.sort(rng.permutation(len(items))[:1200]))
    write(items, tmp_path / "items.parquet")
    coarse = {"index": {"kind": "ivf", "match_recall": 0.5}}
    exact = {"index": {"kind": "flat"}}
    store = tmp_path / "store"
    names = [
        add_release(store, tmp_path / kind, EYE, 0.1, sections=sections)
        for kind, sections in (("exact", exact), ("coarse", coarse))
    ]
    releases = tuple(Store(str(store)).open(name) for name in names)
    found = verb.compare_releases(releases, tmp_path / "items.parquet", verb.terminal())
    people = population(embeddings(items, EYE), items)
    build_index(people.gallery, parse_recipe(
        {"name": "x", "data": {"items": "x"}, **coarse}, "").index, tmp_path)  # fmt: skip
    index = open_index(tmp_path, people.gallery)
    matches = 0
    for query, item_id in zip(people.queries.vectors, people.queries.item_id, strict=True):
        answer = index.search("one", query, np.float32(0.1))
        mine = people.gallery.item_id[answer.rows[: answer.match_count]] == item_id
        matches += answer.match_count - int(mine.sum())
    assert found.overall.matches[1] == matches < found.overall.matches[0]
    assert found.overall.gained == 0


@pytest.mark.slow
def test_the_intervals_cover_what_changes_between_two_encoders():
    """1,000 worlds of 40 identities; the truth is their mean. Prints coverage and width (-s)."""
    rng = np.random.default_rng(1)
    weights = np.eye(16), np.eye(16) + 0.3 * rng.normal(size=(16, 16)) / 4
    found = {name: [] for name in ("far", "frr", "flip", "lost", "wrong", "decision")}
    for number in range(1000):
        rng = np.random.default_rng([number, 40])
        centres = rng.normal(size=(40, 16))
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        inputs = np.repeat(centres, 5, axis=0) + 0.15 * rng.normal(size=(200, 16))
        label = np.repeat([f"w{k}" for k in rng.integers(1 << 60, size=40)], 5).astype(object)
        items = make_items(labels=40)
        items = dataclasses.replace(
            items, label=label, customer=np.full(200, "one", object),
            role=np.full(200, "both", object),
        )  # fmt: skip
        sides = [distance.unit(inputs @ weight) for weight in weights]
        flipped = count_flips(*both(items, sides, (0.5, 0.5)), all_labels(items))
        one = difference("one", flipped, np.asarray([0]))
        for name, values in found.items():
            measured = getattr(one, name if name in ("far", "frr") else f"{name}_share")
            values.append(dataclasses.astuple(measured.interval()))
    for name, rows in found.items():
        value, lower, upper = np.asarray(rows).T
        covers = np.mean((lower <= value.mean()) & (value.mean() <= upper))
        sys.stdout.write(f"{name} {value.mean():.4f}: {covers:.3f}, {(upper - lower).mean():.4f}\n")
        assert 0.93 <= covers <= 0.985, name
