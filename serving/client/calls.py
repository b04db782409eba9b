"""What each method asks over HTTP and how its answer is read: the same for both clients."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from serving.client import types
from serving.client.reading import read

Kind = TypeVar("Kind")

Queries = Sequence[types.Query] | NDArray[np.floating]
"""Queries, or the (n, d) unit rows that they look for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[Kind]):
    """One request, and what its answer means."""

    method: str
    path: str
    body: Mapping[str, object] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    """Whether doing it twice does no more than doing it once."""
    read: Callable[[object], Kind]


def query(
    queries: Queries, *, limit: int, cursor: str | None, metadata: bool,
    threshold: float | None, exact: bool,
) -> Call[types.Answer]:
    """``POST /v1/query``."""
    if isinstance(queries, np.ndarray):
        queries = [types.Query(embedding=row) for row in np.atleast_2d(queries)]
    body: dict[str, object] = {
        "queries": [_content(one) | _given(id=one.id) for one in queries],
        "limit": limit, "exact": exact, "with": ["metadata"] if metadata else [],
        **_given(cursor=cursor, threshold=threshold),
    }
    return Call(method="POST", path="/v1/query", body=body, read=partial(read, types.Answer))


def reviews(budget: int) -> Call[tuple[types.Review, ...]]:
    """``GET /v1/reviews``."""
    return Call(method="GET", path=f"/v1/reviews?budget={budget}",
                read=lambda content: read(types.Reviews, content).reviews)


def verdicts(given: Iterable[types.Verdict]) -> Call[types.VerdictsKept]:
    """``POST /v1/verdicts``; a verdict that is there already is only counted."""
    body = {"verdicts": [asdict(verdict) for verdict in given]}
    return Call(method="POST", path="/v1/verdicts", body=body,
                read=partial(read, types.VerdictsKept))


def put_items(items: Iterable[types.Item]) -> Call[types.ItemsKept]:
    """``PUT /v1/items``."""
    body = {"items": [
        {"item_id": item.item_id, **_content(item),
         **_given(label=item.label, metadata=item.metadata)}
        for item in items
    ]}
    return Call(method="PUT", path="/v1/items", body=body, headers=_once(),
                read=partial(read, types.ItemsKept))


def delete_item(item_id: str) -> Call[int]:
    """``DELETE /v1/items/{item_id}``; gives the number of the change."""
    return Call(method="DELETE", path=f"/v1/items/{quote(item_id, safe='')}", headers=_once(),
                read=lambda content: read(_Deleted, content).change)


def release() -> Call[types.ReleaseFacts]:
    """``GET /v1/release``."""
    return Call(method="GET", path="/v1/release", read=partial(read, types.ReleaseFacts))


def consistency() -> Call[types.Consistency]:
    """``GET /v1/consistency``."""
    return Call(method="GET", path="/v1/consistency", read=partial(read, types.Consistency))


def own_consistency(customer: str) -> Call[types.OwnConsistency]:
    """``GET /v1/customers/{customer}/consistency``."""
    path = f"/v1/customers/{quote(customer, safe='')}/consistency"
    return Call(method="GET", path=path, read=partial(read, types.OwnConsistency))


def promote(release_id: str) -> Call[types.Moved]:
    """``POST /v1/admin/promote``; not repeated: each is an entry in the history of the alias."""
    return Call(method="POST", path="/v1/admin/promote", body={"release": release_id},
                repeatable=False, read=partial(read, types.Moved))


def rollback() -> Call[types.Moved]:
    """``POST /v1/admin/rollback``; a second one would go back by another step."""
    return Call(method="POST", path="/v1/admin/rollback", body={}, repeatable=False,
                read=partial(read, types.Moved))


@dataclass(frozen=True, slots=True)
class _Deleted:
    change: int


def _once() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


def _given(**fields: object) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _content(content: types.Content) -> dict[str, Any]:
    """The one field that says what is meant; ``ValueError`` where there is none, or two."""
    image = content.image
    if isinstance(image, Path):
        image = image.read_bytes()
    fields = _given(
        embedding_b64=None if content.embedding is None else _packed(content.embedding),
        vector=None if content.vector is None else np.asarray(content.vector).tolist(),
        text=content.text,
        image=None if image is None else base64.b64encode(image).decode(),
    )
    if len(fields) != 1:
        raise ValueError(f"{type(content).__name__}: expected exactly one of embedding, vector, "
                         f"text and image; got {', '.join(fields) or 'none'}")
    return fields


def _packed(row: types.Rows) -> str:
    """Base64 of little-endian float32: a quarter of the digits, and not a bit of difference."""
    return base64.b64encode(np.asarray(row).astype("<f4").tobytes()).decode()
