"""Smooth-AP and the recall@k surrogate against the measures that they smooth."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import SmoothAPLoss

from pipeline.losses.ranking import RECALL_AT, recall_at_k_loss, smooth_ap_loss
from tests import slow_losses


def world(seed, n=14, classes=4):
    """Similarities without ties, and the pairs of a batch whose classes differ in size."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 5))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    labels = rng.integers(0, classes, n)
    positive = labels[:, None] == labels
    np.fill_diagonal(positive, False)
    negative = labels[:, None] != labels
    return tuple(torch.tensor(part) for part in (z @ z.T, positive, negative))


def ranked_kinds(s, positive, negative):
    """For each query with a positive: True for a positive, from the most similar down."""
    for row, near, far in zip(s.tolist(), positive.tolist(), negative.tolist(), strict=True):
        found = sorted(
            ((x, a) for x, a, b in zip(row, near, far, strict=True) if a or b), reverse=True
        )
        if any(near):
            yield [is_positive for _, is_positive in found]


def average_precision(kinds):
    places = [place for place, hit in enumerate(kinds, 1) if hit]
    return np.mean([count / place for count, place in enumerate(places, 1)])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_smooth_ap_tends_to_exact_average_precision(seed):
    s, positive, negative = world(seed)
    scores = [average_precision(kinds) for kinds in ranked_kinds(s, positive, negative)]
    loss = smooth_ap_loss(s, positive, negative, temperature=1e-9)
    assert loss.item() == pytest.approx(1 - np.mean(scores) if scores else 0.0, abs=1e-9)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_recall_surrogate_tends_to_capped_recall(seed):
    # k - 1/2 instead of k: the step at rank = k is 1/2, as published. Both temperatures -> 0.
    s, positive, negative = world(seed)
    scores = []
    for kinds in ranked_kinds(s, positive, negative):
        for k in RECALL_AT:
            found = sum(kinds[: k - 1]) + 0.5 * sum(kinds[k - 1 : k])
            scores.append(found / min(sum(kinds), k))
    loss = recall_at_k_loss(s, positive, negative, temperature=1e-9, step_temperature=1e-3)
    assert loss.item() == pytest.approx(1 - np.mean(scores) if scores else 0.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_both_are_their_plain_loops_in_double_precision_where_classes_differ_in_size(seed):
    s, positive, negative = world(seed, classes=2 + seed)
    kinds = (positive.int() - negative.int()).tolist()
    for temperature in (0.01, 0.3):
        got = smooth_ap_loss(s, positive, negative, temperature=temperature)
        expected = slow_losses.smooth_ap(s.tolist(), kinds, temperature)
        assert got.item() == pytest.approx(expected, abs=1e-12)
        for step in (0.7, 8.0):  # a wide step finds more than k of many positives: capped
            got = recall_at_k_loss(
                s, positive, negative, temperature=temperature, step_temperature=step
            )
            expected = slow_losses.recall_at_k(s.tolist(), kinds, temperature, step)
            assert got.item() == pytest.approx(expected, abs=1e-12)


def test_a_hand_computed_recall():
    # One query; positives at ranks 1 and 3 of 4, found exactly (a small temperature).
    # Steps of temperature 1: k = 1: (.5 + s(-2)) / 1; k = 2: (s(1) + s(-1)) / 2 = 1 / 2;
    # k = 4: (s(3) + s(1)) / 2; k = 8: (s(7) + s(5)) / 2; k = 16: (s(15) + s(13)) / 2.
    s = torch.tensor([[0.9, 0.8, 0.7, 0.1]], dtype=torch.float64)
    positive = torch.tensor([[True, False, True, False]])
    loss = recall_at_k_loss(s, positive, ~positive, temperature=1e-4, step_temperature=1.0)
    recalls = [0.5 + 0.119203, 0.5, (0.952574 + 0.731059) / 2,
               (0.999089 + 0.993307) / 2, (1.0 + 0.999998) / 2]  # fmt: skip
    assert loss.item() == pytest.approx(1 - np.mean(recalls), abs=1e-6)


@pytest.mark.parametrize("loss", [
    lambda s, p, n: smooth_ap_loss(s, p, n, temperature=0.3),
    lambda s, p, n: recall_at_k_loss(s, p, n, temperature=0.3, step_temperature=0.7),
], ids=["smooth_ap", "recall_at_k"])  # fmt: skip
def test_the_gradient_is_the_numerical_one(loss):
    s, positive, negative = world(0, n=7)
    torch.autograd.gradcheck(lambda x: loss(x, positive, negative), (s.requires_grad_(),))


@pytest.mark.parametrize(("classes", "theirs"), [(3, 0.0), (6, 0.273), (48, 0.608)])
def test_the_librarys_smooth_ap_is_right_only_with_as_many_classes_as_items(classes, theirs):
    # Perfect separation of classes of 3: an average precision of 1, a loss of 0.
    z, labels = torch.eye(classes).repeat_interleave(3, 0), torch.arange(classes)
    labels = labels.repeat_interleave(3)
    positive = (labels[:, None] == labels).fill_diagonal_(False)
    negative = labels[:, None] != labels
    assert smooth_ap_loss(z @ z.T, positive, negative, temperature=0.01).item() < 1e-6
    assert SmoothAPLoss()(z, labels).item() == pytest.approx(theirs, abs=0.01)
