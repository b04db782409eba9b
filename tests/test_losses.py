"""Base losses: the adapter gives the library's numbers on what this project trains with."""

import math

import pytest
import torch
from torch.nn import functional

from pipeline.losses.base import BASE_LOSSES, base_loss
from pipeline.strict import RecipeError


def world(seed=0, classes=6, items=4, dimension=8):
    generator = torch.Generator().manual_seed(seed)
    z = functional.normalize(torch.randn(classes * items, dimension, generator=generator), dim=1)
    return z.requires_grad_(), torch.arange(classes).repeat_interleave(items)


@pytest.mark.parametrize("name", BASE_LOSSES)
def test_every_base_loss_falls_under_gradient_descent(name):
    torch.manual_seed(0)
    start, labels = world()
    loss = base_loss(name, classes=6, dimension=8)
    free = start.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([free, *loss.parameters()], lr=0.05)
    values = []
    for _ in range(60):
        value = loss(functional.normalize(free, dim=1), labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]


@pytest.mark.parametrize("name", ["arcface", "proxy_anchor"])
def test_losses_with_proxies_own_one_for_each_class(name):
    sizes = [p.shape for p in base_loss(name, classes=6, dimension=8).parameters()]
    assert len(sizes) == 1
    assert sorted(sizes[0]) == [6, 8]


def similarities(z):
    s = (z @ z.T).detach().tolist()
    return lambda i, j: s[i][j]


def test_multi_similarity_is_the_formula_of_its_paper():
    # Wang et al., CVPR 2019, eq. 15 without mining: alpha 2, beta 50, base 0.5.
    z, labels = world()
    s, n, total = similarities(z), len(labels), 0.0
    for i in range(n):
        pos = [j for j in range(n) if labels[j] == labels[i] and j != i]
        neg = [j for j in range(n) if labels[j] != labels[i]]
        total += math.log(1 + sum(math.exp(-2 * (s(i, j) - 0.5)) for j in pos)) / 2
        total += math.log(1 + sum(math.exp(50 * (s(i, j) - 0.5)) for j in neg)) / 50
    got = base_loss("multi_similarity", classes=6, dimension=8)(z, labels)
    assert got.item() == pytest.approx(total / n, rel=1e-5)


def test_supervised_contrastive_is_the_formula_of_its_paper():
    # Khosla et al., NeurIPS 2020, eq. 2: the mean over positives stands outside the logarithm.
    z, labels = world()
    s, n, total = similarities(z), len(labels), 0.0
    for i in range(n):
        pos = [j for j in range(n) if labels[j] == labels[i] and j != i]
        z_i = sum(math.exp(s(i, j) / 0.1) for j in range(n) if j != i)
        total -= sum(math.log(math.exp(s(i, j) / 0.1) / z_i) for j in pos) / len(pos)
    got = base_loss("supervised_contrastive", classes=6, dimension=8)(z, labels)
    assert got.item() == pytest.approx(total / n, rel=1e-5)


def test_contrastive_and_triplet_speak_similarities_and_not_distances():
    # Two classes of two, perfectly separated at right angles: nothing to improve.
    z = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    labels = torch.tensor([0, 0, 1, 1])
    for name in ("contrastive", "triplet"):
        loss = base_loss(name, classes=2, dimension=2)
        assert loss(z, labels).item() == pytest.approx(0.0, abs=1e-6)
        assert loss(z, labels.roll(1)).item() > 0.5


def test_an_unknown_base_loss_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match="unknown loss 'softmax'; known: multi_similarity"):
        base_loss("softmax", classes=2, dimension=2)
