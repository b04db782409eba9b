"""The items: what is trained on, calibrated on and served, as aligned columns.

An item belongs to one customer, or to all of them where ``customer`` is null. Its label names
its class; an item without one is served, never trained on or counted. The content is an encoded
image or the path of one, a text or a vector; the pixels of images are made in
``pipeline/data/images.py``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.durable import partial_of, sync

Strings = NDArray[np.object_]
"""(n,) str, or None where the column allows it."""

KINDS = ("image", "text", "vector")
ROLES = ("both", "query", "gallery")
CLASS_SPLITS = ("train", "calibrate", "report")
"""Splits of which a class lies in exactly one."""
SPLITS = (*CLASS_SPLITS, "held_out", "unlabelled")

RESERVED_CUSTOMERS = ("_shared", "_other")
"""Groups of reports and gauges: queries without a customer, and customers beyond the busiest."""

_STRINGS = ("item_id", "label", "customer", "role", "split")


class ItemsError(ValueError):
    """Items that cannot be used; one line with file, row, column, what is expected."""


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """n items as columns of equal length."""

    item_id: Strings
    """(n,) str; unique within a customer, and no own id equals a shared one."""
    label: Strings
    """(n,) str, or None: served, never trained on or counted."""
    customer: Strings
    """(n,) str, or None: shared by all customers."""
    role: Strings
    """(n,) ``both``, ``query`` (asks, is never served) or ``gallery`` (is served, never asks)."""
    split: Strings
    """(n,) one of ``SPLITS``, or empty before ``assign_splits``."""
    kind: str
    """One of ``KINDS``."""
    content: Strings | NDArray[np.float32]
    """image: (n,) bytes, or str, paths of files; text: (n,) str; vector: (n, d) float32, as given,
    not of unit length."""
    metadata: pa.Table
    """Further columns, n rows; returned with a match."""

    def __post_init__(self) -> None:
        """Refuse columns that are not aligned."""
        lengths = {name: len(getattr(self, name)) for name in (*_STRINGS, "content")}
        lengths["metadata"] = self.metadata.num_rows if self.metadata.num_columns else len(self)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")

    def __len__(self) -> int:
        """Number of items."""
        return len(self.item_id)

    @property
    def on_disk(self) -> bool:
        """Whether the content is paths of images instead of their bytes."""
        return self.kind == "image" and len(self) > 0 and isinstance(self.content[0], str)

    def take(self, rows: NDArray[np.int64]) -> Items:
        """The items at ``rows`` (k,), in that order."""
        if rows.dtype.kind not in "iu":
            raise TypeError(f"rows: expected row numbers, got {rows.dtype}; use np.flatnonzero")
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in (*_STRINGS, "content")},
            metadata=self.metadata.take(pa.array(rows)) if self.metadata.num_columns
            else self.metadata,
        )

    def with_splits(self, split: Strings) -> Items:
        """The same items with ``split`` (n,)."""
        return replace(self, split=split)

    def digest(self) -> str:
        """sha256 over all columns and the order of the rows, hexadecimal.

        Two tables with equal values have equal digests, whatever file they came from. Images on
        disk count by their size, since data sets are too large to be read for a name. Raises
        ``ItemsError`` where one is gone.
        """
        hashed = hashlib.sha256(f"{self.kind} {len(self)}".encode())
        for name in _STRINGS:
            _hash_values(hashed, name, getattr(self, name).tolist())
        if self.kind == "vector":
            hashed.update(str(self.content.shape).encode())
            hashed.update(np.ascontiguousarray(self.content, "<f4").tobytes())
        elif self.on_disk:
            _hash_values(hashed, "size", [str(_size(path)) for path in self.content])
        else:
            _hash_values(hashed, self.kind, self.content.tolist())
        for name in self.metadata.column_names:
            values = self.metadata[name].to_pylist()
            _hash_values(hashed, name, [None if v is None else repr(v) for v in values])
        return hashed.hexdigest()

    def to_table(self) -> pa.Table:
        """One Arrow table: the columns above, the content under the name of its kind, metadata."""
        columns = {name: pa.array(getattr(self, name), pa.string()) for name in _STRINGS}
        if self.kind == "vector":
            width = self.content.shape[1]
            flat = pa.array(np.ascontiguousarray(self.content).reshape(-1), pa.float32())
            columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, width)
        else:
            binary = self.kind == "image" and not self.on_disk
            arrow = pa.large_binary() if binary else pa.large_string()
            columns[self.kind] = pa.array(self.content, arrow)
        table = pa.table(columns)
        for name in self.metadata.column_names:
            table = table.append_column(name, self.metadata[name])
        return table

    def write(self, path: Path) -> None:
        """Write Parquet that ``load_items`` reads back, whole or not at all."""
        partial = partial_of(path)
        pq.write_table(self.to_table(), partial, compression="zstd")
        sync(partial)
        partial.replace(path)
        sync(path.parent)


def load_items(path: Path) -> Items:
    """Read what ``Items.write`` wrote; foreign tables go through ``readers.read_items``."""
    table = pq.read_table(path, partitioning=None)
    kind = next(name for name in KINDS if name in table.column_names)
    content = table[kind].combine_chunks()
    return Items(
        **{name: strings_of(table[name]) for name in _STRINGS},
        kind=kind,
        content=vectors_of(content) if kind == "vector" else strings_of(content),
        metadata=table.drop_columns([*_STRINGS, kind]),
    )


def missing(values: Strings) -> NDArray[np.bool_]:
    """(n,) whether each value is null."""
    return np.fromiter((value is None for value in values), np.bool_, len(values))


def strings_of(column: pa.Array | pa.ChunkedArray) -> Strings:
    """(n,) objects of a string or binary column; null becomes None."""
    values = np.empty(len(column), np.object_)
    values[:] = column.to_pylist()
    return values


def vectors_of(column: pa.FixedSizeListArray) -> NDArray[np.float32]:
    """(n, d) float32 of a fixed-size list without nulls."""
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(column), column.type.list_size)


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise ItemsError(f"{path}: {error.strerror}; expected the image as it was read") from None


def _hash_values(hashed: hashlib._Hash, name: str, values: list[str | bytes | None]) -> None:
    # Lengths stand before the values, so that no two columns run into one byte string.
    hashed.update(f"\n{name}\n".encode())
    for value in values:
        data = value.encode() if isinstance(value, str) else value
        hashed.update(b"-" if data is None else f"{len(data)}:".encode() + data)
