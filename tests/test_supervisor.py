"""A head process that has ended is noticed, and a server starts again in the same place."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.machine import supervisor
from serving.machine.processes import family, program, runs

_HEAD = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'raylet', 0, 0, 0); " \
        "print('up', flush=True); time.sleep(60)"


@pytest.fixture
def raylet():
    """A child that bears the name of one of Ray's head processes."""
    child = subprocess.Popen([sys.executable, "-c", _HEAD], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    yield child
    child.kill()
    child.communicate()


def test_a_head_process_that_ended_is_named_even_before_it_is_buried(raylet):
    now = [100.0]
    head = supervisor.RayHead(lambda: now[0])
    assert head.fallen() is None
    now[0] += 7
    os.kill(raylet.pid, 9)
    deadline = time.monotonic() + 10
    while head.fallen() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert head.fallen() == supervisor.Fall("raylet", 7)
    raylet.wait()
    assert head.fallen() == supervisor.Fall("raylet", 7)


def test_where_no_head_was_started_here_none_can_fall():
    assert supervisor.RayHead().fallen() is None


def test_a_head_that_was_dead_before_it_was_watched_does_not_fall_again(raylet):
    raylet.kill()
    deadline = time.monotonic() + 10
    while runs(raylet.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert program(raylet.pid) == "raylet"  # there, and not yet buried
    assert supervisor.RayHead().fallen() is None


def test_all_that_descends_is_ended_but_the_one_that_cleans_up(raylet):
    guard = subprocess.Popen([sys.executable, "-c", _HEAD], stdout=subprocess.PIPE)
    try:
        supervisor.end_children(guard.pid)
        assert raylet.wait(10) == -9
        assert runs(guard.pid)
    finally:
        guard.kill()
        guard.communicate()


_AGAIN = """
import os, sys
from serving.machine.supervisor import STEADY_SECONDS, Fall, start_again
print(os.getpid(), sys.argv[1:], os.environ.get("ROUND"))
first = os.environ.get("ROUND") is None
start_again(Fall("raylet", STEADY_SECONDS if first else 3.2), {**os.environ, "ROUND": "2"})
"""


def test_starting_again_is_the_same_process_and_command_line_and_not_for_ever(tmp_path):
    (tmp_path / "again.py").write_text(_AGAIN)
    answer = subprocess.run(
        [sys.executable, tmp_path / "again.py", "production", "--port", "8000"],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    first, second = answer.stdout.splitlines()
    assert first.split(" ", 1)[0] == second.split(" ", 1)[0]
    assert first.endswith("['production', '--port', '8000'] None")
    assert second.endswith("['production', '--port', '8000'] 2")
    assert answer.returncode == 1
    again, given_up = answer.stderr.splitlines()
    assert again == "limen: Ray's raylet ended: starting again ..."
    assert "raylet ended 3 s after the server was ready: not started again" in given_up


def test_processes_are_told_by_name_and_descent(raylet):
    assert program(raylet.pid) == "raylet"
    assert raylet.pid in family(os.getpid())
    assert os.getppid() not in family(os.getpid())
