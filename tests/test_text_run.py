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
from pipeline.encoding.encoder import Encoder
from pipeline.search.gallery import open_gallery
from serving.answers.queries import embeddings_of
from serving.answers.retriever import Retriever
from serving.responses import RefusedError
from serving.schema.bodies import Query
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


def test_a_text_query_is_embedded_by_the_releases_own_tokeniser_and_model(world):
    retriever = Retriever(world[1])
    assert retriever.passes_self_query()
    encoder = retriever.encoder
    expected = encoder.embed(encoder.tokenise(["red shoe", "fine blue lamp"]))
    row = [1.0] + [0.0] * 15
    asked = [Query(text="red shoe"), Query(embedding=row), Query(text="fine blue lamp")]
    sent = embeddings_of(asked, retriever)
    np.testing.assert_allclose(sent[[0, 2]], expected, atol=1e-6)
    np.testing.assert_array_equal(sent[1], row)
    assert retriever.answer("customer 0", sent)[0].complete


@pytest.mark.parametrize(("query", "reason"), [
    (Query(text=""), "text: no text"),
    (Query(text="zzz yyy"), "text: none of its tokens is known"),
    (Query(text="red " * 25_001), "text: 100004 characters; expected at most 100000"),
    (Query(image="aGVsbG8="), "image: this release embeds texts; send 'text' or an embedding"),
    (Query(vector=[1.0]), "vector: this release embeds texts; send 'text' or an embedding"),
])
def test_a_query_that_a_text_release_cannot_read_is_named(world, query, reason):
    with pytest.raises(RefusedError, match=f"queries.2.{reason}") as refused:
        embeddings_of([Query(text="red"), Query(text="shoe"), query], Retriever(world[1]))
    assert refused.value.status == 422
    assert refused.value.details["index"] == 2


def test_a_text_gives_bit_equal_distances_and_the_same_matches_alone_and_in_any_batch(world):
    retriever = Retriever(world[1])
    assert retriever.encoder.batching.band > 0  # or the test would show nothing
    given, _ = texts()
    rng = np.random.default_rng(5)
    alone = {}
    for row in range(0, len(given), 16):
        vector = embeddings_of([Query(text=given[row])], retriever)
        alone[row] = retriever.answer("customer 0", vector, limit=1000, exact=True)[0].matches
    for size in (2, 3, 7, 24):
        rows = rng.permutation(list(alone))[:size].tolist()
        vectors = embeddings_of([Query(text=given[row]) for row in rows], retriever)
        answers = retriever.answer("customer 0", vectors, limit=1000, exact=True)
        assert [answer.matches for answer in answers] == [alone[row] for row in rows]


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
