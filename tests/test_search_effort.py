"""How many lists a segment is parted into."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.search import data
from pipeline.search.effort import calibrated_lists, true_matches

ROWS = 20_000


@pytest.mark.parametrize(("family", "lists"), [(5, 4 * 125), (25, 125)])
def test_rows_in_more_clusters_than_lists_are_parted_into_more(monkeypatch, family, lists):
    # 200 families of 5 classes have no 125 lists to themselves; 40 of 25 have.
    monkeypatch.setattr(data, "FAMILY", family)
    vectors = data.world(ROWS, 64)
    held_out, used = np.split(np.random.default_rng(0).permutation(ROWS), [256])
    truth = true_matches(vectors, held_out, 0.3)
    found = calibrated_lists(truth, vectors, used, 1.0, 125, 0.999)
    assert found.lists.count == lists
    assert found.share.match_recall >= 0.999
    assert found.looked_at < 0.1 * ROWS
    # What the share says, counted: the lists of all matches that a query probes.
    hits = 0
    for place, row in enumerate(truth.queries):
        chosen, _ = found.lists.choose(vectors[[row]], found.nearness, np.float32(0.3))
        mine = found.assigned[truth.matches[truth.owner == place]]
        hits += int(np.isin(mine, chosen.lists).sum())
    assert hits / (truth.matches.size + 1) == pytest.approx(found.share.match_recall)
