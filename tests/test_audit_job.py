"""``limen audit`` as a person uses it: plan, label, stop, go on, estimate."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs.audit import app
from pipeline.audit.audits import Audits
from pipeline.audit.cells import AuditError
from pipeline.live.database import Database
from tests.audit_world import voting_world


@pytest.fixture
def world():
    return voting_world(np.random.default_rng(1), 0.6, 800, (0.9, 0.5))


@pytest.fixture
def table(tmp_path, world):
    path = tmp_path / "predictions.parquet"
    columns = dict(zip(("a", "b", "c"), world.columns[:3], strict=True))
    pairs = [f"p{row}" for row in range(world.match.size)]
    pq.write_table(pa.table({**columns, "pair": pairs, "text": [f"text of {p}" for p in pairs]}),
                   path)
    return path


@pytest.fixture
def limen(tmp_path):
    def call(*words, typed=None):
        result = CliRunner().invoke(
            app, [*map(str, words), "--records", f"sqlite:///{tmp_path / 'records.db'}"],
            input=typed, env={"COLUMNS": "200"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output
    return call


def planned(limen, table, *more):
    return limen("plan", "june", "--table", table, "--sets", "a,b,c", "--ensemble", "vote=a+b+c",
                 "--key", "pair", "--show", "text", "--margin", "0.08", *more)


def to_label(tmp_path):
    audits = Audits(Database(f"sqlite:///{tmp_path / 'records.db'}"))
    return [row.key for row in audits.to_label(audits.open("june"))]


def test_a_plan_says_what_labels_buy_and_what_they_cost_alone(limen, table):
    said = planned(limen, table)
    total, alone, saved = map(int, re.search(
        r"(\d+) labels in all, 0 of them known already; independent samples for the same margins: "
        r"(\d+)\. Saved: (\d+)%", said).groups())
    assert total < 0.5 * alone
    assert saved == round(100 * (1 - total / alone))
    assert re.search(r"precision\s+│ vote\s+│ 480\s+│ 0\.080", said)


def test_labels_typed_and_from_a_file_and_the_estimate(limen, table, world, tmp_path):
    planned(limen, table)
    first, second, _, *rest = to_label(tmp_path)
    said = limen("label", "june", typed="y\nwhat\nu\nq\n")
    assert f"row {first}, text text of {first}" in said
    assert "this row comes again" in said
    assert to_label(tmp_path)[:2] == [second, rest[0]]
    verdicts = tmp_path / "verdicts.csv"
    keys = [second, *rest]
    pa.csv.write_csv(pa.table({"key": keys, "is_match": [
        bool(world.match[int(key[1:])]) for key in keys]}), verdicts)
    assert f"{len(keys)} new labels; 0 rows to go" in limen("label", "june", "--verdicts", verdicts)
    assert "0 new labels" in limen("label", "june", "--verdicts", verdicts)
    said = limen("estimate", "june")
    value = float(re.search(r"precision\s+│ vote\s+│ (0\.\d+)", said)[1])
    assert abs(value - world.match[world.columns[3]].mean()) < 0.15
    assert "1 of them undecided" in said
    wider = limen("estimate", "june", "--every-look")
    ends = [list(map(float, re.search(r"vote\s+│ [\d.]+\s+│ ([\d.]+) to ([\d.]+)", text).groups()))
            for text in (said, wider)]
    assert ends[1][0] < ends[0][0] < ends[0][1] < ends[1][1]
    assert re.search(rf"june\s+│ {re.escape(str(table))}\s+│ \d+", limen("list"))


def test_what_is_asked_can_be_a_difference(limen, table):
    said = planned(limen, table, "--ask", "difference:a,b", "--ask", "precision:vote")
    assert "difference" in said
    assert "a - b" in said


@pytest.mark.parametrize(("more", "message"), [
    (["--sets", "a,z"], "no column 'z'"),
    (["--ensemble", "vote"], "expected NAME=a[+]b[+]c"),
    (["--ensemble", "vote=a+z"], "'z' is none of the sets a, b, c"),
    (["--ensemble", "vote=4:a+b+c"], "at_least: expected 1 to 3, got 4"),
    (["--ask", "f1:a"], "unknown criterion 'f1'"),
    (["--budget", "20"], r"needs \d+ labels, the budget is 20"),
])
def test_what_cannot_be_planned_is_refused_in_one_line(limen, table, more, message):
    with pytest.raises(AuditError, match=message) as caught:
        planned(limen, table, *more)
    assert "\n" not in str(caught.value)


def test_contradictory_and_unreadable_verdicts_are_refused_whole(limen, table, tmp_path):
    planned(limen, table)
    keys = to_label(tmp_path)
    path = tmp_path / "verdicts.csv"
    pa.csv.write_csv(pa.table({"key": [keys[0], keys[1], keys[0]],
                               "is_match": [True, True, False]}), path)
    with pytest.raises(AuditError, match="stands there twice, with two verdicts"):
        limen("label", "june", "--verdicts", path)
    path.write_text("row,verdict\n1,yes\n")
    with pytest.raises(AuditError, match="expected a Parquet or CSV table with the columns key"):
        limen("label", "june", "--verdicts", path)
    assert to_label(tmp_path) == keys
