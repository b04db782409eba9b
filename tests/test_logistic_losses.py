"""InfoNCE, ArcFace and USS: the library's value where it is right, and what USS learns."""

import pytest
import torch
from pytorch_metric_learning.losses import ArcFaceLoss, NTXentLoss
from torch.nn import functional

from pipeline.losses.config import LossConfig
from pipeline.losses.logistic import Uss, infonce_loss, uss_loss
from pipeline.losses.proxies import arcface_loss
from pipeline.losses.total import training_loss


def directions(n, d=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(n, d, generator=generator), dim=1)


def pairs(labels):
    positive = (labels[:, None] == labels).fill_diagonal_(False)
    return positive, labels[:, None] != labels


def test_infonce_has_the_value_and_gradient_of_the_librarys():
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    z = directions(10).requires_grad_()
    ours = infonce_loss(z @ z.T, *pairs(labels), temperature=0.2)
    theirs = NTXentLoss(temperature=0.2)(z, labels)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (ours, theirs)]
    # The library's rows are normalised again, which takes the radial part of the gradient away.
    tangents = [g - (g * z).sum(1, keepdim=True) * z for g in gradients]
    torch.testing.assert_close(*tangents, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 28.6, 85.0])
def test_arcface_has_the_value_of_the_librarys_on_both_sides_of_the_bend(margin):
    torch.manual_seed(0)
    theirs = ArcFaceLoss(5, 3, margin=margin, scale=16)
    z, labels = directions(200, 3), torch.arange(200) % 5
    cosines = z @ functional.normalize(theirs.W, dim=0)
    ours = arcface_loss(cosines, labels, margin=margin, scale=16)
    assert ours.item() == pytest.approx(theirs(z, labels).item(), rel=1e-5)


def test_a_hand_computed_uss():
    # One row, b = 2, s = 4, m = .25. Positive .75: softplus(2 - 4 * .5) = softplus(0) = .693147.
    # Negatives .5 and -.5: softplus(0) + softplus(-4) = .693147 + .018150.
    s = torch.tensor([[0.75, 0.5, -0.5]])
    positive = torch.tensor([[True, False, False]])
    loss = uss_loss(s, positive, ~positive, bias=torch.tensor(2.0), margin=0.25, scale=4.0)
    assert loss.item() == pytest.approx(0.693147 + 0.693147 + 0.018150, abs=1e-5)


def test_the_threshold_of_uss_is_learned_to_part_positives_from_negatives():
    # Positives at .45, which the margin takes to .35; four negatives a row at .3.
    loss = Uss(classes=3, dimension=512, margin=0.1, scale=64.0)
    positive, negative = pairs(torch.arange(3).repeat_interleave(2))
    s = torch.where(positive, 0.45, 0.3)
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        loss(s, positive, negative).backward()
        optimizer.step()
    assert 0.3 < loss.bias.item() / 64.0 < 0.35
    assert loss.threshold() == pytest.approx(1 - loss.bias.item() / 64.0)
    # It is stationary there: positives pull as much as negatives push.
    assert abs(loss.bias.grad.item()) < 1e-3


@pytest.mark.parametrize(
    ("classes", "dimension", "scale", "cosine"),
    # log(999) + 64^2 / 1024 = 6.907 + 4 -> 10.907 / 64; half way to 1 where that is nearer.
    [(1000, 512, 64.0, 0.17042), (1000, 8, 64.0, 0.5), (2, 512, 32.0, 1 / 32),
     (1, 512, 32.0, 1 / 32)],
)
def test_uss_starts_where_random_directions_put_the_negatives(classes, dimension, scale, cosine):
    loss = Uss(classes=classes, dimension=dimension, margin=0.1, scale=scale)
    assert 1 - loss.threshold() == pytest.approx(cosine, abs=1e-4)


def test_only_uss_has_a_threshold_of_its_own():
    for base, known in (("uss", True), ("infonce", False), ("arcface", False)):
        loss = training_loss(LossConfig(base=base), classes=3, dimension=4)
        assert (loss.threshold() is not None) == known
