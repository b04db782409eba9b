"""Features of the frozen part: the same training, computed once, shared by all that may share."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import jobs.features
import pipeline.training.ahead
from jobs.features import cached_features
from pipeline.models import transformers_vision
from pipeline.models.backbone import Request
from pipeline.models.config import ModelConfig
from pipeline.models.registry import EmbeddingModel, build_model
from pipeline.training.ahead import Ahead
from pipeline.training.collective import ALONE, Collective
from pipeline.training.features import features_digest, features_of, keepable
from pipeline.training.inputs import Joined, Rows, kind_of
from pipeline.training.loop import fit
from tests.training_runs import embedded, fresh, losses_of, run
from tests.training_world import images, recipe, vectors

pytest.importorskip("efficientnet_lite_pytorch")

NETWORK = {"backbone": "efficientnet_lite0", "image_size": 32, "trained_stages": 0}
CPU = torch.device("cpu")


def frozen(*, model=(), **options):
    return recipe(
        model={**NETWORK, **dict(model)}, **{"augmentation": 0.0, "steps": 4, **options}
    )


def pictures():
    pixels, labels = images()
    return pixels.repeat(2, axis=1).repeat(2, axis=2), labels


def test_a_training_on_features_is_that_on_the_images():
    inputs, labels = pictures()
    wanted = frozen(tcm=True)
    expected = losses_of(run(wanted, (inputs, labels))[1])
    made = features_of(fresh(wanted, inputs), inputs, np.arange(len(inputs)), CPU)
    model, found = fresh(wanted, inputs), []
    states = []
    fit(made, labels, recipe=wanted, model=model, features=True, mark="known",
        on_checkpoint=states.append, progress=lambda now: found.append(now.loss))  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert states[-1].fingerprint == "known"
    np.testing.assert_allclose(
        embedded(model, inputs), embedded(run(wanted, (inputs, labels))[0], inputs), atol=1e-3
    )


def test_features_are_kept_only_where_every_step_has_the_same_ones():
    model = fresh(frozen(), pictures()[0])
    assert keepable(frozen(), model)
    for changed in ({"augmentation": 0.1}, {"random_crop": True}, {"mirror": True}):
        assert not keepable(frozen(**changed), model)
    trained = frozen(model={"trained_stages": -1})
    assert not keepable(trained, fresh(trained, pictures()[0]))
    plain = recipe(augmentation=0.0)
    assert not keepable(plain, fresh(plain, images()[0]))


def test_the_digest_is_of_the_frozen_weights_and_the_items():
    inputs, _ = pictures()

    def digest(inputs=inputs, **options):
        wanted = frozen(**options)
        return features_digest(build_model(wanted.model, kind="image", seed=wanted.seed), inputs)

    assert digest() == digest(model={"dimension": 16}) == digest(tcm=True)
    assert digest() != digest(seed=1)
    assert digest() != digest(model={"crop": 16})
    assert digest() != digest(model={"trained_stages": 1})
    assert digest() != digest(inputs[1:])
    changed = inputs.copy()
    changed[-1, 0, 0, 0] ^= 1
    assert digest() != digest(changed)


def test_the_digest_is_of_how_the_frozen_weights_are_used():
    # The same weights with other heads of attention, as a folder's config.json may come to say.
    pytest.importorskip("transformers")
    shape = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1,
             "intermediate_size": 16, "image_size": 32, "patch_size": 16}  # fmt: skip
    config = ModelConfig(backbone="transformers:one", image_size=32, trained_stages=0, dimension=4)
    inputs, _ = pictures()

    def made(heads):
        torch.manual_seed(0)
        architecture = {**shape, "num_attention_heads": heads}
        backbone = transformers_vision.build(Request(config, "image", None, architecture))
        return EmbeddingModel(backbone, config, kind="image", input_dimension=None)

    one, two = made(1), made(2)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert features_digest(one, inputs) == features_digest(made(1), inputs)
    assert features_digest(one, inputs) != features_digest(two, inputs)


def test_a_training_of_the_head_leaves_the_digest_as_it_was():
    inputs, labels = pictures()
    model, _, _ = run(frozen(), (inputs, labels))
    assert features_digest(model, inputs) == features_digest(fresh(frozen(), inputs), inputs)


def test_parts_that_are_there_are_not_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs.features, "PART", 25)
    inputs, _ = pictures()
    model = fresh(frozen(), inputs)
    expected = features_of(model, inputs, np.arange(len(inputs)), CPU)

    def made():
        return cached_features(model, inputs, tmp_path, CPU, ALONE)

    np.testing.assert_allclose(made()[np.arange(72)], expected, atol=1e-5)
    (folder,) = tmp_path.iterdir()
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == ["00000.npy", "00001.npy", "00002.npy"]
    times = [path.stat().st_ino for path in paths]
    paths[1].unlink()
    (folder / ".00001.npy.1.partial").write_bytes(b"half")  # of a killed run
    np.testing.assert_allclose(made()[np.arange(72)], expected, atol=1e-5)
    again = [path.stat().st_ino for path in paths]
    assert [again[0], again[2]] == [times[0], times[2]]


def test_workers_divide_the_parts_among_them(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs.features, "PART", 25)
    inputs, _ = pictures()
    model = fresh(frozen(), inputs)
    # No group of processes here: stop before the parts of the other worker are opened.
    monkeypatch.setattr(Collective, "gather", lambda self, rows: rows)
    with pytest.raises(FileNotFoundError):
        cached_features(model, inputs, tmp_path, CPU, Collective(rank=0, size=2))
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["00000.npy", "00002.npy"]
    cached_features(model, inputs, tmp_path, CPU, Collective(rank=1, size=2))
    assert len(list(folder.iterdir())) == 3


def test_rows_and_joined_arrays_read_as_one_array():
    array = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    wanted = np.asarray([7, 0, 3, 3, 9])
    joined = Joined([array[:4], array[4:5], array[5:]])
    assert (joined.shape, len(joined)) == ((10, 3), 10)
    np.testing.assert_array_equal(joined[wanted], array[wanted])
    chosen = Rows(array, np.asarray([9, 8, 1]))
    assert (chosen.shape, len(chosen)) == ((3, 3), 3)
    np.testing.assert_array_equal(chosen[np.asarray([2, 0])], array[[1, 9]])


def test_what_inputs_hold_shows_in_their_shape_and_type():
    assert kind_of(images()[0]) == "image"
    assert kind_of(vectors()[0]) == "vector"
    assert kind_of(np.zeros((3, 16), np.int64)) == "text"


def test_a_training_on_rows_of_a_larger_array_is_that_on_the_rows():
    inputs, labels = vectors()
    rows = np.arange(len(labels))[::-1]
    larger = np.concatenate([inputs[::-1], inputs])
    wanted = recipe(backbone="mlp", steps=3)
    assert losses_of(run(wanted, (Rows(larger, rows), labels))[1]) == losses_of(
        run(wanted, (inputs, labels))[1]
    )


def test_each_step_gets_what_was_made_for_it_one_step_ahead():
    made = []

    def make(step):
        made.append(step)
        return step * 10

    with Ahead(make, range(3, 6)) as ahead:
        for step in range(3, 6):
            value, waited = ahead.take(step)
            assert value == step * 10
            assert waited >= 0
    assert made == [3, 4, 5]
    with Ahead(make, range(0)):
        pass
    assert made == [3, 4, 5]


def test_an_error_in_the_thread_comes_out_where_the_step_is_taken():
    def make(step):
        raise FileNotFoundError("pixels.npy")

    with Ahead(make, range(2)) as ahead, pytest.raises(FileNotFoundError, match=r"pixels.npy"):
        ahead.take(0)


def test_waiting_for_data_is_counted(monkeypatch):
    # A clock that a second passes on at every look: one from asking for a batch to having it.
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr(pipeline.training.ahead, "time", clock)
    _, steps, _ = run(recipe(backbone="mlp", steps=3), vectors())
    assert [now.waited for now in steps] == [1, 1, 1]
    assert all(now.seconds > 0 for now in steps)
