"""Rates: of a step, of a layer, of a loss's own weights; what decays and what is clipped."""

import math

import numpy as np
import pytest
import torch

from pipeline.losses.total import training_loss
from pipeline.models.registry import build_model
from pipeline.training.optimizer import clip, optimizer_of, set_rate
from pipeline.training.schedule import rate_at
from tests.training_runs import run
from tests.training_world import images, recipe


def rates(**train):
    config = recipe(steps=10, learning_rate=2.0, **{"warmup_steps": 4, **train}).train
    return [rate_at(step, config) for step in range(10)]


def test_the_rate_warms_up_in_equal_steps_and_falls_as_half_a_cosine():
    expected = [0.5, 1.0, 1.5, 2.0] + [1 + math.cos(math.pi * k / 6) for k in range(6)]
    np.testing.assert_allclose(rates(), expected)
    assert rates(warmup_steps=0)[0] == 2.0


def test_a_step_schedule_multiplies_at_each_milestone_and_a_constant_one_never():
    stepped = rates(schedule="step", milestones=(5, 8), step_factor=0.1)
    np.testing.assert_allclose(stepped, [0.5, 1.0, 1.5, 2, 2, 0.2, 0.2, 0.2, 0.02, 0.02])
    assert rates(schedule="constant") == [0.5, 1.0, 1.5, 2, 2, 2, 2, 2, 2, 2]


def test_every_step_says_its_rate():
    wanted = recipe(steps=4, schedule="step", milestones=(2,), step_factor=0.5, warmup_steps=0)
    assert [now.rate for now in run(wanted, images())[1]] == [2e-3, 2e-3, 1e-3, 1e-3]


def made(**train):
    wanted = recipe(base="proxy_anchor", **train)
    model = build_model(wanted.model, kind="image")
    loss = training_loss(wanted.loss, classes=3, dimension=8)
    return model, loss, optimizer_of(model, loss, wanted.train)


def still(optimizer):
    """Give every weight a gradient of 0."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)


def test_each_layer_moves_slower_than_the_next_and_proxies_ten_times_as_fast_as_the_head():
    model, loss, optimizer = made(layer_decay=0.5)
    set_rate(optimizer, 0.1)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    layers = model.layers()
    assert len(layers) == 5
    for layer, expected in zip(layers, (0.1 / 16, 0.1 / 8, 0.1 / 4, 0.1 / 2, 0.1), strict=True):
        np.testing.assert_allclose([rate[id(p)] for p in layer], expected)
    assert [rate[id(p)] for p in loss.parameters()] == pytest.approx([1.0])
    everything = [*model.parameters(), *loss.parameters()]
    assert len(rate) == len(everything) == sum(len(g["params"]) for g in optimizer.param_groups)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_matrices_of_the_network_decay(name):
    model, loss, optimizer = made(optimizer=name, weight_decay=0.5)
    before = [p.detach().clone() for p in [*model.parameters(), *loss.parameters()]]
    still(optimizer)
    set_rate(optimizer, 0.01)
    optimizer.step()
    # Decay alone: 1 - rate * decay for AdamW; for SGD the decay is a gradient, which Nesterov's
    # momentum counts 1 + .9 times at the first step.
    factor = 1 - 0.01 * 0.5 * (1.9 if name == "sgd" else 1)
    for old, new in zip(before, model.parameters(), strict=False):
        np.testing.assert_allclose(new.detach(), old * (factor if old.ndim > 1 else 1), rtol=1e-6)
    np.testing.assert_array_equal(next(loss.parameters()).detach(), before[-1])


def test_sgd_has_nesterov_momentum():
    model, _, optimizer = made(optimizer="sgd", weight_decay=0.0)
    set_rate(optimizer, 0.1)
    still(optimizer)
    weight = model.layers()[-1][0]
    start = weight.detach().clone()
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    # v1 = 1, v2 = 1.9; a step is rate * (g + .9 v): .1 * 1.9, then .1 * (1 + 1.71).
    np.testing.assert_allclose(weight.detach(), start - 0.19 - 0.271, rtol=1e-5)


def test_gradients_are_scaled_down_together_to_the_limit_and_small_ones_left_alone():
    def clipped(limit):
        model, loss, optimizer = made()
        weights = [*model.parameters(), *loss.parameters()]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        clip(optimizer, limit)
        return torch.cat([weight.grad.flatten() for weight in weights])

    number = clipped(0.0).numel()
    assert clipped(0.0).eq(1).all()
    assert clipped(2.0 * math.sqrt(number)).eq(1).all()
    np.testing.assert_allclose(clipped(3.0), 3.0 / math.sqrt(number), rtol=1e-4)


def test_the_optimizer_the_clip_and_the_layers_rates_move_the_training():
    def last(**train):
        return run(recipe(steps=3, **train), images())[1][-1].loss

    base = last()
    assert last(optimizer="sgd") != base
    assert last(layer_decay=0.5) != base
    # SGD's steps are proportional to the gradient; AdamW's hardly change with its length.
    assert last(optimizer="sgd", clip=1e-3) != last(optimizer="sgd")
