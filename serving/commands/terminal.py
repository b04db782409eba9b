"""What others wrote, as a terminal may have it: text, never a command to it."""

from __future__ import annotations

from rich.markup import escape


def plain(text: str) -> str:
    """``text`` without what a terminal or rich's markup would obey, for ``Console.print``."""
    return escape("".join(letter if letter.isprintable() else "?" for letter in text))
