"""Who may ask: bearer keys, each of one customer, with scopes and perhaps an end.

A key reads ``lim_<id>_<secret>``: the id finds the entry, the secret is 32 random bytes of which
the file keeps only the sha256 of the whole key. So a stolen file opens nothing, and a key that is
lost cannot be shown again. The file is read anew when it changes; no restart is needed to add,
rotate or remove a key or to change a limit. Each such change is in the trail before it counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipeline.trail import Trail
from serving.access.key_file import (
    SCOPES,
    Key,
    KeyFile,
    KeysError,
    Limit,
    exclusive,
    read_key_file,
    write_key_file,
)

_PREFIX = "lim"
_NO_SUCH_SHA256 = "0" * 64
_log = logging.getLogger("limen.access")


class KeyExpiredError(KeysError):
    """A key that was right, and is past its end."""

    def __init__(self, key: Key) -> None:
        """``key``: its entry; the message names its id and its end."""
        super().__init__(f"key {key.id} expired at {moment(key.expires_at)}; use a newer one")
        self.key = key


class KeyRing:
    """The keys and limits of one file, read again whenever the file changes."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Read ``path``; a missing file is an empty ring. ``KeysError`` where it is not valid.

        ``clock``: seconds since the epoch.
        """
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._file = KeyFile()
        self._keys: dict[str, Key] = {}
        self._refresh()

    def __len__(self) -> int:
        """Keys that are valid now."""
        return sum(not key.is_expired(self._clock()) for key in self._keys.values())

    def find(self, token: str) -> Key | None:
        """The entry of a presented key, or None; compared in constant time.

        ``KeyExpiredError`` for a key that was right and is past its end.
        """
        self._refresh_or_keep()
        parts = token.split("_", 2)
        key = self._keys.get(parts[1]) if len(parts) == 3 and parts[0] == _PREFIX else None
        expected = key.sha256 if key else _NO_SUCH_SHA256
        if not hmac.compare_digest(_digest(token), expected) or key is None:
            return None
        if key.is_expired(self._clock()):
            raise KeyExpiredError(key)
        return key

    def limit_of(self, customer: str) -> Limit | None:
        """How much the customer may ask, as the file said at the last ``find``."""
        return self._file.limits.get(customer, self._file.default)

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            with self._lock:
                try:
                    self._file = read_key_file(self._path)
                    self._keys = {key.id: key for key in self._file.keys}
                finally:  # of before it was read: what is saved meanwhile is read again
                    self._stamp = stamp

    def _refresh_or_keep(self) -> None:
        """A file broken by a bad edit must not lock every customer out: the last one stays."""
        try:
            self._refresh()
        except KeysError as error:
            _log.warning("keys unchanged since the file cannot be read: %s", error)


def trail_beside(path: Path) -> Path:
    """Where changes of the keys file ``path`` are told unless another trail is named."""
    return path.with_name("trail.jsonl")


def add_key(
    path: Path, customer: str, scopes: Sequence[str], *, expires_at: float | None = None,
    trail: Trail | None = None,
) -> str:
    """Add a key to the file and return it; it can never be shown again.

    ``expires_at``: seconds since the epoch. Safe beside other writers; the file is replaced
    whole and readable by its owner only. ``TrailError`` where the change cannot be told.
    """
    _require_name(customer)
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        what = f"unknown scope {unknown[0]!r}" if unknown else "no scope given"
        raise KeysError(f"{what}; known scopes: {', '.join(SCOPES)}")
    with exclusive(path):
        file = read_key_file(path)
        ordered = tuple(scope for scope in SCOPES if scope in scopes)
        token, key = _new_key(file, customer, ordered, expires_at)
        _tell(path, trail, "key_added", key)
        write_key_file(path, dataclasses.replace(file, keys=(*file.keys, key)))
    return token


def remove_key(path: Path, key_id: str, *, trail: Trail | None = None) -> Key:
    """Take the key with this id away; running servers refuse it from their next request on."""
    with exclusive(path):
        file = read_key_file(path)
        gone = _named(path, file, key_id)
        _tell(path, trail, "key_removed", gone)
        left = tuple(key for key in file.keys if key.id != key_id)
        write_key_file(path, dataclasses.replace(file, keys=left))
    return gone


def rotate_key(
    path: Path, key_id: str, overlap: float, *, expires_at: float | None = None,
    now: float | None = None, trail: Trail | None = None,
) -> str:
    """A new key like the one with this id, which itself ends ``overlap`` seconds from ``now``.

    The new one ends at ``expires_at``, or without that when the old one would have.
    """
    now = time.time() if now is None else now
    with exclusive(path):
        file = read_key_file(path)
        old = _named(path, file, key_id)
        if old.is_expired(now) and expires_at is None:
            raise KeysError(f"key {key_id} expired at {moment(old.expires_at)}; "
                            "say when the new one shall expire")
        new_end = old.expires_at if expires_at is None else expires_at
        token, new = _new_key(file, old.customer, old.scopes, new_end)
        end = now + overlap if old.expires_at is None else min(now + overlap, old.expires_at)
        ending = dataclasses.replace(old, expires_at=end)
        _tell(path, trail, "key_rotated", new, replaces=key_id, replaced_expires_at=moment(end))
        kept = tuple(ending if key.id == key_id else key for key in file.keys)
        write_key_file(path, dataclasses.replace(file, keys=(*kept, new)))
    return token


def set_limit(
    path: Path, customer: str | None, limit: Limit | None, *, trail: Trail | None = None
) -> None:
    """Let ``limit`` (None: no limit) be the customer's, or (None) that of all without their own."""
    if customer is not None:
        _require_name(customer)
    with exclusive(path):
        file = read_key_file(path)
        facts = {} if limit is None else dataclasses.asdict(limit)
        (trail or Trail(trail_beside(path))).write("limit_set", customer=customer, **facts)
        if customer is None:
            file = dataclasses.replace(file, default=limit)
        else:
            others = {who: kept for who, kept in file.limits.items() if who != customer}
            own = {} if limit is None else {customer: limit}
            file = dataclasses.replace(file, limits=others | own)
        write_key_file(path, file)


