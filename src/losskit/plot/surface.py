"""A loss over two numbers, as a map."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from losskit.core.inputs import check_tensor
from losskit.errors import LosskitValueError
from losskit.plot.criterion import Loss, as_loss, value_label
from losskit.plot.style import INK, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["landscape"]

# Losses of a row of scores, with the first class as the target; the others are elementwise.
_OF_ROWS = {"cross_entropy": [0], "multi_margin_loss": [0], "multilabel_margin_loss": [[0, -1]]}
_OF_ELEMENTS = {
    "binary_cross_entropy_with_logits": (1.0, 0.0),
    "huber_loss": (0.0, 0.0),
    "l1_loss": (0.0, 0.0),
    "mse_loss": (0.0, 0.0),
    "multilabel_soft_margin_loss": (1.0, 0.0),
    "poisson_nll_loss": (3.0, 1.0),
    "smooth_l1_loss": (0.0, 0.0),
    "soft_margin_loss": (1.0, -1.0),
}
Span = tuple[float, float]
STEPS = 14
# White where the map is dark.
_LINES = ["white"] * (STEPS // 2) + [INK] * (STEPS - STEPS // 2 + 1)


def landscape(
    loss: Any,
    input: Tensor | None = None,
    target: Tensor | None = None,
    *,
    span: Span | tuple[Span, Span] = (-4.0, 4.0),
    labels: tuple[str, str] | None = None,
    points: int = 81,
    ax: Any = None,
) -> "Axes":
    """The surface of a loss over two logits, or over two parameters, as a contour map with its lowest point marked.

    **Args**: `loss`: a name, a function or a module: the map goes over the two inputs of a sample (two logits, or two
    predictions), with the first class, or the labels that the axes name, as the target. With `input` and `target`, two
    lists of numbers: over the slope w and the intercept b of the line w·input + b. Any other function of two 0-dim
    tensors: over these. `span`: first and last value of both numbers, or a pair for each. `labels`: of the two axes.
    `points`: the grid is points × points. `ax`: one matplotlib Axes, or None for a new figure.

    **Returns**: the Axes.

    **Raises**: `LosskitValueError` for a loss that has no such map, or one that is finite nowhere.

    **Example**:

    >>> import torch, losskit
    >>> x = torch.tensor([0.0, 1.0, 2.0, 3.0])
    >>> losskit.plot.landscape("mse", x, 2 * x - 1).get_title()
    'mse_loss: lowest at w = 2, b = −1'
    """
    known = as_loss(loss, "landscape")
    for name, given in (("input", input), ("target", target)):
        if given is not None:
            check_tensor("landscape", name, given)
    function, names = _of_two_numbers(known, input, target)
    first, second = names if labels is None else labels
    xs, ys = _positions(span, points)
    with torch.no_grad():
        rows = [[float(function(x, y)) for x in xs] for y in ys]
    values = torch.tensor(rows, dtype=torch.float64)
    if not values.isfinite().any():
        raise LosskitValueError(f"landscape: {known.label} is finite nowhere in span={span}; give another span.")
    (axes,) = panels(ax, 1, "landscape", (6.4, 5.0))
    levels = _levels(values)
    finite = values.masked_fill(~values.isfinite(), float("nan")).numpy()
    filled = axes.contourf(xs.numpy(), ys.numpy(), finite, levels=levels, cmap="cividis", extend="neither")
    lines = axes.contour(xs.numpy(), ys.numpy(), finite, levels=levels, colors=_LINES, linewidths=0.6)
    axes.figure.colorbar(filled, ax=axes, label=value_label(known), format="%.3g").add_lines(lines)
    axes.set_xlabel(first)
    axes.set_ylabel(second)
    lowest = (values == values[values.isfinite()].min()).nonzero().tolist()
    if len(lowest) == 1:
        ((row, column),) = lowest
        axes.plot(
            [float(xs[column])],
            [float(ys[row])],
            marker="*",
            markersize=14,
            color="white",
            markeredgecolor=INK,
            clip_on=False,
        )
        where = f"{_name(first)} = {_number(xs[column])}, {_name(second)} = {_number(ys[row])}"
    else:
        # A plateau has no point of its own.
        where = f"{len(lowest):,} points of the grid"
    axes.set_title(f"{known.label}: lowest at {where}", fontsize="medium")
    return axes


def _of_two_numbers(
    loss: Loss, input: Tensor | None, target: Tensor | None
) -> tuple[Callable[[Tensor, Tensor], Tensor], tuple[str, str]]:
    if (input is None) != (target is None):
        raise LosskitValueError("landscape: input and target belong together; give both for a line, or neither.")
    if loss.info is None:
        return loss.call, ("first number", "second number")
    name = loss.info.name
    if input is not None and target is not None:
        if name not in _OF_ELEMENTS or input.ndim != 1 or input.shape != target.shape:
            raise LosskitValueError(
                f"landscape: a line needs a loss such as mse and as many inputs as targets, got {loss.label} with "
                f"shapes {tuple(input.shape)} and {tuple(target.shape)}."
            )
        numbers, wanted = input.float(), target.float()
        return lambda w, b: loss.call(w * numbers + b, wanted, reduction="mean"), ("w: slope", "b: intercept")
    if name in _OF_ROWS:
        index = torch.tensor(_OF_ROWS[name])
        names = ("x₀: logit of the true class", "x₁: logit of the other class")
        return lambda a, b: loss.call(torch.stack((a, b)).unsqueeze(0), index, reduction="mean"), names
    if name in _OF_ELEMENTS:
        pair = torch.tensor([_OF_ELEMENTS[name]])
        first, second = (
            f"x{place}: input with target {value:g}" for place, value in zip("₀₁", pair[0].tolist(), strict=True)
        )
        named = (first.replace("-", "−"), second.replace("-", "−"))
        return lambda a, b: loss.call(torch.stack((a, b)).unsqueeze(0), pair, reduction="mean"), named
    mapped = ", ".join(sorted({*_OF_ROWS, *_OF_ELEMENTS}))
    raise LosskitValueError(
        f"landscape: {loss.label} has no map over two inputs; give one of {mapped}, or a function of two numbers."
    )


def _positions(span: Span | tuple[Span, Span], points: int) -> tuple[Tensor, Tensor]:
    spans = span if isinstance(span[0], Sequence) else (span, span)
    for low, high in spans:
        if not (-math.inf < low < high < math.inf and points >= 2):
            raise LosskitValueError(
                f"landscape: span must go from a smaller to a larger number and points be 2 or more, got span={span}, "
                f"points={points}."
            )
    steps = torch.arange(points, dtype=torch.float64)
    first, second = (((low * (points - 1 - steps) + high * steps) / (points - 1)).float() for low, high in spans)
    return first, second


def _levels(values: Tensor) -> list[float]:
    """Levels that are closer where the surface is low, so that a bowl shows its bottom."""
    finite = values[values.isfinite()]
    low, high = float(finite.min()), float(finite.max())
    if high <= low:
        high = low + 1.0
    return [low + (high - low) * (step / STEPS) ** 2 for step in range(STEPS + 1)]


def _name(label: str) -> str:
    return label.partition(":")[0]


def _number(value: Tensor) -> str:
    # Adding 0 turns −0 into 0.
    return f"{float(value) + 0.0:.3g}".replace("-", "−")
