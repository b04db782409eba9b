"""From a raw table to items: what a row has to be on its own and beside the others.

Rows are numbered from 0, as in a data frame. A row keeps its first fault. A bad row is no
witness against a good one: of two equal ids the second is at fault only if the first is good.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.contents import Reasons, read_images, read_texts, read_vectors
from pipeline.data.items import (
    CLASS_SPLITS,
    KINDS,
    RESERVED_CUSTOMERS,
    ROLES,
    SPLITS,
    Items,
    ItemsError,
    Strings,
    missing,
    strings_of,
)

Faults = dict[int, tuple[str, str]]
"""Column and reason of each bad row."""

_REQUIRED = ("item_id", "label", "customer")
_OPTIONAL = ("role", "split")
NAME_COLUMNS = (*_REQUIRED, *_OPTIONAL)
"""Columns of names: strings, or whole numbers that are read as such."""


def check_table(table: pa.Table, folder: Path, *, on_disk: bool) -> tuple[Items, Faults]:
    """The items of a raw ``table``, bad rows included, and what is wrong with those.

    Image paths are relative to ``folder``; ``on_disk`` leaves the files unread. Raises
    ``ItemsError``, without the file's name, where a whole column is missing or of the wrong type.
    """
    kind = _check_columns(table.column_names)
    names = {name: _names(table, name) for name in NAME_COLUMNS}
    content: Strings | NDArray[np.float32]
    if kind == "image":
        content, reasons = read_images(table[kind], folder, on_disk=on_disk)
    else:
        content, reasons = (read_texts if kind == "text" else read_vectors)(table[kind])
    faults = _faults(names, {row: (kind, reason) for row, reason in reasons.items()})
    metadata = table.drop_columns(
        [name for name in table.column_names if name in names or name == kind]
    )
    return Items(**names, kind=kind, content=content, metadata=metadata), faults


def check_names(table: pa.Table) -> tuple[dict[str, Strings], Faults]:
    """The columns of names of a ``table`` that needs no content, and what is wrong with rows.

    Only ``label`` has to be there: without ``item_id`` the row's number is the id, without
    ``customer`` all items are shared. Raises ``ItemsError``, without the file's name.
    """
    _require_once(table.column_names)
    if "label" not in table.column_names:
        raise ItemsError(
            f"column 'label' is missing; expected the name of each item's class (null: not "
            f"counted), found {', '.join(table.column_names) or 'no columns'}"
        )
    names = {name: _names(table, name) for name in NAME_COLUMNS}
    if "item_id" not in table.column_names:
        width = len(str(table.num_rows))
        names["item_id"][:] = [f"{row:0{width}d}" for row in range(table.num_rows)]
    return names, _faults(names, {})


def _faults(names: dict[str, Strings], others: Faults) -> Faults:
    """What is wrong with each row; ``others`` come after a row's own names. Fills in defaults."""
    faults = others | _own_faults(names)
    for column, find in (("item_id", _repeated_ids), ("split", _split_classes)):
        for row, reason in find(names, faults).items():
            faults.setdefault(row, (column, reason))
    names["role"][missing(names["role"])] = "both"
    names["split"][missing(names["split"])] = ""
    return faults


def _require_once(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ItemsError(f"column {name!r} stands {names.count(name)} times; expected once")


def _check_columns(names: list[str]) -> str:
    """The kind of the content; ``ItemsError`` where a column is missing or stands twice."""
    _require_once(names)
    kinds = [kind for kind in KINDS if kind in names]
    missing = next((name for name in _REQUIRED if name not in names), None)
    if missing is not None:
        raise ItemsError(
            f"column {missing!r} is missing; expected {', '.join(_REQUIRED)} (values may be null "
            f"in label: not trained on, and in customer: shared by all), found {', '.join(names)}"
        )
    if len(kinds) != 1:
        raise ItemsError(
            f"{' and '.join(kinds) if kinds else 'no'} content columns; expected exactly one of "
            f"{', '.join(KINDS)}"
        )
    return kinds[0]


def _names(table: pa.Table, name: str) -> Strings:
    """(n,) str or None of a column of strings or whole numbers; all None where there is none."""
    if name not in table.column_names:
        return np.full(table.num_rows, None, np.object_)
    column = table[name]
    value = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    readable = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_null)
    if not any(kind(value) for kind in readable):
        raise ItemsError(f"column {name!r}: expected strings, got {column.type}")
    return strings_of(column.cast(value).cast(pa.string()))


def _own_faults(names: Mapping[str, Strings]) -> Faults:
    """Rows that are wrong whatever the others hold."""
    faults: Faults = {}
    has_splits = any(split is not None for split in names["split"])
    for row in range(len(names["item_id"])):
        item_id, label, customer, role, split = (names[n][row] for n in NAME_COLUMNS)
        if not item_id:
            faults[row] = ("item_id", "no id; expected a name, unique for its customer")
        elif label == "":
            faults[row] = ("label", "empty; expected the name of the class, or null")
        elif customer == "":
            faults[row] = ("customer", "empty; expected a name, or null: shared by all customers")
        elif customer in RESERVED_CUSTOMERS:
            faults[row] = ("customer", f"{customer!r} means something else; expected another name")
        elif role is not None and role not in ROLES:
            faults[row] = ("role", f"{role!r}; expected {', '.join(ROLES)}")
        elif split is not None and split not in SPLITS:
            faults[row] = ("split", f"{split!r}; expected {', '.join(SPLITS)}")
        elif has_splits and label is not None and split in (None, "unlabelled"):
            faults[row] = (
                "split", "no split; expected one in every row with a label, or no split column"
            )
    return faults


def _repeated_ids(names: Mapping[str, Strings], faults: Faults) -> Reasons:
    """Good rows whose id their customer already sees in another row."""
    first: dict[tuple[str | None, str], int] = {}
    reasons = Reasons()
    good = [row for row in range(len(names["item_id"])) if row not in faults]
    for row in good:
        key = (names["customer"][row], names["item_id"][row])
        if first.setdefault(key, row) != row:
            whose = "shared items" if key[0] is None else f"customer {key[0]!r}"
            reasons[row] = (
                f"{key[1]!r} is already in row {first[key]}; expected once for {whose}"
            )
    for (customer, item_id), row in first.items():
        if customer is not None and (None, item_id) in first:
            reasons[row] = (
                f"{item_id!r} of customer {customer!r} is also a shared item, row "
                f"{first[None, item_id]}; expected another id, since {customer!r} sees both"
            )
    return reasons


def _split_classes(names: Mapping[str, Strings], faults: Faults) -> Reasons:
    """Good rows whose class already lies in another split."""
    first: dict[str, int] = {}
    reasons = Reasons()
    for row, (label, split) in enumerate(zip(names["label"], names["split"], strict=True)):
        if row in faults or label is None or split not in CLASS_SPLITS:
            continue
        other = names["split"][first.setdefault(label, row)]
        if other != split:
            reasons[row] = (
                f"class {label!r} is in {split!r} here and in {other!r} in row {first[label]}; "
                "expected each class in one split"
            )
    return reasons
