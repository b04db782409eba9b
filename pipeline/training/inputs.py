"""What is trained on: rows of arrays that may lie on disk, read only when a batch asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_BLOCK = 512  # rows read at a time where all of them are


class Inputs(Protocol):
    """n items: (S, S, 3) uint8 pixels, (d_in,) float32 vectors, (tokens,) int64 token ids, or the
    features that a network's frozen part made of them. An array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""

    def __len__(self) -> int:
        """Number of items."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> Any:  # noqa: ANN401 - arrays are generic
        """(b, ...) the items at ``rows`` (b,), in memory."""


class Rows:
    """Some rows of an array that may lie on disk."""

    def __init__(self, array: NDArray[np.generic], rows: NDArray[np.int64]) -> None:
        """Row i of these is row ``rows[i]`` of ``array``."""
        self._array, self._rows = array, rows
        self.shape: tuple[int, ...] = (rows.size, *array.shape[1:])

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.generic]:
        """(b, ...) at ``rows`` (b,)."""
        return np.asarray(self._array[self._rows[rows]])


class Joined:
    """Arrays on disk, one after the other."""

    def __init__(self, parts: Sequence[NDArray[np.generic]]) -> None:
        """At least one part; all have the same shape but for their length."""
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.generic]:
        """(b, ...) at ``rows`` (b,)."""
        found = np.empty((len(rows), *self.shape[1:]), self._parts[0].dtype)
        part_of = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(part_of):
            mine = part_of == number
            found[mine] = self._parts[number][rows[mine] - self._starts[number]]
        return found


def blocks(inputs: Inputs) -> list[NDArray[np.int64]]:
    """The rows of ``inputs`` in order, as many at a time as are well held in memory."""
    rows = np.arange(len(inputs))
    return [rows[start : start + _BLOCK] for start in range(0, rows.size, _BLOCK)]


def kind_of(inputs: Inputs) -> str:
    """``image``, ``vector`` or ``text``: what raw ``inputs`` hold, by their shape and type."""
    if len(inputs.shape) == 4:
        return "image"
    whole = np.issubdtype(inputs[np.arange(min(1, len(inputs)))].dtype, np.integer)
    return "text" if whole else "vector"
