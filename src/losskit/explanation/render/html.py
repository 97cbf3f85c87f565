"""An explanation as HTML that needs nothing else."""

from html import escape
from typing import TYPE_CHECKING

from losskit.explanation.render.outline import Block, Formula, Heading, Items, Pairs, Paragraph, outline
from losskit.explanation.table import Grid

if TYPE_CHECKING:
    from losskit.explanation.explanation import Explanation

# Colours are those of the page around it, which may be dark.
_STYLE = """
.losskit-explanation { line-height: 1.45; max-width: 64em; }
.losskit-explanation h1 { font-size: 1.3em; margin: 0 0 .4em; }
.losskit-explanation h2 { font-size: 1.05em; margin: 1.1em 0 .2em; }
.losskit-explanation p { margin: .2em 0; }
.losskit-explanation .formula { font-family: serif; font-size: 1.1em; margin: .2em 0 .2em 1.5em; }
.losskit-explanation .table { overflow-x: auto; }
.losskit-explanation table { border-collapse: collapse; margin: .4em 0; font-variant-numeric: tabular-nums; }
.losskit-explanation th, .losskit-explanation td { padding: .1em .7em; text-align: right; white-space: nowrap; }
.losskit-explanation thead th { border-bottom: 1px solid currentColor; }
.losskit-explanation tbody th { font-weight: normal; opacity: .7; }
.losskit-explanation dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1.2em; margin: .2em 0; }
.losskit-explanation dd { margin: 0; }
"""


def render(explanation: "Explanation") -> str:
    """A division, for a notebook."""
    body = "\n".join(_element(block) for block in outline(explanation))
    return f'<div class="losskit-explanation" lang="{_tag(explanation)}">\n<style>{_STYLE}</style>\n{body}\n</div>\n'


def page(explanation: "Explanation") -> str:
    """A document, for a file."""
    return (
        f'<!DOCTYPE html>\n<html lang="{_tag(explanation)}">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(explanation.loss.name)}</title>\n</head>\n<body>\n{render(explanation)}</body>\n</html>\n"
    )


def _tag(explanation: "Explanation") -> str:
    return {"zh": "zh-Hans"}.get(explanation.lang, explanation.lang)


def _element(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Formula):
        return f'<p class="formula">{escape(block.text)}</p>'
    if isinstance(block, Paragraph):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Items):
        return "<ul>\n" + "\n".join(f"<li>{escape(text)}</li>" for text in block.texts) + "\n</ul>"
    if isinstance(block, Pairs):
        tag = "code" if block.code else "i"
        rows = (f"<dt><{tag}>{escape(name)}</{tag}></dt><dd>{escape(meaning)}</dd>" for name, meaning in block.rows)
        return "<dl>\n" + "\n".join(rows) + "\n</dl>"
    return _table(block)


def _table(grid: Grid) -> str:
    heading = "".join(f"<th>{escape(name)}</th>" for name in grid.heading)
    rows = []
    for row in grid.rows:
        cells = []
        for place, cell in enumerate(row):
            tag, text = "th" if place < grid.labels else "td", escape(cell.text)
            cells.append(f"<{tag}>{f'<b>{text}</b>' if cell.marked else text}</{tag}>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    return f'<div class="table"><table>\n<thead><tr>{heading}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
