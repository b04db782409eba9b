"""What a growing gallery costs: queries a second, seconds to build, memory; plotted.

    .venv/bin/python -m benchmarks.search.growth --folder F     # 10 k to 10 M: an hour, 15 GB
    .venv/bin/python -m benchmarks.search.growth --folder F --sizes 10000,100000 --plot growth.svg

Limen alone, an index of kind ``ivf``: one byte a coordinate in lists, exact distances from the
memory-mapped gallery. The items of ``benchmarks.search``, written block by block. Every size
keeps its own folder, and what is there is not made again. As there: one thread, seconds of the
processor, .999 of all matches.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.search.data import QUERIES, prepare, world
from benchmarks.search.worker import built, scored
from pipeline.reports.plots_style import STYLE, line, to_svg

SIZES = "10000,100000,1000000,10000000"
_DIMENSION = 128
_FLOAT32 = 4 * _DIMENSION
_MIB = 2**20
_PANELS: Mapping[str, Mapping[str, str]] = {
    "queries a second": {"queries_s_1": "alone", "queries_s_32": "in batches of 32"},
    "seconds to build": {"build_s": "all, calibration included"},
    "memory, MiB": {
        "index_mib": "index, anonymous", "gallery_mib": "ids, anonymous",
        "codes_mib": "codes, mapped", "vectors_mib": "gallery, mapped",
    },
}  # fmt: skip
"""Title of each panel to the facts in it and their names."""


def measured(folder: Path, size: int) -> dict[str, Any]:
    """All facts of one size, whose data and index ``folder`` keeps or gets."""
    if not (folder / "truth.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        raw = folder / "world.npy"
        prepare(world(size + 2 * QUERIES, _DIMENSION, raw), folder)
        raw.unlink()
    one = built(folder, "ivf") | scored(folder, "ivf")
    whole = size * _FLOAT32 / _MIB
    one |= {"items": size, "index_mib": one["memory"] * whole, "codes_mib": one["mapped"] * whole,
            "gallery_mib": one["ids"] * whole, "vectors_mib": whole}  # fmt: skip
    return one


def show(one: Mapping[str, Any]) -> None:
    """One line of a size."""
    print(
        f"| {one['items']:,} | {one['share']:.4f} | {one['queries_s_1']:,.0f} |"
        f" {one['queries_s_32']:,.0f} | {one['build_s']:,.1f} | {one['index_mib']:,.0f} |"
        f" {one['gallery_mib']:,.0f} | {one['codes_mib']:,.0f} | {one['vectors_mib']:,.0f} |"
        f" {one['effort']['lists']:,} | {one['effort']['probes']:.1f} |",
        flush=True,
    )


def counted(value: float) -> str:
    """A power of ten in few signs: 0.1, 100, 10 k, 1 M."""
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def figure_of(sizes: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel each for speed, build and memory, against the number of items."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.6))
        axes: Sequence[Axes] = figure.subplots(1, len(_PANELS))
        for axis, (title, facts) in zip(axes, _PANELS.items(), strict=True):
            for style, (key, label) in enumerate(facts.items()):
                drawn = line(style, [one["items"] for one in sizes], [one[key] for one in sizes])
                drawn.set(label=label, marker="o", markersize=4)
                axis.add_line(drawn)
            speed = "queries" in title  # within a decade; the others span several
            axis.set(xscale="log", yscale="linear" if speed else "log", title=title, xlabel="items")
            axis.autoscale_view()
            if speed:
                axis.set_ylim(bottom=0)
            axis.grid(visible=True)
            for scale in (axis.xaxis, axis.yaxis):
                scale.set_major_formatter(FuncFormatter(lambda value, _: counted(value)))
                scale.set_minor_formatter(NullFormatter())
            axis.legend(fontsize=8)
        figure.tight_layout()
        return figure


def main() -> None:
    """Measure each size, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sizes", default=SIZES, help="with commas between")
    parser.add_argument("--plot", type=Path, help="an SVG file to write")
    args = parser.parse_args()
    print("| items | share | /s alone | /s in 32s | build s | index MiB | ids MiB | codes MiB"
          " (mapped) | gallery MiB (mapped) | lists | probes |\n|" + " --- |" * 11)  # fmt: skip
    sizes = []
    for size in map(int, args.sizes.split(",")):
        sizes.append(measured(args.folder / str(size), size))
        show(sizes[-1])
    if args.plot:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        args.plot.write_bytes(to_svg(figure_of(sizes)))


if __name__ == "__main__":
    main()
