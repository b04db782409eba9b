"""Several deciders as one: a vote of k of n members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.cells import AuditError


@dataclass(frozen=True)
class Ensemble:
    """A row is accepted if ``at_least`` of the ``members`` accept it; each counts once."""

    name: str
    members: tuple[str, ...]
    at_least: int

    def __post_init__(self) -> None:
        """``AuditError`` for an ensemble that cannot vote."""
        if not self.members or len(set(self.members)) != len(self.members):
            raise AuditError(f"ensemble {self.name!r}: expected members, each named once")
        if self.name in self.members:
            raise AuditError(f"ensemble {self.name!r} cannot be a member of itself")
        if not 1 <= self.at_least <= len(self.members):
            raise AuditError(f"ensemble {self.name!r}: at_least: expected 1 to "
                             f"{len(self.members)}, got {self.at_least}")

    def accepts(self, columns: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """(m,) its decisions, from those of its members (n of (m,)), in their order."""
        votes = np.zeros(len(columns[0]), np.int64)
        for column in columns:
            votes += column
        return np.asarray(votes >= self.at_least)


def majority(name: str, members: Sequence[str]) -> Ensemble:
    """More than half of the members."""
    return Ensemble(name, tuple(members), len(members) // 2 + 1)
