"""Where a store keeps its releases: a folder, or object storage through fsspec.

Both keep ``releases/<id12>/...`` and ``aliases.json``. A folder publishes by one rename; object
storage has none, so there the manifest is uploaded last and whatever lacks one is no release.
Nothing fetched is parsed before its hash is checked.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from pipeline.aliases import StoreError
from pipeline.durable import sync, write_durably
from pipeline.manifest import MANIFEST, MAX_MANIFEST_BYTES, ReleaseError, parse_manifest
from pipeline.release import ID12, ID_LENGTH, Release, open_release

ALIASES = "aliases.json"
LOCK_WAIT_S = 30.0
"""Longest wait for another writer of the aliases in object storage."""

_CHUNK = 2**20


class Shelf(Protocol):
    """What a store needs from the place where it keeps things."""

    def names(self) -> tuple[str, ...]:
        """The first 12 digits of each release's id, sorted."""

    def fetch(self, id12: str) -> Release:
        """A local, verified copy of a release."""

    def make(self) -> None:
        """Make the place, unless it is there; ``OSError`` where it cannot be written."""

    def publish(self, release: Release) -> None:
        """Keep a copy of a verified release; one that is there already stays as it is."""

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
        return _ids(path.parent.name for path in found)

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
        with _exclusive(self.root / ".add.lock"):
            for leftover in self.releases.glob(".adding-*"):
                shutil.rmtree(leftover)
            if target.exists():
                open_release(target)
                return
            partial = self.releases / f".adding-{release.id12}"
            for name in (*release.manifest.files, MANIFEST):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(release.folder / name, partial / name)
                sync(partial / name)
            if open_release(partial).id != release.id:
                raise ReleaseError(f"{release.folder}: changed while it was added; add it again")
            for folder in {(partial / name).parent for name in release.manifest.files}:
                sync(folder)
            partial.rename(target)
            sync(self.releases)

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
        with _exclusive(self.root / ".aliases.lock"):
            yield


class BucketShelf:
    """Object storage; verified copies are kept in a local ``cache``, shared by all stores."""

    def __init__(self, filesystem: Any, root: str, cache: Path) -> None:  # noqa: ANN401 - fsspec has no types
        """``filesystem`` and ``root`` as fsspec resolves a URL."""
        self.filesystem = filesystem
        self.root = root.rstrip("/")
        self.cache = cache

    def names(self) -> tuple[str, ...]:
        """The first 12 digits of each release's id, sorted."""
        self.filesystem.invalidate_cache()
        found = self.filesystem.glob(f"{self.root}/releases/*/{MANIFEST}")
        return _ids(PurePosixPath(path).parent.name for path in found)

    def fetch(self, id12: str) -> Release:
        """Download into the cache unless an intact copy is there; hashes checked on the way."""
        target = self.cache / id12
        if target.exists():
            try:
                return open_release(target)
            except ReleaseError:
                shutil.rmtree(target)
        self.cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".fetching-", dir=self.cache))
        try:
            self._download(id12, partial)
            with _exclusive(self.cache / ".lock"):
                if not target.exists():
                    partial.rename(target)
        except FileNotFoundError as error:
            raise ReleaseError(f"{error}: missing in the store; add the release again") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return open_release(target)

    def make(self) -> None:
        """Nothing to do: object storage has no folders."""

    def publish(self, release: Release) -> None:
        """Upload the manifest last; what a killed upload left is overwritten."""
        there = f"{self.root}/releases/{release.id12}"
        self.filesystem.invalidate_cache()
        if self.filesystem.exists(f"{there}/{MANIFEST}"):
            return
        for name in (*release.manifest.files, MANIFEST):
            with (release.folder / name).open("rb") as source:
                parent = PurePosixPath(f"{there}/{name}").parent
                self.filesystem.makedirs(str(parent), exist_ok=True)
                with self.filesystem.open(f"{there}/{name}", "wb") as sink:
                    shutil.copyfileobj(source, sink, _CHUNK)

    def read_aliases(self) -> bytes | None:
        """The content of ``aliases.json``; None before the first promotion."""
        self.filesystem.invalidate_cache()
        try:
            return bytes(self.filesystem.cat_file(f"{self.root}/{ALIASES}"))
        except FileNotFoundError:
            return None

    def write_aliases(self, data: bytes) -> None:
        """Replace ``aliases.json`` in one step: an object is put whole."""
        self.filesystem.pipe_file(f"{self.root}/{ALIASES}", data)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold an object that only one writer can create; a killed writer leaves it behind."""
        path = f"{self.root}/{ALIASES}.lock"
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                self.filesystem.pipe_file(path, b"", mode="create")
                break
            except FileExistsError:
                if time.monotonic() >= deadline:
                    raise StoreError(
                        f"{path}: another writer holds the aliases since {LOCK_WAIT_S:g} s; "
                        "if none is at work, remove this object"
                    ) from None
                time.sleep(0.05)
        try:
            yield
        finally:
            self.filesystem.rm_file(path)

    def _download(self, id12: str, folder: Path) -> None:
        there = f"{self.root}/releases/{id12}"
        data = self.filesystem.cat_file(f"{there}/{MANIFEST}", end=MAX_MANIFEST_BYTES)
        if hashlib.sha256(data).hexdigest()[:ID_LENGTH] != id12:
            raise ReleaseError(f"{there}/{MANIFEST}: its id is not {id12}; it was changed")
        for name, entry in parse_manifest(data, f"{there}/{MANIFEST}").files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (
                self.filesystem.open(f"{there}/{name}", "rb") as source,
                (folder / name).open("wb") as sink,
            ):
                digest = _copy_hashed(source, sink, entry.size)
            if digest != entry.sha256:
                raise ReleaseError(
                    f"{there}/{name}: sha256 {digest[:12]}, the manifest says {entry.sha256[:12]}; "
                    "remove the release from the store and add it again"
                )
        (folder / MANIFEST).write_bytes(data)


def _ids(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if ID12.fullmatch(name)))


def _copy_hashed(source: BinaryIO, sink: BinaryIO, size: int) -> str:
    """sha256 of what was copied: at most ``size`` bytes and one, so that no file fills the disk."""
    digest = hashlib.sha256()
    left = size + 1
    while chunk := source.read(min(_CHUNK, left)):
        digest.update(chunk)
        sink.write(chunk)
        left -= len(chunk)
    return digest.hexdigest()


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
