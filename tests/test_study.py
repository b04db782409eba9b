"""The study: what is run, how it is measured, what is kept of it, and what the page says."""

from __future__ import annotations

import dataclasses
import json
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from benchmarks.study import page, plan
from benchmarks.study.analysis import RECALL, comparisons, opis, tally
from benchmarks.study.measuring import difference, measurable, measured
from benchmarks.study.plan import ASIDE, MAIN, SEEDS, Comparison, Run, run_of, runs
from benchmarks.study.record import RecordError, append_record, read_records
from benchmarks.study.running import embedded, recorded
from benchmarks.study.worlds import world
from pipeline.consistency.opis import opis as opis_of_classes
from pipeline.evaluation.measures import Settings, measure_items

DIGITS = Comparison("digits", "mlp", "multi_similarity")
QUICK = Run(DIGITS, None, 0, 3)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def digits():
    return world("digits")


@pytest.fixture(scope="module")
def vectors(digits):
    """Pixels as embeddings."""
    return unit(np.asarray(digits.items.content)[measurable(digits)])


# --- the plan


def test_sixteen_comparisons_with_and_without_tcm_over_three_seeds_and_two_aside():
    planned = list(runs())
    assert len(set(MAIN)) == 16
    assert len({(c.data, c.backbone) for c in MAIN}) == len({c.loss for c in MAIN}) == 4
    assert len(planned) == (16 + len(ASIDE)) * 2 * len(SEEDS)
    assert [run.name for run in planned[:2]] == [
        "emoji/cnn/multi_similarity, base, seed 0",
        "emoji/cnn/multi_similarity, TCM 0.9/0.5, seed 0",
    ]


def test_base_and_tcm_differ_in_the_term_alone():
    for run in runs(seeds=(1,)):
        theirs = dataclasses.replace(
            run.recipe, loss=dataclasses.replace(run.recipe.loss, tcm=None)
        )
        assert run.base.recipe == theirs
        assert (run.recipe.loss.tcm is None) == (run.margins is None)
        assert run.recipe.seed == 1


def test_runs_can_be_chosen_by_name_margins_seeds_and_steps():
    chosen = list(runs("icons/cnn/smooth", (0.7, 0.3), (4,), steps=5))
    assert [run.margins for run in chosen] == [None, (0.7, 0.3)]
    assert {(run.comparison.loss, run.seed, run.steps) for run in chosen} == {("smooth_ap", 4, 5)}
    assert chosen[1].recipe.loss.tcm.positive_margin == 0.7
    assert chosen[1].recipe.loss.tcm.negative_margin == 0.3
    assert chosen[1].recipe.train.steps == 5


def test_a_key_changes_with_everything_that_decides_a_result_and_with_nothing_else(monkeypatch):
    keys = {
        QUICK.key("a"), QUICK.key("b"),
        *(dataclasses.replace(QUICK, **change).key("a") for change in (
            {"seed": 1}, {"steps": 4}, {"margins": (0.9, 0.5)}, {"margins": (0.9, 0.4)},
            {"comparison": Comparison("digits", "mlp", "triplet")},
        )),
    }  # fmt: skip
    assert len(keys) == 7
    before = QUICK.key("a")
    budget = plan.BUDGETS["mlp"]
    monkeypatch.setitem(
        plan.BUDGETS, "mlp",
        dataclasses.replace(budget, train=dataclasses.replace(budget.train, learning_rate=0.5)),
    )  # fmt: skip
    assert QUICK.key("a") != before


def test_a_line_of_the_record_tells_its_run():
    for run in (QUICK, dataclasses.replace(QUICK, margins=(0.8, 0.25), seed=2)):
        line = json.loads(json.dumps(run.settings("items")))
        assert run_of(line) == run
        assert line["recipe"]["train"]["steps"] == 3
        assert "optimizer" not in line["recipe"]["train"]  # a default


# --- the worlds


def test_every_seed_leaves_five_other_digits_unseen(digits):
    unseen = [set(world("digits", seed).items.label[measurable(world("digits", seed))])
              for seed in SEEDS]  # fmt: skip
    assert {len(found) for found in unseen} == {5}
    assert len({frozenset(found) for found in unseen}) == 3
    assert set.union(*unseen) == {str(digit) for digit in range(10)}
    assert len({world("digits", seed).digest for seed in SEEDS}) == 3
    assert world("digits", 0).digest == digits.digest
    assert len(digits.items) == 1797


