"""Backbones by name, a user's own, files of weights, and what every embedding model keeps to."""

import dataclasses
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from pipeline.config import load_recipe
from pipeline.encoding.encoder import Encoder
from pipeline.encoding.export import check_parity, export_onnx
from pipeline.models.config import ModelConfig
from pipeline.models.registry import build_model, load_model, require_backbone, save_model
from pipeline.models.weights import weights_digest
from pipeline.strict import RecipeError
from tests import own_networks
from tests.model_world import pixels

CNN = ModelConfig(dimension=8, image_size=16, width=4)


def own(name, **options):
    return ModelConfig(
        **{"backbone": f"tests.own_networks:{name}", "dimension": 8, "image_size": 16, **options}
    )


# What every model keeps to


@pytest.mark.parametrize("config", [CNN, own("small")])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_pixels_come_as_bytes_or_as_floats_of_the_same_range(config, kind):
    model = build_model(config, kind="image").eval()
    items = pixels(side=16)
    np.testing.assert_array_equal(model(items.to(kind)).detach(), model(items).detach())


@pytest.mark.parametrize("config", [CNN, own("small")])
def test_rows_are_unit_float32_under_autocast_too(config):
    model = build_model(config, kind="image").eval()
    plain = model(pixels(side=16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = model(pixels(side=16))
    assert rows.dtype == torch.float32
    np.testing.assert_allclose(rows.detach().norm(dim=1), 1, atol=1e-6)
    assert not torch.equal(rows, plain)  # autocast did something
    np.testing.assert_allclose(rows.detach(), plain.detach(), atol=0.05)


def test_the_network_sees_the_central_part_of_the_image():
    cropped = dataclasses.replace(CNN, crop=11)
    inner = dataclasses.replace(CNN, image_size=11)
    model, alone = (build_model(c, kind="image", seed=4) for c in (cropped, inner))
    items = pixels(side=16)
    central = items[:, 2:13, 2:13]  # (16 - 11) // 2 = 2 pixels are left out in front
    np.testing.assert_array_equal(model(items).detach(), alone(central).detach())
    np.testing.assert_array_equal(model(central).detach(), alone(central).detach())


def test_layers_of_our_own_networks_run_from_the_input_to_the_head():
    model = build_model(CNN, kind="image")
    assert [[p.ndim for p in layer] for layer in model.layers()] == [
        *[[4, 1, 1]] * 4, [1, 1, 2, 1]]  # fmt: skip
    assert {id(p) for p in model.backbone.head.parameters()} == set(map(id, model.layers()[-1]))
    vectors = ModelConfig(backbone="mlp", dimension=8)
    model = build_model(vectors, kind="vector", input_dimension=5)
    assert sum(map(len, model.layers())) == len(list(model.parameters()))
    items = torch.randn(3, 5)
    assert model.frozen(items) is items
    np.testing.assert_array_equal(model.trained(items).detach(), model(items).detach())


# Names


def test_unknown_names_list_the_known_ones():
    with pytest.raises(RecipeError, match=r"unknown 'vit'; known: cnn, mlp, efficientnet_lite0, "
                                          r"transformers:NAME, timm:NAME, module:callable"):
        require_backbone(ModelConfig(backbone="vit"), "image")


@pytest.mark.parametrize(
    ("backbone", "kind", "fitting"),
    [
        ("mlp", "image", "cnn, efficientnet_lite0, transformers:NAME"),
        ("cnn", "text", "transformers:NAME$"),
        ("timm:resnet18", "vector", "mlp, module:callable"),
        ("tests.own_networks:small", "text", "transformers:NAME"),
    ],
)
def test_a_backbone_for_other_items_is_refused_before_anything_is_built(backbone, kind, fitting):
    with pytest.raises(RecipeError, match=f"these are {kind}; for them there is: {fitting}"):
        require_backbone(ModelConfig(backbone=backbone), kind)


@pytest.mark.parametrize(
    ("backbone", "key", "value"),
    [
        ("cnn", "pooling", "mean"), ("cnn", "head", "layer_norm"), ("mlp", "trained_stages", 0),
        ("cnn", "frozen_norm", True), ("tests.own_networks:small", "pooling", "gem"),
    ],
)  # fmt: skip
def test_a_key_that_a_backbone_does_not_honour_is_refused(backbone, key, value):
    config = ModelConfig(backbone=backbone, **{key: value})
    with pytest.raises(RecipeError, match=f"model.{key}: '{backbone}' has no choice"):
        require_backbone(config, "vector" if backbone == "mlp" else "image")


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_timm_says_what_to_install_where_it_is_not_there():
    with pytest.raises(RecipeError, match=r"'timm:resnet18' needs: pip install 'limen\[timm\]'"):
        require_backbone(ModelConfig(backbone="timm:resnet18"), "image")


# A user's own


def test_a_users_own_network_gets_the_config_and_pixels_from_0_to_1():
    own_networks.CALLS.clear()
    config = own("small")
    build_model(config, kind="image")
    assert [(config, None)] == own_networks.CALLS
    items = pixels(side=16)
    model = build_model(own("mean_colour", dimension=3), kind="image")
    mean = items.float().mean((1, 2)) / 255 - 0.25
    np.testing.assert_allclose(model(items), mean / mean.norm(dim=1, keepdim=True), atol=1e-6)
    vectors = build_model(own("linear"), kind="vector", input_dimension=5)
    assert vectors(torch.randn(3, 5)).shape == (3, 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing_here", "tests.own_networks has no callable 'nothing_here'"),
        ("NOT_CALLABLE", "has no callable 'NOT_CALLABLE'"),
        ("of_one_argument", "could not be built: TypeError: of_one_argument\\(\\) takes 1"),
        ("not_a_module", "returned function; expected a torch.nn.Module"),
        ("maps", r"makes float32 \(2, 8, 14, 14\) of two items; expected float32 \(2, 8\)"),
        ("one_row", r"makes float32 \(1, 8\) of two items"),
        ("too_wide", r"makes float32 \(2, 9\) of two items"),
        ("whole_numbers", r"makes int64 \(2, 8\) of two items"),
        ("a_pair", "makes tuple of two items"),
        ("other_channels", r"does not take \(2, 3, 16, 16\): RuntimeError: .*channels"),
    ],
)
def test_a_users_network_that_gives_no_row_for_each_item_is_refused_in_one_line(name, message):
    with pytest.raises(RecipeError, match=message) as raised:
        build_model(own(name), kind="image")
    assert "\n" not in str(raised.value)


def test_a_users_module_is_found_in_the_working_folder_and_missed_clearly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(RecipeError, match=f"no module 'ours_7' in {tmp_path} or among"):
        require_backbone(ModelConfig(backbone="ours_7:network"), "image")
    code = "from torch.nn import Linear\nnetwork = lambda config, d: Linear(d, config.dimension)"
    (tmp_path / "ours_7.py").write_text(code)
    config = ModelConfig(backbone="ours_7:network", dimension=4)
    model = build_model(config, kind="vector", input_dimension=3).eval()
    save_model(model, tmp_path / "model.pt", fingerprint="f")
    items = torch.randn(2, 3)
    np.testing.assert_array_equal(
        load_model(tmp_path / "model.pt")[0](items).detach(), model(items).detach()
    )
    del sys.modules["ours_7"]
    (tmp_path / "ours_7.py").write_text(code.replace("config.dimension", "4, bias=False"))
    with pytest.raises(RecipeError, match=r"model.pt: its weights are not of .* delete it to"):
        load_model(tmp_path / "model.pt")
    del sys.modules["ours_7"]
    (tmp_path / "ours_7.py").write_text("import nothing_of_that_name_9\n")
    with pytest.raises(RecipeError, match="no module 'nothing_of_that_name_9'"):
        load_model(tmp_path / "model.pt")
    (tmp_path / "ours_7.py").write_text("1 / 0\n")
    with pytest.raises(RecipeError, match="importing ours_7 failed: ZeroDivisionError"):
        load_model(tmp_path / "model.pt")


def test_a_users_norms_can_be_frozen():
    model, trained = (build_model(own("small", frozen_norm=frozen), kind="image")
                      for frozen in (True, False))  # fmt: skip
    assert not model.uses_batch_statistics
    assert trained.uses_batch_statistics
    before = model.backbone.network.norm.running_mean.clone()
    model.train()(pixels(side=16))
    np.testing.assert_array_equal(model.backbone.network.norm.running_mean, before)


def test_a_users_network_is_exported_as_it_is(tmp_path):
    model = build_model(own("small", crop=12), kind="image").eval()
    export_onnx(model, tmp_path / "model.onnx")
    items = pixels(65, 16).numpy()
    parity = check_parity(model, Encoder(tmp_path / "model.onnx"), items, low=0, high=2)
    assert parity.max_distance_change < 2e-6


# Files of weights


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("config", [CNN, own("small")])
def test_a_file_of_weights_starts_the_network(config, suffix, tmp_path):
    path = tmp_path / f"weights.{suffix}"
    source = build_model(config, kind="image", seed=1).eval()
    state = source.backbone.state_dict() if config is CNN else source.backbone.network.state_dict()
    if suffix == "pt":
        torch.save(state, path)
    else:
        whole = {name: value.contiguous() for name, value in state.items()}
        pytest.importorskip("safetensors.torch").save_file(whole, path)
    started = build_model(dataclasses.replace(config, weights=str(path)), kind="image", seed=2)
    np.testing.assert_array_equal(
        started.eval()(pixels(side=16)).detach(), source(pixels(side=16)).detach()
    )


def test_a_head_that_the_file_does_not_have_is_drawn(tmp_path):
    state = build_model(CNN, kind="image", seed=1).backbone.state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("head.")}, tmp_path / "w.pt")
    started = build_model(dataclasses.replace(CNN, weights=str(tmp_path / "w.pt")), kind="image")
    drawn = build_model(CNN, kind="image").backbone.state_dict()
    for name, value in started.backbone.state_dict().items():
        source = drawn if name.startswith("head.") else state
        np.testing.assert_array_equal(value, source[name])


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("code of the file was run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; expected a file of weights"),
        (b"not a file of weights", "not readable"),
        (Harmful(), "not readable"),
        (torch.zeros(3), "expected tensors by name"),
        ({"model": {"stages.0.weight": torch.zeros(1)}}, "expected tensors by name"),
        ({"stages.0.weight": torch.zeros(1)}, r"stages\.1\.weight is missing \(and \d+ more\)"),
    ],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_is_no_weights_of_this_network_is_refused(content, message, suffix, tmp_path):
    path = tmp_path / f"w.{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
        message = "not readable" if suffix == "safetensors" else message
    with pytest.raises(RecipeError, match=message) as raised:
        build_model(dataclasses.replace(CNN, weights=str(path)), kind="image")
    assert "\n" not in str(raised.value)


