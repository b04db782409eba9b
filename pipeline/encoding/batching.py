"""How many rows a model takes at once, so that no bit of a row depends on its neighbours.

Whoever multiplies matrices chooses the order of a sum by their shapes. Found with ONNX Runtime on
CPUs: a convolutional network gives equal bits in every batch, a transformer equal bits in every
batch from two rows on and others for a row alone, since a product with a single row is computed
another way. So a lone row is doubled where that makes it equal; where nothing does, every row is
embedded alone. No decision rests on the size of an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.distance import Vectors

if TYPE_CHECKING:  # the encoder itself asks this module
    from pipeline.encoding.encoder import Encoder

LARGEST = 32
"""Rows at once at most: every size up to it is tried when a release is built."""

_SAFETY = 4.0
_ROUNDING = 2.0**-23  # two distances below 2, each rounded to float32 by at most 2**-24


@dataclass(frozen=True, slots=True)
class Batching:
    """What was found out about the batches of one model."""

    at_least: int
    """Rows of a run at least; a shorter one is filled up with copies of its last row."""
    at_once: int
    """Rows of a run at most."""
    band: float | None
    """How far a deciding distance moves at most between a row alone and a row in a batch: 0.0 if
    every bit is equal, None if it was not measured."""

    def facts(self) -> dict[str, str]:
        """For the metadata of the model; ``read`` takes it from there."""
        return {"batch_at_least": str(self.at_least), "batch_at_once": str(self.at_once),
                "batch_band": repr(self.band)}

    def joined(self, other: Batching) -> Batching:
        """What is right in the eyes of both."""
        if self.at_once == 1 or other.at_once == 1:
            return Batching(1, 1, self.band)
        return Batching(max(self.at_least, other.at_least), self.at_once, self.band)


UNKNOWN = Batching(1, 1, None)
"""Of a model whose build measured nothing: every row alone."""


def read(facts: Mapping[str, str]) -> Batching:
    """Of a model with this metadata; ``ValueError`` where a number is none."""
    if "batch_band" not in facts:
        return UNKNOWN
    return Batching(int(facts["batch_at_least"]), int(facts["batch_at_once"]),
                    float(facts["batch_band"]))


def probe(
    encoder: Encoder, inputs: NDArray[np.generic], sizes: Iterable[int] = range(2, LARGEST + 1)
) -> Batching:
    """Embed ``inputs`` (n, ...) alone and in batches of the ``sizes``, and compare every bit.

    The band: a row that moves by a vector of length r moves its distance to a unit vector by at
    most r (Cauchy-Schwarz). It is the largest r found, times 4, plus the rounding of distances:
    the inputs are a sample, and even the largest of 1e9 normal errors is less than twice the
    largest of 1e3.
    """
    alone = encoder.embed(inputs, at_once=1)
    runs = [encoder.embed(inputs, at_once=size, at_least=2) for size in sizes]
    moved = max((_largest_move(rows, alone) for rows in runs), default=0.0)
    if moved == 0.0:
        return Batching(1, LARGEST, 0.0)
    band = _SAFETY * moved + _ROUNDING
    if all(np.array_equal(rows, runs[0]) for rows in runs):
        return Batching(2, LARGEST, band)
    return Batching(1, 1, band)


def _largest_move(rows: Vectors, others: Vectors) -> float:
    shift = rows.astype(np.float64) - others
    return float(np.sqrt(np.square(shift).sum(axis=1).max(initial=0.0)))
