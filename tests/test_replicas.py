"""What replicas report: sums that never fall, labels that stay few, times as a histogram."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.counters import Counter, Counters
from serving.reporting import Replica
from serving.watching import drift
from serving.watching.latency import BOUNDS, count_request
from serving.watching.metrics_replicas import ReplicasCollector
from serving.watching.replicas import LIVE_SECONDS, Replicas, Report, Standing

ASKED = Counter("limen_asked", "Questions.", ("customer",))
PLAIN = Counter("limen_plain", "Of no kind.")


def report(name, counters, release="a" * 64):
    return Report(standing=Standing(replica=name, release=release),
                  kinds=counters.kinds(), totals=counters.totals())


def samples(replicas):
    registry = CollectorRegistry()
    registry.register(ReplicasCollector(replicas))
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def test_sums_are_over_replicas_and_survive_those_that_are_gone():
    now = [0.0]
    replicas = Replicas(lambda: now[0])
    first, second = Counters(), Counters()
    for counters, by in ((first, 2), (second, 3)):
        counters.add(PLAIN, by=by)
        counters.add(ASKED, "acme", by=by)
    replicas.report(report("r1", first))
    replicas.report(report("r1", first))  # totals: said twice, counted once
    replicas.report(report("r2", second, "b" * 64))
    assert samples(replicas)["limen_plain_total", ()] == 5
    now[0] = LIVE_SECONDS + 1
    first.add(PLAIN)
    replicas.report(report("r1", first))
    assert [standing.replica for standing in replicas.live()] == ["r1"]
    found = samples(replicas)
    assert found["limen_plain_total", ()] == 6
    assert found["limen_asked_total", (("customer", "acme"),)] == 5
    served = {labels: value for (name, labels), value in found.items() if name == "limen_replicas"}
    assert served == {(("release", "a" * 12),): 1}


def test_a_counter_is_shown_before_it_first_grows():
    counters = Counters()
    counters.add(PLAIN, by=0)
    replicas = Replicas()
    replicas.report(report("r1", counters))
    assert samples(replicas)["limen_plain_total", ()] == 0


def test_customers_are_bounded_the_busiest_by_name(monkeypatch):
    monkeypatch.setattr(drift, "MAX_CUSTOMERS", 2)
    counters = Counters()
    for number, name in enumerate(("few", "many", "more", drift.OTHER)):
        counters.add(ASKED, name, by=10 * (number + 1))
    replicas = Replicas()
    replicas.report(report("r1", counters))
    found = {dict(labels)["customer"]: value for (name, labels), value in samples(replicas).items()
             if name == "limen_asked_total"}
    assert found == {"more": 30, "_other": 10 + 20 + 40}


def test_times_are_a_histogram_whose_buckets_include_the_smaller_ones():
    counters = Counters()
    for seconds in (0.0005, 0.001, 0.02, 0.02, 99.0):
        count_request(counters, "query", 200, seconds)
    count_request(counters, "query", 429, 0.02)
    replicas = Replicas()
    replicas.report(report("r1", counters))
    found = samples(replicas)
    of = {dict(labels)["le"]: value for (name, labels), value in found.items()
          if name == "limen_request_seconds_bucket"}
    assert len(of) == len(BOUNDS) + 1
    assert (of["0.001"], of["0.01"], of["0.025"], of["30.0"], of["+Inf"]) == (2, 2, 5, 5, 6)
    query = (("operation", "query"),)
    assert found["limen_request_seconds_count", query] == 6
    assert found["limen_request_seconds_sum", query] == pytest.approx(99.0615)
    assert found["limen_requests_total", (("operation", "query"), ("status", "200"))] == 5


def test_a_monitor_that_was_away_is_told_everything_by_the_next_report():
    counters, standing = Counters(), Standing(replica="r1", release="a" * 64)
    replicas, tries = Replicas(), []

    class Away:
        async def report(self, one):
            tries.append(one)
            counters.add(PLAIN)
            if len(tries) < 3:
                raise ConnectionError("the monitor starts again")
            replicas.report(one)

    async def told():
        replica = Replica(front=None, standing=lambda: standing, counters=counters)
        task = asyncio.create_task(replica.report_always(Away()))
        while not replicas.live():
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(told())
    assert samples(replicas)["limen_plain_total", ()] == 2
