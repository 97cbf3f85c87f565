"""Check 3: targets that are not a distribution."""

from collections.abc import Iterator

from torch import Tensor

from losskit.diagnosis.call import Call
from losskit.diagnosis.check import Check
from losskit.diagnosis.finding import Finding, Kind, figure
from losskit.diagnosis.history import History
from losskit.diagnosis.samples import MOST, ROWS, columns_are_normalised, log_sum_tolerance, rows, sum_tolerance

__all__ = ["CHECK"]

NOT_A_DISTRIBUTION = Kind("not-a-distribution", 3, "a target of class probabilities that are none")


def before(call: Call, history: History) -> Iterator[Finding]:
    target = call.y if call.function == "kl_div" else call.probabilities
    if target is None or target.ndim == 0 or target.numel() == 0 or not target.is_floating_point():
        return
    blocks = [rows(target, axis) for axis in axes(call, target)] + whole_samples(call, target)
    if not all(bool(block.isfinite().all()) for block in blocks) and not call.arguments.get("log_target"):
        # Check 9 tells of a NaN.
        return
    kinds = "logarithms" if call.arguments.get("log_target") else "probabilities"
    if call.function == "kl_div" and target.ndim > 1 and columns_are_normalised(target, target.ndim - 1, kinds) == 0:
        # A distribution over axis 0: whether the input is one too, check 6 tells.
        return
    if call.arguments.get("log_target"):
        yield from logarithms(call, target, blocks)
        return
    block = blocks[0]
    least = min(float(part.min()) for part in blocks)
    if least < 0:
        yield negative(call, block, least)
        return
    tolerance = sum_tolerance(target)
    if any(bool(((part.sum(1) - 1).abs() <= tolerance).all()) for part in blocks):
        return
    # Whole numbers beyond 1 are class indices: check 11 tells.
    if bool((block == block.round()).all()) and float(block.max()) > 1:
        return
    yield unnormalised(call, block)


def axes(call: Call, target: Tensor) -> list[int]:
    if call.function != "kl_div":
        return [call.class_dim]
    return [target.ndim - 1] if target.ndim == 1 else [1, *(axis for axis in range(target.ndim - 1, 1, -1))]


def whole_samples(call: Call, target: Tensor) -> list[Tensor]:
    """For kl_div also a distribution over all of a sample."""
    if call.function != "kl_div" or target.ndim < 3 or target.numel() // len(target) > MOST // ROWS:
        return []
    return [rows(target.flatten(1), 1)]


def logarithms(call: Call, target: Tensor, blocks: list[Tensor]) -> Iterator[Finding]:
    tolerance = log_sum_tolerance(target)
    if any(bool((block.logsumexp(1).abs() <= tolerance).all()) for block in blocks):
        return
    log_sum = float(blocks[0].logsumexp(1)[0])
    probabilities = float(blocks[0].min()) >= 0
    yield NOT_A_DISTRIBUTION.found(
        call.place,
        "error",
        seen=f"log_target=True, but log Σ exp of row 0 of target is {figure(log_sum)}, and of log-probabilities it is "
        "0.",
        why="kl_div takes exp(target) for the probabilities: they do not add up to 1, and the loss is no divergence.",
        fix="kl_div(input, target), without log_target"
        if probabilities
        else "kl_div(input, target, log_target=True) with a target from log_softmax",
    )


def negative(call: Call, block: Tensor, least: float) -> Finding:
    place = int((block == block.min()).any(1).nonzero()[0])
    logs = bool((block.logsumexp(1).abs() <= log_sum_tolerance(block)).all())
    if call.function == "kl_div":
        why = "kl_div takes the logarithm of target, which is NaN there."
        fix = "kl_div(input, target, log_target=True), if target holds log-probabilities"
    else:
        why = "A class of negative probability is rewarded for being improbable, without end: the loss falls below 0."
        fix = "cross_entropy(input, target.exp())" if logs else "cross_entropy(input, target.softmax(1))"
    return NOT_A_DISTRIBUTION.found(
        call.place,
        "error",
        seen=f"Row {place} of target holds {figure(least)}, and no probability is negative.",
        why=why,
        fix=fix,
    )


def unnormalised(call: Call, block: Tensor) -> Finding:
    sums = block.sum(1)
    row = int((sums - 1).abs().argmax())
    several = bool(((block == 0) | (block == 1)).all()) and float(sums.max()) > 1
    if several:
        return NOT_A_DISTRIBUTION.found(
            call.place,
            "error",
            seen=f"Row {row} of target holds {figure(float(sums[row]))} ones: several labels of one sample.",
            why=f"{call.function} lets the classes compete for a probability of 1, so that two labels can have half of "
            "it each at best, and the loss never reaches 0.",
            fix="binary_cross_entropy_with_logits(input, target)",
        )
    return NOT_A_DISTRIBUTION.found(
        call.place,
        "warning",
        seen=f"Row {row} of target adds up to {figure(float(sums[row]))}, not to 1.",
        why=f"{call.function} weighs each sample by its sum, as a sample weight would.",
        fix=f"{call.function}(input, target / target.sum(1, keepdim=True))",
    )


CHECK = Check(
    number=3,
    what="targets that are not a distribution",
    functions=("cross_entropy", "kl_div"),
    kinds=(NOT_A_DISTRIBUTION,),
    before=before,
)
