"""Which emoji a file of an emoji package draws: by code point, or by name.

A class is a base entry of ``emoji.json``: its gendered and joined forms are entries of their
own, its skin tones are not. Code points are compared without variation selectors (``fe0f``),
end tags (``e007f``) and leading zeros, on which the packages disagree. Names are the CLDR
short names of ``unicode-emoji-json``, and a short list of names that only Fluent files use.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TONES = {
    "medium-light": "1f3fc",
    "medium-dark": "1f3fe",
    "default": "",
    "light": "1f3fb",
    "medium": "1f3fd",
    "dark": "1f3ff",
}
"""Skin tones by the ending of a Fluent file name; longer endings first."""

FLUENT_NAMES = {
    "blackbird": "1f426-200d-2b1b",
    "hugging-face": "1f917",
    "knocked-out-face": "1f635",
    "man-blonde-hair": "1f471-200d-2642",
    "man-deaf": "1f9cf-200d-2642",
    "man-merpeople": "1f9dc-200d-2642",
    "man-with-bunny-ears": "1f46f-200d-2642",
    "man-wrestling": "1f93c-200d-2642",
    "person-blonde-hair": "1f471",
    "person-deaf": "1f9cf",
    "person-elf": "1f9dd",
    "person-fairy": "1f9da",
    "person-genie": "1f9de",
    "person-mage": "1f9d9",
    "person-merpeople": "1f9dc",
    "person-superhero": "1f9b8",
    "person-supervillain": "1f9b9",
    "person-vampire": "1f9db",
    "person-with-bunny-ears": "1f46f",
    "person-wrestling": "1f93c",
    "person-zombie": "1f9df",
    "phoenix-bird": "1f426-200d-1f525",
    "pouting-face": "1f621",
    "red-triangle": "1f53a",
    "stuffedbread": "1f959",
    "woman-blonde-hair": "1f471-200d-2640",
    "woman-deaf": "1f9cf-200d-2640",
    "woman-merpeople": "1f9dc-200d-2640",
    "woman-with-bunny-ears": "1f46f-200d-2640",
    "woman-wrestling": "1f93c-200d-2640",
}
"""Codes of the Fluent names that are no CLDR short names."""

_SIGNS = {"&": " and ", "#": " hashtag ", "*": " asterisk ", "'": "", "\u2019": ""}


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one image draws."""

    label: str
    """Code points of the base emoji as in ``emoji.json``, lower-case, joined by ``-``."""
    tone: str
    """Skin tones, lower-case, joined by ``-``; empty for the base form."""
    category: str
    """Unicode category."""
    name: str
    """CLDR short name of the base emoji."""


def code_key(code: str) -> str:
    """A code without variation selectors, end tags and leading zeros.

    >>> code_key("0023-FE0F-20E3")
    '23-20e3'
    """
    parts = (part.lower().lstrip("0") for part in re.split("[-_]", code))
    return "-".join(part for part in parts if part not in ("fe0f", "e007f"))


def slug(name: str) -> str:
    """A name as the Fluent files spell it.

    >>> slug("woman\u2019s hat & piñata: #")
    'womans-hat-and-pinata-hashtag'
    """
    for sign, word in _SIGNS.items():
        name = name.replace(sign, word)
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")


def read_catalogue(emoji_json: Path, names_json: Path) -> dict[str, Drawn]:
    """Every emoji and skin tone of ``emoji.json`` but the components, by ``code_key``."""
    cldr = {
        code_key("-".join(f"{ord(letter):x}" for letter in emoji)): str(entry["name"])
        for emoji, entry in json.loads(names_json.read_text(encoding="utf-8")).items()
    }
    catalogue: dict[str, Drawn] = {}
    for entry in json.loads(emoji_json.read_text(encoding="utf-8")):
        if entry["category"] == "Component":
            continue
        label, name = entry["unified"].lower(), cldr[code_key(entry["unified"])]
        catalogue[code_key(label)] = Drawn(label, "", entry["category"], name)
        for tone, variant in entry.get("skin_variations", {}).items():
            drawn = Drawn(label, tone.lower(), entry["category"], name)
            catalogue[code_key(variant["unified"])] = drawn
    return catalogue


def fluent_codes(catalogue: Mapping[str, Drawn]) -> dict[str, str]:
    """``code_key`` by the Fluent file name, without its suffix, of every emoji and single tone."""
    bases = {slug(drawn.name): key for key, drawn in catalogue.items() if not drawn.tone}
    bases |= {name: key for name, key in FLUENT_NAMES.items() if key in catalogue}
    label_key = {drawn.label: key for key, drawn in catalogue.items() if not drawn.tone}
    codes = dict(bases)
    by_tone = {(label_key[drawn.label], drawn.tone): key for key, drawn in catalogue.items()}
    # Two people of one tone are written with the tone twice in the catalogue, once in a name.
    by_tone |= {
        (base, tone.partition("-")[0]): key
        for (base, tone), key in by_tone.items() if len(set(tone.split("-"))) == 1
    }
    for name, base in bases.items():
        for ending, tone in TONES.items():
            if (base, tone) in by_tone:
                codes.setdefault(f"{name}-{ending}", by_tone[base, tone])
    return codes
