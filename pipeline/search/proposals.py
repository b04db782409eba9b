"""Rows that FAISS proposes: through a graph (``hnsw``), or by one bit a coordinate (``rabitq``).

FAISS's distances rank here and decide nothing. How many rows it has to propose is calibrated. It
is asked one query at a time, so that it proposes the same in any batch. FAISS is imported in this
module only, and reads files only from a folder whose bytes were verified.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.distance import Vectors
from pipeline.search.effort import Truth, least_nearness, least_rank, ranks_needed, share_of
from pipeline.search.lists import Lists
from pipeline.search.segments import Propose, SegmentFacts

_NEIGHBOURS = 32  # of a row in the graph
_FIRST_DEPTH = 32
_MOST_RANKED = 8192  # rows of a segment that are ranked by their bits to calibrate how many


def graph_of(
    vectors: Vectors, facts: SegmentFacts, truth: Truth, *, target: float, threads: int
) -> tuple[faiss.Index, SegmentFacts]:
    """A graph over the rows (m, d), searched as deep as the target needs.

    With one thread the same graph at every build.
    """
    faiss.omp_set_num_threads(threads)
    size, dimension = vectors.shape
    # Rounded to float16: half the memory, and the order it proposes hardly moves.
    index = faiss.index_factory(
        dimension, f"HNSW{_NEIGHBOURS}_SQfp16", faiss.METRIC_INNER_PRODUCT
    )
    index.train(vectors)
    index.add(vectors)
    depth = min(_FIRST_DEPTH, size)
    while True:
        rank = graph_ranking(index, depth, threads)
        found = ranks_needed(truth, vectors, rank, depth + 1) <= depth
        share = share_of(truth, found)
        if share.match_recall >= target or depth == size:
            return index, replace(facts, candidates=depth, **asdict(share))
        depth = min(2 * depth, size)


def bits_of(
    vectors: Vectors, facts: SegmentFacts, truth: Truth, *, target: float, threads: int,
    lists: Lists, assigned: NDArray[np.int64],
) -> tuple[faiss.Index, SegmentFacts]:
    """One bit a coordinate in lists; half of what the target lets go is left to the lists."""
    faiss.omp_set_num_threads(threads)
    quantizer = faiss.IndexFlatL2(lists.columns.shape[0])
    quantizer.add(np.ascontiguousarray(lists.columns.T))
    index = faiss.IndexIVFRaBitQ(quantizer, lists.columns.shape[0], lists.count, faiss.METRIC_L2)
    index.train(vectors)
    index.add_core(len(vectors), faiss.swig_ptr(vectors), None, faiss.swig_ptr(assigned))
    nearness, probes, _ = least_nearness(truth, vectors, lists, assigned, (1 + target) / 2)
    most = min(_MOST_RANKED, len(vectors))
    facts = replace(facts, lists=lists.count, nearness=nearness, probes=probes, candidates=most)
    rank = bits_ranking(index, lists, facts, threads)
    ranks = ranks_needed(truth, vectors, rank, most + 1)
    candidates, share = least_rank(truth, ranks, target, most)
    return index, replace(facts, candidates=candidates, **asdict(share))


def graph_ranking(index: faiss.Index, depth: int, threads: int) -> Propose:
    """The ``depth`` rows that a search of that depth ends with."""
    graph: Any = index  # its kind is known to the file alone
    graph.hnsw.efSearch = depth

    def rank(query: NDArray[np.float32]) -> NDArray[np.int64]:
        faiss.omp_set_num_threads(threads)  # a setting of the calling thread
        return _proposed(graph.search(query[None, :], depth))

    return rank


def bits_ranking(index: faiss.Index, lists: Lists, facts: SegmentFacts, threads: int) -> Propose:
    """The rows of the probed lists whose bits are nearest."""
    bits: Any = index
    bits.nprobe = lists.count  # FAISS leaves out lists of the number -1
    coarse = np.zeros((1, lists.count), np.float32)  # and measures to centroids by itself

    def rank(query: NDArray[np.float32]) -> NDArray[np.int64]:
        faiss.omp_set_num_threads(threads)
        chosen, _ = lists.choose(query[None, :], facts.nearness, np.float32(0))
        probed = np.full((1, lists.count), -1)
        probed[0, : chosen.lists.size] = chosen.lists
        return _proposed(
            bits.search_preassigned(query[None, :], facts.candidates, probed, coarse)
        )

    return rank


def _proposed(ranked: tuple[Vectors, NDArray[np.int64]]) -> NDArray[np.int64]:
    """The rows of one query; -1 stands where there are no more."""
    rows = ranked[1][0]
    return np.asarray(rows[rows >= 0])


def write_index(index: faiss.Index, path: Path) -> None:
    """Write a graph or bits to a file."""
    faiss.write_index(index, str(path))


def read_index(path: Path) -> faiss.Index:
    """What ``write_index`` wrote; bits stay on disk, mapped."""
    flags = faiss.IO_FLAG_READ_ONLY | faiss.IO_FLAG_MMAP_IFC
    return faiss.read_index(str(path), flags)
