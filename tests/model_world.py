"""Small networks of every family of the library transformers, as folders beside a recipe."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch

from pipeline.models.config import ModelConfig

SIDE = 24
FAMILIES = ("resnet", "vit", "dinov2", "clip")

_FOLDER = tempfile.TemporaryDirectory()


def description(family):
    """The library's configuration of a small network; CLIP's has a tower for texts as well."""
    import transformers

    tiny = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
            "intermediate_size": 32}  # fmt: skip
    vision = {**tiny, "image_size": SIDE, "patch_size": 8}
    if family == "resnet":
        return transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 2, 1], num_labels=3
        )
    if family == "vit":
        return transformers.ViTConfig(**vision, pooler_output_size=16)
    if family == "dinov2":
        return transformers.Dinov2Config(**vision)
    return transformers.CLIPConfig(
        text_config={**tiny, "vocab_size": 30}, vision_config=vision, projection_dim=8
    )


@functools.cache
def saved(family):
    """(folder, its network as the library has it) with drawn weights; once a session."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = transformers.AutoModel.from_config(description(family)).eval()
        # Statistics that a normalisation would show: drawn networks start with 0 and 1.
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(0.5 + torch.rand_like(buffer))
    folder = Path(_FOLDER.name) / family
    network.save_pretrained(folder)
    return folder, network.vision_model if family == "clip" else network


def config(family, **options):
    """A recipe's model section on the small network of ``family``."""
    return ModelConfig(**{
        "backbone": f"transformers:{saved(family)[0]}", "dimension": 8, "image_size": SIDE,
        **options,
    })  # fmt: skip


def pixels(items=6, side=SIDE, seed=0):
    """(items, side, side, 3) uint8 noise."""
    drawn = np.random.default_rng(seed).integers(0, 256, (items, side, side, 3), dtype=np.uint8)
    return torch.from_numpy(drawn)
