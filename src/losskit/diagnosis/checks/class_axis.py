"""Check 6: the axis that holds the classes."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from losskit.core.precision import widen
from losskit.diagnosis.call import Call
from losskit.diagnosis.check import Check
from losskit.diagnosis.finding import Finding, Kind, figure
from losskit.diagnosis.graph import name_of, producer
from losskit.diagnosis.history import FIRST_CALLS, History
from losskit.diagnosis.samples import (
    MOST,
    columns_are_normalised,
    log_sum_tolerance,
    look_like_probabilities,
    rows,
    sum_tolerance,
)

__all__ = ["CHECK"]

ONE_CLASS = Kind("one-class", 6, "a softmax over a single class")
CLASS_AXIS = Kind("class-axis", 6, "classes on another axis than the one that counts as such")
WRONG_DIM = Kind("softmax-over-wrong-dim", 6, "a softmax over another axis than that of the classes")

SAMPLES, POSITIONS = 4, 64
# Another layout has to be this much better in three calls; in one call alone, over so many rows for a suspicion and so
# many for certainty. Fewer rows are lower by chance.
MUCH_LOWER = 0.8
SOME_ROWS, ENOUGH_ROWS = 32, 64


def before(call: Call, history: History) -> Iterator[Finding]:
    if call.x.numel() == 0:
        return
    if call.function == "linear_cross_entropy" or call.classes == 1:
        if call.classes == 1:
            yield one_class(call)
        return
    wrong = None if call.function == "kl_div" else wrong_dim(call)
    if call.function == "kl_div":
        wrong = wrong_dim_of_divergence(call)
    if wrong is not None:
        yield wrong
    elif call.function != "kl_div" and call.x.ndim >= 3 and call.indices is not None:
        yield from layout(call, call.indices, history)


def one_class(call: Call) -> Finding:
    return ONE_CLASS.found(
        call.place,
        "error",
        seen=f"input has shape {tuple(call.x.shape)}: scores for one class."
        if call.function != "linear_cross_entropy"
        else "linear_weight has one row: scores for one class.",
        why="The softmax of one score is 1 whatever the score is: the loss is 0 for ever, and so is its gradient.",
        fix="binary_cross_entropy_with_logits(input.squeeze(1), target.float())"
        if call.function != "linear_cross_entropy"
        else "binary_cross_entropy_with_logits(linear(input, linear_weight).squeeze(1), target.float())",
    )


def wrong_dim(call: Call) -> Finding | None:
    # After a softmax, on whatever axis, a cross entropy applies two: check 1 tells.
    if call.function == "cross_entropy" and name_of(producer(call.input, call.origins)) == "Softmax":
        return None
    axis = columns_are_normalised(call.x, call.class_dim)
    if axis is None or are_normalised(call, call.class_dim):
        return None
    return found_wrong_dim(call, axis, call.class_dim)


def are_normalised(call: Call, axis: int) -> bool:
    """Whether the rows along the axis are probabilities or log-probabilities."""
    found = rows(call.x, axis)
    if bool((found.logsumexp(1).abs() <= log_sum_tolerance(call.x)).all()):
        return True
    return look_like_probabilities(found, sum_tolerance(call.x))


def wrong_dim_of_divergence(call: Call) -> Finding | None:
    """kl_div does not say where its classes are; over the samples, on axis 0, they never are."""
    if call.x.ndim < 2 or any(are_normalised(call, axis) for axis in range(1, call.x.ndim)):
        return None
    if columns_are_normalised(call.x, call.x.ndim - 1) != 0:
        return None
    # Both are distributions over axis 0: then the sum is meant as it is.
    if call.y is not None and call.y.ndim > 1 and columns_are_normalised(call.y, call.y.ndim - 1) == 0:
        return None
    return found_wrong_dim(call, 0, 1)


def found_wrong_dim(call: Call, axis: int, right: int) -> Finding:
    block = rows(call.x, axis)
    kind, operation = ("probabilities", "softmax") if float(block.max()) > 0 else ("log-probabilities", "log_softmax")
    return WRONG_DIM.found(
        call.place,
        "error",
        seen=f"The first {len(block)} columns of {call.input_name} along axis {axis} are {kind}; along axis {right}, "
        "that of the classes, its rows are not.",
        why="The samples compete with each other, and not the classes: a sample's loss depends on which others are in "
        "its batch.",
        fix=f"cross_entropy(logits, target), or {operation}(logits, dim={right}) before this loss"
        if call.function != "kl_div"
        else f"kl_div({operation}(logits, dim={right}), target)",
    )


def layout(call: Call, indices: Tensor, history: History) -> Iterator[Finding]:
    losses, count = losses_of_layouts(call, indices)
    if losses is None:
        return
    history.layouts.append(losses)
    seen = list(history.layouts)
    enough = len(seen) == FIRST_CALLS
    for name in ("transposed", "reshaped"):
        # Better than a guess, too: scores that are wrong and certain are less so in any other order.
        if all(
            name in each and each[name] < math.log(call.classes) and is_much_lower(each[name], each["declared"])
            for each in seen
        ):
            if enough or (history.single and count >= ENOUGH_ROWS):
                yield wrong_axis(call, name, losses, "error")
            elif history.single and count >= SOME_ROWS:
                yield wrong_axis(call, name, losses, "warning")
            return
    declared_is_better = all(is_much_lower(each["declared"], each.get("transposed", math.inf)) for each in seen)
    if "transposed" in losses and not declared_is_better and (enough or history.single):
        yield cannot_tell(call, losses)


def is_much_lower(loss: float, other: float) -> bool:
    # Below 0 it is no loss of probabilities, which check 2 tells.
    return 0 <= loss < MUCH_LOWER * other


def losses_of_layouts(call: Call, indices: Tensor) -> tuple[dict[str, float] | None, int]:
    """The mean loss of the first positions of the first samples, for each axis that could hold the classes."""
    x, target = call.x[:SAMPLES], indices[:SAMPLES]
    classes = x.shape[1]
    if target.shape[1:] != x.shape[2:] or target.numel() == 0:
        return None, 0
    positions = min(POSITIONS, target[0].numel(), max(MOST // (classes * len(x)), 1))
    place = torch.unravel_index(torch.arange(positions, device=x.device), target.shape[1:])
    chosen = _at(target, place).long()
    counts = (chosen != (call.ignore_index if call.ignore_index is not None else -100)) & (chosen >= 0)
    counts &= chosen < classes
    if not bool(counts.any()):
        return None, 0
    scores = {"declared": _at(x.movedim(1, -1), place)}
    if x.shape[1] == x.shape[-1] and x.shape[1:-1] == target.shape[1:]:
        scores["transposed"] = _at(x, place)
    # What reshape made of (N, T, C); a transposed sample is not contiguous.
    if x[0].is_contiguous():
        scores["reshaped"] = x.reshape(len(x), -1)[:, : positions * classes].reshape(len(x), positions, classes)
    return {name: mean_loss(call, each, chosen, counts) for name, each in scores.items()}, int(counts.sum())


def _at(values: Tensor, place: tuple[Tensor, ...]) -> Tensor:
    """The values of each sample at these places: (samples, places, …)."""
    index: tuple[Any, ...] = (slice(None), *place)
    return values[index]


def mean_loss(call: Call, scores: Tensor, target: Tensor, counts: Tensor) -> float:
    scores = widen(scores)
    if call.function == "cross_entropy":
        scores = scores.log_softmax(-1)
    values = -scores.gather(-1, target.clamp(0, scores.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
    return float(values[counts].mean())


def wrong_axis(call: Call, name: str, losses: dict[str, float], severity: str) -> Finding:
    shape = tuple(call.x.shape)
    classes, last = shape[1], call.x.ndim - 1
    to_front = "input.movedim(-1, 1)" if call.x.ndim > 3 else "input.transpose(1, 2)"
    if name == "transposed":
        seen = (
            f"input has shape {shape} and the classes are looked for on axis 1, where the loss of the first positions "
            f"is {figure(losses['declared'])}; on axis {last} it is {figure(losses[name])}."
        )
        fix = f"{call.function}({to_front}, target)"
    else:
        seen = (
            f"input has shape {shape} and a loss of {figure(losses['declared'])} in its first positions; read as "
            f"{(shape[0], *shape[2:], classes)}, in the order of its memory, it is {figure(losses[name])}."
        )
        fix = f"{call.function}(scores.movedim(-1, 1), target), instead of reshape or view"
    return CLASS_AXIS.found(
        call.place,
        "error" if severity == "error" else "warning",
        seen=seen,
        why="The scores of different places are compared with each other: even a perfect model has a large loss, and "
        "no error is raised.",
        fix=fix,
    )


def cannot_tell(call: Call, losses: dict[str, float]) -> Finding:
    shape = tuple(call.x.shape)
    return CLASS_AXIS.found(
        call.place,
        "warning",
        seen=f"input has shape {shape}: axis 1, which holds the classes for {call.function}, is as long as the last "
        f"one. Their losses, {figure(losses['declared'])} and {figure(losses['transposed'])}, do not tell which is "
        "meant.",
        why="If the classes are on the last axis, the scores of different places are compared with each other, and no "
        "error is raised.",
        fix=f"{call.function}(input.movedim(-1, 1), target), if the classes are on the last axis",
    )


CHECK = Check(
    number=6,
    what="the axis that holds the classes",
    functions=("cross_entropy", "kl_div", "linear_cross_entropy", "nll_loss"),
    kinds=(ONE_CLASS, CLASS_AXIS, WRONG_DIM),
    before=before,
)
