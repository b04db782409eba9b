"""The pixels of image items, decoded once for every later job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.checks import Faults
from pipeline.data.items import Items, ItemsError
from pipeline.data.readers import fault_line, set_aside
from pipeline.encoder import ImageError, decode_image


def decode_all(
    items: Items, size: int, *, source: str, rejected: Path | None = None
) -> tuple[Items, NDArray[np.uint8]]:
    """The items and their pixels (n, size, size, 3), aligned.

    Raises ``ItemsError`` for the first image that cannot be decoded, naming ``source`` and the
    row of ``items``; with ``rejected`` such rows are added to that file and left out of both.
    """
    if items.kind != "image":
        raise ItemsError(f"{source}: items hold {items.kind}; expected a column 'image'")
    pixels = np.empty((len(items), size, size, 3), np.uint8)
    faults: Faults = {}
    for row, data in enumerate(items.content):
        try:
            pixels[row] = decode_image(data, size)
        except ImageError as error:
            faults[row] = ("image", str(error))
            if rejected is None:
                raise ItemsError(fault_line(source, items, row, *faults[row])) from None
    if not faults or rejected is None:
        return items, pixels
    # The reader may have set rows aside, so these are not the row numbers of the source.
    set_aside(rejected, items.to_table(), faults, numbered=False)
    good = np.setdiff1d(np.arange(len(items)), np.fromiter(faults, np.int64))
    if good.size == 0:
        raise ItemsError(f"{source}: none of {len(items)} images can be decoded, see {rejected}")
    return items.take(good), pixels[good]
