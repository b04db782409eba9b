"""The token ids of text items, read once for every later job."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.data.checks import Faults
from pipeline.data.items import Items, ItemsError
from pipeline.data.readers import fault_line, set_aside
from pipeline.data.tokeniser import TokenIds, Tokeniser


def tokenise_all(
    items: Items, tokeniser: Tokeniser, *, source: str, rejected: Path | None = None
) -> tuple[Items, TokenIds]:
    """The items and their token ids (n, tokens), aligned.

    Raises ``ItemsError`` for the first text that cannot be read, naming ``source`` and the row
    of ``items``; with ``rejected`` such rows are added to that file and left out of both.
    """
    ids, reasons = tokeniser.read(items.content.tolist())
    faults: Faults = {row: ("text", reason) for row, reason in sorted(reasons.items())}
    if not faults:
        return items, ids
    if rejected is None:
        row = next(iter(faults))
        raise ItemsError(fault_line(source, items, row, *faults[row]))
    # The reader may have set rows aside, so these are not the row numbers of the source.
    set_aside(rejected, items.to_table(), faults, numbered=False)
    good = np.setdiff1d(np.arange(len(items)), np.fromiter(faults, np.int64))
    if good.size == 0:
        raise ItemsError(f"{source}: none of {len(items)} texts can be read, see {rejected}")
    return items.take(good), ids[good]
