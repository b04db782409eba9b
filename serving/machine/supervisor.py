"""Ray's head processes watched: a server whose Ray is broken starts again, and says so.

Ray brings back its own workers: replicas, proxy, controller. Without its head nobody does, and
what still answers cannot be mended any more: Ray itself ends it about a minute later. Then this
process becomes a new server in the same place, under the same process id, by ``exec``: nothing of
the broken Ray is left in it, and whoever started the server need not notice. A Ray that does not
hold out is not started for ever: the process ends with 1, for a process manager to see.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from serving.machine.processes import family, program, runs

HEADS = ("gcs_server", "raylet")
STEADY_SECONDS = 30.0
"""A Ray that ends sooner after the server was ready is not started again."""


@dataclass(frozen=True, slots=True)
class Fall:
    """The end of a head process."""

    name: str
    """Of the program."""
    seconds: float
    """How long the server had been ready."""


class RayHead:
    """The head processes that this process started; none where it joined a cluster."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Look for them once: to be called when the server is ready."""
        self._clock = clock
        self._ready = clock()
        self._watched: dict[int, str] = {}
        for process in family(os.getpid()):
            with contextlib.suppress(OSError):  # it ended meanwhile
                # After a start in place those of the Ray before are children still, and dead.
                if (name := program(process)) in HEADS and runs(process):
                    self._watched[process] = name

    def fallen(self) -> Fall | None:
        """The end of one of them; None while all run."""
        for process, name in self._watched.items():
            if not runs(process):
                return Fall(name, self._clock() - self._ready)
        return None


def end_children(spared: int) -> None:
    """Kill all that descends from this process, the process ``spared`` excepted."""
    for process in family(os.getpid()) - {os.getpid(), spared}:
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)


def start_again(fall: Fall, environment: Mapping[str, str]) -> NoReturn:
    """Become a new process of the same command line, in ``environment``; or end with 1.

    At once, either way: what is left of Ray in this process would wait for its head at the exit.
    """
    if fall.seconds < STEADY_SECONDS:
        give_up(f"Ray's {fall.name} ended {fall.seconds:.0f} s after the server was ready: not "
                "started again; see whether memory suffices, and Ray's logs, by default in "
                "/tmp/ray/session_latest/logs")
    _say(f"Ray's {fall.name} ended: starting again ...")
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def give_up(why: str) -> NoReturn:
    """End with 1, at once, saying ``why`` in one line."""
    _say(why)
    os._exit(1)


def _say(line: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"limen: {line}\n")
    sys.stderr.flush()
