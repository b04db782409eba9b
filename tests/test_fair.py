"""Customers are served in turn, and one cannot hold every thread."""

import threading
from concurrent.futures import wait

import pytest

from serving.fair import FairThreads


def test_a_customers_long_work_leaves_a_thread_to_the_others():
    gate = threading.Event()
    threads = FairThreads(2, 1)
    long = [threads.submit("long", lambda: gate.wait(10)) for _ in range(5)]
    try:
        assert threads.submit("other", lambda: "served").result(timeout=5) == "served"
        assert not any(future.done() for future in long)
    finally:
        gate.set()
    assert [future.result(timeout=5) for future in long] == [True] * 5


def test_customers_take_turns_however_many_they_sent():
    order = []
    gate = threading.Event()
    threads = FairThreads(1, 1)
    first = threads.submit("a", lambda: gate.wait(10))
    sent = [threads.submit(who, lambda who=who: order.append(who)) for who in "aaaabbc"]
    gate.set()
    wait([first, *sent], timeout=5)
    assert "".join(order) == "abcabaa"


def test_all_work_is_done_and_none_forgotten():
    threads = FairThreads(4, 2)
    work = [threads.submit(str(i % 7), lambda i=i: i * i) for i in range(500)]
    assert [future.result(timeout=10) for future in work] == [i * i for i in range(500)]


def test_cancelled_work_never_runs_and_a_fault_reaches_who_waits():
    gate = threading.Event()
    threads = FairThreads(1, 1)
    threads.submit("a", lambda: gate.wait(10))
    ran = []
    cancelled = threads.submit("a", lambda: ran.append(1))
    assert cancelled.cancel()
    gate.set()
    with pytest.raises(ZeroDivisionError):
        threads.submit("a", lambda: 1 / 0).result(timeout=5)
    assert threads.submit("a", lambda: 3).result(timeout=5) == 3
    assert ran == []
