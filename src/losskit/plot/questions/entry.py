"""A question that learners ask, and the picture that answers it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from losskit.plot.style import INK, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Question", "arrow", "blank", "box"]


@dataclass(frozen=True)
class Question:
    """`draw` fills as many axes as `widths` has entries; all numbers in it come from losses that it calls."""

    name: str
    question: str
    answer: str
    draw: "Callable[[list[Axes]], None]"
    size: tuple[float, float]
    # Of the panels, relative to each other.
    widths: tuple[float, ...]


def blank(axes: "Axes", title: str = "") -> None:
    """Axes for a diagram: the unit square without ticks."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_title(title)


def box(axes: "Axes", x: float, y: float, text: str, *, color: str = PAPER, edge: str = INK, size: float = 9) -> Any:
    """Words with a frame around them, which fits them."""
    frame = {"boxstyle": "round,pad=0.45", "facecolor": color, "edgecolor": edge, "linewidth": 1.2}
    return axes.text(x, y, text, ha="center", va="center", fontsize=size, color=INK, bbox=frame)


def arrow(axes: "Axes", start: Any, end: Any) -> None:
    """From one box to another."""
    axes.annotate(
        "",
        end.get_position(),
        start.get_position(),
        arrowprops={
            "arrowstyle": "-|>",
            "color": INK,
            "patchA": start.get_bbox_patch(),
            "patchB": end.get_bbox_patch(),
            "shrinkA": 1,
            "shrinkB": 1,
        },
    )
