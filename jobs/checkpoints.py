"""Checkpoints: the state from which an interrupted training goes on.

They lie in the workspace, or below the URL in ``LIMEN_CHECKPOINTS`` (``s3://bucket/checkpoints``,
whatever fsspec knows), where they outlive the machine that wrote them. One is there whole or not
at all: a file is renamed into its place, an object is put in one piece.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import torch
from fsspec.implementations.local import LocalFileSystem

from jobs.workspace import Workspace
from pipeline.durable import write_durably
from pipeline.training.loop import TrainState


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or a place that none can be in; one line."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The place of one training's state; nothing need be there."""

    where: str
    """A path, or a URL of fsspec."""

    def write(self, state: TrainState) -> None:
        """Replace what is there by ``state``, in one step."""
        buffer = io.BytesIO()
        fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        torch.save(fields, buffer)
        filesystem, path = self._opened()
        if isinstance(filesystem, LocalFileSystem):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_durably(Path(path), buffer.getvalue())
        else:
            filesystem.pipe_file(path, buffer.getvalue())

    def read(self, mark: str) -> TrainState | None:
        """The state of the run ``mark``; None where there is none.

        Raises ``CheckpointError`` for what is no state, and for another run's.
        """
        filesystem, path = self._opened()
        filesystem.invalidate_cache()
        try:
            data = bytes(filesystem.cat_file(path))
        except FileNotFoundError:
            return None
        names = {field.name for field in dataclasses.fields(TrainState)}
        fields = _loaded(data)
        if not isinstance(fields, dict) or fields.keys() != names:
            raise CheckpointError(
                f"{self.where}: no checkpoint of this version; delete it to train from the "
                "beginning"
            )
        if fields["fingerprint"] != mark:
            raise CheckpointError(
                f"{self.where}: a checkpoint of another recipe or of other items; delete it to "
                "train from the beginning"
            )
        return TrainState(**fields)

    def remove(self) -> None:
        """Nothing is there any more."""
        filesystem, path = self._opened()
        try:
            filesystem.rm_file(path)
        except FileNotFoundError:
            return

    def _opened(self) -> tuple[Any, str]:
        try:
            filesystem, path = fsspec.url_to_fs(self.where)
        except (ImportError, ValueError) as error:
            raise CheckpointError(
                f"{self.where}: cannot hold checkpoints: {error}; set LIMEN_CHECKPOINTS to a "
                "folder or a URL that fsspec knows"
            ) from None
        return filesystem, path


def _loaded(data: bytes) -> object:
    """What ``torch.save`` wrote as ``data``; None where a byte of it is another."""
    try:
        # torch writes checksums and does not look at them: other weights would pass for these.
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.testzip() is not None:
                return None
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (ArithmeticError, EOFError, OSError, RuntimeError, ValueError, pickle.UnpicklingError,
            zipfile.BadZipFile, zlib.error):  # fmt: skip
        return None


def checkpoint_of(workspace: Workspace, tag: str) -> Checkpoint:
    """Where the training of ``tag`` keeps its state."""
    path = workspace.checkpoint(tag)
    if not workspace.checkpoints:
        return Checkpoint(str(path))
    return Checkpoint(f"{workspace.checkpoints.rstrip('/')}/{workspace.folder.name}/{path.name}")
