"""Images in a terminal that can show them, by the protocol of kitty, of iTerm2, or sixel.

Which one is read from the environment, never asked of the terminal: an answer that does not come
would be waited for. Elsewhere, and in a file or a pipe, there is no picture.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.decoding import ImageError, Pixels, decode_image

SIDE = 96
"""Pixels of a side of one image on the sheet."""

_MARGIN = 8
_ROWS = 5  # lines of text that a sheet is as high as
_KITTY_CHUNK = 4096
_BAND = 6  # lines of pixels that a line of sixels holds


def protocol_of(environ: Mapping[str, str], *, to_terminal: bool) -> str | None:
    """``kitty``, ``iterm`` or ``sixel``; None where pictures cannot be shown."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if not to_terminal or term.startswith(("screen", "tmux", "dumb")) or "TMUX" in environ:
        return None
    if term == "xterm-kitty" or "KITTY_WINDOW_ID" in environ or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    if term.startswith(("foot", "mlterm", "yaft", "contour")) or "sixel" in term:
        return "sixel"
    return None


def sheet(images: Sequence[bytes]) -> Pixels | None:
    """(SIDE, w, 3) pixels: the images side by side; None where none can be decoded."""
    tiles: list[NDArray[np.uint8]] = []
    for data in images:
        try:
            tile = decode_image(data, SIDE)
        except ImageError:
            continue
        tiles += [tile, np.full((SIDE, _MARGIN, 3), 255, np.uint8)]
    return np.concatenate(tiles[:-1], axis=1) if tiles else None


def escape_of(pixels: Pixels, protocol: str) -> str:
    """What a terminal of that ``protocol`` shows as the picture (h, w, 3), some lines high."""
    if protocol == "sixel":
        return _sixel(pixels)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    if protocol == "iterm":
        return f"\x1b]1337;File=inline=1;height={_ROWS};preserveAspectRatio=1:{data}\x07"
    return "".join(_kitty(data))


def _kitty(data: str) -> Iterator[str]:
    """PNG (f=100) transmitted and shown (a=T) in pieces, all but the last marked m=1."""
    for start in range(0, len(data), _KITTY_CHUNK):
        head = f"a=T,f=100,r={_ROWS}," if start == 0 else ""
        more = int(start + _KITTY_CHUNK < len(data))
        yield f"\x1b_G{head}m={more};{data[start : start + _KITTY_CHUNK]}\x1b\\"


def _sixel(pixels: Pixels) -> str:
    """Bands of six lines; in each, every colour draws its own pixels over the same band.

    DEC STD 070, chapter 9: a character is 63 plus six bits, the topmost pixel lowest; ``$`` goes
    back to the left edge, ``-`` on to the next band, colours are in per cent.
    """
    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels).quantize(64)
    colours = np.asarray(picture.getpalette()).reshape(-1, 3) * 100 // 255
    places = np.zeros((-(-height // _BAND) * _BAND, width), np.int64) - 1
    places[:height] = np.asarray(picture)
    parts = [f"\x1bPq\"1;1;{width};{height}"]
    parts += [f"#{i};2;{r};{g};{b}" for i, (r, g, b) in enumerate(colours.tolist())]
    weights = 1 << np.arange(_BAND)[:, None]
    for top in range(0, len(places), _BAND):
        band = places[top : top + _BAND]
        for colour in np.unique(band[band >= 0]).tolist():
            bits = ((band == colour) * weights).sum(axis=0)
            parts.append(f"#{colour}{bytes((63 + bits).astype(np.uint8)).decode()}$")
        parts.append("-")
    return "".join(parts) + "\x1b\\"
