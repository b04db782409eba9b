"""Measuring a network on training classes that are held out from its training.

The classes to calibrate and to report on stay unseen; here whole classes of the *training* split
are set aside, so that training can stop in time and margins can be found. The measures are those
of the report: R@1, and OPIS between the thresholds where the FAR of all pairs is 1e-2 and 1e-1
(docs/methods.md section 1).

Corrected OPIS is noisy, above all under 10 items a class, and may lie below 0 where the truth is
near it. Values are compared as they are: a lower one counts as better even where their intervals
overlap, so that what is chosen does not hang on a rule for ties.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.consistency.extremes import eps_opis
from pipeline.consistency.opis import opis_of
from pipeline.consistency.ranges import class_far, fine_grid, spaced
from pipeline.counting.operating import Grid
from pipeline.counting.pairs import count_classes
from pipeline.data.items import ItemsError
from pipeline.distance import Vectors, deciding
from pipeline.evaluation.retrieval import recall_at_1
from pipeline.search.gallery import Gallery
from pipeline.search.visibility import BLOCK, Queries
from pipeline.statistics.intervals import UNKNOWN, Interval

Labels = NDArray[np.generic]
"""(n,) names or numbers of the classes."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What one measurement found on the held-out classes."""

    recall: float
    """R@1 in [0, 1], over the items whose class has another one; NaN without such items."""
    opis: Interval
    """Corrected OPIS; NaN where no calibration range exists or the classes are too small."""
    opis_raw: float
    """OPIS with the noise of the sample in it."""
    eps_opis: float
    """Corrected eps-OPIS of the worst tenth of the classes against the best (``best_worst``)."""
    classes: int
    """Classes in the corrected OPIS: those of 4 items or more."""
    items: int
    """Items measured."""
    step: int = 0
    """Optimiser steps done before it."""

    def as_numbers(self) -> dict[str, Any]:
        """JSON-ready data, from which ``of_numbers`` makes the same measurement."""
        return dataclasses.asdict(self)

    @staticmethod
    def of_numbers(numbers: Mapping[str, Any]) -> Validation:
        """The measurement that ``as_numbers`` wrote down."""
        return Validation(**{**numbers, "opis": Interval(**numbers["opis"])})


def validation_rows(labels: Labels, share: float, seed: int) -> NDArray[np.bool_]:
    """(n,) whether a row's class is held out: ``share`` of the classes, at least two of them.

    Whole classes, by a hash of ``seed`` and the class's name: what other classes there are moves
    a class only at the border. ``share`` 0 holds none out. ``ItemsError`` where fewer than two
    classes would be left to train on.
    """
    names, codes = np.unique(labels, return_inverse=True)
    if share == 0:
        return np.zeros(len(labels), np.bool_)
    number = max(2, round(share * len(names)))
    if len(names) - number < 2:
        raise ItemsError(
            f"train.validate_share = {share:g} holds {number} of {len(names)} training classes "
            "out; expected at least two to be left: lower it, or add classes"
        )
    ranks = [hashlib.sha256(f"{seed}\nvalidate\n{name}".encode()).digest() for name in names]
    order = sorted(range(len(names)), key=ranks.__getitem__)
    held_out = np.zeros(len(names), np.bool_)
    held_out[order[:number]] = True
    return np.asarray(held_out[codes])


def validate(
    vectors: Vectors, labels: Labels, item_ids: Sequence[str], *, step: int = 0
) -> Validation:
    """R@1 and OPIS of ``vectors`` (n, d) float32 unit rows of classes ``labels`` (n,).

    ``item_ids`` (n,) decide ties of R@1 and the halves of the corrected OPIS. ``step``: where in
    the training the measurement stands. A network that cannot be measured yet (all vectors alike,
    too few classes) has a NaN, not an error.
    """
    names = [str(label) for label in labels]
    recall = _recall(vectors, names, item_ids)
    unknown = Validation(recall, UNKNOWN, math.nan, math.nan, 0, len(names), step)
    try:
        thresholds = spaced(*class_far(vectors, names).range(), "euclidean")
    except ValueError:  # no calibration range
        return unknown
    counts = count_classes(vectors, names, list(item_ids), Grid(thresholds))
    found, worst = opis_of(counts, thresholds), eps_opis(counts, thresholds)
    return dataclasses.replace(
        unknown,
        opis=Interval(*map(float, dataclasses.astuple(found.corrected))),
        opis_raw=float(found.raw),
        eps_opis=float(worst.best_worst.corrected),
        classes=found.groups_corrected,
    )


def best_of(history: Sequence[Validation], recall_floor: float) -> Validation | None:
    """The measurement of lowest corrected OPIS among those with R@1 at ``recall_floor`` or above.

    The first of equal ones; None where no measurement has both.
    """
    fit = [found for found in history if found.recall >= recall_floor]
    known = [found for found in fit if not math.isnan(found.opis.value)]
    return min(known, key=lambda found: found.opis.value, default=None)


def exhausted(history: Sequence[Validation], recall_floor: float, patience: int) -> bool:
    """Whether ``patience`` measurements have passed since the best one; never before there is one.

    ``patience`` 0 never ends a training.
    """
    best = best_of(history, recall_floor)
    if best is None or patience == 0:
        return False
    return sum(found.step > best.step for found in history) >= patience


def similarity_at_far(vectors: Vectors, labels: Labels, far: float) -> float:
    """Cosine similarity down to which at most the share ``far`` of the negative pairs reaches.

    ``vectors`` (n, d) float32 unit rows; all unordered pairs of different classes. To the step of
    ``ranges.fine_grid``. Raises ``ValueError`` without pairs of both kinds.
    """
    curve = class_far(vectors, [str(label) for label in labels])
    return 1.0 - float(curve.largest(far))


def similarity_at_frr(vectors: Vectors, labels: Labels, frr: float) -> float:
    """Cosine similarity under which at most the share ``frr`` of the positive pairs lies.

    All unordered pairs inside a class, and the step, as in ``similarity_at_far``. Raises
    ``ValueError`` without a positive pair.
    """
    grid = fine_grid()
    counts = np.zeros(grid.bins, np.int64)
    names, codes = np.unique(labels, return_inverse=True)
    for code in range(len(names)):
        members = np.ascontiguousarray(vectors[codes == code])
        for start in range(0, len(members), BLOCK):
            distances = deciding(members[start : start + BLOCK], members)
            earlier = np.tri(len(distances), len(members), start - 1, np.bool_)
            counts += np.bincount(grid.bin_of(distances[earlier]), minlength=grid.bins)
    if not counts.any():
        raise ValueError("no class has two items: no positive pair to find a similarity from")
    rejected = 1.0 - counts.cumsum()[:-1] / counts.sum()
    return 1.0 - float(grid.edges[int(np.argmax(rejected <= frr))])


def _recall(vectors: Vectors, names: list[str], item_ids: Sequence[str]) -> float:
    """R@1 of every item among all others, whoever's they are."""
    order = np.argsort(np.asarray(item_ids, np.str_), kind="stable")
    nobody = np.full(order.size, None, np.object_)
    # Two customers may use one id; places in the order of the ids are unique, and tie alike.
    places = np.asarray([f"{place:012d}" for place in range(order.size)], np.object_)
    label = np.asarray(names, np.object_)[order]
    items = Queries(np.ascontiguousarray(vectors[order]), places, label, nobody)
    gallery = Gallery(
        vectors=items.vectors, item_id=places, label=label, customer=nobody,
        role=nobody, split=nobody, metadata=pa.table({}),
    )  # fmt: skip
    return recall_at_1(items, gallery, np.ones(order.size, np.bool_))[0]
