"""The job from items to a promoted release, run as a user runs it, and everything it refuses."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pipeline import distance
from pipeline.calibration.choice import curve_thresholds
from pipeline.consistency.opis import opis_of
from pipeline.encoding.encoder import Encoder
from pipeline.item_log.changes import Content, LogEnd, NewItem
from pipeline.item_log.folded import read_folded
from pipeline.item_log.log import ItemLog
from pipeline.live.database import Database
from pipeline.releases.store import Store
from pipeline.search.gallery import open_gallery
from serving.answers.live_items import LiveItems
from serving.answers.retriever import Retriever
from serving.counters import Counters
from tests.tiny_run import write_items, write_recipe

ROOT = Path(__file__).parent.parent


def limen(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """``limen ARGUMENTS`` in ``folder``, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which ``limen run`` has finished once."""
    folder = tmp_path_factory.mktemp("world")
    write_recipe(folder)
    done = limen(folder, "run", "tiny.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_a_run_ends_in_a_promoted_verified_release(world):
    folder, said = world
    release = Store(str(folder / "store")).open("production")
    assert release.id12 in said
    assert release.calibration["threshold"] == float(release.threshold)
    assert "no decision differs" in said
    text = (release.folder / "report.html").read_text()
    assert release.calibration["guarantee"].split(":")[0] in text


def test_running_again_gives_the_same_release_and_repeats_nothing(world):
    folder, _ = world
    before = Store(str(folder / "store")).open("production").id
    stamps = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*.pt")}
    done = limen(folder, "run", "tiny.toml")
    assert done.returncode == 0, done.stderr
    assert Store(str(folder / "store")).open("production").id == before
    assert {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*.pt")} == stamps


def test_what_was_trained_on_is_neither_served_nor_counted(world):
    folder, _ = world
    release = Store(str(folder / "store")).open("production")
    gallery = open_gallery(release.folder)
    assert set(gallery.split) == {"calibrate", "report", "unlabelled"}
    assert set(gallery.role) <= {"both", "gallery"}
    assert "mystery-0" in gallery.item_id


def test_the_counts_are_those_of_brute_force_at_the_served_threshold(world):
    folder, _ = world
    release = Store(str(folder / "store")).open("production")
    gallery, table = open_gallery(release.folder), pq.read_table(folder / "items.parquet")
    encoder = Encoder(release.folder / "model.onnx")
    rows = table.to_pylist()
    report = {gallery.label[i] for i in range(len(gallery)) if gallery.split[i] == "report"}
    counts = release.counts()["report"]
    edge = counts.grid.position(np.asarray([release.threshold]))[0]
    for g, customer in enumerate(counts.groups):
        asked = [
            r for r in rows
            if r["customer"] == customer and r["label"] in report and r["role"] != "gallery"
        ]  # fmt: skip
        seen = [i for i in range(len(gallery))
                if gallery.customer[i] in (customer, None) and gallery.split[i] == "report"]
        vectors = encoder.embed(np.asarray([r["vector"] for r in asked], np.float32))
        accepted, total = np.zeros(2), np.zeros(2)
        for row, vector in zip(asked, vectors, strict=True):
            for i in seen:
                if gallery.item_id[i] == row["item_id"]:
                    continue
                d = 1.0 - float(np.dot(vector.astype(np.float64), gallery.vectors[i]))
                positive = int(gallery.label[i] == row["label"])
                total[positive] += 1
                accepted[positive] += np.float32(d) <= release.threshold
        assert_array_equal(counts.totals()[g], total)
        assert_array_equal(counts.accepted()[g, :, edge], accepted)


def test_the_recorded_opis_is_read_off_the_recorded_counts(world):
    folder, _ = world
    release = Store(str(folder / "store")).open("production")
    found, reach = release.calibration, release.calibration["range"]
    chords = np.linspace(*distance.to_euclidean(np.asarray([reach["low"], reach["high"]])), 101)
    thresholds = distance.from_euclidean(chords).astype(np.float32)
    thresholds[[0, -1]] = reach["low"], reach["high"]
    assert curve_thresholds.__doc__
    assert_allclose(found["opis"]["raw"], opis_of(release.counts()["report"], thresholds).raw)
    assert found["base"]["opis"]["corrected"]["value"] is not None
    assert found["opis_minus_base"]["lower"] <= found["opis_minus_base"]["upper"]


def test_a_killed_run_leaves_no_half_release_and_the_same_command_resumes(world, tmp_path):
    folder, _ = world
    expected = Store(str(folder / "store")).open("production").id
    write_recipe(tmp_path)
    command = [sys.executable, "-m", "jobs.cli", "run", "tiny.toml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for seconds in (4.0, 6.0):
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
        ) as process:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
        for name in Store(str(tmp_path / "store")).releases():
            Store(str(tmp_path / "store")).open(name)
    done = limen(tmp_path, "run", "tiny.toml")
    assert done.returncode == 0, done.stderr
    assert Store(str(tmp_path / "store")).open("production").id == expected


def test_reindexing_keeps_encoder_and_threshold_and_promotes(world, tmp_path):
    folder, _ = world
    shutil.copytree(folder / "store", tmp_path / "store")
    table = pq.read_table(folder / "items.parquet")
    extra = table.slice(0, 30).set_column(
        0, "item_id", pa.array([f"new-{i}" for i in range(30)])
    )
    pq.write_table(pa.concat_tables([table, extra]), tmp_path / "more.parquet")
    old = Store(str(tmp_path / "store")).open("production")
    done = limen(tmp_path, "reindex", "production", "more.parquet")
    assert done.returncode == 0, done.stdout + done.stderr
    new = Store(str(tmp_path / "store")).open("production")
    assert new.id != old.id
    assert new.threshold == old.threshold
    assert new.manifest.measured_with.model == old.manifest.measured_with.model
    gallery = open_gallery(new.folder)
    assert len([name for name in gallery.item_id if name.startswith("new-")]) > 0
    # Classes that the model was trained on are served again, but measure nothing.
    assert "train" in set(gallery.split)
    trained = {gallery.label[i] for i in np.flatnonzero(gallery.split == "train")}
    old_gallery = open_gallery(old.folder)
    assert not trained & set(old_gallery.label)
    again = limen(tmp_path, "reindex", "production", "more.parquet")
    assert again.returncode == 0, again.stderr
    assert Store(str(tmp_path / "store")).open("production").id == new.id
    assert new.calibration["carried_over"]["release"] == old.id
    assert new.manifest.facts.guarantee.endswith(old.manifest.facts.guarantee)
    assert limen(tmp_path, "releases", "rollback").returncode == 0
    assert Store(str(tmp_path / "store")).open("production").id == old.id


def test_reindexing_folds_the_online_changes_in_and_says_how_far(world, refused, tmp_path):
    folder, _ = world
    shutil.copytree(folder / "store", tmp_path / "store")
    table = pq.read_table(folder / "items.parquet")
    pq.write_table(table, tmp_path / "items.parquet")
    rows = [row for row in table.to_pylist() if row["customer"]]
    deleted, replaced, model = rows[0], rows[1], rows[2]
    log = ItemLog(Database(f"sqlite:///{tmp_path / 'records.db'}"))
    vector = Content(kind="vector", data=np.asarray(model["vector"], "<f4").tobytes())
    for row in (deleted, replaced):
        log.delete(row["customer"], row["item_id"], 0.0, in_gallery=True)
    log.put(replaced["customer"], [
        NewItem(item_id=replaced["item_id"], content=vector),
        NewItem(item_id="online", content=vector, label="seen online", metadata={"n": 7}),
        NewItem(item_id="odd", content=Content(kind="text", data=b"a cat")),
    ], 0.0)
    done = limen(tmp_path, "reindex", "production", "items.parquet",
                 "--changes", f"sqlite:///{tmp_path / 'records.db'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Set aside: item 'odd'" in done.stdout
    assert "Up to change 5: 2 items put online, 2 of the table replaced or deleted." in done.stdout
    # The deletion of what was put again is long over; the last change of every item stays.
    assert "Overtaken changes removed from the log: 1." in done.stdout
    assert [change.number for change in log.since(0)] == [1, 3, 4, 5]
    release = Store(str(tmp_path / "store")).open("production")
    assert read_folded(release.folder) == LogEnd(log.end().log, 5)
    retriever = Retriever(release)
    gallery = retriever.gallery
    named = {(owner, name): row for row, (owner, name) in
             enumerate(zip(gallery.customer, gallery.item_id, strict=True))}
    assert (deleted["customer"], deleted["item_id"]) not in named
    assert (replaced["customer"], "odd") not in named
    online = named[replaced["customer"], "online"]
    other = named[model["customer"], model["item_id"]]
    for row in (online, named[replaced["customer"], replaced["item_id"]]):
        assert_array_equal(gallery.vectors[row], gallery.vectors[other])
    assert (gallery.label[online], gallery.split[online]) == ("seen online", "report")
    # Its metadata comes back as it was put, and gives no column to the others.
    assert retriever.metadata(online) == {"n": 7}
    assert "n" not in retriever.metadata(other)
    # Served over the same log, only what came later lies over the gallery.
    live = LiveItems(log, retriever, Counters())
    assert live.latest(replaced["customer"]).is_empty
    log.put(replaced["customer"], [NewItem(item_id="later", content=vector)], 0.0)
    assert live.latest(replaced["customer"]).places.size == 1
    line = refused(tmp_path, "reindex", "production", "items.parquet",
                   "--changes", f"sqlite:///{tmp_path / 'typo.db'}")
    assert "typo.db: no such file; expected the records of the server" in line


def test_a_threshold_that_no_longer_holds_is_not_carried_over(world, refused, tmp_path):
    folder, _ = world
    shutil.copytree(folder / "store", tmp_path / "store")
    before = Store(str(tmp_path / "store")).open("production").id
    table = pq.read_table(folder / "items.parquet")
    # Every item of a customer becomes a class of its own on nearly the same spot.
    labels = pa.array([f"other {i}" for i in range(table.num_rows)])
    vector = table["vector"][0].as_py()
    near = [[x + 1e-3 * ((i + j) % 5) for j, x in enumerate(vector)] for i in range(table.num_rows)]
    table = table.set_column(1, "label", labels)
    column = table.column_names.index("vector")
    table = table.set_column(column, "vector", pa.array(near, pa.list_(pa.float32())))
    pq.write_table(table, tmp_path / "crowded.parquet")
    line = refused(tmp_path, "reindex", "production", "crowded.parquet")
    assert "does not hold on these items: FAR" in line
    assert Store(str(tmp_path / "store")).open("production").id == before


def test_reindexing_takes_an_alias_and_items_that_the_encoder_takes(world, refused, tmp_path):
    folder, _ = world
    shutil.copytree(folder / "store", tmp_path / "store")
    release = Store(str(tmp_path / "store")).open("production")
    shutil.copy(folder / "items.parquet", tmp_path)
    line = refused(tmp_path, "reindex", release.id[:6], "items.parquet")
    assert f"no alias '{release.id[:6]}'; aliases: production" in line
    rows = pq.read_table(folder / "items.parquet").to_pylist()
    rows = [{**row, "vector": row["vector"][:20]} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "short.parquet")
    line = refused(tmp_path, "reindex", "production", "short.parquet")
    assert "short.parquet: the items hold vectors of 20 numbers, the release's encoder" in line


def test_a_broken_release_hides_none_of_the_others(world, refused, capsys, tmp_path):
    folder, _ = world
    shutil.copytree(folder / "store", tmp_path / "store")
    (report,) = (tmp_path / "store").rglob("report.html")
    other = report.parent.with_name("0" * 12)
    shutil.copytree(report.parent, other)
    assert f"the folder says {other.name}" in refused(tmp_path, "releases", "list")
    assert limen(tmp_path, "releases", "list").stdout.count("0.") >= 1


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda rows: rows[3].update(vector=[float("nan")] * 24), "row 3.*vector.*finite"),
        (lambda rows: rows[3].update(vector=[0.0] * 24), "row 3.*vector.*zero"),
        (lambda rows: rows[3].update(vector=[1.0] * 23), "row 3.*vector.*23.*24"),
        (lambda rows: rows[3].update(item_id=rows[2]["item_id"]), "row 3.*item_id"),
        (lambda rows: [row.update(label=None) for row in rows], "of 0 classes"),
        (lambda rows: rows[3].update(role="other"), "row 3.*role.*'other'"),
        (lambda rows: rows[3].update(customer="_shared"), "row 3.*customer.*another name"),
        (lambda rows: [row.update(text="x") or row.pop("vector") for row in rows], "hold text"),
    ],
    ids=["nan", "zero", "dimension", "duplicate", "no labels", "role", "our name", "text"],
)
def test_bad_items_get_one_line_and_leave_nothing(world, refused, tmp_path, spoil, line):
    folder, _ = world
    rows = pq.read_table(folder / "items.parquet").to_pylist()
    spoil(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    said = refused(write_recipe(tmp_path).parent, "run", "tiny.toml")
    assert re.search(f"items.parquet.*{line}", said), said
    assert not (tmp_path / "store").exists()


def test_a_class_split_over_train_and_report_is_refused(world, refused, tmp_path):
    folder, _ = world
    table = pq.read_table(folder / "items.parquet")
    splits = pa.array([("train", "report")[i % 2] for i in range(table.num_rows)])
    pq.write_table(table.append_column("split", splits), tmp_path / "items.parquet")
    assert "class" in refused(write_recipe(tmp_path).parent, "run", "tiny.toml")


def test_missing_files_unknown_keys_and_wrong_order_get_one_line(refused, tmp_path):
    assert "no such recipe" in refused(tmp_path, "run", "none.toml")
    recipe = write_recipe(tmp_path)
    assert "run `limen export` first" in refused(tmp_path, "index", "tiny.toml")
    recipe.write_text(recipe.read_text() + "\n[nonsense]\n")
    assert "unknown key 'nonsense'" in refused(tmp_path, "run", "tiny.toml")
    (tmp_path / "items.parquet").unlink()
    recipe.write_text(recipe.read_text().replace("[nonsense]", ""))
    assert "items.parquet" in refused(tmp_path, "run", "tiny.toml")


def test_bad_rows_can_be_set_aside(tmp_path):
    write_items(tmp_path / "items.parquet")
    rows = pq.read_table(tmp_path / "items.parquet").to_pylist()
    rows[5]["vector"] = [float("nan")] * 24
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    done = limen(write_recipe(tmp_path, steps=5, baseline=False).parent,
                 "train", "tiny.toml", "--skip-bad-rows")
    assert done.returncode == 0, done.stderr
    (rejected,) = (tmp_path / "runs").rglob("rejected.parquet")
    table = pq.read_table(rejected).to_pylist()
    assert [row["item_id"] for row in table] == [rows[5]["item_id"]]
    assert table[0]["reason"]


def test_the_overview_names_every_verb_without_importing_torch_or_ray(tmp_path):
    done = limen(tmp_path, "--help")
    for verb in ("run", "train", "export", "index", "calibrate", "reindex", "serve", "query"):
        assert verb in done.stdout
    code = "import sys, jobs.cli; assert not {'torch', 'ray', 'faiss'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
