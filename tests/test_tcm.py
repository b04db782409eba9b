"""The laws of the threshold-consistent margin loss (docs/methods.md section 2)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.live_memory import peak_bytes
from pipeline.losses.pairs import Marks
from pipeline.losses.tcm import tcm_loss, tcm_of_marks

MARGINS = {"positive_margin": 0.9, "negative_margin": 0.5}


def loss_of(positives, negatives, *, dtype=torch.float32, **options):
    """The loss of one row of pairs and its gradient with respect to the similarities."""
    s = torch.tensor([[*positives, *negatives]], dtype=dtype, requires_grad=True)
    kinds = [[True] * len(positives) + [False] * len(negatives)]
    is_positive = torch.tensor(kinds, dtype=torch.bool)
    loss = tcm_loss(s, is_positive, **{**MARGINS, **options})
    loss.backward()
    return loss, s.grad[0]


def test_a_hand_computed_case_has_its_value_and_its_gradient():
    # Hard positives: 0.7 -> 0.9 - 0.7 = 0.2; 0.95 is easy. Mean 0.2 / 1.
    # Hard negatives: 0.6 and 0.8 -> (0.1 + 0.3) / 2 = 0.2; 0.4 is easy.
    loss, gradient = loss_of([0.95, 0.7], [0.6, 0.8, 0.4])
    assert loss.item() == pytest.approx(0.4)
    np.testing.assert_allclose(gradient, [0, -1, 0.5, 0.5, 0], atol=1e-7)


def test_a_pair_on_its_margin_adds_nothing_above_the_line_and_one_below_it():
    # Positives 0.75 (on the margin) and 0.25: (0 + 0.5) / 2. Negatives 0.5 (on it), 1: 0.5 / 2.
    loss, _ = loss_of([0.75, 0.25], [0.5, 1.0], positive_margin=0.75)
    assert loss.item() == 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_pairs_within_their_margins_cost_exactly_nothing_and_keep_a_graph(dtype):
    loss, gradient = loss_of([0.91, 1.0], [0.49, -1.0], dtype=dtype)
    assert loss.item() == 0.0
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(
    ("positives", "negatives"), [([], [0.4]), ([0.95], []), ([], [])], ids=["no+", "no-", "none"]
)
def test_a_batch_without_pairs_of_a_kind_costs_nothing_and_keeps_a_graph(positives, negatives):
    loss, gradient = loss_of(positives, negatives)
    assert loss.item() == 0.0
    np.testing.assert_array_equal(gradient, 0)


@given(st.floats(0.001, 0.8), st.floats(0, 5), st.booleans())
def test_one_pair_that_violates_by_delta_costs_weight_times_delta(delta, weight, positive):
    if positive:
        loss, _ = loss_of([0.9 - delta], [0.1], dtype=torch.float64, positive_weight=weight)
    else:
        loss, _ = loss_of([0.95], [0.5 + delta], dtype=torch.float64, negative_weight=weight)
    assert loss.item() == pytest.approx(weight * delta)


def test_the_floor_is_the_least_denominator_of_either_mean():
    # 0.2 / max(1, 4) + (0.1 + 0.3) / max(2, 4) = 0.05 + 0.1
    loss, gradient = loss_of([0.7, 0.95], [0.6, 0.8, 0.4], floor=4)
    assert loss.item() == pytest.approx(0.15)
    np.testing.assert_allclose(gradient, [-0.25, 0, 0.25, 0.25, 0], atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_more_pairs_than_half_precision_can_count_still_have_their_mean(dtype):
    # 5,000 equal violations of 0.25: the mean is 0.25, not 1,250 / 2,048 and not infinity.
    s = torch.full((50, 100), 0.5, dtype=dtype)
    loss = tcm_loss(s, torch.ones_like(s, dtype=torch.bool), positive_margin=0.75,
                    negative_margin=0.5)
    assert loss.item() == 0.25


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_a_batch_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    s = rng.choice([-0.5, 0.1, 0.5, 0.7, 0.9, 1.0], (6, 6))  # ties with both margins are common
    labels, order = rng.integers(0, 3, 6), rng.permutation(6)
    values = [
        tcm_loss(torch.tensor(matrix), torch.tensor(y[:, None] == y), **MARGINS).item()
        for matrix, y in ((s, labels), (s[order][:, order], labels[order]))
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_a_symmetric_matrix_without_its_diagonal_equals_a_loop_over_unordered_pairs(seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(7, 3))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    labels = rng.integers(0, 3, 7)
    hard = {True: [], False: []}
    for i in range(7):
        for j in range(i):
            s, same = float(z[i] @ z[j]), bool(labels[i] == labels[j])
            violation = 0.9 - s if same else s - 0.5
            if violation >= 0:
                hard[same].append(violation)
    expected = sum(sum(found) / len(found) for found in hard.values() if found)
    got = tcm_loss(
        torch.tensor(z @ z.T), torch.tensor(labels[:, None] == labels),
        is_pair=~torch.eye(7, dtype=torch.bool), **MARGINS,
    )  # fmt: skip
    assert got.item() == pytest.approx(expected, abs=1e-12)


def test_what_is_no_pair_is_left_out_on_both_sides():
    # The entries at 0.7 and 0.8 are no pairs; what remains costs 0.1 and 0.2.
    s = torch.tensor([[0.7, 0.8, 0.8, 0.7]])
    is_positive = torch.tensor([[True, True, False, False]])
    is_pair = torch.tensor([[False, True, False, True]])
    loss = tcm_loss(s, is_positive, is_pair=is_pair, **MARGINS)
    assert loss.item() == pytest.approx(0.3)


def test_references_other_than_the_batch_move_the_loss():
    # One embedding against two references: positive 0.8 costs 0.1, negative 0.7 costs 0.2.
    loss = tcm_loss(torch.tensor([[0.8, 0.7]]), torch.tensor([[True, False]]), **MARGINS)
    assert loss.item() == pytest.approx(0.3)


def test_a_similarity_that_is_not_a_number_is_not_hidden():
    loss, _ = loss_of([float("nan")], [0.1])
    assert np.isnan(loss.item())


def test_the_gradient_is_the_numerical_one():
    s = torch.rand(4, 4, dtype=torch.float64, requires_grad=True)
    is_positive = torch.eye(4, dtype=torch.bool).roll(1, 0)
    torch.autograd.gradcheck(lambda x: tcm_loss(x, is_positive, **MARGINS), (s,))


def plain_formula(similarity, is_positive, is_pair, weights, floor):
    """The formula as autograd differentiates it, pair by pair."""
    parts = []
    for kind, sign, margin in ((is_positive, -1, 0.9), (~is_positive, 1, 0.5)):
        violation = sign * (similarity.to(torch.float64) - margin)[kind & is_pair]
        hard = (violation >= 0).sum().clamp(min=floor)
        parts.append(torch.relu(violation).sum() / hard)
    return weights[0] * parts[0] + weights[1] * parts[1]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5]))
def test_value_and_gradient_are_those_of_the_plain_formula(seed, floor):
    rng = np.random.default_rng(seed)
    s = torch.tensor(rng.choice([-0.5, 0.1, 0.5, 0.7, 0.9, 1.0], (5, 8)), requires_grad=True)
    is_positive, is_pair = (torch.tensor(rng.random((5, 8)) < p) for p in (0.3, 0.8))
    options = {"positive_weight": 0.5, "negative_weight": 2.0, "floor": floor}
    losses = (
        tcm_loss(s, is_positive, is_pair=is_pair, **MARGINS, **options),
        plain_formula(s, is_positive, is_pair, (0.5, 2.0), floor),
    )
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-12)
    gradients = [torch.autograd.grad(3 * loss, s)[0] for loss in losses]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_by_labels_it_is_the_loss_of_the_masks_that_the_labels_make(seed, remembered):
    rng = np.random.default_rng(seed)
    s = torch.tensor(rng.uniform(-1, 1, (6, 6 + remembered)), requires_grad=True)
    labels, items = (torch.tensor(rng.integers(0, 3, 6 + remembered)) for _ in range(2))
    items[:6] = torch.arange(6)  # of a memory, some are items of the batch
    options = {"positive_weight": 0.5, "negative_weight": 2.0, "floor": 3}
    losses = (
        tcm_of_marks(s, Marks(labels[:6], items[:6]), Marks(labels, items), **MARGINS, **options),
        tcm_loss(
            s, labels[:6, None] == labels, is_pair=items[:6, None] != items, **MARGINS, **options
        ),
    )
    assert losses[0].item() == losses[1].item()
    gradients = [torch.autograd.grad(loss, s)[0] for loss in losses]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_precision_adds_up_in_float32_and_has_its_own_gradient(dtype):
    generator = torch.Generator().manual_seed(0)
    s = (2 * torch.rand(80, 80, generator=generator) - 1).to(dtype).requires_grad_()
    is_positive = torch.arange(80)[:, None] % 7 == torch.arange(80) % 7
    loss = tcm_loss(s, is_positive, **MARGINS)
    loss.backward()
    expected = plain_formula(s, is_positive, torch.ones_like(is_positive), (1, 1), 1)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert s.grad.dtype == dtype
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_an_entry_that_is_no_pair_may_hold_anything():
    s = torch.tensor([[float("-inf"), float("nan"), 0.7]], requires_grad=True)
    loss = tcm_loss(
        s, torch.tensor([[True, False, False]]), is_pair=torch.tensor([[False, False, True]]),
        **MARGINS,
    )  # fmt: skip
    loss.backward()
    assert loss.item() == pytest.approx(0.2)
    np.testing.assert_array_equal(s.grad, [[0, 0, 1]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_forward_and_backward_hold_at_most_two_float32_matrices_above_the_similarity(dtype):
    # Even with the gradient counted in.
    marks = Marks(torch.arange(256) // 4, torch.arange(256))
    s = (2 * torch.rand(256, 256) - 1).to(dtype).requires_grad_()

    def step():
        tcm_of_marks(s, marks, marks, **MARGINS).backward()

    assert 1.0 < peak_bytes(step) / (256 * 256 * 4) <= 2.0


def test_the_measure_of_memory_sees_what_is_alive_at_once_and_not_what_was_freed():
    def two_at_once():
        first = torch.zeros(1000, 250)
        second = first + 1
        del first
        return second * 2

    assert peak_bytes(two_at_once) == pytest.approx(2 * 1000 * 250 * 4, abs=100)
