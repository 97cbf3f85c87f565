"""Pointwise losses through the C++ kernel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from losskit.errors import LosskitRuntimeError
from losskit.kernels.cpu.autograd import join
from losskit.kernels.cpu.extension import dtype_code, ext

# The codes of `Pointwise` in csrc/kernels.h.
L1, MSE, SMOOTH_L1, HUBER, BCE, BCE_WITH_LOGITS = range(6)
# The gradient by the target is minus that by the input.
SYMMETRIC = frozenset({L1, MSE, SMOOTH_L1, HUBER})


def join_lean_pointwise(
    result: list[Tensor],
    kernel: int,
    input: Tensor,
    target: Tensor,
    parameter: float,
    reduction: str,
    function: Callable[..., Tensor],
    options: dict[str, float] | None = None,
) -> Tensor:
    """The result [loss, gradient] of `lean_pointwise` as a node of the graph.

    `function` is the public function and `options` what it needs beside input, target and reduction, for derivatives of
    the gradient.
    """
    call = (_lean_gradient, _lean_definition, (kernel, parameter, reduction, function, options))
    return join(input, target, result[0], result.pop(), (), call, True)


def _lean_gradient(state: Any, saved: tuple[Tensor, ...], upstream: float) -> Tensor:
    kernel, parameter, reduction, _, _ = state
    divisor = float(saved[0].numel()) if reduction == "mean" else 1.0
    return _gradient(kernel, saved, parameter, (None, None, None), None, divisor, upstream)


# weight, mask and pos_weight, each of the shape of the input.
Factors = tuple[Tensor | None, Tensor | None, Tensor | None]


def _gradient(
    kernel: int,
    saved: tuple[Tensor, ...],
    parameter: float,
    factors: Factors,
    grad_output: Tensor | None,
    divisor: float,
    upstream: float,
) -> Tensor:
    weight, mask, pos_weight = factors
    result = ext.pointwise(
        loss=kernel,
        input=saved[0],
        target=saved[1],
        parameter=parameter,
        weight=weight,
        mask=mask,
        pos_weight=pos_weight,
        grad_output=grad_output,
        total=True,
        divisor=divisor,
        upstream=upstream,
        want_loss=False,
        want_grad=True,
        out_dtype=0,
    )
    if result is None:
        # The forward pass took these values; autograd would have seen a change by an operation that it knows of.
        raise LosskitRuntimeError("a value of input or target has left [0, 1] since the forward pass.")
    gradient: Tensor = result[1]
    return gradient


def _lean_definition(state: Any, input: Tensor, target: Tensor) -> Tensor:
    _, _, reduction, function, options = state
    loss: Tensor = function(input, target, reduction=reduction, backend="reference", **options or {})
    return loss


def evaluate_pointwise(
    kernel: int,
    input: Tensor,
    target: Tensor,
    parameter: float,
    factors: Factors,
    divisor: float,
    reduction: str,
    out_dtype: torch.dtype,
    want_grad: bool,
) -> tuple[Tensor, Tensor | None] | None:
    """The loss, and its gradient where it is wanted; None where a value lies outside the domain of the loss.

    The gradient of single losses is not computed: its grad_output is not known yet.
    """
    weight, mask, pos_weight = factors
    total = reduction != "none"
    result: tuple[Tensor, Tensor | None] | None = ext.pointwise(
        loss=kernel,
        input=input,
        target=target,
        parameter=parameter,
        weight=weight,
        mask=mask,
        pos_weight=pos_weight,
        grad_output=None,
        total=total,
        divisor=divisor,
        upstream=1.0,
        want_loss=True,
        want_grad=want_grad and total,
        out_dtype=dtype_code(out_dtype),
    )
    return result


def pointwise_gradient(
    kernel: int,
    input: Tensor,
    target: Tensor,
    parameter: float,
    factors: Factors,
    divisor: float,
    reduction: str,
    grad_output: Tensor,
) -> Tensor:
    """The gradient by the input of the loss times `grad_output`."""
    if reduction == "none":
        return _gradient(kernel, (input, target), parameter, factors, grad_output.contiguous(), divisor, 1.0)
    return _gradient(kernel, (input, target), parameter, factors, None, divisor, float(grad_output))


def pointwise(
    kernel: int,
    input: Tensor,
    target: Tensor,
    parameter: float,
    factors: Factors,
    divisor: float,
    reduction: str,
    out_dtype: torch.dtype,
    definition: Callable[[Tensor, Tensor], Tensor],
) -> Tensor | None:
    """The loss of contiguous tensors of one shape; None where a value lies outside the domain of the loss."""
    total = reduction != "none"
    needs_grad = torch.is_grad_enabled() and (input.requires_grad or target.requires_grad)
    result = evaluate_pointwise(kernel, input, target, parameter, factors, divisor, reduction, out_dtype, needs_grad)
    if result is None:
        return None
    loss, grad = result
    if not needs_grad:
        return loss

    def gradient(_: Any, saved: tuple[Tensor, ...], upstream: Any) -> Tensor:
        if total:
            return _gradient(kernel, saved, parameter, factors, None, divisor, upstream)
        return _gradient(kernel, saved, parameter, factors, upstream, divisor, 1.0)

    others = tuple(factor for factor in factors if factor is not None)
    call = (gradient, lambda _, input, target: definition(input, target), None)
    return join(input, target, loss, grad, others, call, total)
