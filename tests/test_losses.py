"""The laws that every base loss obeys, and each one's value against plain loops over pairs."""

import pytest
import torch
from torch.nn import functional

from pipeline.losses.config import LossConfig
from pipeline.losses.options import BASE_LOSSES, OFFERS
from pipeline.losses.total import training_loss
from pipeline.strict import RecipeError
from tests import slow_losses

CLASSES, ITEMS, DIMENSION = 6, 4, 8
LABELS = torch.arange(CLASSES).repeat_interleave(ITEMS)
PROXIES = ("arcface", "proxy_anchor")
COMPARING = [name for name in BASE_LOSSES if name not in PROXIES]

# Away from every default, and so that none of the terms is idle.
MOVED = {
    "multi_similarity": {"alpha": 3.0, "beta": 20.0, "base": 0.2},
    "supervised_contrastive": {"temperature": 0.3},
    "contrastive": {"positive_margin": 0.6, "negative_margin": 0.1},
    "triplet": {"margin": 0.4},
    "infonce": {"temperature": 0.5},
    "circle": {"margin": 0.25, "scale": 30.0},
    "smooth_ap": {"temperature": 0.2},
    "recall_at_k": {"temperature": 0.1, "step_temperature": 2.0},
    "uss": {"margin": 0.3, "scale": 20.0},
    "arcface": {"margin": 80.0, "scale": 10.0},
    "proxy_anchor": {"margin": 0.3, "alpha": 8.0},
}


def made(name, memory=0, **options):
    torch.manual_seed(0)
    config = LossConfig(base=name, options=options, memory=memory)
    return training_loss(config, classes=CLASSES, dimension=DIMENSION)


def directions(n=CLASSES * ITEMS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(n, DIMENSION, generator=generator), dim=1)


def proxies(loss):
    """(classes, d) unit proxies."""
    (weights,) = loss.parameters()
    return functional.normalize(weights, dim=1)


def slow_value(loss, name, z, labels, references, reference_labels, options):
    """The value of the plain loops; the first references are the embeddings themselves."""
    if name in PROXIES:
        references, reference_labels = proxies(loss), torch.arange(CLASSES)
    s = (z.double() @ references.double().T).tolist()
    kinds = [[1 if a == b else -1 for b in reference_labels.tolist()] for a in labels.tolist()]
    if name not in PROXIES:
        for i in range(len(z)):
            kinds[i][i] = 0
    learned = {"bias": loss.base.loss.bias.item()} if name == "uss" else {}
    return getattr(slow_losses, name)(s, kinds, **learned, **options)


@pytest.mark.parametrize("moved", [False, True], ids=["default", "moved"])
@pytest.mark.parametrize("name", BASE_LOSSES)
def test_a_loss_is_the_formula_of_its_paper_with_the_options_it_is_given(name, moved):
    options = MOVED[name] if moved else {}
    z, loss = directions(), made(name, **options)
    expected = slow_value(loss, name, z, LABELS, z, LABELS, options)
    assert loss(z, LABELS).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", COMPARING)
def test_a_memory_is_further_references(name):
    z, older, older_labels = directions(), directions(7, seed=1), torch.arange(7) % CLASSES
    loss = made(name, memory=7)
    empty = loss(z, LABELS).item()
    loss.remember(older, older_labels)
    references, labels = torch.cat([z, older]), torch.cat([LABELS, older_labels])
    expected = slow_value(loss, name, z, LABELS, references, labels, {})
    assert loss(z, LABELS).item() == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(empty, rel=1e-3)


@pytest.mark.parametrize("option", [(n, o) for n, offer in OFFERS.items() for o in offer.options])
def test_every_option_moves_its_loss(option):
    name, key = option
    values = [
        made(name, **chosen)(directions(), LABELS).item()
        for chosen in ({}, {key: MOVED[name][key]})
    ]
    assert values[0] != pytest.approx(values[1], rel=1e-3)


@pytest.mark.parametrize("name", BASE_LOSSES)
def test_no_arrangement_drawn_at_random_is_better_than_perfect_separation(name):
    loss, centres = made(name), torch.eye(DIMENSION)[:CLASSES]
    if name in PROXIES:
        with torch.no_grad():
            next(loss.parameters()).copy_(centres)
    perfect = loss(centres[LABELS], LABELS).item()
    assert perfect < min(loss(directions(seed=k), LABELS).item() for k in range(30))
    assert perfect < loss(centres[LABELS.roll(1)], LABELS).item()


