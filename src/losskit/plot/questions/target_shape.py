"""One-hot or index, and which shape?"""

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from losskit import functional as F
from losskit.errors import LosskitError
from losskit.plot.questions.entry import Question, blank
from losskit.plot.style import BAD, GOOD, INK, MUTED, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["QUESTION"]

LOGITS = torch.tensor([[2.0, 0.5, -1.0, 0.0], [0.0, 0.5, 1.5, -0.5], [-1.0, 0.0, 0.5, 1.0]])
LABELS = torch.tensor([0, 2, 3])
CELL = 0.075


def _draw(axes: "list[Axes]") -> None:
    one_hot = torch.nn.functional.one_hot(LABELS, 4)
    _matrices(axes[0], one_hot.float())
    _cards(axes[1], one_hot)


def _matrices(axes: "Axes", one_hot: Tensor) -> None:
    blank(axes, "cross_entropy of 3 samples, 4 classes")
    _grid(axes, 0.33, 0.86, LOGITS, f"input {_form(LOGITS)}", LABELS)
    for left, target, name in ((0.12, LABELS, "class indices"), (0.58, one_hot, "one-hot")):
        _grid(
            axes,
            left,
            0.42,
            target.reshape(3, -1),
            f"target {_form(target)}\n{name}",
            None if target is LABELS else LABELS,
        )
        loss = float(F.cross_entropy(LOGITS, target))
        centre = left + CELL * (1 if target is LABELS else 4) / 2
        axes.text(centre, 0.06, f"loss {loss:.4f}", ha="center", va="center", fontsize=10, color=INK)
    axes.text(0.36, 0.06, "the same", ha="center", va="center", fontsize=9, color=MUTED)


def _grid(axes: "Axes", left: float, top: float, matrix: Tensor, title: str, marked: Tensor | None) -> None:
    """Cells with their numbers; of each row the marked column is the true class."""
    from matplotlib.patches import Rectangle

    integer = not matrix.is_floating_point() or bool((matrix == matrix.round()).all() and (matrix >= 0).all())
    for row, numbers in enumerate(matrix.tolist()):
        for column, number in enumerate(numbers):
            true = marked is not None and int(marked[row]) == column
            corner = (left + column * CELL, top - (row + 1) * 1.1 * CELL)
            color, width = ("#cfe3f1", 1.6) if true else (PAPER, 0.8)
            axes.add_patch(Rectangle(corner, CELL, 1.1 * CELL, facecolor=color, edgecolor=INK, linewidth=width))
            shown = f"{number:.0f}" if integer else f"{number:.1f}"
            middle = (corner[0] + CELL / 2, corner[1] + 0.55 * CELL)
            axes.text(*middle, shown.replace("-", "−"), ha="center", va="center", fontsize=8, color=INK)
    width = matrix.shape[1] * CELL
    axes.text(left + width / 2, top + 0.015, title, ha="center", va="bottom", fontsize=9, color=INK)


def _cards(axes: "Axes", one_hot: Tensor) -> None:
    blank(axes, "Shapes that go together")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 4, 8, 8, generator=generator)
    words = torch.randn(2, 4, 7, generator=generator)
    column = torch.randn(3, 1, generator=generator)
    calls = (
        ("a class for each sample", F.cross_entropy, LOGITS, LABELS),
        ("a class for each pixel", F.cross_entropy, pixels, torch.randint(4, (2, 8, 8), generator=generator)),
        ("a class for each token", F.cross_entropy, words, torch.randint(4, (2, 7), generator=generator)),
        ("class probabilities", F.cross_entropy, LOGITS, one_hot.float()),
        ("labels, any number", F.binary_cross_entropy_with_logits, LOGITS, one_hot.float()),
        ("a number for each sample", F.mse_loss, column, torch.randn(3, 1, generator=generator)),
        ("one-hot as integers", F.cross_entropy, LOGITS, one_hot),
        ("labels as a column", F.cross_entropy, LOGITS, LABELS.unsqueeze(1)),
        ("classes last", F.cross_entropy, words.transpose(1, 2), torch.randint(4, (2, 7), generator=generator)),
    )
    height = 0.97
    for text, place in (("what", 0.0), ("input", 0.34), ("target", 0.64)):
        axes.text(place, height, text, fontsize=9, fontweight="bold", color=INK, va="top")
    for name, function, input, target in calls:
        fault = _fault(function, input, target)
        height -= 0.075
        mark, color = ("✗", BAD) if fault else ("✓", GOOD)
        axes.text(-0.05, height, mark, fontsize=9, color=color, va="top")
        for text, place in ((name, 0.0), (_form(input), 0.34), (_form(target), 0.64)):
            axes.text(place, height, text, fontsize=8.5, color=INK, va="top")
        if fault:
            height -= 0.06
            axes.text(0.0, height, "\n".join(fault), fontsize=8, color=BAD, va="top")
            height -= 0.045 * (len(fault) - 1) + 0.01


def _fault(function: Callable[[Tensor, Tensor], Tensor], input: Tensor, target: Tensor) -> list[str]:
    """What losskit says of shapes that do not go together."""
    try:
        function(input, target)
    except LosskitError as error:
        return textwrap.wrap(str(error).partition(": ")[2], 78)
    return []


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


QUESTION = Question(
    name="target-shape",
    question="One-hot or class index, and which shape?",
    answer="Class indices are enough: int64, the shape of the input without its class dimension, which is dim 1. A "
    "one-hot target must be floating point, has the shape of the input, and gives the same loss.",
    draw=_draw,
    size=(11.5, 5.0),
    widths=(0.9, 1.1),
)
