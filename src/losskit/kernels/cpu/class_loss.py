"""Cross entropy and negative log-likelihood through the C++ kernels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit.core.scores import PLAIN, ClassStats, ScoreOptions
from losskit.errors import LosskitRuntimeError
from losskit.kernels.cpu.autograd import InPlace, join, join_total
from losskit.kernels.cpu.extension import dtype_code, ext


def class_layout(input: Tensor) -> bool:
    """Whether the kernels walk this tensor as it lies: contiguous or channels last."""
    return bool(ext.has_class_layout(input))


def target_like(input: Tensor, target: Tensor, probabilities: bool) -> Tensor:
    """The target in the order of the samples, or laid out as the input if it holds probabilities."""
    if not probabilities or input.is_contiguous():
        return target.contiguous()
    # Classes last in memory, as in input.
    return target.movedim(1, -1).contiguous().movedim(-1, 1)


def join_lean_class_loss(
    result: list[Tensor],
    log_probs: bool,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    function: Callable[..., Tensor],
) -> Tensor:
    """The result [loss, gradient] of `lean_class_loss` as a node of the graph.

    `function` is the public function, for derivatives of the gradient.
    """
    state = (log_probs, weight, ignore_index, label_smoothing, reduction, function)
    call = (_lean_gradient, _lean_definition, state)
    packed = (result[0], result.pop(), target, () if weight is None else (weight,), call)
    return join_total(input, packed)


def _lean_gradient(state: Any, saved: tuple[Tensor, ...], upstream: float) -> Tensor:
    log_probs, weight, ignore_index, label_smoothing, reduction, _ = state
    options = ClassOptions(weight, ignore_index, label_smoothing, None, None)
    return _gradient(log_probs, saved, options, None, reduction == "mean", None, upstream)


class ClassOptions(NamedTuple):
    """What the loss of the scores needs beside them and the target."""

    weight: Tensor | None
    ignore_index: int
    label_smoothing: float
    row_weight: Tensor | None
    row_mask: Tensor | None
    scores: ScoreOptions = PLAIN


def score_arguments(scores: ScoreOptions) -> dict[str, Any]:
    """The options of the scores as the kernel takes them."""
    return {"logit_scale": scores.logit_scale, "softcap": scores.softcap or 0.0, "z_loss": scores.z_loss}


def room_for_stats(shape: torch.Size) -> Tensor:
    """For four numbers of each sample, which the kernel fills in."""
    return torch.empty(*shape, 4)


def stats_of(room: Tensor) -> ClassStats:
    log_prob, lse, entropy, rank = room.movedim(-1, 0).contiguous().unbind()
    return ClassStats(log_prob, lse, entropy, rank.long())


def _gradient(
    log_probs: bool,
    saved: tuple[Tensor, ...],
    options: ClassOptions,
    grad_output: Tensor | None,
    mean: bool,
    divisor: float | None,
    upstream: float,
) -> Tensor:
    weight, ignore_index, label_smoothing, row_weight, row_mask, scores = options
    result = ext.class_loss(
        log_probs=log_probs,
        input=saved[0],
        target=saved[1],
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        row_weight=row_weight,
        row_mask=row_mask,
        grad_output=grad_output,
        total=True,
        mean=mean,
        divisor=divisor,
        upstream=upstream,
        want_loss=False,
        want_grad=True,
        inplace=False,
        out_dtype=0,
        **score_arguments(scores),
    )
    if result is None:
        # The forward pass took these targets; autograd would have seen a change by an operation that it knows of.
        raise LosskitRuntimeError("a target has left the range of the classes since the forward pass.")
    gradient: Tensor = result[1]
    return gradient


def _lean_definition(state: Any, input: Tensor, target: Tensor) -> Tensor:
    log_probs, weight, ignore_index, label_smoothing, reduction, function = state
    smoothing = {} if log_probs else {"label_smoothing": label_smoothing}
    loss: Tensor = function(
        input, target, weight, ignore_index=ignore_index, reduction=reduction, backend="reference", **smoothing
    )
    return loss


def evaluate_class_loss(
    log_probs: bool,
    input: Tensor,
    target: Tensor,
    options: ClassOptions,
    divisor: float | None,
    reduction: str,
    out_dtype: torch.dtype,
    want_grad: bool,
    inplace: bool = False,
    stats: Tensor | None = None,
) -> tuple[Tensor, Tensor | None] | None:
    """The loss, and its gradient where it is wanted; None where a class index is out of range.

    Where divisor is None, the kernel counts what the targets and the class weights give.

    The gradient of single losses is not computed: its grad_output is not known yet.
    """
    weight, ignore_index, label_smoothing, row_weight, row_mask, scores = options
    total = reduction != "none"
    result: tuple[Tensor, Tensor | None] | None = ext.class_loss(
        log_probs=log_probs,
        input=input,
        target=target,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        row_weight=row_weight,
        row_mask=row_mask,
        grad_output=None,
        total=total,
        mean=reduction == "mean",
        divisor=divisor,
        upstream=1.0,
        want_loss=True,
        want_grad=want_grad and total,
        inplace=inplace,
        out_dtype=dtype_code(out_dtype),
        stats=stats,
        **score_arguments(scores),
    )
    return result


def class_loss_gradient(
    log_probs: bool,
    input: Tensor,
    target: Tensor,
    options: ClassOptions,
    divisor: float | None,
    reduction: str,
    grad_output: Tensor,
) -> Tensor:
    """The gradient of the loss times `grad_output`."""
    if reduction == "none":
        return _gradient(log_probs, (input, target), options, grad_output.contiguous(), False, 1.0, 1.0)
    return _gradient(log_probs, (input, target), options, None, reduction == "mean", divisor, float(grad_output))


def class_loss(
    log_probs: bool,
    input: Tensor,
    target: Tensor,
    options: ClassOptions,
    divisor: float | None,
    reduction: str,
    out_dtype: torch.dtype,
    inplace: bool,
    definition: Callable[[Tensor, Tensor], Tensor],
    stats: Tensor | None = None,
) -> Tensor | None:
    """The loss of tensors in a layout of the kernels; None where a class index is out of range.

    `stats` of `room_for_stats` is filled in.
    """
    total, mean = reduction != "none", reduction == "mean"
    needs_grad = torch.is_grad_enabled() and input.requires_grad
    inplace = inplace and needs_grad
    result = evaluate_class_loss(
        log_probs, input, target, options, divisor, reduction, out_dtype, needs_grad, inplace, stats
    )
    if result is None:
        return None
    loss, grad = result
    if not needs_grad:
        return loss
    if inplace:
        # Whoever saved the logits for a backward of its own now gets torch's error instead of a wrong gradient.
        torch.autograd.graph.increment_version(input)
        return InPlace.apply(input, [loss])  # type: ignore[no-untyped-call, no-any-return]  # apply has no annotations

    def gradient(_: Any, saved: tuple[Tensor, ...], upstream: Any) -> Tensor:
        if total:
            return _gradient(log_probs, saved, options, None, mean, divisor, upstream)
        return _gradient(log_probs, saved, options, upstream, False, 1.0, 1.0)

    given = (options.weight, options.row_weight, options.row_mask)
    others = tuple(tensor for tensor in given if tensor is not None)
    call = (gradient, lambda _, input, target: definition(input, target), None)
    return join(input, target, loss, grad, others, call, total)
