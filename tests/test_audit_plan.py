"""Plans over tables on disk, kept in SQL, labelled, interrupted, asked again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.audit.audits import Audits
from pipeline.audit.cells import AuditError
from pipeline.audit.draws import Drawer
from pipeline.audit.estimates import answers, estimates
from pipeline.audit.numbers import of_texts
from pipeline.audit.plan import Wish, plan
from pipeline.audit.tables import Decisions, DecisionTable
from pipeline.audit.targets import Question
from pipeline.live.database import Database
from tests.audit_world import NAMES, draw, labels_of, voting_world


def written(path: Path, world, **more) -> Path:
    columns = dict(zip(world.names, world.columns, strict=True))
    rows = np.arange(world.match.size)
    table = pa.table({**columns, "pair": pa.array([f"p{row}" for row in rows]), **more})
    pq.write_table(table, path, row_group_size=700)
    return path


@pytest.fixture
def world():
    return voting_world(np.random.default_rng(0), 0.6, 1500, (0.9, 0.5))


@pytest.fixture
def decisions(tmp_path, world):
    path = written(tmp_path / "decisions.parquet", world,
                   place=np.arange(world.match.size), score=np.where(world.match, 0.8, 0.3))
    return Decisions(path=path, sets=NAMES, key=("pair",))


@pytest.fixture
def audits(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'records.db'}")
    yield Audits(database)
    database.close()


def label(audits, kept, world, most=None):
    rows = audits.to_label(kept, most)
    audits.label(kept, {row.key: bool(world.match[int(row.key[1:])]) for row in rows}, 0.0)
    return rows


def near(interval, truth):
    """Seeds are drawn: an interval of 95 % may miss, not by its own width again."""
    width = interval.upper - interval.lower
    return interval.lower - width <= truth <= interval.upper + width


def test_a_table_on_disk_gives_the_cells_and_the_draw_of_one_in_memory(world, decisions):
    by_place = Decisions(path=decisions.path, sets=NAMES)
    made = plan(by_place, Wish(margin=0.06), 5)
    cells, cell = world.cells()
    np.testing.assert_array_equal(made.cells.member, cells.member)
    np.testing.assert_array_equal(made.cells.size, cells.size)
    drawn = draw(made.allocation, cell, 5)
    np.testing.assert_array_equal(made.drawn.row, drawn.row)
    np.testing.assert_array_equal(made.drawn.inclusion, drawn.inclusion)
    assert made.rows["key"].to_pylist() == [str(row) for row in drawn.row]


def test_a_folder_of_parts_is_one_table(world, decisions, tmp_path):
    table = pq.read_table(decisions.path)
    folder = tmp_path / "parts"
    folder.mkdir()
    for place in range(3):
        cut = table.slice(place * 1200, 1200)
        pq.write_table(cut, folder / f"{place}.parquet")
    rest = table.slice(3600)
    pq.write_table(rest, folder / "3.parquet")
    whole, parts = (plan(Decisions(path=path, sets=NAMES, key=("pair",)), Wish(margin=0.06), 5)
                    for path in (decisions.path, folder))
    assert whole.rows["key"].to_pylist() == parts.rows["key"].to_pylist()


def test_keys_of_several_columns_are_never_taken_for_one_another(tmp_path):
    path = table_of(tmp_path, a=[True, True], query=["x", "xy"], item=["yz", "z"])
    made = plan(Decisions(path=path, sets=("a",), key=("query", "item")), Wish(budget=2), 1)
    assert len(set(made.rows["key"].to_pylist())) == 2


def test_every_set_is_divided_by_customer(world, tmp_path):
    customer = np.where(np.arange(world.match.size) % 3 == 0, "acme", "bolt")
    path = written(tmp_path / "d.parquet", world, customer=pa.array(customer))
    made = plan(Decisions(path=path, sets=NAMES, key=("pair",), by="customer"),
                Wish(budget=400), 1)
    sizes = dict(zip(made.cells.sets, made.cells.set_sizes().tolist(), strict=True))
    expected = {f"{name} / {one}": int((column & (customer == one)).sum())
                for name, column in zip(NAMES, world.columns, strict=True)
                for one in ("acme", "bolt")}
    assert sizes == expected
    assert made.allocation.total <= 400


def test_an_audit_survives_being_interrupted_and_says_the_truth(world, decisions, audits):
    made = plan(decisions, Wish(margin=0.08), audits.seed("pairs"))
    audits.add("june", "pairs", made, {"margin": 0.08}, 1.0)
    kept = audits.open("june")
    assert kept.told["margin"] == 0.08
    first = label(audits, kept, world, 100)
    assert [row.place for row in first] == list(range(100))
    assert [row.place for row in audits.to_label(kept, 3)] == [100, 101, 102]
    some = audits.labels(kept)
    assert (some.done, some.drawn) == (100, made.allocation.total)
    early = answers(kept.cells, kept.strata, kept.questions, some.labels, some.undecided)
    label(audits, kept, world)
    whole = audits.labels(kept)
    assert audits.to_label(kept) == []
    late = answers(kept.cells, kept.strata, kept.questions, whole.labels, whole.undecided)
    drawer = Drawer(made.allocation)
    keys = pa.array([f"p{row}" for row in range(world.match.size)])
    drawer.add(0, world.cells()[1], of_texts(keys, audits.seed("pairs")))
    drawn = drawer.drawn()
    oracle = estimates(made.cells, made.allocation.strata, made.targets, labels_of(world, drawn))
    for one, two, three, truth in zip(early, late, oracle, world.precisions(), strict=True):
        assert two.interval == three.interval
        assert near(one.interval, truth)
        assert two.interval.upper - two.interval.lower < one.interval.upper - one.interval.lower


def test_labels_serve_the_next_audit(world, decisions, audits):
    seed = audits.seed("pairs")
    assert audits.seed("pairs") == seed
    assert audits.seed("others") != seed
    audits.add("first", "pairs", plan(decisions, Wish(margin=0.08), seed), {}, 1.0)
    label(audits, audits.open("first"), world)
    other = Decisions(path=decisions.path, sets=("first", "vote"), key=("pair",))
    made = plan(other, Wish(margin=0.05), seed, audits.known("pairs"))
    audits.add("second", "pairs", made, {}, 2.0)
    kept = audits.open("second")
    missing = len(audits.to_label(kept))
    assert missing < 0.75 * made.allocation.total
    before = audits.labels(kept)
    assert before.labels.cell.size > 100  # of use before a single new one
    found = answers(kept.cells, kept.strata, kept.questions, before.labels, before.undecided)
    for one, truth in zip(found, world.precisions()[[0, 3]], strict=True):
        assert near(one.interval, truth)
    label(audits, kept, world)
    assert audits.labels(kept).labels.cell.size >= made.allocation.total
    coarse = plan(other, Wish(margin=0.1), seed, audits.known("pairs"))
    audits.add("third", "pairs", coarse, {}, 3.0)
    kept = audits.open("third")
    assert audits.to_label(kept) == []
    # Those that it did not draw, but others did, count too.
    assert audits.labels(kept).labels.cell.size > 1.5 * coarse.allocation.total
    assert audits.names() == ["first", "second", "third"]


def test_labels_ahead_of_the_order_wait(world, decisions, audits):
    audits.add("a", "pairs", plan(decisions, Wish(margin=0.1), audits.seed("pairs")), {}, 1.0)
    kept = audits.open("a")
    rows = audits.to_label(kept)
    audits.label(kept, {row.key: True for row in rows[5:]}, 0.0)
    assert audits.labels(kept).labels.cell.size == 0
    audits.label(kept, {row.key: None for row in rows[:5]}, 0.0)
    whole = audits.labels(kept)
    assert whole.labels.cell.size == len(rows)
    assert whole.undecided.sum() == 5


def test_labels_that_cannot_be_are_refused_whole(world, decisions, audits):
    audits.add("a", "pairs", plan(decisions, Wish(margin=0.1), audits.seed("pairs")), {}, 1.0)
    kept = audits.open("a")
    one, two, three = (row.key for row in audits.to_label(kept, 3))
    assert audits.label(kept, {one: True}, 0.0) == 1
    assert audits.label(kept, {one: True}, 0.0) == 0
    with pytest.raises(AuditError, match="is labelled a match already, now no match"):
        audits.label(kept, {two: True, one: False}, 0.0)
    with pytest.raises(AuditError, match="row 'nobody' is none of audit 'a'"):
        audits.label(kept, {three: True, "nobody": True}, 0.0)
    assert audits.labels(kept).done == 1
    with pytest.raises(AuditError, match="there is no audit 'b'; there are: a"):
        audits.open("b")
    again = plan(decisions, Wish(margin=0.1), audits.seed("pairs"))
    with pytest.raises(AuditError, match="there is an audit 'a' already"):
        audits.add("a", "pairs", again, {}, 1.0)


def test_a_budget_too_small_for_the_margin_says_what_it_buys(decisions):
    with pytest.raises(AuditError, match=r"needs \d+ labels, the budget is 100: it buys a margin "
                                         r"of 0\.1"):
        plan(decisions, Wish(margin=0.02, budget=100), 1)
    with pytest.raises(AuditError, match="give a margin, a budget of labels, or both"):
        plan(decisions, Wish(), 1)


def test_a_question_is_answered_from_the_rows_that_bear_on_it(decisions):
    wish = Wish(margin=0.05, questions=[Question("difference", ("first", "second"))])
    made = plan(decisions, wish, 1)
    agree = made.cells.member[made.drawn.cell][:, :2]
    assert (agree[:, 0] != agree[:, 1]).all()
    with pytest.raises(AuditError, match="difference: expected 2 set"):
        Question("difference", ("first",))
    with pytest.raises(AuditError, match="unknown criterion 'f1'"):
        Question("f1", ("first",))


def test_scores_are_summed_in_the_cells_and_kept_with_the_rows(world, decisions, audits):
    told = Decisions(path=decisions.path, sets=NAMES, key=("pair",), score="score")
    made = plan(told, Wish(margin=0.08), audits.seed("pairs"))
    score = np.where(world.match, 0.8, 0.3)
    assert made.cells.score.sum() == pytest.approx(score[np.any(world.columns, axis=0)].sum())
    audits.add("scored", "pairs", made, {}, 1.0)
    kept = audits.open("scored")
    label(audits, kept, world)
    labels = audits.labels(kept).labels
    np.testing.assert_array_equal(labels.score, np.where(labels.match, 0.8, 0.3))


def table_of(tmp_path, **columns):
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(("columns", "told", "message"), [
    ({"a": [True]}, {"sets": ("b",)}, r"no column 'b'; there are: a"),
    ({"a": [1]}, {"sets": ("a",)}, r"column 'a': expected true or false in every row, got int64"),
    ({"a": [True, None]}, {"sets": ("a",)}, r"column 'a' is empty in row 1"),
    ({"a": [True], "c": [None]}, {"sets": ("a",), "by": "c"}, r"column 'c' is empty in row 0"),
    ({"a": [True], "s": [1.5]}, {"sets": ("a",), "score": "s"},
     r"P\(match\) in \[0, 1\], got .*1.5"),
    ({"a": [True], "s": [float("nan")]}, {"sets": ("a",), "score": "s"}, "got .*nan"),
    ({"a": [False]}, {"sets": ("a",)}, r"no set holds any row"),
    ({"a": [True], "b": [False]}, {"sets": ("a", "b")}, r"set 'b' holds no row"),
    ({"a": [True]}, {"sets": ()}, r"name the boolean columns"),
])
def test_a_table_that_cannot_be_audited_is_refused_in_one_line(tmp_path, columns, told, message):
    with pytest.raises(AuditError, match=message) as caught:
        plan(Decisions(path=table_of(tmp_path, **columns), **told), Wish(margin=0.1), 1)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    with pytest.raises(AuditError, match="no such file"):
        DecisionTable(Decisions(path=tmp_path / "none.parquet", sets=("a",)))
    (tmp_path / "text.parquet").write_text("a,b\n")
    with pytest.raises(AuditError, match="no Parquet or Arrow table"):
        DecisionTable(Decisions(path=tmp_path / "text.parquet", sets=("a",)))
