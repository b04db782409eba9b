"""Drift: silent without change, loud with it, and nothing said from too little evidence.

Measured off line with this world: undrifted, the alert's condition held in 0 of 2,338
customer-windows (8, 15, 30, 60 or 120 reviewed queries). With a customer's matches moved out by
0.2 (its utility falls by about 0.38) it held in 60 of 72 windows of 60 reviewed queries; by
0.25 in 66 of 72, and in 30 of 72 windows of 30.
"""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pipeline.consistency.opis import opis_of
from pipeline.consistency.shift import curve_shift, inconsistency, reference_curve, utility_change
from pipeline.counting.operating import OperatingCounts
from pipeline.live.decisions import Volume
from pipeline.live.population import live_counts, within_horizon
from pipeline.statistics.intervals import sequence_tail
from serving.watching import drift
from serving.watching.drift import MIN_REVIEWED, OTHER, Drift
from tests.live_world import CUSTOMERS, calibrated, queries, review

WORLD = calibrated()
REFERENCE = WORLD.reference()


def watch(reviewed, reference=REFERENCE, traffic=None):
    """The snapshot of these reviewed queries."""
    count = Counter(query.customer for query in reviewed)
    volumes = [
        Volume(customer=name, queries=(traffic or count)[name], recorded=n,
               drawn_verdicts=16 * n, volunteered_verdicts=0)
        for name, n in sorted(count.items())
    ]
    return Drift(reference).snapshot(live_counts(reviewed, WORLD.grid), count, volumes)


def fleet(n, seed, *, drifted=(), by=0.0):
    """``n`` reviewed queries of every customer."""
    rng = np.random.default_rng(seed)
    return [
        query
        for name in CUSTOMERS
        for query in review(
            WORLD, queries(name, n, rng, drift=by if name in drifted else 0.0), name, rng,
            prefix=f"{seed}",
        )
    ]


def fires(gauges):
    """The alert's condition, as Prometheus is given it."""
    return gauges.curve_shift.lower > 0 and gauges.utility_change.upper < 0


def by_name(snap):
    return {gauges.customer: gauges for gauges in snap.customers}


def test_an_undrifted_fleet_is_silent():
    silent = [fires(gauges) for seed, n in enumerate((10, 20, 60))
              for gauges in watch(fleet(n, seed)).customers]
    assert len(silent) >= 25
    assert not any(silent)


def test_a_drifted_customer_fires_at_60_reviewed_queries_and_no_other_does():
    drifted = set(CUSTOMERS[:4])
    snap = watch(fleet(60, 1, drifted=drifted, by=0.25))
    assert {gauges.customer for gauges in snap.customers if fires(gauges)} == drifted


def test_remembered_gauges_are_those_measured_anew():
    one, two = CUSTOMERS[:2]
    early = [query for query in fleet(12, 8) if query.customer in (one, two)]
    late = [query for query in early if query.customer == one] + [
        query for query in fleet(12, 9) if query.customer == two
    ]
    gauges = Drift(REFERENCE)
    for reviewed in (early, late):
        anew = watch(reviewed)
        count = Counter(query.customer for query in reviewed)
        counts = live_counts(reviewed, WORLD.grid)
        assert gauges.snapshot(counts, count, anew.volumes) == anew


def test_gauges_are_those_of_the_methods_within_the_horizon():
    reviewed = fleet(20, 0)
    name = CUSTOMERS[4]
    live = within_horizon(live_counts(reviewed, WORLD.grid)).select([name])
    then = within_horizon(WORLD.baseline)
    curve = reference_curve(then, WORLD.thresholds)
    mine = by_name(watch(reviewed))[name]
    assert mine.calibrated
    assert mine.reviewed == 20
    tail = sequence_tail(20)
    assert mine.curve_shift == curve_shift(live, then, WORLD.thresholds, tail=tail)[0]
    assert mine.utility_change == utility_change(live, then, WORLD.threshold, tail=tail)[0]
    assert mine.inconsistency == inconsistency(live, curve, WORLD.thresholds, tail=tail)[0]
    before = inconsistency(then.select([name]), curve, WORLD.thresholds)[0]
    assert mine.inconsistency_drift.value == mine.inconsistency.value - before.value
    assert mine.inconsistency_drift.upper > mine.inconsistency_drift.value
    # At the served threshold, by hand.
    accepted = live.pairs.sum(axis=(0, 1))[:, 0]
    negatives, positives = live.pairs.sum(axis=(0, 1, 3))
    assert mine.far == pytest.approx(accepted[0] / negatives)
    assert mine.frr == pytest.approx(1 - accepted[1] / positives)
    assert mine.precision == pytest.approx(accepted[1] / accepted.sum())


def test_one_customers_gauges_do_not_depend_on_who_else_is_served():
    reviewed = fleet(12, 3)
    alone = [query for query in reviewed if query.customer == CUSTOMERS[1]]
    assert by_name(watch(reviewed))[CUSTOMERS[1]] == watch(alone).customers[0]


