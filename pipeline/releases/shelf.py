"""Where a store keeps its releases: here a folder; ``bucket.py`` is object storage.

Both keep ``releases/<id12>/...`` and ``aliases.json``. A folder publishes by one rename.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from pipeline.durable import sync, write_durably
from pipeline.releases.aliases import StoreError
from pipeline.releases.manifest import (
    MANIFEST,
    SIGNATURE,
    ReleaseError,
)
from pipeline.releases.release import ID12, Release, open_release
from pipeline.releases.signing import put_signature, read_signature

ALIASES = "aliases.json"


class Shelf(Protocol):
    """What a store needs from the place where it keeps things."""

    def names(self) -> tuple[str, ...]:
        """The first 12 digits of each release's id, sorted."""

    def fetch(self, id12: str) -> Release:
        """A local, verified copy of a release."""

    def make(self) -> None:
        """Make the place, unless it is there; ``OSError`` where it cannot be written."""

    def publish(self, release: Release) -> None:
        """Keep a copy of a verified release; of one that is there already, a new signature."""

    def put_signature(self, id12: str, signature: bytes) -> None:
        """Let a release that is kept bear this signature, in one step."""

    def read_aliases(self) -> bytes | None:
        """The content of ``aliases.json``; None before the first promotion."""

    def write_aliases(self, data: bytes) -> None:
        """Replace ``aliases.json`` in one step, under ``lock``."""

    def lock(self) -> AbstractContextManager[None]:
        """Context in which no other process changes the aliases."""


class FolderShelf:
    """A folder on a local disk or a network mount."""

    def __init__(self, root: Path) -> None:
        """``root`` is made by ``make``."""
        self.root = root
        self.releases = root / "releases"

    def names(self) -> tuple[str, ...]:
        """The first 12 digits of each release's id, sorted."""
        found = self.releases.glob(f"*/{MANIFEST}")
        return ids_among(path.parent.name for path in found)

    def fetch(self, id12: str) -> Release:
        """The release where it lies, verified."""
        return open_release(self.releases / id12)

    def make(self) -> None:
        """Make the folders, unless they are there."""
        self.releases.mkdir(parents=True, exist_ok=True)

    def publish(self, release: Release) -> None:
        """Copy beside the others, verify the copy, then rename."""
        target = self.releases / release.id12
        self.make()
        with exclusive(self.root / ".add.lock"):
            for leftover in self.releases.glob(".adding-*"):
                shutil.rmtree(leftover)
            if target.exists():
                open_release(target)
                if signature := read_signature(release.folder):
                    put_signature(target, signature)
                return
            partial = self.releases / f".adding-{release.id12}"
            for name in copied_files(release):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(release.folder / name, partial / name)
                sync(partial / name)
            if open_release(partial).id != release.id:
                raise ReleaseError(f"{release.folder}: changed while it was added; add it again")
            for folder in {(partial / name).parent for name in release.manifest.files}:
                sync(folder)
            partial.rename(target)
            sync(self.releases)

    def put_signature(self, id12: str, signature: bytes) -> None:
        """Let a release that is kept bear this signature, in one step."""
        with exclusive(self.root / ".add.lock"):
            put_signature(self.releases / id12, signature)

    def read_aliases(self) -> bytes | None:
        """The content of ``aliases.json``; None before the first promotion."""
        path = self.root / ALIASES
        return path.read_bytes() if path.exists() else None

    def write_aliases(self, data: bytes) -> None:
        """Replace ``aliases.json`` in one step."""
        write_durably(self.root / ALIASES, data)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait for other writers of the aliases; a killed one holds no lock."""
        if not self.root.is_dir():
            raise StoreError(f"{self.root}: no store yet; add a release first")
        with exclusive(self.root / ".aliases.lock"):
            yield


def copied_files(release: Release) -> tuple[str, ...]:
    """The files of a release in the order in which they are copied: its manifest last."""
    signed = () if read_signature(release.folder) is None else (SIGNATURE,)
    return (*release.manifest.files, *signed, MANIFEST)


def ids_among(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the ``names`` of folders that only a release may bear, sorted."""
    return tuple(sorted(name for name in names if ID12.fullmatch(name)))


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Context of one process at a time on this machine; a killed one lets go of ``path``."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
