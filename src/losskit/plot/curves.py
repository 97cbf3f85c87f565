"""Value and gradient of losses over one number."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from losskit.errors import LosskitTypeError, LosskitValueError
from losskit.plot.criterion import Loss, as_loss, class_count
from losskit.plot.sections import AXES, SECTIONS, Axis, Section
from losskit.plot.style import LINES, MUTED, line, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["compare", "curve", "value_and_gradient"]


class _Drawn(NamedTuple):
    loss: Loss
    label: str
    unit: str
    positions: Tensor
    value: Tensor
    gradient: Tensor


def curve(
    *losses: Any,
    ax: Any = None,
    span: tuple[float, float] | None = None,
    target: float | None = None,
    over: str | None = None,
    points: int = 401,
) -> "tuple[Axes, Axes]":
    """Value and gradient of losses, side by side, over the error, the logit or the distance that they are functions of.

    **Args**: `losses`: names such as `"mse"`, functions, or modules with their options, such as
    `losskit.HuberLoss(delta=2)`; all of the same axis. A function of your own takes input and target and returns a loss
    for each. `ax`: two matplotlib Axes, or None for a new figure. `span`: first and last position. `target`: for losses
    that take one here, such as 0 for a binary cross entropy. `over`: the axis of a function of your own: `"error"` (the
    default), `"logit"`, `"probability"`, `"log-probability"`, `"log-rate"`, `"distance"`. `points`: how many positions.

    **Returns**: the two Axes.

    **Raises**: `LosskitValueError` for a name that is not known and for losses over different axes.

    **Example**:

    >>> import losskit
    >>> value, gradient = losskit.plot.curve("mse", "l1", losskit.HuberLoss(delta=2))
    >>> gradient.get_ylabel()
    'gradient: d loss / d error'
    """
    drawn, axis = _draw("curve", losses, span, target, over, points)
    pair = panels(ax, 2, "curve", (9.0, 4.0))
    _fill(pair[0], drawn, axis, "value")
    _fill(pair[1], drawn, axis, "gradient")
    # One legend serves both.
    _legend(pair[0], len(drawn))
    return pair[0], pair[1]


def compare(
    *losses: Any,
    of: Literal["value", "gradient"] = "value",
    ax: Any = None,
    span: tuple[float, float] | None = None,
    target: float | None = None,
    over: str | None = None,
    points: int = 401,
) -> "Axes":
    """Several losses on one axes: their values, or with `of="gradient"` their gradients.

    **Args**: as of `losskit.plot.curve`; `ax`: one matplotlib Axes, or None for a new figure.

    **Returns**: the Axes.

    **Raises**: as `losskit.plot.curve`; `LosskitValueError` for another `of`.

    **Example**:

    >>> import losskit
    >>> losskit.plot.compare("mse", "l1", of="gradient").get_xlabel()
    'error: input − target (target units)'
    """
    if of not in ("value", "gradient"):
        raise LosskitValueError(f"compare: of must be 'value' or 'gradient', got {of!r}.")
    drawn, axis = _draw("compare", losses, span, target, over, points)
    (axes,) = panels(ax, 1, "compare", (6.4, 4.4))
    _fill(axes, drawn, axis, of)
    _legend(axes, len(drawn))
    return axes


def value_and_gradient(function: Callable[[Tensor], Tensor], positions: Tensor) -> tuple[Tensor, Tensor]:
    """n losses of n positions, each of its own position alone, and their derivatives."""
    with torch.enable_grad():
        leaf = positions.clone().requires_grad_()
        value = function(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def _draw(
    function: str,
    losses: tuple[Any, ...],
    span: tuple[float, float] | None,
    target: float | None,
    over: str | None,
    points: int,
) -> tuple[list[_Drawn], Axis]:
    if not losses:
        raise LosskitValueError(f"{function}: name at least one loss, such as 'mse'.")
    if len(losses) > len(LINES):
        raise LosskitValueError(f"{function}: {len(losses)} lines cannot be told apart; draw {len(LINES)} at most.")
    if over is not None and over not in AXES:
        raise LosskitValueError(f"{function}: over must be one of {', '.join(map(repr, AXES))}, got {over!r}.")
    known = [as_loss(loss, function) for loss in losses]
    sections = [_section(loss, over, function) for loss in known]
    axis = _common_axis(known, sections, function)
    if target is not None:
        fixed = [loss.label for loss, section in zip(known, sections, strict=True) if section.target is None]
        if fixed:
            raise LosskitValueError(
                f"{function}: target={target:g} is for losses that take one here, such as binary_cross_entropy; "
                f"{fixed[0]} does not."
            )
        if axis is AXES["logit"] and target != 1:
            axis = axis._replace(label="logit")
    low, high = (axis.low, axis.high) if span is None else span
    if not (-math.inf < low < high < math.inf and points >= 2):
        raise LosskitValueError(
            f"{function}: span must go from a smaller to a larger number and points be 2 or more, got span=({low:g}, "
            f"{high:g}), points={points}."
        )
    # From both ends, so that the middle of a symmetric span is exactly 0, where several losses have their kink.
    steps = torch.arange(points, dtype=torch.float64)
    positions = ((low * (points - 1 - steps) + high * steps) / (points - 1)).float()
    return [
        _line(loss, section, positions, target, function) for loss, section in zip(known, sections, strict=True)
    ], axis


def _section(loss: Loss, over: str | None, function: str) -> Section:
    if loss.info is None:
        axis = "error" if over is None else over
        return SECTIONS["mse_loss"] if axis == "error" else SECTIONS["soft_margin_loss"]._replace(axis=axis)
    if loss.label.startswith("LinearCrossEntropyLoss"):
        raise LosskitTypeError(
            f"{function}: LinearCrossEntropyLoss holds a layer of its own; name 'linear_cross_entropy' instead."
        )
    return SECTIONS[loss.info.name]


def _common_axis(losses: list[Loss], sections: list[Section], function: str) -> Axis:
    first = sections[0].axis
    for loss, section in zip(losses, sections, strict=True):
        if section.axis != first:
            raise LosskitValueError(
                f"{function}: {losses[0].label} goes over the {AXES[first].symbol} and {loss.label} over the "
                f"{AXES[section.axis].symbol}; draw them in two pictures."
            )
    return AXES[first]


def _line(loss: Loss, section: Section, positions: Tensor, target: float | None, function: str) -> _Drawn:
    chosen = section.target if target is None else target
    count = class_count(loss)
    needed = {} if loss.module else {name: each for name, each in section.options.items() if name not in loss.options}

    def losses(x: Tensor) -> Tensor:
        if section.alone and len(x) > 1:
            return torch.cat([losses(one) for one in x.split(1)])
        each = loss.each(*section.arguments(x, 0.0 if chosen is None else chosen, count), **needed)
        if each.numel() % len(x) != 0 or each.numel() == 0:
            raise LosskitValueError(
                f"{function}: {loss.label} must return a loss for each of the {len(x)} inputs, got shape "
                f"{tuple(each.shape)}; leave the reduction out."
            )
        return each.reshape(len(x), -1)[:, 0]

    value, gradient = value_and_gradient(losses, positions)
    notes = [section.note] if section.note else []
    notes += [f"{name} = {each:g}".replace("-", "−") for name, each in needed.items()]
    if loss.info is not None and section.target is not None and chosen is not None:
        notes.append(f"y = {chosen:g}".replace("-", "−"))
    unit = "" if loss.info is None else "no unit" if loss.info.unit == "none" else loss.info.unit
    return _Drawn(loss, ", ".join([loss.label, *notes]), unit, positions, value, gradient)


def _legend(axes: "Axes", count: int) -> None:
    if count <= 3:
        axes.legend(fontsize="small")
    else:
        # Inside it would hide what it names.
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False)


def _fill(axes: "Axes", drawn: list[_Drawn], axis: Axis, of: Literal["value", "gradient"]) -> None:
    units = {one.unit for one in drawn}
    for index, one in enumerate(drawn):
        # With one unit the axis says it, with several each line does.
        label = one.label if len(units) == 1 or not one.unit else f"{one.label} ({one.unit})"
        shown = one.value if of == "value" else one.gradient
        axes.plot(one.positions.numpy(), shown.numpy(), label=label, **line(index, len(one.positions)))
    axes.axhline(0, color=MUTED, linewidth=0.8, zorder=0)
    axes.set_xlabel(axis.label)
    if of == "value":
        (unit,) = units if len(units) == 1 else ("",)
        axes.set_ylabel(f"loss ({unit})" if unit else "loss (units in the legend)" if len(units) > 1 else "loss")
        axes.set_title("Value")
    else:
        axes.set_ylabel(f"gradient: d loss / d {axis.symbol}")
        axes.set_title("Gradient")
    axes.grid(True, alpha=0.3)
