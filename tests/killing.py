"""Kill a process at any point of its work on files.

The function runs in a forked child; an audit hook counts what it asks of the file system (opening,
renaming, removing, making folders, listing) and ends the child, without any clean-up, just before
the n-th request. A killed process loses nothing that it wrote, so the child never waits for the
disk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

_EVENTS = ("open", "os.", "shutil.", "tempfile.")
_KILLED = 87


def survives(work: Callable[[], object], requests: int) -> bool:
    """Whether ``work`` ends before its request number ``requests``; else it was killed there."""
    child = os.fork()
    if child == 0:
        left = requests

        def hook(event: str, _: tuple[object, ...]) -> None:
            nonlocal left
            if event.startswith(_EVENTS):
                left -= 1
                if left < 0:
                    os._exit(_KILLED)

        os.fsync = lambda _: None
        try:
            sys.addaudithook(hook)
            work()
        except BaseException:  # noqa: BLE001 - a child must not run on as a second pytest
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, _KILLED):
        raise AssertionError(f"the work failed with status {status} after {requests} requests")
    return status == 0
