"""The pace of recording: whole while there is time, and within its share of a processor."""

import math

import numpy as np
import pytest

from serving.answers.pace import MEMORY_SECONDS, Pace


class Clock:
    """Moves when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run(pace, clock, *, gap, cost, seconds, rate=1.0):
    """Processor seconds spent, and 1 / probability summed, over queries ``gap`` seconds apart."""
    rng, spent, stood_for, asked = np.random.default_rng(0), 0.0, 0.0, 0
    while clock.now < seconds:
        clock.now += gap
        asked += 1
        probability = pace.probability(rate, 1)
        if rng.random() < probability:
            pace.took(1, cost)
            spent += cost
            stood_for += 1 / probability
    return spent, stood_for, asked


def test_without_a_bound_and_with_little_traffic_the_rate_is_as_asked():
    clock = Clock()
    endless = Pace(math.inf, clock)
    endless.took(1, 100.0)
    assert [endless.probability(0.5, 256) for _ in range(9)] == [0.5] * 9
    seldom = Pace(0.02, clock)
    seldom.took(1, 0.01)
    # One query every 2 s at 0.01 s each is 0.005 of a processor.
    for _ in range(200):
        clock.now += 2.0
        assert seldom.probability(1.0, 1) == 1.0
    assert seldom.probability(0.0, 1) == 0.0


def test_recording_keeps_to_its_share_whatever_the_traffic_and_every_query_is_stood_for():
    clock = Clock()
    pace = Pace(0.02, clock)
    pace.took(1, 0.1)
    spent, stood_for, asked = run(pace, clock, gap=0.01, cost=0.1, seconds=1200.0)
    # The first 0.02 * 20 / 0.1 = 4 queries are recorded whole, in 0.04 s. Until the traffic of
    # 20 s is known it seems less than it is, by 1 - exp(-t / 20), which integrates to
    # 20 ln(20 / 0.04) = 124 s more: 0.4 + 0.02 (1200 + 124) = 26.9 s, 269 queries.
    more = MEMORY_SECONDS * math.log(MEMORY_SECONDS / 0.04)
    assert spent == pytest.approx(0.4 + 0.02 * (1200 + more), rel=4 / math.sqrt(269))
    # Unbiased: the recorded queries stand for all that were asked.
    assert stood_for == pytest.approx(asked, rel=4 / math.sqrt(240))


def test_a_batch_counts_as_the_queries_that_it_holds():
    clock = Clock()
    pace = Pace(0.02, clock)
    pace.took(2, 0.8)  # 0.4 s each: one in 20 s is the whole share
    assert pace.probability(1.0, 1) == 1.0
    # 10 more at once: 11 of 0.4 s in 20 s are 0.22 of a processor, 11 times the share.
    assert pace.probability(1.0, 10) == pytest.approx(1 / 11)
