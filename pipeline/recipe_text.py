"""A recipe's data as TOML, for recipes that a job writes; the reader is ``pipeline.config``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def recipe_text(mapping: Mapping[str, object]) -> str:
    """TOML that reads back as ``mapping``: strings, numbers, booleans, lists and sections of them.

    Raises ``ValueError`` for any other value.
    """
    return "\n".join(_section((), mapping)).strip("\n") + "\n"


def _section(path: tuple[str, ...], section: Mapping[str, object]) -> list[str]:
    values = {key: value for key, value in section.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in values.items()]
    if path and (lines or not section):
        lines = ["", f"[{'.'.join(map(_key, path))}]", *lines]
    for key, value in section.items():
        if isinstance(value, Mapping):
            lines += _section((*path, key), value)
    return lines


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    raise ValueError(f"{value!r}: no value of a recipe")


def _string(text: str) -> str:
    # JSON's escapes are TOML's, which has one more character that may not stand for itself.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
