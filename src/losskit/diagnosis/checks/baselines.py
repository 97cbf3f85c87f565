"""Check 12, second part: losses that tell what a model has not learned."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from losskit.diagnosis.call import Call
from losskit.diagnosis.checks.activation import softmax_floor
from losskit.diagnosis.finding import Finding, Kind, figure
from losskit.diagnosis.history import FIRST_CALLS, LATE_CALLS, History, Observation

__all__ = ["FIRST_LOSS", "PLATEAU", "baselines", "observe"]

FIRST_LOSS = Kind("first-loss", 12, "a first loss that is not that of a guess")
PLATEAU = Kind("plateau", 12, "a loss that stays at what a model costs that ignores its input")

CLASSIFYING = ("cross_entropy", "linear_cross_entropy", "nll_loss")
WITH_MARGIN = ("margin_ranking_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss")
# How far the first loss may lie from log C, and a plateau from its baseline, as a share of it.
FIRST_WITHIN = 0.2
# What PyTorch's own first weights can cost above log C where the last layer is the only one, in nats.
FIRST_ABOVE = 1.0
PLATEAU_WITHIN = 0.01
LEAST_SAMPLES = 4


def baselines(call: Call, history: History) -> Iterator[Finding]:
    """A symptom: only told where no check has found a cause."""
    if history.single or history.has_causes:
        return
    if history.training_calls == 1 and history.first is not None:
        yield from first_loss(call, history.first)
    if len(history.late) == LATE_CALLS:
        yield from plateau(call, list(history.late))


def observe(call: Call, history: History) -> None:
    """Remember a training call."""
    if call.result is None or not call.result.requires_grad or call.reduction != "mean" or call.value is None:
        return
    seen = Observation(history.calls, call.value, frequencies(call), moments(call))
    if history.first is None:
        history.first = seen
    if history.training_calls > FIRST_CALLS:
        history.late.append(seen)
    if call.counted > 0 and call.arguments.get("normalizer") is None:
        least = history.least_counted
        history.least_counted = call.counted if least is None else min(least, call.counted)
        history.most_counted = max(history.most_counted, call.counted)
        history.ignores |= call.ignores


def frequencies(call: Call) -> Tensor | None:
    """How often each class is the target."""
    if call.function not in CLASSIFYING or call.counted_indices is None or call.arguments.get("weight") is not None:
        return None
    if call.arguments.get("mask") is not None or call.arguments.get("sample_weight") is not None:
        return None
    counted = call.counted_indices.reshape(-1).long()
    if counted.numel() == 0 or int(counted.min()) < 0 or int(counted.max()) >= call.classes:
        return None
    return torch.bincount(counted, minlength=call.classes).cpu()


def moments(call: Call) -> tuple[int, float, float] | None:
    if call.function != "mse_loss" or call.y is None or call.y.numel() == 0 or call.x.shape != call.y.shape:
        return None
    if any(call.arguments.get(name) is not None for name in ("weight", "mask", "sample_weight")):
        return None
    y = call.y.double()
    return y.numel(), float(y.sum()), float(y.square().sum())


def first_loss(call: Call, seen: Observation) -> Iterator[Finding]:
    if seen.frequencies is None or call.classes < 2 or call.counted < LEAST_SAMPLES:
        return
    guess = math.log(call.classes)
    above = seen.loss > guess
    within = FIRST_WITHIN * guess
    if abs(seen.loss - guess) <= (max(within, FIRST_ABOVE) if above else within):
        return
    yield FIRST_LOSS.found(
        call.place,
        "warning" if above else "info",
        seen=f"The first loss is {figure(seen.loss)}; a model that knows nothing of {call.classes} classes costs "
        f"log {call.classes} = {figure(guess)}.",
        why="The model starts out certain and wrong: inputs that are not scaled, or weights that are too large, spend "
        "the first epochs on being unlearned."
        if above
        else "The model knows something already. That is no fault where it was trained before; where it was not, the "
        "target may be among its inputs.",
        fix="inputs of mean 0 and variance 1, and a last layer with small weights"
        if above
        else "none, if it is trained",
    )


def plateau(call: Call, seen: list[Observation]) -> Iterator[Finding]:
    loss = sum(each.loss for each in seen) / len(seen)
    for name, value, meaning in known_values(call, seen):
        if (
            value > 0
            and all(abs(each.loss - value) <= 5 * PLATEAU_WITHIN * value for each in seen)
            and (abs(loss - value) <= PLATEAU_WITHIN * value)
        ):
            yield PLATEAU.found(
                call.place,
                "warning",
                seen=f"After {seen[-1].number} calls the loss is {figure(loss)}, and {name} is {figure(value)}.",
                why=f"That is what {meaning} costs: the model has learned nothing from its input.",
                fix="another learning rate, and a look at what is between input and loss",
            )
            return


def known_values(call: Call, seen: list[Observation]) -> Iterator[tuple[str, float, str]]:
    counts = [each.frequencies for each in seen if each.frequencies is not None]
    if len(counts) == len(seen):
        total = torch.stack(counts).sum(0).double()
        share = total[total > 0] / total.sum()
        entropy = -float((share * share.log()).sum())
        yield "the entropy of the classes", entropy, "always answering with their frequencies"
        if call.function == "cross_entropy" and call.classes > 1:
            floor = softmax_floor(call.classes)
            yield f"log(1 + {call.classes - 1}/e)", floor, "a perfect answer that goes through a softmax twice"
    sums = [each.moments for each in seen if each.moments is not None]
    if len(sums) == len(seen):
        number, first, second = (sum(each[part] for each in sums) for part in range(3))
        yield "Var(target)", second / number - (first / number) ** 2, "always answering with the mean of the target"
    margin = call.arguments.get("margin")
    if call.function in WITH_MARGIN and isinstance(margin, (int, float)):
        yield "the margin", float(margin), "the same score, or the same point, for every input"
