"""Tables of decisions on disk, read part by part: they may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline.audit import numbers
from pipeline.audit.cells import AuditError, CellCounter, Cells, Codes, codes_of, require_sets
from pipeline.audit.ensemble import Ensemble

_ROWS = 1 << 19  # of a part


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Where the decisions stand: one row for each thing decided, one column for each set."""

    path: Path
    """A Parquet or Arrow file, or a folder of them; their order is part of what is read."""
    sets: tuple[str, ...]
    """Boolean columns: what each set accepts."""
    by: str | None = None
    """A column that divides every set, customers say; None: the sets are whole."""
    key: tuple[str, ...] = ()
    """Columns that name a row for good, so that its label serves later audits; none: its place."""
    score: str | None = None
    """A column of P(match) before any label, in [0, 1]."""
    ensembles: tuple[Ensemble, ...] = ()
    """Further sets: votes of the sets."""

    @property
    def names(self) -> tuple[str, ...]:
        """All sets, the ensembles last."""
        return (*self.sets, *(one.name for one in self.ensembles))


@dataclass(frozen=True, eq=False)
class Part:
    """Consecutive rows of a table."""

    first: int
    codes: Codes
    """(m,) 0: no set holds the row; else the sets' pattern, the group above it."""
    scores: NDArray[np.float64] | None
    table: pa.Table


