"""From JSON to the dataclasses of ``types``; fields that they do not know are passed over."""

from __future__ import annotations

from typing import TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from serving.client.errors import UnexpectedAnswerError

Kind = TypeVar("Kind")

_READERS: dict[type[object], TypeAdapter[object]] = {}


def read(kind: type[Kind], content: object) -> Kind:
    """``content`` as ``kind``; ``UnexpectedAnswerError`` names the field that is not as it says."""
    try:
        return cast(Kind, _reader(kind).validate_python(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in ("answer", *first["loc"]))
        raise UnexpectedAnswerError(
            f"{where}: {first['msg'].lower()}; is this a Limen server of this version?"
        ) from None


def _reader(kind: type[object]) -> TypeAdapter[object]:
    """Made once for each kind: that takes as long as a request."""
    if kind not in _READERS:
        _READERS[kind] = TypeAdapter(kind)
    return _READERS[kind]
