"""Check 7: targets of a sequence that are a place off."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from losskit.core.precision import widen
from losskit.diagnosis.call import Call
from losskit.diagnosis.check import Check
from losskit.diagnosis.finding import Finding, Kind, figure
from losskit.diagnosis.history import History
from losskit.diagnosis.samples import MOST

__all__ = ["CHECK"]

LABEL_SHIFT = Kind("label-shift", 7, "targets of a sequence that are a place off")

SHIFTS = (-1, 0, 1, 2)
SEQUENCES, POSITIONS = 4, 64
# By chance the loss of fewer positions may be lower after a shift.
LEAST_POSITIONS = 32
# Only a model that has learned something can tell: its best loss is below this part of log V.
LEARNED = 0.8
# Nats by which another shift has to win.
MARGIN = 0.5


def before(call: Call, history: History) -> Iterator[Finding]:
    if call.indices is None or call.classes < 2:
        return
    scores, target = sequences(call, call.indices)
    if target is None or scores is None:
        return
    # The best that any targets could give.
    if -float(scores.amax(-1).mean()) >= LEARNED * math.log(call.classes):
        return
    losses = {shift: mean_loss(call, scores, target, shift) for shift in SHIFTS}
    declared = losses.pop(0)
    best = min(losses, key=lambda shift: losses[shift])
    if not (losses[best] < LEARNED * math.log(call.classes) and declared - losses[best] > MARGIN):
        return
    places = f"{best} place{'s' if best > 1 else ''} later" if best > 0 else "a place earlier"
    yield LABEL_SHIFT.found(
        call.place,
        "error",
        seen=f"The loss of the first {target.numel()} positions is {figure(declared)}, and against the targets "
        f"{places} it is {figure(losses[best])}.",
        why="The scores at a position predict the token after it. Trained against other targets, the model learns to "
        "copy or to skip."
        if best > 0
        else "The targets were shifted twice, by the model and by the script, say: the model learns to skip a token.",
        fix=f"{call.function}(logits[:, :-{best}].flatten(0, 1), tokens[:, {best}:].flatten())"
        if best > 0
        else f"{call.function}(logits.flatten(0, 1), target.flatten()), with a target that is shifted once",
    )


def sequences(call: Call, indices: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Scores (rows, positions, classes) and targets (rows, positions): four rows, or the start of a flattened batch."""
    room = max(MOST // call.classes, LEAST_POSITIONS + 2)
    if call.x.ndim == 3 and indices.ndim == 2:
        positions = min(POSITIONS, indices.shape[1], max(room // SEQUENCES, 4))
        scores, target = call.x[:SEQUENCES, :, :positions].movedim(1, 2), indices[:SEQUENCES, :positions]
    elif call.x.ndim == 2 and indices.ndim == 1:
        positions = min(SEQUENCES * POSITIONS, room)
        scores, target = call.x[:positions].unsqueeze(0), indices[:positions].unsqueeze(0)
    else:
        return None, None
    target = target.long()
    if scores.shape[:2] != target.shape or target.numel() < LEAST_POSITIONS or target.shape[1] < 4:
        return None, None
    scores = widen(scores)
    return (scores.log_softmax(-1) if call.function == "cross_entropy" else scores), target


def mean_loss(call: Call, scores: Tensor, target: Tensor, shift: int) -> float:
    """Of the scores at each place against the target `shift` places later; inf where too few places are left."""
    length = target.shape[1]
    first, last = max(-shift, 0), length - max(shift, 0)
    scores, target = scores[:, first:last], target[:, first + shift : last + shift]
    counts = (target != call.ignore_index) & (target >= 0) & (target < call.classes)
    if int(counts.sum()) < LEAST_POSITIONS // 2:
        return math.inf
    values = -scores.gather(-1, target.clamp(0, call.classes - 1).unsqueeze(-1)).squeeze(-1)
    return float(torch.where(counts, values, 0.0).sum() / counts.sum())


CHECK = Check(
    number=7,
    what="targets of a sequence that are a place off",
    functions=("cross_entropy", "nll_loss"),
    kinds=(LABEL_SHIFT,),
    before=before,
)
