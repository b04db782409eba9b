"""Replicas killed with SIGKILL while customers put and delete items, over Ray with two replicas."""

import os
import signal

import pytest

from tests.served import BACK_SECONDS, REPLICA, Server, killed, processes, until, whole
from tests.serving_release import CUSTOMERS
from tests.writers import Writer, check

pytestmark = [pytest.mark.ray, pytest.mark.long]

ROUNDS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("killed"))
    server.start()
    yield server
    server.end()


def test_what_was_acknowledged_survives_killed_replicas_and_nothing_happens_twice(server):
    writers = [Writer(server, name, seed) for seed, name in enumerate((*CUSTOMERS, "new one"))]
    for writer in writers:
        writer.start()
    try:
        for number in range(ROUNDS):
            before = killed(server, REPLICA)
            if number % 4 == 3:  # both
                os.kill(max(before), signal.SIGKILL)
            back = until(lambda before=before: processes(server, REPLICA) - before
                         and whole(server), BACK_SECONDS, "both replicas")
            print(f"round {number}: whole after {back:.1f} s")
    finally:
        for writer in writers:
            writer.stop()
    print([(len(w.acknowledged), w.failures, w.repeated, len(w.open)) for w in writers],
          "acknowledged, failures, answered on a repeat, given up")
    assert sum(writer.failures for writer in writers) > 0
    check(server, writers)
