"""Items from a file or a folder: Parquet, CSV, Arrow, a folder of images, a published data set.

A bad row ends the reading with one line that names file, row and column; or, on request, is set
aside with the reason. Nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq

from pipeline.data.checks import NAME_COLUMNS, Faults, check_table
from pipeline.data.items import KINDS, Items, ItemsError
from pipeline.data.published import layout_of, read_published
from pipeline.durable import partial_of, sync

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")

_WHY = ("rejected_row", "rejected_column", "reason")
_STRING_COLUMNS = (*NAME_COLUMNS, *KINDS)


def read_items(path: Path, *, rejected: Path | None = None) -> Items:
    """The items of a table, of a folder of images or of a published data set.

    The images of a data set stay on disk until they are decoded; all others are read. Raises
    ``ItemsError`` for the first bad row. With ``rejected`` bad rows go to that Parquet file
    instead, with a ``reason``; a table that cannot be read at all still raises.
    """
    try:
        table, folder = read_table(path)
        published = path.is_dir() and layout_of(path) is not None
        items, faults = check_table(table, folder, on_disk=published)
    except ItemsError as error:
        raise ItemsError(f"{path}: {error}") from None
    if not faults:
        return items
    if rejected is None:
        row = min(faults)
        raise ItemsError(fault_line(str(path), items, row, *faults[row]))
    set_aside(rejected, table, faults)
    good = np.setdiff1d(np.arange(len(items)), np.fromiter(faults, np.int64))
    if good.size == 0:
        row = min(faults)
        raise ItemsError(
            f"{path}: all {len(items)} rows are bad, see {rejected}; the first is "
            + fault_line(str(path), items, row, *faults[row])
        )
    return items.take(good)


def fault_line(source: str, items: Items, row: int, column: str, reason: str) -> str:
    """One line for a person: where the fault is, what it is, what is expected."""
    return f"{source}: row {row} (item {items.item_id[row]!r}), column {column!r}: {reason}"


def set_aside(rejected: Path, table: pa.Table, faults: Faults, *, numbered: bool = True) -> None:
    """Add the faulty rows of ``table`` to ``rejected``, with the columns of ``_WHY``.

    The row number is null unless ``numbered``: for a table whose rows are not those of the
    source. Columns of an earlier rejection, in a table read again, are replaced.
    """
    rows = sorted(faults)
    bad = table.take(pa.array(rows, pa.int64()))
    bad = bad.drop_columns([name for name in bad.column_names if name in _WHY])
    # Rows of the table as it came and rows of checked items have to fit into one file.
    for place, name in enumerate(bad.column_names):
        if pa.types.is_dictionary(bad[name].type):
            bad = bad.set_column(place, name, bad[name].cast(bad[name].type.value_type))
        if name in NAME_COLUMNS:
            bad = bad.set_column(place, name, bad[name].cast(pa.string()))
    columns, reasons = zip(*(faults[row] for row in rows), strict=True)
    numbers = pa.array(rows if numbered else [None] * len(rows), pa.int64())
    for name, values in zip(_WHY, (numbers, pa.array(columns), pa.array(reasons)), strict=True):
        bad = bad.append_column(name, values)
    earlier = [pq.read_table(rejected)] if rejected.exists() else []
    _write_rejected([*earlier, bad], rejected)


def join_rejected(paths: Sequence[Path], rejected: Path) -> None:
    """Write the rows of all files in ``paths``, each made by ``set_aside``, to ``rejected``."""
    _write_rejected([pq.read_table(path) for path in paths], rejected)


def _write_rejected(tables: list[pa.Table], rejected: Path) -> None:
    partial = partial_of(rejected)
    pq.write_table(pa.concat_tables(tables, promote_options="permissive"), partial)
    sync(partial)
    partial.replace(rejected)


def read_table(path: Path, needed: Sequence[str] = ()) -> tuple[pa.Table, Path]:
    """The raw table, and the folder that its image paths are relative to; at least one row.

    ``needed``: columns that suffice, where the format can leave out the others. Raises
    ``ItemsError``, without the file's name, for what is no table.
    """
    table, folder = _read(path, needed)
    if table.num_rows == 0:
        raise ItemsError("no items; expected at least one row")
    return table, folder


def _read(path: Path, needed: Sequence[str]) -> tuple[pa.Table, Path]:
    if path.is_dir():
        layout = layout_of(path)
        return _read_folder(path) if layout is None else read_published(path, layout), path
    formats: dict[str, Callable[[Path], pa.Table]] = {
        ".parquet": lambda path: _read_parquet(path, needed),
        ".csv": _read_csv,
        ".arrow": pyarrow.feather.read_table,
        ".feather": pyarrow.feather.read_table,
    }
    if not path.exists():
        raise ItemsError("no such file; expected an items table or a folder of images")
    if path.suffix.lower() not in formats:
        raise ItemsError(f"unknown format; expected {', '.join(formats)} or a folder of images")
    try:
        return formats[path.suffix.lower()](path), path.parent
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise ItemsError(f"not a readable {path.suffix.lower()[1:]} file: {first}") from None


def _read_parquet(path: Path, needed: Sequence[str]) -> pa.Table:
    names = pq.read_schema(path).names
    enough = [name for name in names if name in needed]
    # Without partitioning: a folder called a=b above the file adds no column.
    return pq.read_table(path, columns=enough if "label" in enough else None, partitioning=None)


def _read_csv(path: Path) -> pa.Table:
    """A CSV table; an empty field is null, every other text is itself."""
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            # Read as numbers, the ids 007 and 7 would be one.
            column_types=dict.fromkeys(_STRING_COLUMNS, pa.string()),
            null_values=[""], strings_can_be_null=True,
        ),
    )


def _read_folder(folder: Path) -> pa.Table:
    """``label/file`` (shared by all customers) or ``customer/label/file``; the id is the path.

    Files right in the folder have no label. Names that begin with a dot are not read.
    """
    rows: list[dict[str, str | None]] = []
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.is_dir() or any(part.startswith(".") for part in parts):
            continue
        name = "/".join(parts)
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ItemsError(f"{name!a}: the name is not UTF-8; rename it")
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            raise ItemsError(f"{name}: expected only images ({', '.join(IMAGE_SUFFIXES)})")
        if len(parts) > 3:
            raise ItemsError(f"{name}: expected label/file or customer/label/file")
        rows.append({
            "item_id": name, "image": name,
            "label": parts[-2] if len(parts) > 1 else None,
            "customer": parts[0] if len(parts) == 3 else None,
        })
    names = ("item_id", "label", "customer", "image")
    return pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in names})
