"""An explanation as text of at most 100 columns."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from losskit.explanation.render.outline import Block, Formula, Heading, Items, Pairs, Paragraph, outline
from losskit.explanation.table import Cell, Grid

if TYPE_CHECKING:
    from losskit.explanation.explanation import Explanation

WIDTH = 100
# Behind the entry of the target.
MARK = "*"


def render(explanation: "Explanation") -> str:
    lines: list[str] = []
    before: Block | None = None
    for block in outline(explanation):
        # A formula and a sentence stand right below the heading that they belong to.
        if before is not None and not (isinstance(block, (Formula, Paragraph)) and not isinstance(before, Pairs)):
            lines.append("")
        lines += _lines(block)
        before = block
    return "\n".join(line.rstrip() for line in lines)


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes: a Chinese character takes two."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of a text, broken at spaces and between Chinese characters; `indent` stands before all but the first."""
    lines, line = [], ""
    for piece in _pieces(text):
        if line.strip() and width_of(line + piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = indent + piece.lstrip()
        else:
            line += piece
    return [*lines, line.rstrip()]


def blocks_of(grid: Grid, width: int) -> Iterator[Grid]:
    """The table in pieces that are not wider than this, each with the labels of its rows."""
    widths = [
        # A mark moves the whole column.
        max(width_of(text) for text in (name, *(row[place].text for row in grid.rows)))
        + any(row[place].marked for row in grid.rows)
        for place, name in enumerate(grid.heading)
    ]
    front = list(range(grid.labels))
    used = sum(widths[place] + 2 for place in front)
    piece: list[int] = []
    room = width - used
    for place in range(grid.labels, len(grid.heading)):
        if piece and room < widths[place] + 2:
            yield _columns(grid, [*front, *piece])
            piece, room = [], width - used
        piece.append(place)
        room -= widths[place] + 2
    yield _columns(grid, [*front, *piece])


def _columns(grid: Grid, places: Sequence[int]) -> Grid:
    return Grid(
        tuple(grid.heading[place] for place in places),
        tuple(tuple(row[place] for place in places) for row in grid.rows),
        grid.labels,
    )


def _lines(block: Block) -> list[str]:
    if isinstance(block, Heading):
        rule = ["=" * width_of(block.text)] if block.level == 1 else []
        return [*wrapped(block.text, WIDTH), *rule]
    if isinstance(block, Formula):
        return [f"  {line}" for line in wrapped(block.text, WIDTH - 2, "    ")]
    if isinstance(block, Paragraph):
        return [f"  {line}" for line in wrapped(block.text, WIDTH - 2)]
    if isinstance(block, Items):
        return [line for text in block.texts for line in wrapped(f"• {text}", WIDTH, "  ")]
    if isinstance(block, Pairs):
        return _pairs(block)
    lines: list[str] = []
    for piece in blocks_of(block, WIDTH):
        lines += ["", *_table(piece)] if lines else _table(piece)
    return lines


def _pairs(pairs: Pairs) -> list[str]:
    width = max((width_of(name) for name, _ in pairs.rows), default=0)
    lines = []
    for name, meaning in pairs.rows:
        front = f"  {_ljust(name, width)}  "
        lines += wrapped(front + meaning, WIDTH, " " * width_of(front))
    return lines


def _table(grid: Grid) -> list[str]:
    # A space stands where no cell of the column has a mark, so that the digits stay in line.
    marked = [any(row[place].marked for row in grid.rows) for place in range(len(grid.heading))]
    texts = [
        [name + " " * mark for name, mark in zip(grid.heading, marked, strict=True)],
        *([_text(cell, mark) for cell, mark in zip(row, marked, strict=True)] for row in grid.rows),
    ]
    widths = [max(width_of(row[place]) for row in texts) for place in range(len(grid.heading))]
    return ["  " + "  ".join(map(_rjust, row, widths)) for row in texts]


def _text(cell: Cell, marked: bool) -> str:
    return cell.text + (MARK if cell.marked else " " if marked else "")


def _rjust(text: str, width: int) -> str:
    return " " * (width - width_of(text)) + text


def _ljust(text: str, width: int) -> str:
    return text + " " * (width - width_of(text))


def _pieces(text: str) -> list[str]:
    """What a line may be broken between. A mark that closes stays with what is before it."""
    return re.findall(r"[　-鿿＀-￯][，。、；：！？）】》”]*|[^\s　-鿿＀-￯]+[，。、；：！？）】》”]*\s*|\s+", text)
