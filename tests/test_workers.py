"""Ray workers train what one process trains, also where some of them are killed."""

import itertools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from jobs import workers
from jobs.cluster import connected
from jobs.train import train_share
from jobs.workers import train_on_workers
from jobs.workspace import Workspace
from pipeline.models.registry import load_model
from pipeline.training.collective import Collective
from pipeline.training.loop import TrainingError
from tests.training_items import write_items
from tests.training_world import images, recipe

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _one_ray():
    """Starting Ray takes seconds: once for all."""
    with connected(2):
        yield


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "run")
    write_items(made)
    return made


def shared(**train):
    """A recipe for two workers."""
    options = {"steps": 120, "checkpoint_every": 20, "learning_rate": 1e-4, "workers": 2, **train}
    return recipe(tcm=True, **options)


def _share(rank, folder):
    """One of two processes that train without Ray."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    seen = []
    train_share(shared(), Workspace(folder / "run"), "tcm", seen.append, Collective(rank, 2))
    torch.save({progress.step: progress.loss for progress in seen}, folder / f"losses{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The model's file and the losses by step of two workers that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    made = Workspace(folder / "run")
    write_items(made)
    multiprocessing.spawn(_share, (folder,), nprocs=2)
    losses = torch.load(folder / "losses0.pt")
    assert list(losses) == list(range(1, 121))
    assert torch.load(folder / "losses1.pt") == {}
    return made.model("tcm"), losses


def process_tree(pid):
    """Ids of a process and of all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += process_tree(int(child))
    return found


def training_workers():
    """Process ids of this test's own training workers, by start."""
    mine = process_tree(os.getpid())
    return [p for p in sorted(mine) if b"RayTrainWorker" in Path(f"/proc/{p}/cmdline").read_bytes()]


class Killer:
    """Shows progress by killing one worker when ``step`` is first reached."""

    def __init__(self, step):
        self.step, self.seen, self.killed = step, [], None

    def __call__(self, progress):
        self.seen.append((progress.step, progress.loss))
        if self.killed is None and progress.step >= self.step:
            (_, self.killed) = training_workers()
            os.kill(self.killed, signal.SIGKILL)

    def attempts(self):
        """The losses by step of each start of the workers."""
        starts = [i for i, (a, b) in enumerate(itertools.pairwise(self.seen), 1) if b[0] <= a[0]]
        return [dict(self.seen[a:b]) for a, b in itertools.pairwise([0, *starts, None])]


def test_workers_of_which_one_is_killed_train_what_undisturbed_ones_and_one_alone_train(
    undisturbed, tmp_path
):
    workspace = Workspace(tmp_path / "run", checkpoints=f"file://{tmp_path}/elsewhere")
    write_items(workspace)
    killer = Killer(47)
    train_on_workers(shared(), workspace, "tcm", killer)
    path, losses = undisturbed
    before, after = killer.attempts()
    assert max(before) >= 47
    assert min(after) % 20 == 1 < min(after) <= max(before) + 1
    assert before == {step: losses[step] for step in before}  # to the last bit
    assert after == {step: losses[step] for step in range(min(after), 121)}
    mine, theirs = load_model(workspace.model("tcm")), load_model(path)
    assert mine[1] == theirs[1]
    for name, value in mine[0].state_dict().items():
        assert torch.equal(value, theirs[0].state_dict()[name]), name
    assert (tmp_path / "elsewhere" / "run").is_dir()
    assert not list((tmp_path / "elsewhere").rglob("*.pt"))
    assert not (workspace.folder / "ray").exists()
    alone, seen = Workspace(tmp_path / "alone"), []
    write_items(alone)
    train_share(shared(workers=0), alone, "tcm", seen.append)
    np.testing.assert_allclose([p.loss for p in seen], list(losses.values()), rtol=1e-3)
    pixels = torch.from_numpy(images()[0])
    one = load_model(alone.model("tcm"))[0]
    np.testing.assert_allclose(mine[0](pixels).detach(), one(pixels).detach(), atol=5e-3)


def test_workers_that_die_too_often_are_given_up_in_one_line(workspace, monkeypatch):
    monkeypatch.setattr(workers, "RETRIES", 0)
    killer = Killer(30)
    with pytest.raises(TrainingError, match=r"^workers died 1 times: .* from the last checkpoint"):
        train_on_workers(shared(steps=5000), workspace, "tcm", killer)
    assert killer.killed is not None
    assert workspace.checkpoint("tcm").exists()
    assert not workspace.model("tcm").exists()


def test_what_a_worker_refuses_is_said_at_once_and_not_tried_again(workspace):
    seen, hopeless = [], shared(learning_rate=1e30, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"loss is .*nan"):
        train_on_workers(hopeless, workspace, "tcm", lambda progress: seen.append(progress.step))
    assert seen == sorted(set(seen))