def test_pretrained_weights_are_refused_where_a_backbone_has_none():
    with pytest.raises(RecipeError, match="'cnn' has no pretrained weights"):
        require_backbone(dataclasses.replace(CNN, weights="pretrained"), "image")


def test_the_digest_of_weights_moves_with_the_files_and_not_with_their_place(
    tmp_path, monkeypatch
):
    assert weights_digest(CNN) == weights_digest(ModelConfig(weights="pretrained")) == ""
    files, folders = [], []
    for place, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "weights.pt").write_bytes(content)
        files.append(weights_digest(ModelConfig(weights=f"{tmp_path}/{place}/weights.pt")))
        folders.append(weights_digest(ModelConfig(backbone=f"transformers:{tmp_path}/{place}")))
    for first, elsewhere, other in (files, folders):
        assert first == elsewhere != other
    (tmp_path / "ours_8.py").write_text("one")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    own_code = [weights_digest(ModelConfig(backbone="ours_8:network"))]
    (tmp_path / "ours_8.py").write_text("two")
    own_code.append(weights_digest(ModelConfig(backbone="ours_8:network")))
    (tmp_path / "ours_8.py").rename(tmp_path / "ours_9.py")
    own_code.append(weights_digest(ModelConfig(backbone="ours_8:network")))
    assert len({*own_code, ""}) == 3
    assert own_code[-1] == ""  # missed where it is imported
    with pytest.raises(RecipeError, match="no such file"):
        weights_digest(ModelConfig(weights=str(tmp_path / "gone.pt")))
    with pytest.raises(RecipeError, match="no such folder"):
        weights_digest(ModelConfig(backbone="transformers:./gone"))


