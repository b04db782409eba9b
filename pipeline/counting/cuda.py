"""The tile loop of ``pipeline.counting.pairs`` on a device of torch: the same counts.

A bin that the product leaves open is decided from a float64 sum on the device, and where that
leaves it open too, by the deciding distance on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.counting.binning import Ruler
from pipeline.counting.tiles import settle
from pipeline.cuda import device_named, full_precision

if TYPE_CHECKING:
    from pipeline.counting.pairs import Layout, Tile

TILE = 8192
"""Rows and columns of a tile: 256 MB of products."""

_PAIRS = 1 << 19  # float64 sums taken at a time


def negatives(
    layout: Layout, ruler: Ruler, shard: tuple[int, int], device: str, tile: int = TILE
) -> NDArray[np.int64]:
    """(U, T + 1) negative pairs of each unit by bin; the last one counts all of its pairs.

    Raises ``DeviceError`` where torch knows no such device or finds none.
    """
    place = device_named(device)
    bins = ruler.cuts.size + 1
    units = torch.from_numpy(layout.units).to(place)
    total = torch.zeros(layout.bits.size * bins, dtype=torch.int64, device=place)
    with torch.inference_mode(), full_precision():
        vectors = torch.from_numpy(layout.vectors).to(place)
        ends = torch.from_numpy(layout.ends).to(place)
        for rows, columns in layout.tiles(shard, (tile, tile)):
            i, j, found = _bins_of_tile(layout, vectors, ends, ruler, (rows, columns))
            for end in (units[i], units[j]):
                total += torch.bincount(end * bins + found, minlength=total.numel())
            _count_all(total.view(-1, bins)[:, -1], units, ends, (rows, columns))
    return np.asarray(total.view(-1, bins).cpu().numpy())


def _bins_of_tile(
    layout: Layout, vectors: Tensor, ends: Tensor, ruler: Ruler, tile: Tile
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and bins of the negative pairs of a tile that lie within the grid."""
    rows, columns = tile
    products = vectors[rows] @ vectors[columns].T
    later = torch.arange(columns.start, columns.stop, device=vectors.device) >= ends[rows, None]
    near = (products >= float(ruler.limit)) & later
    i, j = near.nonzero(as_tuple=True)
    value = products[i, j].double()
    i, j = i + rows.start, j + columns.start
    bins, sure = _bins(value, ruler, ruler.error)
    unsure = (~sure).nonzero()[:, 0]
    for start in range(0, unsure.numel(), _PAIRS):
        some = unsure[start : start + _PAIRS]
        sums = (vectors[i[some]].double() * vectors[j[some]].double()).sum(dim=1)
        bins[some], certain = _bins(sums, ruler, ruler.fine_error)
        open_ = some[~certain]
        if open_.numel():
            bins[open_] = _on_the_cpu(layout, i[open_], j[open_], ruler)
    within = bins < ruler.cuts.size
    return i[within], j[within], bins[within]


def _bins(values: Tensor, ruler: Ruler, error: float) -> tuple[Tensor, Tensor]:
    """Bin of each sum, and whether it is the same wherever within ``error`` the sum lies."""
    falling = torch.from_numpy(-ruler.cuts).to(values.device)
    least = torch.searchsorted(falling, -(values + error))
    return least, least == torch.searchsorted(falling, -(values - error))


def _on_the_cpu(layout: Layout, i: Tensor, j: Tensor, ruler: Ruler) -> Tensor:
    rows, columns = (end.cpu().numpy().astype(np.uint32) for end in (i, j))
    bins = np.full(len(rows), -1, np.int32)
    vectors = (layout.vectors, layout.vectors)
    settle(vectors, rows, columns, bins, (ruler.cuts, ruler.fine_error))
    return torch.from_numpy(bins.astype(np.int64)).to(i.device)


def _count_all(out: Tensor, units: Tensor, ends: Tensor, tile: Tile) -> None:
    """Add to ``out`` (U,) all negative pairs of a tile at both ends, near or far."""
    rows, columns = tile
    starts = ends[rows].clamp(min=columns.start)
    out.index_add_(0, units[rows], (columns.stop - starts).clamp(min=0))
    places = torch.arange(columns.start, columns.stop, device=out.device)
    out.index_add_(0, units[columns], torch.searchsorted(starts, places, right=True))
