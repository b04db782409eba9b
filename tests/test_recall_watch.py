"""One query in N is searched again: what is counted, dropped, and shown."""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from pipeline.config import IndexConfig
from pipeline.distance import deciding
from pipeline.search.gallery import build_gallery
from pipeline.search.index import build_index
from serving.answers.recall_watch import RECHECKED, SKIPPED, SUMS, RecallWatch, rechecks_of
from serving.answers.retriever import Retriever
from serving.counters import Counters
from serving.watching.recall_gauges import RecallCollector
from tests.live_items_world import Oracle, put_item, release_of, replica
from tests.search_world import clustered, make_items
from tests.serving_release import CUSTOMERS, THRESHOLD, make_world

CUSTOMER = CUSTOMERS[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("watched"))


@pytest.fixture(scope="module")
def retriever(world):
    return Retriever(world.release)


def watching(counters, every=1, seed=0):
    return RecallWatch(counters, every=every, rng=np.random.default_rng(seed))


def summed(counters):
    """What one replica counted, in the form of the monitor's sums."""
    kinds = {kind.name: kind for kind in counters.kinds()}
    found = {kind: {} for kind in kinds.values()}
    for (name, labels), value in counters.totals().items():
        found[kinds[name]][labels] = value
    return found


def asked(retriever, rows, *, lost=(), **options):
    """Embeddings, and answers that lack ``lost[i]`` of the matches that they should have."""
    embeddings = retriever.gallery.vectors[rows]
    answers = retriever.answer(CUSTOMER, embeddings, **options)
    lost = [*lost, *[0] * (len(rows) - len(lost))]
    return embeddings, [
        dataclasses.replace(answer, match_count=answer.match_count - missing)
        for answer, missing in zip(answers, lost, strict=True)
    ]


def test_what_the_served_search_missed_is_counted_against_brute_force(world, retriever):
    counters = Counters()
    watch = watching(counters)
    rows, lost = [3, 50, 57, 200], [0, 1, 2, 0]
    embeddings, answers = asked(retriever, rows, lost=lost)
    visible = world.rows_of(CUSTOMER)
    true = (deciding(embeddings, world.vectors[visible]) <= THRESHOLD).sum(axis=1)
    assert (true >= lost).all()
    watch.watch(retriever, CUSTOMER, embeddings, THRESHOLD, answers)
    watch.wait()
    totals = counters.totals()
    release = world.release.id12
    assert totals[RECHECKED.name, (release,)] == 4
    assert {labels[1]: value for (name, labels), value in totals.items() if name == SUMS.name} == {
        "matches": true.sum(), "missed": 3, "matches_squared": (true**2).sum(),
        "missed_squared": 5, "cross": true[1] + 2 * true[2],
    }
    share = rechecks_of(summed(counters))[release].match_recall()
    assert share.value == pytest.approx(1 - 3 / true.sum())


def test_a_query_is_searched_again_at_the_threshold_it_was_asked_at(world, retriever):
    counters = Counters()
    watch = watching(counters)
    wide = np.float32(0.2)
    embeddings, answers = asked(retriever, [3], threshold=wide)
    watch.watch(retriever, CUSTOMER, embeddings, wide, answers)
    watch.wait()
    distances = deciding(embeddings, world.vectors[world.rows_of(CUSTOMER)])
    sums = rechecks_of(summed(counters))[world.release.id12]
    assert sums.matches == (distances <= wide).sum() > (distances <= THRESHOLD).sum()
    assert sums.missed == 0


def test_misses_of_an_inexact_index_under_online_changes_are_those_of_brute_force(tmp_path):
    rng = np.random.default_rng(0)
    rows = clustered(rng, 1200, 24, spread=0.9)
    gallery = build_gallery(rows, make_items(["acme"] * len(rows), rows, rng))
    gallery.write(tmp_path)
    threshold = np.float32(0.5)
    build_index(gallery, IndexConfig(kind="ivf", match_recall=0.5), tmp_path, horizon=0.5)
    release = release_of(tmp_path, gallery)
    release.id12 = "r" * 12
    inexact, live = replica(release, tmp_path)
    oracle = Oracle(gallery)
    put = {f"new-{k}": gallery.vectors[k] for k in range(0, 1200, 8)}
    live.log.put("acme", [put_item(name, vector) for name, vector in put.items()], 0.0)
    oracle.put("acme", put)
    overlay = live.latest("acme")
    embeddings = gallery.vectors[::40].copy()
    answers = inexact.answer("acme", embeddings, threshold=threshold, overlay=overlay)
    true = np.asarray([
        sum(distance <= float(threshold) for distance, _ in oracle.order("acme", query))
        for query in embeddings
    ])
    missed = true - [answer.match_count for answer in answers]
    gate = threading.Event()

    class Later(RecallWatch):
        def _search_again(self, drawn):
            gate.wait(30)
            super()._search_again(drawn)

    counters = Counters()
    watch = Later(counters, every=1, rng=np.random.default_rng(0))
    watch.watch(inexact, "acme", embeddings, threshold, answers, overlay)
    embeddings[:] = 0  # whoever asked goes on with its own array
    gate.set()
    watch.wait()
    sums = rechecks_of(summed(counters))["r" * 12]
    assert missed.sum() > 50
    assert (sums.matches, sums.missed) == (true.sum(), missed.sum())
    assert (sums.missed_squared, sums.cross) == ((missed**2).sum(), (missed * true).sum())


