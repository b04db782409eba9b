"""Items through exported encoders, part by part: the pixels of all items never lie in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.items import Items, ItemsError
from pipeline.data.readers import fault_line
from pipeline.distance import Vectors
from pipeline.encoder import Encoder, EncoderError, ImageError

PART = 2048
"""Items that are decoded at a time."""


def require_inputs(
    encoder: Encoder, items: Items, source: str, named: str,
    remedy: str = "give it items of that kind",
) -> None:  # fmt: skip
    """``ItemsError`` naming ``source`` where the ``encoder``, ``named`` so, takes others."""
    taken, given = encoder.kind, items.kind
    if given == taken == "vector":
        taken = f"vectors of {encoder.input_dimension} numbers"
        given = f"vectors of {items.content.shape[1]} numbers"
    if given != taken:
        raise ItemsError(
            f"{source}: the items hold {given}, {named} takes {taken}; {remedy}"
        )


def embed_items(encoders: Sequence[Encoder], items: Items, source: str) -> Iterator[list[Vectors]]:
    """For each part of the items, their embeddings (p, d) under each encoder.

    Each image is decoded once for every size that an encoder asks for. Raises ``ItemsError``
    naming the row of ``source`` for an image that cannot be decoded, and for an item that has no
    embedding.
    """
    for start in range(0, len(items), PART):
        rows = np.arange(start, min(start + PART, len(items)))
        inputs: dict[int | None, NDArray[np.generic]] = {}
        part = []
        for encoder in encoders:
            size = encoder.image_size
            if size not in inputs:
                inputs[size] = _inputs(encoder, items, rows, source)
            try:
                part.append(encoder.embed(inputs[size]))
            except EncoderError as error:
                raise ItemsError(f"{source}, rows counted from {start}: {error}") from None
        yield part


def _inputs(
    encoder: Encoder, items: Items, rows: NDArray[np.int64], source: str
) -> NDArray[np.generic]:
    """What the encoder takes, aligned with ``rows``."""
    if encoder.image_size is None:
        return np.asarray(items.content[rows], np.float32)
    pixels = np.empty((rows.size, encoder.image_size, encoder.image_size, 3), np.uint8)
    for place, row in enumerate(rows):
        try:
            pixels[place] = encoder.decode(items.content[row])
        except ImageError as error:
            raise ItemsError(fault_line(source, items, int(row), "image", str(error))) from None
    return pixels
