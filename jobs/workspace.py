"""The folder in which a run leaves its intermediate results.

One folder for each pair of (recipe, items): its name carries their digest, so that a changed
recipe or table never meets stale results. Every file is written whole and renamed into place; a
job whose output is there has nothing to do, which is all that resuming takes. Two jobs on one
recipe take turns (``alone``).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from pipeline.config import Recipe

ROOT = Path("runs")
"""Where workspaces are kept, below the working folder."""

STORE = "store"
"""Where releases go and come from unless ``--store`` says otherwise."""

ALIAS = "production"
"""The alias that is promoted and served unless another is named."""


CHECKPOINTS = "LIMEN_CHECKPOINTS"
"""Environment variable: URL (or folder) of checkpoints that outlive the machine."""


class WorkspaceError(ValueError):
    """A stage was asked for before the one that it builds on; the message names the remedy."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths of one run; nothing here touches the disk."""

    folder: Path
    checkpoints: str = field(default_factory=lambda: _absolute(os.environ.get(CHECKPOINTS, "")))
    """URL below which trainings keep their state instead of in ``folder``; empty: in there."""

    @property
    def items_path(self) -> Path:
        """The valid rows of the items table with their split, Parquet."""
        return self.folder / "items.parquet"

    @property
    def pixels_path(self) -> Path:
        """(n, size, size, 3) uint8 of the same rows; image tables only."""
        return self.folder / "pixels.npy"

    @property
    def tokens_path(self) -> Path:
        """(n, tokens) int64 of the same rows; text tables only."""
        return self.folder / "tokens.npy"

    @property
    def rejected_path(self) -> Path:
        """Rows set aside under ``--skip-bad-rows``, with their reason."""
        return self.folder / "rejected.parquet"

    @property
    def undecodable_path(self) -> Path:
        """Those of them whose image could not be decoded."""
        return self.folder / "undecodable.parquet"

    @property
    def candidate(self) -> Path:
        """The folder that becomes the release once its manifest is written."""
        return self.folder / "candidate"

    def checkpoint(self, tag: str) -> Path:
        """Training state from which an interrupted training resumes."""
        return self.folder / f"{tag}.checkpoint.pt"

    def model(self, tag: str) -> Path:
        """The trained model, torch."""
        return self.folder / f"{tag}.pt"

    def onnx(self, tag: str) -> Path:
        """The exported model; written only after its parity check passed."""
        return self.folder / f"{tag}.onnx"

    def embeddings(self, tag: str) -> Path:
        """(n, d) float32 of the rows of ``items_path`` that are served or measured."""
        return self.folder / f"{tag}.npy"


def _absolute(url: str) -> str:
    """``url`` for processes in other folders as well."""
    return str(Path(url).absolute()) if url and "://" not in url else url


@contextmanager
def alone(name: str, console: Console) -> Iterator[None]:
    """Hold the runs called ``name``, waiting for another job on them; a killed one holds nothing.

    Waiting costs nothing: what the other job has made is there when this one goes on.
    """
    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT / f".{name}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"Another job on {name} is at work; waiting for it to end.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main_tag(recipe: Recipe) -> str:
    """Name of the model that is served: ``tcm`` where the recipe has the term, else ``base``."""
    return "base" if recipe.loss.tcm is None else "tcm"


def tags(recipe: Recipe) -> tuple[str, ...]:
    """The models that a run trains: the served one, and the base loss alone where asked for."""
    served = main_tag(recipe)
    compared = recipe.report.baseline and served != "base"
    return ("base", served) if compared else (served,)
