"""Check 9: losses and gradients that are not finite, or are only so because they are cut off."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from losskit.core.precision import HALF_DTYPES
from losskit.diagnosis.call import Call
from losskit.diagnosis.check import Check
from losskit.diagnosis.finding import Finding, Kind, Place, figure
from losskit.diagnosis.gradient import on_gradient_of_result
from losskit.diagnosis.history import History
from losskit.diagnosis.samples import MOST
from losskit.replace import FUNCTIONS

__all__ = ["CHECK"]

NON_FINITE_LOSS = Kind("non-finite-loss", 9, "a loss of NaN or inf")
CLAMPED = Kind("clamped-log", 9, "probabilities of exactly 0 or 1 whose logarithm is cut off")
NON_FINITE_GRADIENT = Kind("non-finite-gradient", 9, "a finite loss with a gradient of NaN or inf")

# What other checks find, and what makes a loss NaN or inf too.
EXPLAINED_BY = (
    "ctc-out-of-range",
    "ctc-too-short",
    "not-a-distribution",
    "nothing-counts",
)
# Values of a binary_cross_entropy that are looked through, and what torch cuts its logarithms off at.
SEARCHED = MOST // 16
CUT_OFF = 100


def after(call: Call, history: History) -> Iterator[Finding]:
    result = call.result
    if result is None:
        return
    value = call.value
    if value is None or math.isfinite(value):
        if call.function == "binary_cross_entropy":
            yield from clamped(call)
        if result.requires_grad:
            place = call.place
            on_gradient_of_result(result, partial(gradient_arrives, place, history), place, history)
        return
    if not any(code in history.found for code in EXPLAINED_BY):
        yield non_finite(call, value)


def non_finite(call: Call, value: float) -> Finding:
    seen, why, fix = cause(call)
    return NON_FINITE_LOSS.found(
        call.place,
        "error",
        seen=f"The loss is {value}: {seen}",
        why=f"{why} Its gradient makes every parameter NaN in the next step.",
        fix=fix,
    )


def cause(call: Call) -> tuple[str, str, str]:
    """What was seen, why that is no number, and the fix."""
    x, y, name = call.x, call.y, call.input_name
    if call.arguments.get("inplace_backward"):
        return "input held its gradient by then.", "The cause cannot be told.", f"{call.function}(…) without it"
    if x.numel() == 0:
        return (
            f"{name} has shape {tuple(x.shape)}, no element.",
            "The mean of nothing is 0 / 0.",
            f"losskit.functional.{call.function}(…, on_empty='zero'), or leave empty batches out",
        )
    bad = first_bad(x)
    if bad is not None and (math.isnan(bad[1]) or not log_of_zero(call, bad[1])):
        return (
            f"row {bad[0]} of {name} holds {bad[1]}.",
            "The model put it out: the fault is before the loss.",
            "torch.autograd.set_detect_anomaly(True), which names the operation",
        )
    if y is not None and y.is_floating_point() and (bad_target := first_bad(y)) is not None:
        return (
            f"row {bad_target[0]} of target holds {bad_target[1]}.",
            "Multiplying by 0 afterwards does not take it out, as 0 · NaN is NaN.",
            f"losskit.functional.{call.function}({name}, target, mask=target.isfinite())",
        )
    if bad is not None:
        return (
            f"row {bad[0]} of {name} holds {bad[1]}, the logarithm of a probability of 0.",
            "A class of probability 0 costs infinitely much.",
            f"log_softmax(logits, {call.class_dim}) instead of the logarithm of a softmax",
        )
    largest = float(x.double().abs().max())
    formed_in = torch.get_default_dtype() if call.result is None else call.result.dtype
    dtype = str(formed_in).removeprefix("torch.")
    return (
        f"every number of {name} is finite, the largest {figure(largest)}; the loss goes beyond "
        f"{figure(torch.finfo(formed_in).max)}, the largest {dtype}.",
        f"It is formed in {dtype}.",
        f"{call.function}({name}.float(), target.float())"
        if formed_in in HALF_DTYPES
        else f"smaller numbers: {name} scaled, or a lower learning rate",
    )


def log_of_zero(call: Call, value: float) -> bool:
    return value == -math.inf and call.function in ("cross_entropy", "ctc_loss", "kl_div", "nll_loss")


def first_bad(values: Tensor) -> tuple[int, float] | None:
    """Row and value of the first number that is none."""
    if not values.is_floating_point():
        return None
    flat = values.reshape(-1)
    bad = (~flat.isfinite()).nonzero()
    if bad.numel() == 0:
        return None
    place = int(bad[0])
    row = place // max(values[0].numel(), 1) if values.ndim else 0
    return row, float(flat[place])


def clamped(call: Call) -> Iterator[Finding]:
    """Certain and wrong: log 0 is cut off at −100, and a sigmoid that reached its end has no gradient."""
    if call.y is None or call.x.shape != call.y.shape:
        return
    x, y = call.x.reshape(-1)[:SEARCHED], call.y.reshape(-1)[:SEARCHED]
    wrong = ((x == 0) & (y > 0)) | ((x == 1) & (y < 1))
    count = int(wrong.sum())
    if count == 0:
        return
    first = int(wrong.nonzero()[0])
    yield CLAMPED.found(
        call.place,
        "warning",
        seen=f"Of the first {x.numel()} probabilities {count} are wrong and exactly 0 or 1, the first "
        f"{figure(float(x[first]))} for a target of {figure(float(y[first]))}.",
        why=f"Their loss is cut off at {CUT_OFF}, and the sigmoid before it has no gradient there: the samples "
        "that are most wrong teach nothing. A sigmoid in float32 is 1 from scores of 17 on.",
        fix="binary_cross_entropy_with_logits(logits, target), without the sigmoid",
    )


def gradient_arrives(place: Place, history: History, gradient: Tensor) -> None:
    """What backward hands to the loss: NaN or inf where an operation after the loss has no derivative."""
    total = float(gradient.double().sum())
    if not math.isfinite(total):
        history.add(
            NON_FINITE_GRADIENT.found(
                place,
                "error",
                seen=f"The loss is finite, and the gradient that backward hands to it is {figure(total)}.",
                why="An operation after the loss has no derivative there, as a square root at 0: every parameter "
                "becomes NaN in the next step.",
                fix="(loss + 1e-8).sqrt(), or the loss without its root",
            )
        )


CHECK = Check(
    number=9,
    what="losses and gradients that are not finite",
    functions=FUNCTIONS,
    kinds=(NON_FINITE_LOSS, CLAMPED, NON_FINITE_GRADIENT),
    after=after,
)
