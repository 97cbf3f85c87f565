"""The numbers of a step: whole tensors, and which of their rows and entries are shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from losskit.explanation.language import Messages

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A value for each row, or a vector of them."""

    name: str
    # In the shape of the rows, or with one axis more.
    values: Tensor
    # What that axis counts: "class", "feature", "label" or "state".
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


@dataclass(frozen=True)
class Table:
    """Columns over the same rows. The tensors are whole; `rows` and `entries` say what is shown of them."""

    columns: tuple[Column, ...]
    # "sample", "element", "class"; or several, one for each axis or the last for the axes behind the samples.
    row_name: str = ""
    rows: tuple[tuple[int, ...], ...] = ((),)
    entries: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor of a column."""
        for column in self.columns:
            if column.name == name:
                return column.values
        raise KeyError(name)

    def grid(self, say: Messages) -> Grid:
        labels = [say(f"row.{self.row_name}")] if self.row_name else []
        heading = [*labels]
        for column in self.columns:
            heading += [f"{column.name}[{entry}]" for entry in self._entries(column)] if column.axis else [column.name]
        rows = []
        for index in self.rows:
            label = ", ".join(map(str, index)) or NOTHING
            cells = [Cell(label)] if labels else []
            for column in self.columns:
                for place in [(*index, entry) for entry in self._entries(column)] if column.axis else [index]:
                    cells.append(_cell(column, place, say))
            rows.append(tuple(cells))
        return Grid(tuple(heading), tuple(rows), len(labels))

    def as_dict(self) -> dict[str, Any]:
        """The rows that are shown, with every digit."""
        columns = []
        for column in self.columns:
            entries = list(self._entries(column)) if column.axis else None
            columns.append(
                {
                    "name": column.name,
                    **({"axis": column.axis, "entries": entries} if entries is not None else {}),
                    "values": [
                        [_value(column, (*index, entry)) for entry in entries]
                        if entries is not None
                        else _value(column, index)
                        for index in self.rows
                    ],
                }
            )
        return {"row": self.row_name, "rows": [list(index) for index in self.rows], "columns": columns}

    def _entries(self, column: Column) -> tuple[int, ...]:
        size = column.values.shape[-1]
        return tuple(entry for entry in self.entries.get(column.axis, range(size)) if entry < size)


def _value(column: Column, place: tuple[int, ...]) -> Any:
    given = column.given
    if given is not None and not bool(given[place[: given.ndim]]):
        return None
    return column.values[place].item()


def _cell(column: Column, place: tuple[int, ...], say: Messages) -> Cell:
    value = _value(column, place)
    marked = column.mark is not None and bool(column.mark[place])
    return Cell(NOTHING if value is None else say.shown(value), marked and value is not None)
