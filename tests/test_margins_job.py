"""``margins = "auto"``: the search as a job, interrupted and gone on with, and what it leaves."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console

from jobs.margins import margins_path, settled
from jobs.prepare import prepare
from jobs.run import run
from jobs.stage import staged
from jobs.train import train, train_share, training_set
from jobs.workspace import Workspace
from pipeline.config import load_recipe
from pipeline.data.items import ItemsError
from pipeline.losses.config import TcmConfig
from pipeline.models.registry import load_model
from pipeline.releases.store import Store
from pipeline.strict import RecipeError
from pipeline.training.trials import Margins, Setting
from pipeline.training.validation import validation_rows
from tests.tiny_run import write_items, write_recipe


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Stopping(io.StringIO):
    """A terminal at which someone presses Ctrl-C once ``at`` is printed."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def write(self, text):
        super().write(text)
        if self.at in self.getvalue():
            raise KeyboardInterrupt
        return len(text)


def console(file=None):
    return Console(file=io.StringIO() if file is None else file, width=200, soft_wrap=True)


def write_auto(folder, *, train="validate_share = 0.4", steps=15):
    path = write_recipe(folder, steps=steps, baseline=False)
    text = path.read_text().replace("[loss.tcm]", '[loss.tcm]\nmargins = "auto"')
    path.write_text(text.replace("classes_per_batch = 12", f"classes_per_batch = 6\n{train}"))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A recipe, its workspace after a search, and what the search said."""
    folder = tmp_path_factory.mktemp("auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        recipe = load_recipe(write_auto(folder))
        made = prepare(recipe, console())
        workspace = Workspace(made.folder.absolute())
        said = console()
        found = settled(recipe, workspace, said)
    return recipe, workspace, found, said.file.getvalue()


def poison(recipe, workspace, setting):
    """Leave a checkpoint from which the trial of ``setting`` can only go on with NaN."""

    def stop(now):
        if now.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_share(setting.applied(recipe), workspace, setting.name, stop)
    path = workspace.checkpoint(setting.name)
    state = torch.load(path, weights_only=True)
    weight = next(value for name, value in state["model"].items() if name.endswith("weight"))
    weight[:] = torch.nan
    torch.save(state, path)


def search_of(workspace):
    return json.loads(margins_path(workspace).read_text())


def test_the_search_settles_on_the_most_consistent_trial_that_keeps_recall(world):
    _, workspace, found, _ = world
    search = search_of(workspace)
    base, trials = search["base"]["found"], search["trials"]
    kept = [t for t in trials if t["found"]["recall"] >= base["recall"] - 0.002]
    best = min([search["base"], *kept], key=lambda t: t["found"]["opis"]["value"])
    assert search["chosen"] == best["setting"]
    assert len(trials) >= 6
    margins = best["setting"]["margins"]
    if margins is None:
        assert found.loss.tcm is None
    else:
        assert found.loss.tcm == TcmConfig(
            positive_margin=margins["positive"], negative_margin=margins["negative"]
        )


def test_the_first_margins_are_read_off_the_classes_that_were_not_trained_on(world):
    recipe, workspace, _, _ = world
    inputs, labels, _ = training_set(workspace)
    held_out = np.flatnonzero(validation_rows(labels, 0.4, recipe.data.split_seed))
    assert len(np.unique(labels[held_out])) == 12
    model = load_model(workspace.model("base"))[0]
    with torch.no_grad():
        z = model(torch.from_numpy(np.asarray(inputs[held_out]))).numpy().astype(np.float64)
    upper = np.triu_indices(len(z), 1)
    same = (labels[held_out][:, None] == labels[held_out][None, :])[upper]
    similarity = (z @ z.T)[upper]
    search = search_of(workspace)
    # The recipe calibrates to a FAR of .02 and has no FRR target.
    assert (search["far"]["target"], search["frr"]["target"]) == (0.02, 0.1)
    at_far = np.quantile(similarity[~same], 0.98)
    at_frr = np.quantile(similarity[same], 0.1)
    assert search["far"]["similarity"] == pytest.approx(at_far, abs=2e-3)
    assert search["frr"]["similarity"] == pytest.approx(at_frr, abs=2e-3)
    middle = search["trials"][0]["setting"]["margins"]
    assert middle["negative"] == round(search["far"]["similarity"], 2)
    assert middle["positive"] == pytest.approx(
        max(search["frr"]["similarity"], middle["negative"] + 0.1), abs=0.0051
    )


def test_each_trial_is_a_line_and_has_its_metrics_and_the_reason_is_told(world):
    recipe, workspace, _, said = world
    search = search_of(workspace)
    assert search["reason"] in said
    steps = (workspace.folder / "metrics" / "base" / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == recipe.train.steps
    assert said.count(f"of {len(search['trials'])}): R@1 ") == len(search["trials"])


def test_the_chosen_trial_is_the_recipes_model_trained_already(world):
    _, workspace, found, _ = world
    said = console()
    tcm = found.loss.tcm is not None
    path = train(found, workspace, tcm=tcm, console=said)
    assert "trained already" in said.file.getvalue()
    assert path == workspace.model("tcm" if tcm else "base")
    # Nothing else of the trials' weights is left.
    kept = {path.name for path in workspace.folder.glob("*.pt")}
    assert kept == ({"base.pt", "tcm.pt"} if tcm else {"base.pt"})


def test_a_settled_search_is_not_searched_again(world):
    recipe, workspace, found, _ = world
    before = margins_path(workspace).stat().st_mtime_ns
    assert settled(recipe, workspace, console()) == found
    assert margins_path(workspace).stat().st_mtime_ns == before


def test_an_interrupted_search_goes_on_where_it_stopped(world, tmp_path):
    recipe, workspace, found, _ = world
    again = Workspace(tmp_path / "again")
    again.folder.mkdir()
    shutil.copy(workspace.items_path, again.items_path)
    with pytest.raises(KeyboardInterrupt):
        settled(recipe, again, console(Stopping("(2 of ")))
    done = {path: path.stat().st_mtime_ns for path in again.folder.glob("*.trial.json")}
    assert len(done) == 3
    assert not margins_path(again).exists()
    # Trained, and killed before it was measured: it is not trained again.
    (again.folder / "base.trial.json").unlink()
    trained = again.model("base").stat().st_mtime_ns
    assert settled(recipe, again, console()) == found
    assert again.model("base").stat().st_mtime_ns == trained
    assert margins_path(again).read_bytes() == margins_path(workspace).read_bytes()
    del done[again.folder / "base.trial.json"]
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_where_the_search_left_the_term_out_the_recipe_is_without_it(world, tmp_path):
    recipe, workspace, _, _ = world
    bare = Workspace(tmp_path)
    search = search_of(workspace)
    search["chosen"] = search["base"]["setting"]
    margins_path(bare).write_text(json.dumps(search))
    assert settled(recipe, bare, console()).loss.tcm is None


def test_given_margins_and_no_margins_are_as_they_are(world, tmp_path):
    recipe, _, _, _ = world
    for tcm in (None, TcmConfig(positive_margin=0.7)):
        given = dataclasses.replace(recipe, loss=dataclasses.replace(recipe.loss, tcm=tcm))
        assert settled(given, Workspace(tmp_path), console()) is given
    assert not any(tmp_path.iterdir())


def test_every_verb_sees_the_margins_that_were_found(world, monkeypatch):
    _, workspace, found, _ = world
    monkeypatch.chdir(workspace.folder.parent.parent)
    with staged(workspace.folder.parent.parent / "tiny.toml", False) as (recipe, where, _):
        assert recipe.loss == found.loss
        assert where.folder.absolute() == workspace.folder


def test_a_trial_that_diverges_is_a_line_and_the_search_goes_on(world, tmp_path):
    recipe, workspace, _, _ = world
    search = search_of(workspace)
    first = search["trials"][0]["setting"]["margins"]
    lost = Workspace(tmp_path / "lost")
    lost.folder.mkdir()
    for path in (workspace.items_path, *workspace.folder.glob("base*")):
        shutil.copy(path, lost.folder / path.name)
    poison(recipe, lost, Setting(Margins(**first), 2e-3))
    said = console()
    settled(recipe, lost, said)
    line = f"Margins {first['positive']:g} and {first['negative']:g} (1 of {len(search['trials'])})"
    assert f"{line}: failed: the loss is nan at step 6" in said.file.getvalue()
    written = search_of(lost)["trials"]
    assert written[0]["found"] is None
    assert ";" not in written[0]["failed"]
    assert [t["found"] for t in written[1:]] == [t["found"] for t in search["trials"][1:]]


def test_without_held_out_classes_there_is_no_search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(write_auto(tmp_path, train=""))
    with pytest.raises(RecipeError, match=r"^train\.validate_share: expected above 0 with loss\."):
        settled(recipe, prepare(recipe, console()), console())


def test_too_few_classes_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_items(tmp_path / "items.parquet", classes=40)
    recipe = load_recipe(write_auto(tmp_path))
    workspace = prepare(recipe, console())
    with pytest.raises(ItemsError, match=r"expected at least 10, so about 25 classes at train\."):
        settled(recipe, workspace, console())
    assert not list(workspace.folder.glob("*.pt"))


@pytest.mark.slow
def test_a_run_seals_the_margins_with_the_search_that_found_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(write_auto(tmp_path))
    release = run(recipe, str(tmp_path / "store"), "production", console())
    search = json.loads((release.folder / "margins.json").read_text())
    sealed = release.manifest.facts.recipe["loss"]
    if search["chosen"]["margins"] is None:
        assert sealed["tcm"] is None
    else:
        assert sealed["tcm"]["margins"] == "given"
        assert sealed["tcm"]["positive_margin"] == search["chosen"]["margins"]["positive"]
        assert sealed["tcm"]["negative_margin"] == search["chosen"]["margins"]["negative"]
    assert "margins.json" in release.manifest.files
    assert Store(str(tmp_path / "store")).open("production").id == release.id
