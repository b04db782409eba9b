"""A training cut short and resumed has the losses of an uninterrupted one, whatever it keeps."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.data.items import ItemsError
from pipeline.training import trainer
from pipeline.training.averaging import Average
from pipeline.training.loop import TrainingError, fingerprint
from pipeline.training.precision import Precision
from pipeline.training.state import DivergedError
from pipeline.training.validation import validate, validation_rows
from tests.training_runs import DROPPING, OVERFLOWING, embedded, fresh, losses_of, run
from tests.training_world import images, recipe, vectors

VALIDATED = {"validate_share": 0.4, "classes_per_batch": 4, "validate_every": 3}

# What one feature at a time has to remember from step to step.
KEEPING = {
    "optimizer": recipe(optimizer="sgd", clip=0.5, layer_decay=0.8, learning_rate=0.05),
    "memory": recipe(tcm=True, memory=40),
    "proxies": recipe(base="proxy_anchor"),
    "learned threshold": recipe(base="uss"),
    "average": recipe(average=0.9),
    "scaler": recipe(precision="float16"),
    "dropout": recipe(backbone=DROPPING),
    "validation": recipe(**VALIDATED, patience=1, recall_floor=0.01, average=0.5),
}


@pytest.mark.parametrize("wanted", KEEPING.values(), ids=KEEPING.keys())
def test_a_training_resumed_from_any_checkpoint_is_the_uninterrupted_one(wanted):
    model, steps, states = run(wanted, images())
    assert len(states) >= 2
    for state in states:
        resumed, rest, more = run(wanted, images(), resume=state)
        assert losses_of(rest) == losses_of(steps)[state.step :]
        assert [now.validation for now in rest] == [now.validation for now in steps][state.step :]
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(resumed.state_dict()[name], value)
        if more:
            last = more[-1]
            assert (last.losses, last.validations) == (states[-1].losses, states[-1].validations)


def test_the_average_follows_the_weights_and_its_decay_rises_to_the_one_asked_for():
    weight = torch.nn.Linear(1, 1, bias=False)
    weight.weight.data.fill_(1.0)
    average = Average(weight, 0.5)
    weight.weight.data.fill_(0.0)
    # Decays 1/10, 2/11, ... up to .5: 1 * .1 * 2/11 after two steps towards 0.
    average.update(0)
    average.update(1)
    assert average.state()["weight"].item() == pytest.approx(0.1 * 2 / 11)
    average.update(1000)
    assert average.state()["weight"].item() == pytest.approx(0.05 * 2 / 11)
    with average.applied():
        assert weight.weight.item() == pytest.approx(0.05 * 2 / 11)
    assert weight.weight.item() == 0.0


def test_the_average_becomes_the_model_and_the_steps_do_not_see_it():
    plain, steps, _ = run(recipe(), images())
    averaged, same, states = run(recipe(average=0.9), images())
    assert losses_of(same) == losses_of(steps)
    weights = dict(averaged.named_parameters())
    for name, value in states[-1].average.items():
        np.testing.assert_array_equal(weights[name].detach(), value)
    assert not torch.equal(weights["backbone.head.3.weight"], plain.backbone.head[3].weight)
    np.testing.assert_array_equal(
        plain.backbone.head[3].weight.detach(), states[-1].model["backbone.head.3.weight"]
    )


def test_the_average_is_that_of_the_weights_after_every_step():
    wanted = recipe(average=0.4, steps=6, checkpoint_every=1)
    name = "backbone.head.3.weight"
    expected = fresh(wanted, images()[0]).state_dict()[name]
    for step, state in enumerate(run(wanted, images())[2]):
        decay = min(0.4, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * state.model[name]
        np.testing.assert_allclose(state.average[name], expected, rtol=1e-4, atol=1e-6)


def test_the_memory_holds_the_last_batches_and_moves_the_losses_from_the_second_step_on():
    plain = losses_of(run(recipe(), images())[1])
    _, steps, states = run(recipe(memory=40), images())
    assert losses_of(steps)[0] == plain[0]
    assert losses_of(steps)[1] != plain[1]
    assert (states[0].loss["memory.labels"] >= 0).all()


def test_weights_that_are_not_trained_are_not_averaged():
    pytest.importorskip("efficientnet_lite_pytorch")
    model = {"backbone": "efficientnet_lite0", "image_size": 32, "trained_stages": 0}
    network = fresh(recipe(model=model), np.zeros((1, 32, 32, 3)))
    assert set(Average(network, 0.9).state()) == {"backbone.head.weight", "backbone.head.bias"}
    assert not Average(network, 0.0).state()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_nearly_as_float32_does_and_keeps_float32_weights(precision):
    wanted = recipe(tcm=True, precision=precision)
    model, steps, states = run(wanted, images())
    expected = losses_of(run(recipe(tcm=True), images())[1])
    np.testing.assert_allclose(losses_of(steps), expected, rtol=0.05)
    assert losses_of(steps) != expected
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert bool(states[-1].scaler) == (precision == "float16")


def test_the_limit_of_the_gradient_is_that_of_the_loss_not_of_the_scaled_one():
    # A limit that bites: of a gradient 65,536 times as long it would leave hardly anything.
    def moved(**options):
        wanted = recipe(optimizer="sgd", learning_rate=0.1, clip=0.3, steps=3, **options)
        start, end = fresh(wanted, images()[0]), run(wanted, images())[0]
        return (end.backbone.head[3].weight - start.backbone.head[3].weight).detach()

    expected = moved()
    assert (moved(precision="float16") - expected).norm() < 0.1 * expected.norm()


def test_only_the_network_is_computed_in_half_precision(monkeypatch):
    with Precision("bfloat16", torch.device("cpu")).network():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with Precision("float32", torch.device("cpu")).network():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, embeddings, labels, items):
            seen.append((embeddings.dtype, (embeddings @ embeddings.T).dtype))
            return embeddings.sum()

        def remember(self, *_):
            pass

        def threshold(self):
            return None

    monkeypatch.setattr(trainer, "training_loss", lambda *_, **__: Watch())
    run(recipe(steps=2, precision="bfloat16"), images())
    assert seen == [(torch.float32, torch.float32)] * 2


def test_a_step_whose_gradient_overflows_in_float16_moves_nothing_and_lowers_the_scale():
    wanted = recipe(steps=1, warmup_steps=0, precision="float16", checkpoint_every=1)
    _, _, (state,) = run(wanted, images())
    huge = {**state.scaler, "scale": 2.0**127}
    start = fresh(wanted, images()[0]).state_dict()
    again = recipe(steps=2, warmup_steps=0, precision="float16", checkpoint_every=1)
    resume = dataclasses.replace(
        state, model=start, scaler=huge, fingerprint=fingerprint(again, *images())
    )
    model, _, (after,) = run(again, images(), resume=resume)
    assert after.scaler["scale"] == 2.0**126
    for name, value in start.items():
        np.testing.assert_array_equal(model.state_dict()[name], value)


def test_a_gradient_that_overflows_float16_at_every_scale_ends_the_training():
    # From a scale of 2^16 down to 2^-15, halved at each step.
    wanted = recipe(backbone=OVERFLOWING, steps=40, precision="float16")
    line = r"after step 31 the gradient overflows float16 at any scale.*'bfloat16', or lower"
    with pytest.raises(DivergedError, match=line):
        run(wanted, images())


def test_the_weights_of_the_loss_are_looked_at_before_they_are_kept():
    # They move ten times as fast as the network: here they alone leave the range of float32.
    wanted = recipe(base="proxy_anchor", optimizer="sgd", learning_rate=1e37, warmup_steps=0,
                    checkpoint_every=1)  # fmt: skip
    with pytest.raises(DivergedError, match=r"after step 1 .* not finite \(base\.loss\.proxies\)"):
        run(wanted, images())


def test_patience_ends_the_training_and_brings_the_best_measurement_back():
    wanted = recipe(**{**VALIDATED, "validate_every": 1}, steps=40, patience=3, recall_floor=0.01,
                    learning_rate=0.03)  # fmt: skip
    model, steps, states = run(wanted, images())
    values = [now.validation.opis.value for now in steps]
    best = int(np.nanargmin(values))
    assert best < len(steps) - 1 < 39
    assert len(steps) - 1 - best == 3
    # The oracle: the same training, ended right after its best measurement.
    short = recipe(**{**VALIDATED, "validate_every": 1}, steps=40, patience=0, learning_rate=0.03,
                   checkpoint_every=best + 1)  # fmt: skip
    _, _, others = run(short, images(), kill_at=best + 2)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, others[0].model[name])
    # The state at its end goes on to the same model, without a step.
    again, none, _ = run(wanted, images(), resume=states[-1])
    assert none == []
    np.testing.assert_array_equal(embedded(again, images()[0]), embedded(model, images()[0]))


def test_no_measurement_under_the_floor_of_recall_is_the_best_and_without_one_nothing_ends():
    wanted = recipe(**VALIDATED, patience=1, recall_floor=1.0, learning_rate=1e-9)
    model, steps, states = run(wanted, images())
    assert max(now.validation.recall for now in steps if now.validation) < 1.0
    assert len(steps) == 12
    assert not states[-1].best
    np.testing.assert_array_equal(
        model.backbone.head[3].weight.detach(), states[-1].model["backbone.head.3.weight"]
    )


def test_held_out_classes_are_measured_at_the_steps_asked_for_and_never_trained_on():
    inputs, labels = vectors()
    wanted = recipe(backbone="mlp", **{**VALIDATED, "validate_every": 5})
    _, steps, _ = run(wanted, (inputs, labels))
    assert [now.step for now in steps if now.validation] == [5, 10, 12]
    found = steps[4].validation
    assert (found.step, found.classes, found.items) == (5, 5, 30)
    held_out = validation_rows(labels, 0.4, 0)
    moved = inputs.copy()
    moved[held_out] += 7
    assert losses_of(run(wanted, (moved, labels))[1]) == losses_of(steps)
    moved[~held_out] += 1
    assert losses_of(run(wanted, (moved, labels))[1]) != losses_of(steps)


def test_a_measurement_is_of_the_averaged_network_in_evaluation_and_moves_nothing():
    wanted = recipe(backbone=DROPPING, **VALIDATED, average=0.9)
    model, steps, _ = run(wanted, images())
    quiet = recipe(backbone=DROPPING, **{**VALIDATED, "validate_every": 0}, average=0.9)
    assert losses_of(run(quiet, images())[1]) == losses_of(steps)
    inputs, labels = images()
    rows = validation_rows(labels, 0.4, 0)
    ids = [str(row) for row in np.flatnonzero(rows)]
    oracle = validate(embedded(model, inputs[rows]), labels[rows], ids, step=12)
    assert oracle == steps[-1].validation


def test_a_network_whose_embeddings_are_not_finite_is_not_measured_but_named():
    wanted = recipe(**{**VALIDATED, "validate_every": 1}, learning_rate=1e30, warmup_steps=0)
    ids = [f"item {row}" for row in range(72)]
    with pytest.raises(DivergedError, match=r"after step 1 the embedding of item 'item \d+' is"):
        run(wanted, images(), item_ids=ids)


def test_patience_on_classes_too_small_to_measure_is_refused():
    inputs, labels = images()
    few = np.concatenate([np.flatnonzero(labels == c)[:3] for c in range(12)])
    data = inputs[few], labels[few]
    with pytest.raises(ItemsError, match=r"0 of the 5 classes held out .* have 4 items or more"):
        run(recipe(**VALIDATED, patience=1, recall_floor=0.01), data)
    run(recipe(**VALIDATED, steps=2), data)


def test_a_state_of_another_precision_or_average_is_refused():
    states = run(recipe(), images())[2]
    for other in (recipe(average=0.5), recipe(precision="bfloat16"), recipe(memory=9)):
        with pytest.raises(TrainingError, match="of another recipe or other items; delete it"):
            run(other, images(), resume=states[0])