def test_skin_tones_become_classes_in_the_split_of_their_emoji():
    merged, apart = world("emoji"), world("emoji-tones")
    np.testing.assert_array_equal(merged.items.split, apart.items.split)
    assert {label.split(" ")[0] for label in apart.items.label} == set(merged.items.label)
    tones = np.asarray(merged.items.metadata["tone"].to_pylist())
    same = merged.items.label == apart.items.label
    np.testing.assert_array_equal(same, tones == "")
    assert "fluent-high-contrast" not in merged.items.metadata["style"].to_pylist()
    assert merged.digest != apart.digest


# --- measuring


def test_an_embedding_is_measured_as_limen_evaluate_does(digits, vectors):
    found = measured(digits, vectors).numbers
    rows = np.flatnonzero(measurable(digits))
    items = dataclasses.replace(digits.items.take(rows), content=vectors)
    theirs = measure_items(items, np.ones(rows.size, np.bool_), Settings(group="label"))
    label = found["label"]
    assert label["range"] == pytest.approx([theirs.range_low, theirs.range_high], rel=1e-5)
    assert label["opis"]["raw"] == pytest.approx(theirs.main.opis.raw, rel=1e-5)
    for end in ("value", "lower", "upper"):
        expected = getattr(theirs.main.opis.corrected, end)
        assert label["opis"]["corrected"][end] == pytest.approx(expected, rel=1e-5)
    for form in ("best_worst", "worst_rest", "opis_gap"):
        expected = getattr(theirs.main.eps, form).corrected
        assert label["eps"][form]["corrected"] == pytest.approx(expected, rel=1e-5)
    assert found["recall"] == pytest.approx(theirs.retrieval.recall[1], rel=1e-5)
    assert label["opis"]["raw"] == pytest.approx(
        opis_of_classes(vectors, items.label).raw, rel=1e-5
    )
    assert found["customer"] is None
    assert found["recall_across"] is None


@pytest.fixture(scope="module")
def small_icons():
    """A tenth of the icons, and pixels of a quarter of the side as embeddings."""
    from pipeline.data.images import decode_all

    whole = world("icons")
    some = np.flatnonzero(measurable(whole))[::7]
    items = whole.items.take(some)
    pixels = decode_all(items, 12, source="icons")[1].astype(np.float32)
    darkness = 255.0 - pixels.mean(axis=3).reshape(len(items), -1)
    return dataclasses.replace(whole, items=items), unit(darkness + 1.0)


def test_thresholds_come_from_the_calibrate_classes_and_numbers_from_the_report_classes(
    small_icons,
):
    icons, darkness = small_icons
    found = measured(icons, darkness).numbers
    calibrate = icons.items.split == "calibrate"
    for group in ("label", "customer"):
        alone = measure_items(
            dataclasses.replace(icons.items, kind="vector", content=darkness), calibrate,
            Settings(group=group),
        )  # fmt: skip
        ends = [float(alone.range_low), float(alone.range_high)]
        assert found[group]["range"] == pytest.approx(ends, rel=1e-5)
    report = measure_items(
        dataclasses.replace(icons.items, kind="vector", content=darkness), ~calibrate,
        Settings(group="customer", threshold=np.float32(alone.range_low)),
    )  # fmt: skip
    # Not the same threshold to the last digit: the record has 6 of them.
    worst = min(report.points, key=lambda point: point.utility)
    assert found["customer"]["worst_name"] == worst.name
    assert found["customer"]["worst"]["value"] == pytest.approx(worst.utility, rel=1e-4)
    assert found["customer"]["far"]["value"] == pytest.approx(report.overall.far.value, rel=1e-4)
    assert 0 < found["recall_across"] < 1
    assert json.loads(json.dumps(found)) == found


def test_an_embedding_does_not_differ_from_itself_and_a_worse_one_does(small_icons):
    icons, darkness = small_icons
    ours = measured(icons, darkness)
    assert {key: value["value"] for key, value in difference(ours, ours).items()} == {
        "label": 0.0, "customer": 0.0}  # fmt: skip
    noise = np.random.default_rng(0).normal(size=darkness.shape) * 0.05
    other = measured(icons, unit(darkness + noise))
    change = difference(other, ours)["label"]
    gap = [one.numbers["label"]["opis"]["corrected"]["value"] for one in (other, ours)]
    assert change["value"] == pytest.approx(gap[0] - gap[1], abs=1e-7)
    assert change["lower"] < change["value"] < change["upper"]


# --- running and the record


