"""Which ports of this server are reachable from beyond this machine: measured, not assumed.

Read from ``/proc`` (Linux); elsewhere nothing is known and nothing is said.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.machine.processes import PROC, family, program

_LISTEN = "0A"
_LOOPBACK_V4 = re.compile(r"[0-9A-F]{6}7F")
_LOOPBACK_V6 = ("0" * 24 + "01000000", "0" * 16 + "FFFF00000100007F")


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A port that a process listens on, on more than the loopback address."""

    program: str
    port: int


def wide_listeners(root: int) -> list[Listener]:
    """Listeners of process ``root`` and its descendants that are not on loopback, sorted."""
    wide = dict(_wide_sockets())
    found = set()
    for process in family(root):
        with contextlib.suppress(OSError):  # the process ended meanwhile
            name = program(process)
            for descriptor in (PROC / str(process) / "fd").iterdir():
                inode = _inode(descriptor)
                if inode in wide:
                    found.add(Listener(name, wide[inode]))
    return sorted(found)


def _wide_sockets() -> Iterator[tuple[str, int]]:
    """(inode, port) of every socket that listens beyond loopback."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                address, port = fields[1].rsplit(":", 1)
                loopback = _LOOPBACK_V4.fullmatch(address) or address in _LOOPBACK_V6
                if fields[3] == _LISTEN and not loopback:
                    yield fields[9], int(port, 16)


def _inode(descriptor: Path) -> str | None:
    try:
        target = str(descriptor.readlink())
    except OSError:
        return None
    return target[8:-1] if target.startswith("socket:[") else None
