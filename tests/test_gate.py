"""The gate of a promotion: what it refuses, what it says, and that the alias then stays."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from jobs import cli
from pipeline.config import RecipeError, parse_recipe
from pipeline.evaluation.changes import Change, Difference
from pipeline.evaluation.gate import GateConfig, verdict
from pipeline.releases.store import Store
from pipeline.statistics.intervals import UNKNOWN, Interval
from tests.compared import INPUTS, add_release, make_items, write

EYE = np.eye(INPUTS, dtype=np.float32)
CALM = Change(before=0.1, after=0.1, variance=0.0, degrees=31, largest=1 / 1000, flips=0)
MISSING = Change(np.nan, np.nan, np.nan, 0, np.nan, 0)


def share(*found: float) -> SimpleNamespace:
    """A share whose interval is known, among any number of them."""
    return SimpleNamespace(interval=lambda among: Interval(*found))


def customer(name: str, **changed: object) -> Difference:
    """A customer for whom nearly nothing changed."""
    little = share(0.01, 0.005, 0.02)
    one = Difference(
        name=name, decisions=1000, matches=(100, 100), lost=1, gained=0, right=0, wrong=1,
        decision_share=little, flip_share=little, lost_share=little, wrong_share=little,
        far=CALM, frr=CALM,
    )  # fmt: skip
    return dataclasses.replace(one, **changed)


def compared(*customers: Difference, opis: Interval = UNKNOWN) -> SimpleNamespace:
    return SimpleNamespace(customers=customers, opis_change=opis)


def risen(by: float, sd: float) -> Change:
    return Change(before=0.1, after=0.1 + by, variance=sd**2, degrees=31, largest=1 / 50, flips=40)


SHARES = {
    "max_flip_share": "flip_share",
    "max_lost_share": "lost_share",
    "max_wrong_flip_share": "wrong_share",
}


@pytest.mark.parametrize("limit", SHARES)
def test_a_share_is_refused_where_its_lower_end_is_above_the_limit(limit):
    found = compared(
        customer("calm"), customer("moved", **{SHARES[limit]: share(0.3, 0.2, 0.4)})
    )
    assert verdict(found, GateConfig(**{limit: 0.2})) == []
    (said,) = verdict(found, GateConfig(**{limit: 0.19}))
    assert limit in said
    assert "moved: 0.3 (0.2 to 0.4), expected at most 0.19" in said
    assert verdict(found, GateConfig(**{limit: 0.4}, strict=True)) == []
    (said,) = verdict(found, GateConfig(**{limit: 0.39}, strict=True))
    assert "with certainty" in said


@pytest.mark.parametrize(("limit", "field"), [("max_far_increase", "far"),
                                              ("max_frr_increase", "frr")])  # fmt: skip
def test_an_increase_is_judged_by_its_worst_customer(limit, field):
    # t(31 degrees) at 2.5 %: 2.0395. Customer b: 0.05 +- 0.0204, customer c: 0.04 +- 0.0020.
    found = compared(
        customer("a"), customer("b", **{field: risen(0.05, 0.01)}),
        customer("c", **{field: risen(0.04, 0.001)}),
    )  # fmt: skip
    (said,) = verdict(found, GateConfig(**{limit: 0.037}, strict=True))
    assert "of b: 0.05 (0.0296 to 0.0704) (and of 1 more), expected at most 0.037" in said
    # Only c is *proven* to be worse than 0.037, though b is the worse one as measured.
    (said,) = verdict(found, GateConfig(**{limit: 0.037}))
    assert "of c: 0.04 (" in said
    assert "more" not in said
    assert verdict(found, GateConfig(**{limit: 0.04})) == []
    assert verdict(found, GateConfig(**{limit: 0.08}, strict=True)) == []


def test_a_fleet_is_not_refused_for_the_noise_of_one_customer():
    # 0.025 +- 0.0204 alone lies above 0.004; as the largest of 50 it says nothing.
    alone = compared(customer("x", far=risen(0.025, 0.01)))
    fleet = compared(*alone.customers, *(customer(f"c{i:02d}") for i in range(49)))
    config = GateConfig(max_far_increase=0.004)
    assert len(verdict(alone, config)) == 1
    assert verdict(fleet, config) == []


def test_opis_is_judged_over_all_customers():
    config = GateConfig(max_opis_increase=0.001)
    worse = compared(customer("a"), opis=Interval(0.003, 0.002, 0.004))
    (said,) = verdict(worse, config)
    assert "increase of OPIS of all customers: 0.003 (0.002 to 0.004)" in said
    unsure = compared(customer("a"), opis=Interval(0.003, -0.001, 0.007))
    assert verdict(unsure, config) == []
    assert len(verdict(unsure, dataclasses.replace(config, strict=True))) == 1


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "limit", ["max_wrong_flip_share", "max_far_increase", "max_frr_increase", "max_opis_increase"]
)
def test_what_the_items_cannot_tell_is_no_pass(limit, strict):
    unknown = customer("a", wrong_share=share(np.nan, np.nan, np.nan), far=MISSING, frr=MISSING)
    (said,) = verdict(compared(unknown), GateConfig(**{limit: 0.5}, strict=strict))
    assert "do not tell" in said
    assert "add some" in said
    assert len(verdict(compared(), GateConfig(**{limit: 0.5}, strict=strict))) == 1


def test_one_unknown_customer_among_known_ones_fails_only_the_strict():
    found = compared(customer("a"), customer("b", frr=MISSING))
    assert verdict(found, GateConfig(max_frr_increase=0.1)) == []
    (said,) = verdict(found, GateConfig(max_frr_increase=0.1, strict=True))
    assert "increase of FRR of b is unknown" in said


def test_every_broken_limit_is_named():
    found = compared(customer("a", far=risen(0.5, 0.01), lost_share=share(0.9, 0.8, 1.0)))
    said = verdict(found, GateConfig(max_far_increase=0.01, max_lost_share=0.5, max_flip_share=0.5))
    assert [line.partition(":")[0] for line in said] == ["max_lost_share", "max_far_increase"]


MINIMAL = {"name": "x", "data": {"items": "items.parquet"}}


def test_a_recipe_without_the_section_has_no_limit_and_one_with_it_survives_its_json():
    assert parse_recipe(MINIMAL, "here").gate is None
    recipe = parse_recipe({**MINIMAL, "gate": {"max_flip_share": 0.1}}, "here")
    assert recipe.gate == GateConfig(max_flip_share=0.1)
    assert parse_recipe(recipe.resolved(), "there") == recipe


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "r.toml: gate: .*at least one limit below 1"),
        ({"strict": True}, "at least one limit below 1"),
        ({"max_flip_share": 1.5}, "max_flip_share: expected between 0 and 1"),
        ({"max_flip_share": -0.1}, "max_flip_share: expected between 0 and 1"),
        ({"max_flip_share": float("nan")}, "max_flip_share: expected between 0 and 1"),
        ({"max_flips": 0.1}, "unknown key 'max_flips'; known keys: max_flip_share"),
        ({"strict": 1, "max_flip_share": 0.5}, "strict: expected bool"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(section, message):
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe({**MINIMAL, "gate": section}, "r.toml")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a store of releases under several gates, and a table to compare them on."""
    folder = tmp_path_factory.mktemp("gated")
    write(make_items(labels=30), folder / "items.parquet")
    gates = {
        "tight": {"max_lost_share": 0.01},
        "wide": {"max_lost_share": 0.99, "max_far_increase": 0.9},
        "none": None,
    }
    names = {"first": add_release(folder / "store", folder / "first", EYE, 0.3)}
    for name, gate in gates.items():
        sections = {} if gate is None else {"gate": gate}
        names[name] = add_release(
            folder / "store", folder / name, EYE, 0.1, sections=sections
        )
    return folder, names


