"""Pointwise losses through the C++ kernel."""

import torch
from torch import Tensor

from losskit.kernels.cpu.autograd import Definition, Each, Total
from losskit.kernels.cpu.extension import dtype_code, ext

# The codes of `Pointwise` in csrc/kernels.h.
L1, MSE, SMOOTH_L1, HUBER, BCE, BCE_WITH_LOGITS = range(6)
# The gradient by the target is minus that by the input.
SYMMETRIC = frozenset({L1, MSE, SMOOTH_L1, HUBER})


def lean_pointwise(
    kernel: int, input: Tensor, target: Tensor, parameter: float, reduction: str, definition: Definition
) -> Tensor | None:
    """A call without extra options on plain tensors; None where it is not one, or anything is wrong with it."""
    if ext is None:
        return None
    result = ext.lean_pointwise(kernel, input, target, parameter, reduction, kernel in SYMMETRIC)
    if type(result) is not list:
        return result  # type: ignore[no-any-return]

    def again(input: Tensor, target: Tensor, scale: float) -> Tensor:
        divisor = float(input.numel()) if reduction == "mean" else 1.0
        return ext.pointwise(  # type: ignore[no-any-return]
            kernel, input, target, parameter, None, None, None, None, True, divisor, scale, False, True, 0
        )[1]

    return Total.apply(input, target, result, (), again, definition)  # type: ignore[no-any-return]


def pointwise(
    kernel: int,
    input: Tensor,
    target: Tensor,
    parameter: float,
    reduction: str,
    out_dtype: torch.dtype,
    definition: Definition,
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

    def again(input: Tensor, target: Tensor, *rest: Tensor | float) -> Tensor:
        upstream = rest[-1]
        scale, grad_output = (upstream, None) if total else (1.0, upstream.contiguous())  # type: ignore[union-attr]
        return ext.pointwise(  # type: ignore[no-any-return]
            kernel, input, target, parameter, *factors, grad_output, True, divisor, scale, False, True, 0
        )[1]

    node = Total if total else Each
    others = [factor for factor in factors if factor is not None]
    return node.apply(input, target, list(result), others, again, definition)  # type: ignore[no-any-return]
