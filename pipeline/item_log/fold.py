"""The log folded into an items table: what the next release's gallery is made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.items import Items
from pipeline.distance import Vectors
from pipeline.item_log.changes import Change
from pipeline.item_log.content import ContentError, Embedder
from pipeline.item_log.seen import FOLDED_METADATA


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A table under the changes of a log."""

    items: Items
    """The table's untouched items, then those put online. These are served and never ask; they
    have no content and no split."""
    vectors: Vectors
    """(n, d) their embeddings."""
    table: int
    """How many of the items are of the table."""
    set_aside: Sequence[str]
    """A line for each item put online that cannot be served."""


def fold(
    items: Items, vectors: Vectors, changes: Sequence[Change], embedder: Embedder
) -> Folded:
    """``items`` with embeddings ``vectors`` (n, d), under the last change of each item changed."""
    changed = {(change.customer, change.item_id) for change in changes}
    named = zip(items.customer, items.item_id, strict=True)
    kept = np.flatnonzero([name not in changed for name in named])
    shared = {
        item_id for customer, item_id in zip(items.customer, items.item_id, strict=True)
        if customer is None
    }
    put: list[Change] = []
    rows: list[NDArray[np.float32]] = []
    set_aside = []
    for change in changes:
        if change.content is None:
            continue
        try:
            if change.item_id in shared:
                raise ContentError("a shared item has the same id")
            rows.append(embedder.embed(change.content))
            put.append(change)
        except ContentError as error:
            set_aside.append(f"item {change.item_id!r} of {change.customer!r}: {error}")
    added = np.asarray(rows, np.float32).reshape(len(rows), vectors.shape[1])
    return Folded(
        _joined(items.take(kept), put), np.concatenate([vectors[kept], added]), kept.size,
        set_aside,
    )


def _joined(items: Items, put: Sequence[Change]) -> Items:
    def column(name: str, values: Sequence[object]) -> NDArray[np.object_]:
        more = np.empty(len(values), np.object_)
        more[:] = values
        return np.concatenate([getattr(items, name), more])

    filler = np.zeros((len(put), *items.content.shape[1:]), items.content.dtype)
    return dataclasses.replace(
        items,
        item_id=column("item_id", [change.item_id for change in put]),
        label=column("label", [change.label for change in put]),
        customer=column("customer", [change.customer for change in put]),
        role=column("role", ["gallery"] * len(put)),
        split=column("split", [""] * len(put)),
        content=np.concatenate([items.content, filler]),
        metadata=_metadata(items, put),
    )


def _metadata(items: Items, put: Sequence[Change]) -> pa.Table:
    """Nothing of what was put becomes a column, whose name every customer would be told."""
    texts = [json.dumps(dict(change.metadata or {})) for change in put]
    table = items.metadata
    columns = {
        name: pa.chunked_array([*table[name].chunks, pa.nulls(len(put), table[name].type)])
        for name in table.column_names
    }
    columns[FOLDED_METADATA] = pa.array([None] * len(items) + texts, pa.string())
    return pa.table(columns)