def test_paths_of_a_recipe_are_relative_to_it_and_stay_on_this_machine(tmp_path, monkeypatch):
    text = """name = "tiny"
[data]
items = "items.parquet"
[model]
backbone = "transformers:../nets/vit"
weights = "weights/best.pt"
"""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "tiny.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe((folder / "tiny.toml").relative_to(tmp_path))
    assert recipe.model.folder == tmp_path / "nets" / "vit"
    assert recipe.model.weights_file == folder / "weights" / "best.pt"
    model = recipe.resolved()["model"]
    assert (model["backbone"], model["weights"]) == ("transformers:./vit", "best.pt")
    assert str(tmp_path) not in str(recipe.resolved())
    assert recipe.model.portable() == recipe.model.portable().portable()
    for name in ("cnn", "transformers:microsoft/resnet-50", "timm:resnet50", "ours:network"):
        plain = ModelConfig(backbone=name, weights="pretrained")
        assert plain.located(tmp_path) == plain.portable() == plain


@pytest.mark.parametrize("side", [8, 33, 48])
def test_what_is_served_is_the_function_that_was_trained(side):
    model = build_model(dataclasses.replace(CNN, image_size=side), kind="image").eval()
    generator = torch.Generator().manual_seed(side)
    for part in model.modules():  # as drawn, a norm scales by 1 and shifts by 0
        if isinstance(part, torch.nn.GroupNorm):
            part.weight.data.copy_(torch.rand(part.num_channels, generator=generator) + 0.5)
            part.bias.data.copy_(torch.randn(part.num_channels, generator=generator))
    images = torch.randint(0, 256, (5, side, side, 3), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        trained, served = model(images), model.served()(images)
    # Sums of some thousand float32 products, in two orders, of rows of unit length.
    np.testing.assert_allclose(served, trained, rtol=0, atol=2e-6)
