"""Every picture can be read without its colours, and no words lie on each other or outside."""

from __future__ import annotations

import functools
from itertools import combinations, pairwise
from typing import Any

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from losskit.plot.style import BARS, LINES
from plot.pictures import PICTURES, figure_of

# Of 0 (black) to 1 (white): what is told apart in print.
GREY_STEP = 0.1


def grey(color: str) -> float:
    red, green, blue = to_rgb(color)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_lines_differ_without_colour() -> None:
    assert len({str(line.linestyle) for line in LINES}) == len(LINES)
    assert len({line.marker for line in LINES}) == len(LINES)
    for one, other in pairwise(LINES):
        assert abs(grey(one.color) - grey(other.color)) > GREY_STEP
    # White is the paper.
    assert max(grey(line.color) for line in LINES) < 0.7


def test_bars_differ_without_colour() -> None:
    assert len({bar.hatch for bar in BARS}) == len(BARS)
    for one, other in pairwise(BARS):
        assert abs(grey(one.color) - grey(other.color)) > GREY_STEP


def words(figure: Any) -> list[tuple[str, Any]]:
    """What is written, and the pixels it takes with the frame around it."""
    found: list[tuple[str, Any]] = []
    draw = Text.draw

    def recording(self: Text, renderer: Any) -> None:
        draw(self, renderer)
        if self.get_visible() and self.get_text().strip():
            frame = self.get_bbox_patch()
            # An annotation's extent would hold its arrow.
            box = Text.get_window_extent(self, renderer) if frame is None else frame.get_window_extent(renderer)
            found.append((self.get_text(), box))

    Text.draw = recording  # type: ignore[method-assign]
    try:
        figure.canvas.draw()
    finally:
        Text.draw = draw  # type: ignore[method-assign]
    return found


def collisions(figure: Any) -> list[str]:
    written = words(figure)
    width, height = figure.canvas.get_width_height()
    outside = [
        f"{text!r} reaches outside"
        for text, box in written
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]
    # A pixel of the outlines may touch.
    return outside + [
        f"{one!r} lies on {other!r}"
        for (one, a), (other, b) in combinations(written, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]


@functools.cache
def figure_named(name: str) -> Figure:
    figure: Figure = figure_of(PICTURES[name]())
    return figure


@pytest.mark.parametrize("name", PICTURES)
def test_words_are_apart_and_inside(name: str) -> None:
    figure = figure_named(name)
    assert len(words(figure)) > 5
    assert collisions(figure) == []


def test_words_that_collide_are_found() -> None:
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(4, 3))
    figure.text(0.5, 0.5, "one")
    figure.text(0.51, 0.52, "two")
    figure.text(0.99, 0.9, "far out")
    assert collisions(figure) == ["'far out' reaches outside", "'one' lies on 'two'"]


@pytest.mark.parametrize("name", PICTURES)
def test_axes_say_what_they_show(name: str) -> None:
    figure = figure_named(name)
    for axes in figure.axes:
        if axes.axison and axes.get_label() != "<colorbar>":
            assert axes.get_xlabel(), axes
            # Of bars that lie, the names are the labels.
            assert (
                axes.get_ylabel()
                or any(text.get_text().strip("0123456789.−") for text in axes.get_yticklabels())
                or (axes is not figure.axes[0] and name == "negative-loss")
            )


@pytest.mark.parametrize("name", PICTURES)
def test_lines_of_a_picture_differ_by_more_than_colour(name: str) -> None:
    for axes in figure_named(name).axes:
        named = [line for line in axes.lines if not line.get_label().startswith("_")]
        looks = [(str(line.get_linestyle()), line.get_marker()) for line in named]
        assert len(set(looks)) == len(looks), looks
