"""``limen tune``: what it refuses, what it draws, and a search interrupted and gone on with."""

import dataclasses
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.tune import _tuned
from jobs.tuning import Space, _points, _setting, _trial
from jobs.workspace import Workspace
from pipeline.config import load_recipe
from pipeline.losses.config import TcmConfig
from pipeline.training.trials import Choice, Margins, Setting, Trial
from tests.tiny_run import write_items, write_recipe
from tests.training_items import write_items as write_prepared
from tests.training_world import recipe

ROOT = Path(__file__).parent.parent
COMMAND = (
    "tune", "tiny.toml", "--trials", "1", "--out", "found/tuned.toml",
    "--negative-margin", "0.4", "0.4", "--gap", "0.3", "0.3", "--rate", "1", "1",
)  # fmt: skip


def write_tunable(folder, *, share=0.4, loss=""):
    path = write_recipe(folder, steps=15, baseline=False)
    text = path.read_text().replace(
        "classes_per_batch = 12", f"classes_per_batch = 6\nvalidate_share = {share}"
    )
    path.write_text(text.replace("[loss.tcm]", f"[loss.tcm]\n{loss}"))
    return path


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--negative-margin", "0.9", "0.1"], "--negative-margin: expected LOW HIGH in [-1, 0.95]"),
        (["--negative-margin", "0.5", "0.96"], "--negative-margin: expected LOW HIGH"),
        (["--gap", "0.01", "0.3"], "--gap: expected LOW HIGH in [0.05, 2]"),
        (["--rate", "0", "1"], "--rate: expected LOW HIGH"),
        (["--out", "tiny.toml"], "--out: tiny.toml: expected a .toml file, not the recipe itself"),
        (["--out", "tuned.json"], "--out: tuned.json: expected a .toml file"),
        (["--out", "nowhere/tuned.toml"], "nowhere/tuned.toml: expected a .toml file"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(tmp_path, refused, arguments, line):
    write_tunable(tmp_path)
    assert line in refused(tmp_path, "tune", "tiny.toml", *arguments)
    assert not (tmp_path / "runs").exists()


def test_a_search_needs_held_out_classes_and_enough_of_them(tmp_path, refused):
    write_tunable(tmp_path, share=0)
    assert "expected above 0 with limen tune" in refused(tmp_path, "tune", "tiny.toml")
    write_items(tmp_path / "items.parquet", classes=40)
    write_tunable(tmp_path)
    assert "expected at least 10, so about 25 classes" in refused(tmp_path, "tune", "tiny.toml")


def test_a_gpu_that_is_not_there_is_not_waited_for(tmp_path, refused, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = write_tunable(tmp_path)
    path.write_text(path.read_text().replace("[train]", '[train]\ndevice = "cuda"'))
    assert "torch sees no CUDA device" in refused(tmp_path, "tune", "tiny.toml")


def test_first_come_the_base_loss_alone_and_the_recipe_as_it_stands(tmp_path):
    recipe = load_recipe(write_tunable(tmp_path, loss="positive_margin = 0.8125"))
    settings = [_setting(point, recipe) for point in _points(recipe)]
    assert settings == [Setting(None, 2e-3), Setting(Margins(0.5, 0.8125), 2e-3)]
    without = dataclasses.replace(recipe, loss=dataclasses.replace(recipe.loss, tcm=None))
    assert _setting(_points(without)[1], without).margins == Margins(0.5, 0.9)
    auto = dataclasses.replace(recipe, loss=dataclasses.replace(
        recipe.loss, tcm=TcmConfig(margins="auto")
    ))  # fmt: skip
    assert len(_points(auto)) == 1  # its margins are not known


def test_what_is_drawn_is_rounded_and_ends_at_one(tmp_path):
    recipe = load_recipe(write_tunable(tmp_path))

    def drawn(negative, gap, rate):
        config = {"point": "", "negative_margin": negative, "gap": gap, "learning_rate": rate}
        return _setting(config, recipe)

    assert drawn(0.4449, 0.2, 1.23456e-3) == Setting(Margins(0.44, 0.64), 1.23e-3)
    assert drawn(0.8, 0.5, 1e-3) == Setting(Margins(0.8, 1.0), 1e-3)


@pytest.mark.ray
def test_settings_are_drawn_from_within_the_ranges():
    space = Space(negative_margin=(0.2, 0.3), gap=(0.4, 0.5), rate=(0.5, 2.0)).around(1e-2)
    for name, low, high in (
        ("negative_margin", 0.2, 0.3), ("gap", 0.4, 0.5), ("learning_rate", 5e-3, 2e-2),
    ):  # fmt: skip
        values = space[name].sample(size=400, random_state=0)
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high >= max(values) > high - 0.1 * (high - low)
    fixed = Space(negative_margin=(0.3, 0.3), gap=(0.2, 0.2), rate=(1.0, 1.0)).around(1e-2)
    assert fixed == {"point": "", "negative_margin": 0.3, "gap": 0.2, "learning_rate": 1e-2}


def choice_of(margins, rate=1e-3):
    return Choice(Trial(Setting(margins, rate), None), "Because it is so.")


def test_the_best_recipe_is_the_one_searched_around_with_margins_and_rate_changed(tmp_path):
    path = write_tunable(tmp_path, loss='margins = "auto"\npositive_weight = 0.5')
    before, out = load_recipe(path), tmp_path / "tuned.toml"
    out.write_text(_tuned(path, before, choice_of(Margins(0.4, 0.7)), out))
    assert out.read_text().startswith("# Written by limen tune from tiny.toml. Because it is so.\n")
    assert load_recipe(out) == Setting(Margins(0.4, 0.7), 1e-3).applied(before)
    assert load_recipe(out).loss.tcm.positive_weight == 0.5
    out.write_text(_tuned(path, before, choice_of(None), out))
    assert load_recipe(out) == Setting(None, 1e-3).applied(before)


def test_a_recipe_written_elsewhere_finds_its_items_and_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_tunable(tmp_path)
    model = 'weights = "w/start.pt"\nbackbone = "transformers:./vit"'
    path.write_text(path.read_text().replace('backbone = "mlp"', model))
    (tmp_path / "found").mkdir()
    out = tmp_path / "found" / "tuned.toml"
    out.write_text(_tuned(Path("tiny.toml"), load_recipe(Path("tiny.toml")), choice_of(None), out))
    after = load_recipe(out)
    assert Path(after.data.items).resolve() == (tmp_path / "items.parquet").resolve()
    assert after.model == load_recipe(path).model
    assert "../" in out.read_text()
    assert str(tmp_path) not in out.read_text()


def draw(workspace, together, ended):
    """One worker's trial of a setting that another one has drawn too."""
    wanted = recipe(tcm=True, validate_share=0.4, classes_per_batch=2, steps=40, checkpoint_every=1)
    config = {"point": "", "negative_margin": 0.5, "gap": 0.3, "learning_rate": 1e-3}
    together.wait()
    ended.put(_trial(config, wanted, workspace)["trial"])


def test_a_setting_drawn_twice_is_trained_once_and_measured_alike(tmp_path):
    workspace = Workspace(tmp_path / "run")
    write_prepared(workspace)
    processes = multiprocessing.get_context("spawn")
    arguments = workspace, processes.Barrier(2), (ended := processes.Queue())
    both = [processes.Process(target=draw, args=arguments) for _ in range(2)]
    for worker in both:
        worker.start()
    first, second = (ended.get(timeout=60) for _ in both)
    for worker in both:
        worker.join()
    assert first == second
    assert (first["failed"], first["setting"]["margins"]["negative"]) == ("", 0.5)


@pytest.mark.ray
def test_an_interrupted_search_goes_on_and_a_failing_trial_does_not_end_it(tmp_path):
    write_tunable(tmp_path)
    (tmp_path / "found").mkdir()
    out, listed = tmp_path / "found" / "tuned.toml", tmp_path / "found" / "tuned.json"
    first = limen(tmp_path)
    # One trial waits for its turn, so that the search cannot end before it is interrupted.
    with (workspace_of(first, tmp_path) / ".tcm-0.4-0.7-0.002.lock").open("ab") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        line = next(line for line in first.stdout if ": R@1 " in line)
        first.send_signal(signal.SIGINT)
        said = first.communicate(timeout=120)[1]
    assert first.returncode == 130, said
    assert "interrupted; the same command goes on" in said
    left = json.loads(listed.read_text())
    assert (left["base"] is not None) + len(left["trials"]) >= 1
    assert left["chosen"] is None or left["base"] is not None
    assert not out.exists()

    folder = next((tmp_path / "runs").glob("tiny-*"))
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*.trial.json")}
    shutil.rmtree(folder / "tcm-0.4-0.7-0.002.trial.json", ignore_errors=True)
    (folder / "tcm-0.4-0.7-0.002.trial.json").unlink(missing_ok=True)
    (folder / "tcm-0.4-0.7-0.002.trial.json").mkdir()  # a result that cannot be read
    second = limen(tmp_path)
    output, errors = second.communicate(timeout=240)
    assert second.returncode == 0, output + errors
    assert line.strip() in output
    assert "Margins 0.7 and 0.4, learning rate 0.002: failed: [Errno 21]" in output
    found = json.loads(listed.read_text())
    settings = [trial["setting"]["margins"] for trial in found["trials"]]
    assert settings == [
        {"negative": 0.5, "positive": 0.9}, {"negative": 0.4, "positive": 0.7},
    ]  # fmt: skip
    assert found["reason"] in output
    chosen = Setting.of_numbers(found["chosen"])
    assert load_recipe(out).loss == chosen.applied(load_recipe(tmp_path / "tiny.toml")).loss
    for path, stamp in done.items():
        assert path.is_dir() or path.stat().st_mtime_ns == stamp
    assert not (folder / "ray").exists()


def workspace_of(process, folder):
    """The workspace, as soon as the process has made it."""
    while process.poll() is None:
        if found := list(folder.glob("runs/tiny-*/")):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(process.communicate())


def limen(folder):
    """``limen tune`` as a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *COMMAND],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


