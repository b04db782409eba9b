"""The recipes of the published comparisons: their numbers, and that they differ in those alone."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path

import pytest

from pipeline.config import load_recipe
from pipeline.losses.config import TcmConfig

FOLDER = Path(__file__).parent.parent / "jobs" / "recipes"
SETS = ("cub", "cars", "sop", "inat")
BACKBONES, LOSSES = ("resnet50", "vit_b16"), ("smoothap", "rsk")
NAMES = ["_".join(parts) for parts in product(SETS, BACKBONES, LOSSES)]

# Images of the published train splits (CUB-200-2011 classes 1 to 100, Cars-196 classes 1 to 98,
# Ebay_train.txt, Inaturalist_train_set1.txt).
IMAGES = {"cub": 5_864, "cars": 8_054, "sop": 59_551, "inat": 325_846}

# Batch, epochs, rate, milestones in epochs, images a chunk: Recall@k Surrogate Loss with Large
# Batches and Similarity Mixup, CVPR 2022, and its code.
RSK = {
    ("cub", "resnet50"): (400, 40, 1e-4, (10, 20, 30), 100),
    ("cub", "vit_b16"): (400, 40, 1e-5, (10, 20, 30), 100),
    ("cars", "resnet50"): (392, 170, 1e-4, (80, 140), 98),
    ("cars", "vit_b16"): (392, 50, 1e-5, (20, 30, 40), 98),
    ("sop", "resnet50"): (4000, 55, 2e-4, (25, 50), 200),
    ("sop", "vit_b16"): (4000, 55, 5e-5, (25, 50), 100),
    ("inat", "resnet50"): (4000, 90, 1e-4, (40, 70), 200),
    ("inat", "vit_b16"): (4000, 90, 5e-5, (10, 40, 70), 100),
}
# Smooth-AP, ECCV 2020: batch 384, rate 1e-5 throughout; epochs for iNaturalist alone.
SMOOTHAP_INAT = (90, (40, 70))

# Keys that may differ from recipe to recipe; all others are the same in all sixteen.
OWN = {
    "name", "data.items", "model.backbone", "model.pooling", "model.frozen_norm", "loss.base",
    "train.steps", "train.classes_per_batch", "train.learning_rate", "train.milestones",
    "train.chunk", "train.checkpoint_every", "calibration.unit",
}  # fmt: skip


def recipe(name):
    return load_recipe(FOLDER / f"{name}.toml")


def flat(mapping, above=""):
    found = {}
    for key, value in mapping.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


def published(name):
    """Batch, epochs, rate, milestones and chunk."""
    data, network, loss = name.split("_")[0], "_".join(name.split("_")[1:-1]), name.split("_")[-1]
    if loss == "rsk":
        return RSK[data, network]
    epochs, milestones = SMOOTHAP_INAT if data == "inat" else RSK[data, network][1::2]
    return 384, epochs, 1e-5, milestones, 0


def test_there_is_a_recipe_for_each_of_the_sixteen_comparisons_called_like_its_file():
    assert len(NAMES) == 16
    for name in NAMES:
        assert recipe(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_the_published_epochs(name):
    train = recipe(name).train
    batch, epochs, rate, milestones, chunk = published(name)
    # drop_last: an epoch is a whole number of batches.
    steps = IMAGES[name.split("_")[0]] // batch
    assert train.classes_per_batch * train.items_per_class == batch
    assert train.items_per_class == 4
    assert train.steps == epochs * steps
    assert train.milestones == tuple(epoch * steps for epoch in milestones)
    assert (train.learning_rate, train.chunk, train.checkpoint_every) == (rate, chunk, steps)
    assert chunk == 0 or batch % chunk == 0


@pytest.mark.parametrize(("name", "steps", "milestones"), [
    # 325,846 / 4,000 = 81.5: 90 x 81 = 7,290; 40 x 81 = 3,240; 70 x 81 = 5,670.
    ("inat_resnet50_rsk", 7_290, (3_240, 5_670)),
    # 325,846 / 384 = 848.6: 90 x 848 = 76,320; 40 x 848 = 33,920; 70 x 848 = 59,360.
    ("inat_vit_b16_smoothap", 76_320, (33_920, 59_360)),
    # 8,054 / 392 = 20.5: 50 x 20 = 1,000; 20 x 20 = 400 and so on.
    ("cars_vit_b16_rsk", 1_000, (400, 600, 800)),
])  # fmt: skip
def test_the_arithmetic_by_hand(name, steps, milestones):
    assert recipe(name).train.steps == steps
    assert recipe(name).train.milestones == milestones


def test_what_all_recipes_share_is_as_published():
    keys = flat(recipe(NAMES[0]).resolved())
    shared = {
        "model.weights": "pretrained", "model.head": "layer_norm", "model.dimension": 512,
        "model.image_size": 256, "model.fit": "crop", "model.crop": 224,
        "train.optimizer": "adamw", "train.weight_decay": 4e-4, "train.warmup_steps": 0,
        "train.schedule": "step", "train.step_factor": 0.3, "train.augmentation": 0.0,
        "train.random_crop": True, "train.mirror": True, "train.device": "cuda",
        "train.precision": "bfloat16", "report.baseline": True,
    }  # fmt: skip
    assert {key: keys[key] for key in shared} == shared
    for name in NAMES:
        found = flat(recipe(name).resolved())
        assert {key for key in keys if found[key] != keys[key]} <= OWN
        assert recipe(name).loss.tcm == TcmConfig(positive_margin=0.9, negative_margin=0.5)


def test_recipes_of_one_network_one_loss_and_one_data_set_agree_in_it():
    networks = {
        "resnet50": ("transformers:microsoft/resnet-50", "gem", True),
        "vit_b16": ("transformers:google/vit-base-patch16-224-in21k", "cls", False),
    }
    losses = {"smoothap": "smooth_ap", "rsk": "recall_at_k"}
    folders = {
        "cub": "CUB_200_2011", "cars": "cars196", "sop": "Stanford_Online_Products",
        "inat": "Inaturalist",
    }  # fmt: skip
    # Products and species have customers, birds and cars none (pipeline/data/published.py).
    units = {"cub": "label", "cars": "label", "sop": "customer", "inat": "customer"}
    for data, network, loss in product(SETS, BACKBONES, LOSSES):
        found = recipe(f"{data}_{network}_{loss}")
        model = found.model
        assert (model.backbone, model.pooling, model.frozen_norm) == networks[network]
        assert found.loss == dataclasses.replace(found.loss, base=losses[loss], options={})
        assert Path(found.data.items) == FOLDER / ".." / ".." / "data" / folders[data]
        assert found.calibration.unit == units[data]