def moment(at: float | None) -> str:
    """Seconds since the epoch as people read them, in UTC; ``never`` for None."""
    return "never" if at is None else datetime.fromtimestamp(at, UTC).strftime("%F %T UTC")


def _require_name(customer: str) -> None:
    if not customer.strip() or not customer.isprintable():
        raise KeysError(f"customer {customer!r}: expected a printable, non-empty name")


def _new_key(
    file: KeyFile, customer: str, scopes: tuple[str, ...], expires_at: float | None
) -> tuple[str, Key]:
    """The key that is handed out, once, and its entry."""
    taken = {key.id for key in file.keys}
    name = secrets.token_hex(4)
    while name in taken:
        name = secrets.token_hex(4)
    token = f"{_PREFIX}_{name}_{secrets.token_urlsafe(32)}"
    return token, Key(id=name, customer=customer, scopes=scopes, sha256=_digest(token),
                      expires_at=expires_at)


def _named(path: Path, file: KeyFile, key_id: str) -> Key:
    for key in file.keys:
        if key.id == key_id:
            return key
    known = ", ".join(key.id for key in file.keys) or "none"
    raise KeysError(f"{path}: no key with id {key_id!r}; ids there: {known}")


def _tell(path: Path, trail: Trail | None, event: str, key: Key, **facts: str) -> None:
    """Before the change, not after: one that the trail does not know must not exist."""
    (trail or Trail(trail_beside(path))).write(
        event, key_id=key.id, customer=key.customer, scopes=" ".join(key.scopes),
        expires_at=moment(key.expires_at), **facts,
    )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Changes with every replacement of the file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