def test_a_base_is_trained_once_and_a_tcm_run_says_how_it_differs(digits, tmp_path):
    said: list[str] = []
    base = recorded(QUICK, digits, tmp_path, said.append)
    tcm = recorded(dataclasses.replace(QUICK, margins=(0.9, 0.5)), digits, tmp_path, said.append)
    assert len([text for text in said if "step 3 of 3" in text]) == 2
    gap = [one["label"]["opis"]["corrected"]["value"] for one in (tcm, base)]
    assert tcm["minus_base"]["label"]["value"] == pytest.approx(gap[0] - gap[1], abs=1e-6)
    assert "minus_base" not in base
    assert base["classes"] == {"train": 5, "calibrate": 0, "report": 5}
    assert base["training"]["loss"] > 0
    again, training = embedded(QUICK, digits, tmp_path, said.append)
    np.testing.assert_allclose(np.linalg.norm(again, axis=1), 1.0, atol=1e-5)
    assert training == {}  # it was there


def test_a_lost_base_is_trained_again_to_the_same_embedding(digits, tmp_path):
    first, _ = embedded(QUICK, digits, tmp_path, lambda _: None)
    (tmp_path / f"{QUICK.key(digits.digest)}.npy").unlink()
    second, training = embedded(QUICK, digits, tmp_path, lambda _: None)
    np.testing.assert_array_equal(first, second)
    assert training["seconds"] > 0


def test_a_run_that_diverges_is_recorded_with_its_reason(digits, tmp_path, monkeypatch):
    budget = plan.BUDGETS["mlp"]
    monkeypatch.setitem(
        plan.BUDGETS, "mlp",
        dataclasses.replace(budget, train=dataclasses.replace(budget.train, learning_rate=1e30)),
    )  # fmt: skip
    found = recorded(QUICK, digits, tmp_path, lambda _: None)
    assert "lower train.learning_rate" in found["failed"]
    assert "recall" not in found


