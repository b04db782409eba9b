"""The bytes of an image into pixels, for training and serving alike.

Images come from anywhere: turned by the camera, transparent, cut off, hostile. What comes out is
a square of red, green and blue, or one clear line.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = NDArray[np.uint8]
"""uint8 red, green, blue in the last axis."""

FITS = ("pad", "crop")
"""How an image that is no square becomes one."""

MAX_PIXELS = 64_000_000
"""Largest width x height that is decoded: a few bytes may claim gigabytes."""

# Formats whose decoders run on hostile bytes every day; EPS, for one, would start a program.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

# What Pillow raises on malformed bytes, besides its own errors.
_MALFORMED = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError,
    OverflowError, ZeroDivisionError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


class ImageError(ValueError):
    """Bytes that are no usable image; the message is one line without the item's name."""


def decode_image(data: bytes, size: int, fit: str = "pad") -> Pixels:
    """(size, size, 3) uint8 pixels of an encoded image.

    The camera's orientation is applied, transparency is laid over white, and the image keeps
    its proportions (bicubic, antialiased). ``fit`` ``pad``: the longer side becomes ``size``, the
    rest is white; ``crop``: the shorter side does, and the central square is kept. Raises
    ``ImageError`` where the bytes are no image of a known format, are cut off, or claim more
    than ``MAX_PIXELS``.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ImageError(
                    f"image of {opened.width} x {opened.height} pixels; "
                    f"expected at most {MAX_PIXELS} in all: make it smaller"
                )
            opaque = _over_white(ImageOps.exif_transpose(opened))
    except ImageError:
        raise
    except _MALFORMED as error:
        raise ImageError(
            f"undecodable image ({len(data)} bytes, {type(error).__name__}); "
            f"expected a whole file of {', '.join(_FORMATS)}"
        ) from error
    return _cropped(opaque, size) if fit == "crop" else _padded(opaque, size)


def _over_white(image: Image.Image) -> Image.Image:
    """The image as opaque RGB."""
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey at 255 when it converts; keep the upper byte instead.
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError(f"image with {image.mode} pixels; expected 8 or 16 bits a channel")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def _padded(image: Image.Image, size: int) -> Pixels:
    longest = max(image.size)
    width, height = (max(1, round(side * size / longest)) for side in image.size)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = np.asarray(scaled)
    return canvas


def _cropped(image: Image.Image, size: int) -> Pixels:
    # Only the kept square is scaled: of a thin image the whole could be gigabytes. Places are
    # those of scaling first and cutting then, rounded as torchvision's Resize and CenterCrop do.
    shortest = min(image.size)
    kept = []
    for side in image.size:
        scaled = size * side // shortest
        start = round((scaled - size) / 2)
        kept.append((start * side / scaled, min((start + size) * side / scaled, side)))
    (left, right), (top, bottom) = kept
    return np.asarray(
        image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    )
