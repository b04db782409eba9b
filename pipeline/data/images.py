"""The pixels of image items, decoded once for every later job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.checks import Faults
from pipeline.data.decoding import ImageError, decode_image
from pipeline.data.items import Items, ItemsError
from pipeline.data.readers import fault_line, set_aside
from pipeline.durable import partial_of, sync
from pipeline.threads import cores, on_threads

_PART = 64
"""Images that a thread decodes at a time."""


def encoded_image(content: bytes | str) -> bytes:
    """The bytes of an image: themselves, or those of the file at a path.

    Raises ``ImageError`` where there is no such file.
    """
    if isinstance(content, bytes):
        return content
    try:
        return Path(content).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {content!r} ({error.strerror}); expected a file") from None


def decode_all(
    items: Items, size: int, *, source: str, fit: str = "pad", rejected: Path | None = None,
    into: Path | None = None,
) -> tuple[Items, NDArray[np.uint8]]:  # fmt: skip
    """The items and their pixels (n, size, size, 3), aligned; decoded on all cores.

    ``fit``: as for ``decode_image``. The pixels are in memory or, with ``into``, in the ``.npy``
    file of that name, which is there whole or not at all. Raises ``ItemsError`` for the first
    image that cannot be decoded, naming ``source`` and the row of ``items``; with ``rejected``
    such rows are added to that file and left out of both.
    """
    if items.kind != "image":
        raise ItemsError(f"{source}: items hold {items.kind}; expected a column 'image'")
    shape = (len(items), size, size, 3)
    if into is None:
        pixels = np.empty(shape, np.uint8)
        kept = _decode(items, pixels, fit, source, rejected)
        return kept, pixels[: len(kept)]
    partial = partial_of(into)
    try:
        pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        kept = _decode(items, pixels, fit, source, rejected)
        pixels.flush()
        _close(pixels, partial, len(kept))
        partial.replace(into)
    finally:
        partial.unlink(missing_ok=True)
    stored: NDArray[np.uint8] = np.load(into, mmap_mode="r")
    return kept, stored


def _decode(
    items: Items, pixels: NDArray[np.uint8], fit: str, source: str, rejected: Path | None
) -> Items:
    """Decode into the first rows of ``pixels``; the items that these are of."""
    faults = _decode_rows(items, pixels, fit, every=rejected is not None)
    if not faults:
        return items
    if rejected is None:
        row = min(faults)
        raise ItemsError(fault_line(source, items, row, *faults[row]))
    # The reader may have set rows aside, so these are not the row numbers of the source.
    set_aside(rejected, items.to_table(), faults, numbered=False)
    good = np.setdiff1d(np.arange(len(items)), np.fromiter(faults, np.int64))
    if good.size == 0:
        raise ItemsError(f"{source}: none of {len(items)} images can be decoded, see {rejected}")
    for place, row in enumerate(good):
        pixels[place] = pixels[row]
    return items.take(good)


def _decode_rows(items: Items, pixels: NDArray[np.uint8], fit: str, *, every: bool) -> Faults:
    """Decode each item into its row; what is wrong with ``every`` bad row, or with the first."""
    faults: Faults = {}

    def decode(row: int) -> None:
        try:
            pixels[row] = decode_image(encoded_image(items.content[row]), pixels.shape[1], fit)
        except ImageError as error:
            faults[row] = ("image", str(error))

    def work(take: Callable[[], range | None]) -> None:
        # Parts are taken in order: whoever has an earlier one than a fault's goes on to its end.
        while (every or not faults) and (part := take()) is not None:
            for row in part:
                decode(row)

    parts = [range(at, min(at + _PART, len(items))) for at in range(0, len(items), _PART)]
    on_threads(work, parts, cores())
    return faults


def _close(pixels: NDArray[np.uint8], partial: Path, rows: int) -> None:
    """Make ``partial`` the file of the first ``rows`` of its array, safe on disk."""
    if rows < len(pixels):
        with partial.open("r+b") as file:
            # numpy leaves room in a header for any length of the first axis.
            header = np.lib.format.header_data_from_array_1_0(pixels[:rows])
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + pixels[:rows].nbytes)
    sync(partial)
