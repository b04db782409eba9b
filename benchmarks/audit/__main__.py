"""How many labels an audit needs: the published simulation, many members, trained embeddings.

    .venv/bin/python -m benchmarks.audit               # 10 minutes; writes docs/study/audit.md
    .venv/bin/python -m benchmarks.audit --quick       # every part once, writes nothing

The embeddings are those of ``make study``; what is not there is trained first, a minute each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.audit.deciders import Deciders, lopsided, simulated, trained
from benchmarks.audit.measuring import (
    Repeated,
    alone,
    by_cells,
    by_form,
    by_its_cells,
    by_sequence,
    lent_alone,
    pooled,
)
from pipeline.audit.cells import cells_of
from pipeline.durable import write_durably

OVERLAPS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MEMBERS = (3, 5, 7, 9, 11, 13, 15)
TRAINED = (3, 6, 12, 24)
MARGIN = 0.05
PAGE = Path("docs/study/audit.md")
SCRATCH = Path("runs/study")


def main() -> None:
    """Measure, print, and write the page unless ``--quick``."""
    asked = argparse.ArgumentParser(description="How many labels an audit needs.")
    asked.add_argument("--quick", action="store_true", help="few draws, nothing written")
    quick = asked.parse_args().quick
    lines = []
    for line in _page(20 if quick else 2000, TRAINED[:1] if quick else TRAINED):
        print(line, flush=True)
        lines.append(line)
    if not quick:
        write_durably(PAGE, ("\n".join(lines) + "\n").encode())


def _page(draws: int, trained_members: tuple[int, ...]) -> Iterator[str]:
    yield "# How many labels an audit needs"
    yield ""
    yield (f"Written by `python -m benchmarks.audit`: {draws:,} audits of each world with fixed "
           f"seeds, a margin of {MARGIN:g} for every set (95 %), true-match shares believed to "
           "be one half. Saving: labels left out against independent samples of every set "
           "(Cochran, finite population).")
    yield from _simulation(draws)
    yield from _many()
    yield from _trained(draws, trained_members)


def _simulation(draws: int) -> Iterator[str]:
    yield ""
    yield "## Three classifiers and their majority vote"
    yield ""
    yield ("The published simulation, by the share of a classifier's rows that another accepts "
           "too. 10,000 rows each; the published procedure saves 33 % in the mean there.")
    yield ""
    yield _row("overlap", "independent", "cells", "saving", "published procedure", "saving",
               "largest bias of a set", "in standard errors", "coverage of the intervals",
               "variance, resample against reshuffle")
    yield _row(*["---"] * 10)
    savings = []
    for place, overlap in enumerate(OVERLAPS):
        world = simulated(overlap, np.random.default_rng(place))
        labels = sum(alone(world, MARGIN))
        cells, plain = by_cells(world, MARGIN, draws), by_sequence(world, MARGIN, draws)
        again = by_sequence(world, MARGIN, draws, again=True)
        savings.append((1 - cells.labels / labels, 1 - plain.labels / labels))
        ratio = float((again.values.var(axis=0) / plain.values.var(axis=0)).mean())
        yield _row(f"{overlap:.1f}", f"{labels:,}", f"{cells.labels:,.0f}",
                   f"{savings[-1][0]:.0%}", f"{plain.labels:,.0f}", f"{savings[-1][1]:.0%}",
                   *_bias(world, cells), _coverage(cells), f"{ratio:.2f}")
    yield ""
    ours, theirs = np.array(savings).T
    yield (f"Mean saving: cells {ours.mean():.0%} (from .5 on {ours[2:].mean():.0%}), published "
           f"procedure {theirs.mean():.0%}.")
    yield ""
    yield ("Two forms that look as good and are not. Here a parent and two children that reach "
           "further and further beyond it, samples of 200, 500 and 500.")
    yield ""
    yield _row("form", "largest bias", "in standard errors")
    yield _row("---", "---", "---")
    world = lopsided(np.random.default_rng(3))
    for name, form in (("S+ alone: the labels the parent lends", lent_alone),
                       ("pooled labels from the second child on", pooled),
                       ("the published procedure, by cell", by_its_cells)):
        found = by_form(world, [200, 500, 500], draws, form(world.match))
        yield _row(name, *_bias(world, found))


def _many() -> Iterator[str]:
    yield ""
    yield "## Many members"
    yield ""
    yield ("K members and their vote, overlap .9. The most that can be saved is K/(K+1): one "
           "sample instead of K+1. Published: over 89 % on real data.")
    yield ""
    yield _row("members", "independent", "cells", "saving", "ceiling")
    yield _row(*["---"] * 5)
    for members in MEMBERS:
        world = simulated(0.9, np.random.default_rng(members), members)
        yield _row(str(members), *_saved(world), f"{members / (members + 1):.0%}")


def _trained(draws: int, counts: tuple[int, ...]) -> Iterator[str]:
    yield ""
    yield "## Trained embeddings"
    yield ""
    yield ("Embeddings of the emoji trained with different seeds, losses, with and without TCM, "
           "each at the threshold at which it accepts 1e-3 of the negative pairs of the calibrate "
           "classes. Rows are the pairs of report items that any of them accepts, the items' "
           "labels are the truth.")
    yield ""
    yield _row("members", "rows", "overlap", "cells", "independent", "by cells", "saving",
               "largest bias of a set", "in standard errors", "coverage of the intervals")
    yield _row(*["---"] * 10)
    for count in counts:
        world = trained(SCRATCH, count)
        occupied = cells_of(world.names, world.columns)[0].size.size
        found = by_cells(world, MARGIN, draws if count < 10 else max(20, draws // 10))
        yield _row(str(count), f"{world.match.size:,}", f"{world.overlap:.2f}", f"{occupied:,}",
                   *_saved(world), *_bias(world, found), _coverage(found))


def _saved(world: Deciders) -> tuple[str, str, str]:
    labels, ours = sum(alone(world, MARGIN)), by_cells(world, MARGIN, 1).labels
    return f"{labels:,}", f"{ours:,.0f}", f"{1 - ours / labels:.1%}"


def _bias(world: Deciders, found: Repeated) -> tuple[str, str]:
    bias, error = found.bias(world.truths), found.error()
    worst = int(np.abs(bias).argmax())
    return f"{bias[worst]:+.4f}", f"{np.abs(bias / error).max():.1f}"


def _coverage(found: Repeated) -> str:
    return f"{100 * found.covered.min():.1f} to {100 * found.covered.max():.1f} %"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
