"""Build ``icons.parquet`` from the npm package that holds the drawings of many icon sets.

    npm pack @iconify/json@2.2.535
    # unpack ``iconify-json-2.2.535.tgz`` into the folder ``iconify-json-2.2.535``, then
    python -m jobs.datasets.build_icons FOLDER

One row a drawing, black on white. A class is a concept, whatever the set calls it
(``icon_names.py``): those that 8 or more of the sets below have, without those whose words a set
also has in another order. The 12 sets with most of them are the customers, who only ask; the
next 28 are the gallery, which all of them see. Of several sets by one
hand one is taken. The table has no clock and no randomness in it: the same package and
library versions give the same rows, in 6 minutes.

The committed table: 14,309 images of 965 classes, 12 customers and a gallery of 28 sets, 3.6 MB;
6,315 rows only ask, 7,994 are only asked for. A class has 8 to 40 images, one a set. Real label
noise is left in: sets name different things alike, and alike things differently ("alert",
"warning"); 170 images equal one of another class pixel by pixel. Some sets took drawings over
from another: of the 241 of meteor-icons 51 are nearly lucide's. Licences: ``icons_licences.md``.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.datasets.drawing import build_table, over_white, rendered
from jobs.datasets.icon_names import Concept, plainest, titles, words_of

FOLDER = "iconify-json-2.2.535/package"
LICENCES = frozenset(("MIT", "ISC", "Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0"))
"""SPDX names under which drawings may be changed and passed on without further conditions on
their use: no non-commercial, share-alike or copyleft licence."""

# Families of which at most one set is below, since they share drawings: material-symbols, ic;
# boxicons, bx, bxs; uil, uim, uis, uit; ion, famicons; lucide, feather; fa7-solid, fa6-solid.
CUSTOMERS = (
    "bi", "boxicons", "fa7-solid", "hugeicons", "iconmind", "lucide", "mdi", "mingcute", "ph",
    "reicon", "ri", "tabler",
)  # fmt: skip
GALLERY = (
    "akar-icons", "ant-design", "at-icons", "carbon", "cil", "clarity", "flowbite", "fluent", "gg",
    "glyphs", "gravity-ui", "griddy-icons", "icon-park-outline", "iconoir", "ion", "jam",
    "keyline-icons", "material-symbols", "meteor-icons", "mynaui", "pixelarticons", "proicons",
    "qlementine-icons", "solar", "tdesign", "teenyicons", "uil", "vadivam",
)  # fmt: skip
LEAST_SETS = 8
"""Sets that must have a concept."""
_LEVELS = 16


@dataclass(frozen=True, slots=True)
class IconSet:
    """One set as its file has it."""

    prefix: str
    licence: str
    """SPDX name."""
    content: Mapping[str, Any]
    words: Mapping[str, Concept]
    """Words of each icon that is not withdrawn."""

    def svg(self, name: str) -> str:
        """The drawing in black in the middle of a square."""
        icon = self.content["icons"][name]
        left, top, width, height = (
            float(icon.get(key, self.content.get(key, default)))
            for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        side = max(width, height)
        box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box}" color="black">{icon["body"]}</svg>'
        )


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, build the table and print its path and counts."""
    build_table(
        build, arguments, file=Path(__file__).with_name("icons.parquet"),
        repeated=("label", "customer", "set", "licence", "role"),
    )  # fmt: skip


def build(packages: Path) -> pa.Table:
    """The items table of all sets, by label and set."""
    sets = [read_set(packages / FOLDER, prefix) for prefix in sorted((*CUSTOMERS, *GALLERY))]
    drawn = {one.prefix: plainest(one.words) for one in sets}
    kept = shared({prefix: set(chosen) for prefix, (chosen, _) in drawn.items()})
    kept -= set().union(*(twice for _, twice in drawn.values()))
    names = titles(words for one in sets for words in set(one.words.values()))
    rows = []
    for one in sets:
        chosen = drawn[one.prefix][0]
        asks = one.prefix in CUSTOMERS
        for concept in sorted(kept & set(chosen)):
            rows.append({
                "item_id": f"{one.prefix}/{chosen[concept]}", "label": names[concept],
                "customer": one.prefix if asks else None, "image": draw(one.svg(chosen[concept])),
                "set": one.prefix, "licence": one.licence, "role": "query" if asks else "gallery",
            })  # fmt: skip
        print(f"{one.prefix}: {len(kept & set(chosen))} of {len(one.words)} icons")
    rows.sort(key=lambda row: (row["label"], row["set"]))
    return pa.Table.from_pylist(rows)


def read_set(folder: Path, prefix: str) -> IconSet:
    """One set of the unpacked package; ``ValueError`` where its licence is not a free one."""
    about = json.loads((folder / "collections.json").read_text(encoding="utf-8"))[prefix]
    licence = str(about["license"].get("spdx"))
    if licence not in LICENCES:
        raise ValueError(f"{prefix}: licence {licence}; expected one of {sorted(LICENCES)}")
    content = json.loads((folder / "json" / f"{prefix}.json").read_text(encoding="utf-8"))
    affixes = content.get("prefixes", {}), content.get("suffixes", {})
    words = {
        name: words_of(name, *affixes)
        for name, icon in content["icons"].items() if not icon.get("hidden")
    }
    return IconSet(prefix, licence, content, words)


def shared(concepts: Mapping[str, set[Concept]]) -> set[Concept]:
    """Concepts of ``LEAST_SETS`` sets or more, by whom a customer asks and whom the gallery has."""
    counted = Counter(concept for found in concepts.values() for concept in found)
    asked = set().union(*(found for prefix, found in concepts.items() if prefix in CUSTOMERS))
    stored = set().union(*(found for prefix, found in concepts.items() if prefix in GALLERY))
    return {c for c, sets in counted.items() if sets >= LEAST_SETS} & asked & stored


def draw(svg: str) -> bytes:
    """The drawing as lossless WebP in 16 greys: 264 bytes in the mean, half a grey PNG's."""
    grey = over_white(rendered(svg)).convert("L")
    step = 255 // (_LEVELS - 1)
    coarse = grey.point([(value + step // 2) // step * step for value in range(256)])
    out = io.BytesIO()
    coarse.convert("RGB").save(out, "WEBP", lossless=True, quality=100, method=6)
    return out.getvalue()


if __name__ == "__main__":
    main()
