"""Check 4: values that no target of the loss has."""

from collections.abc import Iterator

import torch
from torch import Tensor

from losskit.diagnosis.call import CLASS_INDEX_LOSSES, Call
from losskit.diagnosis.check import Check
from losskit.diagnosis.finding import Finding, Kind, figure
from losskit.diagnosis.history import History
from losskit.diagnosis.readable import plain
from losskit.diagnosis.sequences import ctc_labels

__all__ = ["CHECK"]

YES_NO = ("binary_cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss")
SIGNS = ("cosine_embedding_loss", "hinge_embedding_loss", "margin_ranking_loss", "soft_margin_loss")

OUT_OF_RANGE = Kind("target-out-of-range", 4, "targets outside the range of the loss")
NOT_SIGNS = Kind("target-not-plus-minus-one", 4, "targets other than −1 and 1 for a loss of signs")
IS_BLANK = Kind("label-is-blank", 4, "CTC labels that are the blank")


def before(call: Call, history: History) -> Iterator[Finding]:
    if call.y is None or call.y.numel() == 0 or call.y.dtype == torch.bool:
        return
    if call.function == "ctc_loss":
        yield from blanks(call)
    elif call.function in CLASS_INDEX_LOSSES:
        if call.indices is not None:
            yield from class_indices(call, call.indices)
    elif call.function in YES_NO:
        yield from yes_no(call, weighed(call, call.y))
    else:
        yield from signs(call, weighed(call, call.y))


def weighed(call: Call, target: Tensor) -> Tensor:
    """The targets that count: not those under the mask or with a weight of 0, which may be marks for no label."""
    counts = call.mask
    for name in ("weight", "sample_weight"):
        weight = call.arguments.get(name)
        if isinstance(weight, Tensor) and call.function != "multilabel_soft_margin_loss":
            weight = plain(weight) != 0
            counts = weight if counts is None else counts & weight
    return target if counts is None else target[counts.expand_as(target)]


def class_indices(call: Call, indices: Tensor) -> Iterator[Finding]:
    least, most = (int(value) for value in indices.aminmax())
    counted = call.counted_indices
    if (least >= 0 and most < call.classes) or counted is None or counted.numel() == 0:
        return
    least, most = (int(value) for value in counted.aminmax())
    if least >= 0 and most < call.classes:
        return
    outside = counted[(counted < 0) | (counted >= call.classes)]
    values = sorted(set(outside[:1024].tolist()))
    scores = "input, linear_weight" if call.function == "linear_cross_entropy" else "input"
    if least == 1 and most == call.classes:
        hint, fix = "these labels look 1-based", f"{call.function}({scores}, target - 1)"
    elif len(values) == 1 and is_mark(values[0], call.classes) and "ignore_index" in call.arguments:
        hint, fix = (
            f"{values[0]} looks like a mark for places without a label",
            f"{call.function}({scores}, target, ignore_index={values[0]})",
        )
    else:
        hint, fix = f"there are scores for {call.classes} classes", f"a last layer with {most + 1} outputs"
    shown = ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")
    yield OUT_OF_RANGE.found(
        call.place,
        "error",
        seen=f"{outside.numel()} of {counted.numel()} targets lie outside [0, {call.classes}): {shown}; {hint}.",
        why="There is no score for such a class: the call raises on the CPU, and on a GPU it ends the program.",
        fix=fix,
    )


def is_mark(index: int, classes: int) -> bool:
    """Whether it stands for no class. One just beyond the last may be a class that the layer has no output for."""
    return index < 0 or index == 255 > classes


def yes_no(call: Call, target: Tensor) -> Iterator[Finding]:
    if target.numel() == 0:
        return
    least, most = (float(value) for value in target.aminmax())
    if least >= -1e-6 and most <= 1 + 1e-6:
        return
    whole = bool((target == target.round()).all())
    if most == 255 and least >= 0:
        fix = f"{call.function}(input, target / 255)"
    elif least == -1 and most == 1 and whole:
        fix = f"{call.function}(input, (target + 1) / 2)"
    elif whole and least >= 0:
        fix = "cross_entropy(input, target.long()), if these are class indices"
    else:
        fix = f"{call.function}(input, target), with a target in [0, 1]"
    yield OUT_OF_RANGE.found(
        call.place,
        "error",
        seen=f"target lies between {figure(least)} and {figure(most)}, and a yes or no is a number in [0, 1].",
        why="Beyond that range the loss has no least value: it falls below 0 without end, and the scores grow with it.",
        fix=fix,
    )


def signs(call: Call, target: Tensor) -> Iterator[Finding]:
    wrong = target.abs() != 1
    count = int(wrong.sum())
    if count == 0:
        return
    least, most = (float(value) for value in target.aminmax())
    zeros_and_ones = least == 0 and most <= 1
    effect = {
        "hinge_embedding_loss": "counts as both a pair that belongs together and one that does not",
        "cosine_embedding_loss": "costs 0 and has no gradient",
        "margin_ranking_loss": "costs the margin whatever the scores are, and has no gradient",
        "soft_margin_loss": "costs log 2 = 0.6931 whatever the score is, and has no gradient",
    }[call.function]
    yield NOT_SIGNS.found(
        call.place,
        "error",
        seen=f"{count} of {target.numel()} targets are neither −1 nor 1; they lie between {figure(least)} and "
        f"{figure(most)}.",
        why=f"A target of 0 {effect}."
        if zeros_and_ones
        else "The target is a sign: other numbers scale the loss, or fall between its cases.",
        fix=f"{call.function}(…, 2 * target - 1)" if zeros_and_ones else f"{call.function}(…, target.sign())",
    )


def blanks(call: Call) -> Iterator[Finding]:
    labels = ctc_labels(call)
    if labels is None:
        return
    blank = int(call.arguments["blank"])
    of_blank = labels.values[labels.counted] == blank
    count = int(of_blank.sum())
    if count == 0:
        return
    sample = int(((labels.values == blank) & labels.counted).any(1).nonzero()[0])
    yield IS_BLANK.found(
        call.place,
        "error",
        seen=f"{count} of {of_blank.numel()} labels are {blank}, the blank, first in sample {sample}.",
        why="The blank stands for no label: a model cannot put it out as one, and learns to leave the label away.",
        fix=f"ctc_loss(log_probs, targets + 1, …), with one more class and {blank} kept for the blank"
        if blank == 0
        else "ctc_loss(…, blank=…), with a class that is no label",
    )


CHECK = Check(
    number=4,
    what="values that no target of the loss has",
    functions=(*CLASS_INDEX_LOSSES, *YES_NO, *SIGNS, "ctc_loss"),
    kinds=(OUT_OF_RANGE, NOT_SIGNS, IS_BLANK),
    before=before,
)
