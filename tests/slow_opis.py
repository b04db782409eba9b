"""Rates, utility and OPIS from raw distances, by loops and the formulas alone: the slow oracle."""

import math

import numpy as np

from pipeline import distance
from pipeline.counting.classes import SPLITS, half_bits, ranks_in_class


def halves_of(vectors, labels):
    """(SPLITS, n) whether each item lies in the second half of its class."""
    names = sorted(set(labels))
    codes = np.asarray([names.index(label) for label in labels])
    ranks = ranks_in_class(codes, [""] * len(labels), vectors, np.arange(len(labels)))
    second = np.zeros((SPLITS, len(labels)), np.bool_)
    for row, code in enumerate(codes):
        bits = half_bits(int((codes == code).sum()))
        second[:, row] = [bits[ranks[row] % bits.size] >> split & 1 for split in range(SPLITS)]
    return second


def class_rates(vectors, labels, thresholds, own=None):
    """(G, 2, K) FAR and sensitivity of each class, of the pairs whose own ends are in ``own``."""
    distances = distance.deciding(vectors, vectors)
    own = np.ones(len(labels), np.bool_) if own is None else own
    rates = []
    for name in sorted(set(labels)):
        mine = [i for i, label in enumerate(labels) if label == name and own[i]]
        others = [i for i, label in enumerate(labels) if label != name]
        negative = [distances[i, j] for i in mine for j in others]
        positive = [distances[i, j] for i in mine for j in mine if i < j]
        rates.append([[share(kind, t) for t in thresholds] for kind in (negative, positive)])
    return np.asarray(rates)


def share(distances, threshold):
    return sum(d <= threshold for d in distances) / len(distances) if distances else math.nan


def utility(rates, c=1.0):
    """(G, K) from (G, 2, K), one number at a time."""
    curves = np.full((len(rates), rates.shape[2]), math.nan)
    for g, k in np.ndindex(curves.shape):
        spec, sens = 1 - rates[g, 0, k], rates[g, 1, k]
        if spec == 0 and sens == 0:
            curves[g, k] = 0.0
        else:
            curves[g, k] = (1 + c * c) * spec * sens / (c * c * spec + sens)
    return curves


def raw_opis(curves):
    known = [curve for curve in curves if not np.isnan(curve).any()]
    mean = sum(known) / len(known)
    return float(np.mean([(curve - mean) ** 2 for curve in known]))


def products(pairs_of_halves, enough):
    """(G,) mean split-half product of each group; NaN where it is in no split."""
    found = [[] for _ in enough]
    for first, second in pairs_of_halves:
        known = [
            g for g in range(len(enough))
            if enough[g] and np.isfinite(first[g]).all() and np.isfinite(second[g]).all()
        ]
        if len(known) < 2:
            continue
        means = [sum(half[g] for g in known) / len(known) for half in (first, second)]
        for g in known:
            found[g].append(np.mean((first[g] - means[0]) * (second[g] - means[1])))
    return np.asarray([np.mean(entry) if entry else math.nan for entry in found])


def class_products(vectors, labels, thresholds, c=1.0):
    """(G,) mean split-half product of each class of 4 items or more."""
    sizes = [list(labels).count(name) for name in sorted(set(labels))]
    pairs = []
    for second in halves_of(vectors, labels):
        pairs.append([
            utility(class_rates(vectors, labels, thresholds, own), c) for own in (~second, second)
        ])
    return products(pairs, [size >= 4 for size in sizes])
