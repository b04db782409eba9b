"""All pairs of N items counted by class, in O(items x bins) memory and on every core.

Rows are sorted by class. Negatives: tiles of the matrix of similarities, each unordered pair
once, its two ends counted from one product; the bins are exact (``pipeline.counting.binning``).
Positives: the deciding distances inside each class. No N x N matrix is ever held, and pairs
beyond the grid get no bin: their number follows from the totals.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.counting.binning import Ruler, ruler_of
from pipeline.counting.classes import SPLITS, UNITS, ClassCounts, half_bits, ranks_in_class
from pipeline.counting.operating import NEGATIVE, Grid
from pipeline.counting.tallies import add_units, count_ends
from pipeline.counting.tiles import bins_of_tile, count_inside, room_for
from pipeline.distance import Vectors
from pipeline.search.gallery import NORM_TOLERANCE
from pipeline.threads import cores, on_threads

ROWS, COLUMNS = 1024, 1024
"""Of a tile: its counts stay in the second-level cache, and its product is as fast as any."""

HELD = 1000
"""Most tiles whose pairs a thread holds in int32, which has room for 2047 full ones."""

Labels = NDArray[np.object_] | Sequence[str | None]
Tile = tuple[slice, slice]


class PairsError(ValueError):
    """Vectors, labels or ids that cannot be counted; the message is one line."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Labelled items sorted by (class, unit, rank), and where each class and unit lies."""

    vectors: Vectors
    """(n, d) float32 unit rows, contiguous."""
    groups: tuple[str, ...]
    """(G,) names of the classes, sorted."""
    spans: NDArray[np.int64]
    """(G + 1,) first row of each class."""
    firsts: NDArray[np.int64]
    """(G + 1,) first unit of each class."""
    ends: NDArray[np.int64]
    """(n,) for each row, the first row of the next class."""
    units: NDArray[np.int64]
    """(n,) unit of each row."""
    bits: NDArray[np.uint8]
    """(U,) half of each unit in each split."""

    def tiles(self, shard: tuple[int, int], shape: tuple[int, int]) -> list[Tile]:
        """The tiles of a shard, which together with the other shards' cover every pair once."""
        n, (rows, columns) = len(self.vectors), shape
        every: list[Tile] = []
        for i in range(0, n, rows):
            end, strip = min(i + rows, n), max(rows // 4, 1)
            # On the diagonal, where half of a square is counted from the other side, strips.
            every += [(slice(j, min(j + strip, end)), slice(j, end)) for j in range(i, end, strip)]
            right = (slice(j, min(j + columns, n)) for j in range(end, n, columns))
            every += [(slice(i, end), part) for part in right]
        return every[shard[0] :: shard[1]]

    def starts(self, rows: slice, columns: slice) -> NDArray[np.int64]:
        """(r,) first column of a tile that is a negative of each row, and lies after it."""
        return np.asarray(np.maximum(self.ends[rows] - columns.start, 0))


def count_classes(
    vectors: Vectors,
    labels: Labels,
    item_ids: NDArray[np.object_] | Sequence[str],
    grid: Grid,
    *,
    device: str = "cpu",
    threads: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> ClassCounts:
    """Count every unordered pair of labelled items by class, kind and distance bin.

    ``vectors`` (n, d) float32 unit rows; ``labels`` (n,) str, None where an item has no label and
    is left out; ``item_ids`` (n,) str, from which the halves of the classes are drawn. Counts are
    whole numbers, equal to those of the deciding distance of every pair. ``device``: "cpu", or a
    device of torch for the products. ``threads``: all cores by default. ``shard`` (i, n): the
    i-th of n parts, whose counts add up to the whole.

    Raises ``PairsError`` for arrays that do not fit each other, rows that are not unit vectors,
    and a shard or a device that does not exist.
    """
    if not (0 <= shard[0] < shard[1]):
        raise PairsError(f"shard: {shard}; expected (i, n) with 0 <= i < n")
    workers = cores() if threads is None else threads
    if workers < 1:
        raise PairsError(f"threads: {workers}; expected at least 1")
    layout = lay_out(vectors, labels, item_ids)
    ruler = ruler_of(grid, layout.vectors)
    if device == "cpu":
        counts = count_negatives(layout, ruler, shard, workers)
    else:
        from pipeline.counting.cuda import negatives  # torch is slow to load, and not always there

        counts = negatives(layout, ruler, shard, device)
    counts[:, -1] -= counts[:, :-1].sum(axis=1)  # from all pairs to those beyond the grid
    whole, halves = _by_class(layout, ruler, counts, shard, workers)
    return ClassCounts(grid, layout.groups, np.diff(layout.spans), whole, halves)


def lay_out(
    vectors: Vectors, labels: Labels, item_ids: NDArray[np.object_] | Sequence[str]
) -> Layout:
    """Check and sort the labelled items; see ``count_classes``."""
    _require(vectors, labels, item_ids)
    labelled = [i for i, label in enumerate(labels) if label is not None]
    kept = np.asarray(labelled, np.int64)
    groups = tuple(sorted({str(label) for label in labels if label is not None}))
    code = {name: i for i, name in enumerate(groups)}
    codes = np.asarray([code[str(label)] for label in labels if label is not None], np.int64)
    ranks = ranks_in_class(codes, [item_ids[i] for i in labelled], vectors, kept)
    sizes = np.bincount(codes, minlength=len(groups))
    spans, firsts = (np.concatenate([[0], np.cumsum(n)]) for n in (sizes, np.minimum(sizes, UNITS)))
    order = np.lexsort((ranks, ranks % UNITS, codes))
    codes, ranks = codes[order], ranks[order]
    bits = [half_bits(int(size)) for size in sizes]
    return Layout(
        vectors=np.ascontiguousarray(vectors[kept[order]]),
        groups=groups,
        spans=spans,
        firsts=firsts,
        ends=spans[codes + 1],
        units=firsts[codes] + ranks % UNITS,
        bits=np.concatenate([*bits, np.empty(0, np.uint8)]),
    )


def _require(
    vectors: Vectors, labels: Labels, item_ids: NDArray[np.object_] | Sequence[str]
) -> None:
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise PairsError(f"vectors: {vectors.dtype} {vectors.shape}; expected float32 (n, d)")
    if not len(vectors) == len(labels) == len(item_ids):
        raise PairsError(
            f"{len(vectors)} vectors, {len(labels)} labels, {len(item_ids)} item ids; "
            "expected one of each for every item"
        )
    for what, values, kinds, remedy in (
        ("label", labels, (str, type(None)), "a str, or None for no label"),
        ("item id", item_ids, (str,), "a str"),
    ):
        if not all(issubclass(kind, kinds) for kind in set(map(type, values))):
            row = [isinstance(value, kinds) for value in values].index(False)
            raise PairsError(f"row {row}: {what} {values[row]!r}; expected {remedy}")
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    bad = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))
    if bad.size:
        raise PairsError(
            f"row {bad[0]}: vector of length {norms[bad[0]]:.6g}; expected unit rows, "
            "which distance.unit(vectors) makes"
        )


