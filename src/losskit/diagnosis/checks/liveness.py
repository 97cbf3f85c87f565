"""Check 12, first part: whether the loss reaches the model at all."""

import math
from collections.abc import Iterator

from torch import Tensor

from losskit.diagnosis.call import CLASS_INDEX_LOSSES, Call
from losskit.diagnosis.finding import Finding, Kind, Place, figure
from losskit.diagnosis.gradient import on_gradient_of_input, on_gradient_of_result
from losskit.diagnosis.history import FIRST_CALLS, History
from losskit.diagnosis.samples import ROWS

__all__ = ["NOT_A_SCALAR", "NO_GRADIENT", "ZERO_GRADIENT", "liveness"]

NO_GRADIENT = Kind("no-gradient", 12, "a loss that autograd cannot trace back to the model")
NOT_A_SCALAR = Kind("not-a-scalar", 12, "several losses where backward needs one number")
ZERO_GRADIENT = Kind("zero-gradient", 12, "a loss above 0 whose gradient is 0 everywhere")

# Those that are 0 at their best if the targets are, and those that may be negative.
OF_PROBABILITIES = ("binary_cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss")
BELOW_ZERO = ("gaussian_nll_loss", "kl_div", "poisson_nll_loss")


def liveness(call: Call, history: History) -> Iterator[Finding]:
    if call.result is None or not call.training:
        return
    if len(history.live) < FIRST_CALLS:
        history.live.append(call.result.requires_grad)
        if len(history.live) == FIRST_CALLS and not any(history.live):
            yield no_gradient(call.place, call.input_name)
    if not call.result.requires_grad:
        return
    if call.result.ndim > 0:
        yield not_a_scalar(call, call.result)
    elif call.value is not None and math.isfinite(call.value) and call.value > 1e-6 and is_least_at_zero(call):
        expect_a_gradient(call, call.value, call.result, history)


def is_least_at_zero(call: Call) -> bool:
    """Whether a loss above 0 can be lowered. Others, such as the cross entropy of a soft target, end above 0."""
    if call.function in CLASS_INDEX_LOSSES:
        return call.indices is not None and not call.arguments.get("label_smoothing")
    if call.function in OF_PROBABILITIES:
        target = call.y if call.y is None or call.y.ndim == 0 else call.y[:ROWS]
        return target is not None and bool(((target == 0) | (target == 1)).all())
    return call.function not in BELOW_ZERO


def no_gradient(place: Place, name: str) -> Finding:
    return NO_GRADIENT.found(
        place,
        "warning",
        seen=f"Autograd records, and {name} does not require a gradient"
        f" in any of the first {FIRST_CALLS} calls: the loss is a number without a graph.",
        why="backward raises an error, or, where this loss is added to others, passes it over: the model does not "
        "learn from it. An argmax, .detach(), .data, .item() or NumPy on the way cut the graph.",
        fix="the output of the model as it is; with torch.no_grad(): around what is only measured",
    )


def not_a_scalar(call: Call, result: Tensor) -> Finding:
    return NOT_A_SCALAR.found(
        call.place,
        "info",
        seen=f"The loss has shape {tuple(result.shape)}, {result.numel()} numbers.",
        why="backward needs one number: it raises an error unless they are averaged or added first.",
        fix="loss.mean().backward()",
    )


def expect_a_gradient(call: Call, value: float, result: Tensor, history: History) -> None:
    """Judge the gradient of the input when backward comes, unless it was multiplied by 0 on its way."""
    place, name, margin = call.place, call.input_name, call.arguments.get("margin")
    arrived: list[bool] = []

    def at_result(gradient: Tensor) -> None:
        arrived.append(_moves(gradient))

    def at_input(gradient: Tensor) -> None:
        if any(arrived) and not _moves(gradient):
            history.add(zero_gradient(place, name, value, margin))

    on_gradient_of_result(result, at_result, place, history)
    on_gradient_of_input(call.input, call.origins, at_input, place, history)


def _moves(gradient: Tensor) -> bool:
    # The first rows tell in most cases.
    return bool((gradient.ndim > 0 and gradient[:ROWS].count_nonzero()) or gradient.count_nonzero())


def zero_gradient(place: Place, name: str, value: float, margin: object) -> Finding:
    collapsed = "triplet" in place.function and isinstance(margin, (int, float)) and math.isclose(value, margin)
    return ZERO_GRADIENT.found(
        place,
        "error",
        seen=f"The loss is {figure(value)}{', the margin' if collapsed else ''}, and its gradient by {name} is 0 "
        "everywhere.",
        why="Positive and negative pull with the same strength in the same direction: all embeddings have collapsed to "
        "one point, or each positive is its own negative."
        if collapsed
        else "Nothing tells the model in which direction the loss falls: it stays as it is.",
        fix="a lower learning rate, F.normalize(embedding), and no activation that ends at 0 before the loss"
        if collapsed
        else f"other weights or inputs: {name} lies where the loss is flat",
    )
