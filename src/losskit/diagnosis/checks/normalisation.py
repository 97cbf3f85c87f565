"""Check 8: what the mean divides by."""

from collections.abc import Iterator

import torch

from losskit.diagnosis.call import CLASS_INDEX_LOSSES, Call
from losskit.diagnosis.check import Check
from losskit.diagnosis.finding import Finding, Kind, Severity, figure
from losskit.diagnosis.history import History
from losskit.diagnosis.steps import steps
from losskit.replace import FUNCTIONS

__all__ = ["CHECK"]

NOTHING_COUNTS = Kind("nothing-counts", 8, "a batch of which every target is ignored")
MEAN_OF_MEANS = Kind("mean-of-means", 8, "means over micro-batches of different size, averaged")
WEIGHTS_CANCEL = Kind("weights-cancel", 8, "class weights that the mean divides out again")

# How much the number of losses that count may vary.
VARIES = 2.0
# Calls per optimizer step from which gradients are taken to be accumulated.
ACCUMULATES = 1.9


def before(call: Call, history: History) -> Iterator[Finding]:
    if call.x.numel() == 0:
        return
    if call.counted == 0:
        if call.arguments.get("on_empty", "nan") == "nan":
            yield nothing_counts(call)
        return
    weight = call.arguments.get("weight")
    if isinstance(weight, torch.Tensor) and call.reduction == "mean" and call.function in CLASS_INDEX_LOSSES:
        yield from weights_cancel(call, weight.detach())


def nothing_counts(call: Call) -> Finding:
    mean = call.reduction == "mean" and call.arguments.get("normalizer") is None
    what = f"equal ignore_index = {call.ignore_index}" if call.arguments.get("mask") is None else "are masked"
    return NOTHING_COUNTS.found(
        call.place,
        "error" if mean else "warning",
        seen=f"All {call.indices.numel() if call.indices is not None else call.x.numel()} targets {what}.",
        why="The mean of no losses is 0 / 0 = NaN, and one such step makes every parameter NaN."
        if mean
        else "The loss is 0 and has no gradient: the batch teaches nothing.",
        fix=f"losskit.functional.{call.function}(…, on_empty='zero'), or leave such batches out"
        if mean
        else "leave such batches out",
    )


def weights_cancel(call: Call, weight: torch.Tensor) -> Iterator[Finding]:
    counted = call.counted_indices
    # multi_margin_loss divides by the number of samples, so that its weights stay.
    if counted is None or counted.numel() == 0 or call.function == "multi_margin_loss":
        return
    least, most = (int(value) for value in counted.aminmax())
    if least != most or not 0 <= least < weight.numel() or float(weight.min()) == float(weight.max()):
        return
    yield WEIGHTS_CANCEL.found(
        call.place,
        "warning",
        seen=f"The batch holds one class, {least}, with the weight {figure(float(weight[least]))}, and nothing else: "
        f"{counted.numel()} target{'s' if counted.numel() > 1 else ''}.",
        why="The mean divides by the sum of the weights, which cancels them: this batch counts as if there were no "
        "class weights.",
        fix=f"losskit.functional.{call.function}(…, weight=weight, normalizer=len(target))",
    )


def conclude(history: History) -> Iterator[Finding]:
    """Over the training calls that were checked."""
    least, most = history.least_counted, history.most_counted
    if history.place is None or least is None or most <= VARIES * least:
        return
    made = steps() - history.first_steps
    accumulates = made > 0 and history.training_calls / made >= ACCUMULATES
    ranks = world_size()
    if not accumulates and ranks == 1 and not history.ignores:
        return
    severity: Severity = "warning" if accumulates or ranks > 1 else "info"
    if accumulates:
        over = f"{history.training_calls / made:.1f} calls make one step of the optimizer"
    else:
        over = f"{ranks} ranks average their gradients" if ranks > 1 else "no gradients are accumulated"
    yield MEAN_OF_MEANS.found(
        history.place,
        severity,
        seen=f"Under reduction='mean' between {least} and {most} losses count in a call, and {over}.",
        why=f"Each call has the same weight: a loss in the smallest counts {figure(most / least)} times as much as one "
        "in the largest. The sum of such gradients is not that of the whole batch."
        if severity == "warning"
        else "That is no fault as long as each call makes a step of its own. Accumulated, or averaged over ranks, a "
        f"loss in the smallest call would count {figure(most / least)} times as much as one in the largest.",
        fix=f"losskit.functional.{history.place.function}(…, normalizer=losses_of_all_micro_batches)",
    )


def world_size() -> int:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


CHECK = Check(
    number=8,
    what="what the mean divides by",
    functions=FUNCTIONS,
    kinds=(NOTHING_COUNTS, MEAN_OF_MEANS, WEIGHTS_CANCEL),
    before=before,
    conclude=conclude,
)
