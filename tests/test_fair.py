"""Customers are served in turn, and one cannot hold every thread."""

import threading
import weakref
from concurrent.futures import wait

import pytest

from serving.access.fair import FairThreads


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


# How long a turn is waited for


class Clock:
    """Each piece of work takes as long as it says: the clock moves on by itself."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def works(threads, clock, customer, seconds):
    def work():
        clock.now += seconds

    threads.submit(customer, work).result(timeout=5)


def queued(threads, customer, count):
    return [threads.submit(customer, lambda: None) for _ in range(count)]


def test_the_expected_wait_is_the_turns_ahead_times_what_each_took():
    clock = Clock()
    threads = FairThreads(1, 1, clock)
    works(threads, clock, "slow", 2.0)
    works(threads, clock, "quick", 0.5)
    assert threads.expected_wait("slow") == 0.0
    gate = threading.Event()
    begun = threading.Event()
    blocked = threads.submit("x", lambda: begun.set() or gate.wait(10))
    assert begun.wait(5)
    try:
        waiting = queued(threads, "slow", 10) + queued(threads, "quick", 3)
        # quick: its own 3, and of slow's 10 the 4 that come in turn: 3 * 0.5 + 4 * 2.0
        assert threads.expected_wait("quick") == pytest.approx(9.5)
        # slow: its own 10 and all 3 of quick: 10 * 2.0 + 3 * 0.5
        assert threads.expected_wait("slow") == pytest.approx(21.5)
        # somebody new waits for one turn of each: 2.0 + 0.5
        assert threads.expected_wait("new") == pytest.approx(2.5)
    finally:
        gate.set()
    wait([blocked, *waiting], timeout=5)
    assert threads.expected_wait("slow") == 0.0


def test_cancelled_work_is_no_turn_to_wait_for_and_is_held_no_longer():
    clock = Clock()
    threads = FairThreads(1, 1, clock)
    works(threads, clock, "a", 1.0)
    gate, begun = threading.Event(), threading.Event()
    blocked = threads.submit("x", lambda: begun.set() or gate.wait(10))
    assert begun.wait(5)

    class Body:
        """What a request brought."""

    body = Body()
    held = weakref.ref(body)
    sent = [threads.submit("a", lambda body=body: body) for _ in range(3)]
    kept = queued(threads, "a", 1)
    del body
    assert threads.expected_wait("a") == pytest.approx(4.0)
    assert all(future.cancel() for future in sent)
    try:
        assert threads.expected_wait("a") == pytest.approx(1.0)
        del sent
        assert held() is None  # at once: nothing goes round in a circle
        assert kept[0].cancel()
        assert threads.expected_wait("a") == 0.0
    finally:
        gate.set()
    wait([blocked], timeout=5)
    assert threads.submit("a", lambda: 3).result(timeout=5) == 3


def test_work_that_becomes_slower_is_expected_to_be_slow():
    clock = Clock()
    threads = FairThreads(1, 1, clock)
    for _ in range(50):
        works(threads, clock, "a", 0.1)
    for _ in range(50):
        works(threads, clock, "a", 1.0)
    gate, begun = threading.Event(), threading.Event()
    blocked = threads.submit("x", lambda: begun.set() or gate.wait(10))
    assert begun.wait(5)
    waiting = queued(threads, "a", 1)
    expected = threads.expected_wait("a")
    gate.set()
    wait([blocked, *waiting], timeout=5)
    assert 0.9 < expected <= 1.0


def test_several_threads_share_what_is_ahead_and_no_customer_has_more_than_its_share():
    clock = Clock()
    threads = FairThreads(4, 2, clock)
    works(threads, clock, "a", 1.0)
    works(threads, clock, "b", 3.0)
    gate, begun = threading.Event(), threading.Semaphore(0)
    blocked = [threads.submit(who, lambda: begun.release() or gate.wait(10)) for who in "aabb"]
    for _ in blocked:
        assert begun.acquire(timeout=5)
    waiting = queued(threads, "a", 6) + queued(threads, "b", 1)
    try:
        # a: its own 6 * 1.0 on 2 threads, which is more than 6 * 1.0 + 3.0 on 4
        assert threads.expected_wait("a") == pytest.approx(3.0)
        # b: its own 3.0 on 2 threads, which is more than 3.0 + 2 * 1.0 on 4
        assert threads.expected_wait("b") == pytest.approx(1.5)
        # somebody new: one turn of each, 1.0 + 3.0 on 4 threads
        assert threads.expected_wait("new") == pytest.approx(1.0)
    finally:
        gate.set()
    wait([*blocked, *waiting], timeout=5)


def test_of_ever_new_customers_not_all_are_remembered(monkeypatch):
    monkeypatch.setattr("serving.access.fair._REMEMBERED", 5)
    clock = Clock()
    threads = FairThreads(1, 1, clock)
    for number in range(23):
        works(threads, clock, str(number), 1.0)
    assert 0 < len(threads._seconds) <= 5
