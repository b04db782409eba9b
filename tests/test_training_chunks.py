"""A batch in parts: the gradient of the whole, in the memory of a part."""

import weakref

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.losses.total import training_loss
from pipeline.models.registry import build_model
from pipeline.strict import RecipeError
from pipeline.training.chunks import backward, noise, parts_of
from tests.training_runs import DROPPING, embedded, fresh, losses_of, run
from tests.training_world import images, recipe

CPU = torch.device("cpu")


def gradients(chunk):
    """Flat gradients of network and proxies over 60 images, and the loss's value."""
    wanted = recipe(base="proxy_anchor", tcm=True)
    pixels, labels = (torch.from_numpy(part[:60]) for part in images())
    model = build_model(wanted.model, kind="image", seed=5)
    with noise([1], CPU):
        loss = training_loss(wanted.loss, classes=10, dimension=8)
    seen = []

    def loss_of(embeddings):
        value = loss(embeddings, labels)
        seen.append(value.item())
        return value

    backward(parts_of(60, chunk), lambda part: model(pixels[part]), loss_of)
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    return flat, next(loss.parameters()).grad, seen


@pytest.mark.parametrize("chunk", [1, 7, 30, 59])
def test_the_gradient_in_parts_is_that_of_the_whole_batch(chunk):
    whole, proxies, values = gradients(0)
    parts, proxies_too, values_too = gradients(chunk)
    assert whole.norm() > 0.01
    assert (parts - whole).norm() <= 1e-6 * whole.norm()
    # The loss's factor of 32 shows the rounding of a convolution over fewer images.
    assert (proxies_too - proxies).norm() <= 1e-5 * proxies.norm()
    assert values_too == pytest.approx(values, rel=1e-6)


def test_a_batch_is_cut_into_parts_in_order_and_none_is_empty():
    assert parts_of(10, 4) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert parts_of(8, 4) == [slice(0, 4), slice(4, 8)]
    assert parts_of(8, 0) == parts_of(8, 8) == parts_of(8, 9) == [slice(0, 8)]


def test_both_passes_see_the_same_dropout():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(5, 32), nn.Dropout(0.5), nn.Linear(32, 4))
    items, labels = torch.randn(12, 5), torch.arange(12) % 4
    loss = training_loss(recipe(tcm=True).loss, classes=4, dimension=4)
    passes = []

    def embed(part):
        with noise([9, part.start], CPU):
            out = network(items[part])
        passes.append(out.detach().clone())
        return out

    parts = parts_of(12, 5)
    backward(parts, embed, lambda z: loss(z, labels))
    found = [p.grad.clone() for p in network.parameters()]
    for first, second in zip(passes[:3], passes[3:], strict=True):
        np.testing.assert_array_equal(first, second)
    assert not torch.equal(passes[0], network(items[parts[0]]))
    # The oracle: one graph over all parts, each under its own noise.
    network.zero_grad()
    loss(torch.cat([embed(part) for part in parts]), labels).backward()
    for gradient, weight in zip(found, network.parameters(), strict=True):
        assert (gradient - weight.grad).norm() <= 1e-6 * weight.grad.norm()


def test_every_pass_every_part_and_every_step_of_a_training_has_its_own_dropout():
    wanted = recipe(backbone=DROPPING, steps=2, chunk=10, learning_rate=1e-12, augmentation=0.0)
    seen = run(wanted, images())[0].backbone.network.seen
    assert [len(rows) for rows in seen] == [10, 10, 4] * 4
    for step in (seen[:6], seen[6:]):
        for first, second in zip(step[:3], step[3:], strict=True):
            np.testing.assert_array_equal(first, second)
    # One image in all places: only the noise tells its embeddings apart.
    data = np.broadcast_to(images()[0][:1], images()[0].shape).copy(), images()[1]
    seen = run(wanted, data)[0].backbone.network.seen
    parts = [*seen[:2], *seen[6:8]]
    for number, part in enumerate(parts):
        assert all(not torch.equal(part, other) for other in parts[:number])


def test_noise_is_a_function_of_its_numbers_and_leaves_the_state_outside_alone():
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    draws = []
    for numbers in ([1, 2], [1, 2], [1, 3], [2, 2]):
        with noise(numbers, CPU):
            draws.append(torch.rand(4).tolist())
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) == 3
    np.testing.assert_array_equal(torch.rand(2), expected)


class Held:
    """Bytes of tensors that graphs hold at a time, and the most there were."""

    def __init__(self):
        self.now = self.most = 0

    def pack(self, tensor):
        box, size = [tensor], tensor.nbytes
        self.now += size
        self.most = max(self.most, self.now)

        class Box:
            content = box

        kept = Box()
        weakref.finalize(kept, self.free, size)
        return kept

    def free(self, size):
        self.now -= size


def peak(chunk, rows=480):
    pixels, labels = images()
    pixels, labels = (np.resize(part, (rows, *part.shape[1:])) for part in (pixels, labels))
    pixels, labels = torch.from_numpy(pixels), torch.from_numpy(labels)
    model = build_model(recipe().model, kind="image")
    loss = training_loss(recipe(base="proxy_anchor").loss, classes=12, dimension=8)
    held = Held()
    with torch.autograd.graph.saved_tensors_hooks(held.pack, lambda box: box.content[0]):
        backward(
            parts_of(rows, chunk), lambda part: model(pixels[part]), lambda z: loss(z, labels)
        )
    assert held.now == 0
    return held.most


def test_memory_is_that_of_a_part():
    whole = peak(0)
    assert peak(48) < whole / 8
    assert peak(240) > whole / 3


def test_a_training_in_parts_has_the_losses_of_the_whole():
    # With the tail of the batch in a part of its own.
    whole = losses_of(run(recipe(tcm=True, memory=40), images())[1])
    parts = losses_of(run(recipe(tcm=True, memory=40, chunk=10), images())[1])
    np.testing.assert_allclose(parts, whole, rtol=1e-4)
    assert parts != whole


def test_a_network_that_normalises_over_the_batch_is_refused():
    pytest.importorskip("efficientnet_lite_pytorch")
    model = {"backbone": "efficientnet_lite0", "image_size": 32}
    data = np.zeros((48, 32, 32, 3), np.uint8), images()[1][:48]
    with pytest.raises(RecipeError, match=r"train.chunk: this backbone normalises over the batch"):
        run(recipe(model=model, chunk=4), data)
    frozen = recipe(model={**model, "frozen_norm": True}, steps=1, chunk=12, warmup_steps=0)
    assert np.isfinite(losses_of(run(frozen, data)[1])).all()


@pytest.mark.slow
def test_a_batch_of_four_thousand_fits():
    rng = np.random.default_rng(0)
    labels = np.arange(1000).repeat(4)
    pixels = rng.integers(0, 255, (4000, 16, 16, 3), np.uint8)
    wanted = recipe(steps=1, warmup_steps=0, classes_per_batch=1000, chunk=250)
    model, steps, _ = run(wanted, (pixels, labels))
    assert steps[0].images == 4000
    untrained = embedded(fresh(wanted, pixels), pixels[:9])
    assert np.abs(embedded(model, pixels[:9]) - untrained).max() > 1e-3
