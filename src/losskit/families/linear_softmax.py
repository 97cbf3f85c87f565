"""A linear layer and the loss of its scores: from checked arguments to the result."""

from dataclasses import dataclass

import torch
from torch import Tensor

from losskit.core import inputs
from losskit.core.dispatch import note, obstacle
from losskit.core.precision import autocast, autocast_enabled, widen
from losskit.core.reduction import Options, where
from losskit.core.scores import PLAIN, ScoreOptions
from losskit.families import softmax
from losskit.kernels import cpu
from losskit.losses.linear_softmax import linear_logits


@dataclass(frozen=True)
class LinearCall:
    """One call of linear_cross_entropy whose arguments have been checked."""

    function: str
    # One per class.
    weight: Tensor | None
    ignore_index: int
    label_smoothing: float
    # With the out_dtype below.
    options: Options
    out_dtype: torch.dtype
    # How many bytes of scores may exist at a time.
    workspace: int
    scores: ScoreOptions = PLAIN


def run(
    call: LinearCall, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor
) -> softmax.Result:
    if chunk_obstacle(call, input, linear_weight, linear_bias, target) is None:
        return in_chunks(call, input, linear_weight, linear_bias, target)
    return as_a_whole(call, input, linear_weight, linear_bias, target)


def as_a_whole(
    call: LinearCall, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor
) -> softmax.Result:
    """The scores of all rows, and their cross entropy."""
    shape = loss_shape(input, linear_weight)
    rows = rows_that_count(call, input, target, shape)
    # A row of which nothing counts is taken out before the product: a NaN in it times a gradient of 0 would be NaN.
    kept = input if rows is None else where(rows, input)
    logits = linear_logits(widen(kept), widen(linear_weight), None if linear_bias is None else widen(linear_bias))
    # Autocast makes the product one of half precision, and the loss of it one of float32.
    logits, weight = autocast(logits, call.weight)
    if target.is_floating_point():
        (target,) = autocast(target)
        target = widen(target)
    return softmax.class_loss(
        call.function,
        False,
        logits,
        target,
        None if weight is None else widen(weight),
        call.ignore_index,
        call.label_smoothing,
        call.options,
        False,
        call.scores,
    )


def chunk_obstacle(
    call: LinearCall, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor
) -> str | None:
    """Why the scores must exist as a whole, or None."""
    options = call.options
    if options.backend not in ("auto", "cpu"):
        return "another backend was asked for"
    if not cpu.available():
        return cpu.unavailable_reason()
    normalizer = options.normalizer if isinstance(options.normalizer, Tensor) else None
    factors = (call.weight, options.sample_weight, normalizer)
    if torch.compiler.is_compiling():
        return "torch.compile is tracing"
    reason = obstacle(input, linear_weight, linear_bias, target, options.mask, *factors)
    if reason is not None:
        return reason
    if autocast_enabled("cpu"):
        return "autocast is on"
    if input.ndim != 2 or linear_weight.ndim != 2 or 0 in linear_weight.shape:
        return "the scores are not a matrix"
    if input.dtype not in cpu.DTYPES:
        return "the kernel takes float32, bfloat16 or float16"
    if any(factor is not None and factor.dtype == torch.float64 for factor in factors[:2]):
        return "a weight is float64"
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad
        for tensor in (*factors, target if target.is_floating_point() else None)
    ):
        return "the target, a weight or the normalizer requires a gradient"
    return None


def in_chunks(
    call: LinearCall, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor
) -> softmax.Result:
    """The scores of as many rows at a time as the workspace holds."""
    shape = loss_shape(input, linear_weight)
    reduction = inputs.reduction_for(call.function, call.options, shape, input)
    scores = input.new_empty((len(input), len(linear_weight)), device="meta")
    options = softmax.ClassCall(
        call.function,
        call.weight,
        call.ignore_index,
        call.label_smoothing,
        1,
        False,
        reduction,
        input.dtype,
        False,
        call.options.backend,
        call.scores,
    )
    divisor = 1.0 if reduction.name == "none" else float(reduction.divisor(softmax.counts_of(options, scores, target)))
    rows = rows_that_count(call, input, target, shape)
    kept = None if rows is None or bool(rows.all()) else rows.flatten().nonzero().squeeze(1)
    count = len(input) if kept is None else len(kept)
    most = max(1, call.workspace // row_bytes(input, linear_weight, target, kept))
    # As many in each chunk: a last one of a few rows would cost as much time as many more.
    chunks = max(1, -(-count // most))
    size = max(1, -(-count // chunks))
    sample_weight = reduction.sample_weight
    linear = cpu.LinearOptions(
        None if call.weight is None else call.weight.detach().float().contiguous(),
        call.ignore_index,
        call.label_smoothing,
        None if sample_weight is None else sample_weight.detach().float().contiguous(),
        kept,
        reduction.name != "none",
        divisor,
        size,
        call.scores,
    )
    stats = cpu.room_for_stats(shape) if call.scores.stats else None
    note("cpu", f"{cpu.description()}, {chunks} chunk{'s' if chunks > 1 else ''} of {size} rows")
    result = cpu.linear_class_loss(
        input,
        linear_weight,
        linear_bias,
        target,
        linear,
        call.out_dtype,
        lambda *tensors: softmax.loss_of(as_a_whole(call, *tensors)),
        stats,
    )
    if result is None:
        raise softmax.kernel_error(options, scores, target)
    return result if stats is None else (result, cpu.stats_of(stats))


def row_bytes(input: Tensor, linear_weight: Tensor, target: Tensor, kept: Tensor | None) -> int:
    """How much of the workspace a row takes: its scores, or what is copied of it where that is more."""
    classes, features = linear_weight.shape
    apart = kept is not None
    target_copied = target.is_floating_point() and (
        apart or target.dtype != torch.float32 or not target.is_contiguous()
    )
    input_copied = apart or input.dtype != torch.float32
    return 4 * max(classes * (2 if target_copied else 1), features if input_copied else 0)


def loss_shape(input: Tensor, linear_weight: Tensor) -> torch.Size:
    shape = torch.Size([*input.shape[:-1], *linear_weight.shape[:-1]])
    return shape[:1] + shape[2:] if len(shape) > 1 else torch.Size()


def rows_that_count(call: LinearCall, input: Tensor, target: Tensor, shape: torch.Size) -> Tensor | None:
    """True for the rows of input of which some loss counts, as one value per row; None where all do."""
    mask = call.options.mask
    counts = None if mask is None else mask.expand(shape)
    if not target.is_floating_point():
        # One sample takes its index with or without a dimension.
        labelled = target.long().reshape(shape) != call.ignore_index
        counts = labelled if counts is None else counts & labelled
    if counts is None or input.ndim == 1:
        return counts
    return counts.reshape(input.shape[0], -1).any(1, keepdim=True) if input.shape[0] else counts.new_ones(0, 1)
