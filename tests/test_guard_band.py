"""Embeddings that do not depend on the batch: bit-equal distances alone and among others."""

import base64
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.distance import deciding
from pipeline.encoding import batching
from pipeline.encoding.batching import UNKNOWN, Batching, probe
from pipeline.encoding.encoder import Encoder
from pipeline.encoding.export import add_facts, export_onnx
from pipeline.models.registry import build_model
from serving.answers.answering import GUARD_BAND
from tests import serving_release
from tests.serving_release import CUSTOMERS, THRESHOLD
from tests.test_api import Server
from tests.text_world import texts, write_model
from tests.training_world import exported, images, recipe


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    """An untrained transformer, exported; its metadata says nothing of batches."""
    folder = tmp_path_factory.mktemp("text")
    write_model(folder / "model")
    chosen = dataclasses.replace(
        recipe(backbone="mlp").model, backbone=f"transformers:{folder / 'model'}", tokens=8
    )
    export_onnx(build_model(chosen, kind="text", seed=3).eval(), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def probed(text_file):
    """The same after a build: what the probe found is in its metadata."""
    path = text_file.with_name("probed.onnx")
    path.write_bytes(text_file.read_bytes())
    encoder = Encoder(path)
    add_facts(path, probe(encoder, encoder.tokenise(texts()[0][:32])).facts())
    return Encoder(path)


class Moody:
    """A model whose rows gain ``moved`` in their first coordinate in batches of some sizes."""

    def __init__(self, moved, sizes):
        self.moved, self.sizes = moved, sizes

    def embed(self, batch, *, at_once=256, at_least=1):
        rows = np.zeros((len(batch), 4), np.float32)
        for start in range(0, len(batch), at_once):
            part = slice(start, start + at_once)
            if max(len(batch[part]), at_least) in self.sizes:
                rows[part, 0] = self.moved
        return rows


INPUTS = np.zeros((32, 1), np.float32)


def test_equal_bits_in_every_batch_are_a_band_of_zero():
    assert probe(Moody(0.5, ()), INPUTS) == Batching(1, 32, 0.0)


def test_rows_that_differ_only_alone_are_never_run_alone():
    # Every size from 2 on moves a row by 2**-20 against the row alone: 4 x 2**-20 + 2**-23.
    found = probe(Moody(2.0**-20, range(2, 33)), INPUTS)
    assert found == Batching(2, 32, 4 * 2.0**-20 + 2.0**-23)


@pytest.mark.parametrize("size", [2, 7, 23, 32])
def test_one_size_of_batch_that_differs_is_found_and_every_row_run_alone(size):
    assert probe(Moody(2.0**-20, (size,)), INPUTS) == Batching(1, 1, 4 * 2.0**-20 + 2.0**-23)


def test_what_was_found_travels_in_the_metadata_and_is_unknown_without():
    for found in (Batching(1, 32, 0.0), Batching(2, 32, 1.5e-7), Batching(1, 1, 3e-8)):
        assert batching.read(found.facts()) == found
    assert batching.read({"kind": "text"}) == UNKNOWN == Batching(1, 1, None)


def test_build_and_service_are_joined_to_what_is_right_for_both():
    equal, doubled, alone = Batching(1, 32, 0.0), Batching(2, 32, 1e-7), Batching(1, 1, 1e-7)
    assert equal.joined(doubled) == Batching(2, 32, 0.0)
    assert equal.joined(alone) == Batching(1, 1, 0.0)
    assert doubled.joined(equal) == doubled
    assert alone.joined(equal) == alone


def test_a_convolutional_network_is_found_bit_equal_and_a_transformer_is_not(probed):
    encoder = Encoder(exported("image")[1])
    assert probe(encoder, images()[0][:32]) == Batching(1, 32, 0.0)
    assert 0 < probed.batching.band < 1e-5
    # What the band is for: without a remedy, rows alone and in a batch have other bits.
    ids = probed.tokenise(texts()[0][:32])
    alone, together = probed.embed(ids, at_once=1), probed.embed(ids)
    assert (alone != together).any()
    shift = np.abs(alone.astype(np.float64) @ alone.T - together.astype(np.float64) @ alone.T)
    assert shift.max() <= probed.batching.band


def test_the_trial_in_service_can_only_be_more_careful(probed, monkeypatch):
    monkeypatch.setattr(batching, "probe", lambda *_: Batching(1, 1, 1e-7))
    again = Encoder(probed._path)
    assert again.steady == Batching(1, 1, again.batching.band)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 383), min_size=1, max_size=70))
def test_a_texts_embedding_has_the_same_bits_alone_and_in_any_batch(probed, chosen):
    given_texts = texts()[0]
    ids = probed.tokenise([given_texts[row] for row in chosen])
    together = probed.embed_steadily(ids)
    place = len(chosen) // 2
    alone = probed.embed_steadily(ids[place : place + 1])
    np.testing.assert_array_equal(together[place], alone[0])


def test_a_model_of_an_older_build_embeds_every_row_alone(text_file):
    encoder = Encoder(text_file)
    assert encoder.batching == UNKNOWN
    ids = encoder.tokenise(texts()[0][:9])
    np.testing.assert_array_equal(encoder.embed_steadily(ids), encoder.embed(ids, at_once=1))


def test_metadata_that_is_no_number_is_refused(text_file, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(text_file.read_bytes())
    add_facts(path, {"batch_band": "wide", "batch_at_least": "1", "batch_at_once": "32"})
    with pytest.raises(ValueError, match="no usable metadata"):
        Encoder(path)
    assert Encoder(text_file).tokens == 8


def test_image_queries_in_the_band_are_counted_once_and_ready_embeddings_never(
    tmp_path, monkeypatch
):
    band = 0.003
    plain = serving_release.write_encoder

    def banded(path, *further):
        plain(path, *further)
        add_facts(path, Batching(1, 32, band).facts())

    monkeypatch.setattr(serving_release, "write_encoder", banded)
    server = Server(tmp_path)
    world, rows = server.world, list(range(0, 60))
    visible = world.vectors[world.rows_of(CUSTOMERS[0])]
    gaps = np.abs(deciding(world.vectors[rows], visible).astype(np.float64) - THRESHOLD).min(axis=1)
    expected = int((gaps <= band).sum())
    assert 0 < expected < len(rows)
    images = [{"image": base64.b64encode(world.items.content[row]).decode()} for row in rows]
    assert server.ask(images, limit=1)[0] == 200
    key = GUARD_BAND.name, (world.release.id12,)
    assert server.front._counters.totals()[key] == expected
    server.ask([{"embedding": world.vectors[row].tolist()} for row in rows])
    inside = int(np.flatnonzero(gaps <= band)[0])
    cursor = server.ask([images[inside]], limit=1)[1]["results"][0]["next_cursor"]
    server.ask([images[inside]], limit=1, cursor=cursor)
    assert server.front._counters.totals()[key] == expected + 1
