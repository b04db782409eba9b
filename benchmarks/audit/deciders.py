"""Decision sets with known true matches: simulated ones, and those of trained embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.study.measuring import measurable
from benchmarks.study.plan import Run, runs
from benchmarks.study.running import embedded
from benchmarks.study.worlds import world
from pipeline.audit.ensemble import majority

Mask = NDArray[np.bool_]
VOTE = "vote"
FAR = 1e-3
"""Share of the negative pairs of the calibrate classes that each embedding accepts."""
_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Deciders:
    """m rows, what each set accepts of them, and whether they are true matches."""

    names: tuple[str, ...]
    """The members, then their vote."""
    columns: list[Mask]
    match: Mask

    @property
    def truths(self) -> NDArray[np.float64]:
        """(J,) the precision of each set."""
        return np.array([self.match[column].mean() for column in self.columns])

    @property
    def overlap(self) -> float:
        """Mean share of a member's rows that another member accepts too."""
        members = self.columns[:-1]
        shares = [(one & other).sum() / one.sum()
                  for one in members for other in members if one is not other]
        return float(np.mean(shares)) if shares else 1.0


def with_vote(members: Sequence[Mask], match: Mask, names: Sequence[str] = ()) -> Deciders:
    """``members`` and their majority, over the rows that any of them accepts."""
    named = tuple(names) or tuple(f"member {place + 1}" for place in range(len(members)))
    vote = majority(VOTE, named).accepts(members)
    held = np.any(members, axis=0)
    return Deciders((*named, VOTE), [column[held] for column in (*members, vote)], match[held])


def simulated(overlap: float, rng: np.random.Generator, members: int = 3) -> Deciders:
    """Members that accept 10,000 rows each, two of them sharing ``overlap`` of theirs.

    A row's chance of being accepted is a common one for all members: a share ``1 - u`` of rows is
    open to all, each of which a member accepts with probability ``overlap``, so that rows which
    all accept, two accept and one accepts all occur. The more members accept a row, the likelier
    it is a true match: from .5 with one of them to .95 with all.
    """
    rows = round(10_000 / overlap)
    decided = rng.random((members, rows)) < overlap
    votes = decided.sum(axis=0)
    match = rng.random(rows) < 0.5 + 0.45 * (votes - 1) / max(1, members - 1)
    return with_vote(list(decided), match)


def lopsided(rng: np.random.Generator) -> Deciders:
    """A parent, last like a vote, and two children that reach further and further beyond it.

    True matches get rarer outwards: .9 in the parent, .5 and .1 beyond.
    """
    row = np.arange(6000)
    children = [(row >= 1000) & (row < 4000), row >= 1500]
    match = rng.random(row.size) < np.where(row < 2000, 0.9, np.where(children[0], 0.5, 0.1))
    return Deciders(("child 1", "child 2", "parent"), [*children, row < 2000], match)


def trained(scratch: Path, count: int) -> Deciders:
    """The first ``count`` runs of the study on the emoji, each at its own threshold.

    Rows are the pairs of report items that any of them accepts; the labels of the items are the
    truth. Runs whose embedding is not in ``scratch`` are trained.
    """
    emoji = world("emoji")
    chosen = _chosen(count)
    rows = np.flatnonzero(measurable(emoji))
    split = emoji.items.split[rows].astype(np.str_)
    label = np.unique(emoji.items.label[rows].astype(np.str_), return_inverse=True)[1]
    members = []
    for run in chosen:
        vectors = embedded(run, emoji, scratch, print)[0]
        limit = _similarity_at(vectors[split == "calibrate"], label[split == "calibrate"])
        members.append(_accepted(vectors[split == "report"], limit))
    report = label[split == "report"]
    above = np.triu_indices(report.size, 1)
    match = report[above[0]] == report[above[1]]
    return with_vote(members, match, [_name(run) for run in chosen])


def _chosen(count: int) -> list[Run]:
    """The demo's loss first, seed by seed, so that the first three differ by nothing else."""
    found = [run for run in runs("emoji")
             if run.comparison.data == "emoji" and run.comparison.backbone == "cnn"]
    found.sort(key=lambda run: (run.comparison.name, run.margins is None, run.seed))
    return found[:count]


def _name(run: Run) -> str:
    tcm = "" if run.margins is None else " with TCM"
    return f"{run.comparison.loss}{tcm}, seed {run.seed}"


def _similarity_at(vectors: NDArray[np.float32], label: NDArray[np.int64]) -> float:
    """The similarity from which on ``FAR`` of the negative pairs are accepted."""
    above = np.triu_indices(len(vectors), 1)
    negative = label[above[0]] != label[above[1]]
    return float(np.quantile(_products(vectors)[negative], 1 - FAR))


def _accepted(vectors: NDArray[np.float32], limit: float) -> Mask:
    return np.asarray(_products(vectors) >= limit)


def _products(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The products of all pairs, row after row of the upper triangle."""
    parts = []
    for start in range(0, len(vectors), _ROWS):
        block = vectors[start : start + _ROWS] @ vectors.T
        parts += [line[start + place + 1 :] for place, line in enumerate(block)]
    return np.concatenate(parts)
