"""Batches of sequences as one batch of rows: input (B, T, K) with a target of shape (B, T), or any leading shape."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from losskit.core import inputs
from losskit.core.scores import ClassStats
from losskit.errors import LosskitRuntimeError, LosskitValueError


def as_rows(
    function: str,
    input: Tensor,
    target: Tensor,
    classes: int,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    ignore_index: int,
    shift: int,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Input (N, K), target, sample_weight and mask with one row for each position of the leading shape.

    `shift` moves all that belongs to the labels to the position that many places before; nothing counts at the last.
    """
    leading = input.shape[:-1]
    probabilities = target.shape == (*leading, classes)
    if not probabilities and target.shape != leading:
        raise LosskitRuntimeError(
            f"{function}: input {inputs.shape_of(input)} takes a target of shape {tuple(leading)}, or "
            f"{(*leading, classes)} with class probabilities, got {inputs.shape_of(target)}."
        )
    inputs.check_mask(function, mask, leading)
    inputs.check_sample_weight(function, sample_weight, leading)
    target, sample_weight, mask = shifted(leading, classes, target, sample_weight, mask, ignore_index, shift)
    rows = leading.numel()
    return (
        input.reshape(rows, input.shape[-1]),
        target.reshape(rows, classes) if probabilities else target.reshape(rows),
        None if sample_weight is None else sample_weight.reshape(rows),
        None if mask is None else mask.reshape(rows),
    )


def shifted(
    leading: torch.Size,
    classes: int,
    target: Tensor,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    ignore_index: int,
    shift: int,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Target, sample_weight and mask in the leading shape, `shift` places before; what comes in counts for nothing."""
    sample_weight = None if sample_weight is None else sample_weight.expand(leading)
    mask = None if mask is None else mask.expand(leading)
    if shift == 0:
        return target, sample_weight, mask
    shift = min(shift, leading[-1])
    if target.shape == (*leading, classes):
        target = pad(target[..., shift:, :], (0, 0, 0, shift))
        mask = target.new_ones(leading, dtype=torch.bool) if mask is None else mask
    elif target.dtype in inputs.INDEX_DTYPES:
        # uint8 has no room for −100. Other dtypes are refused where indices are.
        target = pad(target.long()[..., shift:], (0, shift), value=ignore_index)
    sample_weight = None if sample_weight is None else pad(sample_weight[..., shift:], (0, shift))
    mask = None if mask is None else pad(mask[..., shift:], (0, shift), value=False)
    return target, sample_weight, mask


def check_sequences(function: str, shift: int, input: Tensor) -> None:
    if shift > 0 and input.ndim < 3:
        raise LosskitValueError(
            f"{function}: shift={shift} needs sequences, an input of shape (B, T, K), got {inputs.shape_of(input)}: "
            "input.unsqueeze(0)?"
        )


def in_shape(result: Tensor | tuple[Tensor, ClassStats], leading: torch.Size) -> Tensor | tuple[Tensor, ClassStats]:
    """The result of the rows in the leading shape, where it has one number for each."""
    if isinstance(result, Tensor):
        return result.reshape(leading) if result.ndim else result
    loss, stats = result
    return loss.reshape(leading) if loss.ndim else loss, ClassStats(*(each.reshape(leading) for each in stats))
