"""Check 10: CTC labels that do not fit their frames."""

from collections.abc import Iterator

from losskit import functional
from losskit.core import inputs
from losskit.diagnosis.call import Call
from losskit.diagnosis.check import Check
from losskit.diagnosis.finding import Finding, Kind
from losskit.diagnosis.history import History
from losskit.diagnosis.sequences import ctc_labels, ctc_lengths
from losskit.errors import LosskitError

__all__ = ["CHECK"]

TOO_SHORT = Kind("ctc-too-short", 10, "more labels than the frames of a sample can hold")
OUT_OF_RANGE = Kind("ctc-out-of-range", 10, "labels that are no class, or lengths beyond their tensor")


def before(call: Call, history: History) -> Iterator[Finding]:
    lengths = ctc_lengths(call)
    if lengths is None or call.y is None or call.x.ndim not in (2, 3) or call.y.ndim not in (1, 2):
        return
    frames, counts = lengths
    targets = call.y.cpu()
    try:
        inputs.check_plain_ctc_lengths("ctc_loss", call.x.shape[0], targets, frames, counts)
    except LosskitError as error:
        yield wrong_lengths(call, str(error))
        return
    labels = ctc_labels(call)
    if labels is None:
        return
    try:
        inputs.check_plain_ctc_labels("ctc_loss", labels.values, counts, call.classes, None)
    except LosskitError as error:
        yield out_of_range(call, str(error))
        return
    sentences = functional.explain_ctc(targets, frames, counts)
    if sentences:
        yield too_short(call, sentences)


def wrong_lengths(call: Call, sentence: str) -> Finding:
    return OUT_OF_RANGE.found(
        call.place,
        "error",
        seen=sentence.removeprefix("ctc_loss: "),
        why="There are no such frames or labels: the call raises an error.",
        fix="ctc_loss(log_probs, targets, input_lengths, target_lengths), with lengths within the tensors",
    )


def out_of_range(call: Call, sentence: str) -> Finding:
    return OUT_OF_RANGE.found(
        call.place,
        "error",
        seen=sentence.removeprefix("ctc_loss: "),
        why="torch reads what lies beside the tensor there: a loss of no meaning, or the end of the program.",
        fix="losskit.functional.ctc_loss(…), which raises this as an error",
    )


def too_short(call: Call, sentences: list[str]) -> Finding:
    more = len(sentences) - 1
    hidden = bool(call.arguments.get("zero_infinity"))
    return TOO_SHORT.found(
        call.place,
        "info" if hidden else "error",
        seen=sentences[0].removeprefix("ctc_loss: ").removesuffix(": its loss is inf.")
        + (
            f", and {more} more samples are too short." if more > 1 else ", and one more is too short." if more else "."
        ),
        why="zero_infinity=True makes the loss of such a sample 0: it teaches nothing, and lowers the mean."
        if hidden
        else "No path through the frames spells the labels: the loss is inf and its gradient NaN.",
        fix="ctc_loss(…) without these samples, or frames at a higher rate"
        if hidden
        else "ctc_loss(…, zero_infinity=True), without these samples, or frames at a higher rate",
    )


CHECK = Check(
    number=10,
    what="CTC labels that do not fit their frames",
    functions=("ctc_loss",),
    kinds=(TOO_SHORT, OUT_OF_RANGE),
    before=before,
)