def test_one_query_in_so_many_is_drawn_whatever_its_answer(retriever):
    class Counting(RecallWatch):
        def _search_again(self, drawn):
            self._counters.add(RECHECKED, str(drawn.found))

    counters = Counters()
    watch = Counting(counters, every=10, rng=np.random.default_rng(5))
    embeddings, answers = asked(retriever, [3, 50], lost=[0, 2])
    for _ in range(4000):
        watch.watch(retriever, CUSTOMER, embeddings, THRESHOLD, answers)
        watch.wait()
    totals = counters.totals()
    for answer in answers:
        # 400 expected of 4,000, standard deviation 19.
        assert 320 <= totals[RECHECKED.name, (str(answer.match_count),)] <= 480


def test_a_full_queue_drops_and_counts_and_never_waits(retriever):
    gate, entered = threading.Event(), threading.Event()

    class Stuck(RecallWatch):
        def _search_again(self, drawn):
            entered.set()
            gate.wait(30)

    counters = Counters()
    watch = Stuck(counters, every=1, rng=np.random.default_rng(0))
    embeddings, answers = asked(retriever, [3])
    watch.watch(retriever, CUSTOMER, embeddings, THRESHOLD, answers)
    assert entered.wait(30)
    for _ in range(100):
        watch.watch(retriever, CUSTOMER, embeddings, THRESHOLD, answers)
    assert counters.totals() == {(SKIPPED.name, ("full",)): 100 - 32}
    gate.set()
    watch.wait()


def test_a_search_that_fails_is_counted_and_the_next_one_runs(world, retriever):
    counters = Counters()
    watch = watching(counters)
    embeddings, answers = asked(retriever, [3, 50])
    watch.watch(retriever, CUSTOMER, np.zeros_like(embeddings[:1]), THRESHOLD, answers[:1])
    watch.watch(retriever, CUSTOMER, embeddings[1:], THRESHOLD, answers[1:])
    watch.wait()
    totals = counters.totals()
    assert totals[SKIPPED.name, ("failed",)] == 1
    assert totals[RECHECKED.name, (world.release.id12,)] == 1


def test_an_answer_with_more_than_there_is_is_no_evidence(retriever):
    counters = Counters()
    watch = watching(counters)
    embeddings, answers = asked(retriever, [3], lost=[-1])
    watch.watch(retriever, CUSTOMER, embeddings, THRESHOLD, answers)
    watch.wait()
    assert counters.totals() == {(SKIPPED.name, ("failed",)): 1}


def test_a_release_that_was_replaced_is_not_kept_alive(world):
    own = Retriever(world.release)
    watch = watching(Counters())
    embeddings, answers = asked(own, [3])
    watch.watch(own, CUSTOMER, embeddings.copy(), THRESHOLD, answers)
    watch.wait()
    gone = weakref.ref(own)
    del own, embeddings
    gc.collect()
    assert gone() is None


def test_the_gauges_are_absent_without_evidence_and_then_hold_their_bounds(world, retriever):
    counters = Counters()
    registry = CollectorRegistry()
    registry.register(RecallCollector(lambda: summed(counters)))
    assert "limen_match_recall_live{" not in generate_latest(registry).decode()
    watch = watching(counters)
    embeddings, answers = asked(retriever, list(range(50, 80)), lost=[1, 0, 1])
    watch.watch(retriever, CUSTOMER, embeddings, THRESHOLD, answers)
    watch.wait()
    release = world.release.id12
    value, lower, upper = (
        registry.get_sample_value(f"limen_match_recall_live{bound}", {"release": release})
        for bound in ("", "_lower", "_upper")
    )
    assert value == rechecks_of(summed(counters))[release].match_recall().value
    assert 0 < lower < value < upper < 1


def test_none_in_no_queries_is_refused():
    with pytest.raises(ValueError, match="every: expected at least 1"):
        RecallWatch(Counters(), every=0, rng=np.random.default_rng())
