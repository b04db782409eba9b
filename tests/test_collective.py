"""Two workers with half a batch each compute what one worker with the whole batch computes."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from jobs.train import train_share
from jobs.workspace import Workspace
from pipeline.losses.base import base_loss
from pipeline.losses.tcm import tcm_loss
from pipeline.models.registry import build_model, load_model
from pipeline.strict import RecipeError
from pipeline.training.collective import ALONE, Collective
from tests.training_world import images, recipe


def gradient(collective):
    """Flat gradient of a small model's whole loss over one batch of 24 images."""
    torch.set_num_threads(1)
    pixels, labels = (torch.from_numpy(part[:24]) for part in images())
    model = build_model(recipe().model, kind="image", seed=5)
    embeddings = collective.gather(model(pixels[collective.share(24)]))
    loss = base_loss("multi_similarity", classes=4, dimension=8)(embeddings, labels)
    loss = loss + tcm_loss(
        embeddings @ embeddings.T, labels[:, None] == labels[None, :],
        positive_margin=0.9, negative_margin=0.5, is_pair=~torch.eye(24, dtype=torch.bool),
    )  # fmt: skip
    loss.backward()
    collective.add_gradients(model.parameters())
    return torch.cat([p.grad.flatten() for p in model.parameters()]).numpy()


def _worker(rank, folder):
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    np.save(f"{folder}/{rank}.npy", gradient(Collective(rank=rank, size=2)))
    distributed.destroy_process_group()


def test_the_gradients_of_two_half_batches_add_up_to_that_of_the_whole(tmp_path):
    multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    whole = gradient(ALONE)
    assert np.abs(whole).max() > 0.01
    for rank in (0, 1):
        np.testing.assert_allclose(np.load(tmp_path / f"{rank}.npy"), whole, atol=1e-5)


def test_a_batch_that_does_not_divide_is_refused():
    assert Collective(rank=1, size=2).share(24) == slice(12, 24)
    with pytest.raises(RecipeError, match="a batch of 25 does not divide among 2 workers"):
        Collective(rank=0, size=2).share(25)


@pytest.mark.ray
def test_two_ray_workers_train_the_model_that_one_process_trains(tmp_path):
    from jobs.cluster import train_on_workers
    from tests.training_items import write_items

    wanted = recipe(tcm=True, steps=8, learning_rate=1e-4)
    shared = dataclasses.replace(wanted, train=dataclasses.replace(wanted.train, workers=2))
    seen = []
    for name in ("one", "two"):
        write_items(Workspace(tmp_path / name))
    train_share(wanted, Workspace(tmp_path / "one"), "tcm", seen.append)
    alone = [progress.loss for progress in seen]
    seen.clear()
    train_on_workers(shared, Workspace(tmp_path / "two"), "tcm", seen.append)
    np.testing.assert_allclose([progress.loss for progress in seen], alone, rtol=1e-3)
    models = [load_model(Workspace(tmp_path / name).model("tcm")) for name in ("one", "two")]
    assert models[0][1] == models[1][1]
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        "items.parquet", "pixels.npy", "tcm.pt"}  # fmt: skip
    pixels = torch.from_numpy(images()[0])
    np.testing.assert_allclose(
        models[0][0](pixels).detach(), models[1][0](pixels).detach(), atol=5e-3
    )
