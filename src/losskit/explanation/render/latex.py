"""An explanation as a fragment of LaTeX."""

import re
from typing import TYPE_CHECKING

from losskit.explanation.latex import formula
from losskit.explanation.render.outline import Block, Formula, Heading, Items, Pairs, Paragraph, outline
from losskit.explanation.render.text import blocks_of
from losskit.explanation.table import NOTHING, Cell, Grid

if TYPE_CHECKING:
    from losskit.explanation.explanation import Explanation

# Of a table, in characters: what a page has room for.
_WIDTH = 90
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "$": r"\$",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "“": "``",
    "”": "''",
    "–": "--",
    '"': r"\textquotedbl{}",
}


def render(explanation: "Explanation") -> str:
    return "\n\n".join(_latex(block) for block in outline(explanation)) + "\n"


def _latex(block: Block) -> str:
    if isinstance(block, Heading):
        return rf"\{'section' if block.level == 1 else 'subsection'}*{{{_text(block.text)}}}"
    if isinstance(block, Formula):
        return f"\\[\n{block.latex}\n\\]"
    if isinstance(block, Paragraph):
        return _text(block.text)
    if isinstance(block, Items):
        items = "\n".join(rf"\item {_text(text)}" for text in block.texts)
        return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"
    if isinstance(block, Pairs):
        return _pairs(block)
    return "\n\n".join(_table(piece) for piece in blocks_of(block, _WIDTH))


def _pairs(block: Pairs) -> str:
    items = []
    for name, meaning in block.rows:
        label = rf"\texttt{{{_text(name)}}}" if block.code else f"${formula(name)}$"
        items.append(rf"\item[{{{label}}}] {_text(meaning)}")
    return "\\begin{description}\n" + "\n".join(items) + "\n\\end{description}" if items else "%"


def _table(grid: Grid) -> str:
    heading = [_text(name) if place < grid.labels else f"${formula(name)}$" for place, name in enumerate(grid.heading)]
    rows = [" & ".join(_cell(cell, place < grid.labels) for place, cell in enumerate(row)) for row in grid.rows]
    lines = [
        rf"\begin{{tabular}}{{{'r' * len(heading)}}}",
        rf"{' & '.join(heading)} \\",
        r"\hline",
        *(rf"{row} \\" for row in rows),
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def _cell(cell: Cell, label: bool) -> str:
    if label or cell.text == NOTHING:
        return _text(cell.text)
    number = formula(cell.text)
    return rf"$\mathbf{{{number}}}$" if cell.marked else f"${number}$"


def _text(text: str) -> str:
    """A text in which every character is printed, with mathematics for letters that are not those of a font."""
    return "".join(_SPECIAL.get(char, char) if _is_text(char) else f"${formula(char)}$" for char in text)


def _is_text(char: str) -> bool:
    # Latin letters, and those of Chinese with its marks.
    return char in _SPECIAL or ord(char) < 128 or bool(re.match(r"[“”–…　-鿿＀-￯]", char))
