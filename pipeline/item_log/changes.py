"""What a customer may change about its items, as it is kept in the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Metadata = Mapping[str, object]
"""JSON-ready values by name."""


class KeyReusedError(ValueError):
    """An idempotency key that came before with another request."""


class LogBehindError(RuntimeError):
    """A log that ends before what a release already holds of it; the message is one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What an item is embedded from, as it was sent: another encoder can embed it again."""

    kind: str
    """``image``, ``text``, ``vector``, or ``embedding``, which is one already."""
    data: bytes
    """The image file, the text in UTF-8, or coordinates as little-endian float32."""
    encoder: str | None = None
    """sha256 of the model whose space an ``embedding`` belongs to; None for the other kinds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewItem:
    """An item that a customer puts."""

    item_id: str
    content: Content
    label: str | None = None
    metadata: Metadata | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One item put or deleted."""

    number: int
    """Place in the log, from 1, in the order of commits; no two changes have the same."""
    customer: str
    own_number: int
    """Place among the customer's own changes; all that it is told, so that it cannot count what
    others change."""
    item_id: str
    content: Content | None
    """None: the item is deleted."""
    label: str | None = None
    metadata: Metadata | None = None


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Names one request of a customer, so that it can be sent again."""

    key: str
    digest: str
    """Of everything that was asked; the same key with another one is refused."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is durable now."""

    items: int
    """How many changes the request made."""
    own_number: int
    """The customer's own number of the last of them."""


@dataclass(frozen=True, slots=True)
class LogEnd:
    """How far a log goes, in all or for one customer."""

    log: str
    """Its identity: another database, another log."""
    number: int
    """Of the last change, or the own number of the customer's last; 0 where there is none."""
