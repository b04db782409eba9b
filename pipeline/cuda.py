"""Products of many pairs on a device of torch, in float32 (TF32 off).

The tile loop of ``pipeline.pairs``: the same counts, pair for pair. A bin that the product leaves
open is decided from a float64 sum on the device, and where that leaves it open too, by the
deciding distance on the CPU. And complete threshold search: every row that by its product may be
a match, or the nearest that is none, is left to the deciding distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import distance
from pipeline.binning import Ruler
from pipeline.distance import Vectors
from pipeline.tiles import settle

if TYPE_CHECKING:
    from pipeline.pairs import Layout, Tile

TILE = 8192
"""Rows and columns of a tile: 256 MB of products."""

_PAIRS = 1 << 19  # float64 sums taken at a time
_PRODUCTS = 1 << 28  # of queries and rows held at a time: 1 GB
_ROUNDING = 2.0**-21  # above that of the limits and of the deciding distance to float32


class DeviceError(RuntimeError):
    """A device that is not there; the message is one line."""


def negatives(
    layout: Layout, ruler: Ruler, shard: tuple[int, int], device: str, tile: int = TILE
) -> NDArray[np.int64]:
    """(U, T + 1) negative pairs of each unit by bin; the last one counts all of its pairs.

    Raises ``DeviceError`` where torch knows no such device or finds none.
    """
    place = _device(device)
    bins = ruler.cuts.size + 1
    units = torch.from_numpy(layout.units).to(place)
    total = torch.zeros(layout.bits.size * bins, dtype=torch.int64, device=place)
    with torch.inference_mode(), _full_precision():
        vectors = torch.from_numpy(layout.vectors).to(place)
        ends = torch.from_numpy(layout.ends).to(place)
        for rows, columns in layout.tiles(shard, (tile, tile)):
            i, j, found = _bins_of_tile(layout, vectors, ends, ruler, (rows, columns))
            for end in (units[i], units[j]):
                total += torch.bincount(end * bins + found, minlength=total.numel())
            _count_all(total.view(-1, bins)[:, -1], units, ends, (rows, columns))
    return np.asarray(total.view(-1, bins).cpu().numpy())


class DeviceRows:
    """A segment's rows on a device, and which of them the answer to a query may need."""

    def __init__(self, vectors: Vectors, device: str) -> None:
        """``vectors``: (m, d). Raises ``DeviceError`` as ``negatives`` does."""
        place = _device(device)
        self._rows = torch.from_numpy(np.array(vectors, np.float32)).to(place)
        axis = np.eye(1, vectors.shape[1], dtype=np.float32)
        self._error = distance.error_of_products(axis, vectors)

    def near(
        self, queries: Vectors, threshold: np.float32, at_least: int
    ) -> list[NDArray[np.int64]]:
        """For each of the queries (n, d) rows that hold all up to the threshold, the nearest one
        beyond, and the ``at_least`` nearest."""
        lengths = np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1))
        error = self._error * float(lengths.max(initial=1.0)) * (1 + 1e-6) + _ROUNDING
        found = []
        step = max(1, _PRODUCTS // max(1, len(self._rows)))
        with torch.inference_mode(), _full_precision():
            for start in range(0, len(queries), step):
                some = torch.from_numpy(queries[start : start + step]).to(self._rows.device)
                products = some @ self._rows.T
                near = products >= _cuts(products, float(threshold), at_least, error)[:, None]
                owner, rows = near.nonzero(as_tuple=True)
                ends = torch.bincount(owner, minlength=len(some)).cumsum(0).cpu().numpy()
                found += np.split(rows.cpu().numpy(), ends[:-1])
        return found


def _cuts(products: Tensor, threshold: float, at_least: int, error: float) -> Tensor:
    """(n,) the product from which on a row (n, m) may be needed; -inf: all may be."""
    none = torch.full_like(products[:, :1], -torch.inf)
    rejected = products < 1 - threshold - error
    if threshold >= distance.MAX_DISTANCE:  # where distances are cut off: all are matches
        return none[:, 0]
    nearest = torch.where(rejected, products, none).amax(dim=1)
    if at_least > 1:
        nearest = nearest.minimum(products.topk(min(at_least, products.shape[1])).values[:, -1])
    cut = nearest - 2 * error
    # Products below -1 are all at distance 2: ties, whichever of them is least.
    return torch.where(cut <= error - 1, none[:, 0], cut)


def _device(name: str) -> torch.device:
    try:
        place = torch.device(name)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DeviceError(f"device {name!r} cannot be used ({reason}); try 'cpu'") from None
    return place


@contextmanager
def _full_precision() -> Iterator[None]:
    """Float32 products in float32: in TF32 or bfloat16 their error would be far larger."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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
