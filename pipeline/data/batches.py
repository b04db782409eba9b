"""Batches of a few items from each of several classes, so that every batch has positive pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.data.items import ItemsError


class ClassBatches:
    """m items from each of c classes a batch; a batch is a pure function of seed and step.

    The classes are shuffled anew in every round and dealt out; a round ends when fewer than c
    are left. A class with a single item has no positive pair and is left out. From a class with
    fewer than m items all are taken, some of them again.
    """

    def __init__(
        self, labels: NDArray[np.int64], *, classes_per_batch: int, items_per_class: int, seed: int
    ) -> None:
        """Group the rows of ``labels`` (n,) by class.

        Raises ``ItemsError`` where fewer than ``classes_per_batch`` classes have two items.
        """
        order = np.argsort(labels, kind="stable")
        starts = np.flatnonzero(np.diff(labels[order])) + 1
        groups = np.split(order, starts)
        self._members = [rows for rows in groups if len(rows) > 1]
        self.left_out = sum(len(rows) == 1 for rows in groups)
        """Classes with a single item, in no batch."""
        if len(self._members) < classes_per_batch:
            raise ItemsError(
                f"{len(self._members)} classes to train on have two items or more; expected at "
                f"least classes_per_batch = {classes_per_batch}: lower it, or add items"
            )
        self._classes = classes_per_batch
        self._items = items_per_class
        self._seed = seed

    def rows(self, step: int) -> NDArray[np.int64]:
        """(c * m,) rows of batch ``step``, class by class."""
        round_number, place = divmod(step, len(self._members) // self._classes)
        order = np.random.default_rng((self._seed, 0, round_number)).permutation(
            len(self._members)
        )
        rng = np.random.default_rng((self._seed, 1, step))
        dealt = order[place * self._classes : (place + 1) * self._classes]
        return np.concatenate([self._draw(rng, self._members[index]) for index in dealt])

    def _draw(
        self, rng: np.random.Generator, members: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """(m,) rows of one class, each repeated only once all are in."""
        repeats = -(-self._items // len(members))
        shuffled = [rng.permutation(members) for _ in range(repeats)]
        return np.concatenate(shuffled)[: self._items]
