"""Whether a release has room in memory beside the one that runs, asked before it is loaded.

Mapped files (the gallery, codes, what FAISS proposes from) need none: the system drops their
pages and reads them again. What is counted is read into memory for good: the network, the items'
ids and columns, and what the index keeps beside. An estimate on the safe side, of what a process
really holds.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.releases.release import Release

_CELL_BYTES = 160
"""Of one text of the items table as an object; measured with what reading leaves behind."""
_TEXT_COLUMNS = 5
"""Columns of the items table that become objects."""
_MODEL_COPIES = 2
"""The network's weights as read, and as ONNX Runtime lays them out."""
_WORK_BYTES = 64 * 2**20
"""For compiled code, the first search and the counts."""

_MAPPED = (".codes.npy", ".faiss")


class RoomError(RuntimeError):
    """A release that does not fit into memory; the message has the figures."""


def needed_bytes(release: Release) -> int:
    """What opening a verified ``release`` takes of the memory, in bytes."""
    files = release.manifest.files
    index = sum(
        entry.size for name, entry in files.items()
        if name.startswith("index/") and not name.endswith(_MAPPED)
    )
    items = pq.read_metadata(release.folder / "items.parquet")
    rows: int = items.num_rows
    table: int = sum(items.row_group(n).total_byte_size for n in range(items.num_row_groups))
    return (
        _WORK_BYTES + _MODEL_COPIES * files["model.onnx"].size + index + table
        + rows * _TEXT_COLUMNS * _CELL_BYTES
    )


def available_bytes(system: Path = Path("/")) -> int | None:
    """What this process may still take, in bytes; None where the system does not say.

    The least of what the machine has left and what every control group (version 2) around this
    process allows. ``system``: where ``proc`` and ``sys`` lie.
    """
    bounds = [*_machine(system), *_groups(system)]
    return min(bounds, default=None)


def require_room(release: Release, available: int | None) -> None:
    """``RoomError`` with both figures where ``release`` needs more than is ``available``."""
    needed = needed_bytes(release)
    if available is not None and needed > available:
        raise RoomError(
            f"release {release.id12} needs {_mebibytes(needed)} of memory beside what runs, "
            f"{_mebibytes(available)} are available; give the server more, or start it anew on it"
        )


@contextmanager
def opening_turn() -> Iterator[None]:
    """Open releases one after another on this machine: each sees what those before it took."""
    lock = Path(tempfile.gettempdir()) / f"limen-{os.getuid()}.opening"
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _machine(system: Path) -> list[int]:
    found = re.search(r"^MemAvailable: +(\d+) kB$", _text(system / "proc/meminfo"), re.MULTILINE)
    return [int(found[1]) * 1024] if found else []


def _groups(system: Path) -> list[int]:
    """What each group from the process's own up to the root leaves; a group may set no limit."""
    own = re.search(r"^0::/(.*)$", _text(system / "proc/self/cgroup"), re.MULTILINE)
    if own is None:
        return []
    root = system / "sys/fs/cgroup"
    group = root / own[1]
    left = []
    for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(root))):
        limit = _text(folder / "memory.max").strip()
        used = _text(folder / "memory.current").strip()
        # Files read once are dropped first: they are in nobody's way.
        cached = re.search(r"^inactive_file (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
        if limit.isdigit() and used.isdigit():
            left.append(int(limit) - int(used) + (int(cached[1]) if cached else 0))
    return left


def _text(path: Path) -> str:
    """The file's text; empty where the system has no such file."""
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def _mebibytes(size: int) -> str:
    return f"{max(0, size) / 2**20:,.0f} MiB"
