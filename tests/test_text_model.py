"""Text networks: masked by their ids, trained by the real loop, saved, exported, embedded."""

import copy
import dataclasses
import json
import logging

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch
import transformers
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.config import DataConfig, Recipe
from pipeline.data.items import Items, ItemsError
from pipeline.data.tokeniser import TextError, TokeniserError
from pipeline.encoding.encoder import Encoder, EncoderError
from pipeline.encoding.export import check_parity, export_onnx
from pipeline.encoding.inputs import embed_items
from pipeline.losses.config import LossConfig
from pipeline.models.config import ModelConfig
from pipeline.models.registry import build_model, load_model, save_model
from pipeline.strict import RecipeError
from pipeline.training.config import TrainConfig
from pipeline.training.loop import fit
from tests.text_world import BERT, SPECIAL, WORDS, texts, write_model

TOKENS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def config(folder, **changed):
    options = {"backbone": f"transformers:{folder}", "tokens": TOKENS, "dimension": 8, **changed}
    return ModelConfig(**options)


def built(folder, **changed):
    return build_model(config(folder, **changed), kind="text", seed=3).eval()


def ids_of(model, given):
    return torch.from_numpy(model.backbone.tokeniser.ids(given))


SENTENCES = ["red shoe", "the small old blue lamp", "mug", "a red shoe with a new light zzz pen"]


def test_pooling_sees_the_tokens_of_a_text_and_no_padding(folder):
    model = built(folder)
    ids = ids_of(model, SENTENCES)
    # Each text on its own, cut to its own length, through the library's network without a mask.
    rows = []
    for row in ids:
        own = row[row != 0][None]
        hidden = model.backbone.network(input_ids=own).last_hidden_state[0]
        rows.append(model.backbone.head(hidden.mean(0)))
    expected = torch.nn.functional.normalize(torch.stack(rows), dim=1)
    assert_allclose(model(ids).detach(), expected.detach(), atol=1e-6)


def test_cls_takes_the_first_token_and_layer_norm_stands_before_the_head(folder):
    model = built(folder, pooling="cls", head="layer_norm")
    with torch.no_grad():  # at first the network's own last norm has done the same already
        own = model.backbone.network.encoder.layer[-1].output.LayerNorm
        own.weight.copy_(torch.linspace(0.5, 2, BERT["hidden_size"]))
    ids = ids_of(model, SENTENCES)
    hidden = model.backbone.network(input_ids=ids, attention_mask=(ids != 0).long())[0][:, 0]
    normed = torch.nn.functional.layer_norm(hidden, (BERT["hidden_size"],))
    expected = torch.nn.functional.normalize(model.backbone.head(normed), dim=1)
    assert_allclose(model(ids).detach(), expected.detach(), atol=1e-6)


def test_more_room_for_tokens_changes_nothing_for_texts_that_fit(folder):
    short, long = built(folder), built(folder, tokens=20)
    given = SENTENCES[:3]
    assert_allclose(short(ids_of(short, given)).detach(), long(ids_of(long, given)).detach(),
                    atol=1e-6)
    with torch.no_grad():
        changed = (short(ids_of(short, SENTENCES[3:])) - long(ids_of(long, SENTENCES[3:]))).abs()
    assert changed.max() > 1e-3  # that one was cut


def test_training_is_a_function_of_weights_and_batch_alone(folder):
    model = built(folder).train()
    ids = ids_of(model, SENTENCES)
    assert_array_equal(model(ids).detach(), model(ids).detach())  # no dropout
    assert not model.uses_batch_statistics


def clip(folder):
    """A text tower of CLIP whose padding token also ends each text, beside its image tower."""
    write_model(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[SEP]"}))
    tower = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 24}
    both = transformers.CLIPModel(transformers.CLIPConfig(
        text_config={**tower, "vocab_size": len(WORDS) + len(SPECIAL), "eos_token_id": 3,
                     "max_position_embeddings": TOKENS},
        vision_config={**tower, "image_size": 32, "patch_size": 16}, projection_dim=8,
    ))  # fmt: skip
    both.save_pretrained(folder)
    return both


def test_the_text_tower_of_clip_is_read_off_its_last_token(tmp_path):
    both = clip(tmp_path)
    model = built(tmp_path, weights="pretrained")
    ids = ids_of(model, SENTENCES)
    # The library's own summary: the final state at the end of the text.
    pooled = both.text_model(input_ids=ids).pooler_output
    expected = torch.nn.functional.normalize(model.backbone.head(pooled), dim=1)
    assert_allclose(model(ids).detach(), expected.detach(), atol=1e-6)
    mean = built(tmp_path, weights="pretrained", pooling="mean")
    assert (mean(ids) - model(ids)).abs().max() > 1e-3


