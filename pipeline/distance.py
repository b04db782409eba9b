"""The one distance of this project.

Cosine distance, ``1 - cos(a, b)``: 0 for the same direction, 1 for orthogonal, 2 for
opposite. Smaller is closer, everywhere. FAISS speaks inner products, and those only propose;
only this module computes the distance that decides, and says what a threshold accepts.

The *deciding* distance of a pair is a pure function of its two float32 vectors: products of
float32 coordinates are exact in float64, they are summed in index order, and ``1 - sum`` is
rounded once to float32. So it has the same bits alone, in any batch and on any machine.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""(n, d) float32, every row of unit length."""

Distances = NDArray[np.float32]
"""float32 cosine distances in [0, 2]."""

MAX_DISTANCE = np.float32(2.0)

_BLOCK = 512  # gallery rows held transposed at a time: fits the first-level cache
_PART = 16_384


def accepts(distances: Distances, threshold: np.float32) -> NDArray[np.bool_]:
    """Whether each distance is a match. The boundary belongs to the match side."""
    return np.asarray(distances <= np.float32(threshold))


def to_euclidean(distances: NDArray[np.floating]) -> NDArray[np.float64]:
    """Chord length ``sqrt(2 d)`` of unit vectors at cosine distance ``d``; in [0, 2]."""
    return np.sqrt(2.0 * np.asarray(distances, np.float64))


def from_euclidean(chords: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine distance of unit vectors a chord of this length apart; in [0, 2]."""
    return np.square(np.asarray(chords, np.float64)) / 2.0


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """(n, d) rows scaled to unit length, float32.

    Raises ``ValueError`` naming the first row that is zero or not finite.
    """
    wide = np.asarray(vectors, np.float64)
    norms = np.sqrt(np.square(wide).sum(axis=1))
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if bad.size:
        what = "zero" if norms[bad[0]] == 0 else "not finite"
        raise ValueError(f"row {bad[0]}: vector is {what}; expected finite numbers, not all zero")
    return np.asarray((wide / norms[:, None]).astype(np.float32))


def lengths(vectors: Vectors) -> NDArray[np.float64]:
    """(n,) lengths of the rows; part by part, since rows in float64 take twice the memory."""
    out = np.empty(len(vectors), np.float64)
    for start in range(0, len(vectors), _PART):
        squares = np.square(vectors[start : start + _PART], dtype=np.float64)
        np.sqrt(squares.sum(axis=1), out=out[start : start + _PART])
    return out


@numba.njit(cache=True, nogil=True)
def deciding_columns(query: Vectors, block: Vectors, out: Distances) -> None:
    """Distances of one ``query`` (d,) to the columns of ``block`` (d, m), into ``out`` (m,).

    The inner loop runs over gallery rows, so that it vectorises while every single sum keeps
    its index order. A fused multiply-add changes nothing: the products are exact.
    """
    sums = np.zeros(out.shape[0], np.float64)
    for k in range(query.shape[0]):
        coordinate = np.float64(query[k])
        for j in range(out.shape[0]):
            sums[j] += coordinate * np.float64(block[k, j])
    for j in range(out.shape[0]):
        out[j] = np.float32(min(max(1.0 - sums[j], 0.0), 2.0))


@numba.njit(cache=True, nogil=True)
def _deciding_all(queries: Vectors, gallery: Vectors, out: Distances) -> None:
    for start in range(0, gallery.shape[0], _BLOCK):
        stop = min(start + _BLOCK, gallery.shape[0])
        block = np.ascontiguousarray(gallery[start:stop].T)
        for i in range(queries.shape[0]):
            deciding_columns(queries[i], block, out[i, start:stop])


def deciding(queries: Vectors, gallery: Vectors) -> Distances:
    """(n, m) deciding distances of all pairs of ``queries`` (n, d) and ``gallery`` (m, d)."""
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions, the gallery has {gallery.shape[1]}"
        )
    out = np.empty((queries.shape[0], gallery.shape[0]), np.float32)
    _deciding_all(
        np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(gallery, np.float32), out
    )
    return out


def least_sums(edges: Distances) -> NDArray[np.float64]:
    """(T,) the least sum of products, in float64, whose deciding distance is at most each edge.

    The distance falls with the sum, so a pair lies within ``edges[k]`` exactly if its sum in index
    order is at least ``least_sums(edges)[k]``. Searched by bisection through the rounding itself.
    An edge that accepts nothing gets 4, one that accepts all gets -4: no sum of unit vectors
    comes near.
    """
    edges = np.asarray(edges, np.float32)
    rejected, accepted = np.full(edges.shape, -4.0), np.full(edges.shape, 4.0)
    while True:
        middle = (rejected + accepted) / 2
        if ((middle == rejected) | (middle == accepted)).all():
            break
        within = np.clip(1.0 - middle, 0.0, 2.0).astype(np.float32) <= edges
        rejected, accepted = np.where(within, rejected, middle), np.where(within, middle, accepted)
    return np.where(edges < 0, 4.0, np.where(edges >= MAX_DISTANCE, -4.0, accepted))


def error_of_products(vectors: Vectors, others: Vectors | None = None) -> float:
    """How far a float32 inner product of two of these rows can be from the exact sum.

    ``g |a| |b|`` with ``g = d u / (1 - d u)`` and ``u = 2^-24`` (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1): for any order of summation, fused or not; not for products
    in TF32 or bfloat16. Rows need not be exactly of unit length.
    """
    dimension = vectors.shape[1]
    lengths = [_greatest_norm(vectors), _greatest_norm(vectors if others is None else others)]
    rounding = dimension * 2.0**-24
    # What underflows is far below the last term, which also covers this function's own rounding.
    return float(rounding / (1 - rounding) * lengths[0] * lengths[1] * (1 + 1e-6) + 1e-12)


def _greatest_norm(vectors: Vectors) -> float:
    squares = np.einsum("ij,ij->i", vectors, vectors)
    return float(np.sqrt(squares.max(initial=0.0)) * (1 + vectors.shape[1] * 2.0**-24))


@numba.njit(cache=True, nogil=True)
def deciding_rows(
    query: NDArray[np.float32], gallery: Vectors, rows: NDArray[np.int64], out: Distances
) -> None:
    """Distances of ``query`` (d,) to the gallery's ``rows`` (k,), into ``out`` (k,).

    Four rows at a time, so that no sum waits for its own last addition; each in index order.
    """
    last = rows.size - 1
    for start in range(0, rows.size, 4):
        p, q, r = min(start + 1, last), min(start + 2, last), min(start + 3, last)
        a, b, c, d = gallery[rows[start]], gallery[rows[p]], gallery[rows[q]], gallery[rows[r]]
        u, v, w, x = 0.0, 0.0, 0.0, 0.0
        for k in range(query.shape[0]):
            coordinate = np.float64(query[k])
            u += coordinate * np.float64(a[k])
            v += coordinate * np.float64(b[k])
            w += coordinate * np.float64(c[k])
            x += coordinate * np.float64(d[k])
        for place, total in ((start, u), (p, v), (q, w), (r, x)):
            out[place] = np.float32(min(max(1.0 - total, 0.0), 2.0))


def deciding_one(
    query: NDArray[np.float32], gallery: Vectors, rows: NDArray[np.int64]
) -> Distances:
    """(k,) deciding distances of ``query`` (d,) to the gallery's ``rows`` (k,)."""
    out = np.empty(rows.size, np.float32)
    deciding_rows(np.ascontiguousarray(query, np.float32), gallery, rows, out)
    return out
