"""Check 2: losses of log-probabilities that get something else."""

from collections.abc import Iterator

from torch import Tensor

from losskit.diagnosis.call import Call
from losskit.diagnosis.check import Check
from losskit.diagnosis.finding import Finding, Kind, figure
from losskit.diagnosis.history import History
from losskit.diagnosis.samples import (
    MOST,
    ROWS,
    columns_are_normalised,
    log_sum_tolerance,
    look_like_probabilities,
    rows,
    sum_tolerance,
)

__all__ = ["CHECK"]

NOT_LOG_PROBABILITIES = Kind("not-log-probabilities", 2, "probabilities or raw scores where log-probabilities belong")


def before(call: Call, history: History) -> Iterator[Finding]:
    if call.x.ndim == 0 or call.x.numel() == 0:
        return
    found = [rows(call.x, axis) for axis in axes(call)] + whole_samples(call)
    # A NaN, or a row of −inf alone, is another fault.
    if not found or any(not bool(block.logsumexp(1).isfinite().all()) for block in found):
        return
    if any(is_normalised(block, log_sum_tolerance(call.x)) for block in found):
        return
    probabilities = next((block for block in found if look_like_probabilities(block, sum_tolerance(call.x))), None)
    if probabilities is not None:
        yield on_probabilities(call, probabilities)
    # Normalised along another axis: check 6 tells.
    elif call.function == "ctc_loss" or columns_are_normalised(call.x, call.class_dim) is None:
        yield on_scores(call, found[0])


def axes(call: Call) -> list[int]:
    """Where the classes may be: kl_div does not say, as it adds up whatever it gets."""
    if call.function != "kl_div" or call.x.ndim == 1:
        return [call.class_dim]
    return [1, *(axis for axis in range(call.x.ndim - 1, 1, -1))]


def whole_samples(call: Call) -> list[Tensor]:
    """For kl_div also a distribution over all of a sample, such as a map of places."""
    if call.function != "kl_div" or call.x.ndim < 3 or call.x.numel() // len(call.x) > MOST // ROWS:
        return []
    return [rows(call.x.flatten(1), 1)]


def is_normalised(block: Tensor, tolerance: float) -> bool:
    return bool((block.logsumexp(1).abs() <= tolerance).all())


def on_probabilities(call: Call, found: Tensor) -> Finding:
    name, dim = call.input_name, call.class_dim
    fixes = {
        "nll_loss": f"nll_loss(log_softmax(logits, {dim}), target), or cross_entropy(logits, target)",
        "kl_div": "kl_div(log_softmax(logits, 1), target)",
        "ctc_loss": "ctc_loss(log_softmax(logits, 2), …)",
    }
    return NOT_LOG_PROBABILITIES.found(
        call.place,
        "error",
        seen=f"The first {len(found)} rows of {name} hold no negative number and each adds up to 1: probabilities, not "
        "their logarithms.",
        why=f"{call.function} takes logarithms: {consequence(call)}",
        fix=fixes[call.function],
    )


def consequence(call: Call) -> str:
    if call.function == "nll_loss":
        return (
            "of probabilities it lies between −1, where the prediction is perfect, and 0, and its gradient does not "
            "grow where the prediction is wrong."
        )
    if call.function == "kl_div":
        return "of probabilities it is no divergence, and below 0 where the two distributions are the same."
    return "of probabilities it is no likelihood of the labels."


def on_scores(call: Call, found: Tensor) -> Finding:
    log_sums = found.logsumexp(1)
    row = int(log_sums.abs().argmax())
    fixes = {
        "nll_loss": f"cross_entropy(logits, target), or nll_loss(log_softmax(logits, {call.class_dim}), target)",
        "kl_div": "kl_div(log_softmax(logits, 1), target)",
        "ctc_loss": "ctc_loss(log_softmax(logits, 2), …)",
    }
    return NOT_LOG_PROBABILITIES.found(
        call.place,
        "error",
        seen=f"log Σ exp of row {row} of {call.input_name} is {figure(float(log_sums[row]))}, and of log-probabilities "
        "it is 0.",
        why=f"{call.function} does not normalise: raising every score lowers the loss without end, and nothing has to "
        "be learned for it.",
        fix=fixes[call.function],
    )


CHECK = Check(
    number=2,
    what="losses of log-probabilities that get something else",
    functions=("ctc_loss", "kl_div", "nll_loss"),
    kinds=(NOT_LOG_PROBABILITIES,),
    before=before,
)
