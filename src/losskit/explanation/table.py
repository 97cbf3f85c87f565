"""The numbers of a step: whole tensors, and which of their rows and entries are shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from losskit.errors import LosskitValueError
from losskit.explanation.language import Messages

NOTHING = "–"


@dataclass(frozen=True, eq=False)
class Column:
    """A value for each row, or a vector of them."""

    name: str
    # In the shape of the rows, or with one axis more.
    values: Tensor
    # What that axis counts: "class", "column", "feature", "label" or "state".
    axis: str = ""
    # True where an entry is that of the target.
    mark: Tensor | None = None
    # False where a row, or an entry, has no value.
    given: Tensor | None = None


@dataclass(frozen=True)
class Cell:
    """What a table shows at one place."""

    text: str
    marked: bool = False


@dataclass(frozen=True)
class Grid:
    """A table as text, for every renderer: a heading and rows of cells."""

    heading: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    # How many columns at the left tell the row and not a value.
    labels: int


@dataclass(frozen=True, eq=False)
class Table:
    """Columns over the same rows. The tensors are whole; `rows` and `entries` say what is shown of them."""

    columns: tuple[Column, ...]
    # "sample", "element", "class"; or several, one for each axis or the last for the axes behind the samples.
    row_name: str = ""
    rows: tuple[tuple[int, ...], ...] = ((),)
    entries: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor of a column.

        **Raises**: ValueError where there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column.values
        known = ", ".join(column.name for column in self.columns)
        raise LosskitValueError(f"explain: there is no column {name!r} here; the columns are {known}.")

    def grid(self, say: Messages) -> Grid:
        labels = [say(f"row.{self.row_name}")] if self.row_name else []
        heading = [*labels]
        for column in self.columns:
            heading += [f"{column.name}[{entry}]" for entry in self._entries(column)] if column.axis else [column.name]
        rows = []
        for index in self.rows:
            cells = [Cell(", ".join(map(str, index)) or NOTHING)] if labels else []
            for column in self.columns:
                marks = self._at(column.mark, column, index)
                cells += [
                    Cell(NOTHING if value is None else say.shown(value), bool(mark) and value is not None)
                    for value, mark in zip(self._values(column, index), marks, strict=True)
                ]
            rows.append(tuple(cells))
        return Grid(tuple(heading), tuple(rows), len(labels))

    def as_dict(self) -> dict[str, Any]:
        """The rows that are shown, with every digit."""
        columns = []
        for column in self.columns:
            values = [self._values(column, index) for index in self.rows]
            made: dict[str, Any] = {"name": column.name}
            if column.axis:
                made |= {"axis": column.axis, "entries": list(self._entries(column)), "values": values}
            else:
                made["values"] = [value for (value,) in values]
            columns.append(made)
        return {"row": self.row_name, "rows": [list(index) for index in self.rows], "columns": columns}

    def _values(self, column: Column, index: tuple[int, ...]) -> list[Any]:
        """The numbers in a row of a column; None where it has none."""
        given = self._at(column.given, column, index)
        values = self._at(column.values, column, index)
        return [value if there is None or there else None for value, there in zip(values, given, strict=True)]

    def _at(self, tensor: Tensor | None, column: Column, index: tuple[int, ...]) -> list[Any]:
        """What a tensor holds of a row: for each entry that is shown, or the same for all of them."""
        entries = list(self._entries(column)) if column.axis else [0]
        if tensor is None:
            return [None] * len(entries)
        row = tensor[index[: tensor.ndim]]
        return [row.item()] * len(entries) if row.ndim == 0 else row[entries].tolist()

    def _entries(self, column: Column) -> tuple[int, ...]:
        size = column.values.shape[-1]
        return tuple(entry for entry in self.entries.get(column.axis, range(size)) if entry < size)
