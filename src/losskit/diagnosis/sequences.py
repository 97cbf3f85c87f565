"""The labels of a CTC call, sample by sample."""

from typing import NamedTuple

import torch
from torch import Tensor

from losskit.core import inputs
from losskit.diagnosis.call import Call
from losskit.diagnosis.readable import plain
from losskit.errors import LosskitError
from losskit.losses.ctc import padded_labels

__all__ = ["CtcLabels", "ctc_labels", "ctc_lengths"]


class CtcLabels(NamedTuple):
    """`values` (N, S), of which `counted` are labels and the rest is padding."""

    values: Tensor
    counted: Tensor


def ctc_lengths(call: Call) -> tuple[Tensor, Tensor] | None:
    """Frames and labels of each sample; None where they are not what ctc_loss takes, which the call itself tells."""
    batch = call.x.shape[1] if call.x.ndim == 3 else 1
    found = []
    for name in ("input_lengths", "target_lengths"):
        lengths = call.arguments[name]
        lengths = plain(lengths) if isinstance(lengths, Tensor) else lengths
        try:
            found.append(inputs.ctc_lengths("ctc_loss", name, lengths, batch, torch.empty(0)))
        except LosskitError:
            return None
    return found[0], found[1]


def ctc_labels(call: Call) -> CtcLabels | None:
    """None where the lengths do not fit the tensors: check 10 tells."""
    lengths = ctc_lengths(call)
    if lengths is None or call.y is None or call.x.ndim not in (2, 3):
        return None
    frames, counts = lengths
    target = call.y.cpu()
    try:
        inputs.check_plain_ctc_lengths("ctc_loss", call.x.shape[0], target, frames, counts)
    except LosskitError:
        return None
    longest = int(counts.max()) if counts.numel() else 0
    values = padded_labels(target, counts, longest, 0)
    return CtcLabels(values, torch.arange(longest) < counts.unsqueeze(1))
