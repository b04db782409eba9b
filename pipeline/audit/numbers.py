"""Permanent random numbers: each row keeps the same one through every audit.

A sample is the rows with the smallest numbers of each stratum. The number depends on nothing but
the row's key and a seed that never changes, so that each sample is a simple random one; and the
next audit, however its sets and strata lie, draws rows that are labelled already wherever it can.
Ohlsson, "Coordination of samples using permanent random numbers", 1995.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def of_texts(keys: pa.Array, seed: int) -> Numbers:
    """(m,) numbers in (0, 1) of rows by their ``keys``, texts; the same for the same key."""
    texts = pa.array(keys, pa.large_string()) if keys.type != pa.large_string() else keys
    _, ends, data = texts.buffers()
    offsets = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    letters = np.frombuffer(data or b"", np.uint8)
    return _uniform(_text_hashes(letters, offsets, np.uint64(seed)))


def of_rows(first: int, count: int, seed: int) -> Numbers:
    """(count,) numbers in (0, 1) of the rows ``first``, ``first + 1``, ... of a table."""
    places = np.arange(first, first + count, dtype=np.uint64)
    return _uniform(_row_hashes(places, np.uint64(seed)))


def _uniform(hashes: NDArray[np.uint64]) -> Numbers:
    """The upper 53 bits, moved off 0 by half a step."""
    return np.asarray(((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


@numba.njit(cache=True, nogil=True)
def _mixed(value: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _text_hashes(
    letters: NDArray[np.uint8], ends: NDArray[np.int64], seed: np.uint64
) -> NDArray[np.uint64]:
    """FNV-1a of each text's bytes, mixed with the seed before and after."""
    start = _mixed(seed + np.uint64(0x9E3779B97F4A7C15))
    hashes = np.empty(ends.size - 1, np.uint64)
    for row in range(hashes.size):
        value = start ^ np.uint64(0xCBF29CE484222325)
        for place in range(ends[row], ends[row + 1]):
            value = (value ^ np.uint64(letters[place])) * np.uint64(0x100000001B3)
        hashes[row] = _mixed(value ^ start)
    return hashes


@numba.njit(cache=True, nogil=True)
def _row_hashes(places: NDArray[np.uint64], seed: np.uint64) -> NDArray[np.uint64]:
    start = _mixed(seed + np.uint64(0x9E3779B97F4A7C15))
    hashes = np.empty(places.size, np.uint64)
    for row in range(places.size):
        hashes[row] = _mixed(start + (places[row] + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    return hashes
