"""An explanation as Markdown with tables."""

import re
from typing import TYPE_CHECKING

from losskit.explanation.render.outline import Block, Formula, Heading, Items, Pairs, Paragraph, outline
from losskit.explanation.table import Cell, Grid

if TYPE_CHECKING:
    from losskit.explanation.explanation import Explanation


def render(explanation: "Explanation") -> str:
    return "\n\n".join(_markdown(block) for block in outline(explanation)) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_escaped(block.text)}"
    if isinstance(block, Formula):
        return f"`{block.text}`"
    if isinstance(block, Paragraph):
        return _escaped(block.text)
    if isinstance(block, Items):
        return "\n".join(f"* {_escaped(text)}" for text in block.texts)
    if isinstance(block, Pairs):
        return "\n".join(f"* `{name}`: {_escaped(meaning)}" for name, meaning in block.rows)
    return _table(block)


def _table(grid: Grid) -> str:
    heading = [_cell(name) if place < grid.labels else f"`{_cell(name)}`" for place, name in enumerate(grid.heading)]
    rows = [heading, ["---:"] * len(heading), *([_number(cell) for cell in row] for row in grid.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _number(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.marked else cell.text


def _cell(text: str) -> str:
    # A bar would end the cell, also inside code.
    return text.replace("|", r"\|")


def _escaped(text: str) -> str:
    """A text whose characters are no marks of Markdown. Names with _ stay as they are inside of words."""
    return re.sub(r"([*`<>\[\]|\\])", r"\\\1", text)
