"""Texts from a table to a release, as ``limen run`` takes them there, and what serves it today."""

import csv
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from jobs.prepare import inputs_of, prepare
from jobs.reindex import reindex
from jobs.run import run
from jobs.subjects import Sources, load_subject
from pipeline.config import load_recipe
from pipeline.data.items import ItemsError, load_items
from pipeline.data.labels import read_labels
from pipeline.encoder import Encoder
from pipeline.gallery import open_gallery
from serving.queries import embeddings_of
from serving.responses import RefusedError
from serving.retriever import Retriever
from serving.schema import Query
from tests.text_world import texts, write_model

RECIPE = """
name = "texts"
[data]
items = "items.csv"
[model]
backbone = "transformers:./model"
tokens = 8
dimension = 16
[train]
steps = 25
classes_per_batch = 12
items_per_class = 4
learning_rate = 5e-3
warmup_steps = 2
[calibration]
far_target = 0.05
"""


def write_world(folder, *, spoil=None):
    """A recipe, its model and a table of 384 texts of three customers."""
    write_model(folder / "model")
    (folder / "texts.toml").write_text(RECIPE)
    given, labels = texts()
    if spoil is not None:
        given[5] = spoil
    with (folder / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "label", "customer", "text"])
        for row, (text, label) in enumerate(zip(given, labels, strict=True)):
            rows.writerow([f"t{row}", f"class {label}", f"customer {label % 3}", text])
    return load_recipe(folder / "texts.toml")


@pytest.fixture
def quiet():
    return Console(quiet=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which a run on texts has finished."""
    folder = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        release = run(write_world(folder), "store", "production", Console(quiet=True))
    return folder, release


def test_texts_go_from_a_table_to_a_calibrated_release(world):
    folder, release = world
    assert 0 < release.threshold < 2
    encoder, gallery = Encoder(release.folder / "model.onnx"), open_gallery(release.folder)
    given, _ = texts()
    rows = [int(name.removeprefix("t")) for name in gallery.item_id]
    # What the gallery holds is what the sealed encoder makes of the texts themselves.
    ids = encoder.tokenise([given[row] for row in rows])
    np.testing.assert_allclose(encoder.embed(ids), gallery.vectors, atol=1e-6)
    assert str(folder) not in (release.folder / "recipe.json").read_text()


def test_items_of_a_release_embed_through_its_own_tokenizer(world, monkeypatch, quiet):
    folder, release = world
    monkeypatch.chdir(folder)
    shutil.move(folder / "model", folder / "elsewhere")  # a release needs no model folder
    try:
        sources = Sources(folder / "items.csv", read_labels(folder / "items.csv"), "store", None)
        subject = load_subject("production", sources, quiet)
        gallery = open_gallery(release.folder)
        place = subject.items.item_id.tolist().index(gallery.item_id[0])
        np.testing.assert_allclose(subject.items.content[place], gallery.vectors[0], atol=1e-6)
        text = (folder / "items.csv").read_text()
        (folder / "more.csv").write_text(text + "new,class new,customer 1,red pen\n")
        again = reindex("production", folder / "more.csv", "store", quiet)
        assert again.threshold == release.threshold
        assert "new" in open_gallery(again.folder).item_id
    finally:
        shutil.move(folder / "elsewhere", folder / "model")


def test_a_text_query_to_a_text_release_gets_one_clear_line_and_an_embedding_an_answer(world):
    retriever = Retriever(world[1])
    assert retriever.passes_self_query()
    for query in (Query(text="red shoe"), Query(image="aGVsbG8="), Query(vector=[1.0])):
        with pytest.raises(RefusedError, match="embeds texts, not taken here yet; send an embedd"
                           ) as refused:
            embeddings_of([query], retriever)
        assert refused.value.status == 422
    row = retriever.encoder.embed(retriever.encoder.tokenise(["red shoe"]))[0]
    sent = embeddings_of([Query(embedding=row.tolist())], retriever)
    np.testing.assert_array_equal(sent[0], row)
    assert retriever.answer("customer 0", sent)[0].complete


def test_a_text_of_unknown_words_is_named_or_set_aside(tmp_path, monkeypatch, quiet):
    monkeypatch.chdir(tmp_path)
    recipe = write_world(tmp_path, spoil="zzz yyy")
    with pytest.raises(ItemsError, match=r"items.csv: row 5 \(item 't5'\), column 'text': none of"):
        prepare(recipe, quiet)
    workspace = prepare(recipe, quiet, skip_bad_rows=True)
    kept = load_items(workspace.items_path)
    assert inputs_of(workspace, kept).shape == (len(kept), 8) == (383, 8)
    assert "t5" not in kept.item_id
    assert pq.read_table(workspace.rejected_path)["item_id"].to_pylist() == ["t5"]
    # A later job that may not skip it says so.
    with pytest.raises(ItemsError, match=r"1 texts cannot be read, see .*undecodable\.parquet"):
        prepare(recipe, quiet)


def test_another_tokenizer_makes_another_workspace(tmp_path, monkeypatch, quiet):
    monkeypatch.chdir(tmp_path)
    recipe = write_world(tmp_path)
    first = prepare(recipe, quiet).folder
    assert prepare(recipe, quiet).folder == first
    tokenizer = tmp_path / "model" / "tokenizer.json"
    changed = tokenizer.read_text().replace('"shoe"', '"boot"')
    tokenizer.write_text(changed)
    assert prepare(recipe, quiet).folder != first


def test_a_recipe_whose_backbone_reads_no_text_gets_one_line(tmp_path, monkeypatch, quiet):
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path)
    (tmp_path / "texts.toml").write_text(RECIPE.replace("transformers:./model", "mlp"))
    with pytest.raises(ItemsError, match=r"items.csv: the items hold text: .*'mlp' reads no text"):
        prepare(load_recipe(tmp_path / "texts.toml"), quiet)
