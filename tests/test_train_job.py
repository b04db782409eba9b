"""The verb ``train``: files appear whole, a second run goes on where the first one stopped."""

import dataclasses

import numpy as np
import pytest
import torch
from rich.console import Console

import jobs.train
from jobs.train import read_checkpoint, train, training_set
from jobs.workspace import Workspace
from pipeline.models.registry import load_model
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
    inputs, labels = training_set(workspace)
    np.testing.assert_array_equal(inputs, images()[0][:48])
    np.testing.assert_array_equal(labels, np.arange(8).repeat(6))


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

    def interrupt(path, state):
        jobs_write(path, state)
        raise KeyboardInterrupt

    jobs_write = jobs.train.write_checkpoint
    monkeypatch.setattr(jobs.train, "write_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(wanted, workspace, tcm=False, console=console)
    assert not workspace.model("base").exists()
    monkeypatch.setattr(jobs.train, "write_checkpoint", lambda _, state: seen.append(state))
    resumed = load_model(train(wanted, workspace, tcm=False, console=console))[0]
    assert not workspace.checkpoint("base").exists()
    workspace.model("base").unlink()
    whole = load_model(train(wanted, workspace, tcm=False, console=console))[0]
    # The first run stopped after 5 steps; the second wrote at 10 and 12, the third at 5 too.
    assert [state.step for state in seen] == [10, 12, 5, 10, 12]
    assert seen[1].losses == seen[4].losses
    for name, value in whole.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], value)


def test_a_checkpoint_of_another_run_is_not_used(workspace, console):
    train(recipe(checkpoint_every=4), workspace, tcm=False, console=console)
    path = workspace.checkpoint("other")
    assert read_checkpoint(path, "any") is None
    state = jobs.train.TrainState("mark", 1, (0.5,), {"w": torch.ones(2)}, {}, {})
    jobs.train.write_checkpoint(path, state)
    assert read_checkpoint(path, "another") is None
    kept = read_checkpoint(path, "mark")
    assert (kept.step, kept.losses, kept.model["w"].tolist()) == (1, (0.5,), [1.0, 1.0])
