"""Metrics: from records to Prometheus text, through restarts and volunteers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.live.decisions import Verdict
from pipeline.live.records import open_records
from serving.answers.recorder import Answered, Recorder
from serving.watching import drift
from serving.watching.gauges import Gauges, Watched
from serving.watching.metrics import DriftCollector
from serving.watching.monitor import Monitor
from serving.watching.replicas import Replicas
from tests.live_world import CUSTOMERS, calibrated, queries

WORLD = calibrated()
REFERENCE = WORLD.reference()
INTERVALS = ("inconsistency", "inconsistency_drift", "curve_shift", "utility_change")


class Town:
    """Served queries of three customers, and a reviewer who knows the truth."""

    def __init__(self, url, seed=0):
        self.records = open_records(url)
        self.rng = np.random.default_rng(seed)
        self.distances, self.truth = {}, {}
        self.recorder = Recorder(
            self.records, WORLD.plan, release="r1", grid=WORLD.grid, rate=1.0,
            visible=lambda _, e, __: (np.arange(600), self.distances[int(e[0])]),
            item_id=lambda row, _: str(row), rng=self.rng,
        )

    def serve(self, customer, n):
        pairs, batch = queries(customer, n, self.rng), []
        for distances, is_match in zip(pairs.distances, pairs.is_match, strict=True):
            row = len(self.distances)
            self.distances[row], self.truth[f"q{row}"] = distances, is_match
            batch.append(
                Answered(query_id=f"q{row}", customer=customer, match_count=0,
                         embedding=np.array([row], np.float32), threshold=WORLD.threshold)
            )
        self.recorder.record(batch, at=float(len(self.distances)))

    def judge(self, budget=100_000):
        pairs = self.records.reviews(budget, None, "r1")
        self.records.add_verdicts(
            [Verdict(query_id=p.query_id, item_id=p.item_id, draw_id=p.draw_id,
                     is_match=bool(self.truth[p.query_id][int(p.item_id)])) for p in pairs],
            None, at=0.0,
        )


def scraped(snapshot, **facts):
    registry = CollectorRegistry()
    registry.register(DriftCollector(snapshot, **facts))
    return generate_latest(registry).decode()


def samples(text):
    """Every sample by name and labels; raises where a series is there twice."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def series(found, name):
    return {key[1]: value for key, value in found.items() if key[0] == name}


def of(customer, **more):
    return tuple(sorted({"release": "r1", "customer": customer, **more}.items()))


def test_what_is_scraped_is_the_snapshot_with_a_bound_on_each_side(url):
    town = Town(url)
    town.serve(CUSTOMERS[0], 12)
    town.serve(CUSTOMERS[1], 10)
    town.serve(CUSTOMERS[2], 3)
    town.judge()
    monitor = Monitor(town.records, REFERENCE)
    snap = monitor.snapshot()
    found = samples(scraped(monitor.snapshot, match_recall=0.99925, info={"recipe": "emoji"}))
    assert [gauges.customer for gauges in snap.customers] == list(CUSTOMERS[:2])
    for gauges in snap.customers:
        for name in INTERVALS:
            interval = getattr(gauges, name)
            for bound, value in (("", interval.value), ("_lower", interval.lower),
                                 ("_upper", interval.upper)):
                assert found[f"limen_{name}{bound}", of(gauges.customer)] == value
        for name in ("far", "frr", "precision"):
            assert found[f"limen_{name}", of(gauges.customer)] == getattr(gauges, name)
        assert found["limen_reviewed_queries", of(gauges.customer)] == gauges.reviewed
        assert found["limen_customer_calibrated", of(gauges.customer)] == 1
    release = (("release", "r1"),)
    assert found["limen_threshold", release] == float(WORLD.threshold)
    assert found["limen_match_recall", release] == 0.99925
    assert found["limen_release_info", (("recipe", "emoji"), *release)] == 1
    raw, corrected = ((("kind", kind), *release) for kind in ("raw", "corrected"))
    assert found["limen_opis", raw] == snap.opis.raw
    assert found["limen_opis", corrected] == snap.opis.corrected.value
    assert series(found, "limen_opis_lower") == {corrected: snap.opis.corrected.lower}
    assert series(found, "limen_opis_upper") == {corrected: snap.opis.corrected.upper}
    # The third customer is counted, not judged.
    assert found["limen_recorded_queries_total", of(CUSTOMERS[2])] == 3
    assert {key[1] for key in found if dict(key[1]).get("customer") == CUSTOMERS[2]} == {
        of(CUSTOMERS[2]), of(CUSTOMERS[2], kind="drawn"), of(CUSTOMERS[2], kind="volunteered")
    }


def test_before_any_evidence_there_is_the_release_and_no_gauge(url):
    records = open_records(url)
    found = samples(scraped(Monitor(records, REFERENCE).snapshot))
    assert {name for name, _ in found} == {"limen_release_info", "limen_threshold"}


