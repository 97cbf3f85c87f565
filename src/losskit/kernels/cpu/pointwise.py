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


def _gradient(
    kernel: int,
    saved: tuple[Tensor, ...],
    parameter: float,
    factors: tuple[Tensor | None, Tensor | None, Tensor | None],
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


def pointwise(
    kernel: int,
    input: Tensor,
    target: Tensor,
    parameter: float,
    reduction: str,
    out_dtype: torch.dtype,
    definition: Callable[[Tensor, Tensor], Tensor],
    factors: tuple[Tensor | None, Tensor | None, Tensor | None],
    divisor: float,
) -> Tensor | None:
    """The loss of contiguous tensors of one shape; None where a value lies outside the domain of the loss.

    `factors` are weight, mask and pos_weight, each of that shape.
    """
    total = reduction != "none"
    needs_grad = torch.is_grad_enabled() and (input.requires_grad or target.requires_grad)
    weight, mask, pos_weight = factors
    result = ext.pointwise(
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
        want_grad=needs_grad and total,
        out_dtype=dtype_code(out_dtype),
    )
    if result is None:
        return None
    loss: Tensor = result[0]
    if not needs_grad:
        return loss

    def gradient(_: Any, saved: tuple[Tensor, ...], upstream: Any) -> Tensor:
        if total:
            return _gradient(kernel, saved, parameter, factors, None, divisor, upstream)
        return _gradient(kernel, saved, parameter, factors, upstream, divisor, 1.0)

    others = tuple(factor for factor in factors if factor is not None)
    call = (gradient, lambda _, input, target: definition(input, target), None)
    return join(input, target, loss, result[1], others, call, total)
