"""Which rows and which entries of a row are shown where there are too many."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from losskit.explanation.table import Column, Table
from losskit.explanation.worksheet import OF_ALL, Worksheet

Place = tuple[int, ...]


@dataclass(frozen=True)
class Chosen:
    """The rows of the losses, and the entries of every kind of axis."""

    rows: tuple[Place, ...]
    entries: dict[str, tuple[int, ...]]
    # Sentences about what is left out.
    notes: tuple[str, ...]
    limit: int

    def table(self, columns: Sequence[Column], sheet: Worksheet, row_name: str) -> Table:
        """These columns, and what is shown of them."""
        shape = _row_shape(columns[0])
        if row_name == OF_ALL:
            return Table(tuple(columns))
        if shape == sheet.shape:
            rows: tuple[Place, ...] = self.rows
        elif shape[: len(sheet.shape)] == sheet.shape:
            each = max(3, 3 * self.limit // max(len(self.rows), 1))
            rows = tuple(
                (*row, *place) for row in self.rows for place in _ends(_given_places(columns, row, shape), each)
            )
        else:
            rows = tuple(itertools.islice(itertools.product(*map(range, shape)), self.limit))
        return Table(tuple(columns), row_name or sheet.row_name, rows, self.entries)


def choose(sheet: Worksheet, contributions: Tensor, rows: int, entries: int) -> Chosen:
    """The first, worst and best rows; of many classes those of the targets and those with the largest scores."""
    notes = []
    flat, total = _rows(contributions, sheet.counting(), rows)
    places = tuple(tuple(int(i) for i in place) for place in _unravel(flat, sheet.shape))
    if len(flat) < total:
        notes.append(
            sheet.say(
                "note.rows",
                shown=len(flat),
                total=total,
                rows=sheet.say(f"row.{sheet.row_name}s"),
                each=rows // 3,
            )
        )
    chosen = {}
    sizes: dict[str, int] = {}
    for column in [column for draft in sheet.drafts for column in draft.columns if column.axis]:
        sizes[column.axis] = max(sizes.get(column.axis, 0), column.values.shape[-1])
    for axis, size in sizes.items():
        found = _entries(sheet, axis, size, places, entries) if size > entries else range(size)
        if len(found) < size:
            chosen[axis] = tuple(found)
            notes.append(sheet.say(f"note.{axis}", shown=len(found), total=size))
    return Chosen(places, chosen, tuple(notes), rows)


def _rows(contributions: Tensor, counted: Tensor, limit: int) -> tuple[list[int], int]:
    """Places in the flat losses, and how many there are."""
    losses, total = contributions.flatten(), contributions.numel()
    if total <= limit:
        return list(range(total)), total
    each = limit // 3
    # What does not count is neither worst nor best. A NaN comes last in the order, and is worse than anything.
    inside = counted.flatten().nonzero().flatten()
    order = inside[losses[inside].argsort(stable=True)]
    found = {*range(each), *order[:each].tolist(), *order[-each:].tolist()}
    return sorted(found), total


def _unravel(flat: Sequence[int], shape: torch.Size) -> list[Place]:
    return [tuple(int(i) for i in torch.unravel_index(torch.tensor(place), shape)) if shape else () for place in flat]


def _entries(sheet: Worksheet, axis: str, size: int, rows: Sequence[Place], limit: int) -> tuple[int, ...]:
    if axis not in sheet.importance:
        return tuple(range(limit))
    scores = _of_rows(sheet.importance[axis], rows)
    wanted = _of_rows(sheet.targets[axis], rows).any(0).nonzero().flatten().tolist()[: 2 * limit]
    best = scores.amax(0).argsort(descending=True, stable=True).tolist() if len(scores) else list(range(size))
    found = set(wanted)
    for entry in best:
        if len(found) >= max(limit, len(wanted) + 3):
            break
        found.add(entry)
    return tuple(sorted(found))


def _of_rows(values: Tensor, rows: Sequence[Place]) -> Tensor:
    """The entries in these rows of the losses, as a matrix."""
    if not rows:
        return values.reshape(-1, values.shape[-1])[:0]
    return torch.cat([values[row].reshape(-1, values.shape[-1]) for row in rows])


def _row_shape(column: Column) -> torch.Size:
    return column.values.shape[:-1] if column.axis else column.values.shape


def _given_places(columns: Sequence[Column], row: Place, shape: torch.Size) -> list[Place]:
    """The places behind a row of the losses where a column has a value."""
    places = itertools.product(*map(range, shape[len(row) :]))
    return [place for place in places if any(_has_value(column, (*row, *place)) for column in columns)]


def _has_value(column: Column, place: Place) -> bool:
    return column.given is None or bool(column.given[place[: column.given.ndim]].any())


def _ends(places: list[Place], limit: int) -> list[Place]:
    """The first and the last."""
    if len(places) <= limit:
        return places
    return [*places[: limit - limit // 2], *places[len(places) - limit // 2 :]]
