"""The gallery: the embeddings that a query is compared with, and the items they belong to.

Rows are sorted: items shared by all customers first, then customer by customer, each segment by
item_id. So what a customer may see is at most two slices, its own and the shared one, and nobody
else's items can come up by construction. On disk: ``gallery.npy``, memory-mapped when opened,
and ``items.parquet`` beside it. Rows of role ``query`` are never served and never in here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.data.items import Items
from pipeline.distance import Vectors, lengths
from pipeline.durable import partial_of

NORM_TOLERANCE = 1e-3
"""How far the norm of a stored or searched vector may be from 1."""

_VECTORS, _ITEMS = "gallery.npy", "items.parquet"
_COLUMNS = ("item_id", "label", "customer", "role", "split")


class GalleryError(ValueError):
    """Vectors and items that make no gallery; the message is one line."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """n items, sorted by (shared first, customer, item_id); all arrays and tables have n rows."""

    vectors: Vectors
    """(n, d) float32 unit rows; read-only and backed by the file when opened from disk."""
    item_id: NDArray[np.object_]
    """(n,) str, unique within what any one customer sees."""
    label: NDArray[np.object_]
    """(n,) str or None."""
    customer: NDArray[np.object_]
    """(n,) str, or None for the items that all customers share."""
    role: NDArray[np.object_]
    """(n,) ``both`` or ``gallery``."""
    split: NDArray[np.object_]
    """(n,) the split that the item's class belongs to; empty where there is none."""
    metadata: pa.Table
    """Further columns, returned with a match."""

    def __len__(self) -> int:
        """Number of items."""
        return len(self.item_id)

    @property
    def dimension(self) -> int:
        """Coordinates of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def rank(self) -> NDArray[np.int64]:
        """(n,) place of each row's item_id among all ids, by code point; equal ids are equal."""
        ranks = pc.rank(pa.array(self.item_id, pa.string()), tiebreaker="dense")
        rank = np.asarray(ranks.to_numpy().astype(np.int64))
        del ranks
        pa.default_memory_pool().release_unused()  # which keeps a third of what the ids take
        return rank

    def segments(self) -> dict[str | None, slice]:
        """The rows of each customer, and of the shared items under None; no slice is empty."""
        return dict(self._segments)

    def visible(self, customer: str | None) -> tuple[slice, ...]:
        """The rows that ``customer`` sees: the shared ones, then its own; 0 to 2 slices.

        None, or a customer without items, sees the shared ones alone.
        """
        keys = (None,) if customer is None else (None, customer)
        return tuple(self._segments[key] for key in keys if key in self._segments)

    @cached_property
    def _segments(self) -> dict[str | None, slice]:
        if len(self) == 0:
            return {}
        changes = np.flatnonzero(self.customer[1:] != self.customer[:-1]) + 1
        starts = [0, *changes.tolist()]
        stops = [*changes.tolist(), len(self)]
        return {self.customer[a]: slice(a, b) for a, b in zip(starts, stops, strict=True)}

    def write(self, folder: Path) -> None:
        """Write ``gallery.npy`` and ``items.parquet`` into ``folder``, each in one step."""
        folder.mkdir(parents=True, exist_ok=True)
        columns = {name: pa.array(getattr(self, name), pa.string()) for name in _COLUMNS}
        table = pa.table(columns)
        for name in self.metadata.column_names:
            table = table.append_column(name, self.metadata[name])
        _write_whole(folder / _ITEMS, lambda path: pq.write_table(table, path))
        _write_whole(folder / _VECTORS, lambda path: _save(path, self.vectors))


def build_gallery(vectors: Vectors, items: Items) -> Gallery:
    """The gallery of ``items`` embedded as ``vectors`` (n, d); rows of role ``query`` left out.

    Raises ``GalleryError`` for vectors that are not unit rows of float32, one for each item, and
    for ids that one customer would see twice.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != len(items):
        raise GalleryError(
            f"vectors: {vectors.dtype} {vectors.shape}; expected float32 ({len(items)}, d)"
        )
    served = np.flatnonzero(items.role != "query")
    customer = pa.array(items.customer[served], pa.string())
    keys = pa.table({
        "owned": pc.is_valid(customer).cast(pa.int8()),
        "customer": pc.fill_null(customer, ""),
        "item_id": pa.array(items.item_id[served], pa.string()),
    })
    order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
    rows = served[order.to_numpy()]
    gallery = Gallery(
        vectors=np.ascontiguousarray(vectors[rows]),
        **{name: getattr(items, name)[rows] for name in _COLUMNS},
        metadata=items.metadata.take(pa.array(rows))
        if items.metadata.num_columns else items.metadata,
    )
    _require_unit(gallery)
    _require_unique(gallery)
    return gallery


def open_gallery(folder: Path) -> Gallery:
    """The gallery that ``Gallery.write`` put into ``folder``; vectors stay on disk, mapped.

    For a folder whose bytes were verified. Raises ``GalleryError`` where the files do not fit.
    """
    # A plain view: np.memmap pays its own bookkeeping at every index operation.
    vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    table = pq.read_table(folder / _ITEMS, memory_map=True).combine_chunks()
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise GalleryError(f"{folder / _ITEMS}: column {missing[0]!r} is missing: index again")
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != table.num_rows:
        raise GalleryError(
            f"{folder / _VECTORS}: {vectors.dtype} {vectors.shape}; expected float32 "
            f"({table.num_rows}, d), a row for each item of {_ITEMS}: index again"
        )
    return Gallery(
        vectors=vectors,
        **{name: _objects(table[name]) for name in _COLUMNS},
        metadata=table.drop_columns(list(_COLUMNS)),
    )


def _objects(column: pa.ChunkedArray) -> NDArray[np.object_]:
    """A string column as objects, None where null; equal strings are one object, not millions."""
    coded = column.combine_chunks().dictionary_encode()
    none = np.full(1, None, np.object_)
    values = np.concatenate([coded.dictionary.to_numpy(zero_copy_only=False), none])
    places = pc.fill_null(coded.indices, len(coded.dictionary))
    return np.asarray(values[places.to_numpy()], np.object_)


def _require_unit(gallery: Gallery) -> None:
    norms = lengths(gallery.vectors)
    bad = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))
    if bad.size:
        raise GalleryError(
            f"item {gallery.item_id[bad[0]]!r}: vector of norm {norms[bad[0]]:.6g}; expected 1"
        )


def _require_unique(gallery: Gallery) -> None:
    """Matches are ordered, and paged through, by distance and then by id."""
    twice = (gallery.customer[1:] == gallery.customer[:-1]) & (
        gallery.item_id[1:] == gallery.item_id[:-1]
    )
    shared = {item for rows in gallery.visible(None) for item in gallery.item_id[rows]}
    bad = [*gallery.item_id[1:][twice], *(
        item for item, customer in zip(gallery.item_id, gallery.customer, strict=True)
        if customer is not None and item in shared
    )]
    if bad:
        raise GalleryError(
            f"item_id {bad[0]!r}: a customer would see it twice; expected ids unique for each "
            "customer and apart from the shared ones"
        )


def _save(path: Path, vectors: Vectors) -> None:
    with path.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a partial file, then put it in place of ``path``."""
    partial = partial_of(path)
    write(partial)
    partial.replace(path)