def test_a_record_keeps_whole_lines_and_the_last_of_each_run(tmp_path):
    path = tmp_path / "new" / "runs.jsonl"
    assert read_records(path) == []
    for value in (1, 2):
        append_record(path, {"key": "a", "value": value})
    with path.open("ab") as file:
        file.write(b'{"key": "b", "val')  # killed here
    assert read_records(path) == [{"key": "a", "value": 2}]
    append_record(path, {"key": "c"})
    assert [record["key"] for record in read_records(path)] == ["a", "c"]
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("line", ["{", "[]", '{"value": 1}', "3"])
def test_a_line_that_is_no_run_is_named(line, tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text(f'{{"key": "a"}}\n{line}\n')
    with pytest.raises(RecordError, match=r"runs.jsonl, line 2: no run; expected a JSON object"):
        read_records(path)


# --- what is read off it


def made(run, recall, value, *, minus=None, group="label"):
    """A line of the record with some numbers."""
    interval = {"value": value, "lower": value / 2, "upper": value * 2}
    numbers = {
        "opis": {"raw": value, "corrected": interval, "groups_raw": 9, "groups_corrected": 9},
        "eps": {"best_worst": {"raw": 0.1, "corrected": 0.02}},
        "worst": {"value": 0.5, "lower": 0.4, "upper": 0.6},
    }
    record = {
        "key": run.key("x"), **run.settings("x"), "recall": recall, "recall_across": None,
        "label": None, "customer": None, group: numbers, "seconds": 70.0,
        "training": {"seconds": 60.0}, "classes": {"train": 3, "calibrate": 2, "report": 2},
    }  # fmt: skip
    if minus is not None:
        record["minus_base"] = {group: {"value": 0, "lower": minus[0], "upper": minus[1]}}
    return record


def pair(comparison, bases, tcms, minus=(-1.0, 1.0), margins=plan.MARGINS):
    """Records of seeds 0, 1, ... from (R@1, OPIS) of each."""
    records = []
    for seed, (base, tcm) in enumerate(zip(bases, tcms, strict=True)):
        run = Run(comparison, margins, seed, 500)
        records += [made(run.base, *base), made(run, *tcm, minus=minus)]
    return records


def test_a_change_is_paired_by_seed_with_students_interval():
    records = pair(MAIN[0], [(0.8, 5e-3), (0.7, 4e-3), (0.6, 6e-3)],
                   [(0.8, 4e-3), (0.72, 2e-3), (0.61, 3e-3)])  # fmt: skip
    found = comparisons(list(reversed(records)))
    assert len(found) == 1
    # Gaps -1, -2, -3 e-3: mean -2, standard error 1 / sqrt(3), t(2) = 4.3027.
    change = found[0].change(opis("label"))
    half = 4.302653 / math.sqrt(3) * 1e-3
    assert change.value == pytest.approx(-2e-3)
    assert [change.lower, change.upper] == pytest.approx([-2e-3 - half, -2e-3 + half], rel=1e-5)
    assert found[0].change(RECALL).value == pytest.approx(0.01)
    assert found[0].mean(RECALL) == pytest.approx((0.7, 0.71))
    assert math.isnan(found[0].change(opis("customer")).value)


def test_one_seed_has_a_change_without_an_interval_and_a_lone_run_is_no_comparison():
    records = pair(MAIN[0], [(0.8, 5e-3)], [(0.8, 4e-3)])
    change = comparisons(records)[0].change(opis("label"))
    assert change.value == pytest.approx(-1e-3)
    assert math.isnan(change.lower)
    assert comparisons(records[:1]) == comparisons(records[1:]) == []


@pytest.fixture
def records():
    """Surely lower at equal R@1; lower by chance and worse; surely higher; and one failed."""
    steady = [(0.8, 5e-3), (0.8, 5e-3), (0.8, 5.1e-3)]
    return [
        *pair(MAIN[0], steady, [(0.8, 2e-3), (0.799, 2.1e-3), (0.801, 2e-3)], minus=(-2, -1)),
        *pair(MAIN[1], steady, [(0.7, 1e-3), (0.7, 9e-3), (0.7, 4e-3)]),
        *pair(MAIN[4], steady, [(0.9, 9e-3), (0.9, 9.2e-3), (0.9, 9.1e-3)], minus=(1, 2)),
        *pair(MAIN[5], steady[:1], [(0.9, math.nan)]),
        *pair(MAIN[0], steady[:1], [(0.5, 1e-3)], margins=(0.7, 0.3)),
    ]


def test_a_tally_counts_what_helped_and_what_it_cost(records):
    main = [found for found in comparisons(records) if found.margins == plan.MARGINS]
    found = tally(main, "label")
    assert dataclasses.astuple(found) == (3, 2, 1, 1, 1, 1, 1, 9, 3, 3)
    assert tally(main, "customer").comparisons == 0


def test_the_page_is_made_from_the_record_alone(records, tmp_path):
    (tmp_path / page.WHY).write_text("Because the margins are met.\n")
    paths = page.write_pages(records, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "OPIS is lower in 2 of 3 comparisons**, significantly in 1 (higher significantly in 1)" \
        in text
    assert "R@1 is higher in 1 of 3, worse by more than 0.2 points in 1" in text
    assert "Because the margins are met." in text
    assert "margins 0.7 and 0.3" in text
    # Gaps -3, -2.9, -3.1 of 5.033 e-3: mean -59.6 %, half 4.3027 * .1 / sqrt(3) / 5.033 = 4.9 %.
    assert "-59.6 % [-64.5, -54.7]" in text
    assert {path.name for path in paths} == {
        "README.md", "table.svg", "scatter_emoji_cnn.svg", "scatter_emoji_efficientnet_lite0.svg"}
    for path in paths:
        if path.suffix == ".svg":
            ElementTree.fromstring(path.read_text())
            assert path.name in text
    table = (tmp_path / "table.svg").read_text()
    blue, orange = table.count("#7FB4E6"), table.count("#F4A460")
    assert (blue, orange) == (2, 2)  # OPIS surely lower once, higher once; R@1 both ways
    assert page.write_pages(records, tmp_path) == paths
    assert (tmp_path / "README.md").read_text() == text


def test_runs_of_other_settings_stay_out_of_the_page(records, tmp_path):
    records[0] = records[0] | {"key": "of-another-rate"}
    page.write_pages(records, tmp_path)
    assert " of 3 comparisons" in (tmp_path / "README.md").read_text()
    for place in (2, 4, -2):  # the other bases of the first comparison
        records[place] = records[place] | {"key": f"other-{place}"}
    page.write_pages(records, tmp_path)
    assert " of 2 comparisons" in (tmp_path / "README.md").read_text()


def test_nothing_recorded_yet_is_a_page_too(tmp_path):
    page.write_pages([], tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "OPIS is lower in 0 of 0" in text
    assert "Unfinished: 0 of 108 runs" in text


def test_a_page_says_that_runs_are_missing_until_none_is(monkeypatch):
    planned = list(runs())
    monkeypatch.setattr(page, "run_of", lambda place: planned[place])
    assert "Unfinished: 107 of 108 runs" in page._unfinished(range(1, 108))
    assert page._unfinished(range(108)) == ""
