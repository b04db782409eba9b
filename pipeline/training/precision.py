"""Mixed precision: the network in 16 bits, everything that compares distances in 32.

bfloat16 has the range of float32 and needs nothing else. float16 has not: small gradients would
become 0, so the loss is scaled up before its gradient is taken and the gradient down again, by a
factor that a step with an overflow lowers (such a step moves nothing). Whether float32 products
use TF32 stays as the user has set it.
"""

from __future__ import annotations

import torch

from pipeline.training.state import TrainingError

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

_LEAST_SCALE = 2.0**-14  # under which a gradient of 1 loses digits; 30 overflows in a row from 2^16


def device_of(name: str) -> torch.device:
    """The device ``train.device``; ``TrainingError`` where this machine has none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            "train.device is 'cuda', but torch sees no CUDA device; set it to 'cpu'"
        )
    return torch.device(name)


class Precision:
    """What the network is computed in on one device."""

    def __init__(self, name: str, device: torch.device) -> None:
        """``name``: ``float32``, ``bfloat16`` or ``float16``; a CPU has all three."""
        self._kind, self._dtype = device.type, _TYPES.get(name)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")
        """Changes nothing unless the precision is float16."""

    @property
    def overflowing(self) -> bool:
        """Whether no scale is left at which float16 holds the gradient, so that nothing moves."""
        return self.scaler.is_enabled() and self.scaler.get_scale() < _LEAST_SCALE

    def network(self) -> torch.autocast:
        """The block in which the network is computed; the losses stay outside."""
        return torch.autocast(self._kind, dtype=self._dtype, enabled=self._dtype is not None)
