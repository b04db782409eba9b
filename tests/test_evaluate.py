"""``limen evaluate`` as a stranger calls it: embeddings or a release in; table, JSON, HTML out."""

import base64
import json
import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import cli
from pipeline import distance
from pipeline.reports.earlier import EarlierError, read_run
from tests.compared import INPUTS, add_release, embeddings, make_items, write

EYE = np.eye(INPUTS, dtype=np.float32)
FAR = ("--far", "0.03", "0.2", "--far-target", "0.02")


@pytest.fixture
def limen(monkeypatch, capsys):
    """``limen evaluate ARGUMENTS`` in this process: exit code, standard output, errors."""

    def call(folder, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["limen", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


@pytest.fixture
def refused(limen):
    """The one clear line with which ``limen evaluate ARGUMENTS`` was refused."""

    def call(folder, *arguments):
        code, _, errors = limen(folder, *arguments)
        assert code == 1, errors
        (line,) = [line for line in errors.splitlines() if line.startswith("limen: ")]
        assert "Traceback" not in errors
        return line

    return call


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Items with customers, two embeddings of them, and a release that makes the first."""
    folder = tmp_path_factory.mktemp("evaluate")
    items = make_items(labels=30)
    write(items, folder / "items.parquet")
    first = embeddings(items, EYE)
    np.save(folder / "first.npy", first)
    noise = np.random.default_rng(0).standard_normal(first.shape)
    np.save(folder / "second.npy", (first + 0.2 * noise).astype(np.float32))
    release = add_release(folder / "store", folder / "made", EYE, 0.1, trained=("l0", "l3"))
    names = pa.table({"item_id": items.item_id, "label": items.label, "customer": items.customer})
    pq.write_table(names, folder / "names.parquet")
    return folder, items, release


def test_the_table_says_what_was_measured_and_where_its_limits_are(world, limen):
    folder, items, _ = world
    code, said, _ = limen(folder, "second.npy", "names.parquet", *FAR)
    assert code == 0
    for text in (
        "Threshold (cosine distance)", "threshold at FAR 0.02", "OPIS, euclidean spacing, raw",
        "OPIS, cosine spacing", "OPIS, log_far spacing", "MAP@R", "R@10", "10 %-OPIS",
        "customer a", "customer c", "Calibration range",
        "150 embeddings were not of unit length and were scaled",
        "chosen on these very items",
    ):  # fmt: skip
        assert text in said, text
    unlabelled = sum(label is None for label in items.label)
    assert f"{unlabelled} of 150 items are not counted: they have no label" in said


def test_json_is_all_that_is_printed_and_has_no_nan(world, limen):
    folder, items, _ = world
    code, said, _ = limen(folder, "first.npy", "names.parquet", "--json", *FAR)
    assert code == 0
    found = json.loads(said, parse_constant=lambda name: pytest.fail(name))
    assert (found["schema"], found["kind"]) == (1, "limen-evaluation")
    assert found["group"] == "customer"
    assert found["dimension"] == INPUTS
    assert found["items"] == sum(label is not None for label in items.label)
    assert set(found["opis"]) == {"euclidean", "cosine", "log_far"}
    assert found["retrieval"]["recall_at"].keys() == {"1", "5", "10"}
    assert [group["name"] for group in found["operating_point"]["groups"]] == [
        "_shared", "customer a", "customer b", "customer c",
    ]  # fmt: skip
    assert len(found["curve"]["thresholds"]) == 101
    assert re.fullmatch("[0-9a-f]{64}", found["digest"])
    assert re.fullmatch("[0-9a-f]{64}", found["items_digest"])
    assert found["release"] is None
    eps = found["opis"]["euclidean"]["eps"]
    assert {"best_worst", "worst_rest", "opis_gap"} <= set(eps)
    assert set(found["far_spread"]) == {"lowest", "highest", "deviation", "over_range"}


def test_classes_are_groups_on_request_and_where_there_is_no_customer(world, limen, tmp_path):
    folder, items, _ = world
    options = (folder / "first.npy", "--json", *FAR)
    _, said, _ = limen(folder, *options, "names.parquet", "--group", "label")
    asked = json.loads(said)
    pq.write_table(pa.table({"label": items.label}), tmp_path / "labels.parquet")
    _, said, _ = limen(tmp_path, *options, "labels.parquet")
    alone = json.loads(said)
    assert asked["group"] == alone["group"] == "label"
    assert asked["opis"]["euclidean"]["raw"] == pytest.approx(alone["opis"]["euclidean"]["raw"])
    assert asked["operating_point"]["overall"]["name"] == "all pairs"
    assert asked["groups"] == 30


def test_a_join_gives_what_the_same_order_gives(world, limen):
    folder, items, _ = world
    vectors = np.load(folder / "second.npy")
    order = np.random.default_rng(1).permutation(len(items))
    table = {"item_id": items.item_id[order], "v": vectors[order].tolist(), "w": vectors.tolist()}
    pq.write_table(pa.table(table), folder / "joined.parquet")
    _, plain, _ = limen(folder, "second.npy", "names.parquet", "--json", *FAR)
    _, joined, _ = limen(
        folder, "joined.parquet", "names.parquet", "--column", "v", "--json", *FAR
    )
    plain, joined = json.loads(plain), json.loads(joined)
    for key in ("opis", "operating_point", "retrieval", "histogram"):
        assert plain[key] == joined[key]


def test_a_release_embeds_the_items_and_serves_its_threshold(world, limen, tmp_path):
    folder, items, release = world
    code, said, _ = limen(folder, release[:6], "items.parquet", "--json", *FAR)
    assert code == 0
    found = json.loads(said)
    trained = {"l0", "l3"}
    counted = [label for label in items.label if label is not None and label not in trained]
    assert found["items"] == len(counted)
    assert found["operating_point"]["threshold"] == float(np.float32(0.1))
    assert found["operating_point"]["chosen"] == "served threshold"
    assert found["release"].startswith(release)
    assert any("trained on their class" in note for note in found["notes"])
    # The same embeddings from a file, at the same threshold, without those classes.
    label = [None if name in trained else name for name in items.label]
    names = {"item_id": items.item_id, "label": label, "customer": items.customer,
             "role": items.role}  # fmt: skip
    pq.write_table(pa.table(names), tmp_path / "left.parquet")
    options = ("left.parquet", "--threshold", "0.1", "--json", *FAR)
    _, said, _ = limen(tmp_path, folder / "first.npy", *options)
    same = json.loads(said)
    assert same["operating_point"]["groups"] == found["operating_point"]["groups"]
    assert same["opis"]["euclidean"]["raw"] == found["opis"]["euclidean"]["raw"]
    assert same["calibration_range"] == found["calibration_range"]


def test_two_embeddings_stand_side_by_side_with_their_paired_difference(world, limen):
    folder, _, _ = world
    options = ("names.parquet", "--against", "second.npy", "--html", "two.html", *FAR)
    code, said, _ = limen(folder, "first.npy", *options)
    assert code == 0
    assert "first minus second, paired" in said
    _, said, _ = limen(folder, "first.npy", *options, "--json")
    found = json.loads(said)
    apart = [one["opis"]["euclidean"]["corrected"]["value"] for one in (found, found["against"])]
    assert found["opis_minus_against"]["value"] == pytest.approx(apart[0] - apart[1])
    text = (folder / "two.html").read_text()
    assert "first minus second, paired" in text
    assert "second → first" in words(figures(text)[2])


def test_a_threshold_given_is_that_of_the_first_embedding_and_widens_both_ranges(world, limen):
    folder, _, _ = world
    options = ("names.parquet", "--against", "second.npy", "--threshold", "0.001", "--json", *FAR)
    found = json.loads(limen(folder, "first.npy", *options)[1])
    assert found["operating_point"]["chosen"] == "given threshold"
    assert found["calibration_range"]["widened"]
    assert found["calibration_range"]["low"] == float(np.float32(0.001))
    other = found["against"]
    assert other["operating_point"]["chosen"] == "threshold at FAR 0.02"
    assert other["calibration_range"]["low"] == other["operating_point"]["threshold"]


def test_items_that_were_trained_on_do_not_count(world, limen, tmp_path):
    folder, items, _ = world
    names = sorted({label for label in items.label if label is not None})
    split = [None if label is None else "train" if label in names[:9] else "report"
             for label in items.label]  # fmt: skip
    pq.write_table(pa.table({"label": items.label, "split": split}), tmp_path / "split.parquet")
    found = json.loads(limen(tmp_path, folder / "first.npy", "split.parquet", "--json", *FAR)[1])
    assert found["items"] == split.count("report")
    assert found["groups"] == len(names) - 9
    assert any("of the split train" in note for note in found["notes"])


def test_what_is_unknown_of_a_group_is_null(world, limen, tmp_path):
    folder, items, _ = world
    customer = items.customer.copy()
    customer[0], label = "lonely", items.label.copy()
    label[0] = "of its own"
    table = {"item_id": items.item_id, "label": label, "customer": customer}
    pq.write_table(pa.table(table), tmp_path / "lonely.parquet")
    code, said, _ = limen(tmp_path, folder / "first.npy", "lonely.parquet", "--json", *FAR)
    assert code == 0
    found = json.loads(said)
    (lonely,) = [g for g in found["operating_point"]["groups"] if g["name"] == "lonely"]
    assert lonely["frr"] == lonely["utility"] == {"value": None, "lower": None, "upper": None}
    assert found["groups_without_positives"] == 1


def test_an_earlier_run_is_read_as_it_was_printed(world, limen):
    folder, _, _ = world
    _, said, _ = limen(folder, "second.npy", "names.parquet", "--json", *FAR)
    (folder / "run.json").write_text(said)
    run, found = read_run(folder / "run.json", "cosine"), json.loads(said)
    assert run.name == "second"
    assert run.recognition_error == 1 - found["retrieval"]["recall_at"]["1"]
    assert run.opis.value == found["opis"]["cosine"]["corrected"]["value"]
    del found["opis"]["cosine"]["corrected"]["lower"]
    (folder / "run.json").write_text(json.dumps(found))
    with pytest.raises(EarlierError, match=r"opis\.cosine\.corrected\.lower is missing"):
        read_run(folder / "run.json", "cosine")


def words(figure: ET.Element) -> list[str]:
    return ["".join(text.itertext()) for text in figure.iter("{http://www.w3.org/2000/svg}text")]


def figures(text: str) -> list[ET.Element]:
    sources = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)
    return [ET.fromstring(base64.b64decode(source)) for source in sources]


def test_the_report_stands_alone_and_is_the_same_each_time(world, limen):
    folder, _, _ = world
    for name in ("one.json", "two.json"):
        file = "first.npy" if name == "one.json" else "second.npy"
        _, said, _ = limen(folder, file, "names.parquet", "--json", *FAR)
        (folder / name).write_text(said)
    options = ("names.parquet", *FAR, "--arrow", "two.json,one.json")
    texts = []
    for name in ("a.html", "b.html"):
        assert limen(folder, "first.npy", *options, "--html", name)[0] == 0
        texts.append((folder / name).read_text())
    assert texts[0] == texts[1]
    assert not re.search(r"<script|<link|http:|https:|\bnan\b", texts[0])
    curves, histogram, runs, rates = figures(texts[0])
    assert "second → first" in words(runs)
    for name in ("customer a", "customer b", "customer c", "_shared"):
        assert f">{name}<" in texts[0]
    assert all(len(list(figure.iter())) > 20 for figure in (curves, histogram, rates))


def test_few_worst_groups_are_listed_and_the_rest_counted(world, limen, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat([f"class {i:02d}" for i in range(45)], 6)
    vectors = rng.standard_normal((45, 8)).repeat(6, axis=0) + rng.standard_normal((270, 8))
    np.save(tmp_path / "e.npy", vectors.astype(np.float32))
    pq.write_table(pa.table({"label": labels}), tmp_path / "items.parquet")
    code, said, _ = limen(tmp_path, "e.npy", "items.parquet", "--html", "r.html", *FAR)
    assert code == 0
    assert "And 35 more classes" in said
    text = (tmp_path / "r.html").read_text()
    assert "And 15 more classes." in text
    assert len(set(re.findall(r'scope="row">(class \d\d)<', text))) == 30


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["absent.npy", "names.parquet"], "no such file; expected embeddings"),
        (["first.npy", "absent.parquet"], "absent.parquet: no such file"),
        (["short.npy", "names.parquet"], "149 rows for 150 items"),
        (["nan.npy", "names.parquet"], "row 7 (item 'i007') is NaN or infinite"),
        (["names.parquet", "names.parquet"], "expected one column of lists of numbers"),
        (["notes.txt", "names.parquet"], "unknown format; expected embeddings as .npy"),
        (["production", "items.parquet"], "no alias or release 'production'"),
        (["first.npy", "names.parquet", "--group", "vendor"], "expected customer or label"),
        (["first.npy", "labels.parquet", "--group", "customer"], "take --group label"),
        (["first.npy", "nothing.parquet"], "no item is left to count"),
        (["first.npy", "one.parquet"], "both a positive and a negative pair"),
        (["first.npy", "names.parquet", "--far", "0.2", "0.1"], "0 < LOW < HIGH < 1"),
        (["first.npy", "names.parquet", "--far-target", "2"], "expected a FAR between 0 and 1"),
        (["first.npy", "names.parquet", "--threshold", "3"], "expected a cosine distance"),
        (["first.npy", "names.parquet", "--spacing", "even"], "expected one of euclidean"),
        (["first.npy", "names.parquet", "--k", "1,x"], "expected whole numbers from 1 up"),
        (["first.npy", "names.parquet", "--arrow", "a.json"], "expected two files"),
        (["first.npy", "names.parquet", "--arrow", "a.json,b.json"], "a.json: No such file"),
        (["first.npy", "names.parquet", "--arrow", "c.json,c.json"], "kind None, schema None"),
        (["first.npy", "names.parquet", "--html", "no/where.html"], "no folder no; make it"),
        (["twice.parquet", "names.parquet"], "'i000' stands in rows 0 and 1"),
        (["first.npy", "doubled.parquet"], "row 1 (item 'i000'), column 'item_id'"),
        (["made", "names.parquet"], "no content columns; expected exactly one of"),
        (["made", "items.parquet", "--threshold", "0.2"], "has its own; it is for embeddings"),
        (["made", "narrow.parquet"], "takes vectors of 8 numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_in_one_line(world, refused, arguments, expected):
    folder, items, _ = world
    first = np.load(folder / "first.npy")
    np.save(folder / "short.npy", first[:-1])
    bad = first.copy()
    bad[7, 3] = np.nan
    np.save(folder / "nan.npy", bad)
    (folder / "notes.txt").write_text("no embeddings")
    (folder / "c.json").write_text("{}")
    ids, n = items.item_id.tolist(), len(items)
    tables = {
        "labels": {"label": items.label},
        "nothing": {"label": pa.nulls(n, pa.string())},
        "one": {"label": ["x"] * n},
        "twice": {"item_id": [ids[0], *ids], "v": first[[0, *range(n)]].tolist()},
        "doubled": {"item_id": [ids[0], ids[0], *ids[2:]], "label": items.label},
        "narrow": {"item_id": ids, "label": items.label, "customer": items.customer,
                   "vector": first[:, :5].tolist()},
    }  # fmt: skip
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    assert expected in refused(folder, *arguments)


def test_a_corrected_value_that_cannot_be_true_is_called_so(limen, tmp_path):
    # One item of each class is of another style: the half that has it is worse, the other better.
    rng = np.random.default_rng(3)
    styles = rng.standard_normal((300, 2, 16)).repeat([5, 1], axis=1).reshape(-1, 16)
    np.save(tmp_path / "e.npy", styles + 0.05 * rng.standard_normal(styles.shape))
    labels = np.repeat([f"class {i:03d}" for i in range(300)], 6)
    pq.write_table(pa.table({"label": labels}), tmp_path / "items.parquet")
    code, said, _ = limen(tmp_path, "e.npy", "items.parquet", "--json")
    found = json.loads(said)
    assert code == 0
    assert found["opis"]["euclidean"]["corrected"]["upper"] < 0
    assert any("which no truth does" in note for note in found["notes"])


def test_perfect_embeddings_of_few_classes_are_measured_or_refused_never_crash(limen, tmp_path):
    labels = np.repeat(["a", "b"], 5)
    np.save(tmp_path / "e.npy", distance.unit(np.repeat(np.eye(2), 5, axis=0)))
    pq.write_table(pa.table({"label": labels}), tmp_path / "items.parquet")
    code, _, errors = limen(tmp_path, "e.npy", "items.parquet")
    assert code == 1
    assert "give other targets with --far LOW HIGH or more labelled items" in errors
