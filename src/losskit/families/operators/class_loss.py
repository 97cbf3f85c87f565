"""Losses of a row of scores against a class as an operator."""

from typing import Any

import torch
from torch import Tensor

from losskit.core.inputs import class_dim_of
from losskit.core.reduction import Reduction
from losskit.families import softmax
from losskit.families.operators.kept import keep, take
from losskit.families.operators.operator import Operator
from losskit.kernels import cpu


def _call(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer_tensor: Tensor | None,
    normalizer: float | None,
    function: str,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    on_empty: str,
    out_dtype: torch.dtype,
) -> softmax.ClassCall:
    given = normalizer if normalizer_tensor is None else normalizer_tensor
    return softmax.ClassCall(
        function,
        weight,
        ignore_index,
        label_smoothing,
        class_dim_of(input),
        function == "nll_loss",
        Reduction(
            function,
            reduction,
            _shape_of_loss(input),
            input.shape[0],
            sample_weight,
            mask,
            given,
            on_empty,
        ),
        out_dtype,
        False,
        "cpu",
    )


def _forward(*given: Any) -> tuple[Tensor, Tensor]:
    input, target, *_, needs_grad = given
    call = _call(*given[:-1])
    if not cpu.class_layout(input):
        input = input.contiguous()
    arguments = softmax.kernel_arguments(call, input, target)
    result = cpu.evaluate_class_loss(call.log_probs, *arguments, call.reduction.name, call.out_dtype, needs_grad)
    if result is None:
        raise softmax.kernel_error(call, input, target)
    loss, gradient = result
    return loss, keep(gradient)


def _backward(grad_output: Tensor, owner: Tensor, *given: Any) -> Tensor:
    (gradient,) = take(owner) or [None]
    if gradient is not None and cpu.scale_gradient(gradient, grad_output):
        return gradient
    input, target, *_ = given
    everything = (*given, input.dtype)
    call = _call(*everything)
    if not cpu.class_layout(input):
        input = input.contiguous()
    arguments = softmax.kernel_arguments(call, input, target)
    return cpu.class_loss_gradient(call.log_probs, *arguments, call.reduction.name, grad_output)


def _fake(input: Tensor, target: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, reduction, _, out_dtype, _ = rest
    shape = _shape_of_loss(input) if reduction == "none" else ()
    return input.new_empty(shape, dtype=out_dtype), input.new_empty(1, dtype=torch.uint8)


def _fake_backward(grad_output: Tensor, owner: Tensor, input: Tensor, *_: Any) -> Tensor:
    # As the kernel writes it: contiguous, or channels last as the input.
    if input.ndim > 2 and not input.is_contiguous() and input.movedim(1, -1).is_contiguous():
        return torch.empty_strided(input.shape, input.stride(), dtype=input.dtype, device=input.device)
    return input.new_empty(input.shape)


def _shape_of_loss(input: Tensor) -> torch.Size:
    class_dim = class_dim_of(input)
    return torch.Size([*input.shape[:class_dim], *input.shape[class_dim + 1 :]])


def _differentiate(ctx: Any, grad_output: Tensor) -> list[Tensor | None]:
    return [torch.ops.losskit.class_loss_backward.default(grad_output, *ctx.saved_tensors, *ctx.options)]


OPERATOR = Operator(
    "class_loss",
    "Tensor input, Tensor target, Tensor? weight, Tensor? sample_weight, Tensor? mask, Tensor? normalizer_tensor",
    "float? normalizer, str function, SymInt ignore_index, float label_smoothing, str reduction, str on_empty",
    _forward,
    _fake,
    _backward,
    _fake_backward,
    _differentiate,
)
