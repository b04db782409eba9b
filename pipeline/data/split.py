"""Open-world split: whole classes to train on, to calibrate on, to report on.

The threshold is calibrated and reported on classes that the network never saw. A class goes
where a hash of the seed and its label puts it, customer by customer, so that every customer
with three classes or more has one in each split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DataConfig
from pipeline.data.items import CLASS_SPLITS, Items, ItemsError, missing


def assign_splits(items: Items, config: DataConfig) -> Items:
    """The items with a split each; a ``split`` that the table brought is kept.

    Rows with a held-out value become ``held_out``, the others without a label ``unlabelled``.
    A class that several customers have counts for the customer of its first row; customers
    with fewer than three classes are split together. Raises ``ItemsError`` where a split would
    have no class.
    """
    held_out = _held_out(items, config)
    labelled = ~missing(items.label) & ~held_out
    split = items.split.copy()
    if not any(split):
        assigned = _assign(_first_customers(items, np.flatnonzero(labelled)), config)
        split[:] = [assigned.get(label, "") for label in items.label]
    split[missing(items.label)] = "unlabelled"
    split[held_out] = "held_out"
    for name in CLASS_SPLITS:
        if not np.any(split[labelled] == name):
            raise ItemsError(
                f"{config.items}: no class in split {name!r}, of {len(set(items.label[labelled]))} "
                "classes in all; expected at least three classes, one for each of "
                + ", ".join(CLASS_SPLITS)
            )
    return items.with_splits(split)


def _held_out(items: Items, config: DataConfig) -> NDArray[np.bool_]:
    """(n,) whether a row has one of the held-out values."""
    name = config.held_out_column
    if not name:
        return np.zeros(len(items), np.bool_)
    if name not in items.metadata.column_names:
        raise ItemsError(
            f"{config.items}: no column {name!r} for held_out_column; further columns: "
            f"{', '.join(items.metadata.column_names) or 'none'}"
        )
    values = [str(value) for value in items.metadata[name].to_pylist()]
    unknown = sorted(set(config.held_out_values) - set(values))
    if unknown:
        raise ItemsError(
            f"{config.items}: no row has {unknown[0]!r} in column {name!r}; expected one of "
            f"{', '.join(sorted(set(values))[:10])}"
        )
    return np.isin(np.asarray(values, np.str_), config.held_out_values)


def _first_customers(items: Items, rows: Iterable[int]) -> dict[str, str | None]:
    """The customer of the first row of each class, in row order."""
    first: dict[str, str | None] = {}
    for row in rows:
        first.setdefault(items.label[row], items.customer[row])
    return first


def _assign(customer_of: dict[str, str | None], config: DataConfig) -> dict[str, str]:
    """The split of each class."""
    groups: dict[str | None, list[str]] = {}
    for label, customer in customer_of.items():
        groups.setdefault(customer, []).append(label)
    together = [label for labels in groups.values() if len(labels) < 3 for label in labels]
    strata = [labels for labels in groups.values() if len(labels) >= 3]
    assigned: dict[str, str] = {}
    for labels in (*strata, together):
        labels.sort(key=lambda label: (_rank(config.split_seed, label), label))
        report = _share(len(labels), config.report_share)
        calibrate = min(_share(len(labels), config.calibrate_share), len(labels) - report - 1)
        for place, label in enumerate(labels):
            assigned[label] = (
                "report" if place < report
                else "calibrate" if place < report + calibrate
                else "train"
            )
    return assigned


def _share(classes: int, share: float) -> int:
    """Classes that make up ``share``; at least one, and at most all but two, of three or more."""
    return max(1, min(round(classes * share), classes - 2)) if classes >= 3 else 0


def _rank(seed: int, label: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{label}".encode()).digest()
