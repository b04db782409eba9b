"""Embeddings that were made elsewhere, as rows beside the items that they belong to.

A ``.npy`` array has a row for each item, in their order. A Parquet file has a column of lists of
floats; it is joined by ``item_id`` (and ``customer``) where it has them, else it is in the order
of the items too. Rows that are not of unit length are scaled, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.data.labels import Labels
from pipeline.distance import Vectors

UNIT = 1e-5
"""How far from 1 a norm may be that rounding to float32 explains; such rows stay as they are."""

SUFFIXES = (".npy", ".parquet")


class EmbeddingsError(ValueError):
    """Embeddings that cannot be used; one line with file, row, what is expected."""


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """(n, d) unit rows, aligned with the items."""

    vectors: Vectors
    scaled: int
    """Rows that were scaled to unit length."""


def read_embeddings(path: Path, items: Labels, column: str | None = None) -> Embeddings:
    """The embeddings of ``items`` in ``path``; ``column``: which of several, Parquet only.

    Raises ``EmbeddingsError`` for a file that is none, for another number of rows, for rows that
    are NaN, infinite or zero, and for a join that misses or doubles an item.
    """
    if not path.is_file():
        raise EmbeddingsError(f"{path}: no such file; expected embeddings as .npy or .parquet")
    try:
        if path.suffix.lower() == ".npy":
            return _unit(_read_npy(path, len(items), column), items)
        return _unit(_read_parquet(path, items, column), items)
    except EmbeddingsError as error:
        raise EmbeddingsError(f"{path}: {error}") from None


def _unit(raw: NDArray[np.generic], items: Labels) -> Embeddings:
    """Rows of unit length; what is no direction is refused."""
    wide = np.asarray(raw, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.square(wide).sum(axis=1))
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if bad.size:
        row = int(bad[0])
        what = "zero" if norms[row] == 0 else "NaN or infinite"
        raise EmbeddingsError(
            f"row {row} (item {items.item_id[row]!r}) is {what}; expected finite numbers, not all "
            f"zero ({bad.size} such rows): leave those items out or embed them again"
        )
    with np.errstate(over="ignore", under="ignore"):  # beyond float32, hence scaled below
        vectors = np.asarray(raw, np.float32)
        lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1))
    far = ~(np.abs(lengths - 1.0) <= UNIT)
    if far.any():
        vectors = np.array(vectors)
        vectors[far] = wide[far] / norms[far, None]
    return Embeddings(np.ascontiguousarray(vectors), int(far.sum()))


def _read_npy(path: Path, expected: int, column: str | None) -> NDArray[np.generic]:
    if column is not None:
        raise EmbeddingsError(f"an array has no column {column!r}; --column is for Parquet")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise EmbeddingsError(f"not a readable .npy array: {error}") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "fiu":
        what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "an archive"
        raise EmbeddingsError(f"{what}; expected an array of floats (n, d), a row for each item")
    _require_count(len(found), expected)
    return found


def _read_parquet(path: Path, items: Labels, column: str | None) -> NDArray[np.generic]:
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise EmbeddingsError(f"not a readable Parquet file: {first}") from None
    vectors = _vectors(table, _column(table, column))
    if "item_id" not in table.column_names:
        _require_count(len(vectors), len(items))
        return vectors
    return vectors[_joined(table, items)]


def _column(table: pa.Table, wanted: str | None) -> str:
    """The name of the one list column, or of the one asked for."""
    lists = [field.name for field in table.schema if _is_list(field.type)]
    there = ", ".join(lists) or "none"
    if wanted is not None and wanted not in lists:
        raise EmbeddingsError(f"no column {wanted!r} of lists of numbers; there are: {there}")
    if wanted is None and len(lists) != 1:
        raise EmbeddingsError(
            f"expected one column of lists of numbers, found: {there}; name one with --column"
        )
    return lists[0] if wanted is None else wanted


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(test(kind) for test in tests):
        return False
    return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _vectors(table: pa.Table, name: str) -> NDArray[np.float64]:
    """(n, d) of the list column ``name``."""
    column = table[name].combine_chunks()
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise EmbeddingsError(f"row {row} has no embedding in column {name!r}; expected one")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    expected = int(lengths[0]) if lengths.size else 0
    bad = np.flatnonzero((lengths != expected) | (lengths == 0))
    if bad.size:
        raise EmbeddingsError(
            f"row {bad[0]} has {lengths[bad[0]]} numbers in column {name!r}; expected "
            + (f"{expected}, as in row 0" if expected else "some")
        )
    flat = pc.fill_null(column.flatten().cast(pa.float64()), np.nan)
    numbers = flat.to_numpy(zero_copy_only=False)
    return np.asarray(numbers, np.float64).reshape(len(column), max(expected, 1))


def _joined(table: pa.Table, items: Labels) -> NDArray[np.int64]:
    """(n,) row of the table that each item's embedding stands in."""
    by_customer = "customer" in table.column_names

    def keys(ids: list[object], customers: list[object]) -> list[tuple[object, str]]:
        own = customers if by_customer else [None] * len(ids)
        return [(customer, str(item)) for customer, item in zip(own, ids, strict=True)]

    customers = table["customer"].to_pylist() if by_customer else [None] * table.num_rows
    place: dict[tuple[object, str], int] = {}
    for row, key in enumerate(keys(table["item_id"].to_pylist(), customers)):
        if place.setdefault(key, row) != row:
            raise EmbeddingsError(
                f"item_id {key[1]!r} stands in rows {place[key]} and {row}; expected each item "
                "once" + ("" if by_customer else ", or a column 'customer' that tells them apart")
            )
    wanted = keys(items.item_id.tolist(), items.customer.tolist())
    absent = [key for key in wanted if key not in place]
    if absent:
        raise EmbeddingsError(
            f"no embedding for item {absent[0][1]!r} ({len(absent)} of {len(items)} items); "
            "expected a row with its item_id for each item"
        )
    if len(set(wanted)) < len(wanted):
        raise EmbeddingsError(
            "the items repeat an item_id for several customers; expected a column 'customer' "
            "beside 'item_id'"
        )
    return np.fromiter((place[key] for key in wanted), np.int64, len(wanted))


def _require_count(found: int, expected: int) -> None:
    if found != expected:
        raise EmbeddingsError(
            f"{found:,} rows for {expected:,} items; expected one for each, in their order"
        )
