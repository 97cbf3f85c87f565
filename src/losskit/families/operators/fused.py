"""Losses of several tensors as an operator."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.core.reduction import Reduction
from losskit.families import fused
from losskit.families.operators.kept import keep, take
from losskit.families.operators.operator import Operator
from losskit.kernels import cpu


def _arguments(
    first: Tensor,
    second: Tensor,
    third: Tensor | None,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer_tensor: Tensor | None,
    normalizer: float | None,
    function: str,
    kernel: int,
    parameters: Sequence[float],
    samples: int,
    reduction: str,
    on_empty: str,
) -> tuple[Reduction, tuple[int, Sequence[float], tuple[Tensor, ...], cpu.FusedFactors, float, str]]:
    tensors = (first, second) if third is None else (first, second, third)
    given = normalizer if normalizer_tensor is None else normalizer_tensor
    shape = _shape_of_loss(first, kernel)
    meaning = Reduction(function, reduction, shape, samples, sample_weight, mask, given, on_empty)
    return meaning, (*fused.kernel_arguments(meaning, kernel, parameters, tensors, class_weight), reduction)


def _forward(*everything: Any) -> tuple[Tensor, Tensor]:
    *given, out_dtype, needs = everything
    reduction, arguments = _arguments(*given)
    result = cpu.evaluate_fused(*arguments, out_dtype, needs)
    if result is None:
        kernel, _, tensors, *_ = arguments
        raise fused.kernel_error(reduction, kernel, tensors)
    loss, gradients = result
    return loss, keep(*gradients)


def _backward(grad_output: Tensor, owner: Tensor, *everything: Any) -> list[Tensor]:
    *given, needs = everything
    kept = take(owner) or []
    found = [gradient for gradient, need in zip(kept, needs, strict=False) if need and gradient is not None]
    if len(found) == sum(needs) and all(cpu.scale_gradient(gradient, grad_output) for gradient in found):
        return found
    # Some may have been scaled.
    del kept, found
    _, arguments = _arguments(*given)
    gradients = cpu.fused_gradients(*arguments, grad_output, needs)
    return [gradient for gradient in gradients if gradient is not None]


def _fake(first: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, kernel, _, _, reduction, _, out_dtype, _ = rest
    shape = _shape_of_loss(first, kernel) if reduction == "none" else ()
    return first.new_empty(shape, dtype=out_dtype), first.new_empty(1, dtype=torch.uint8)


def _fake_backward(grad_output: Tensor, owner: Tensor, first: Tensor, *rest: Any) -> list[Tensor]:
    # The kernels have gradients by tensors of the shape of the first alone.
    return [first.new_empty(first.shape) for need in rest[-1] if need]


def _shape_of_loss(first: Tensor, kernel: int) -> torch.Size:
    return first.shape[:-1] if kernel in cpu.ROWS else first.shape


def _differentiate(ctx: Any, grad_output: Tensor) -> list[Tensor | None]:
    needs = [bool(need) for need in ctx.needs_input_grad[:3]]
    gradients = iter(torch.ops.losskit.fused_backward.default(grad_output, *ctx.saved_tensors, *ctx.options, needs))
    return [next(gradients) if need else None for need in needs]


OPERATOR = Operator(
    "fused",
    "Tensor first, Tensor second, Tensor? third, Tensor? class_weight, Tensor? sample_weight, Tensor? mask, "
    "Tensor? normalizer_tensor",
    "float? normalizer, str function, int kernel, float[] parameters, SymInt samples, str reduction, str on_empty",
    _forward,
    _fake,
    _backward,
    _fake_backward,
    _differentiate,
    several=True,
)
