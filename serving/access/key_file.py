"""The file of keys and limits: what stands in it, read with suspicion, written whole.

Schema 2 of ``keys.json``: the keys, each with the moment when it expires, and how much each
customer may ask. Schema 1 knew neither expiry nor limits, and is still read.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.durable import sync

SCOPES = ("query", "verdict", "observe", "items", "admin", "threshold:override")

_SCHEMA = 2


class KeysError(ValueError):
    """A keys file, customer, scope or limit that cannot be used; one line with the remedy."""


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
    expires_at: float | None = None
    """Seconds since the epoch from which on it is refused; None: never."""

    def is_expired(self, now: float) -> bool:
        """Whether it is refused at ``now``, in seconds since the epoch."""
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """How much one customer may ask of a server; None: as much as the others leave."""

    per_second: float | None = None
    """Queries a second in the long run; a request with 32 queries counts 32."""
    burst: int | None = None
    """Queries at once after a rest; given together with ``per_second``."""
    at_once: int | None = None
    """Requests that wait or are worked on at the same time."""

    def __post_init__(self) -> None:
        """``KeysError`` for a limit that means nothing."""
        rate = self.per_second
        if rate is not None and not (_is_number(rate) and 0.001 <= rate <= 1e9):
            raise KeysError(f"per_second {rate!r}: expected 0.001 to 1e9 queries a second; "
                            "to shut a customer out, remove its keys")
        if (rate is None) != (self.burst is None):
            raise KeysError("per_second and burst: expected both or neither")
        for name in ("burst", "at_once"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and 1 <= value <= 10**9):
                raise KeysError(f"{name} {value!r}: expected a whole number of at least 1")
        if rate is None and self.at_once is None:
            raise KeysError("a limit that limits nothing; give per_second or at_once")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFile:
    """All that a keys file says."""

    keys: tuple[Key, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """By customer."""
    default: Limit | None = None
    """Of each customer without one of its own."""


def read_key_file(path: Path) -> KeyFile:
    """What the file says; nothing where there is no file. ``KeysError`` where it is not valid."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return KeyFile()
    except (OSError, ValueError) as error:
        raise KeysError(f"{path}: not a readable keys file: {error}") from None
    try:
        if content.get("schema") not in (1, _SCHEMA):
            raise ValueError(f"schema {content.get('schema')!r}: expected 1 or {_SCHEMA}")
        default = content.get("default_limit")
        return KeyFile(
            keys=tuple(_key(entry) for entry in content["keys"]),
            limits={who: _limit(entry) for who, entry in content.get("limits", {}).items()},
            default=None if default is None else _limit(default),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise KeysError(
            f"{path}: not a keys file ({error!r}); expected what `limen keys add` writes"
        ) from None


def write_key_file(path: Path, content: KeyFile) -> None:
    """Replace the file in one step; readable by its owner only, on disk when this returns."""
    partial = path.with_name(path.name + ".partial")
    document = {
        "schema": _SCHEMA,
        "keys": [asdict(key) for key in content.keys],
        "limits": {who: asdict(limit) for who, limit in content.limits.items()},
        "default_limit": None if content.default is None else asdict(content.default),
    }
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(document, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)  # or a power cut could bring a removed key back


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other writers out; the lock is a file of its own, as ``path`` itself is replaced."""
    if not path.parent.is_dir():
        raise KeysError(f"{path}: no folder {path.parent}; create it first")
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _key(entry: dict[str, Any]) -> Key:
    """One entry, written by hand perhaps: taken as it is meant, or not at all."""
    name, customer, scopes, sha256 = (entry[n] for n in ("id", "customer", "scopes", "sha256"))
    if not (isinstance(name, str) and isinstance(customer, str) and customer):
        raise ValueError(f"id {name!r}, customer {customer!r}: expected two texts")
    if not isinstance(scopes, list) or not set(scopes) <= set(SCOPES):
        raise ValueError(f"scopes {scopes!r}: expected a list of {', '.join(SCOPES)}")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"sha256 of key {name!r}: expected 64 hexadecimal digits")
    expires_at = entry.get("expires_at")
    if expires_at is not None and not (_is_number(expires_at) and math.isfinite(expires_at)):
        raise ValueError(f"expires_at {expires_at!r} of key {name!r}: expected seconds or null")
    return Key(id=name, customer=customer, scopes=tuple(scopes), sha256=sha256,
               expires_at=expires_at)


def _limit(entry: dict[str, Any]) -> Limit:
    unknown = set(entry) - set(Limit.__slots__)
    if unknown:
        raise ValueError(f"limit with {sorted(unknown)[0]!r}: expected {Limit.__slots__}")
    return Limit(**entry)


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
