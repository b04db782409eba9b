"""Build ``emoji.parquet`` from the npm packages that hold the drawings.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 \\
        @lobehub/fluent-emoji-flat@1.1.0 @lobehub/fluent-emoji-3d@1.1.0 \\
        fluentui-emoji@1.3.0 unicode-emoji-json@0.9.0
    # unpack each ``<name>-<version>.tgz`` into the folder ``<name>-<version>``, then
    python -m jobs.datasets.build_emoji FOLDER

One row an image. A class is an emoji, whoever drew it; its customer is its Unicode category.
Drawings of no known emoji are left out and counted, and so are drawings in the two
``@lobehub`` packages of emoji that Microsoft did not publish under its licence (country flags,
families, couples and a few more). The table has no clock and no randomness in it: the same
packages and library versions give the same rows.

The committed table: 18,324 images of 1,906 classes and 9 customers, 11.0 MB; noto 3,781,
twemoji 3,781, fluent-flat 3,011, fluent-3d 3,011, fluent-modern 3,145, fluent-high-contrast
1,595. 4,949 rows only ask. 299 classes, most of them flags, have two images. 114 images equal
one of another class pixel by pixel (flags of dependent territories, family silhouettes): real
label noise, left in. Licences: ``emoji_licences.md``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from jobs.datasets.drawing import build_table, over_white, rendered
from jobs.datasets.emoji_names import Drawn, code_key, fluent_codes, read_catalogue

QUALITY = 80
HELD_OUT_STYLE = "fluent-high-contrast"


@dataclass(frozen=True, slots=True)
class Style:
    """One set of drawings."""

    name: str
    vendor: str
    folder: str
    """Folder of the images below the folder with the unpacked packages."""
    by_name: bool = False
    """Files are called by the emoji's name, else by its code points."""
    mixed: bool = False
    """Holds drawings from elsewhere too: only those of emoji in ``_published`` are taken."""


FLAT = Style("fluent-flat", "microsoft", "lobehub-fluent-emoji-flat-1.1.0/package/assets",
             mixed=True)
MODERN = Style("fluent-modern", "microsoft", "fluentui-emoji-1.3.0/package/icons/modern",
               by_name=True)
STYLES = (
    Style("noto", "google", "emoji-datasource-google-16.0.0/package/img/google/64"),
    Style("twemoji", "twitter", "emoji-datasource-twitter-16.0.0/package/img/twitter/64"),
    FLAT,
    Style("fluent-3d", "microsoft", "lobehub-fluent-emoji-3d-1.1.0/package/assets", mixed=True),
    MODERN,
    Style(HELD_OUT_STYLE, "microsoft", "fluentui-emoji-1.3.0/package/icons/high-contrast",
          by_name=True),
)
EMOJI_JSON = "emoji-datasource-google-16.0.0/package/emoji.json"
NAMES_JSON = "unicode-emoji-json-0.9.0/package/data-by-emoji.json"


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, build the table and print its path and counts."""
    build_table(
        build, arguments, file=Path(__file__).with_name("emoji.parquet"),
        repeated=("label", "customer", "name", "vendor", "style", "tone", "role"),
    )  # fmt: skip


def build(packages: Path) -> pa.Table:
    """The items table of all styles, by label, style and tone."""
    catalogue = read_catalogue(packages / EMOJI_JSON, packages / NAMES_JSON)
    rows = [row for style in STYLES for row in _rows(packages, style, catalogue)]
    rows.sort(key=lambda row: (row["label"], row["style"], row["tone"]))
    queries = _query_ids(rows)
    for row in rows:
        row["role"] = "query" if row["item_id"] in queries else "both"
    return pa.Table.from_pylist(rows)


def draw(path: Path) -> bytes:
    """The image as WebP, 48 x 48 pixels, over white."""
    vector = path.suffix == ".svg"
    data = rendered(path.read_text(encoding="utf-8")) if vector else path.read_bytes()
    out = io.BytesIO()
    over_white(data).save(out, "WEBP", quality=QUALITY, method=6)
    return out.getvalue()


def _drawings(
    packages: Path, style: Style, catalogue: Mapping[str, Drawn]
) -> dict[str, Path]:
    """The image files of one style by ``code_key``; those of no known emoji are left out."""
    names = fluent_codes(catalogue) if style.by_name else {}
    drawings: dict[str, Path] = {}
    for path in sorted((packages / style.folder).iterdir()):
        key = names.get(path.stem, "") if style.by_name else code_key(path.stem)
        if path.suffix in (".png", ".svg", ".webp") and key in catalogue:
            drawings.setdefault(key, path)
    return drawings


def _published(packages: Path, catalogue: Mapping[str, Drawn]) -> set[str]:
    """Emoji that both packagers took from Microsoft's own set, by ``code_key``."""
    return set(_drawings(packages, FLAT, catalogue)) & set(_drawings(packages, MODERN, catalogue))


def _rows(
    packages: Path, style: Style, catalogue: Mapping[str, Drawn]
) -> Iterator[dict[str, str | bytes]]:
    """Rows of one style, each emoji and tone once."""
    drawings = _drawings(packages, style, catalogue)
    if style.mixed:
        published = _published(packages, catalogue)
        drawings = {key: path for key, path in drawings.items() if key in published}
    files = sum(path.is_file() for path in (packages / style.folder).iterdir())
    print(f"{style.name}: {len(drawings)} images, {files - len(drawings)} files left out")
    for key, path in drawings.items():
        drawn = catalogue[key]
        code = "-".join(filter(None, (drawn.label, drawn.tone and f"tone-{drawn.tone}")))
        yield {
            "item_id": f"{style.name}/{code}", "label": drawn.label, "customer": drawn.category,
            "image": draw(path), "name": drawn.name, "vendor": style.vendor,
            "style": style.name, "tone": drawn.tone,
        }


def _query_ids(rows: list[dict[str, str | bytes]]) -> set[str | bytes]:
    """Items that only ask: the held-out style, and 1 in 5 of all other images.

    A simple random sample by a hash of the item id, so that those that only ask are like those
    that are asked for; but one item of each class stays in the gallery.
    """
    chosen: set[str | bytes] = set()
    members: dict[str | bytes, list[bytes]] = {}
    for row in rows:
        if row["style"] == HELD_OUT_STYLE:
            chosen.add(row["item_id"])
            continue
        digest = hashlib.sha256(str(row["item_id"]).encode()).digest()
        members.setdefault(row["label"], []).append(digest)
        if _asks(digest):
            chosen.add(row["item_id"])
    alone = {min(found) for found in members.values() if all(map(_asks, found))}
    kept = {i for i in chosen if hashlib.sha256(str(i).encode()).digest() in alone}
    return chosen - kept


def _asks(digest: bytes) -> bool:
    return int.from_bytes(digest[:8], "big") % 5 == 0


if __name__ == "__main__":
    main()
