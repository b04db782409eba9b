"""Limits of customers: queries in the long run, bursts, batches, shares of replicas."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.access.key_file import Limit
from serving.access.quota import Quotas
from serving.responses import RefusedError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def ask(quotas, customer, queries):
    """None where the request was let in, else the refusal."""
    try:
        quotas.enter(customer)
        quotas.spend(customer, queries)
    except RefusedError as error:
        refusal = error
    else:
        return None
    assert (refusal.status, refusal.code) == (429, "rate_limited")
    return refusal


def of(limit, clock, replicas=1):
    return Quotas(lambda customer: limit if customer == "a" else None, replicas, clock)


def test_a_batch_counts_its_queries_and_retry_after_is_when_it_fits():
    clock = Clock()
    quotas = of(Limit(per_second=10.0, burst=64), clock)
    assert ask(quotas, "a", 32) is None
    assert ask(quotas, "a", 32) is None
    # 0 left, 10 a second: one query fits after 0.1 s, and then 31 more are missing, 3.1 s.
    refused = ask(quotas, "a", 32)
    assert refused.details == {"retry_after_ms": 100}
    clock.now = 0.1
    refused = ask(quotas, "a", 32)
    assert refused.details == {"retry_after_ms": 3100}
    assert refused.retry_after == 4
    clock.now = 3.19
    assert ask(quotas, "a", 32) is not None
    clock.now = 3.21
    assert ask(quotas, "a", 32) is None


def test_after_a_refused_batch_requests_are_refused_by_their_head_until_it_fits():
    clock = Clock()
    quotas = of(Limit(per_second=10.0, burst=20), clock)
    assert ask(quotas, "a", 15) is None
    assert ask(quotas, "a", 16) is not None  # 5 left
    with pytest.raises(RefusedError, match=r"try again in 1\.1 s"):
        quotas.enter("a")
    clock.now = 1.1
    assert ask(quotas, "a", 16) is None


def test_a_batch_larger_than_the_burst_waits_for_a_full_bucket_and_is_paid_off():
    clock = Clock()
    quotas = of(Limit(per_second=10.0, burst=20), clock)
    assert ask(quotas, "a", 1) is None
    assert ask(quotas, "a", 100) is not None
    clock.now = 0.1
    assert ask(quotas, "a", 100) is None
    assert ask(quotas, "a", 1).details == {"retry_after_ms": 8100}  # from -80 to 1
    clock.now = 8.3
    assert ask(quotas, "a", 1) is None


def test_replicas_share_the_rate_and_no_share_is_less_than_one_query():
    clock = Clock()
    quotas = of(Limit(per_second=8.0, burst=2, at_once=9), clock, replicas=4)
    assert quotas.at_once("a") == 3
    assert ask(quotas, "a", 1) is None
    assert ask(quotas, "a", 1).details == {"retry_after_ms": 500}


def test_a_customer_without_a_limit_of_its_rate_is_never_refused():
    quotas = of(Limit(at_once=2), Clock())
    for customer in "ab":
        assert all(ask(quotas, customer, 256) is None for _ in range(100))
    assert quotas.at_once("b") is None


def test_a_changed_limit_counts_at_once_and_what_was_used_stays_used():
    clock = Clock()
    limits = {"a": Limit(per_second=10.0, burst=20)}
    quotas = Quotas(limits.get, 1, clock)
    assert ask(quotas, "a", 18) is None
    limits["a"] = Limit(per_second=1.0, burst=100)
    assert ask(quotas, "a", 2) is None
    assert ask(quotas, "a", 1).details == {"retry_after_ms": 1000}
    del limits["a"]
    assert ask(quotas, "a", 256) is None


def test_a_limit_lowered_below_a_batch_that_was_refused_still_lets_in():
    clock = Clock()
    limits = {"a": Limit(per_second=10.0, burst=100)}
    quotas = Quotas(limits.get, 1, clock)
    assert ask(quotas, "a", 60) is None
    assert ask(quotas, "a", 80) is not None  # from now on 80 have to be left
    limits["a"] = Limit(per_second=10.0, burst=20)
    clock.now = 10.0
    assert ask(quotas, "a", 1) is None


requests = st.lists(
    st.tuples(st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0, 3.0]), st.integers(1, 40)), max_size=80
)


@settings(max_examples=200, deadline=None)
@given(requests, st.sampled_from([1.0, 7.0, 40.0]), st.integers(1, 30))
def test_in_no_span_of_time_more_is_let_in_than_burst_and_rate_allow(asked, rate, burst):
    clock = Clock()
    quotas = of(Limit(per_second=rate, burst=burst), clock)
    let_in = []
    for pause, queries in asked:
        clock.now += pause
        refused = ask(quotas, "a", queries)
        if refused is None:
            let_in.append((clock.now, queries))
        else:  # whoever comes back when told is let in, if nobody else came meanwhile
            assert refused.retry_after == max(1, math.ceil(refused.details["retry_after_ms"] / 1e3))
    for first in range(len(let_in)):
        for last in range(first, len(let_in)):
            span = let_in[last][0] - let_in[first][0]
            total = sum(queries for _, queries in let_in[first : last + 1])
            # A batch larger than the bucket is let in whole, when the bucket is full.
            over = max(0, let_in[last][1] - burst)
            assert total <= burst + rate * span + over + 1e-6


@settings(max_examples=100, deadline=None)
@given(requests, st.integers(1, 40))
def test_whoever_comes_back_when_told_is_let_in(asked, queries):
    clock = Clock()
    quotas = of(Limit(per_second=7.0, burst=30), clock)
    for pause, count in asked:
        clock.now += pause
        ask(quotas, "a", count)
    for _ in range(2):  # at most: once for its head, once for the whole of it
        refused = ask(quotas, "a", queries)
        if refused is None:
            return
        clock.now += refused.details["retry_after_ms"] / 1000
    assert ask(quotas, "a", queries) is None


def test_buckets_of_customers_long_gone_are_forgotten(monkeypatch):
    monkeypatch.setattr("serving.access.quota._CUSTOMERS", 10)
    clock = Clock()
    limit = Limit(per_second=10.0, burst=2)
    slow = Limit(per_second=0.001, burst=2)
    quotas = Quotas(lambda customer: slow if customer == "slow" else limit, 1, clock)
    assert ask(quotas, "slow", 2) is None
    for number in range(100):
        clock.now += 0.05
        assert ask(quotas, str(number), 2) is None
        assert ask(quotas, str(number), 2) is not None
    assert len(quotas._buckets) <= 11
    assert ask(quotas, "slow", 1) is not None  # what it used is not forgotten
