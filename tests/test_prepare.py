"""What stands in a workspace before anything is trained: checked early, decoded as asked."""

import dataclasses
import io
import sys

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from jobs.prepare import inputs_of, prepare, settle
from jobs.workspace import Workspace
from pipeline.config import load_recipe
from pipeline.data.decoding import decode_image
from pipeline.data.items import Items
from pipeline.strict import RecipeError
from tests.tiny_run import write_recipe
from tests.training_world import recipe


def oblong():
    """A black image twice as wide as high, encoded."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_images_are_decoded_to_the_size_and_in_the_way_of_the_recipe(tmp_path, fit):
    name = np.asarray(["i"], object)
    items = Items(item_id=name, label=name, customer=name, role=name, split=name, kind="image",
                  content=np.asarray([oblong()], object), metadata=pa.table({}))
    made = recipe()
    made = dataclasses.replace(made, model=dataclasses.replace(made.model, fit=fit, image_size=12))
    workspace = Workspace(tmp_path / "run")
    settle(items, workspace, made, Console(quiet=True), tokeniser=None, skip_bad_rows=False)
    pixels = inputs_of(workspace, items)
    np.testing.assert_array_equal(pixels, [decode_image(oblong(), 12, fit)])
    assert (pixels == 255).any() == (fit == "pad")


@pytest.mark.parametrize(
    ("key", "changed", "match"),
    [
        ('backbone = "mlp"', 'backbone = "cnn"', "'cnn' takes image items, these are vector"),
        ("[loss.tcm]", '[loss]\nbase = "nonsense"', "nonsense"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_before_anything_is_prepared(
    tmp_path, monkeypatch, key, changed, match
):
    monkeypatch.chdir(tmp_path)
    path = write_recipe(tmp_path)
    path.write_text(path.read_text().replace(key, changed))
    with pytest.raises(RecipeError, match=match):
        prepare(load_recipe(path), Console(quiet=True))
    assert not list(tmp_path.rglob("runs/*/*"))


def test_other_weights_under_the_same_name_make_another_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_recipe(tmp_path)
    path.write_text(path.read_text().replace("width = 32", 'width = 32\nweights = "own.pt"'))
    folders = []
    for content in (b"one", b"two", b"two"):
        (tmp_path / "own.pt").write_bytes(content)
        folders.append(prepare(load_recipe(path), Console(quiet=True)).folder)
    assert folders[0] != folders[1] == folders[2]


def test_other_code_of_a_users_own_network_makes_another_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = write_recipe(tmp_path)
    path.write_text(path.read_text().replace('"mlp"', '"our_code_5:network"'))
    code = "from tests.own_networks import linear as network\n"
    folders = []
    for content in (code, code + "# changed", code + "# changed"):
        (tmp_path / "our_code_5.py").write_text(content)
        folders.append(prepare(load_recipe(path), Console(quiet=True)).folder)
    assert folders[0] != folders[1] == folders[2]
