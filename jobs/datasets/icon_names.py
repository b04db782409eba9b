"""What an icon's name says it draws: the concept, whatever its set calls the style or the order.

Sets append a style ("home-outline"), a size ("home-24") or a running number ("home-01"), spell
things differently ("house") and put words in another order ("circle-plus", "plus-circle"). A
concept is the set of words that is left, as a sorted tuple. Words are not understood: "trash"
and "delete" stay two concepts though many sets draw them alike.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

Concept = tuple[str, ...]

STYLES = frozenset((
    "outline", "outlined", "fill", "filled", "solid", "line", "linear", "bold", "thin", "light",
    "regular", "duotone", "duo", "twotone", "broken", "rounded", "round", "sharp", "baseline",
    "stroke", "01", "16", "20", "24", "28", "32", "48",
))  # fmt: skip
"""Last words of a name that tell a style, a size or the first of several drawings."""

PHRASES = {
    "light-bulb": "lightbulb", "lock-open": "unlock", "magnifying-glass": "search",
    "shopping-cart": "cart", "wi-fi": "wifi",
}  # fmt: skip
"""Two words that mean one."""

WORDS = {
    "account": "user", "add": "plus", "airplane": "plane", "bin": "trash", "checkmark": "check",
    "close": "x", "cog": "settings", "cross": "x", "droplet": "drop", "email": "mail",
    "envelope": "mail", "flame": "fire", "gear": "settings", "house": "home",
    "information": "info", "lightning": "bolt", "microphone": "mic", "movie": "film",
    "off": "slash", "people": "users", "person": "user", "photo": "image", "picture": "image",
    "sunny": "sun", "thumb": "thumbs", "tick": "check", "xmark": "x", "zap": "bolt",
}  # fmt: skip
"""Words that sets use for the same thing."""


def words_of(name: str, prefixes: Iterable[str], suffixes: Iterable[str]) -> Concept:
    """The words of an icon's ``name`` in their order, without its style.

    ``prefixes``, ``suffixes``: the styles that the icon's own set declares.

    >>> words_of("house-plus-outline-rounded", (), ("outline", "outline-rounded"))
    ('home', 'plus')
    """
    for suffix in sorted(filter(None, suffixes), key=len, reverse=True):
        if name.endswith(f"-{suffix}"):
            name = name.removesuffix(f"-{suffix}")
            break
    for prefix in sorted(filter(None, prefixes), key=len, reverse=True):
        if name.startswith(f"{prefix}-"):
            name = name.removeprefix(f"{prefix}-")
            break
    joined = f"-{name}-"
    for phrase, word in PHRASES.items():
        joined = joined.replace(f"-{phrase}-", f"-{word}-")
    words = [word for word in joined.split("-") if word]
    while len(words) > 1 and words[-1] in STYLES:
        words.pop()
    return tuple(WORDS.get(word, word) for word in words)


def plainest(names: Mapping[str, Concept]) -> tuple[dict[Concept, str], set[Concept]]:
    """The plainest icon of each concept of one set, and the concepts that the set draws twice.

    ``names``: words by icon. The plainest name is the shortest, the first of equals. A set draws
    a concept twice where order tells two things apart ("sort-a-z", "sort-z-a").
    """
    orders: dict[Concept, set[Concept]] = defaultdict(set)
    chosen: dict[Concept, str] = {}
    for name in sorted(names, key=lambda name: (len(name), name)):
        concept = tuple(sorted(names[name]))
        orders[concept].add(names[name])
        chosen.setdefault(concept, name)
    return chosen, {concept for concept, found in orders.items() if len(found) > 1}


def titles(spellings: Iterable[Concept]) -> dict[Concept, str]:
    """The name of each concept: its words in the order that most sets have them in."""
    counted = Counter(spellings)
    named: dict[Concept, str] = {}
    for words, _ in sorted(counted.items(), key=lambda entry: (-entry[1], entry[0])):
        named.setdefault(tuple(sorted(words)), "-".join(words))
    return named
