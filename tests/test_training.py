"""Training: it learns, it resumes exactly, and every argument moves it."""

import dataclasses

import numpy as np
import pytest
import torch

import pipeline.training.batch
import pipeline.training.trainer
from pipeline.models.registry import build_model, load_model, save_model
from pipeline.strict import RecipeError
from pipeline.training.augmentation import distort, draw_distortion
from pipeline.training.inputs import Rows
from pipeline.training.loop import TrainingError, fingerprint, fit
from pipeline.training.state import DivergedError
from tests import training_runs
from tests.training_world import images, recipe, vectors


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(wanted, data, **options):
    """The model, the losses seen, the checkpoints."""
    model, steps, states = training_runs.run(wanted, data, **options)
    return model, training_runs.losses_of(steps), states


def nearest_is_right(model, data):
    """Share of items whose nearest other item has their label."""
    with torch.no_grad():
        z = model(torch.from_numpy(data[0])).numpy()
    s = z @ z.T
    np.fill_diagonal(s, -2)
    return (data[1][s.argmax(1)] == data[1]).mean()


@pytest.mark.parametrize(("backbone", "make"), [("cnn", images), ("mlp", vectors)])
def test_training_brings_the_items_of_a_class_together(backbone, make):
    wanted = recipe(backbone=backbone, steps=60, learning_rate=1e-2, augmentation=0.2)
    untrained = run(recipe(backbone=backbone, steps=2, learning_rate=1e-12), make())[0]
    model, losses, _ = run(wanted, make())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    assert nearest_is_right(model, make()) > max(0.9, nearest_is_right(untrained, make()))


