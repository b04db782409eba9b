"""The weights' exponential moving average: a steadier network than any single step's.

The decay starts small and rises to its final value as ``(1 + n) / (10 + n)`` over the first
steps n: otherwise a short training would average its random beginning in. What is not trained
(frozen weights, statistics of norms) is taken as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The averaged weights of ``model``; without any where ``decay`` is 0."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start at the weights of ``model``, on its device."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._decay = decay
        self._trained = trained if decay else {}
        self._weights = {name: p.detach().clone() for name, p in self._trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after ``step`` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, weight in self._weights.items():
            weight.lerp_(self._trained[name], 1.0 - decay)

    @torch.no_grad()
    def become(self) -> None:
        """Put the average in the place of the weights, for good."""
        for name, weight in self._weights.items():
            self._trained[name].copy_(weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the place of the weights; afterwards they are back, bit by bit."""
        kept = {name: self._trained[name].detach().clone() for name in self._weights}
        self.become()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in kept.items():
                    self._trained[name].copy_(weight)

    def state(self) -> Mapping[str, Tensor]:
        """The averaged weights by name."""
        return self._weights

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state``."""
        for name, weight in self._weights.items():
            weight.copy_(state[name])
