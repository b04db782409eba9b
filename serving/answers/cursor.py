"""Where the next page of matches starts, in a text that the client hands back unread.

A cursor holds the position of the last match, the number of the customer's last change when
paging began, and what it is bound to: release, customer, query, threshold, exactness. Items added
by later changes are not shown, deleted ones vanish. Anything else is refused, and so is a cursor
that was damaged on its way: pages never mix two answers and never skip a match. It is no secret
and grants nothing: whoever asks is known from the key, and the search runs anew.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_COMPACT = json.JSONEncoder(separators=(",", ":")).encode
_VERSION = 3
_MAX_LENGTH = 65_536  # characters: nothing longer is parsed


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Where a page starts, and in which items."""

    distance: np.float32
    """Of the last match before it."""
    item_id: str
    """Of the same."""
    up_to: int
    """Number of the customer's last change when paging began."""

    @property
    def after(self) -> tuple[np.float32, str]:
        """The position to continue behind."""
        return self.distance, self.item_id


class CursorError(ValueError):
    """A text that is no cursor of this question; ask again without one."""


class ReleaseChangedError(CursorError):
    """A cursor of another release: its order of matches is gone; ask again without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a cursor is bound to."""

    release: str
    """Id of the release."""
    customer: str | None
    query: NDArray[np.float32]
    """(d,) the embedding that was searched."""
    threshold: np.float32
    """The threshold that was applied."""
    exact: bool = False

    def digest(self, level: str, item_id: str, up_to: str) -> str:
        """sha256 over all of it but the release, and over the bookmark; hexadecimal."""
        asked = json.dumps(
            [self.customer, _hex(self.threshold), self.exact, level, item_id, up_to]
        ).encode()
        query = np.ascontiguousarray(self.query, "<f4").tobytes()
        return hashlib.sha256(asked + b"\0" + query).hexdigest()


def encode(question: Question, bookmark: Bookmark) -> str:
    """The cursor of ``question`` that continues behind the match at ``bookmark``."""
    place = [_hex(bookmark.distance), bookmark.item_id, str(bookmark.up_to)]
    content = [_VERSION, question.release, question.digest(*place), *place]
    return base64.urlsafe_b64encode(_COMPACT(content).encode()).decode().rstrip("=")


def decode(cursor: str, question: Question) -> Bookmark:
    """Where to continue.

    Raises ``ReleaseChangedError`` for a cursor of another release, ``CursorError`` for one of
    another question and for anything that ``encode`` did not write.
    """
    release, digest, level, item_id, up_to = _parse(cursor)
    if release != question.release:
        raise ReleaseChangedError(
            f"cursor of release {release[:12]}, now serving {question.release[:12]}; "
            "ask again without a cursor"
        )
    if digest != question.digest(level, item_id, up_to):
        raise CursorError(
            "cursor changed, or of another query, customer, threshold or exactness; send it "
            "unchanged with the request it came from, or ask again without it"
        )
    bookmark = Bookmark(_distance(level), item_id, _number(up_to))
    if not 0 <= bookmark.distance <= question.threshold or encode(question, bookmark) != cursor:
        raise CursorError("cursor behind no match; ask again without it")
    return bookmark


def _parse(cursor: str) -> tuple[str, str, str, str, str]:
    """Release, digest, distance, item_id and number of the last change, all of them texts."""
    try:
        if len(cursor) > _MAX_LENGTH:
            raise ValueError("too long")
        padded = cursor + "=" * (-len(cursor) % 4)
        content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        version, *texts = content
        if version != _VERSION or not all(isinstance(text, str) for text in texts):
            raise ValueError("other fields")
        release, digest, level, item_id, up_to = texts
        if not re.fullmatch("[0-9a-f]{1,64}", release):
            raise ValueError("no release")
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise CursorError("not a cursor; send `next_cursor` of an earlier answer unchanged"
                          ) from None
    return release, digest, level, item_id, up_to


def _hex(distance: np.float32) -> str:
    """The exact value as text."""
    return float(np.float32(distance)).hex()


def _distance(text: str) -> np.float32:
    try:
        return np.float32(min(float.fromhex(text), 4.0))  # past every distance
    except (ValueError, OverflowError):
        raise CursorError("cursor without a distance; ask again without it") from None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise CursorError("cursor without a change number; ask again without it")
    return int(text)