def test_opis_is_that_of_all_customers_with_enough_evidence():
    reviewed = fleet(12, 4)
    few = [q for q in reviewed if q.customer != CUSTOMERS[0]] + [
        q for q in reviewed if q.customer == CUSTOMERS[0]
    ][:3]
    now = within_horizon(live_counts(few, WORLD.grid)).select(CUSTOMERS[1:])
    assert watch(few).opis == opis_of(now, WORLD.thresholds, tail=sequence_tail(12))
    assert watch([q for q in reviewed if q.customer == CUSTOMERS[0]]).opis is None
    assert watch([]).opis is None


def test_no_customer_is_judged_below_the_minimum_of_evidence():
    name = CUSTOMERS[0]
    reviewed = review(WORLD, queries(name, 40, np.random.default_rng(0)), name,
                      np.random.default_rng(1))
    assert watch(reviewed[: MIN_REVIEWED - 1]).customers == ()
    assert [gauges.reviewed for gauges in watch(reviewed[:MIN_REVIEWED]).customers] == [8]
    # Many reviewed queries, but matches in 3 buckets only.
    buckets = live_counts(reviewed, WORLD.grid).pairs.sum(axis=(0, 2, 3)) > 0
    counts = live_counts(reviewed, WORLD.grid)
    for kept, expected in ((3, 0), (4, 1)):
        mask = np.isin(np.arange(32), np.flatnonzero(buckets)[:kept])
        snap = Drift(REFERENCE).snapshot(
            replace(counts, pairs=counts.pairs * mask[:, None, None]), {name: 40},
            [Volume(customer=name, queries=40, recorded=40, drawn_verdicts=0,
                    volunteered_verdicts=0)],
        )
        assert len(snap.customers) == expected


def test_a_customer_unknown_at_calibration_is_measured_against_the_mean_curve_and_marked():
    known = WORLD.baseline.select(CUSTOMERS[1:])
    reference = WORLD.reference(*CUSTOMERS[1:])
    same = fleet(40, 5)
    stranger = by_name(watch(same, reference))[CUSTOMERS[0]]
    assert not stranger.calibrated
    assert stranger.curve_shift == stranger.inconsistency
    assert math.isnan(stranger.inconsistency_drift.value)
    live = within_horizon(live_counts(same, WORLD.grid)).select([CUSTOMERS[0]])
    mean = reference_curve(within_horizon(known), np.asarray([WORLD.threshold]))[0]
    assert stranger.utility_change.value == pytest.approx(live.utility()[0, 0] - mean)
    assert stranger.utility_change.lower < stranger.utility_change.value
    far_off = fleet(60, 5, drifted={CUSTOMERS[0]}, by=0.4)
    assert fires(by_name(watch(far_off, reference))[CUSTOMERS[0]])
    assert all(gauges.calibrated for name, gauges in by_name(watch(same, reference)).items()
               if name != CUSTOMERS[0])


def test_customers_beyond_the_bound_are_watched_together(monkeypatch):
    monkeypatch.setattr(drift, "MAX_CUSTOMERS", 2)
    reviewed = fleet(20, 6)
    # Traffic decides, then the name.
    traffic = dict.fromkeys(CUSTOMERS, 5.0) | {CUSTOMERS[7]: 9.0}
    snap = watch(reviewed, traffic=traffic)
    assert [gauges.customer for gauges in snap.customers] == [CUSTOMERS[0], CUSTOMERS[7], OTHER]
    assert [volume.customer for volume in snap.volumes] == [CUSTOMERS[0], CUSTOMERS[7], OTHER]
    assert snap.volumes[-1].recorded == 7 * 20
    assert snap.customers[-1].reviewed == 7 * 20
    assert snap.opis == watch(reviewed).opis


def test_a_change_of_who_asks_is_no_change_of_the_customers_watched_together(monkeypatch):
    monkeypatch.setattr(drift, "MAX_CUSTOMERS", 0)
    rng = np.random.default_rng(7)
    # At calibration all asked alike; now nearly all queries are the hardest customer's.
    share = {CUSTOMERS[0]: 20, CUSTOMERS[8]: 300}
    reviewed = [q for name, n in share.items()
                for q in review(WORLD, queries(name, n, rng), name, rng)]
    (rest,) = watch(reviewed).customers
    assert rest.customer == OTHER
    assert rest.utility_change.lower < 0 < rest.utility_change.upper
    unweighted = within_horizon(WORLD.baseline).select(tuple(share))
    merged = OperatingCounts(WORLD.grid, (OTHER,), unweighted.pairs.sum(axis=0, keepdims=True))
    naive = within_horizon(live_counts(reviewed, WORLD.grid)).pairs.sum(axis=0, keepdims=True)
    wrong = utility_change(OperatingCounts(WORLD.grid, (OTHER,), naive), merged, WORLD.threshold)
    assert wrong[0].upper < 0
