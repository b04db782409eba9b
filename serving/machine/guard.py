"""Cleans up after a server that was killed; standard library only.

Ray's processes end with the server, HAProxy does not: after a SIGKILL it would keep the port and
answer 503 from it. So the server starts this file as a program of its own and holds its standard
input open. When that ends, however the server died, what still runs from the server's private
folder is ended and the folder is removed.

    python -I -S serving/machine/guard.py FOLDER        (started by serving/app.py, not by people)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_GRACE_SECONDS = 3.0


def start_guard(folder: Path) -> subprocess.Popen[bytes]:
    """Watch over ``folder`` until this process ends or closes the guard's input."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt from the terminal is not for the guard
    )


def dismiss(guard: subprocess.Popen[bytes]) -> None:
    """Tell the guard that the server ended in order, and wait until it has cleaned up."""
    guard.communicate(b"in order")


def processes_of(folder: Path) -> Iterator[int]:
    """Ids of the processes, this one aside, that name a file of ``folder`` on their command line.

    None on systems without ``/proc``.
    """
    wanted = os.fsencode(folder) + b"/"
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to someone else
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if any(word.startswith(wanted) for word in words):
                yield int(entry.name)


def main() -> None:
    """Wait for the end of the standard input, then clean up."""
    folder = Path(sys.argv[1]).resolve()
    for quiet in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(quiet, signal.SIG_IGN)
    in_order = bool(sys.stdin.buffer.read())
    deadline = time.monotonic() + (0.0 if in_order else _GRACE_SECONDS)
    while True:
        for process in processes_of(folder):
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() >= deadline:
            break
        time.sleep(0.2)  # a worker on its way out may start one more
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
