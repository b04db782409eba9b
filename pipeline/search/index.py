"""The index on disk: how rows are passed over quickly, and how far a query has to look.

A segment (the items of one customer, or the shared ones) of fewer than 256 rows is scanned. A
``flat`` one passes over all rows in one byte a coordinate, and is exact. An ``ivf`` one holds the
same codes in lists, of which a query probes the nearest. ``hnsw`` and ``rabitq`` let FAISS propose
rows. How far any of these looks is calibrated. Files: ``index/<k>.codes.npy`` and ``<k>.npz``, or
``<k>.faiss``, and ``index/index.json``, written last.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipeline.config import IndexConfig
from pipeline.distance import Vectors, lengths
from pipeline.durable import write_durably
from pipeline.search.codes import Codes, Rows, encode
from pipeline.search.effort import HELD_OUT, Truth, calibrated_lists, true_matches
from pipeline.search.gallery import Gallery
from pipeline.search.lists import SEED, Lists, part
from pipeline.search.segments import (
    DeviceSegment,
    ListSegment,
    ProposedSegment,
    ScanSegment,
    SegmentFacts,
)
from pipeline.search.threshold import Found, Index, Segment

__all__ = ["Found", "Index", "SearchIndexError", "build_index", "open_index"]

SCANNED_BELOW = 256
"""A segment of fewer rows gets no index."""
IVF_FROM = 20_000
"""Rows from which ``auto`` tries ``ivf``: there a look at all codes takes longer than the rest."""
WORTH_PROBING = 0.25
"""Largest share of its lists that ``auto`` lets ``ivf`` probe; past it, ``flat`` is as quick."""

_SCHEMA = 2
_LISTS = 2.0  # times the root of the rows: as long over the centroids as over the probed rows


class SearchIndexError(ValueError):
    """An index that does not belong to its gallery; the message is one line."""


def build_index(
    gallery: Gallery,
    config: IndexConfig,
    folder: Path,
    *,
    threads: int = 1,
    horizon: float | None = None,
) -> None:
    """Write ``folder/index/`` for a gallery; what lay there from an earlier build is replaced.

    ``horizon``: the distance up to which an inexact segment has to find ``config.match_recall``
    of the pairs; None: the distance that accepts 1 pair in 1,000 of the segment.
    """
    where = folder / "index"
    where.mkdir(parents=True, exist_ok=True)
    for name in ("index.json", "*.faiss", "*.npz", "*.npy"):
        for path in where.glob(name):
            path.unlink()
    facts = []
    for number, (customer, rows) in enumerate(gallery.segments().items()):
        entry = SegmentFacts(customer=customer, start=rows.start, stop=rows.stop, kind="scan")
        if rows.stop - rows.start >= SCANNED_BELOW:
            stem = where / f"{number:05d}"
            with threadpool_limits(threads, user_api="blas"):
                entry = _write_segment(
                    gallery.vectors[rows], entry, stem, config, (horizon, threads)
                )
        facts.append(asdict(entry))
    document = {"schema": _SCHEMA, "rows": len(gallery), "dimension": gallery.dimension,
                "segments": facts}
    write_durably(where / "index.json", (json.dumps(document, indent=1) + "\n").encode())


def open_index(
    folder: Path, gallery: Gallery, *, threads: int = 1, device: str = "cpu"
) -> Index:
    """The index that ``build_index`` wrote into ``folder``; codes stay on disk, mapped.

    ``threads``: of FAISS, where it proposes. ``device``: ``cuda`` puts all rows of every segment
    that has an index there, for exact search whatever its kind. For a folder whose bytes were
    verified. Raises ``SearchIndexError`` where index and gallery do not belong together.
    """
    path = folder / "index" / "index.json"
    document = json.loads(path.read_bytes())
    expected = {"schema": _SCHEMA, "rows": len(gallery), "dimension": gallery.dimension}
    for key, value in expected.items():
        if document.get(key) != value:
            raise SearchIndexError(
                f"{path}: {key} {document.get(key)!r}, expected {value}: index the gallery again"
            )
    facts = [SegmentFacts(**entry) for entry in document["segments"]]
    if {f.customer: slice(f.start, f.stop) for f in facts} != gallery.segments():
        raise SearchIndexError(f"{path}: other customers than the gallery: index it again")
    if device != "cpu":
        return Index(gallery, {f.customer: _place_segment(f, gallery, device) for f in facts},
                     inexact=False)  # fmt: skip
    segments = {f.customer: _open_segment(path.parent, f, gallery, threads) for f in facts}
    return Index(gallery, segments, inexact=any(f.match_recall < 1 for f in facts))


def _place_segment(facts: SegmentFacts, gallery: Gallery, device: str) -> Segment:
    vectors = gallery.vectors[facts.start : facts.stop]
    if facts.file is None:
        return ScanSegment(vectors, facts.start)
    # Torch takes seconds to import, and no other placement needs it.
    from pipeline.search.cuda import DeviceRows

    return DeviceSegment(DeviceRows(vectors, device).near, vectors, facts.start)


def _write_segment(
    vectors: Vectors, facts: SegmentFacts, stem: Path, config: IndexConfig,
    measured: tuple[float | None, int],
) -> SegmentFacts:
    """Write the files of one segment; what is to be known of them."""
    horizon, threads = measured
    size = len(vectors)
    kind = config.kind
    if kind == "auto":
        kind = "ivf" if size >= IVF_FROM else "flat"
    norm = float(lengths(vectors).max())
    facts = replace(facts, kind=kind, largest_norm=norm, file=f"{stem.name}.codes.npy")
    if kind == "flat":
        return _write_flat(vectors, facts, stem)
    chosen = np.random.default_rng(SEED).permutation(size)
    held_out, used = np.split(chosen, [min(HELD_OUT, size // 4)])
    truth = true_matches(vectors, held_out, horizon)
    if kind == "hnsw":
        return _write_proposed(vectors, facts, stem, truth, (config.match_recall, threads), None)
    few = min(int(_LISTS * size**0.5), size // 4)
    if kind == "rabitq":
        goal = config.match_recall, threads
        parted = part(vectors, few, used, norm)
        return _write_proposed(vectors, facts, stem, truth, goal, parted)
    found = calibrated_lists(truth, vectors, used, norm, few, config.match_recall)
    count = found.lists.count
    if config.kind == "auto" and found.probes > WORTH_PROBING * count:
        return _write_flat(vectors, replace(facts, kind="flat"), stem)
    _write_lists(vectors, found.lists, found.assigned, stem)
    return replace(facts, lists=count, nearness=found.nearness, probes=found.probes,
                   **asdict(found.share))


def _write_flat(vectors: Vectors, facts: SegmentFacts, stem: Path) -> SegmentFacts:
    """One list of all rows, around no direction in particular."""
    lists = Lists(
        np.zeros((vectors.shape[1], 1), np.float32), np.asarray([np.pi]), facts.largest_norm
    )
    _write_lists(vectors, lists, np.zeros(len(vectors), np.int64), stem)
    return replace(facts, lists=1, probes=1.0)


def _write_lists(vectors: Vectors, lists: Lists, assigned: NDArray[np.int64], stem: Path) -> None:
    codes = encode(vectors, np.argsort(assigned, kind="stable"))
    np.save(stem.with_suffix(".codes.npy"), codes.values, allow_pickle=False)
    starts = np.concatenate([[0], np.cumsum(np.bincount(assigned, minlength=lists.count))])
    with stem.with_suffix(".npz").open("wb") as file:
        np.savez(file, columns=lists.columns, angles=lists.angles, starts=starts,
                 scales=codes.scales, errors=codes.errors, rows=codes.rows)


def _write_proposed(
    vectors: Vectors, facts: SegmentFacts, stem: Path, truth: Truth, goal: tuple[float, int],
    parted: tuple[Lists, NDArray[np.int64]] | None,
) -> SegmentFacts:
    """The files of a segment that FAISS proposes for; ``parted`` into lists for ``rabitq``."""
    # FAISS takes a quarter of a second to import, and few releases need it.
    from pipeline.search import proposals

    facts = replace(facts, file=f"{stem.name}.faiss")
    target, threads = goal
    if parted is None:
        index, facts = proposals.graph_of(vectors, facts, truth, target=target, threads=threads)
    else:
        lists, assigned = parted
        index, facts = proposals.bits_of(vectors, facts, truth, target=target, threads=threads,
                                         lists=lists, assigned=assigned)
        with stem.with_suffix(".npz").open("wb") as file:
            np.savez(file, columns=lists.columns, angles=lists.angles)
    proposals.write_index(index, stem.with_suffix(".faiss"))
    return facts


def _open_segment(folder: Path, facts: SegmentFacts, gallery: Gallery, threads: int) -> Segment:
    vectors = gallery.vectors[facts.start : facts.stop]
    vectors.flags.writeable = False  # as from disk: what is compiled for one serves the other
    if facts.file is None:
        return ScanSegment(vectors, facts.start)
    path = folder / facts.file
    arrays = {}
    if facts.kind != "hnsw":
        with np.load(folder / f"{facts.file.partition('.')[0]}.npz", allow_pickle=False) as stored:
            arrays = dict(stored)
        lists = Lists(arrays["columns"], arrays["angles"], facts.largest_norm)
    if facts.kind in ("flat", "ivf"):
        # A plain view: np.memmap pays its own bookkeeping at every index operation.
        values = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        _require_shape(path, values.shape, vectors)
        codes = Codes(values, arrays["scales"], arrays["errors"], arrays["rows"])
        return ListSegment(
            Rows(codes, vectors, arrays["starts"], facts.largest_norm), lists, facts
        )
    from pipeline.search import proposals

    index = proposals.read_index(path)
    _require_shape(path, (index.ntotal, index.d), vectors)
    if facts.kind == "hnsw":
        propose = proposals.graph_ranking(index, facts.candidates, threads)
    else:
        propose = proposals.bits_ranking(index, lists, facts, threads)
    return ProposedSegment(propose, vectors, facts)


def _require_shape(path: Path, shape: tuple[int, ...], vectors: Vectors) -> None:
    if shape != vectors.shape:
        raise SearchIndexError(
            f"{path}: {' x '.join(map(str, shape))}, expected {len(vectors)} x "
            f"{vectors.shape[1]}: index the gallery again"
        )
