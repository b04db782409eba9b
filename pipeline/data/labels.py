"""The names of items without their content: for whoever embedded them elsewhere.

The same tables as ``readers.py`` takes, but only ``label`` has to be there, and no image is read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.canonical import canonical_json
from pipeline.data.checks import NAME_COLUMNS, check_names
from pipeline.data.items import Items, ItemsError, Strings
from pipeline.data.readers import read_table


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """n items by name; the columns of ``Items`` without content and metadata."""

    item_id: Strings
    label: Strings
    customer: Strings
    role: Strings
    split: Strings

    def __len__(self) -> int:
        """Number of items."""
        return len(self.item_id)

    def digest(self) -> str:
        """sha256 over the columns and the order of the rows, whatever file they came from."""
        columns = {name: getattr(self, name).tolist() for name in NAME_COLUMNS}
        return hashlib.sha256(canonical_json(columns)).hexdigest()

    def with_vectors(self, vectors: NDArray[np.float32]) -> Items:
        """The items with ``vectors`` (n, d) as their content."""
        columns = {name: getattr(self, name) for name in NAME_COLUMNS}
        return Items(**columns, kind="vector", content=vectors, metadata=pa.table({}))


def read_labels(path: Path) -> Labels:
    """The names in a table or a folder of images.

    Raises ``ItemsError`` with one line that names file, row and column of the first bad row.
    """
    try:
        names, faults = check_names(read_table(path, NAME_COLUMNS)[0])
    except ItemsError as error:
        raise ItemsError(f"{path}: {error}") from None
    for row in sorted(faults)[:1]:
        column, reason = faults[row]
        raise ItemsError(
            f"{path}: row {row} (item {names['item_id'][row]!r}), column {column!r}: {reason}"
        )
    return Labels(**names)