@pytest.mark.parametrize("base", ["multi_similarity", "proxy_anchor"])
def test_a_run_killed_at_any_step_and_resumed_has_the_same_losses_to_the_last_digit(base):
    wanted = recipe(base=base, tcm=True)
    whole, expected, _ = run(wanted, images())
    for kill_at in (5, 6, 11):
        _, _, states = run(wanted, images(), kill_at=kill_at)
        # The kill comes before the checkpoint of its own step is written.
        done = 5 * ((kill_at - 1) // 5)
        assert [state.step for state in states] == list(range(5, done + 1, 5))
        last = states[-1] if states else None
        resumed, rest, more = run(wanted, images(), resume=last)
        assert rest == expected[done:]
        assert list(more[-1].losses) == expected
        for name, value in whole.state_dict().items():
            np.testing.assert_array_equal(resumed.state_dict()[name], value)


def test_a_checkpoint_can_be_resumed_twice():
    # AdamW writes into the tensors it is given: the state must not be among them.
    wanted = recipe()
    _, expected, states = run(wanted, images())
    for _ in range(2):
        assert run(wanted, images(), resume=states[0])[1] == expected[5:]


def test_the_seed_the_term_and_the_augmentation_move_the_losses():
    base = run(recipe(), images())[1]
    assert run(recipe(), images())[1] == base
    assert run(recipe(seed=1), images())[1] != base
    assert run(recipe(tcm=True), images())[1][0] > base[0]
    assert run(recipe(augmentation=0.0), images())[1] != base
    assert run(recipe(weight_decay=0.5), images())[1] != base


def test_every_step_augments_its_own_batch_anew(monkeypatch):
    drawn = []

    def draw(images_, **options):
        drawn.append((images_, options))
        return draw_distortion(images_, **options)

    monkeypatch.setattr(pipeline.training.batch, "draw_distortion", draw)
    options = {"augmentation": 0.3, "random_crop": True, "mirror": True}
    run(recipe(steps=3, seed=7, model={"crop": 12}, **options), images())
    same = {"strength": 0.3, "seed": 7, "crop": 12, "random_crop": True, "mirror": True}
    assert drawn == [(24, {**same, "step": step}) for step in range(3)]


def test_images_are_left_alone_where_nothing_is_asked_for(monkeypatch):
    monkeypatch.setattr(pipeline.training.batch, "draw_distortion", None)
    run(recipe(steps=2, augmentation=0.0), images())
    run(recipe(backbone="mlp", steps=2), vectors())
    for option in ("random_crop", "mirror"):
        with pytest.raises(TypeError, match="not callable"):
            run(recipe(steps=2, augmentation=0.0, **{option: True}), images())


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run(recipe(steps=2), images())
    np.testing.assert_array_equal(torch.rand(3), expected)


def test_a_state_of_other_items_or_another_recipe_is_refused():
    _, _, states = run(recipe(), images())
    with pytest.raises(TrainingError, match="another recipe or other items"):
        run(recipe(), images(seed=1), resume=states[0])
    with pytest.raises(TrainingError, match="another recipe or other items"):
        run(recipe(tcm=True), images(), resume=states[0])


def test_the_fingerprint_ignores_only_what_does_not_decide_the_weights():
    inputs, labels = images()
    mark = fingerprint(recipe(), inputs, labels)
    other = recipe(workers=2, device="cuda", checkpoint_every=1, chunk=3)
    assert fingerprint(other, inputs, labels) == mark
    changed = inputs.copy()
    changed[-1, -1, -1, -1] ^= 1
    assert fingerprint(recipe(), changed, labels) != mark
    assert fingerprint(recipe(), inputs, labels[::-1]) != mark
    assert fingerprint(recipe(learning_rate=1e-9), inputs, labels) != mark
    named = np.asarray([f"class {label}" for label in labels])
    assert fingerprint(recipe(), inputs, named) != mark
    assert fingerprint(recipe(), Rows(inputs, np.arange(len(inputs))), labels) == mark


def test_measurements_count_for_the_fingerprint_only_where_they_can_end_the_training():
    def mark(**train):
        return fingerprint(recipe(validate_share=0.3, **train), *images())

    patient = {"patience": 1, "recall_floor": 0.01}
    assert mark(validate_every=2, recall_floor=0.5) == mark()
    assert mark(validate_every=2, **patient) != mark()
    assert mark(validate_every=2, **patient) != mark(validate_every=3, **patient)
    assert mark(validate_every=2, **patient) != mark(validate_every=2, patience=1, recall_floor=1.0)
    assert fingerprint(recipe(validate_share=0.4), *images()) != mark()
    moved = dataclasses.replace(recipe().data, split_seed=1)
    for share, same in ((0.0, True), (0.3, False)):
        wanted = recipe(validate_share=share)
        other = dataclasses.replace(wanted, data=moved)
        assert (fingerprint(other, *images()) == fingerprint(wanted, *images())) == same


def test_the_content_of_the_weights_counts_for_the_fingerprint(tmp_path):
    path = tmp_path / "w.pt"
    wanted = recipe(model={"weights": str(path)})
    marks = []
    for content in (b"one", b"two"):
        path.write_bytes(content)
        marks.append(fingerprint(wanted, *images()))
    assert marks[0] != marks[1]


def test_a_loss_that_is_not_finite_names_the_step_the_items_and_the_remedy():
    inputs, labels = vectors()
    inputs[3] = np.inf
    ids = [f"item {row}" for row in range(len(labels))]
    expected = (r"the loss is nan at step 1, over the items item \d+(, item \d+){4} and 19 more; "
                r"lower train.learning_rate")  # fmt: skip
    with pytest.raises(DivergedError, match=expected):
        run(recipe(backbone="mlp"), (inputs, labels), item_ids=ids)
    # A class of six items, four of them in the batch twice over: each is named once.
    few = recipe(backbone="mlp", classes_per_batch=2, items_per_class=12)
    with pytest.raises(DivergedError, match=r"(, \d+){4} and 7 more; lower"):
        run(few, (inputs[:12], labels[:12]))


def test_weights_that_are_not_finite_are_never_a_checkpoint(monkeypatch):
    # The loss of the last step is finite, its step is not: nothing else would tell.
    def spoil(self, step):
        if step == 4:
            next(iter(self.model.parameters())).data[0] = torch.nan

    monkeypatch.setattr(pipeline.training.trainer.Trainer, "_move", spoil)
    states = []
    with pytest.raises(DivergedError, match=r"after step 5 the weights are not finite \(backbone"):
        fit(*images(), recipe=recipe(), model=training_runs.fresh(recipe(), images()[0]),
            on_checkpoint=states.append, progress=lambda _: None)
    assert states == []


def test_a_device_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(TrainingError, match="torch sees no CUDA device"):
        run(recipe(device="cuda"), images())


@pytest.mark.gpu
def test_a_cuda_device_trains_by_the_same_code():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    _, expected, _ = run(recipe(tcm=True), images())
    model, losses, states = run(recipe(tcm=True, device="cuda"), images())
    np.testing.assert_allclose(losses, expected, rtol=2e-2)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert all(value.device.type == "cpu" for value in states[-1].model.values())


def test_a_vectors_offset_and_scale_do_not_matter():
    inputs, labels = vectors()
    losses = run(recipe(backbone="mlp"), (inputs, labels))[1]
    moved = run(recipe(backbone="mlp"), ((inputs * 64 + 3).astype(np.float32), labels))[1]
    np.testing.assert_allclose(losses, moved, rtol=1e-2)


def test_an_image_does_not_change_the_embedding_of_its_neighbour_in_the_batch():
    model, pixels = build_model(recipe().model, kind="image"), torch.from_numpy(images()[0])
    with torch.no_grad():
        np.testing.assert_allclose(model(pixels[:9])[4:5], model(pixels[4:5]), atol=1e-6)


def test_embeddings_have_unit_length_and_the_seed_decides_them():
    pixels = torch.from_numpy(images()[0][:5])
    config = recipe().model
    one, same, other = (build_model(config, kind="image", seed=s)(pixels) for s in (0, 0, 1))
    np.testing.assert_allclose(one.detach().norm(dim=1), 1, atol=1e-6)
    np.testing.assert_array_equal(one.detach(), same.detach())
    assert not torch.equal(one, other)


def test_a_saved_model_comes_back_with_its_fingerprint(tmp_path):
    model, data = run(recipe(backbone="mlp"), vectors())[0], torch.from_numpy(vectors()[0])
    save_model(model, tmp_path / "model.pt", fingerprint="abc")
    loaded, mark = load_model(tmp_path / "model.pt")
    assert mark == "abc"
    np.testing.assert_array_equal(loaded(data).detach(), model(data).detach())
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_backbone_that_is_unknown_or_of_another_kind_is_refused():
    config = dataclasses.replace(recipe().model, backbone="vit")
    with pytest.raises(RecipeError, match="unknown 'vit'; known: cnn, mlp"):
        build_model(config, kind="image")
    with pytest.raises(RecipeError, match=r"'cnn' takes image items, these are vector; .*: mlp"):
        build_model(recipe().model, kind="vector", input_dimension=3)


def test_no_strength_leaves_images_as_they_are():
    pixels = torch.from_numpy(images()[0])
    drawn = draw_distortion(len(pixels), strength=0.0, seed=3, step=4)
    np.testing.assert_allclose(distort(pixels, drawn), pixels.float(), atol=0.02)


def test_distortion_is_a_function_of_seed_and_step_and_its_parts_are_its_rows():
    pixels = torch.from_numpy(images()[0])
    drawn = draw_distortion(len(pixels), strength=1.0, seed=3, step=4)
    again = draw_distortion(len(pixels), strength=1.0, seed=3, step=4)
    whole = distort(pixels, drawn)
    np.testing.assert_array_equal(distort(pixels, again), whole)
    half = slice(5, 17)
    np.testing.assert_allclose(distort(pixels[half], drawn.part(half)), whole[half], atol=1e-3)
    for seed, step in ((3, 5), (4, 4)):
        other = draw_distortion(len(pixels), strength=1.0, seed=seed, step=step)
        assert not torch.equal(distort(pixels, other), whole)


def test_distortion_moves_and_recolours_but_never_mirrors():
    # A dark left half stays left: mirrored, an arrow would be another class.
    pixels = torch.full((64, 16, 16, 3), 255, dtype=torch.uint8)
    pixels[:, :, :8] = 0
    moved = distort(pixels, draw_distortion(64, strength=1.0, seed=0, step=0)).mean(dim=3)
    assert (moved[:, :, :4].mean(dim=(1, 2)) < moved[:, :, 12:].mean(dim=(1, 2)) - 50).all()
    assert moved.std(dim=0).max() > 10


def test_a_threshold_that_the_loss_learns_is_told_step_by_step():
    wanted = recipe(base="uss", steps=3, checkpoint_every=3)
    _, steps, states = training_runs.run(wanted, images())
    learned = float(states[-1].loss["base.loss.bias"])
    assert steps[-1].threshold == pytest.approx(1 - learned / 64, abs=1e-6)
    assert len({step.threshold for step in steps}) == 3
    assert training_runs.run(recipe(), images())[1][0].threshold is None
