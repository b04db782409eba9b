"""What the machine or another job does to a job: it waits, or stops with one line and resumes."""

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from jobs import cli
from jobs.command import run_verb
from jobs.prepare import prepare
from jobs.workers import _cause, _interrupt_kept
from jobs.workspace import alone
from pipeline.calibration.choice import CalibrationError, choose, fine_grid
from pipeline.calibration.rules import CalibrationConfig
from pipeline.config import load_recipe
from pipeline.counting.queries import count_pairs
from pipeline.data.items import CLASS_SPLITS, RESERVED_CUSTOMERS, Items, ItemsError
from pipeline.distance import unit
from pipeline.evaluation.embedding import CALIBRATE, population, require_measurable
from pipeline.training.loop import TrainingError
from tests.tiny_run import write_recipe

ROOT = Path(__file__).parent.parent


@pytest.fixture
def console():
    return Console(record=True, width=200, file=io.StringIO())


@pytest.fixture
def limen(monkeypatch, capsys):
    """``limen ARGUMENTS`` in a folder and in this process: its exit code and its errors."""

    def call(folder, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["limen", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return call


def test_two_jobs_on_one_recipe_take_turns(tmp_path, monkeypatch, console):
    monkeypatch.chdir(tmp_path)
    entered = threading.Event()

    def other() -> None:
        with alone("parts", console):
            entered.set()

    with alone("parts", console), alone("another", console):
        waiting = threading.Thread(target=other)
        waiting.start()
        assert not entered.wait(0.2)
    waiting.join(timeout=10)
    assert entered.is_set()
    assert "Another job on parts is at work; waiting" in console.export_text()


def test_a_full_disk_is_one_line_and_a_missing_file_of_ours_a_defect(capsys):
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a.npy")

    def lost() -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "runs/a.npy")

    with pytest.raises(SystemExit) as ended:
        run_verb(full)
    assert ended.value.code == 1
    assert "limen: runs/a.npy: No space left on device; mend that" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        run_verb(lost)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--store", "file"), "file: cannot be written: Not a directory"),
        (("--alias", "a b"), "alias 'a b': expected at most 64 letters"),
        (("--store", "zzz://bucket"), "zzz://bucket: cannot be opened as a store"),
    ],
)
def test_what_sealing_would_refuse_is_refused_before_training(limen, tmp_path, arguments, line):
    write_recipe(tmp_path)
    (tmp_path / "file").write_text("no folder")
    code, said = limen(tmp_path, "run", "tiny.toml", *arguments)
    assert code == 1
    assert line in said
    assert not list(tmp_path.rglob("*.pt"))


def test_a_column_that_the_report_needs_is_missed_before_training(limen, tmp_path):
    recipe = write_recipe(tmp_path)
    recipe.write_text(recipe.read_text().replace('"source"', '"vendor"'))
    code, said = limen(tmp_path, "run", "tiny.toml")
    assert code == 1
    assert "items.parquet: report.across: no metadata column 'vendor'; there are: source" in said
    assert not list(tmp_path.rglob("*.pt"))


def random_items(rng) -> Items:
    """A few items of few customers and classes, all of one split: often without some pair."""
    n = int(rng.integers(1, 7))

    def drawn(*values):
        column = np.empty(n, np.object_)
        column[:] = [values[k] for k in rng.integers(len(values), size=n)]
        return column

    ids = np.asarray([f"i{k}" for k in range(n)], np.object_)
    vectors = unit(rng.normal(size=(n, 4)))
    return Items(
        item_id=ids, label=drawn(None, "a", "b"), customer=drawn(None, "ada", "bob"),
        role=drawn("both", "query", "gallery"), split=drawn(CALIBRATE), kind="vector",
        content=vectors, metadata=pa.table({}),
    )  # fmt: skip


def test_items_that_no_threshold_can_be_chosen_on_are_known_before_training():
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        items = random_items(rng)
        people = population(items.content, items)
        queries, counted = people.of(CALIBRATE)
        counts = count_pairs(fine_grid(), queries, people.gallery, counted, pooled=True)
        try:
            choose(counts, CalibrationConfig(far_target=0.5, range_far=(0.4, 0.6)))
            lacking = False
        except CalibrationError as error:
            lacking = "no customer has both" in str(error)
        if lacking:
            refused += 1
            with pytest.raises(CalibrationError, match="no customer has both"):
                require_measurable(items)
        else:
            require_measurable(items)
    assert 50 < refused < 280


