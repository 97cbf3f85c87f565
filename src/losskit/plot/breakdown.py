"""What a loss is made of: sample by sample, and class by class."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from losskit import functional
from losskit.core.inputs import check_tensor
from losskit.errors import LosskitRuntimeError, LosskitTypeError, LosskitValueError
from losskit.plot.criterion import Loss, as_loss, value_label
from losskit.plot.style import BARS, INK, LINES, MUTED, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["classes", "per_sample", "samples"]

# More than these and their labels run into each other.
MOST_NAMED_SAMPLES = 24
MOST_NAMED_CLASSES = 12
# More than these are narrower than a pixel, and matplotlib takes minutes for them.
MOST_BARS = 500
MOST_POINTS = 2000
# Of the largest losses, the share that a title tells about.
WORST = 0.1


def samples(
    criterion: Any, input: Tensor, target: Tensor, *arguments: Any, ax: Any = None, **options: Any
) -> "tuple[Axes, Axes]":
    """The loss of each sample, largest first, and the share of the sum that the worst of them make.

    A sample is an entry of the first dimension of the unreduced loss; its loss is the sum over the others.

    **Args**: `criterion`: a name such as `"cross_entropy"`, a function or a module. `input`, `target`, `arguments`,
    `options`: what it is called with, without `reduction`. `ax`: two matplotlib Axes, or None for a new figure.

    **Returns**: the two Axes.

    **Raises**: `LosskitValueError` where there is no sample or a loss is not finite, and whatever the call raises.

    **Example**:

    >>> import torch, losskit
    >>> logits = torch.tensor([[2.0, 0.0], [0.5, 0.0], [3.0, 0.0]])
    >>> _, share = losskit.plot.samples("cross_entropy", logits, torch.tensor([0, 0, 1]))
    >>> share.get_title()
    'The worst 1 of 3 samples\\nmakes 83.5 % of the sum'
    """
    loss = as_loss(criterion, "samples")
    losses = per_sample(loss.each(input, target, *arguments, **options), "samples", loss)
    ordered, order = losses.sort(descending=True)
    pair = panels(ax, 2, "samples", (9.0, 4.0))
    _sorted_losses(pair[0], ordered, order, loss)
    _running_share(pair[1], ordered, loss)
    return pair[0], pair[1]


def per_sample(each: Tensor, function: str, loss: Loss) -> Tensor:
    """One number for each entry of the first dimension, in float64."""
    if not isinstance(each, Tensor):
        raise LosskitTypeError(f"{function}: {loss.label} must return a torch.Tensor, got {type(each).__name__}.")
    if each.ndim == 0 or len(each) == 0:
        raise LosskitValueError(
            f"{function}: {loss.label} returned {'one number' if each.ndim == 0 else 'no loss'}, expected a loss for "
            "each sample; give a batch of at least one sample, unreduced."
        )
    losses = each.detach().cpu().double().reshape(len(each), -1).sum(1)
    lost = (~losses.isfinite()).nonzero().flatten()
    if len(lost):
        raise LosskitValueError(
            f"{function}: {len(lost)} of {len(losses)} losses of {loss.label} are not finite, first "
            f"{losses[lost[0]]:g} at index {int(lost[0])}; leave those samples out."
        )
    return losses


def _sorted_losses(axes: "Axes", ordered: Tensor, order: Tensor, loss: Loss) -> None:
    if len(ordered) <= MOST_NAMED_SAMPLES:
        places = list(range(1, len(ordered) + 1))
        axes.bar(places, ordered.tolist(), color=BARS[0].color, edgecolor=INK, linewidth=0.8)
        axes.set_xticks(places, [str(index) for index in order.tolist()], fontsize="small")
        axes.set_xlabel("index of the sample")
    else:
        shown = _shown(len(ordered))
        axes.fill_between((shown + 1).tolist(), ordered[shown].tolist(), step="mid", color=BARS[0].color, linewidth=0)
        axes.set_xlabel("samples, by their loss")
    mean = float(ordered.mean())
    axes.axhline(mean, color=LINES[1].color, linestyle="--", linewidth=2, label=f"mean over samples: {mean:.4g}")
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_ylabel(value_label(loss))
    axes.set_title(f"{loss.label}\nof {len(ordered)} samples, largest first")
    axes.legend(fontsize="small", loc="upper right")
    axes.grid(True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _shown(count: int) -> Tensor:
    """Which of so many ordered points are drawn, evenly spaced, the first and the last among them."""
    return torch.linspace(0, count - 1, min(count, MOST_POINTS), dtype=torch.float64).round().long()


def _running_share(axes: "Axes", ordered: Tensor, loss: Loss) -> None:
    total = float(ordered.sum())
    running = torch.cat((torch.zeros(1, dtype=torch.float64), ordered.cumsum(0)))
    percent = torch.linspace(0, 100, len(running), dtype=torch.float64)
    shown = _shown(len(running))
    axes.set_xlabel("share of the samples, largest loss first (%)")
    axes.grid(True, alpha=0.3)
    if float(ordered[-1]) < 0 or total == 0:
        # A share of a sum of both signs would say nothing.
        axes.plot(percent[shown].tolist(), running[shown].tolist(), color=LINES[0].color, linewidth=2)
        axes.set_ylabel(value_label(loss).replace("loss", "running sum", 1))
        axes.set_title(f"The sum is {total:.4g}" + ("" if total == 0 else "\nof losses of both signs"))
        return
    share = 100 * running / total
    axes.plot(percent[shown].tolist(), share[shown].tolist(), label="these losses", color=LINES[0].color, linewidth=2)
    axes.plot([0, 100], [0, 100], color=LINES[2].color, linestyle=":", linewidth=2, label="all losses alike")
    worst = max(1, round(WORST * len(ordered)))
    axes.plot([float(percent[worst])], [float(share[worst])], marker="o", color=LINES[0].color, markersize=8)
    axes.set_ylabel("share of the sum (%)")
    axes.set_title(
        f"The worst {worst:,} of {len(ordered):,} samples\n{'makes' if worst == 1 else 'make'} "
        f"{float(share[worst]):.1f} % of the sum"
    )
    axes.legend(fontsize="small", loc="lower right")


def classes(
    criterion: Any,
    input: Tensor,
    target: Tensor,
    weight: Tensor | str | None = None,
    *,
    names: "list[str] | None" = None,
    ax: Any = None,
    **options: Any,
) -> "Axes":
    """The share that each class has of the summed loss, before class weights and after.

    **Args**: `criterion`: a loss with class indices as target and class weights: `cross_entropy`, `nll_loss` or
    `multi_margin_loss`, as a name, a function or a module. `input` `(N, C, …)`, `target`: what it is called with.
    `weight`: `(C)`, or `"balanced"` for N / (C · samples of the class); None for those of the criterion, if it has any.
    `names`: what the classes are called. `ax`: one matplotlib Axes, or None for a new figure. `options`: more keywords
    of the loss.

    **Returns**: the Axes.

    **Raises**: `LosskitValueError` for another loss or weights that do not fit, and whatever the call raises.

    **Example**:

    >>> import torch, losskit
    >>> logits, target = torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])
    >>> axes = losskit.plot.classes("cross_entropy", logits, target, "balanced")
    >>> [float(bar.get_height()) for bar in axes.patches]
    [75.0, 25.0, 50.0, 50.0]
    """
    loss = as_loss(criterion, "classes")
    check_tensor("classes", "input", input)
    check_tensor("classes", "target", target)
    _check_class_indices(loss, input, target)
    count = input.shape[1] if input.ndim > 1 else input.shape[0]
    if names is not None and len(names) != count:
        raise LosskitValueError(f"classes: names must hold {count} names, one for each class, got {len(names)}.")
    weight = _class_weight(loss, target, weight, count, options)
    shares = [("before weights", shares_by_class(loss, input, target, None, count, options))]
    if weight is not None:
        shares.append(("after weights", shares_by_class(loss, input, target, weight, count, options)))
    (axes,) = panels(ax, 1, "classes", (6.4, 4.2))
    together = -(-count // MOST_BARS)
    if together > 1:
        _stairs(axes, shares, together)
    else:
        _grouped_bars(axes, shares)
    present = _samples_of_classes(loss, target, count, options).tolist()
    if count <= MOST_NAMED_CLASSES:
        called = [f"class {index}" for index in range(count)] if names is None else names
        labels = [f"{name}\n{number:,}" for name, number in zip(called, present, strict=True)]
        axes.set_xticks(range(count), labels, fontsize="small")
        axes.set_xlabel("class, and how many samples it has")
    else:
        axes.set_xlabel("class")
    axes.set_ylabel("share of the summed loss (%)")
    each = f"{together:,} classes" if together > 1 else "class"
    axes.set_title(f"{loss.label.partition('(')[0]}: share of each {each}")
    axes.legend(fontsize="small")
    return axes


def shares_by_class(
    loss: Loss, input: Tensor, target: Tensor, weight: Tensor | None, count: int, options: dict[str, Any]
) -> list[float]:
    """The share of each class in the sum, in percent."""
    # By the function, since a module holds its weights for good.
    function = getattr(functional, "" if loss.info is None else loss.info.name)
    chosen = {**loss.options, **options, "weight": weight, "reduction": "none"}
    each = function(input, target, **chosen).detach().cpu().double().flatten()
    target = target.cpu()
    counted = _counted(loss, target, count, options)
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, target.flatten()[counted].long(), each[counted])
    total = float(sums.sum())
    if not (total > 0 and total < float("inf")):
        raise LosskitValueError(
            f"classes: the losses of {loss.label} add up to {total:g}, of which there are no shares; expected a "
            "positive number."
        )
    return (100 * sums / total).tolist()


def _samples_of_classes(loss: Loss, target: Tensor, count: int, options: dict[str, Any]) -> Tensor:
    return torch.bincount(target.flatten()[_counted(loss, target, count, options)], minlength=count)


def _counted(loss: Loss, target: Tensor, count: int, options: dict[str, Any]) -> Tensor:
    """Where a flat target names a class, and not the index that is ignored."""
    ignored = options.get("ignore_index", loss.options.get("ignore_index", -100))
    labels = target.flatten()
    named: Tensor = (labels != ignored) & (labels >= 0) & (labels < count)
    return named


def _check_class_indices(loss: Loss, input: Tensor, target: Tensor) -> None:
    if loss.info is None or loss.info.name not in ("cross_entropy", "nll_loss", "multi_margin_loss"):
        raise LosskitValueError(
            f"classes: {loss.label} has no class weights for class indices; give cross_entropy, nll_loss or "
            "multi_margin_loss."
        )
    if target.is_floating_point():
        raise LosskitTypeError(f"classes: target must hold class indices, got {target.dtype}; try target.argmax(1).")
    if input.ndim == 0 or target.numel() == 0:
        raise LosskitRuntimeError(f"classes: input must be (N, C, …), got shape {tuple(input.shape)}.")


def _class_weight(
    loss: Loss, target: Tensor, weight: Tensor | str | None, count: int, options: dict[str, Any]
) -> Tensor | None:
    if isinstance(weight, str):
        if weight != "balanced":
            raise LosskitValueError(
                f"classes: weight must be a tensor of {count} numbers or 'balanced', got {weight!r}."
            )
        numbers = _samples_of_classes(loss, target, count, options)
        # A class without a sample has no loss to weigh.
        return (numbers.sum() / (count * numbers.clamp(min=1))).float()
    if weight is not None:
        check_tensor("classes", "weight", weight)
        return weight
    own: Tensor | None = loss.options.get("weight")
    return own


def _grouped_bars(axes: "Axes", shares: list[tuple[str, list[float]]]) -> None:
    width = 0.8 / len(shares)
    for group, (label, heights) in enumerate(shares):
        places = [index + (group - (len(shares) - 1) / 2) * width for index in range(len(heights))]
        color, hatch = BARS[group]
        bars = axes.bar(places, heights, width, label=label, color=color, hatch=hatch, edgecolor=INK, linewidth=0.8)
        if len(heights) <= MOST_NAMED_CLASSES // len(shares):
            axes.bar_label(bars, fmt="%.1f", fontsize="small", padding=2)
    axes.margins(y=0.12)
    axes.grid(True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _stairs(axes: "Axes", shares: list[tuple[str, list[float]]], together: int) -> None:
    """The shares of neighbouring classes, added up."""
    for (label, each), drawn in zip(shares, LINES, strict=False):
        sums = [sum(each[first : first + together]) for first in range(0, len(each), together)]
        edges = [*range(0, len(each), together), len(each)]
        axes.stairs(sums, edges, label=label, color=drawn.color, linestyle=drawn.linestyle, linewidth=1.2)
    axes.margins(y=0.12)
    axes.grid(True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)