def test_weights_come_from_the_folder_or_a_file_and_what_is_missing_is_named(tmp_path, folder):
    write_model(tmp_path)
    description = transformers.BertConfig(**json.loads((tmp_path / "config.json").read_text()))
    trained = transformers.BertForMaskedLM(description)  # another head, no pooler
    trained.save_pretrained(tmp_path)
    model = built(tmp_path, weights="pretrained")
    for name, value in model.backbone.network.state_dict().items():
        assert_array_equal(value, trained.bert.state_dict()[name])
    torch.save(trained.bert.state_dict(), tmp_path / "own.pt")
    from_file = built(folder, weights=str(tmp_path / "own.pt"))
    given = ids_of(model, SENTENCES)
    pooled = [m.backbone.network(input_ids=given)[0].detach() for m in (model, from_file)]
    assert_array_equal(*pooled)
    deeper = json.loads((tmp_path / "config.json").read_text()) | {"num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(deeper))
    with pytest.raises(RecipeError, match=r"encoder\.layer\.2\.\S+ is missing .*16 such"):
        built(tmp_path, weights="pretrained")


@pytest.mark.parametrize(
    ("model_type", "keys"),
    [
        ("roberta", {}),
        ("mpnet", {}),
        ("distilbert", {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2}),
        ("clip_text_model", {"hidden_size": 16, "eos_token_id": 3}),
    ],
)
def test_other_families_train_each_of_their_weights_once(tmp_path, model_type, keys):
    write_model(tmp_path, model_type=model_type, pad_token_id=0, **keys)
    model = built(tmp_path).train()
    parts = [parameter for layer in model.layers() for parameter in layer]
    assert len(parts) == len({id(p) for p in parts}) == len(list(model.parameters()))
    assert len(model.layers()) == 2 + 1 + 1  # blocks, embeddings, head
    model(ids_of(model, SENTENCES)).square()[:, 0].sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    assert not idle
    head = list(model.backbone.head.parameters())
    assert model.layers()[-1][0] is head[0]


def test_the_first_stages_stay_as_they_are_and_a_head_alone_needs_the_network_once(folder):
    for stages, layers in ((-1, 4), (2, 3), (1, 2), (0, 1)):
        model = built(folder, trained_stages=stages).train()
        assert len(model.layers()) == layers
        ids = ids_of(model, SENTENCES)
        model(ids).square()[:, 0].sum().backward()
        moved = {id(p) for p in model.parameters() if p.grad is not None}
        assert moved == {id(p) for layer in model.layers() for p in layer}
        assert model.has_frozen == (stages == 0)
        features = model.frozen(ids)
        assert features.shape == ((4, 32) if stages == 0 else ids.shape)
        assert_array_equal(model.trained(features).detach(), model(ids).detach())
    with pytest.raises(RecipeError, match=r"model\.trained_stages: expected below the 3 stages"):
        built(folder, trained_stages=3)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A model that the real loop trained, its losses, and the file it was exported to."""
    model = build_model(config(folder), kind="text", seed=0)
    given, labels = texts()
    recipe = Recipe(
        name="texts",
        data=DataConfig(items="items.csv"),
        model=model.config,
        loss=LossConfig(),
        train=TrainConfig(steps=30, classes_per_batch=16, warmup_steps=3, learning_rate=5e-3),
    )
    losses = []
    fit(model.backbone.tokeniser.ids(given), labels, recipe=recipe, model=model,
        on_checkpoint=lambda state: None, progress=lambda now: losses.append(now.loss))
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_onnx(model.eval(), path)
    return model, losses, path


def recall(rows, labels):
    """Share of rows whose nearest other row has their label."""
    similar = rows @ rows.T
    np.fill_diagonal(similar, -2)
    return (labels[similar.argmax(1)] == labels).mean()


def test_the_real_loop_learns_what_a_text_is_about(trained, folder):
    model, losses, _ = trained
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    given, labels = texts(seed=1)  # the same things in other words
    fresh = build_model(config(folder), kind="text", seed=0).eval()
    with torch.no_grad():
        before, after = (recall(m(ids_of(m, given)).numpy(), labels) for m in (fresh, model))
    assert after > 0.9 > before


def test_a_saved_model_needs_neither_its_folder_nor_a_hub(trained, tmp_path):
    model, _, _ = trained
    save_model(model, tmp_path / "model.pt", fingerprint="mark")
    copied = copy.deepcopy(model)
    missing = dataclasses.replace(model.config, backbone="transformers:./gone")
    copied.config = missing
    save_model(copied, tmp_path / "elsewhere.pt", fingerprint="mark")
    for name in ("model.pt", "elsewhere.pt"):
        loaded, mark = load_model(tmp_path / name)
        assert mark == "mark"
        given = ids_of(loaded, SENTENCES)
        assert_array_equal(given, ids_of(model, SENTENCES))
        assert_array_equal(loaded(given).detach(), model(given).detach())
    assert str(tmp_path.parent).encode() not in (tmp_path / "model.pt").read_bytes()


def test_the_export_decides_as_the_trained_model_and_tokenises_with_its_words(trained):
    model, _, path = trained
    encoder = Encoder(path)
    assert (encoder.kind, encoder.tokens, encoder.dimension) == ("text", TOKENS, 8)
    assert encoder.image_size is encoder.input_dimension is None
    given, _ = texts(seed=2)
    ids = encoder.tokenise(given)
    assert_array_equal(ids, model.backbone.tokeniser.ids(given))
    parity = check_parity(model, encoder, ids, low=0.0, high=2.0)
    assert parity.max_distance_change < 2e-6


def test_a_text_embeds_alike_alone_and_in_any_batch(trained):
    encoder = Encoder(trained[2])
    given, _ = texts(seed=2)
    ids = encoder.tokenise(given)
    rows = encoder.embed(ids)
    assert rows.shape == (len(given), 8)  # more than the encoder takes at once
    for batch in (1, 7, 64):
        parts = [encoder.embed(ids[i : i + batch]) for i in range(0, 128, batch)]
        assert_allclose(np.concatenate(parts)[:128], rows[:128], atol=1e-6)
    assert encoder.embed(ids[:0]).shape == (0, 8)


def test_the_export_holds_its_tokenizer_and_no_path_and_is_reproducible(
    trained, tmp_path, caplog
):
    model, _, path = trained
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert facts.keys() == {"kind", "dimension", "tokens", "vocabulary", "tokenizer"}
    assert set(WORDS) <= set(json.loads(facts["tokenizer"])["model"]["vocab"])
    assert b"/tmp" not in path.read_bytes()
    with caplog.at_level(logging.WARNING):
        export_onnx(model, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    assert not caplog.records


def test_two_text_encoders_each_read_items_with_their_own_tokenizer(trained, tmp_path):
    model = onnx.load(trained[2])
    facts = {entry.key: entry.value for entry in model.metadata_props}
    swapped = facts["tokenizer"].replace('"red"', '"?"').replace('"mug"', '"red"')
    facts["tokenizer"] = swapped.replace('"?"', '"mug"')
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, tmp_path / "swapped.onnx")
    encoders = [Encoder(trained[2]), Encoder(tmp_path / "swapped.onnx")]
    name, given = np.asarray(["i"], object), np.asarray(["red shoe"], object)
    item = Items(item_id=name, label=name, customer=name, role=name, split=name, kind="text",
                 content=given, metadata=pa.table({}))
    (rows,) = embed_items(encoders, item, "items.csv")
    for encoder, text, row in zip(encoders, ("red shoe", "mug shoe"), rows, strict=True):
        assert_array_equal(row, encoder.embed(encoder.tokenise(given.tolist())))
        assert_array_equal(row, encoders[0].embed(encoders[0].tokenise([text])))
    blank = dataclasses.replace(item, content=np.asarray(["zzz"], object))
    with pytest.raises(ItemsError, match=r"items.csv: row 0 \(item 'i'\), column 'text': none of"):
        list(embed_items(encoders, blank, "items.csv"))


def test_what_a_text_encoder_cannot_take_is_refused(trained):
    encoder = Encoder(trained[2])
    with pytest.raises(TextError, match="text 1: no text"):
        encoder.tokenise(["red", ""])
    with pytest.raises(EncoderError, match="embeds texts; it takes no image"):
        encoder.decode(b"")
    ids = encoder.tokenise(["red shoe", "mug"])
    for bad, match in (
        (ids.astype(np.int32), r"batch of int32 \(2, 8\); expected int64 \(n, 8\)"),
        (ids[:, :7], r"expected int64 \(n, 8\)"),
        (np.where(ids == 0, len(WORDS) + 4, ids), "row 0: no token id; expected 0 to 30"),
        (ids - 1, "row 0: no token id"),
        (ids * 0, "embedding of length"),  # padding alone
    ):
        with pytest.raises(EncoderError, match=match):
            encoder.embed(bad)


@pytest.mark.parametrize(
    ("changed", "options", "match"),
    [
        ({}, {"pooling": "gem"}, "model.pooling: 'gem' is for images"),
        ({}, {"tokens": 513}, r"model.tokens: .* cannot read 513 tokens \(it has places for 512\)"),
        ({"vocab_size": 9}, {}, "knows 9 tokens, its tokenizer 31; expected the tokenizer of"),
        ({"model_type": "resnet"}, {}, "reads no tokens; expected a text model"),
        ({"model_type": "nonsense"}, {}, "expected a text model"),
        ({"model_type": None}, {}, "no model_type"),
    ],
)
def test_a_model_that_does_not_fit_gets_one_line(tmp_path, changed, options, match):
    write_model(tmp_path, **changed)
    with pytest.raises(RecipeError, match=match) as refused:
        built(tmp_path, **options)
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_tokenizer_gets_one_line(tmp_path):
    write_model(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TokeniserError, match=r"tokenizer\.json: no such file; .*save_pretrained"):
        built(tmp_path)
