"""Files that others trust: written whole, on disk before anyone can see them.

A reader finds the old file or the new one, never a part, also after a loss of power. One
writer at a time: two of them would share the name of the partial file.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_durably(path: Path, data: bytes, *, partial: Path | None = None) -> None:
    """Put ``data`` at ``path`` in one step; what a killed writer leaves is overwritten.

    ``partial``: where the bytes are collected, on the same disk; by default beside ``path``.
    """
    partial = partial or partial_of(path)
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def partial_of(path: Path) -> Path:
    """Where ``write_durably`` collects the bytes of ``path``."""
    return path.with_name(f".{path.name}.partial")


def sync(path: Path) -> None:
    """Ask the disk to hold a file's bytes, or a folder's names, before anything else is done."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
