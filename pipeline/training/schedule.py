"""The learning rate of a step: a pure function, so that nothing of it has to be resumed."""

from __future__ import annotations

import math

from pipeline.training.config import TrainConfig


def rate_at(step: int, train: TrainConfig) -> float:
    """Learning rate of ``step`` (from 0), in (0, ``train.learning_rate``].

    Linear warm-up over the first ``warmup_steps``; then as ``schedule`` says: half a cosine
    towards 0 at the end, a factor at each milestone passed (counted from step 0, warm-up
    included), or the peak rate throughout.
    """
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    if train.schedule == "constant":
        return train.learning_rate
    if train.schedule == "step":
        passed = sum(step >= milestone for milestone in train.milestones)
        return train.learning_rate * train.step_factor**passed
    share = (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
    return train.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
