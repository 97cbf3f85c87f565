"""Connectionist temporal classification as an operator."""

from typing import Any

import torch
from torch import Tensor

from losskit.core.reduction import Reduction
from losskit.families import ctc
from losskit.families.operators.kept import keep, take
from losskit.families.operators.operator import Operator
from losskit.kernels import cpu


def _arguments(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer_tensor: Tensor | None,
    normalizer: float | None,
    function: str,
    blank: int,
    zero_infinity: bool,
    reduction: str,
    on_empty: str,
) -> tuple[Reduction, tuple[Tensor, Tensor, cpu.CtcFactors, int, bool, float, str]]:
    given = normalizer if normalizer_tensor is None else normalizer_tensor
    shape, samples = log_probs.shape[1:2], log_probs.shape[0]
    meaning = Reduction(function, reduction, shape, samples, sample_weight, mask, given, on_empty)
    arguments = ctc.kernel_arguments(meaning, log_probs, targets, input_lengths, target_lengths, blank, zero_infinity)
    return meaning, (*arguments, reduction)


def _forward(*everything: Any) -> tuple[Tensor, Tensor]:
    *given, out_dtype, needs_grad = everything
    reduction, arguments = _arguments(*given)
    result = cpu.evaluate_ctc_loss(*arguments, out_dtype, needs_grad)
    if result is None:
        log_probs, targets, (input_lengths, target_lengths, *_), blank, *_ = arguments
        raise ctc.kernel_error(reduction, log_probs, targets, input_lengths, target_lengths, blank)
    loss, gradient = result
    return loss, keep(gradient)


def _backward(grad_output: Tensor, owner: Tensor, *given: Any) -> Tensor:
    (gradient,) = take(owner) or [None]
    if gradient is not None and cpu.scale_gradient(gradient, grad_output):
        return gradient
    _, arguments = _arguments(*given)
    return cpu.ctc_loss_gradient(*arguments, grad_output)


def _fake(log_probs: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, reduction, _, out_dtype, _ = rest
    shape = log_probs.shape[1:2] if reduction == "none" else ()
    return log_probs.new_empty(shape, dtype=out_dtype), log_probs.new_empty(1, dtype=torch.uint8)


def _fake_backward(grad_output: Tensor, owner: Tensor, log_probs: Tensor, *_: Any) -> Tensor:
    # As the kernel writes it: contiguous, or samples first as log_probs.
    if not log_probs.is_contiguous() and log_probs.transpose(0, 1).is_contiguous():
        return torch.empty_strided(log_probs.shape, log_probs.stride(), dtype=log_probs.dtype, device=log_probs.device)
    return log_probs.new_empty(log_probs.shape)


def _differentiate(ctx: Any, grad_output: Tensor) -> list[Tensor | None]:
    return [torch.ops.losskit.ctc_loss_backward.default(grad_output, *ctx.saved_tensors, *ctx.options)]


OPERATOR = Operator(
    "ctc_loss",
    "Tensor log_probs, Tensor targets, Tensor input_lengths, Tensor target_lengths, Tensor? sample_weight, "
    "Tensor? mask, Tensor? normalizer_tensor",
    "float? normalizer, str function, SymInt blank, bool zero_infinity, str reduction, str on_empty",
    _forward,
    _fake,
    _backward,
    _fake_backward,
    _differentiate,
)