def count_negatives(
    layout: Layout, ruler: Ruler, shard: tuple[int, int], workers: int
) -> NDArray[np.int64]:
    """(U, T + 1) negative pairs of each unit by bin; the last one counts all of its pairs."""
    total = np.zeros((layout.bits.size, ruler.cuts.size + 1), np.int64)
    lock = threading.Lock()

    def add(part: slice, count: NDArray[np.int32]) -> None:
        first, last = layout.units[part.start], layout.units[part.stop - 1]
        with lock:
            total[first : last + 1] += count[: last + 1 - first]
        count.fill(0)

    def work(take: Callable[[], Tile | None]) -> None:
        products, found = np.empty(ROWS * COLUMNS, np.float32), room_for(ROWS * COLUMNS)
        counts = [np.zeros((size, total.shape[1]), np.int32) for size in (ROWS, COLUMNS)]
        held: list[Tile] = []  # tiles side by side, whose rows' counts go on
        while (tile := take()) is not None:
            if held and (held[0][0] != tile[0] or len(held) == HELD):
                add(held[0][0], counts[0])
                held.clear()
            held.append(tile)
            a, b = layout.vectors[tile[0]], layout.vectors[tile[1]]
            block = products[: len(a) * len(b)].reshape(len(a), len(b))
            np.matmul(a, b.T, out=block)
            starts, units = layout.starts(*tile), [layout.units[part] for part in tile]
            near = bins_of_tile(block, starts, (a, b), ruler, found)
            count_ends(
                (found[0][:near], found[1][:near], found[2][:near]),
                starts,
                (units[0] - units[0][0], units[1] - units[1][0]),
                (counts[0], counts[1]),
            )
            add(tile[1], counts[1])
        if held:
            add(held[0][0], counts[0])

    on_threads(work, layout.tiles(shard, (ROWS, COLUMNS)), workers)
    return total


def _by_class(
    layout: Layout, ruler: Ruler, units: NDArray[np.int64], shard: tuple[int, int], workers: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``whole`` and ``halves`` of the classes: negatives from their units, positives counted."""
    groups, bins = len(layout.groups), ruler.cuts.size + 1
    whole, halves = np.zeros((groups, 2, bins)), np.zeros((groups, SPLITS, 2, 2, bins))
    bits, limits = layout.bits[layout.units], (ruler.cuts, ruler.fine_error)

    def work(take: Callable[[], NDArray[np.int64] | None]) -> None:
        while (some := take()) is not None:
            add_units(units, layout.firsts, layout.bits, some, halves)
            whole[some, NEGATIVE] = halves[some, 0, :, NEGATIVE].sum(axis=1)
            dealt = some[some % shard[1] == shard[0]]
            count_inside(layout.vectors, layout.spans, bits, limits, dealt, (whole, halves))

    on_threads(work, np.array_split(np.arange(groups), max(groups // 16, 1)), workers)
    return whole, halves