@pytest.mark.parametrize("name", BASE_LOSSES)
def test_gradient_descent_on_free_embeddings_separates_the_classes(name):
    loss, free = made(name), directions().requires_grad_()
    optimizer = torch.optim.Adam([free, *loss.parameters()], lr=0.05)
    values = []
    for _ in range(250):
        value = loss(free, LABELS)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]
    z = functional.normalize(free.detach(), dim=1)
    s = (z @ z.T).fill_diagonal_(-1)
    positive = LABELS[:, None] == LABELS[None, :]
    # Each embedding is nearer to every other of its class than to any of another class.
    itself = torch.eye(len(z), dtype=torch.bool)
    furthest = s.masked_fill(~positive | itself, 2).amin(1)
    assert (furthest > s.masked_fill(positive, -2).amax(1)).all()


@pytest.mark.parametrize("name", BASE_LOSSES)
def test_the_order_of_a_batch_does_not_matter(name):
    loss, order = made(name), torch.randperm(len(LABELS), generator=torch.Generator())
    z = directions().requires_grad_()
    (one,) = torch.autograd.grad(loss(z, LABELS), z)
    value = loss(z[order], LABELS[order])
    (other,) = torch.autograd.grad(value, z)
    assert value.item() == pytest.approx(loss(z, LABELS).item(), rel=1e-5)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


NO_PAIRS = {
    "no positive": torch.arange(CLASSES),
    "no negative": torch.zeros(CLASSES, dtype=torch.int64),
    "one item": torch.zeros(1, dtype=torch.int64),
}


@pytest.mark.parametrize("labels", NO_PAIRS.values(), ids=NO_PAIRS)
@pytest.mark.parametrize("name", BASE_LOSSES)
def test_a_batch_without_pairs_of_a_kind_has_a_finite_loss_and_gradient(name, labels):
    z = directions(len(labels)).requires_grad_()
    value = made(name)(z, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("name", BASE_LOSSES)
def test_embeddings_that_coincide_with_each_other_and_their_proxies_have_finite_gradients(name):
    loss = made(name)
    z = (proxies(loss) if name in PROXIES else directions(CLASSES)).detach()[LABELS]
    z.requires_grad_()
    loss(z, LABELS).backward()
    for leaf in (z, *loss.parameters()):
        assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("name", BASE_LOSSES)
def test_one_embedding_that_is_not_a_number_is_not_hidden_by_the_others(name):
    # A mean over costs above 0 would leave a NaN out.
    z = directions()
    z[3, 2] = float("nan")
    assert torch.isnan(made(name)(z, LABELS))


@pytest.mark.parametrize("name", PROXIES)
def test_losses_with_proxies_own_one_for_each_class(name):
    assert proxies(made(name)).shape == (CLASSES, DIMENSION)


def test_an_unknown_base_loss_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match="base: unknown loss 'softmax'; known: multi_similarity"):
        LossConfig(base="softmax")


def test_an_unknown_option_is_refused_with_the_known_ones_and_their_defaults():
    expected = r"options: circle has no option 'gamma'; it has: margin = 0.4, scale = 80"
    with pytest.raises(RecipeError, match=expected):
        LossConfig(base="circle", options={"gamma": 80.0})


@pytest.mark.parametrize("option", [(n, o) for n, offer in OFFERS.items() for o in offer.options])
def test_an_option_is_taken_at_the_ends_of_its_range_and_refused_beyond(option):
    name, key = option
    offer = OFFERS[name].options[key]
    for end, beyond in ((offer.least, -1e-3), (offer.most, 1e-3)):
        value = made(name, **{key: end})(directions(), LABELS)
        assert torch.isfinite(value)
        with pytest.raises(RecipeError, match=rf"options\.{key}: expected .* for {name} \(default"):
            LossConfig(base=name, options={key: end + beyond})
    with pytest.raises(RecipeError, match="got nan"):
        LossConfig(base=name, options={key: float("nan")})


@pytest.mark.parametrize("name", PROXIES)
def test_a_memory_for_a_loss_with_proxies_is_refused_with_the_losses_that_take_one(name):
    with pytest.raises(RecipeError, match=rf"memory: {name} compares .* one of multi_similarity"):
        LossConfig(base=name, memory=100)
