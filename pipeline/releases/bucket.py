"""Object storage through fsspec as the place where a store keeps its releases.

It has no rename and no lock: the manifest is uploaded last, and whatever lacks one is no release.
Nothing fetched is parsed before its hash is checked.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pipeline.releases.aliases import StoreError
from pipeline.releases.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    ReleaseError,
    parse_manifest,
)
from pipeline.releases.release import ID_LENGTH, Release, open_release
from pipeline.releases.shelf import ALIASES, copied_files, exclusive, ids_among
from pipeline.releases.signing import SIGNATURE_BYTES, put_signature, read_signature, require_size

LOCK_WAIT_S = 30.0
"""Longest wait for another writer of the aliases."""

_CHUNK = 2**20


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
        return ids_among(PurePosixPath(path).parent.name for path in found)

    def fetch(self, id12: str) -> Release:
        """Download into the cache unless an intact copy is there; hashes checked on the way."""
        target = self.cache / id12
        if target.exists():
            try:
                open_release(target)
            except ReleaseError:
                shutil.rmtree(target)
        if not target.exists():
            self._keep(id12, target)
        self._mirror_signature(id12, target)
        return open_release(target)

    def _keep(self, id12: str, target: Path) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".fetching-", dir=self.cache))
        try:
            self._download(id12, partial)
            with exclusive(self.cache / ".lock"):
                if not target.exists():
                    partial.rename(target)
        except FileNotFoundError as error:
            raise ReleaseError(f"{error}: missing in the store; add the release again") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _mirror_signature(self, id12: str, target: Path) -> None:
        """The signature is no part of the id: it may have changed since the copy was made."""
        path = f"{self.root}/releases/{id12}/{SIGNATURE}"
        try:
            signature = bytes(self.filesystem.cat_file(path, end=SIGNATURE_BYTES + 1))
        except FileNotFoundError:
            (target / SIGNATURE).unlink(missing_ok=True)
            return
        require_size(len(signature), path)
        with exclusive(self.cache / ".lock"):  # replicas of one machine fetch at the same moment
            if signature != read_signature(target):
                put_signature(target, signature)

    def make(self) -> None:
        """Nothing to do: object storage has no folders."""

    def publish(self, release: Release) -> None:
        """Upload the manifest last; what a killed upload left is overwritten."""
        there = f"{self.root}/releases/{release.id12}"
        self.filesystem.invalidate_cache()
        if self.filesystem.exists(f"{there}/{MANIFEST}"):
            if signature := read_signature(release.folder):
                self.put_signature(release.id12, signature)
            return
        for name in copied_files(release):
            with (release.folder / name).open("rb") as source:
                parent = PurePosixPath(f"{there}/{name}").parent
                self.filesystem.makedirs(str(parent), exist_ok=True)
                with self.filesystem.open(f"{there}/{name}", "wb") as sink:
                    shutil.copyfileobj(source, sink, _CHUNK)

    def put_signature(self, id12: str, signature: bytes) -> None:
        """Let a release that is kept bear this signature, in one step."""
        self.filesystem.pipe_file(f"{self.root}/releases/{id12}/{SIGNATURE}", signature)

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


def _copy_hashed(source: BinaryIO, sink: BinaryIO, size: int) -> str:
    """sha256 of what was copied: at most ``size`` bytes and one, so that no file fills the disk."""
    digest = hashlib.sha256()
    left = size + 1
    while chunk := source.read(min(_CHUNK, left)):
        digest.update(chunk)
        sink.write(chunk)
        left -= len(chunk)
    return digest.hexdigest()
