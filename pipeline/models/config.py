"""``[model]`` of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.strict import require


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """``[model]``: the network from an item to its embedding."""

    backbone: str = "cnn"
    """``cnn`` (small images), ``mlp`` (vectors), ``efficientnet_lite0``, ``transformers:NAME``
    (a folder, relative to the recipe, begins with ``./``, ``../`` or ``/``), ``timm:NAME``, or
    ``module:callable``, a user's own: such a recipe runs the user's code."""
    weights: str = ""
    """Empty: drawn at random; ``pretrained``: those that the backbone's library or package
    brings; else a local file of weights, relative to the recipe."""
    dimension: int = 128
    """Coordinates of an embedding."""
    image_size: int = 48
    """Side of the square that images are decoded to, in pixels."""
    fit: str = "pad"
    """``pad``: the whole image, the rest of the square white; ``crop``: its central square."""
    crop: int = 0
    """Side of the central part of the square that the network sees, in pixels; 0: all of it."""
    width: int = 32
    """Channels (cnn) or hidden units (mlp) of the first stage; other backbones have their own."""
    tokens: int = 64
    """Most tokens of a text; the rest is cut off."""
    pooling: str = ""
    """``mean``, ``cls`` or ``gem`` (generalised mean, its exponent learned); empty: as the
    backbone does it."""
    head: str = "linear"
    """From pooled features to the embedding: ``linear``, or ``layer_norm`` before it."""
    frozen_norm: bool = False
    """Batch normalisation keeps the statistics and scales of ``weights``."""
    trained_stages: int = -1
    """Last stages of the backbone that are trained, 0: the head alone; -1: everything."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.dimension >= 2, "dimension", "at least 2")
        require(self.image_size >= 8, "image_size", "at least 8 pixels")
        require(self.fit in ("pad", "crop"), "fit", "'pad' or 'crop'")
        require(self.crop == 0 or 8 <= self.crop <= self.image_size, "crop",
                "0, or between 8 and image_size")
        require(self.width >= 4, "width", "at least 4")
        require(self.tokens >= 2, "tokens", "at least 2")
        require(self.pooling in ("", "mean", "cls", "gem"), "pooling", "'mean', 'cls' or 'gem'")
        require(self.head in ("linear", "layer_norm"), "head", "'linear' or 'layer_norm'")
        require(self.trained_stages >= -1, "trained_stages", "-1 (all) or more")

    @property
    def folder(self) -> Path | None:
        """The folder that ``backbone`` names; None where it names no folder."""
        library, _, name = self.backbone.partition(":")
        return Path(name) if library == "transformers" and name.startswith((".", "/")) else None

    @property
    def weights_file(self) -> Path | None:
        """The file that ``weights`` names; None for random and ``pretrained`` ones."""
        return None if self.weights in ("", "pretrained") else Path(self.weights)

    @property
    def module(self) -> str | None:
        """The module of a user's own network; None for the others."""
        library, colon, _ = self.backbone.partition(":")
        return library if colon and library not in ("transformers", "timm") else None

    @property
    def side(self) -> int:
        """Side of the square that the network sees, in pixels."""
        return self.crop or self.image_size

    def located(self, base: Path) -> ModelConfig:
        """The same with its local paths, which are relative to ``base``, made absolute."""
        return self._with_paths(lambda path: str((base / path).resolve()))

    def portable(self) -> ModelConfig:
        """The same with local paths cut down to their names: for what leaves this machine."""
        return self._with_paths(lambda path: path.name, mark="./")

    def _with_paths(self, change: Callable[[Path], str], mark: str = "") -> ModelConfig:
        backbone, weights = self.backbone, self.weights
        if self.folder is not None:
            backbone = f"transformers:{mark}{change(self.folder)}"
        if self.weights_file is not None:
            weights = change(self.weights_file)
        return replace(self, backbone=backbone, weights=weights)
