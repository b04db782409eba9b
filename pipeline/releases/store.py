"""The store: releases by id, and aliases such as ``production`` that move between them.

One store is a folder or any URL that fsspec knows. Releases are only ever added; an alias moves
by one atomic write under a lock, so that concurrent writers lose nothing. Everything handed out
was verified, and has the full id that was asked for.
"""

from __future__ import annotations

import re
from pathlib import Path

import fsspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fsspec.implementations.local import LocalFileSystem

from pipeline.releases.aliases import (
    AliasBook,
    AliasMovedError,
    Change,
    StoreError,
    UnknownReleaseError,
    parse_aliases,
)
from pipeline.releases.bucket import BucketShelf
from pipeline.releases.release import ID_LENGTH, Release, open_release
from pipeline.releases.shelf import ALIASES, FolderShelf, Shelf
from pipeline.releases.signing import PublicKeys, require_signature

MIN_PREFIX = 4
"""Least digits by which a release can be called."""

_PREFIX = re.compile(rf"[0-9a-f]{{{MIN_PREFIX},64}}")


class Store:
    """Releases and their aliases at one URL."""

    def __init__(
        self, url: str, *, cache: Path | None = None, keys: PublicKeys | None = None
    ) -> None:
        """``url``: a folder, ``file://``, ``s3://``, ``gs://``, ``memory://``, ...

        ``cache`` holds local copies of remote releases; by default below the user's own cache.
        ``keys``: nothing is handed out that none of them signed. Raises ``StoreError`` for a URL
        that fsspec cannot open.
        """
        self.url = url
        self._keys = keys
        try:
            filesystem, root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreError(f"{url}: cannot be opened as a store: {error}") from None
        self._shelf: Shelf
        if isinstance(filesystem, LocalFileSystem):
            self._shelf = FolderShelf(Path(root))
        else:
            local = cache or Path.home() / ".cache" / "limen" / "releases"
            self._shelf = BucketShelf(filesystem, root, local)
        self._read: tuple[bytes, AliasBook] | None = None

    def add(self, folder: Path) -> str:
        """Keep a copy of the release in ``folder``; its full id.

        Atomic, and nothing happens if the store has it. ``ReleaseError`` if it is not intact.
        """
        release = open_release(folder)
        self._shelf.publish(release)
        return release.id

    def require_writable(self, alias: str) -> None:
        """Refuse before the work what ``add`` and ``promote`` to ``alias`` would refuse after it.

        Raises ``StoreError`` for a place that cannot be written and a name that is no alias.
        """
        try:
            self._shelf.make()
            with self._shelf.lock():
                self._book().promote(alias, "0" * 64)
        except OSError as error:
            why = error.strerror or str(error)
            raise StoreError(
                f"{self.url}: cannot be written: {why}; expected a store of releases: name "
                "another with --store, or change who may write there"
            ) from None

    def open(self, name: str) -> Release:
        """The verified release that an alias, an id or the beginning of an id means."""
        wanted = self._book().current().get(name, name)
        release = self._shelf.fetch(self._folder_of(wanted))
        if not release.id.startswith(wanted):
            raise StoreError(f"{self.url}: release {release.id12} is not the {wanted} asked for")
        if self._keys is not None:
            require_signature(release.folder, release.manifest.to_bytes(), self._keys)
        return release

    def sign(self, name: str, key: Ed25519PrivateKey) -> str:
        """Let the verified release ``name`` bear a signature by ``key``; its full id."""
        release = self._shelf.fetch(self._folder_of(self._book().current().get(name, name)))
        self._shelf.put_signature(release.id12, key.sign(release.manifest.to_bytes()))
        return release.id

    def path(self, name: str) -> Path:
        """The local, verified folder of ``name``; remote releases are fetched to the cache."""
        return self.open(name).folder

    def promote(self, alias: str, name: str, *, expected: str | None = None) -> str:
        """Let ``alias`` mean the verified release ``name``; its full id.

        ``expected``: full id of what the alias has to mean until then, empty for nothing yet;
        None for whatever it means. ``AliasMovedError`` where it means something else.
        """
        release = self.open(name).id
        with self._shelf.lock():
            book = self._book()
            self._require(book, alias, expected)
            self._write(book.promote(alias, release))
        return release

    def rollback(self, alias: str, *, expected: str | None = None) -> str:
        """Let ``alias`` mean what it meant before its newest promotion; the full id.

        ``expected``: as in ``promote``.
        """
        verified = ""
        while True:
            with self._shelf.lock():
                before = self._book()
                self._require(before, alias, expected)
                book = before.rollback(alias)
                release = book.current()[alias]
                if release == verified:
                    self._write(book)
                    return release
            verified = self.open(release).id  # it may be a long download: others write meanwhile

    def aliases(self) -> dict[str, str]:
        """Full id of the release that each alias means."""
        return self._book().current()

    def history(self, alias: str) -> tuple[Change, ...]:
        """Every change of ``alias``, oldest first; empty where it was never promoted."""
        return self._book().history.get(alias, ())

    def releases(self) -> tuple[str, ...]:
        """The first 12 digits of each release's id, sorted."""
        return self._shelf.names()

    def _folder_of(self, prefix: str) -> str:
        names = self._shelf.names()
        if not _PREFIX.fullmatch(prefix) and any(name.startswith(prefix) for name in names):
            raise StoreError(f"{self.url}: {prefix!r} is short; give at least {MIN_PREFIX} digits")
        found = [name for name in names if name.startswith(prefix[:ID_LENGTH])]
        if not _PREFIX.fullmatch(prefix) or not found:
            raise UnknownReleaseError(
                f"{self.url}: no alias or release {prefix!r}; aliases: "
                f"{', '.join(self.aliases()) or 'none'}; releases: {', '.join(names) or 'none'}"
            )
        if len(found) > 1:
            raise StoreError(
                f"{self.url}: {prefix!r} could be {' or '.join(found)}; give more digits"
            )
        return found[0]

    def _book(self) -> AliasBook:
        data = self._shelf.read_aliases()
        if data is None:
            return AliasBook()
        read = self._read
        if read is None or read[0] != data:  # replayed once: servers look every moment
            read = self._read = data, parse_aliases(data, f"{self.url}/{ALIASES}")
        return read[1]

    def _require(self, book: AliasBook, alias: str, expected: str | None) -> None:
        meant = book.current().get(alias, "")
        if expected not in (None, meant):
            raise AliasMovedError(
                f"{self.url}: {alias} was moved by someone else: it means "
                f"{meant[:ID_LENGTH] or 'nothing'}, no longer "
                f"{str(expected)[:ID_LENGTH] or 'nothing'}; look again before it is moved"
            )

    def _write(self, book: AliasBook) -> None:
        self._shelf.write_aliases(book.to_bytes())
