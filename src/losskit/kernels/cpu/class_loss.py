"""Cross entropy and negative log-likelihood through the C++ kernels."""

import torch
from torch import Tensor

from losskit.kernels.cpu.autograd import Definition, Each, InPlace, Total
from losskit.kernels.cpu.extension import dtype_code, ext

# The divisor that the targets and the class weights give; the kernel counts it.
_COUNTED = float("nan")


def class_layout(input: Tensor) -> bool:
    """Whether the kernels walk this tensor as it lies: contiguous or channels last."""
    return bool(ext.has_class_layout(input))


def target_like(input: Tensor, target: Tensor, probabilities: bool) -> Tensor:
    """The target in the order of the samples, or laid out as the input if it holds probabilities."""
    if not probabilities or input.is_contiguous():
        return target.contiguous()
    # Classes last in memory, as in input.
    return target.movedim(1, -1).contiguous().movedim(-1, 1)


def lean_class_loss(
    log_probs: bool,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    definition: Definition,
) -> Tensor | None:
    """A call without extra options on plain tensors; None where it is not one, or anything is wrong with it."""
    if ext is None:
        return None
    result = ext.lean_class_loss(log_probs, input, target, weight, ignore_index, label_smoothing, reduction)
    if type(result) is not list:
        return result  # type: ignore[no-any-return]

    def again(input: Tensor, target: Tensor, *rest: Tensor | float) -> Tensor:
        mean = reduction == "mean"
        return ext.class_loss(  # type: ignore[no-any-return]
            log_probs, input, target, weight, ignore_index, label_smoothing, None, None, None,
            True, mean, _COUNTED, rest[-1], False, True, False, 0,
        )[1]  # fmt: skip

    others = () if weight is None else (weight,)
    return Total.apply(input, target, result, others, again, definition)  # type: ignore[no-any-return]


def class_loss(
    log_probs: bool,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    out_dtype: torch.dtype,
    inplace: bool,
    definition: Definition,
    *,
    row_weight: Tensor | None,
    row_mask: Tensor | None,
    divisor: float | None,
) -> Tensor | None:
    """The loss of tensors in a layout of the kernels; None where a class index is out of range."""
    total, mean = reduction != "none", reduction == "mean"
    needs_grad = torch.is_grad_enabled() and input.requires_grad
    code = dtype_code(out_dtype)
    given = _COUNTED if divisor is None else divisor
    options = (weight, ignore_index, label_smoothing, row_weight, row_mask)
    inplace = inplace and needs_grad
    result = ext.class_loss(
        log_probs, input, target, *options, None, total, mean, given, 1.0, True, needs_grad and total, inplace, code
    )
    if result is None:
        return None
    loss: Tensor = result[0]
    if not needs_grad:
        return loss
    if inplace:
        # Whoever saved the logits for a backward of its own now gets torch's error instead of a wrong gradient.
        torch.autograd.graph.increment_version(input)
        return InPlace.apply(input, [loss])  # type: ignore[no-any-return]

    def again(input: Tensor, target: Tensor, *rest: Tensor | float) -> Tensor:
        upstream = rest[-1]
        scale, grad_output = (upstream, None) if total else (1.0, upstream.contiguous())  # type: ignore[union-attr]
        return ext.class_loss(  # type: ignore[no-any-return]
            log_probs, input, target, *options, grad_output, True, mean and total, given if total else 1.0, scale,
            False, True, False, 0,
        )[1]  # fmt: skip

    node = Total if total else Each
    others = [tensor for tensor in (weight, row_weight, row_mask) if tensor is not None]
    return node.apply(input, target, list(result), others, again, definition)  # type: ignore[no-any-return]
