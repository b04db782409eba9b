"""Strict mappings: TOML or JSON data into frozen dataclasses, nothing unknown let through."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = typing.TypeVar("T", bound="DataclassInstance")


class RecipeError(ValueError):
    """A recipe that cannot be used; the message is one line for the person who wrote it."""


def first_line(error: BaseException) -> str:
    """What ``error`` says, without what follows the first line."""
    return str(error).strip().partition("\n")[0]


def require(holds: bool, key: str, expected: str) -> None:
    """``RecipeError`` naming ``key`` and what was ``expected``, unless it ``holds``."""
    if not holds:
        raise RecipeError(f"{key}: expected {expected}")


def parse(kind: type[T], mapping: dict[str, object], where: str) -> T:
    """Build the dataclass ``kind`` from ``mapping``, refusing what it does not know.

    ``where`` names the source in errors. Raises ``RecipeError``.
    """
    hints = typing.get_type_hints(kind)
    unknown = [key for key in mapping if key not in hints]
    if unknown:
        raise RecipeError(
            f"{where}: unknown key {unknown[0]!r}; known keys: {', '.join(hints)}"
        )
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in mapping.items()}
    missing = [
        f.name for f in dataclasses.fields(kind)
        if f.name not in values
        and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"{where}: key {missing[0]!r} is missing")
    try:
        return kind(**values)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}" if where not in str(error) else str(error)) from None


def _value(hint: object, value: object, where: str) -> object:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    target = options[0]
    if dataclasses.is_dataclass(target) and isinstance(target, type):
        if value is None and type(None) in options:
            return None
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: expected a section")
        return parse(target, value, where)
    if typing.get_origin(target) is tuple:
        return _tuple(typing.get_args(target), value, where)
    if typing.get_origin(target) is Mapping:
        return _mapping(typing.get_args(target)[1], value, where)
    if target is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(target, type) or type(value) is not target:
        raise RecipeError(f"{where}: expected {getattr(target, '__name__', target)}, got {value!r}")
    return value


def _mapping(kind: object, value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: expected a section")
    return {key: _value(kind, entry, f"{where}: {key}") for key, entry in value.items()}


def _tuple(items: tuple[object, ...], value: object, where: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise RecipeError(f"{where}: expected a list, got {value!r}")
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_value(items[0], entry, where) for entry in value)
    if len(value) != len(items):
        raise RecipeError(f"{where}: expected {len(items)} values, got {len(value)}")
    return tuple(_value(item, entry, where) for item, entry in zip(items, value, strict=True))
