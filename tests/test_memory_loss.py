"""Cross-batch memory: which embeddings it holds, what they do to a loss, exact resume."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.losses.config import LossConfig, TcmConfig
from pipeline.losses.memory import Memory
from pipeline.losses.pairs import Marks
from pipeline.losses.tcm import tcm_loss
from pipeline.losses.total import training_loss


def directions(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(n, 4, generator=generator), dim=1)


def made(memory, base="multi_similarity", tcm=None):
    config = LossConfig(base=base, memory=memory, tcm=tcm)
    return training_loss(config, classes=50, dimension=4)


@given(st.integers(1, 9), st.lists(st.integers(0, 12), max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_memory_holds_the_last_embeddings_of_all_batches(size, batches):
    memory, seen = Memory(size, 4), 0
    for length in batches:
        rows = torch.arange(seen, seen + length)
        memory.add(rows[:, None].repeat(1, 4).float(), Marks(rows, rows + 100))
        seen += length
    embeddings, marks = memory.content()
    expected = list(range(max(0, seen - size), seen))
    assert sorted(marks.labels.tolist()) == expected
    assert marks.items.tolist() == [label + 100 for label in marks.labels.tolist()]
    assert embeddings.tolist() == [[float(label)] * 4 for label in marks.labels.tolist()]


def test_tcm_compares_with_the_memory_too():
    # Pairs of the batch stand twice, those with the memory once.
    z, older = directions(6), directions(5, seed=1)
    labels, older_labels = torch.arange(6) // 2, torch.arange(5) // 2
    loss = made(5, tcm=TcmConfig())
    base = made(5)
    for each in (loss, base):
        each.remember(older, older_labels)
    references = torch.cat([z, older])
    is_positive = labels[:, None] == torch.cat([labels, older_labels])
    is_pair = torch.ones(6, 11, dtype=torch.bool)
    is_pair[range(6), range(6)] = False
    term = tcm_loss(z @ references.T, is_positive, is_pair=is_pair,
                    positive_margin=0.9, negative_margin=0.5)  # fmt: skip
    got = loss(z, labels) - base(z, labels)
    assert got.item() == pytest.approx(term.item(), rel=1e-5)


def test_an_item_that_is_remembered_and_in_the_batch_is_no_pair_with_itself():
    # Two items of two classes, remembered as they are: only their negative pairs are left.
    z, labels, items = directions(2), torch.tensor([0, 1]), torch.tensor([8, 9])
    loss = made(2, "contrastive")
    loss.remember(z, labels, items)
    cosine = float(z[0] @ z[1])
    cost = max(cosine - 0.5, 0.0)
    assert loss(z, labels, items).item() == pytest.approx(cost)
    # Told that they are others, or not told at all, they are positives of cosine 1 and cost
    # nothing either in this loss; turned round, they cost 1 - (-1) each.
    assert loss(-z, labels, items).item() == pytest.approx(max(cosine - 0.5, -cosine - 0.5, 0.0))
    for others in (torch.tensor([6, 7]), None):
        assert loss(-z, labels, others).item() > 2 - 1e-6


def test_an_item_that_nobody_named_is_never_the_one_in_the_batch():
    z, labels = directions(3), torch.tensor([0, 0, 1])
    loss = made(3)
    loss.remember(z, labels)
    untold = loss(z, labels).item()
    for items in (torch.tensor([0, 1, 2]), torch.tensor([5, 3, 0])):
        assert loss(z, labels, items).item() == untold


def test_remembered_embeddings_have_no_graph_unit_length_and_float32():
    loss, leaf = made(4), directions(4).to(torch.bfloat16).requires_grad_()
    loss.remember(2 * leaf, torch.arange(4))
    kept = loss.memory.embeddings
    assert not kept.requires_grad
    assert kept.dtype == torch.float32
    torch.testing.assert_close(kept.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("filled", [3, 7], ids=["half full", "gone round"])
def test_a_loss_that_is_restored_goes_on_exactly(filled):
    first = made(5)
    for step in range(filled):
        first.remember(directions(2, seed=step), torch.tensor([step, step + 1]))
    again = made(5)
    again.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    z, labels = directions(6, seed=99), torch.arange(6)
    for step in range(3):
        assert again(z, labels).item() == first(z, labels).item()
        for loss in (first, again):
            loss.remember(directions(2, seed=step), torch.tensor([step, 40]))
    # The control: without the memory the loss is another one.
    assert made(5)(z, labels).item() != first(z, labels).item()


def test_remembering_within_a_step_does_not_disturb_its_backward_pass():
    z = directions(4).requires_grad_()
    labels, loss = torch.tensor([0, 0, 1, 1]), made(4)
    loss.remember(directions(4, seed=1), labels)
    (expected,) = torch.autograd.grad(loss(z, labels), z)
    value = loss(z, labels)
    loss.remember(z, labels)
    (got,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_without_a_memory_nothing_is_remembered():
    loss = made(0)
    loss.remember(directions(2), torch.arange(2))
    assert loss.state_dict() == {}
