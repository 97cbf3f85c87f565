"""Check 1: an activation before a loss that applies one itself."""

import math
from collections.abc import Iterator

from torch import Tensor

from losskit.diagnosis.call import Call
from losskit.diagnosis.check import Check
from losskit.diagnosis.finding import Finding, Kind, figure
from losskit.diagnosis.graph import name_of, producer
from losskit.diagnosis.history import History
from losskit.diagnosis.samples import (
    LEAST_ROWS,
    MOST,
    log_sum_tolerance,
    look_like_probabilities,
    rows,
    sum_tolerance,
)

__all__ = ["CHECK"]

# Functions that apply a softmax, or a sigmoid, to their input; and those that want a log_softmax before them.
SOFTMAX_INSIDE = ("cross_entropy",)
SIGMOID_INSIDE = ("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss", "soft_margin_loss")
AFTER_LOG_SOFTMAX = ("ctc_loss", "kl_div", "nll_loss")
# Fewer numbers may all lie in [0, 1] by chance.
LEAST_NUMBERS = 32

DOUBLE_SOFTMAX = Kind("double-softmax", 1, "a softmax before a loss that applies one itself")
ACTIVATION = Kind("activation-before-logits", 1, "a sigmoid, or a softmax, before a loss that takes raw scores")
MAYBE = Kind("maybe-probabilities", 1, "numbers between 0 and 1 where raw scores are expected")
LOG_SOFTMAX_TWICE = Kind("log-softmax-twice", 1, "a log_softmax before a cross entropy: harmless")


def softmax_floor(classes: int) -> float:
    """The cross entropy of a one-hot row that goes through a softmax: log(e + C − 1) − 1."""
    return math.log1p((classes - 1) / math.e)


def softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def sigmoid_floors() -> tuple[float, float]:
    """What right answers cost after a sigmoid, which is 1 at most where y = 1 and 0 at least where it is not."""
    return softplus(-1.0), softplus(0.0)


def before(call: Call, history: History) -> Iterator[Finding]:
    node = producer(call.input, call.origins)
    made_by = name_of(node)
    if call.function in AFTER_LOG_SOFTMAX:
        if made_by == "LogSoftmax":
            inner = producer(None, call.origins, node.next_functions[0][0])
            if name_of(inner) == "Softmax":
                yield double_softmax_before_log_softmax(call)
    elif call.function in SOFTMAX_INSIDE:
        if made_by == "Softmax":
            yield double_softmax(call, "input is the output of a softmax (its grad_fn is SoftmaxBackward0).")
        elif made_by == "Sigmoid":
            yield sigmoid_before_softmax(call)
        else:
            yield from by_values(call, made_by)
    elif made_by in ("Sigmoid", "Softmax"):
        yield before_sigmoid(call, made_by)
    elif made_by == "NoneType" and not call.input.requires_grad:
        yield from maybe_probabilities(call)


def by_values(call: Call, made_by: str) -> Iterator[Finding]:
    if call.classes < 2:
        return
    found = rows(call.x, call.class_dim)
    if len(found) >= LEAST_ROWS and look_like_probabilities(found, sum_tolerance(call.x)):
        yield double_softmax(
            call,
            f"The first {len(found)} rows of input hold no negative number and each adds up to 1: probabilities.",
        )
    elif made_by == "LogSoftmax" and is_log_softmax(call, found):
        yield LOG_SOFTMAX_TWICE.found(
            call.place,
            "info",
            seen="input is the output of a log_softmax (its grad_fn is LogSoftmaxBackward0).",
            why="cross_entropy applies another one, which changes no number: the loss is right, the work double.",
            fix="nll_loss(input, target), or cross_entropy(logits, target)",
        )


def is_log_softmax(call: Call, found: Tensor) -> bool:
    """Along the classes, that is: along another axis it would not be harmless."""
    return bool((found.logsumexp(1).abs() <= log_sum_tolerance(call.x)).all())


def double_softmax(call: Call, seen: str) -> Finding:
    floor = softmax_floor(call.classes)
    return DOUBLE_SOFTMAX.found(
        call.place,
        "error",
        seen=seen,
        why=f"cross_entropy applies a softmax itself: after two, a perfect prediction of {call.classes} classes costs "
        f"{floor:.4f} instead of 0, and the gradient is small everywhere.",
        fix="cross_entropy(logits, target), without the softmax",
    )


def double_softmax_before_log_softmax(call: Call) -> Finding:
    floor = softmax_floor(call.classes)
    dim = call.class_dim
    return DOUBLE_SOFTMAX.found(
        call.place,
        "error",
        seen=f"{call.input_name} is the log_softmax of a softmax (its grad_fn is LogSoftmaxBackward0 after "
        "SoftmaxBackward0).",
        why=f"The log_softmax is one by itself: after two, a perfect prediction of {call.classes} classes costs "
        f"{floor:.4f} instead of 0, and the gradient is small everywhere.",
        fix=f"{call.function}(log_softmax(logits, {dim}), …), without the softmax",
    )


def sigmoid_before_softmax(call: Call) -> Finding:
    return ACTIVATION.found(
        call.place,
        "error",
        seen="input is the output of a sigmoid (its grad_fn is SigmoidBackward0).",
        why="cross_entropy takes raw scores: from scores between 0 and 1, a perfect prediction of "
        f"{call.classes} classes costs {softmax_floor(call.classes):.4f} instead of 0.",
        fix="cross_entropy(logits, target), without the sigmoid; for several labels at once "
        "binary_cross_entropy_with_logits(logits, target)",
    )


def before_sigmoid(call: Call, made_by: str) -> Finding:
    positive, negative = sigmoid_floors()
    return ACTIVATION.found(
        call.place,
        "error",
        seen=f"input is the output of a {made_by.lower()} (its grad_fn is {made_by}Backward0).",
        why=f"{call.function} applies a sigmoid itself: on numbers between 0 and 1 a right answer costs at least "
        f"{positive:.4f} where the label is yes and {negative:.4f} where it is no, instead of 0.",
        fix=f"{call.function}(logits, target), without the {made_by.lower()}",
    )


def maybe_probabilities(call: Call) -> Iterator[Finding]:
    """The range alone proves nothing: raw scores may lie in it."""
    found = call.x[:LEAST_NUMBERS].reshape(-1)[:MOST] if call.x.ndim else call.x.reshape(1)
    if found.numel() < LEAST_NUMBERS:
        return
    least, most = (float(value) for value in found.aminmax())
    if least < 0 or most > 1:
        return
    positive, negative = sigmoid_floors()
    yield MAYBE.found(
        call.place,
        "info",
        seen=f"The first {found.numel()} numbers of input lie between {figure(least)} and {figure(most)}, as "
        "probabilities do.",
        why=f"If they come from a sigmoid, {call.function} applies a second one, and right answers cost at least "
        f"{positive:.4f} (yes) and {negative:.4f} (no).",
        fix=f"{call.function}(logits, target), if these are probabilities",
    )


CHECK = Check(
    number=1,
    what="an activation before a loss that applies one itself",
    functions=(*SOFTMAX_INSIDE, *SIGMOID_INSIDE, *AFTER_LOG_SOFTMAX),
    kinds=(DOUBLE_SOFTMAX, ACTIVATION, MAYBE, LOG_SOFTMAX_TWICE),
    before=before,
)