@pytest.fixture
def promote(world, monkeypatch, capsys):
    """``limen releases promote ID``: its exit code and what it said, line by line."""
    folder, names = world

    def call(name: str, *options: str) -> tuple[int, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "200")
        command = ["limen", "releases", "promote", names[name], *options]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return call


def meaning(world, alias: str) -> str | None:
    return Store(str(world[0] / "store")).aliases().get(alias)


def test_a_release_beyond_its_limit_is_refused_in_one_line_and_the_alias_stays(world, promote):
    promote("first", "--alias", "live")
    before = meaning(world, "live")
    code, said = promote("tight", "--alias", "live", "--gate", "items.parquet")
    assert code == 1
    (line,) = [line for line in said.splitlines() if "limen: " in line]
    assert f"live stays {before[:12]}: max_lost_share: share of matches that are lost" in line
    assert "expected at most 0.01" in line
    assert "customer" in line
    assert meaning(world, "live") == before


def test_a_release_within_its_limits_is_promoted_and_the_figures_are_said(world, promote):
    promote("first", "--alias", "fine")
    code, said = promote("wide", "--alias", "fine", "--gate", "items.parquet")
    assert code == 0
    assert "keeps the limits of its recipe: max_lost_share 0.99, max_far_increase 0.9" in said
    assert "decisions flip" in said
    assert meaning(world, "fine").startswith(world[1]["wide"])


def test_the_first_release_of_an_alias_has_nothing_to_be_compared_with(world, promote):
    code, said = promote("tight", "--alias", "new", "--gate", "items.parquet")
    assert code == 0
    assert "nothing to compare" in said
    assert meaning(world, "new").startswith(world[1]["tight"])
    code, said = promote("tight", "--alias", "new", "--gate", "items.parquet")
    assert code == 0
    assert "already: nothing to compare" in said


def test_a_gate_without_limits_is_refused(world, promote):
    code, said = promote("none", "--alias", "limitless", "--gate", "items.parquet")
    assert code == 1
    assert "no section [gate], expected at least one limit" in said
    assert meaning(world, "limitless") is None


def test_a_gate_without_its_items_is_refused(world, promote):
    promote("first", "--alias", "kept")
    code, said = promote("wide", "--alias", "kept", "--gate", "nowhere.parquet")
    assert code == 1
    assert "nowhere.parquet: no such file" in said
    assert meaning(world, "kept").startswith(world[1]["first"])


def test_an_alias_that_moves_meanwhile_is_not_moved_again(world, promote, monkeypatch):
    from jobs import compare

    promote("first", "--alias", "raced")
    real = compare.compare_releases

    def slow(*arguments):
        Store(str(world[0] / "store")).promote("raced", world[1]["none"])
        return real(*arguments)

    monkeypatch.setattr(compare, "compare_releases", slow)
    code, said = promote("wide", "--alias", "raced", "--gate", "items.parquet")
    assert code == 1
    assert "moved by someone else" in said
    assert meaning(world, "raced").startswith(world[1]["none"])
