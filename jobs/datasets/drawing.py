"""From a drawing to the small picture over white that an items table holds, and the table's file.

Vector drawings are rendered at twice the size and then reduced like bitmaps, so that all edges
are equally soft. The same drawing and library versions give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from PIL import Image

SIDE = 48
"""Pixels of a picture in each direction."""


def rendered(svg: str) -> bytes:
    """The drawing as PNG, twice the final size, transparent where nothing is drawn."""
    data = resvg_py.svg_to_bytes(
        svg_string=svg, width=2 * SIDE, height=2 * SIDE, skip_system_fonts=True
    )
    return bytes(data)


def over_white(data: bytes) -> Image.Image:
    """The encoded image ``data`` over white, RGB, ``SIDE`` pixels in each direction."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, image).convert("RGB")
    return flat.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def build_table(
    build: Callable[[Path], pa.Table],
    arguments: list[str] | None,
    *,
    file: Path,
    repeated: Sequence[str],
) -> None:
    """Read the command line of a table's script, build the table, print its path and counts.

    ``file``: where it goes unless ``--out`` says otherwise; ``repeated``: columns of few values.
    Packages that are not there end the script with one line.
    """
    parser = argparse.ArgumentParser(description=f"Build {file.name}, an items table.")
    parser.add_argument("packages", type=Path, help="folder with the unpacked npm packages")
    parser.add_argument("--out", type=Path, default=file)
    options = parser.parse_args(arguments)
    try:
        table = build(options.packages)
    except FileNotFoundError as error:
        sys.exit(f"{error.filename}: not there; expected the npm packages that build_{file.stem}.py"
                 " names at its head, unpacked")
    pq.write_table(table, options.out, compression="zstd", use_dictionary=list(repeated))
    classes = len(set(table["label"].to_pylist()))
    print(f"{options.out}: {table.num_rows} images of {classes} classes, "
          f"{options.out.stat().st_size / 1e6:.1f} MB")
