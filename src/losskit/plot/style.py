"""What every picture shares: its axes, and lines and bars that can be told apart without colour."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from losskit.errors import LosskitTypeError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "BAD",
    "BARS",
    "GOOD",
    "INK",
    "LINES",
    "MUTED",
    "PAPER",
    "Bar",
    "Line",
    "for_files",
    "line",
    "panels",
    "require_matplotlib",
]

# The colours of Okabe and Ito, which the colour-blind can tell apart, in an order in which neighbours also differ in
# lightness. Yellow is left out: a thin yellow line is lost on white.
BLUE, ORANGE, BLACK, PURPLE = "#0072b2", "#e69f00", "#000000", "#cc79a7"
GREEN, SKY, VERMILLION = "#009e73", "#56b4e9", "#d55e00"
INK, MUTED, PAPER = "#222222", "#6b6b6b", "#f2f2f2"
# What is right and what is wrong, which their words and marks say too.
GOOD, BAD = BLUE, VERMILLION


class Line(NamedTuple):
    color: str
    linestyle: Any
    marker: str


class Bar(NamedTuple):
    color: str
    hatch: str


LINES = (
    Line(BLUE, "-", "o"),
    Line(ORANGE, "--", "s"),
    Line(BLACK, ":", "^"),
    Line(PURPLE, "-.", "D"),
    Line(GREEN, (0, (5, 1, 1, 1, 1, 1)), "v"),
    Line(SKY, (0, (8, 3)), "P"),
    Line(VERMILLION, (0, (1, 3)), "X"),
)
BARS = (Bar(BLUE, ""), Bar(ORANGE, "//"), Bar(GREEN, "\\\\"), Bar(SKY, ".."))


def line(index: int, points: int, marks: int = 8) -> dict[str, Any]:
    """How the line number `index` of a picture is drawn: lines that lie on each other show by their marks."""
    color, linestyle, marker = LINES[index % len(LINES)]
    every = max(1, points // marks)
    # Shifted from line to line, so that no mark hides another.
    first = (every // 2 + index * every // 4) % every
    return {
        "color": color,
        "linestyle": linestyle,
        "linewidth": 2,
        "marker": marker,
        "markersize": 5,
        "markevery": (first, every),
    }


_in_windows: ContextVar[bool] = ContextVar("in_windows", default=True)


@contextmanager
def for_files() -> Iterator[None]:
    """Within it, figures are drawn without a window and look the same whatever the user's settings of matplotlib."""
    require_matplotlib()
    import matplotlib

    token = _in_windows.set(False)
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            yield
    finally:
        _in_windows.reset(token)


def panels(
    ax: Any, count: int, function: str, size: tuple[float, float], *, widths: Sequence[float] | None = None
) -> "list[Axes]":
    """`count` axes to draw into: those of the caller, or those of a new figure of pyplot."""
    axes = require_matplotlib()
    if ax is None:
        if _in_windows.get():
            # The figure that plt.show() shows.
            from matplotlib import pyplot

            figure = pyplot.figure(figsize=size, layout="constrained")
        else:
            from matplotlib.figure import Figure

            figure = Figure(figsize=size, layout="constrained")
        return list(figure.subplots(1, count, squeeze=False, width_ratios=widths)[0])
    try:
        given = [ax] if isinstance(ax, axes.Axes) else list(ax)
    except TypeError:
        given = [None]
    if len(given) != count or not all(isinstance(one, axes.Axes) for one in given):
        wanted = "one matplotlib Axes" if count == 1 else f"{count} matplotlib Axes"
        raise LosskitTypeError(f"{function}: ax must be {wanted}, got {_told(ax)}; leave it out for a new figure.")
    return given


def require_matplotlib() -> ModuleType:
    try:
        import matplotlib.axes
    except ImportError as error:
        raise MissingDependencyError(
            "plot: pictures need matplotlib, which is not installed: pip install 'losskit[plot]'."
        ) from error
    axes: ModuleType = matplotlib.axes
    return axes


def _told(value: object) -> str:
    return f"{len(value)} of them" if isinstance(value, (list, tuple)) else type(value).__name__
