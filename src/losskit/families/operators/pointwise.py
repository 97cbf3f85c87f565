"""Losses of one number against another as an operator."""

from typing import Any

import torch
from torch import Tensor

from losskit.core.reduction import Reduction
from losskit.families import pointwise
from losskit.families.operators.kept import keep, take
from losskit.families.operators.operator import Operator
from losskit.kernels import cpu


def _arguments(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer_tensor: Tensor | None,
    normalizer: float | None,
    function: str,
    kernel: int,
    parameter: float,
    weight_divides: bool,
    reduction: str,
    on_empty: str,
) -> tuple[Reduction, tuple[int, Tensor, Tensor, float, cpu.Factors, float, str]]:
    given = normalizer if normalizer_tensor is None else normalizer_tensor
    samples = input.shape[0] if input.ndim else 1
    meaning = Reduction(function, reduction, input.shape, samples, sample_weight, mask, given, on_empty)
    arguments = pointwise.kernel_arguments(meaning, weight, weight_divides, pos_weight, parameter, input, target)
    return meaning, (kernel, *arguments, reduction)


def _forward(*everything: Any) -> tuple[Tensor, Tensor]:
    *given, out_dtype, needs_grad = everything
    reduction, arguments = _arguments(*given)
    result = cpu.evaluate_pointwise(*arguments, out_dtype, needs_grad)
    if result is None:
        raise pointwise.kernel_error(reduction, given[0], given[1])
    loss, gradient = result
    return loss, keep(gradient)


def _backward(grad_output: Tensor, owner: Tensor, *given: Any) -> Tensor:
    (gradient,) = take(owner) or [None]
    if gradient is not None and cpu.scale_gradient(gradient, grad_output):
        return gradient
    _, arguments = _arguments(*given)
    return cpu.pointwise_gradient(*arguments, grad_output)


def _fake(input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, reduction, _, out_dtype, _ = rest
    shape = input.shape if reduction == "none" else ()
    return input.new_empty(shape, dtype=out_dtype), input.new_empty(1, dtype=torch.uint8)


def _fake_backward(grad_output: Tensor, owner: Tensor, input: Tensor, *_: Any) -> Tensor:
    return input.new_empty(input.shape)


def _differentiate(ctx: Any, grad_output: Tensor) -> list[Tensor | None]:
    gradient = torch.ops.losskit.pointwise_backward.default(grad_output, *ctx.saved_tensors, *ctx.options)
    need_input, need_target, *_ = ctx.needs_input_grad
    # Only losses of input − target come here with a target that needs a gradient.
    return [gradient if need_input else None, -gradient if need_target else None]


OPERATOR = Operator(
    "pointwise",
    "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, Tensor? sample_weight, Tensor? mask, "
    "Tensor? normalizer_tensor",
    "float? normalizer, str function, int kernel, float parameter, bool weight_divides, str reduction, str on_empty",
    _forward,
    _fake,
    _backward,
    _fake_backward,
    _differentiate,
)
