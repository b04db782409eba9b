"""Two workers with half a batch each compute what one worker with the whole batch computes."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from pipeline.losses.total import training_loss
from pipeline.models.registry import build_model
from pipeline.strict import RecipeError
from pipeline.training.collective import ALONE, Collective
from pipeline.training.loop import fit
from tests.training_world import images, recipe

# Plain gradient descent: the weights differ as little as the gradients do.
PLAIN = {"optimizer": "sgd", "learning_rate": 0.05, "steps": 4, "checkpoint_every": 4}
CASES = {
    "plain": {},
    "chunk": {"chunk": 5},
    "clip": {"clip": 0.2},
    "bfloat16": {"precision": "bfloat16"},
    "memory": {"memory": 30},
    "proxies": {"base": "proxy_anchor", "learning_rate": 0.005},
    "average": {"average": 0.5},
    "validated": {"validate_share": 0.4, "validate_every": 2},
    "everything": {
        "base": "uss", "tcm": True, "memory": 30, "chunk": 5, "clip": 0.2, "average": 0.5,
        "learning_rate": 0.01,
    },
}  # fmt: skip


def gradient(collective):
    """Flat gradient of a small model's whole loss over one batch of 24 images."""
    pixels, labels = (torch.from_numpy(part[:24]) for part in images())
    model = build_model(recipe().model, kind="image", seed=5)
    loss = training_loss(recipe(tcm=True).loss, classes=4, dimension=8)
    loss(collective.gather(model(pixels[collective.share(24)])), labels).backward()
    collective.add_gradients(model.parameters())
    return torch.cat([p.grad.flatten() for p in model.parameters()]).numpy()


def trained(case, collective):
    """Numbers that a training of a few steps ends with: weights, state of the loss, reports."""
    wanted = recipe(**{**PLAIN, **CASES[case]})
    model = build_model(wanted.model, kind="image", seed=5)
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    states, seen = [], []
    fit(*images(), recipe=wanted, model=model, on_checkpoint=states.append,
        progress=seen.append, collective=collective)  # fmt: skip
    (state,) = states
    assert wanted.train.clip == 0 or state.step == 4
    measured = [p.validation for p in seen if p.validation is not None]
    numbers = {
        "weights": torch.cat([p.detach().flatten() for p in model.parameters()]),
        "moved": torch.cat([p.detach().flatten() for p in model.parameters()]) - start,
        "losses": torch.tensor([p.loss for p in seen]),
        "measured": torch.tensor([[v.recall, v.opis.value] for v in measured]),
    }
    numbers |= {f"model {name}": value for name, value in state.model.items()}
    numbers |= {f"loss {name}": value for name, value in state.loss.items()}
    return {name: np.asarray(value) for name, value in numbers.items()}


def agreed(collective):
    """The gradients of two parameters after the workers agreed on them; one has none."""
    parameters = [torch.zeros(2, 2), torch.zeros(3), torch.zeros(1)]
    for parameter in parameters[:2]:
        parameter.grad = torch.full_like(parameter, 1.0 + collective.rank)
    collective.agree_on_gradients(parameters)
    return [None if p.grad is None else p.grad.tolist() for p in parameters]


def everything(collective):
    torch.set_num_threads(1)
    return {
        "gradient": gradient(collective),
        "agreed": agreed(collective),
        "trained": {case: trained(case, collective) for case in CASES},
    }


def _worker(rank, folder):
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    torch.save(everything(Collective(rank=rank, size=2)), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes with half a batch each computed."""
    folder = tmp_path_factory.mktemp("workers")
    multiprocessing.spawn(_worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@functools.cache
def one():
    """The same by one process."""
    threads = torch.get_num_threads()
    try:
        return everything(ALONE)
    finally:
        torch.set_num_threads(threads)


def test_the_gradients_of_two_half_batches_add_up_to_that_of_the_whole(two):
    whole = one()["gradient"]
    assert np.abs(whole).max() > 0.01
    for found in two:
        np.testing.assert_allclose(found["gradient"], whole, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_after_some_steps_two_workers_have_the_weights_of_one(two, case):
    whole = one()["trained"][case]
    # In 16 bits a sum of two halves is rounded elsewhere than the sum of the whole.
    tolerance = 0.004 if case == "bfloat16" else 1e-5
    assert np.abs(whole["moved"]).max() > 100 * 1e-5
    for found in (both["trained"][case] for both in two):
        assert found.keys() == whole.keys()
        for name, value in whole.items():
            np.testing.assert_allclose(
                found[name], value, rtol=tolerance, atol=tolerance, err_msg=name
            )


@pytest.mark.parametrize("case", sorted(set(CASES) - {"plain", "chunk"}))
def test_what_the_two_are_compared_under_moves_the_weights(case):
    plain, other = (one()["trained"][name]["weights"] for name in ("plain", case))
    assert np.abs(plain - other).max() > 1e-3


def test_workers_hold_the_same_bits(two):
    for case in CASES:
        first, second = (found["trained"][case] for found in two)
        for name, value in first.items():
            np.testing.assert_array_equal(value, second[name], err_msg=f"{case} {name}")


def test_workers_agree_on_the_gradients_of_the_first(two):
    for found in two:
        assert found["agreed"] == [[[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0, 1.0], None]


def test_a_batch_that_does_not_divide_is_refused():
    assert Collective(rank=1, size=2).share(24) == slice(12, 24)
    with pytest.raises(RecipeError, match="a batch of 25 does not divide among 2 workers"):
        Collective(rank=0, size=2).share(25)


def test_a_network_that_normalises_over_the_batch_is_refused_by_several_workers():
    wanted = recipe()
    model = build_model(wanted.model, kind="image", seed=5)
    model.backbone.norm = torch.nn.BatchNorm1d(8)
    assert model.uses_batch_statistics
    ALONE.require_divisible(model.uses_batch_statistics)
    with pytest.raises(RecipeError, match=r"train.workers: 2, but .* model.frozen_norm = true"):
        fit(*images(), recipe=dataclasses.replace(wanted), model=model, progress=print,
            on_checkpoint=print, collective=Collective(rank=0, size=2))  # fmt: skip
