"""Connectionist temporal classification through the C++ kernel."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.errors import LosskitRuntimeError
from losskit.kernels.cpu.autograd import join
from losskit.kernels.cpu.extension import dtype_code, ext

# input_lengths, target_lengths; weight and mask of each sample
CtcFactors = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def ctc_layout(log_probs: Tensor) -> bool:
    """Whether the kernel takes log_probs as they lie: frames or samples first, classes last."""
    return ext.has_ctc_layout(log_probs)


def _run(
    log_probs: Tensor,
    targets: Tensor,
    factors: CtcFactors,
    blank: int,
    zero_infinity: bool,
    reduction: str,
    **more: Any,
) -> tuple[Any, Any] | None:
    input_lengths, target_lengths, weight, mask = factors
    return ext.ctc(
        log_probs=log_probs,
        targets=targets,
        input_lengths=input_lengths,
        target_lengths=target_lengths,
        blank=blank,
        zero_infinity=zero_infinity,
        per_label=reduction == "mean",
        weight=weight,
        mask=mask,
        **more,
    )


def join_lean_ctc(
    result: list[Tensor],
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | Sequence[int],
    target_lengths: Tensor | Sequence[int],
    blank: int,
    reduction: str,
    zero_infinity: bool,
    function: Callable[..., Tensor],
) -> Tensor:
    """The result [loss, gradient] of `lean_ctc` as a node of the graph. `function` is the public function."""
    # A list may change before the backward pass, which needs the numbers of now; a tensor that changes is noticed.
    given = (input_lengths, target_lengths)
    saved = tuple(lengths for lengths in given if isinstance(lengths, Tensor))
    state = ([lengths if isinstance(lengths, Tensor) else tuple(lengths) for lengths in given], blank, reduction)
    call = (_lean_gradient, _lean_definition, (*state, zero_infinity, function))
    return join(log_probs, targets, result[0], result.pop(), saved, call, True)


def _lean_gradient(state: Any, saved: tuple[Tensor, ...], upstream: float) -> Tensor:
    lengths, blank, reduction, zero_infinity, _ = state
    frames, labels = (length if isinstance(length, Tensor) else torch.tensor(length) for length in lengths)
    divisor = float(saved[0].shape[1]) if reduction == "mean" else 1.0
    return _gradient(saved, (frames, labels, None, None), blank, zero_infinity, reduction, None, divisor, upstream)


def _lean_definition(state: Any, log_probs: Tensor, targets: Tensor) -> Tensor:
    lengths, blank, reduction, zero_infinity, function = state
    loss: Tensor = function(log_probs, targets, *lengths, blank, reduction, zero_infinity, backend="reference")
    return loss


def _gradient(
    saved: tuple[Tensor, ...],
    factors: CtcFactors,
    blank: int,
    zero_infinity: bool,
    reduction: str,
    grad_output: Tensor | None,
    divisor: float,
    upstream: float,
) -> Tensor:
    result = _run(
        saved[0],
        saved[1],
        factors,
        blank,
        zero_infinity,
        reduction,
        grad_output=grad_output,
        total=True,
        divisor=divisor,
        upstream=upstream,
        want_loss=False,
        want_grad=True,
        out_dtype=0,
    )
    if result is None:
        # The forward pass took these; autograd would have seen a change by an operation that it knows of.
        raise LosskitRuntimeError("ctc_loss: a length or a label has left its range since the forward pass.")
    gradient: Tensor = result[1]
    return gradient


def evaluate_ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    factors: CtcFactors,
    blank: int,
    zero_infinity: bool,
    divisor: float,
    reduction: str,
    out_dtype: torch.dtype,
    want_grad: bool,
) -> tuple[Tensor, Tensor | None] | None:
    """The loss, and its gradient where it is wanted; None for a length or a label out of range.

    The gradient of single losses is not computed: its grad_output is not known yet.
    """
    total = reduction != "none"
    result = _run(
        log_probs,
        targets,
        factors,
        blank,
        zero_infinity,
        reduction,
        grad_output=None,
        total=total,
        divisor=divisor,
        upstream=1.0,
        want_loss=True,
        want_grad=want_grad and total,
        out_dtype=dtype_code(out_dtype),
    )
    if result is None:
        return None
    loss, grad = result
    return loss if total else loss.to(out_dtype), grad


def ctc_loss_gradient(
    log_probs: Tensor,
    targets: Tensor,
    factors: CtcFactors,
    blank: int,
    zero_infinity: bool,
    divisor: float,
    reduction: str,
    grad_output: Tensor,
) -> Tensor:
    """The gradient by log_probs of the loss times `grad_output`."""
    saved = (log_probs, targets)
    if reduction == "none":
        upstream = grad_output.float().contiguous()
        return _gradient(saved, factors, blank, zero_infinity, reduction, upstream, divisor, 1.0)
    return _gradient(saved, factors, blank, zero_infinity, reduction, None, divisor, float(grad_output))


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    factors: CtcFactors,
    blank: int,
    zero_infinity: bool,
    divisor: float,
    reduction: str,
    out_dtype: torch.dtype,
    definition: Callable[[Tensor, Tensor], Tensor],
) -> Tensor | None:
    """The loss of log_probs (T, N, C) in a layout that the kernel takes; None for a length or a label out of range.

    `definition` is the loss as a function of log_probs and targets.
    """
    total = reduction != "none"
    needs_grad = torch.is_grad_enabled() and log_probs.requires_grad
    result = evaluate_ctc_loss(
        log_probs, targets, factors, blank, zero_infinity, divisor, reduction, out_dtype, needs_grad
    )
    if result is None:
        return None
    loss, grad = result
    if not needs_grad:
        return loss

    def gradient(_: Any, saved: tuple[Tensor, ...], upstream: Any) -> Tensor:
        if total:
            return _gradient(saved, factors, blank, zero_infinity, reduction, None, divisor, upstream)
        return _gradient(saved, factors, blank, zero_infinity, reduction, upstream.float(), divisor, 1.0)

    others = tuple(factor for factor in factors if factor is not None)
    call = (gradient, lambda _, log_probs, targets: definition(log_probs, targets), None)
    return join(log_probs, targets, loss, grad, others, call, total)