def test_volunteered_verdicts_are_counted_and_move_no_gauge(url):
    town = Town(url)
    town.serve(CUSTOMERS[0], 12)
    town.judge()
    town.serve(CUSTOMERS[0], 1)
    monitor = Monitor(town.records, REFERENCE)
    before = samples(scraped(monitor.snapshot))
    drawn = {pair.item_id for pair in town.records.reviews(99, None, "r1")}
    volunteered = [
        Verdict(query_id=f"q{row}", item_id=str(item), is_match=False)
        for row in (0, 12)
        for item in range(40)
    ]
    # Even on a pair that was drawn: nobody drew this verdict.
    volunteered += [Verdict(query_id="q12", item_id=i, is_match=True) for i in sorted(drawn)]
    town.records.add_verdicts(volunteered, CUSTOMERS[0], at=0.0)
    after = samples(scraped(monitor.snapshot))
    counter = ("limen_verdicts_total", of(CUSTOMERS[0], kind="volunteered"))
    assert before.pop(counter) == 0
    assert after.pop(counter) == len(volunteered)
    assert after == before
    town.judge()
    assert samples(scraped(monitor.snapshot)) != before


def test_labels_are_bounded_whatever_the_number_of_customers(url, monkeypatch):
    monkeypatch.setattr(drift, "MAX_CUSTOMERS", 2)
    town = Town(url)
    for k, customer in enumerate(CUSTOMERS):
        town.serve(customer, 9 + k)
    town.judge()
    found = samples(scraped(Monitor(town.records, REFERENCE).snapshot))
    named = {dict(labels).get("customer") for _, labels in found} - {None}
    assert named == {*CUSTOMERS[7:], "_other"}
    verdicts = series(found, "limen_verdicts_total")
    assert len(verdicts) == 6
    assert sum(verdicts.values()) == 16 * sum(9 + k for k in range(9))


def test_a_customer_called_like_the_rest_is_not_told_of_the_rest(url, monkeypatch):
    monkeypatch.setattr(drift, "MAX_CUSTOMERS", 2)
    town = Town(url)
    for k, customer in enumerate(CUSTOMERS):
        town.serve(customer, 9 + k)
    town.judge()
    snapshot = Monitor(town.records, REFERENCE).snapshot
    gauges = Gauges(Watched(snapshot=snapshot, match_recall=1.0, info={}), Replicas())
    assert b'"_other"' in gauges.consistency(None)
    named, rest = (json.loads(gauges.consistency(name)) for name in (CUSTOMERS[8], drift.OTHER))
    assert named["drift"]
    assert named["recorded"]
    assert rest["drift"] is rest["recorded"] is None


def test_the_alerts_two_sides_have_equal_labels(url):
    town = Town(url)
    town.serve(CUSTOMERS[0], 12)
    town.judge()
    found = samples(scraped(Monitor(town.records, REFERENCE).snapshot))
    assert series(found, "limen_curve_shift_lower").keys() == {of(CUSTOMERS[0])}
    assert series(found, "limen_utility_change_upper").keys() == {of(CUSTOMERS[0])}


def test_nothing_is_read_on_registration_and_nothing_rebuilt_without_news(url, monkeypatch):
    def fail():
        raise AssertionError("registering reads the records")

    CollectorRegistry().register(DriftCollector(fail))
    town = Town(url)
    town.serve(CUSTOMERS[0], 9)
    monitor = Monitor(town.records, REFERENCE)
    first = monitor.snapshot()
    assert monitor.snapshot() is first
    town.judge(budget=1)
    second = monitor.snapshot()
    assert second is not first
    town.serve(CUSTOMERS[0], 1)
    assert monitor.snapshot().volumes[0].recorded == 10


def test_only_the_latest_reviewed_queries_count(url):
    town = Town(url)
    town.serve(CUSTOMERS[0], 20)
    town.judge()
    for window, expected in ((50, 20), (9, 9)):
        (gauges,) = Monitor(town.records, REFERENCE, window=window).snapshot().customers
        assert gauges.reviewed == expected


SERVER = """
import sys
from tests.test_metrics import CUSTOMERS, REFERENCE, Monitor, Town, scraped
town = Town(sys.argv[1], seed=4)
monitor = Monitor(town.records, REFERENCE)
for step in range(3):  # a monitor that grew with its records, not one that read them at the end
    town.serve(CUSTOMERS[0], 6)
    town.serve(CUSTOMERS[5], 4)
    town.judge(budget=90)
    text = scraped(monitor.snapshot)
print(repr(monitor.snapshot()) + text + "end of snapshot", flush=True)
sys.stdin.read()
"""


def test_gauges_after_a_kill_are_those_before_it_bit_by_bit(url):
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, url], text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent,
    )
    lines = []
    while not lines or "end of snapshot" not in lines[-1]:
        lines.append(server.stdout.readline())
        assert lines[-1], "the server ended early"
    os.kill(server.pid, signal.SIGKILL)
    assert server.wait(timeout=30) == -signal.SIGKILL
    server.stdin.close()
    server.stdout.close()
    monitor = Monitor(open_records(url), REFERENCE)
    again = repr(monitor.snapshot()) + scraped(monitor.snapshot) + "end of snapshot\n"
    assert "".join(lines) == again
    assert "limen_curve_shift_lower{" in again