def test_our_own_groups_are_no_names_for_customers():
    from pipeline.counting.queries import SHARED
    from serving.watching.drift import OTHER

    assert set(RESERVED_CUSTOMERS) == {SHARED, OTHER}


def write_images(folder) -> None:
    """An image table with one repeated id and two images that are none."""
    rng, rows = np.random.default_rng(0), []
    for n in range(36):
        data = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(data, "PNG")
        split = CLASS_SPLITS[n // 12]
        rows.append({"item_id": f"i{n}", "label": f"c{n // 4}", "customer": "ada",
                     "split": split, "image": data.getvalue()})
    rows[5]["item_id"] = "i4"
    rows[7]["image"], rows[8]["image"] = b"none", rows[8]["image"][:40]
    pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet")
    (folder / "r.toml").write_text(
        'name = "r"\n[data]\nitems = "items.parquet"\n[model]\nimage_size = 8\n'
    )


def test_rows_set_aside_stay_set_aside_and_are_never_dropped_silently(
    tmp_path, monkeypatch, console
):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)
    recipe = load_recipe(tmp_path / "r.toml")
    for _ in range(2):
        workspace = prepare(recipe, console, skip_bad_rows=True)
        rejected = pq.read_table(workspace.rejected_path).to_pylist()
        assert [row["item_id"] for row in rejected] == ["i4", "i7", "i8"]
        assert [row["rejected_column"] for row in rejected] == ["item_id", "image", "image"]
    rows = pq.read_table(tmp_path / "items.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist(rows[:5] + rows[6:]), tmp_path / "items.parquet")
    with pytest.raises(ItemsError, match=r"2 images cannot be read, see .*--skip-bad-rows"):
        prepare(recipe, console)


def test_an_interrupt_that_ray_took_over_is_one_again_and_is_given_back():
    before = signal.getsignal(signal.SIGINT)

    @_interrupt_kept()
    def trained_by_ray() -> None:
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained_by_ray()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.ray
def test_an_interrupt_of_ray_workers_is_no_success_and_leaves_a_checkpoint(tmp_path):
    recipe = write_recipe(tmp_path, steps=4000, baseline=False)
    recipe.write_text(recipe.read_text().replace("steps = 4000", "steps = 4000\nworkers = 2"))
    # A group of its own: Ctrl-C in a terminal reaches the workers too.
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "train", "tiny.toml"], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        until = time.monotonic() + 120
        while not list(tmp_path.rglob("tcm.checkpoint.pt")) and time.monotonic() < until:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "limen: interrupted; the same command goes on where this one stopped" in said
    assert list(tmp_path.rglob("tcm.checkpoint.pt"))
    assert not list(tmp_path.rglob("tcm.pt"))


class WrappedError(Exception):
    """As Ray wraps what a worker raised."""

    def __init__(self, base: Exception) -> None:
        super().__init__(str(base))
        self._base_exc = base


class UnseenError(Exception):
    """As Ray says that a worker no longer answers."""

    def __init__(self, failure: Exception) -> None:
        super().__init__("a health check failed")
        self.health_check_failure = failure


def test_what_a_worker_refused_is_said_in_its_own_words():
    ours, rays = TrainingError("lower the rate"), RuntimeError("the workers failed")
    dead = UnseenError(EOFError("the process is gone"))
    assert _cause([KeyError("x"), dead, WrappedError(ours)], rays, EOFError) is ours
    assert _cause([ours], rays, EOFError) is ours  # as its controller says it
    assert _cause([WrappedError(KeyError("x"))], rays, EOFError) is rays
    full = OSError(errno.ENOSPC, "No space left on device")  # trying again would not mend it
    assert _cause([dead, WrappedError(full)], rays, EOFError) is full
    lost = ConnectionResetError(errno.ECONNRESET, "Connection reset")
    assert _cause([WrappedError(lost)], rays, EOFError) is rays


@pytest.mark.parametrize(
    "failure",
    [
        UnseenError(EOFError("the process is gone")),
        WrappedError(RuntimeError("[gloo/pair.cc:553] Connection closed by peer [10.0.0.1]:2950")),
    ],
)
def test_workers_that_died_are_one_line_whoever_noticed_it(failure):
    found = _cause([WrappedError(KeyError("x")), failure], RuntimeError("failed"), EOFError)
    assert type(found) is TrainingError
    assert "workers died 4 times: out of memory, or ended from outside" in str(found)
