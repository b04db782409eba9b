"""Who may ask: bearer keys, each of one customer, with scopes.

A key reads ``lim_<id>_<secret>``: the id finds the entry, the secret is 32 random bytes of which
the file keeps only the sha256 of the whole key. So a stolen file opens nothing, and a key that is
lost cannot be shown again. The file is read anew when it changes; no restart is needed to add a
key or to take one away.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

SCOPES = ("query", "verdict", "observe", "items", "admin", "threshold:override")

_PREFIX = "lim"
_NO_SUCH_SHA256 = "0" * 64
_log = logging.getLogger("limen.access")


class KeysError(ValueError):
    """A keys file, customer or scope that cannot be used; one line with the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One entry of the keys file."""

    id: str
    """Public part of the key; names it in logs and in ``limen keys``."""
    customer: str
    """The customer whose items a request with this key sees."""
    scopes: tuple[str, ...]
    """What it may do: some of ``SCOPES``."""
    sha256: str
    """Hexadecimal sha256 of the whole key."""


class KeyRing:
    """The keys of one file, read again whenever the file changes."""

    def __init__(self, path: Path) -> None:
        """Read ``path``; a missing file is an empty ring. ``KeysError`` where it is not valid."""
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._keys: dict[str, Key] = {}
        self._refresh()

    def __len__(self) -> int:
        """Keys that are valid now."""
        return len(self._keys)

    def find(self, token: str) -> Key | None:
        """The entry of a presented key, or None; compared in constant time."""
        self._refresh_or_keep()
        parts = token.split("_", 2)
        key = self._keys.get(parts[1]) if len(parts) == 3 and parts[0] == _PREFIX else None
        expected = key.sha256 if key else _NO_SUCH_SHA256
        return key if hmac.compare_digest(_digest(token), expected) else None

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            with self._lock:
                self._keys = {key.id: key for key in read_keys(self._path)}
                self._stamp = stamp

    def _refresh_or_keep(self) -> None:
        """A file broken by a bad edit must not lock every customer out: the last one stays."""
        try:
            self._refresh()
        except KeysError as error:
            self._stamp = _stamp(self._path)
            _log.warning("keys unchanged since the file cannot be read: %s", error)


def add_key(path: Path, customer: str, scopes: Sequence[str]) -> str:
    """Add a key to the file and return it; it can never be shown again.

    Safe beside other writers; the file is replaced whole and readable by its owner only.
    """
    if not customer.strip() or not customer.isprintable():
        raise KeysError(f"customer {customer!r}: expected a printable, non-empty name")
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        what = f"unknown scope {unknown[0]!r}" if unknown else "no scope given"
        raise KeysError(f"{what}; known scopes: {', '.join(SCOPES)}")
    with _exclusive(path):
        keys = read_keys(path)
        name = secrets.token_hex(4)
        while any(key.id == name for key in keys):
            name = secrets.token_hex(4)
        token = f"{_PREFIX}_{name}_{secrets.token_urlsafe(32)}"
        ordered = tuple(scope for scope in SCOPES if scope in scopes)
        entry = Key(id=name, customer=customer, scopes=ordered, sha256=_digest(token))
        _write(path, [*keys, entry])
    return token


def remove_key(path: Path, key_id: str) -> Key:
    """Take the key with this id away; running servers refuse it from their next request on."""
    with _exclusive(path):
        keys = read_keys(path)
        gone = [key for key in keys if key.id == key_id]
        if not gone:
            known = ", ".join(key.id for key in keys) or "none"
            raise KeysError(f"{path}: no key with id {key_id!r}; ids there: {known}")
        _write(path, [key for key in keys if key.id != key_id])
    return gone[0]


def read_keys(path: Path) -> list[Key]:
    """The entries of a keys file, in order; none where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise KeysError(f"{path}: not a readable keys file: {error}") from None
    try:
        return [_key(entry) for entry in content["keys"]]
    except (KeyError, TypeError, ValueError) as error:
        raise KeysError(
            f"{path}: not a keys file ({error!r}); expected what `limen keys add` writes"
        ) from None


def _key(entry: dict[str, object]) -> Key:
    """One entry, written by hand perhaps: taken as it is meant, or not at all."""
    name, customer, scopes, sha256 = (entry[n] for n in ("id", "customer", "scopes", "sha256"))
    if not (isinstance(name, str) and isinstance(customer, str) and customer):
        raise ValueError(f"id {name!r}, customer {customer!r}: expected two texts")
    if not isinstance(scopes, list) or not set(scopes) <= set(SCOPES):
        raise ValueError(f"scopes {scopes!r}: expected a list of {', '.join(SCOPES)}")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"sha256 of key {name!r}: expected 64 hexadecimal digits")
    return Key(id=name, customer=customer, scopes=tuple(scopes), sha256=sha256)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Changes with every replacement of the file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Keep other writers out; the lock is a file of its own, as ``path`` itself is replaced."""
    if not path.parent.is_dir():
        raise KeysError(f"{path}: no folder {path.parent}; create it first")
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, keys: Sequence[Key]) -> None:
    partial = path.with_name(path.name + ".partial")
    content = json.dumps({"schema": 1, "keys": [asdict(key) for key in keys]}, indent=1)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
