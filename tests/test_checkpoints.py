"""A checkpoint comes back as it was written, from a folder or a URL, or it is refused."""

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.checkpoints import Checkpoint, CheckpointError, checkpoint_of
from jobs.workspace import Workspace
from pipeline.models.registry import build_model
from pipeline.training.loop import TrainState, fit
from tests.killing import survives
from tests.training_world import images, recipe


def states():
    """Real states after 2 and 4 steps, with everything that a training can have to keep."""
    made = []
    wanted = recipe(
        base="uss", memory=8, steps=4, checkpoint_every=2, precision="float16", average=0.5,
        validate_share=0.4, validate_every=2, patience=3, recall_floor=0.01,
    )  # fmt: skip
    fit(*images(), recipe=wanted, model=build_model(wanted.model, kind="image", seed=0),
        on_checkpoint=made.append, progress=lambda _: None)  # fmt: skip
    return made


@pytest.fixture(scope="module")
def state():
    return states()[0]


@pytest.fixture(params=["{}/runs/a.checkpoint.pt", "file://{}/a/b.pt", "memory://{}/a/b.pt"])
def checkpoint(request, tmp_path):
    return Checkpoint(request.param.format(tmp_path))


def assert_same(one, other):
    """Equal data all the way down."""
    assert type(one) is type(other) or {type(one), type(other)} == {list, tuple}
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        np.testing.assert_equal(one, other)


def test_a_state_comes_back_whole_from_every_kind_of_place(checkpoint, state):
    assert checkpoint.read(state.fingerprint) is None
    checkpoint.remove()  # nothing there is nothing to remove
    checkpoint.write(dataclasses.replace(state, step=1))
    checkpoint.write(state)
    found = checkpoint.read(state.fingerprint)
    for field in dataclasses.fields(TrainState):
        assert_same(getattr(found, field.name), getattr(state, field.name))
    with pytest.raises(CheckpointError, match="another recipe or of other items; delete it"):
        checkpoint.read("another run")
    checkpoint.remove()
    assert checkpoint.read(state.fingerprint) is None


def test_a_writer_killed_anywhere_leaves_the_old_state_or_the_new_one(tmp_path, state):
    checkpoint = Checkpoint(str(tmp_path / "a.pt"))
    checkpoint.write(dataclasses.replace(state, step=1))
    newer = dataclasses.replace(state, step=2)
    seen, requests = [], 0
    while not survives(lambda: checkpoint.write(newer), requests):
        seen.append(checkpoint.read(state.fingerprint).step)
        requests += 1
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}


def flipped(data):
    """One bit of a weight is another: everything can be read."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        weights = archive.read(largest)
    place = data.index(weights) + len(weights) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2],
                                    lambda data: b"no" + data, lambda data: b"0\n.",
                                    lambda data: flipped(data)])  # fmt: skip
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path, state, damage):
    path = tmp_path / "a.pt"
    Checkpoint(str(path)).write(state)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"a\.pt: no checkpoint of this version; delete it"):
        Checkpoint(str(path)).read(state.fingerprint)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    torch.save({"fingerprint": "f", "step": 3}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: no checkpoint of this version"):
        Checkpoint(str(tmp_path / "a.pt")).read("f")


def test_a_place_that_cannot_hold_any_is_refused():
    with pytest.raises(CheckpointError, match=r"^zzz://bucket/a\.pt: cannot hold .*LIMEN_CHECKPO"):
        Checkpoint("zzz://bucket/a.pt").read("f")


@pytest.mark.parametrize(
    ("variable", "where"),
    [
        (None, "runs/emoji-1/tcm.checkpoint.pt"),
        ("s3://bucket/states/", "s3://bucket/states/emoji-1/tcm.checkpoint.pt"),
        ("states", "{}/states/emoji-1/tcm.checkpoint.pt"),
    ],
)
def test_the_environment_says_where_checkpoints_are(tmp_path, monkeypatch, variable, where):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIMEN_CHECKPOINTS", raising=False)
    if variable is not None:
        monkeypatch.setenv("LIMEN_CHECKPOINTS", variable)
    workspace = Workspace(Path("runs/emoji-1"))
    assert checkpoint_of(workspace, "tcm").where == where.format(tmp_path)
