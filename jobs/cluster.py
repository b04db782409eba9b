"""The Ray that a job runs in, and counting in Ray tasks; decides nothing."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.counting.classes import ClassCounts
from pipeline.counting.operating import Grid
from pipeline.counting.pairs import Labels, count_classes
from pipeline.distance import Vectors

# Read by Ray when it is imported or started; what the user has set stays.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # otherwise workers run at nice 15 and starve
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # the end of a short training is seen at once
}


@contextmanager
def connected(workers: int) -> Iterator[None]:
    """Inside the cluster that this job runs in, or in a private Ray that ends with the block."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    inside = "RAY_ADDRESS" in os.environ
    if not inside and "ray" not in sys.modules:
        # A token of this process tree guards Ray's own ports. Ray reads the mode when it is
        # imported; set later, it would hold for the children alone and lock this process out.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if inside:
        ray.init(**quiet)
    else:
        # "local": never join another Ray that happens to run on this machine.
        cpus = max(os.cpu_count() or 1, workers + 1)
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def count_on_cluster(
    vectors: Vectors, labels: Labels, item_ids: Sequence[str], grid: Grid, shards: int
) -> ClassCounts:
    """``pipeline.counting.pairs.count_classes`` in ``shards`` Ray tasks, on one core each.

    Arrays and errors as there; equal counts for any number of shards.
    """
    with connected(shards):
        import ray

        count = ray.remote(_count_shard)
        first, second, third = ray.put(vectors), ray.put(labels), ray.put(item_ids)
        waiting = [count.remote(first, second, third, grid, (i, shards)) for i in range(shards)]
        total: ClassCounts | None = None
        while waiting:  # added up as they come, so that never all of them are held
            (done, *_), waiting = ray.wait(waiting)
            try:
                part: ClassCounts = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            total = part if total is None else total + part
    if total is None:
        raise ValueError(f"shards: {shards}; expected at least 1")
    return total


def _count_shard(
    vectors: Vectors, labels: Labels, item_ids: Sequence[str], grid: Grid, shard: tuple[int, int]
) -> ClassCounts:
    return count_classes(vectors, labels, item_ids, grid, threads=1, shard=shard)
