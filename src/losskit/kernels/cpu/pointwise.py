"""Pointwise losses through the C++ kernel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from losskit.kernels.cpu.autograd import Each, Total
from losskit.kernels.cpu.extension import dtype_code, ext

# The codes of `Pointwise` in csrc/kernels.h.
L1, MSE, SMOOTH_L1, HUBER, BCE, BCE_WITH_LOGITS = range(6)
# The gradient by the target is minus that by the input.
SYMMETRIC = frozenset({L1, MSE, SMOOTH_L1, HUBER})


def lean_pointwise(
    kernel: int,
    input: Tensor,
    target: Tensor,
    parameter: float,
    reduction: str,
    function: Callable[..., Tensor],
    options: dict[str, float] | None = None,
) -> Tensor | None:
    """A call without extra options on plain tensors; None where it is not one, or anything is wrong with it.

    `function` is the public function and `options` what it needs beside input, target and reduction, for derivatives of
    the gradient.
    """
    if ext is None:
        return None
    result = ext.lean_pointwise(kernel, input, target, parameter, reduction, kernel in SYMMETRIC)
    if type(result) is not list:
        return result  # type: ignore[no-any-return]
    call = (_lean_gradient, _lean_definition, (kernel, parameter, reduction, function, options))
    return Total.apply(input, target, result, (), call)  # type: ignore[no-any-return]


def _lean_gradient(state: Any, saved: tuple[Tensor, ...], upstream: float) -> Tensor:
    kernel, parameter, reduction, _, _ = state
    divisor = float(saved[0].numel()) if reduction == "mean" else 1.0
    return ext.pointwise(  # type: ignore[no-any-return]
        kernel, *saved, parameter, None, None, None, None, True, divisor, upstream, False, True, 0
    )[1]


def _lean_definition(state: Any, input: Tensor, target: Tensor) -> Tensor:
    _, _, reduction, function, options = state
    return function(input, target, reduction=reduction, backend="reference", **options or {})  # type: ignore[no-any-return]


def pointwise(
    kernel: int,
    input: Tensor,
    target: Tensor,
    parameter: float,
    reduction: str,
    out_dtype: torch.dtype,
    definition: Callable[[Tensor, Tensor], Tensor],
    *,
    weight: Tensor | None,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    divisor: float,
) -> Tensor | None:
    """The loss of contiguous tensors of one shape; None where a value lies outside the domain of the loss."""
    total = reduction != "none"
    needs_grad = torch.is_grad_enabled() and (input.requires_grad or target.requires_grad)
    code = dtype_code(out_dtype)
    factors = (weight, mask, pos_weight)
    result = ext.pointwise(
        kernel, input, target, parameter, *factors, None, total, divisor, 1.0, True, needs_grad and total, code
    )
    if result is None:
        return None
    loss: Tensor = result[0]
    if not needs_grad:
        return loss

    def gradient(_: Any, saved: tuple[Tensor, ...], upstream: Any) -> Tensor:
        scale, grad_output = (upstream, None) if total else (1.0, upstream)
        return ext.pointwise(  # type: ignore[no-any-return]
            kernel, *saved[:2], parameter, *factors, grad_output, True, divisor, scale, False, True, 0
        )[1]

    node = Total if total else Each
    others = tuple(factor for factor in factors if factor is not None)
    call = (gradient, lambda _, input, target: definition(input, target), None)
    return node.apply(input, target, list(result), others, call)  # type: ignore[no-any-return]
