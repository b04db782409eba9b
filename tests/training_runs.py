"""Trainings of the small world, whole or cut short."""

import torch
from torch import nn

from pipeline.models.registry import build_model
from pipeline.training.loop import fit

DROPPING = "tests.training_runs:Dropping"
"""A backbone whose embeddings are random in training, and are not in evaluation."""


class Dropping(nn.Sequential):
    """(b, 3, S, S) to (b, d) through dropout; keeps what it gave in training."""

    def __init__(self, config, _):
        pixels = 3 * config.image_size**2
        super().__init__(nn.Flatten(), nn.Dropout(0.5), nn.Linear(pixels, config.dimension))
        self.seen = []

    def forward(self, x):
        out = super().forward(x)
        if self.training:
            self.seen.append(out.detach().clone())
        return out


OVERFLOWING = "tests.training_runs:Overflowing"
"""A backbone whose gradient is never finite."""


class Overflowing(nn.Sequential):
    """(b, 3, S, S) to (b, d)."""

    def __init__(self, config, _):
        super().__init__(nn.Flatten(), nn.Linear(3 * config.image_size**2, config.dimension))

    def forward(self, x):
        out = super().forward(x)
        if out.requires_grad:
            out.register_hook(lambda gradient: gradient * torch.inf)
        return out


class KilledError(Exception):
    """What ends a training in the middle."""


def fresh(wanted, inputs):
    """The untrained model of a recipe."""
    kind = "image" if len(inputs.shape) == 4 else "vector"
    return build_model(wanted.model, kind=kind, input_dimension=inputs.shape[-1], seed=wanted.seed)


def run(wanted, data, *, resume=None, kill_at=None, **options):
    """Train; the model, the progress of each step, the checkpoints."""
    inputs, labels = data
    model, steps, states = fresh(wanted, inputs), [], []

    def progress(now):
        steps.append(now)
        if now.step == kill_at:
            raise KilledError

    try:
        fit(inputs, labels, recipe=wanted, model=model, resume=resume,
            on_checkpoint=states.append, progress=progress, **options)
    except KilledError:
        assert kill_at is not None
    return model, steps, states


def losses_of(steps):
    return [now.loss for now in steps]


def embedded(model, inputs):
    with torch.no_grad():
        return model(torch.from_numpy(inputs)).numpy()
