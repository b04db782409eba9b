"""Whether a JSON text says a field of an object twice.

Readers differ in which of the two they take, so a gateway and this server could read two requests
from one body. The parser keeps the last and says nothing; here the names in the text are counted.
Nothing calls itself: a text may be nested deeper than Python's stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

# A string, and whether it names a field. Possessive: linear in the text, whatever the text.
_STRING = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"(\s*+:)?')
_STRING_OR_BRACE = re.compile(_STRING.pattern + rb"|\{|\}")

_PLAIN = frozenset({float, int})
"""A list of nothing else, such as a vector, is passed over at once."""


def doubled_field(content: object, body: bytes) -> str | None:
    """A field that an object of the valid JSON ``body`` has twice; ``content`` is it parsed."""
    names = sum(1 for found in _STRING.finditer(body) if found[2])
    return None if names == _fields(content) else next(_doubled(body), None)


def _fields(content: object) -> int:
    """Fields of all objects in ``content``."""
    fields, waiting = 0, [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            fields += len(one)
            waiting.extend(one.values())
        elif isinstance(one, list) and not _PLAIN.issuperset(map(type, one)):
            waiting.extend(value for value in one if type(value) in (dict, list))
    return fields


def _doubled(body: bytes) -> Iterator[str]:
    """The fields that come again in their object: of the open ones the innermost."""
    open_objects: list[set[str]] = []
    for found in _STRING_OR_BRACE.finditer(body):
        if found[2]:
            name = orjson.loads(b'"%b"' % found[1])
            if name in open_objects[-1]:
                yield name
            open_objects[-1].add(name)
        elif found[0] == b"{":
            open_objects.append(set())
        elif found[0] == b"}":
            open_objects.pop()
