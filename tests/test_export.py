"""Export: the file is complete and reproducible, and different decisions are refused."""

import copy
import logging

import numpy as np
import onnx
import pytest
import torch

from pipeline.distance import deciding
from pipeline.encoding.encoder import Encoder
from pipeline.encoding.export import ExportError, check_parity, export_onnx
from tests.training_world import exported, images, vectors


@pytest.fixture
def image_model():
    return exported("image")[0]


@pytest.fixture
def image_file():
    return exported("image")[1]


def test_image_and_vector_models_agree_with_their_export():
    for kind, inputs in (("image", images()[0]), ("vector", vectors()[0])):
        model, path = exported(kind)
        parity = check_parity(model, Encoder(path), inputs, low=0.0, high=2.0)
        assert parity.pairs == 72 * 71 // 2
        assert 0 <= parity.max_distance_change < 2e-6


def test_the_export_is_one_file_that_names_its_input_and_no_path_of_this_machine(image_file):
    assert [path.name for path in image_file.parent.iterdir()] == ["model.onnx"]
    content = image_file.read_bytes()
    assert b".py" not in content
    assert b"pipeline" not in content
    proto = onnx.load(image_file)
    assert {entry.key: entry.value for entry in proto.metadata_props} == {
        "kind": "image", "image_size": "16", "dimension": "8"}  # fmt: skip
    assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == [
        "x", "embedding"]  # fmt: skip


def test_equal_weights_give_equal_bytes_and_exporting_is_quiet(tmp_path, caplog, capfd, recwarn):
    model, path = exported("vector")
    with caplog.at_level(logging.WARNING):
        export_onnx(copy.deepcopy(model), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_model_with_other_weights_is_refused_naming_the_worst_pair(image_model, image_file):
    other = copy.deepcopy(image_model)
    with torch.no_grad():
        next(other.parameters()).add_(0.05)
    inputs = images()[0]
    with pytest.raises(ExportError, match=r"items \d+ and \d+ are .* in torch and .* in ONNX"):
        check_parity(other, Encoder(image_file), inputs, low=0.0, high=2.0)


class Moved:
    """An encoder that turns one row of two-dimensional embeddings by a known distance."""

    def __init__(self, rows, batch):
        self.rows, self.batch = rows, batch

    def embed(self, batch):
        wanted = self.rows if len(batch) == self.batch else TRUE
        return wanted[np.asarray(batch[:, 0], int)]


def unit_at(distance):
    return [1 - distance, np.sqrt(1 - (1 - distance) ** 2)]


TRUE = np.asarray([[1, 0], unit_at(0.4)], np.float32)


class Trained(torch.nn.Module):
    def forward(self, x):
        return torch.from_numpy(TRUE)[x[:, 0].long()]


@pytest.mark.parametrize("batch", [1, 2], ids=["alone", "in a batch"])
@pytest.mark.parametrize(
    ("moved_to", "low", "high", "refused"),
    [
        (0.401, 0.39, 0.41, True),
        (0.399, 0.39, 0.41, True),
        (0.401, 0.4005, 0.6, True),  # only the moved distance lies in the range
        (0.401, 0.2, 0.4005, True),  # only the true distance does
        (0.401, 0.41, 0.6, False),  # both below: accepted before and after
        (0.401, 0.2, 0.39, False),  # both above: rejected before and after
        (0.400004, 0.39, 0.41, False),  # inside the guard band
    ],
)
def test_a_pair_is_refused_exactly_where_a_threshold_of_the_range_tells_its_distances_apart(
    batch, moved_to, low, high, refused
):
    encoder = Moved(np.asarray([[1, 0], unit_at(moved_to)], np.float32), batch)
    inputs = np.asarray([[0], [1]], np.float32)
    if refused:
        with pytest.raises(ExportError, match="items 0 and 1"):
            check_parity(Trained(), encoder, inputs, low=low, high=high)
    else:
        parity = check_parity(Trained(), encoder, inputs, low=low, high=high)
        before, after = (deciding(z[:1], z[1:]).item() for z in (TRUE, encoder.rows))
        assert parity.max_distance_change == pytest.approx(abs(after - before), abs=1e-9)


def test_a_wider_guard_lets_more_through():
    encoder = Moved(np.asarray([[1, 0], unit_at(0.401)], np.float32), 1)
    inputs = np.asarray([[0], [1]], np.float32)
    check_parity(Trained(), encoder, inputs, low=0.0, high=2.0, guard=2e-3)


def test_weights_that_no_onnx_file_can_hold_are_refused_before_the_work(tmp_path):
    model = copy.deepcopy(exported("vector")[0])
    # 2**29 float32 weights are 2 GiB; on the meta device they take no memory.
    model.large = torch.nn.Linear(2**15, 2**14, bias=False, device="meta")
    with pytest.raises(ExportError, match=r"weights of 2\.0 GiB; .* at most 2 GiB"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
