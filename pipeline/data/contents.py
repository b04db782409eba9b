"""From a raw column to checked content: encoded images, texts, vectors.

Each function returns n values and the faults by row; a faulty row's value is meaningless.
Images are read here, never decoded.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.items import ItemsError, Strings, strings_of

Reasons = dict[int, str]
"""Why a row is bad and what is expected, by row number."""


def read_images(
    column: pa.ChunkedArray, folder: Path, *, on_disk: bool
) -> tuple[Strings, Reasons]:
    """(n,) bytes of a column of bytes, or of paths relative to ``folder``.

    ``on_disk``: of a column of paths, the paths of files that are there, ``folder`` included.
    """
    if not (_is_text(column.type) or _is_binary(column.type)):
        raise ItemsError(f"column 'image': expected file paths or bytes, got {column.type}")
    values, reasons = strings_of(column), Reasons()
    for row, value in enumerate(values):
        if not value:
            reasons[row] = "no image; expected a file path or the bytes of an image"
        elif isinstance(value, str):
            try:
                file = folder / value
                values[row] = _present(file) if on_disk else file.read_bytes()
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or str(error)
                reasons[row] = f"cannot read {value!r} ({why}); expected a file below {folder}"
    return values, reasons


def _present(file: Path) -> str:
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("not a file")
    return str(file)


def read_texts(column: pa.ChunkedArray) -> tuple[Strings, Reasons]:
    """(n,) str of a column of strings."""
    if not _is_text(column.type):
        raise ItemsError(f"column 'text': expected strings, got {column.type}")
    values = strings_of(column)
    reasons = {
        row: "no text; expected at least one character that is no space"
        for row, value in enumerate(values) if value is None or not value.strip()
    }
    return values, reasons


def read_vectors(column: pa.ChunkedArray) -> tuple[NDArray[np.float32], Reasons]:
    """(n, d) float32 of a column of lists; d is the length that most rows have."""
    if _is_text(column.type):
        column, reasons = _parse_lists(column)
    else:
        column, reasons = column.combine_chunks(), Reasons()
    is_list = any(
        kind(column.type)
        for kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    )
    if not is_list or not _is_number(column.type.value_type):
        raise ItemsError(f"column 'vector': expected lists of numbers, got {column.type}")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    given = lengths[lengths > 0]
    dimension = int(np.bincount(given).argmax()) if given.size else 1
    usable = np.flatnonzero(lengths == dimension)
    vectors = np.zeros((len(column), dimension), np.float32)
    flat = column.take(pa.array(usable)).flatten()
    numbers = pc.fill_null(flat.cast(pa.float64(), safe=False), np.nan)
    # A float64 beyond float32 becomes infinite, and is refused below like any other infinity.
    with np.errstate(over="ignore", under="ignore"):
        vectors[usable] = numbers.to_numpy(zero_copy_only=False).reshape(-1, dimension)
    return vectors, _vector_faults(vectors, lengths) | reasons


def _vector_faults(vectors: NDArray[np.float32], lengths: NDArray[np.int64]) -> Reasons:
    """Rows of ``vectors`` (n, d) that are no direction, or had another length than d."""
    expected = f"expected {vectors.shape[1]} finite numbers, not all zero"
    reasons = {
        int(row): f"vector holds NaN or infinity; {expected}"
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    }
    reasons |= {
        int(row): f"vector is zero; {expected}"
        for row in np.flatnonzero(~vectors.any(axis=1))
    }
    for row in np.flatnonzero(lengths != vectors.shape[1]):
        what = f"vector of {lengths[row]} numbers" if lengths[row] else "no vector"
        reasons[int(row)] = f"{what}; {expected}, as in most rows"
    return reasons


def _parse_lists(column: pa.ChunkedArray) -> tuple[pa.Array, Reasons]:
    """Lists of numbers written as JSON, as in CSV files."""
    reasons = Reasons()
    lists: list[list[float] | None] = []
    for row, text in enumerate(column.to_pylist()):
        try:
            value = np.asarray(json.loads(text or "[]"), np.float64)
            if value.ndim != 1:
                raise ValueError("no flat list")
            lists.append(value.tolist())
        except (ValueError, TypeError, OverflowError, RecursionError):
            lists.append(None)
            reasons[row] = "not a vector; expected JSON such as [0.1, -0.2]"
    return pa.array(lists, pa.list_(pa.float64())), reasons


def _is_text(arrow: pa.DataType) -> bool:
    if pa.types.is_dictionary(arrow):
        return _is_text(arrow.value_type)
    # A column without a single value has type null: every row of it is then refused by name.
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    return any(kind(arrow) for kind in kinds)


def _is_binary(arrow: pa.DataType) -> bool:
    return bool(pa.types.is_binary(arrow) or pa.types.is_large_binary(arrow))


def _is_number(arrow: pa.DataType) -> bool:
    return bool(pa.types.is_floating(arrow) or pa.types.is_integer(arrow))
