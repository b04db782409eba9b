"""What one process of clients does: our own client against brute force, hit by hit.

Started by a test as a process of its own; it raises where an answer is not what it has to be, and
counts the queries it had answered.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from serving.client import AsyncClient, Client, Item, Query
from tests.search_world import unit_rows

AT_ONCE = 6
"""Requests that an asynchronous client has under way."""


@dataclass(frozen=True)
class Task:
    """What to ask, and what must be answered."""

    server: str
    key: str
    release: str
    threshold: float
    queries: np.ndarray
    """(n, d)"""
    order: list[list[tuple[float, str]]]
    """All that the customer sees, of each query: (distance, item_id), nearest first."""
    proven: bool
    """Whether no match may be missing even where no proof is asked for."""
    seed: int
    requests: int


def waiting(task: Task) -> int:
    """The synchronous client, one request after the other."""
    rng, asked = np.random.default_rng(task.seed), 0
    with Client(task.server, key=task.key) as limen:
        for _ in range(task.requests):
            rows, limit, exact = drawn(rng, task)
            answer = limen.query(task.queries[rows], limit=limit, exact=exact)
            check(task, rows, limit, exact, answer)
            row, page = int(rng.integers(len(task.queries))), int(rng.integers(1, 12))
            one = Query(embedding=task.queries[row])
            found = list(limen.matches(one, page=page, exact=True))
            assert pairs(found) == matches(task, row)
            asked += len(rows) + 1 + len(found) // page
    return asked


def awaiting(task: Task) -> int:
    """The asynchronous client, with several requests under way."""

    async def ask(limen: AsyncClient, seed: int) -> int:
        rng, asked = np.random.default_rng([task.seed, seed]), 0
        for _ in range(task.requests // AT_ONCE):
            rows, limit, exact = drawn(rng, task)
            answer = await limen.query(task.queries[rows], limit=limit, exact=exact)
            check(task, rows, limit, exact, answer)
            row, page = int(rng.integers(len(task.queries))), int(rng.integers(1, 12))
            one = Query(embedding=task.queries[row])
            found = [match async for match in limen.matches(one, page=page, exact=True)]
            assert pairs(found) == matches(task, row)
            asked += len(rows) + 1 + len(found) // page
        return asked

    async def all_of_them() -> int:
        async with AsyncClient(task.server, key=task.key) as limen:
            return sum(await asyncio.gather(*(ask(limen, seed) for seed in range(AT_ONCE))))

    return asyncio.run(all_of_them())


def changing(task: Task) -> int:
    """Another customer, which puts and deletes items near the queries of the others."""
    rng, done = np.random.default_rng(task.seed), 0
    with Client(task.server, key=task.key) as limen:
        for number in range(task.requests):
            near = task.queries[rng.integers(len(task.queries), size=5)]
            items = [Item(item_id=f"{task.seed}-{number}-{place}", embedding=row)
                     for place, row in enumerate([*near, *unit_rows(rng, 1, near.shape[1])])]
            assert limen.put_items(items).accepted == len(items)
            seen = limen.query(near[:1], limit=1000).results[0].matches
            assert items[0].item_id in {match.item_id for match in seen}
            for item in items:
                limen.delete_item(item.item_id)
            seen = limen.query(near[:1], limit=1000).results[0].matches
            assert not {item.item_id for item in items} & {match.item_id for match in seen}
            done += 1 + len(items)
    return done


def drawn(rng, task):
    """Rows of a batch of 1 to 64, a limit, and whether proof is asked for."""
    rows = rng.integers(len(task.queries), size=int(rng.integers(1, 65)))
    return rows, int(rng.choice([1, 2, 7, 12, 40, 1000])), bool(rng.random() < 0.3)


def pairs(found):
    return [(match.distance, match.item_id) for match in found]


def matches(task, row):
    return [entry for entry in task.order[row] if entry[0] <= task.threshold]


def check(task, rows, limit, exact, answer):
    """Each result against brute force: its matches, their number, what is next and what is not."""
    assert answer.release == task.release
    assert answer.threshold.value == task.threshold
    assert len(answer.results) == len(rows)
    for row, result in zip(rows, answer.results, strict=True):
        expected, found = matches(task, row), pairs(result.matches)
        assert result.complete
        if not (exact or task.proven or result.match_recall == 1.0):
            assert set(found) <= set(expected)
            assert found == sorted(found)
            assert len(found) == min(limit, result.match_count)
            continue
        assert result.match_recall == 1.0
        assert found == expected[:limit], row
        assert result.match_count == len(expected)
        assert (result.next_cursor is None) == (len(expected) <= limit)
        rejected = task.order[row][len(expected)]
        assert pairs([result.nearest_rejected]) == [rejected]
