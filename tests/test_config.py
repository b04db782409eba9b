"""The recipe: strict, and one line for whoever wrote it."""

import pytest

from pipeline.config import RecipeError, load_recipe, parse_recipe
from pipeline.losses.config import TcmConfig

MINIMAL = {"name": "x", "data": {"items": "items.parquet"}}


def test_a_minimal_recipe_has_every_default_and_survives_its_own_json():
    recipe = parse_recipe(MINIMAL, "here")
    assert recipe.calibration.far_target == 1e-3
    assert recipe.loss.tcm is None
    assert parse_recipe(recipe.resolved(), "there") == recipe


def test_a_section_alone_turns_tcm_on():
    recipe = parse_recipe({**MINIMAL, "loss": {"tcm": {}}}, "here")
    assert recipe.loss.tcm == TcmConfig()


def test_the_digest_moves_with_every_value():
    one = parse_recipe(MINIMAL, "here")
    two = parse_recipe({**MINIMAL, "seed": 1}, "here")
    assert one.digest() == parse_recipe(MINIMAL, "elsewhere").digest()
    assert one.digest() != two.digest()


def test_items_are_found_from_the_recipe_folder(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('name = "x"\n[data]\nitems = "sub/items.csv"\n')
    assert load_recipe(path).data.items == str(tmp_path / "sub" / "items.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 1}, r"r.toml: unknown key 'steps'; known keys: name, seed, data"),
        ({"train": {"stepz": 1}}, r"r.toml: train: unknown key 'stepz'; known keys: steps"),
        ({"train": {"steps": "9"}}, r"r.toml: train: steps: expected int, got '9'"),
        ({"train": {"steps": True}}, r"steps: expected int, got True"),
        ({"train": {"steps": 0}}, r"r.toml: train: steps: expected at least 1"),
        ({"train": 3}, r"r.toml: train: expected a section"),
        ({"data": {}}, r"r.toml: data: key 'items' is missing"),
        ({"loss": {"tcm": {"negative_margin": 0.95}}}, r"negative_margin: expected below"),
        ({"calibration": {"range_far": [0.1]}}, r"range_far: expected 2 values, got 1"),
        ({"calibration": {"range_far": [0.2, 0.1]}}, r"0 < low < high < 1"),
        ({"calibration": {"rule": "best"}}, r"rule: expected 'far_target'"),
        ({"data": {"items": "x", "held_out_values": ["a"]}}, r"held_out_column: expected set"),
        ({"seed": -1}, r"r.toml: seed: expected 0 or more"),
        ({"seed": 2**63}, r"r.toml: seed: expected 0 or more"),
        ({"train": {"weight_decay": float("nan")}}, r"weight_decay: expected 0 or more"),
        ({"train": {"learning_rate": float("inf")}}, r"learning_rate: expected above 0"),
        ({"loss": {"tcm": {"negative_weight": float("nan")}}}, r"positive_weight: expected finite"),
        ({"name": "a b"}, r"r.toml: name: expected letters"),
    ],
)
def test_a_bad_recipe_gets_one_line(change, message):
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe({**MINIMAL, **change}, "r.toml")
    assert "\n" not in str(caught.value)


def test_a_missing_and_a_broken_file_get_one_line(tmp_path):
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match=r"Is a directory; expected a TOML file"):
        load_recipe(tmp_path)
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_recipe(tmp_path / "broken.toml")
