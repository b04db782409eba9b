"""Processes of this machine as ``/proc`` shows them (Linux); elsewhere there seem to be none."""

from __future__ import annotations

import contextlib
from pathlib import Path

PROC = Path("/proc")


def family(root: int) -> set[int]:
    """``root`` and all its descendants."""
    parents = {}
    for entry in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(entry.name)] = int(_fields(int(entry.name))[1])
    found = {root}
    while True:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def program(process: int) -> str:
    """The name of what a process runs; ``OSError`` where it has ended."""
    return (PROC / str(process) / "comm").read_text().strip()


def runs(process: int) -> bool:
    """Whether a process is there and does not only wait for its parent to notice its end."""
    try:
        return _fields(process)[0] not in ("Z", "X")
    except OSError:
        return False


def _fields(process: int) -> list[str]:
    """State, parent and so on."""
    # The name before them, in parentheses, may hold spaces.
    return (PROC / str(process) / "stat").read_text().rsplit(")", 1)[1].split()
