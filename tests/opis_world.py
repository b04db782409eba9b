"""Worlds whose threshold consistency is known: classes of vectors, customers of counts."""

from functools import cache

import numpy as np
from scipy import stats

from pipeline.counting.operating import BUCKETS, Grid, OperatingCounts
from pipeline.distance import unit

DIMENSION = 64
THRESHOLDS = np.linspace(0.2, 0.8, 25).astype(np.float32)
GRID = Grid(THRESHOLDS)
_OWN, _PAIR, _NEAR, _FAR = 0.08, 0.12, 0.35, 0.75


def classes(rng, scatter, items):
    """Unit vectors (T * items, 64) of T classes, and labels; the test world of the methods.

    Centres uniform on the sphere, item = normalised(centre + scatter N(0, I / 64)).
    """
    scatter = np.asarray(scatter)
    centres = rng.standard_normal((scatter.size, DIMENSION))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    noise = rng.standard_normal((scatter.size, items, DIMENSION)) / np.sqrt(DIMENSION)
    points = centres[:, None] + scatter[:, None, None] * noise
    return unit(points.reshape(-1, DIMENSION)), names(scatter.size, items)


@cache
def names(groups, items):
    return [f"{i:05d}" for i in range(groups) for _ in range(items)]


def customers(rng, shifts, identities=40, draws=None) -> OperatingCounts:
    """Customers whose identities have their own mean distance; positives moved by ``shifts``.

    ``draws``: the identities of another embedding of the same items (``identity_draws``).
    """
    shape = (len(shifts), identities)
    buckets, own = identity_draws(rng, shape) if draws is None else draws
    positive = _NEAR + np.asarray(shifts)[:, None] + own
    kinds = ((0, _FAR + own, 24), (1, positive, 6))
    total = np.zeros((len(shifts), BUCKETS, 2, GRID.bins))
    for kind, mean, pairs in kinds:
        distances = rng.normal(mean[..., None], _PAIR, (*shape, pairs)).astype(np.float32)
        group = np.arange(len(shifts))[:, None, None]
        np.add.at(total, (group, buckets[..., None], kind, GRID.bin_of(distances)), 1)
    return OperatingCounts(GRID, tuple(f"c{g:03d}" for g in range(len(shifts))), total)


def identity_draws(rng, shape):
    return rng.integers(BUCKETS, size=shape), rng.normal(0, _OWN, shape)


def customers_truth(shifts) -> float:
    """OPIS of these customers over all identities, by quadrature."""
    own = stats.norm.ppf((np.arange(4000) + 0.5) / 4000) * _OWN
    edges = THRESHOLDS.astype(float)[:, None]
    spec = 1 - stats.norm.cdf((edges - _FAR - own) / _PAIR).mean(axis=1)
    curves = []
    for shift in shifts:
        sens = stats.norm.cdf((edges - _NEAR - shift - own) / _PAIR).mean(axis=1)
        curves.append(2 * sens * spec / (sens + spec))
    return float(np.var(curves, axis=0).mean()) if len(set(shifts)) > 1 else 0.0
