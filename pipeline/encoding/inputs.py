"""Items through exported encoders, part by part: the pixels of all items never lie in memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.images import encoded_image
from pipeline.data.items import Items, ItemsError
from pipeline.data.readers import fault_line
from pipeline.data.tokeniser import TextError
from pipeline.distance import Vectors
from pipeline.encoding.encoder import Encoder, EncoderError, ImageError

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

    Encoders that prepare items alike share what is prepared. Raises ``ItemsError`` naming the row
    of ``source`` for an image that cannot be decoded, a text that cannot be read, and an item
    that has no embedding.
    """
    for start in range(0, len(items), PART):
        rows = np.arange(start, min(start + PART, len(items)))
        inputs: dict[Hashable, NDArray[np.generic]] = {}
        part = []
        for encoder in encoders:
            way = encoder.preparation
            if way not in inputs:
                inputs[way] = _inputs(encoder, items, rows, source)
            try:
                part.append(encoder.embed(inputs[way]))
            except EncoderError as error:
                raise ItemsError(f"{source}, rows counted from {start}: {error}") from None
        yield part


def _inputs(
    encoder: Encoder, items: Items, rows: NDArray[np.int64], source: str
) -> NDArray[np.generic]:
    """What the encoder takes, aligned with ``rows``."""
    if encoder.tokens is not None:
        try:
            return encoder.tokenise(items.content[rows].tolist())
        except TextError as error:
            row = int(rows[error.place])
            raise ItemsError(fault_line(source, items, row, "text", error.reason)) from None
    if encoder.image_size is None:
        return np.asarray(items.content[rows], np.float32)
    pixels = np.empty((rows.size, encoder.image_size, encoder.image_size, 3), np.uint8)
    for place, row in enumerate(rows):
        try:
            pixels[place] = encoder.decode(encoded_image(items.content[row]))
        except ImageError as error:
            raise ItemsError(fault_line(source, items, int(row), "image", str(error))) from None
    return pixels
