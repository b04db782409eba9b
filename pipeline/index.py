"""The index on disk: FAISS proposes, the deciding distance disposes.

A segment (the items of one customer, or the shared ones) of fewer than 256 rows is scanned. A
``flat`` one is exact: FAISS's own distances err by no more than the bound of a float32 sum, so
what it leaves out is known to be far. An ``ivf`` one reaches the lists nearest to the query;
how many is calibrated. Files: ``index/<k>.faiss``, ``index/<k>.npz`` with the lists of an ``ivf``
one, and ``index/index.json``, written last. FAISS is imported in this module only, and reads
files only from a folder whose bytes were verified.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.config import IndexConfig
from pipeline.distance import Vectors
from pipeline.durable import write_durably
from pipeline.gallery import Gallery
from pipeline.lists import HELD_OUT, calibrate_probes, list_angles, make_lists
from pipeline.search import Found, Index, Segment
from pipeline.segments import (
    FlatSegment,
    IvfSegment,
    Ranked,
    ScanSegment,
    SegmentFacts,
    proposal_error,
)

__all__ = ["Found", "Index", "SearchIndexError", "build_index", "open_index"]

SCANNED_BELOW = 256
"""A segment of fewer rows gets no FAISS file."""
IVF_FROM = 20_000
"""Rows from which ``auto`` tries ``ivf``: there a flat look takes longer than all the rest."""
WORTH_PROBING = 0.25
"""Largest share of its lists that ``auto`` lets ``ivf`` probe; past it, ``flat`` is as quick."""

_SCHEMA = 1
_SEED = 20_307
_BLAS_FROM = 800  # queries x dimensions; FAISS's own default keeps BLAS from batches of any use
_POINTS_PER_LIST = 40  # for the clustering: more costs time and moves nothing


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

    ``horizon``: the distance up to which an ``ivf`` segment has to find ``config.match_recall``
    of the pairs; None: the distance that accepts 1 pair in 1,000 of the segment.
    """
    faiss.omp_set_num_threads(threads)
    where = folder / "index"
    where.mkdir(parents=True, exist_ok=True)
    for name in ("index.json", "*.faiss", "*.npz"):
        for path in where.glob(name):
            path.unlink()
    facts = []
    for number, (customer, rows) in enumerate(gallery.segments().items()):
        kind = _kind(config, rows.stop - rows.start)
        entry = SegmentFacts(customer=customer, start=rows.start, stop=rows.stop, kind=kind)
        if kind != "scan":
            stem = where / f"{number:05d}"
            entry = _write_segment(gallery.vectors[rows], entry, stem, config, horizon)
        facts.append(asdict(entry))
    document = {"schema": _SCHEMA, "rows": len(gallery), "dimension": gallery.dimension,
                "segments": facts}
    write_durably(where / "index.json", (json.dumps(document, indent=1) + "\n").encode())


def open_index(folder: Path, gallery: Gallery, *, threads: int = 1) -> Index:
    """The index that ``build_index`` wrote into ``folder``; FAISS files stay on disk, mapped.

    For a folder whose bytes were verified. Raises ``SearchIndexError`` where index and gallery
    do not belong together.
    """
    faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM
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
    return Index(gallery, {f.customer: _open_segment(path.parent, f, gallery, threads)
                           for f in facts})


def _kind(config: IndexConfig, rows: int) -> str:
    if rows < SCANNED_BELOW:
        return "scan"
    if config.kind == "auto":
        return "ivf" if rows >= IVF_FROM else "flat"
    return config.kind


def _write_segment(
    vectors: Vectors, facts: SegmentFacts, stem: Path, config: IndexConfig, horizon: float | None
) -> SegmentFacts:
    """Write the files of one segment; what is to be known of them."""
    norm = float(np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1).max()))
    facts = replace(facts, file=f"{stem.name}.faiss", largest_norm=norm,
                    proposal_error=proposal_error(vectors.shape[1], norm))
    index: faiss.Index | None = None
    if facts.kind == "ivf":
        index, facts = _cluster(vectors, facts, stem, config, horizon)
    if index is None:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
    faiss.write_index(index, str(stem.with_suffix(".faiss")))
    return facts


