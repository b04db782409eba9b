"""Training on several workers under Ray Train, and counting in Ray tasks; decides nothing.

Training workers read the workspace, so on a cluster it lies on a disk that all nodes share.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.command import for_people
from jobs.workspace import Workspace
from pipeline.classes import ClassCounts
from pipeline.config import Recipe
from pipeline.distance import Vectors
from pipeline.operating import Grid
from pipeline.pairs import Labels, count_classes
from pipeline.training.loop import Progress, TrainingError

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
    """``pipeline.pairs.count_classes`` in ``shards`` Ray tasks, on one core each.

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


def train_on_workers(
    recipe: Recipe, workspace: Workspace, tag: str, show: Callable[[Progress], None]
) -> None:
    """Train ``tag`` on ``train.workers`` workers; ``show`` gets the first one's progress."""
    with connected(recipe.train.workers):
        _require_devices(recipe)
        _train(recipe, workspace, tag, show)


def _require_devices(recipe: Recipe) -> None:
    """``TrainingError`` where workers would wait for GPUs for ever; a cluster may grow some."""
    if recipe.train.device != "cuda" or "RAY_ADDRESS" in os.environ:
        return
    import ray

    # Ray gives this function no types.
    there = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    if there < recipe.train.workers:
        raise TrainingError(
            f"train.device is 'cuda' for {recipe.train.workers} workers, this machine has "
            f"{there} GPUs; lower train.workers or set train.device to 'cpu'"
        )


def _train(
    recipe: Recipe, workspace: Workspace, tag: str, show: Callable[[Progress], None]
) -> None:
    from ray.train import RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Queue

    cuda = recipe.train.device == "cuda"
    queue = Queue(actor_options={"num_cpus": 0})
    folder = workspace.folder.absolute()
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"recipe": recipe, "folder": str(folder), "tag": tag, "queue": queue},
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=recipe.train.workers, use_gpu=cuda, resources_per_worker=_resources(cuda)
        ),
        run_config=RunConfig(name=tag, storage_path=str(folder / "ray")),
    )
    drain = threading.Thread(target=_drain, args=(queue, show), daemon=True)
    drain.start()
    try:
        with _interrupt_kept():
            trainer.fit()
    except WorkerGroupError as error:
        raise _cause(error.worker_failures.values(), error) from None
    finally:
        queue.put(None)
        drain.join(timeout=5)
        queue.shutdown()
        # Ray's own account of the run; ours is the checkpoint and the model.
        shutil.rmtree(folder / "ray", ignore_errors=True)


@contextmanager
def _interrupt_kept() -> Iterator[None]:
    """Ray Train takes the interrupt over, ends the process with success, and never gives it back.

    An interrupt inside is a ``KeyboardInterrupt`` as everywhere else, and so is a later one.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def _cause(failures: Iterable[Exception], otherwise: Exception) -> BaseException:
    """What a worker refused in words of ours, as one process would have; else ``otherwise``."""
    for failure in failures:
        cause: BaseException = getattr(failure, "_base_exc", failure)
        if for_people(cause):
            return cause
    return otherwise


def _resources(cuda: bool) -> dict[str, float]:
    return {"CPU": 1, "GPU": 1} if cuda else {"CPU": 1}


def _worker(config: dict[str, object]) -> None:
    """What each worker runs: its share of the same loop that one process runs alone."""
    import torch
    from ray import train as ray_train
    from ray.train.torch import get_device

    from jobs.train import train_share
    from pipeline.training.collective import Collective

    if get_device().type == "cuda":
        torch.cuda.set_device(get_device())
    place = ray_train.get_context()
    collective = Collective(rank=place.get_world_rank(), size=place.get_world_size())
    recipe, queue = config["recipe"], config["queue"]
    assert isinstance(recipe, Recipe)
    show: Callable[[Progress], None] = queue.put  # type: ignore[attr-defined]
    workspace = Workspace(Path(str(config["folder"])))
    train_share(recipe, workspace, str(config["tag"]), show, collective)


def _drain(queue: object, show: Callable[[Progress], None]) -> None:
    """Pass progress on until None comes."""
    while (progress := queue.get()) is not None:  # type: ignore[attr-defined]
        show(progress)
