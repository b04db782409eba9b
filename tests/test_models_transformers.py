"""Image networks of the library transformers: the library's own forward is the oracle."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from pipeline.encoding.encoder import Encoder
from pipeline.encoding.export import check_parity, export_onnx
from pipeline.models import hub
from pipeline.models.config import ModelConfig
from pipeline.models.registry import build_model, load_model, require_backbone, save_model
from pipeline.strict import RecipeError
from tests.model_world import FAMILIES, SIDE, config, pixels, saved

transformers = pytest.importorskip("transformers")

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5] * 3, [0.5] * 3)
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
COLOURS = {"resnet": IMAGENET, "vit": HALF, "dinov2": IMAGENET, "clip": CLIP}


def built(family, seed=0, **options):
    return build_model(config(family, **options), kind="image", seed=seed)


def normalised(items, colours):
    """(b, 3, S, S) as the field prepares images: to [0, 1], less the mean, by the deviation."""
    mean, deviation = (torch.tensor(values) for values in colours)
    return ((items / 255.0 - mean) / deviation).permute(0, 3, 1, 2)


@torch.no_grad()
def own_features(family, items):
    """What the library itself makes of the images."""
    return saved(family)[1](normalised(items, COLOURS[family]))


def expected(features, model):
    rows = model.backbone.head(features)
    return (rows / rows.norm(dim=1, keepdim=True)).detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pretrained_network_gives_what_the_library_gives(family):
    model, items = built(family, weights="pretrained").eval(), pixels()
    pooled = own_features(family, items).pooler_output
    if family == "vit":  # its own pooling has a layer of its own, which nobody retrieves with
        pooled = own_features(family, items).last_hidden_state[:, 0]
    np.testing.assert_allclose(
        model(items).detach(), expected(pooled.flatten(1), model), atol=2e-6
    )


@pytest.mark.parametrize("family", ["resnet", "dinov2"])
@pytest.mark.parametrize("pooling", ["mean", "gem"])
def test_poolings_are_over_places_and_not_over_the_cls_token(family, pooling):
    model, items = built(family, weights="pretrained", pooling=pooling).eval(), pixels()
    places = own_features(family, items).last_hidden_state
    places = places.flatten(2) if family == "resnet" else places[:, 1:].transpose(1, 2)
    pooled = places.mean(2)
    if pooling == "gem":
        pooled = (places.clamp(min=1e-6) ** 3).mean(2) ** (1 / 3)
    np.testing.assert_allclose(model(items).detach(), expected(pooled, model), atol=2e-6)


def test_the_exponent_of_gem_is_trained_with_the_head():
    model = built("resnet", pooling="gem")
    model(pixels()).sum().backward()
    exponent = model.backbone.pool.exponent
    assert exponent.item() == 3.0
    assert exponent.grad.item() != 0
    assert any(parameter is exponent for parameter in model.layers()[-1])


def test_a_map_has_no_cls_token():
    with pytest.raises(RecipeError, match=r"model\.pooling: expected 'mean' or 'gem': .* no cls"):
        built("resnet", pooling="cls")
    cls, default = (built("vit", pooling=kind).eval()(pixels()) for kind in ("cls", ""))
    np.testing.assert_array_equal(cls.detach(), default.detach())


def test_a_layer_norm_before_the_head_has_no_weights_of_its_own():
    plain, normed = (built("vit", weights="pretrained", head=head) for head in
                     ("linear", "layer_norm"))  # fmt: skip
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in normed.parameters())
    linear = normed.eval().backbone.head[1]
    pooled = own_features("vit", pixels()).last_hidden_state[:, 0]
    standard = (pooled - pooled.mean(1, keepdim=True)) / pooled.std(1, keepdim=True, correction=0)
    rows = linear(standard)
    np.testing.assert_allclose(
        normed(pixels()).detach(), (rows / rows.norm(dim=1, keepdim=True)).detach(), atol=1e-4
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("trained", [-1, 0, 1, 3])
def test_frozen_stages_are_not_trained_and_their_features_may_be_kept(family, trained):
    model, items = built(family, trained_stages=trained, seed=1), pixels()
    whole = model(items)
    kept = model.frozen(items)
    np.testing.assert_array_equal(model.trained(kept).detach(), whole.detach())
    assert model.has_frozen == (trained >= 0)
    assert (kept is items) == (trained < 0)
    assert not kept.requires_grad
    whole.sum().backward()
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trainable)
    layered = [p for layer in model.layers() for p in layer]
    assert sorted(map(id, layered)) == sorted(map(id, trainable))
    # The stem and three stages and the head; the head comes last.
    assert len(model.layers()) == (5 if trained < 0 else trained + 1)
    assert {id(p) for p in model.backbone.head.parameters()} <= {id(p) for p in model.layers()[-1]}


def test_more_trained_stages_than_there_are_is_an_error():
    with pytest.raises(RecipeError, match=r"trained_stages: expected at most 3, .* got 4"):
        built("resnet", trained_stages=4)


def statistics(model):
    return {name: value.clone() for name, value in model.state_dict().items() if "running" in name}


def test_training_moves_the_statistics_of_trained_stages_only():
    model = built("resnet", weights="pretrained", trained_stages=1)
    before = statistics(model)
    model.train()(pixels())
    after = statistics(model)
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert moved == {name for name in before if ".stages.2." in name}
    assert model.uses_batch_statistics
    assert not built("resnet", trained_stages=0).uses_batch_statistics
    assert not built("vit").uses_batch_statistics


def test_frozen_norms_keep_statistics_and_scales_while_the_rest_trains():
    model = built("resnet", weights="pretrained", frozen_norm=True)
    before = statistics(model)
    assert not model.uses_batch_statistics
    model.eval().train()(pixels()).sum().backward()
    after = statistics(model)
    assert all(torch.equal(after[name], before[name]) for name in before)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not {name for name in names if "normalization" in name}
    assert {name for name in names if "convolution" in name}
    # Rows are then those of evaluation: no item sees its neighbours in the batch.
    np.testing.assert_allclose(
        model(pixels())[:1].detach(), model(pixels()[:1]).detach(), atol=1e-6
    )


def test_frozen_norms_are_refused_where_there_are_none():
    with pytest.raises(RecipeError, match=r"model\.frozen_norm: .* no batch normalisation"):
        built("vit", frozen_norm=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_comes_back_without_the_folder_it_started_from(family, tmp_path):
    folder = tmp_path / "network"
    shutil.copytree(saved(family)[0], folder)
    stated = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    chosen = config(family, backbone=f"transformers:{folder}", weights="pretrained",
                    pooling="mean", trained_stages=1)  # fmt: skip
    model = build_model(chosen, kind="image", seed=2).eval()
    save_model(model, tmp_path / "model.pt", fingerprint="f")
    shutil.rmtree(folder)
    loaded, mark = load_model(tmp_path / "model.pt")
    assert mark == "f"
    np.testing.assert_array_equal(loaded(pixels()).detach(), model(pixels()).detach())
    assert loaded.config == chosen.portable()
    assert str(tmp_path).encode() not in (tmp_path / "model.pt").read_bytes()
    deviation = 1 / (255 * loaded.backbone.scale.flatten())
    np.testing.assert_allclose(deviation, [0.4, 0.5, 0.6], rtol=1e-6)
    # Saved once more, it is the same again.
    save_model(loaded, tmp_path / "again.pt", fingerprint="f")
    again = load_model(tmp_path / "again.pt")[0]
    np.testing.assert_array_equal(again(pixels()).detach(), model(pixels()).detach())


@pytest.mark.parametrize("family", ["vit", "dinov2", "clip"])
def test_a_table_of_places_is_interpolated_to_the_side_of_the_images(family):
    # The library interpolates at each call; here it is done once.
    items = pixels(side=40)
    model = built(family, weights="pretrained", image_size=40).eval()
    prepared = normalised(items, COLOURS[family])
    options = {} if family == "dinov2" else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        features = saved(family)[1](prepared, **options)
    pooled = features.pooler_output if family == "clip" else features.last_hidden_state[:, 0]
    np.testing.assert_allclose(model(items).detach(), expected(pooled, model), atol=2e-6)


def test_a_side_that_is_no_multiple_of_the_patches_is_refused():
    with pytest.raises(RecipeError, match=r"squares of 8 pixels; expected a multiple .* sees 28"):
        built("vit", image_size=28)
    built("vit", image_size=28, crop=24)


def test_random_weights_are_drawn_from_the_seed_at_the_recipes_side():
    one, same, other = (built("vit", seed=seed, image_size=40)(pixels(side=40)).detach()
                        for seed in (0, 0, 1))  # fmt: skip
    np.testing.assert_array_equal(one, same)
    assert not torch.equal(one, other)


def test_dropout_is_off_whatever_the_folder_says(tmp_path):
    network = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=SIDE, patch_size=8, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5,
    )  # fmt: skip
    network.save_pretrained(tmp_path)
    model = build_model(config("vit", backbone=f"transformers:{tmp_path}"), kind="image").train()
    np.testing.assert_array_equal(model(pixels()).detach(), model(pixels()).detach())


@pytest.mark.parametrize("name", ["pretrained", "weights.pt", "weights.safetensors"])
def test_a_classifiers_file_starts_the_network_and_its_head_is_left_aside(name, tmp_path):
    whole = transformers.ResNetForImageClassification(saved("resnet")[1].config)
    whole.save_pretrained(tmp_path)
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    shutil.copy(tmp_path / "model.safetensors", tmp_path / "weights.safetensors")
    weights = name if name == "pretrained" else str(tmp_path / name)
    model = built("resnet", backbone=f"transformers:{tmp_path}", weights=weights)
    theirs = whole.resnet.state_dict()
    ours = model.backbone.network.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("embedder.embedder.convolution.weight"),
         r"embedder\.embedder\.convolution\.weight is missing; expected"),
        (lambda state: state.update(extra=torch.zeros(2)), "extra is not of this network"),
        (lambda state: state.update({"embedder.embedder.convolution.weight": torch.zeros(2, 3)}),
         r"weight is \(2, 3\), the network's \(8, 3, 7, 7\)"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_naming_the_first_difference(change, message, tmp_path):
    state = saved("resnet")[1].state_dict()
    change(state)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(RecipeError, match=message):
        built("resnet", weights=str(tmp_path / "weights.pt"))


def test_known_shapes_are_built_without_a_hub():
    chosen = ModelConfig(backbone="transformers:resnet-50", image_size=32, dimension=8)
    model = build_model(chosen, kind="image")
    # 25.557 M weights of ResNet-50 less its classifier of 1,000, and our head.
    assert sum(p.numel() for p in model.backbone.network.parameters()) == 25_557_032 - 2_049_000
    assert model(pixels(2, 32)).shape == (2, 8)


def test_what_is_neither_here_nor_on_the_hub_says_how_to_get_it(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name, weights in (("resnet-50", "pretrained"), ("acme/unheard-of", "")):
        chosen = ModelConfig(backbone=f"transformers:{name}", weights=weights)
        with pytest.raises(RecipeError, match=f"{name}' is not in the hub's cache .*:./FOLDER"):
            require_backbone(chosen, "image")


def test_what_the_hub_gave_once_is_used_without_network(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    kept = tmp_path / "models--acme--net"
    shutil.copytree(saved("vit")[0], kept / "snapshots" / "1a2b")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("1a2b")
    model = built("vit", backbone="transformers:acme/net", weights="pretrained").eval()
    pooled = own_features("vit", pixels()).last_hidden_state[:, 0]
    np.testing.assert_allclose(model(pixels()).detach(), expected(pooled, model), atol=2e-6)


def test_a_folder_that_is_not_a_known_network_is_refused_early(tmp_path):
    chosen = ModelConfig(backbone=f"transformers:{tmp_path}")
    with pytest.raises(RecipeError, match=r"has no config\.json"):
        require_backbone(chosen, "image")
    path = tmp_path / "config.json"
    for content, message in (
        ("{", "not readable as JSON"), ("[]", "expected a JSON object"), ("{}", "no model_type"),
        ('{"model_type": "bert"}', "is a 'bert'; image networks known here: resnet, vit, dinov2"),
    ):  # fmt: skip
        path.write_text(content)
        with pytest.raises(RecipeError, match=message):
            require_backbone(chosen, "image")
    path.write_text('{"model_type": "resnet"}')
    require_backbone(chosen, "image")
    with pytest.raises(RecipeError, match=r"has no model\.safetensors"):
        require_backbone(dataclasses.replace(chosen, weights="pretrained"), "image")
    path.write_text('{"model_type": "resnet", "layer_type": "cubic"}')
    with pytest.raises(RecipeError, match=r"model\.backbone: .*layer_type"):
        build_model(chosen, kind="image")
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [1, 2], "image_std": [1]}')
    with pytest.raises(RecipeError, match="expected three colours"):
        hub.stated_colours(tmp_path)


def test_building_says_nothing(capfd, caplog):
    built("clip", weights="pretrained")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("family", FAMILIES)
def test_the_export_decides_as_the_network_does_in_any_batch(family, tmp_path):
    items = pixels(65)
    model = built(family, weights="pretrained", head="layer_norm").eval()
    export_onnx(model, tmp_path / "model.onnx")
    parity = check_parity(model, Encoder(tmp_path / "model.onnx"), items.numpy(), low=0, high=2)
    assert parity.pairs == 65 * 64 // 2
    assert parity.max_distance_change < 5e-6


@pytest.mark.slow
def test_the_whole_resnet_50_with_gem_is_exported_as_it_is_trained(tmp_path):
    chosen = ModelConfig(backbone="transformers:resnet-50", image_size=64, dimension=512,
                         pooling="gem", head="layer_norm", frozen_norm=True)  # fmt: skip
    model = build_model(chosen, kind="image").eval()
    export_onnx(model, tmp_path / "model.onnx")
    items = pixels(65, 64).numpy()
    parity = check_parity(model, Encoder(tmp_path / "model.onnx"), items, low=0, high=2)
    assert parity.max_distance_change < 1e-5
