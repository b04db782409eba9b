"""The recipe: what to train on, how, and what the threshold has to hold.

A recipe is a TOML file read strictly into frozen dataclasses: an unknown key, a wrong type or
an impossible relation is an error that names the file, the key and the remedy. Paths inside a
recipe are relative to the recipe's own folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.calibration.rules import CalibrationConfig
from pipeline.evaluation.gate import GateConfig
from pipeline.losses.config import LossConfig
from pipeline.models.config import ModelConfig
from pipeline.strict import RecipeError as RecipeError
from pipeline.strict import parse, require
from pipeline.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """``[data]``: the items table and its open-world split by class."""

    items: str
    """Items table: Parquet, CSV, Arrow, or an image folder."""
    calibrate_share: float = 0.25
    """Share of the classes that the threshold is calibrated on."""
    report_share: float = 0.25
    """Share of the classes that the report measures; served beside the calibrated ones."""
    split_seed: int = 0
    """Moves classes between the splits; ignored where the table has a ``split`` column."""
    held_out_column: str = ""
    """Metadata column whose ``held_out_values`` are left out of training, gallery and counts."""
    held_out_values: tuple[str, ...] = ()
    """Values of ``held_out_column`` that are left out."""

    def __post_init__(self) -> None:
        """Check the relations between the fields."""
        require(0 < self.calibrate_share < 1, "calibrate_share", "between 0 and 1")
        require(0 < self.report_share < 1, "report_share", "between 0 and 1")
        require(self.calibrate_share + self.report_share < 1, "calibrate_share + report_share",
                "below 1, so that classes remain to train on")
        require(bool(self.held_out_column) == bool(self.held_out_values), "held_out_column",
                "set together with held_out_values")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """``[index]``: how candidates are proposed."""

    kind: str = "auto"
    """``flat`` (exact), ``ivf``, ``hnsw`` or ``rabitq`` (their match recall is calibrated; the
    last keeps one bit a coordinate in memory), or ``auto``: flat or ivf, by segment size."""
    match_recall: float = 0.999
    """Share of all true matches that an inexact index has to propose."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        kinds = ("auto", "flat", "ivf", "hnsw", "rabitq")
        require(self.kind in kinds, "kind", ", ".join(map(repr, kinds)))
        require(0 < self.match_recall <= 1, "match_recall", "in (0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """``[report]``: what the calibration report compares."""

    baseline: bool = False
    """Train the base loss alone as well, with equal steps, and report both."""
    across: str = ""
    """Metadata column (the vendor, say): R@1 also with query and match of different values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that decides a release, apart from the items themselves."""

    name: str
    """Name of the recipe; the alias that ``limen run`` promotes to."""
    seed: int = 0
    """Seed of the initial weights and the batches."""
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    gate: GateConfig | None = None
    """Limits of ``limen releases promote --gate``; absent: no limit, and no such gate."""

    def __post_init__(self) -> None:
        """Check the relations between the sections."""
        require(self.name.replace("-", "").replace("_", "").isalnum(), "name",
                "letters, digits, '-' and '_'")
        require(0 <= self.seed < 2**63, "seed", "0 or more, below 2**63")

    def resolved(self) -> dict[str, object]:
        """Every key with its value, defaults included, as JSON-ready data.

        The items table and the weights appear by their names alone: a release holds no path of
        the machine that made it.
        """
        table = dataclasses.replace(self.data, items=Path(self.data.items).name)
        model = self.model.portable()
        mapping = dataclasses.asdict(dataclasses.replace(self, data=table, model=model))
        return typing.cast("dict[str, object]", json.loads(json.dumps(mapping)))

    def digest(self) -> str:
        """sha256 of the resolved recipe, hexadecimal."""
        canonical = json.dumps(self.resolved(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; ``data.items`` becomes a path relative to the working folder, and the
    model's own paths absolute ones.

    Raises ``RecipeError`` with one line that names the file and the key.
    """
    try:
        mapping = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = "no such recipe" if isinstance(error, FileNotFoundError) else error.strerror
        raise RecipeError(f"{path}: {why}; expected a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from None
    recipe = parse_recipe(mapping, str(path))
    items = path.parent / recipe.data.items
    table = dataclasses.replace(recipe.data, items=str(items))
    return dataclasses.replace(recipe, data=table, model=recipe.model.located(path.parent))


def parse_recipe(mapping: dict[str, object], where: str) -> Recipe:
    """A recipe from TOML or JSON data; ``where`` names the source in errors."""
    return parse(Recipe, mapping, where)
