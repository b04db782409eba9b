"""Embeddings of the free UI icons of ``@iconify/json``, for ``benchmarks.search --vectors``.

    npm pack @iconify/json@2.2.535          # and unpack it; then, ten minutes on one core:
    .venv/bin/python -m benchmarks.search.icons package runs/RUN/tcm.onnx icons.npy

All icons of all sets in the categories below whose licence is a free one: rendered at their final
size, a third of the time that the softer edges of ``jobs/datasets/icons.parquet`` take, embedded
by an exported image model, in random order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import resvg_py
from numpy.typing import NDArray

from jobs.datasets.build_icons import LICENCES, read_set
from jobs.datasets.drawing import SIDE, over_white
from pipeline.encoding.encoder import Encoder

CATEGORIES = ("Material", "UI ")
"""How the categories of sets of user interface icons begin."""
_AT_ONCE = 4096


def prefixes(package: Path) -> list[str]:
    """The sets, in the order of their names."""
    about = json.loads((package / "collections.json").read_text(encoding="utf-8"))
    return [
        prefix for prefix, one in sorted(about.items())
        if one["license"].get("spdx") in LICENCES
        and str(one.get("category")).startswith(CATEGORIES)
    ]  # fmt: skip


def drawings(package: Path) -> Iterator[NDArray[np.uint8]]:
    """(48, 48, 3) pixels of every icon; a drawing that cannot be rendered is left out."""
    for prefix in prefixes(package):
        icons = read_set(package, prefix)
        for name in sorted(icons.words):
            try:
                data = resvg_py.svg_to_bytes(svg_string=icons.svg(name), width=SIDE, height=SIDE,
                                             skip_system_fonts=True)  # fmt: skip
            except ValueError as error:
                print(f"{prefix}/{name}: left out: {error}", flush=True)
                continue
            yield np.asarray(over_white(bytes(data)))


def main() -> None:
    """Render and embed part by part, write the array, print how many there are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    encoder = Encoder(args.model)
    if encoder.image_size != SIDE:
        parser.error(f"{args.model}: takes {encoder.kind}s of side {encoder.image_size};"
                     f" expected images of side {SIDE}")  # fmt: skip
    rows, waiting = [], []
    for pixels in drawings(args.package):
        waiting.append(pixels)
        if len(waiting) == _AT_ONCE:
            rows.append(encoder.embed(np.stack(waiting)))
            waiting.clear()
    if waiting:
        rows.append(encoder.embed(np.stack(waiting)))
    vectors = np.concatenate(rows)
    np.save(args.out, vectors[np.random.default_rng(0).permutation(len(vectors))])
    print(f"{args.out}: {len(vectors):,} icons of {len(prefixes(args.package))} sets, "
          f"{encoder.dimension} dimensions")  # fmt: skip


if __name__ == "__main__":
    main()
