"""Training on several workers under Ray Train; decides nothing.

Workers read the workspace, so on a cluster it lies on a disk that all nodes share. One that dies
is started again with all the others, and they go on from the last checkpoint: the steps since are
done again, with the losses that they had.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from jobs.cluster import connected
from jobs.command import for_people
from jobs.workspace import Workspace
from pipeline.config import Recipe
from pipeline.training.loop import Progress, TrainingError

RETRIES = 3
"""How often in one training workers are started again. Machines that the cluster announces to take
back (preemption) do not count."""

_PEER_LOST = ("closed by peer", "reset by peer", "remote process exited")
"""What gloo and NCCL say in a worker that was waiting for one that died."""

_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""What a machine refuses until somebody mends it: a full disk, a folder not to be written."""


def train_on_workers(
    recipe: Recipe, workspace: Workspace, tag: str, show: Callable[[Progress], None]
) -> None:
    """Train ``tag`` on ``train.workers`` workers; ``show`` gets the first one's progress.

    Steps that are done again after the death of a worker are shown again. Raises what a worker
    refused (``TrainingError``, ``RecipeError``) at once, and ``TrainingError`` once workers died
    more than ``RETRIES`` times.
    """
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
    from ray.exceptions import RayActorError
    from ray.train import (
        ControllerError,
        FailureConfig,
        RunConfig,
        ScalingConfig,
        WorkerGroupError,
    )
    from ray.train.torch import TorchConfig, TorchTrainer

    cuda = recipe.train.device == "cuda"
    workspace = replace(workspace, folder=workspace.folder.absolute())
    account = workspace.folder / "ray"
    with _drained(show) as queue:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "recipe": recipe, "workspace": workspace, "tag": tag, "queue": queue
            },
            torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=recipe.train.workers, use_gpu=cuda,
                resources_per_worker={"CPU": 1, "GPU": 1} if cuda else {"CPU": 1},
            ),
            run_config=RunConfig(
                name=tag, storage_path=str(account), callbacks=[_refusals()],
                failure_config=FailureConfig(max_failures=RETRIES),
            ),
        )  # fmt: skip
        try:
            with _interrupt_kept():
                trainer.fit()
        except ControllerError as error:
            raise _cause([error.controller_failure], error, RayActorError) from None
        except WorkerGroupError as error:
            raise _cause(error.worker_failures.values(), error, RayActorError) from None
        finally:
            # Ray's own account of the run; ours is the checkpoint and the model.
            shutil.rmtree(account, ignore_errors=True)


@contextmanager
def _drained(show: Callable[[Progress], None]) -> Iterator[Any]:
    """A queue whose entries are shown as they come, on this node: it outlives any other."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def drain() -> None:
        while (progress := queue.get()) is not None:
            show(progress)

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.put(None)
        thread.join(timeout=5)
        queue.shutdown()


def _refusals() -> Any:  # noqa: ANN401 - Ray's class is known once Ray is imported
    """What ends a run where a worker refused something: trying again would not mend it."""
    from ray.train import UserCallback

    class Refusals(UserCallback):
        def after_exception(
            self, run_context: object, worker_exceptions: dict[int, Exception]
        ) -> None:
            for refusal in _refused(worker_exceptions.values()):
                raise refusal

    return Refusals()


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


def _refused(failures: Iterable[Exception]) -> list[Exception]:
    """Those failures that are refusals of ours or the machine's: one line for whoever asked."""
    bases = [getattr(failure, "_base_exc", failure) for failure in failures]
    return [
        base for base in bases
        if for_people(base) or (isinstance(base, OSError) and base.errno in _MACHINE)
    ]  # fmt: skip


def _cause(
    failures: Iterable[Exception], otherwise: Exception, death: type[Exception]
) -> Exception:
    """What ended a run, in words of ours as one process would have it; else ``otherwise``.

    ``death``: how Ray calls the end of a process.
    """
    failures = list(failures)
    if refused := _refused(failures):
        return refused[0]
    if any(
        isinstance(getattr(failure, "health_check_failure", None), death)
        or any(said in str(failure) for said in _PEER_LOST)
        for failure in failures
    ):
        return TrainingError(
            f"workers died {RETRIES + 1} times: out of memory, or ended from outside; mend that, "
            "and the same command goes on from the last checkpoint"
        )
    return otherwise


def _worker(config: dict[str, Any]) -> None:
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
    train_share(
        config["recipe"], config["workspace"], config["tag"], config["queue"].put, collective
    )