def _cluster(
    vectors: Vectors, facts: SegmentFacts, stem: Path, config: IndexConfig, horizon: float | None
) -> tuple[faiss.Index | None, SegmentFacts]:
    """An IVF index of about 4 sqrt(m) lists, its probes calibrated on rows it was not made of.

    None, and the facts of a flat one, where ``auto`` finds it not worth its probes.
    """
    size, dimension = vectors.shape
    count = min(int(4 * size**0.5), size // 4)
    chosen = np.random.default_rng(_SEED).permutation(size)
    held_out, used = np.split(chosen, [min(HELD_OUT, size // 4)])
    clustering = faiss.Kmeans(
        dimension, count, niter=10, spherical=True, seed=_SEED,
        min_points_per_centroid=1, max_points_per_centroid=_POINTS_PER_LIST,
    )
    clustering.train(vectors[np.sort(used)])
    centroids = np.asarray(clustering.centroids, np.float32)
    quantizer = faiss.IndexFlatIP(dimension)
    quantizer.add(centroids)
    assigned = np.ascontiguousarray(quantizer.search(vectors, 1)[1][:, 0])
    index = faiss.IndexIVFFlat(quantizer, dimension, count, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True
    # Lists as assigned here: their angles are a proof, and FAISS may assign anew otherwise.
    index.add_core(size, faiss.swig_ptr(vectors), None, faiss.swig_ptr(assigned))
    angles = list_angles(vectors, centroids, assigned)
    lists = make_lists(centroids, assigned, angles, facts.largest_norm)
    reach = calibrate_probes(vectors, lists, held_out, target=config.match_recall, horizon=horizon)
    if config.kind == "auto" and reach.probes > WORTH_PROBING * count:
        return None, replace(facts, kind="flat")
    with stem.with_suffix(".npz").open("wb") as file:
        np.savez(file, assigned=assigned.astype(np.int32), centroids=centroids, angles=angles)
    return index, replace(facts, lists=count, **asdict(reach))


def _open_segment(folder: Path, facts: SegmentFacts, gallery: Gallery, threads: int) -> Segment:
    vectors = gallery.vectors[facts.start : facts.stop]
    if facts.file is None:
        return ScanSegment(vectors, facts.start)
    path = folder / facts.file
    flags = faiss.IO_FLAG_READ_ONLY | (
        faiss.IO_FLAG_MMAP if facts.kind == "ivf" else faiss.IO_FLAG_MMAP_IFC
    )
    index: Any = faiss.read_index(str(path), flags)  # its kind is known to the file alone
    if index.ntotal != len(vectors) or index.d != gallery.dimension:
        raise SearchIndexError(
            f"{path}: {index.ntotal} x {index.d}, expected {len(vectors)} x {gallery.dimension}: "
            "index the gallery again"
        )
    if facts.kind == "flat":
        return FlatSegment(_ranking(index.search, threads), vectors, facts)
    index.nprobe = facts.probes
    # Threads that read ahead pay on a cold disk only, and are started at every search.
    on_disk: Any = faiss.downcast_InvertedLists(index.invlists)
    on_disk.prefetch_nthread = 0
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        lists = make_lists(
            arrays["centroids"], arrays["assigned"], arrays["angles"], facts.largest_norm
        )
    return IvfSegment(_ranking_lists(index.search_preassigned, threads), lists, vectors, facts)


def _ranking(search: Callable[..., Ranked], threads: int) -> Callable[[Vectors, int], Ranked]:
    def rank(queries: Vectors, k: int) -> Ranked:
        faiss.omp_set_num_threads(threads)  # a setting of the calling thread
        return search(queries, k)

    return rank


def _ranking_lists(
    search: Callable[..., Ranked], threads: int
) -> Callable[[NDArray[np.float32], int, NDArray[np.int64]], Ranked]:
    def rank(query: NDArray[np.float32], k: int, lists: NDArray[np.int64]) -> Ranked:
        faiss.omp_set_num_threads(threads)
        # The coarse distances matter only to codes relative to a centroid; ours are whole.
        coarse = np.zeros((1, lists.size), np.float32)
        return search(query[None, :], k, lists[None, :], coarse)

    return rank