class DecisionTable:
    """Decisions opened: their cells, and random numbers of their rows."""

    def __init__(self, decisions: Decisions) -> None:
        """``AuditError`` for a file that is not there or not a table, and for a column that is
        not there or of another type than it needs."""
        self.decisions = decisions
        self._data = _opened(decisions.path)
        _require_columns(self._data.schema, decisions)
        self._groups: list[str] = []
        self._codes: Codes = np.zeros(0, np.int64)

    def parts(self, columns: Sequence[str] = ()) -> Iterator[Part]:
        """The rows in order, with further ``columns`` beside those that decide."""
        told = self.decisions
        named = [*told.sets, *([told.by] if told.by else []), *([told.score] if told.score else [])]
        wanted = list(dict.fromkeys([*named, *columns]))
        first = 0
        for batch in self._data.to_batches(columns=wanted, batch_size=_ROWS, use_threads=True):
            table = pa.Table.from_batches([batch])
            yield self._part(first, table)
            first += batch.num_rows

    def _part(self, first: int, table: pa.Table) -> Part:
        told = self.decisions
        columns = {name: _booleans(table, name, first) for name in told.sets}
        for one in told.ensembles:
            columns[one.name] = one.accepts([columns[name] for name in one.members])
        codes = codes_of(list(columns.values()))
        if told.by is not None:
            held = codes != 0
            codes = np.where(held, codes | (self._group_of(table, first) << len(told.names)), 0)
        scores = None if told.score is None else _scores(table, told.score, first)
        return Part(first, codes, scores, table)

    def _group_of(self, table: pa.Table, first: int) -> Codes:
        """(m,) number of each row's group, in the order in which the groups turn up."""
        column = table.column(self.decisions.by).combine_chunks()
        if column.null_count:
            raise AuditError(f"{self.decisions.path}: column {self.decisions.by!r} is empty in row "
                             f"{first + _first_null(column)}; every row needs its group")
        encoded = column.cast(pa.string()).dictionary_encode()
        for name in encoded.dictionary.to_pylist():
            if name not in self._groups:
                self._groups.append(name)
        places = {name: place for place, name in enumerate(self._groups)}
        here = np.array([places[name] for name in encoded.dictionary.to_pylist()], np.int64)
        return np.asarray(here[encoded.indices.to_numpy()])

    def cells(self) -> Cells:
        """The occupied cells of all sets: one pass over the table.

        ``AuditError`` for a set without rows and for values that cannot be used.
        """
        counter = CellCounter()
        for part in self.parts():
            held = part.codes != 0
            counter.add(part.codes[held], None if part.scores is None else part.scores[held])
        self._codes, rows, scores = counter.counted()
        if not rows.size:
            raise AuditError(f"{self.decisions.path}: no set holds any row; nothing to audit")
        cells = Cells(*self._membership(), rows, scores)
        require_sets(cells)
        return cells

    def _membership(self) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
        told, count = self.decisions, len(self.decisions.names)
        pattern = (self._codes[:, None] >> np.arange(count)) & 1 == 1
        if told.by is None:
            return told.names, pattern
        group = self._codes >> count
        names, columns = [], []
        for place, name in enumerate(self._groups):
            for number, one in enumerate(told.names):
                column = pattern[:, number] & (group == place)
                if column.any():  # a customer for whom a release accepts nothing is no set
                    names.append(f"{one} / {name}")
                    columns.append(column)
        return tuple(names), np.stack(columns, axis=1)

    def cell_of(self, part: Part) -> NDArray[np.int64]:
        """(m,) cell of each row as ``cells`` counted them; -1: no set holds it."""
        place = np.searchsorted(self._codes, part.codes)
        place = np.minimum(place, self._codes.size - 1)
        return np.where(self._codes[place] == part.codes, place, -1)

    def numbers_of(self, part: Part, seed: int) -> NDArray[np.float64]:
        """(m,) permanent random number of each row of a part read with the key's columns."""
        if not self.decisions.key:
            return numbers.of_rows(part.first, part.table.num_rows, seed)
        return numbers.of_texts(keys_of(part.table, self.decisions.key), seed)

    def rows(self, places: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """The rows at ``places``, ascending, with their key first, in the column ``key``."""
        wanted = list(dict.fromkeys([*self.decisions.key, *columns]))
        key = pa.array(places.astype(str))
        if not wanted:
            return pa.table({"key": key})
        found = self._data.take(pa.array(places), columns=wanted)
        if self.decisions.key:
            key = keys_of(found, self.decisions.key)
        shown = [name for name in dict.fromkeys(columns) if name != "key"]
        return found.select(shown).add_column(0, "key", [key])


def keys_of(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """(m,) the texts of the key ``columns`` joined, so that no two keys can be taken for one."""
    texts = [table.column(name).cast(pa.large_string()).combine_chunks() for name in columns]
    if len(texts) == 1:
        return texts[0]
    return pa.compute.binary_join_element_wise(*texts, pa.scalar("\x1f", pa.large_string()))


def _opened(path: Path) -> ds.Dataset:
    if not path.exists():
        raise AuditError(f"{path}: no such file or folder of decisions")
    try:
        arrow = path.suffix in (".arrow", ".feather", ".ipc")
        return ds.dataset(path, format="feather" if arrow else "parquet")
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise AuditError(f"{path}: no Parquet or Arrow table ({reason})") from None


def _require_columns(schema: pa.Schema, told: Decisions) -> None:
    if not told.sets:
        raise AuditError(f"{told.path}: name the boolean columns that are the sets")
    wanted = [*told.sets, *([told.by] if told.by else []), *told.key,
              *([told.score] if told.score else [])]
    for name in wanted:
        if name not in schema.names:
            raise AuditError(f"{told.path}: no column {name!r}; there are: "
                             f"{', '.join(schema.names)}")
    for one in told.ensembles:
        strange = [name for name in one.members if name not in told.sets]
        if strange:
            raise AuditError(f"ensemble {one.name!r}: {strange[0]!r} is none of the sets "
                             f"{', '.join(told.sets)}")
    for name in told.sets:
        kind = schema.field(name).type
        if not pa.types.is_boolean(kind):
            raise AuditError(f"{told.path}: column {name!r}: expected true or false in every row, "
                             f"got {kind}")


def _booleans(table: pa.Table, name: str, first: int) -> NDArray[np.bool_]:
    column = table.column(name).combine_chunks()
    if column.null_count:
        raise AuditError(f"column {name!r} is empty in row {first + _first_null(column)}; every "
                         "row needs the decision of every set")
    return np.asarray(column.to_numpy(zero_copy_only=False), np.bool_)


def _scores(table: pa.Table, name: str, first: int) -> NDArray[np.float64]:
    found = table.column(name).cast(pa.float64()).to_numpy()
    wrong = np.flatnonzero(~((found >= 0) & (found <= 1)))
    if wrong.size:
        raise AuditError(f"column {name!r}: expected P(match) in [0, 1], got "
                         f"{found[wrong[0]]!r} in row {first + int(wrong[0])}")
    return np.asarray(found)


def _first_null(column: pa.Array) -> int:
    return int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
