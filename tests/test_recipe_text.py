"""Recipes written by a job read back as what they were written from."""

import datetime
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.recipe_text import recipe_text

WORDS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.booleans() | st.integers(-(2**63), 2**63 - 1) | WORDS
VALUES |= st.floats(allow_nan=False, allow_infinity=False)
SECTIONS = st.recursive(
    st.dictionaries(WORDS, VALUES | st.lists(VALUES)),
    lambda inner: st.dictionaries(WORDS, inner | VALUES),
)


@given(SECTIONS)
def test_any_data_of_a_recipe_reads_back(mapping):
    assert tomllib.loads(recipe_text(mapping)) == mapping


@pytest.mark.parametrize("path", sorted(Path("jobs/recipes").glob("*.toml")), ids=lambda p: p.name)
def test_every_recipe_that_ships_reads_back(path):
    written = tomllib.loads(path.read_text())
    assert tomllib.loads(recipe_text(written)) == written


def test_sections_stand_below_the_values_as_people_write_them():
    mapping = {"loss": {"base": "rsk", "tcm": {"floor": 2}}, "name": "a", "train": {}}
    assert recipe_text(mapping) == (
        'name = "a"\n\n[loss]\nbase = "rsk"\n\n[loss.tcm]\nfloor = 2\n\n[train]\n'
    )


@pytest.mark.parametrize("value", [None, datetime.date(2024, 1, 1)])
def test_what_no_recipe_has_is_refused(value):
    with pytest.raises(ValueError, match="no value of a recipe"):
        recipe_text({"data": {"items": value}})
