"""An explanation for rich's console."""

from typing import TYPE_CHECKING, Any

from losskit.errors import MissingDependencyError
from losskit.explanation.render.outline import Formula, Heading, Items, Pairs, Paragraph, outline
from losskit.explanation.render.text import MARK, blocks_of

if TYPE_CHECKING:
    from losskit.explanation.explanation import Explanation
    from losskit.explanation.table import Grid


def render(explanation: "Explanation", width: int) -> Any:
    try:
        from rich.console import Group
        from rich.padding import Padding
        from rich.text import Text
    except ImportError:
        raise MissingDependencyError("explain: rich tables need rich: pip install 'losskit[cli]'.") from None
    parts: list[Any] = []
    for block in outline(explanation):
        if isinstance(block, Heading):
            parts += [Text(), Text(block.text, style="bold reverse" if block.level == 1 else "bold")]
        elif isinstance(block, Formula):
            parts.append(Padding(Text(block.text, style="cyan"), (0, 2)))
        elif isinstance(block, Paragraph):
            parts.append(Padding(Text(block.text), (0, 2)))
        elif isinstance(block, Pairs):
            parts.append(_pairs(block))
        elif isinstance(block, Items):
            parts.append(_items(block))
        else:
            # Padding and lines of a cell take three columns where text takes two.
            parts += [_table(piece) for piece in blocks_of(block, max(2 * (width - 4) // 3, 20))]
    return Group(*parts)


def _pairs(block: Pairs) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, meaning in block.rows:
        table.add_row(Text(f"  {name}", style="cyan" if not block.code else "bold"), Text(meaning))
    return table


def _items(block: Items) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(overflow="fold")
    for text in block.texts:
        table.add_row(Text("•", style="bold yellow"), Text(text))
    return table


def _table(grid: "Grid") -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(grid.heading):
        table.add_column(Text(name), justify="right", style="dim" if place < grid.labels else "")
    for row in grid.rows:
        cells = [Text(cell.text + (MARK if cell.marked else ""), style="bold" if cell.marked else "") for cell in row]
        table.add_row(*cells)
    return table
