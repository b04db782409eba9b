"""Whether a JSON text says a field of an object twice.

Readers differ in which of the two they take, so a gateway and this server could read two requests
from one body. The parser keeps the last and says nothing; here the names in the text are counted.
"""

from __future__ import annotations

import re
from collections import Counter

# A string, and whether it names a field. Possessive: linear in the text, whatever the text.
_STRING = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"(\s*+:)?')


def doubled_field(content: object, body: bytes) -> str | None:
    """A field that an object of the valid JSON ``body`` has twice; ``content`` is it parsed."""
    names = [found[1] for found in _STRING.finditer(body) if found[2]]
    if len(names) == _fields(content):
        return None
    return Counter(names).most_common(1)[0][0].decode()


def _fields(content: object) -> int:
    """Fields of all objects in ``content``."""
    if isinstance(content, dict):
        return len(content) + sum(_fields(value) for value in content.values())
    if isinstance(content, list):
        return sum(_fields(value) for value in content if isinstance(value, dict | list))
    return 0
