"""The whole loss of a recipe: base and TCM, precision, items, and what it keeps."""

import pytest
import torch
from torch.nn import functional

from pipeline.losses.config import LossConfig, TcmConfig
from pipeline.losses.options import BASE_LOSSES
from pipeline.losses.tcm import tcm_loss
from pipeline.losses.total import training_loss
from pipeline.strict import RecipeError

LABELS = torch.arange(5).repeat_interleave(3)
MARGINS = TcmConfig(positive_margin=0.8, negative_margin=0.1, positive_weight=0.7,
                    negative_weight=2.0, floor=40)  # fmt: skip


def made(base="multi_similarity", **config):
    torch.manual_seed(0)
    return training_loss(LossConfig(base=base, **config), classes=5, dimension=6)


def directions(n=15, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(n, 6, generator=generator), dim=1)


@pytest.mark.parametrize("base", BASE_LOSSES)
def test_tcm_adds_to_every_base_loss_the_term_of_its_section(base):
    z = directions()
    term = tcm_loss(
        z @ z.T, LABELS[:, None] == LABELS, is_pair=~torch.eye(15, dtype=torch.bool),
        positive_margin=0.8, negative_margin=0.1, positive_weight=0.7, negative_weight=2.0,
        floor=40,
    )  # fmt: skip
    assert term > 0.1
    alone, both = made(base)(z, LABELS), made(base, tcm=MARGINS)(z, LABELS)
    assert both.item() == pytest.approx(alone.item() + term.item(), rel=1e-5)


def test_margins_that_are_still_to_be_found_are_refused():
    with pytest.raises(RecipeError, match=r"loss\.tcm\.margins: still 'auto'"):
        made(tcm=TcmConfig(margins="auto"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_embeddings_of_any_precision_and_length_have_the_loss_of_their_float32_directions(dtype):
    z, loss = (3 * directions()).to(dtype).requires_grad_(), made(tcm=MARGINS)
    value = loss(z, LABELS)
    value.backward()
    assert value.dtype == torch.float32
    assert z.grad.dtype == dtype
    assert value.item() == pytest.approx(loss(z.float() / 3, LABELS).item(), rel=1e-5)


@pytest.mark.parametrize("base", BASE_LOSSES)
def test_autocast_is_off_inside(base):
    z, loss = directions(), made(base, tcm=MARGINS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (z @ z.T).dtype == torch.bfloat16
        inside = loss(z, LABELS)
    assert inside.item() == loss(z, LABELS).item()


@pytest.mark.parametrize("base", ["multi_similarity", "triplet", "smooth_ap"])
def test_two_views_of_one_item_are_no_pair(base):
    # Rows 0 and 1 are one item: as if neither had the other among its references. Three views of
    # class 0 and one of class 1 each: no other positive pair is left, so nothing is pulled.
    z = directions(4)
    labels, items = torch.tensor([0, 0, 1, 2]), torch.tensor([7, 7, 8, 9])
    loss = made(base, tcm=TcmConfig(positive_margin=0.99, negative_margin=0.98))
    with_pair, without = loss(z, labels), loss(z, labels, items)
    assert with_pair > without
    gradient = []
    for views in (None, items):
        leaf = z.clone().requires_grad_()
        loss(leaf, labels, views).backward()
        gradient.append(leaf.grad.norm().item())
    assert gradient[1] < 0.5 * gradient[0]


def test_items_told_apart_change_nothing():
    z, loss = directions(), made(tcm=MARGINS)
    assert loss(z, LABELS, torch.arange(15)).item() == loss(z, LABELS).item()


def test_the_loss_changes_no_state_and_has_a_graph_where_nothing_counts():
    loss = made("contrastive", memory=4)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    z = torch.eye(6)[LABELS].requires_grad_()  # perfect: every cost is exactly 0
    value = loss(z, LABELS)
    value.backward()
    assert value.item() == 0.0
    assert not z.grad.any()
    for key, kept in loss.state_dict().items():
        torch.testing.assert_close(kept, before[key], rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("base", BASE_LOSSES)
def test_every_loss_has_its_value_on_a_gpu(base):
    memory = 0 if base in ("arcface", "proxy_anchor") else 8
    loss, z = made(base, tcm=MARGINS, memory=memory), directions()
    loss.remember(directions(6, seed=1), LABELS[:6])
    expected = loss(z, LABELS).item()
    there = loss.to("cuda")(z.to("cuda"), LABELS.to("cuda"))
    assert there.item() == pytest.approx(expected, rel=1e-3)
