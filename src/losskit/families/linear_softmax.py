"""A linear layer and the loss of its scores: from checked arguments to the result."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from losskit.core import inputs
from losskit.core.dispatch import named_backend_error, note, note_more, obstacle, plain_obstacle, trace_obstacle
from losskit.core.precision import autocast, autocast_enabled, widen
from losskit.core.reduction import Options, Reduction, where
from losskit.core.scores import PLAIN, ScoreOptions
from losskit.families import softmax
from losskit.kernels import cpu, linear
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
    # Gradients by a score that are this small next to the row's factor may count as 0.
    filter_eps: float = 0.0
    scores: ScoreOptions = PLAIN
    # Whether the operands are multiplied in their own dtype, as autocast has it, and not in float32.
    narrow: bool = False


# input, linear_weight, linear_bias, target
Tensors = tuple[Tensor, Tensor, Tensor | None, Tensor]


def run(
    call: LinearCall, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor
) -> softmax.Result:
    backend = call.options.backend
    if backend == "triton":
        raise named_backend_error(call.function, "triton", "there is no Triton kernel for this loss")
    if autocast_enabled(input.device.type):
        # Here and not inside the node, so that the gradients come back in the dtype of the parameters.
        input, linear_weight, linear_bias = (_cast(tensor) for tensor in (input, linear_weight, linear_bias))
        call = replace(call, narrow=input.dtype != torch.float64 and multiplies_in_half(input.device))
    tensors = (input, linear_weight, linear_bias, target)
    whole = whole_obstacle(call, *tensors)
    if whole is None and torch.compiler.is_compiling():
        whole = operator_obstacle(call, *tensors)
        if whole is None:
            return by_operator(call, *tensors)
    elif whole is None:
        plain = kernel_obstacle(call, *tensors)
        if plain is not None and backend == "cpu":
            raise named_backend_error(call.function, "cpu", plain)
        plan = plan_of(call, plain, *tensors)
        if plain is None or plan.rows < rows_of(plan, input):
            return by_plan(call, plan, plain, *tensors)
        whole = "the scores of all rows fit into the workspace"
    result = as_a_whole(call, *tensors)
    note_more(f"all scores at once: {whole}")
    return result


def multiplies_in_half(device: torch.device) -> bool:
    """Whether a product of half precision, as autocast asks for, is faster than one of float32."""
    return device.type != "cpu"


def _cast(tensor: Any) -> Any:
    """What autocast makes of an operand of a product."""
    if tensor is None or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(tensor.device.type))


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


def whole_obstacle(
    call: LinearCall, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor
) -> str | None:
    """Why the scores of all rows must exist at once, or None."""
    factors = factors_of(call)
    tensors = (input, linear_weight, linear_bias, target, call.options.mask, *factors)
    if not torch.compiler.is_compiling():
        reason = plain_obstacle(*tensors)
        if reason is not None:
            return reason
    if input.ndim != 2 or linear_weight.ndim != 2 or 0 in linear_weight.shape:
        return "the scores are not a matrix"
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad
        for tensor in (*factors, target if target.is_floating_point() else None)
    ):
        return "the target, a weight or the normalizer requires a gradient"
    return None


def operator_obstacle(
    call: LinearCall, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor
) -> str | None:
    """Why the graph of torch.compile has no operator for this call, or None."""
    tensors = (input, linear_weight, linear_bias, target, call.options.mask, *factors_of(call))
    reason = trace_obstacle(*tensors, any_device=call.options.backend == "auto")
    if reason is not None:
        return reason
    if call.options.backend == "reference":
        return "backend='reference' was asked for"
    if call.scores.stats:
        return "return_stats gives what the operator does not"
    # The call of an operator costs what Inductor takes for so many scores.
    if call.options.backend == "auto" and input.shape[0] * linear_weight.shape[0] < 2**15:
        return "the call of an operator costs more than these few scores"
    return None


def kernel_obstacle(
    call: LinearCall, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor
) -> str | None:
    """Why plain torch operations take the place of the kernel, or None."""
    if call.options.backend == "reference":
        return "backend='reference' was asked for"
    if not cpu.available():
        return cpu.unavailable_reason()
    factors = factors_of(call)
    reason = obstacle(input, linear_weight, linear_bias, target, call.options.mask, *factors)
    if reason is not None:
        return reason
    if input.dtype not in cpu.DTYPES:
        return f"the kernel takes float32, bfloat16 or float16, not {inputs.dtype_of(input)}"
    if any(factor is not None and factor.dtype == torch.float64 for factor in factors[:2]):
        return "a weight is float64"
    return None


def chunk_obstacle(
    call: LinearCall, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor
) -> str | None:
    """Why `in_chunks` cannot run this call, or None."""
    tensors = (input, linear_weight, linear_bias, target)
    if torch.compiler.is_compiling():
        return "torch.compile is tracing"
    reason = kernel_obstacle(call, *tensors) or whole_obstacle(call, *tensors)
    return "autocast is on" if reason is None and autocast_enabled("cpu") else reason


def in_chunks(
    call: LinearCall, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor
) -> softmax.Result:
    """The scores of as many rows at a time as the workspace holds, through the kernel."""
    plan = plan_of(call, None, input, linear_weight, linear_bias, target)
    return by_plan(call, plan, None, input, linear_weight, linear_bias, target)


def factors_of(call: LinearCall) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    normalizer = call.options.normalizer if isinstance(call.options.normalizer, Tensor) else None
    return call.weight, call.options.sample_weight, normalizer


def rows_of(plan: linear.Plan, input: Tensor) -> int:
    """How many rows count."""
    return len(input) if plan.kept is None else len(plan.kept)


def plan_of(
    call: LinearCall,
    plain: str | None,
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
) -> linear.Plan:
    """How the rows are taken: by the kernel, or in plain operations for the reason `plain`."""
    shape = loss_shape(input, linear_weight)
    reduction = inputs.reduction_for(call.function, call.options, shape, input)
    scores = input.new_empty((len(input), len(linear_weight)), device="meta")
    options = class_call(call, reduction, input.dtype)
    counts = None if reduction.name == "none" and plain is None else softmax.counts_of(options, scores, target)
    divisor = 1.0 if reduction.name == "none" else float(reduction.divisor(counts))
    rows = rows_that_count(call, input, target, shape)
    kept = None if rows is None or bool(rows.all()) else rows.flatten().nonzero().squeeze(1)
    count = len(input) if kept is None else len(kept)
    most = max(1, call.workspace // row_bytes(call, plain is None, input, linear_weight, target, kept))
    # As many in each chunk: a last one of a few rows would cost as much time as many more.
    chunks = max(1, -(-count // most))
    sample_weight = None if reduction.sample_weight is None else reduction.sample_weight.detach()
    products = linear.products_for(input, linear_weight, count, call.narrow, call.workspace)
    if plain is None:
        row_weight = None if sample_weight is None else sample_weight.float().contiguous()
        weight = None if call.weight is None else call.weight.detach().float().contiguous()
        step = cpu.LinearOptions(
            weight, call.ignore_index, call.label_smoothing, row_weight, reduction.name != "none", call.scores
        ).step
        empty = cpu.empty
    else:
        row_weight, step = sample_weight, PlainStep(options).step
        device = input.device

        def empty(rows: int, columns: int) -> Tensor:
            return torch.empty(rows, columns, dtype=products.dtype, device=device)

    return linear.Plan(
        step,
        products,
        empty,
        kept,
        reduction.name != "none",
        divisor,
        max(1, -(-count // chunks)),
        row_weight,
        call.filter_eps,
    )


def class_call(call: LinearCall, reduction: Reduction, out_dtype: torch.dtype) -> softmax.ClassCall:
    return softmax.ClassCall(
        call.function,
        call.weight,
        call.ignore_index,
        call.label_smoothing,
        1,
        False,
        reduction,
        out_dtype,
        False,
        call.options.backend,
        call.scores,
    )


@dataclass(frozen=True)
class PlainStep:
    """The loss of some rows' scores by its definition, and its gradient by autograd."""

    call: softmax.ClassCall

    def step(
        self,
        scores: Tensor,
        labels: Tensor,
        place: Any,
        grad_output: Tensor | None,
        factor: float,
        want_loss: bool,
        want_grad: bool,
        stats: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """A step of the loop over the rows, as `losskit.kernels.linear.Step` says."""
        whole = self.call.reduction
        weight = None if whole.sample_weight is None else whole.sample_weight[place].detach()
        # What is masked or ignored is not among these rows, and the divisor is that of all chunks.
        part = Reduction(whole.function, "none", torch.Size([len(scores)]), len(scores), weight, None, None, "nan")
        weight_of_class = None if self.call.weight is None else self.call.weight.detach()
        call = replace(
            self.call,
            reduction=part,
            weight=weight_of_class,
            out_dtype=scores.dtype,
            scores=replace(self.call.scores, stats=stats is not None),
        )
        scores = scores.detach().requires_grad_(want_grad)
        with torch.set_grad_enabled(want_grad):
            result = softmax.by_definition(call, scores, labels)
        losses = softmax.loss_of(result)
        if stats is not None and not isinstance(result, Tensor):
            stats.copy_(torch.stack([each.to(stats.dtype) for each in result[1]], 1))
        by_scores = None
        if want_grad:
            outer = losses.new_full((), factor).expand(losses.shape)
            if grad_output is not None:
                outer = outer * grad_output.to(losses.dtype)
            (by_scores,) = torch.autograd.grad(losses, scores, outer)
        losses = losses.detach()
        if whole.name == "none":
            return losses, by_scores
        return losses.sum(dtype=torch.float64 if losses.device.type != "mps" else torch.float32), by_scores


def by_plan(
    call: LinearCall,
    plan: linear.Plan,
    plain: str | None,
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
) -> softmax.Result:
    """The scores of as many rows at a time as the workspace holds."""
    tell(plan, plain, input)
    room = input.new_empty(len(input), 4, dtype=plan.products.dtype) if call.scores.stats else None
    others = tuple(tensor for tensor in (call.weight, plan.row_weight) if tensor is not None)
    result = linear.chunked_loss(
        (input, linear_weight, linear_bias, target),
        plan,
        others,
        call.out_dtype,
        lambda *tensors: softmax.loss_of(as_a_whole(call, *tensors)),
        room,
    )
    if result is None:
        raise range_error(call, input, linear_weight, target)
    return result if room is None else (result, cpu.stats_of(room))


def tell(plan: linear.Plan, plain: str | None, input: Tensor) -> None:
    chunks = max(1, -(-rows_of(plan, input) // plan.rows))
    by = "" if plan.products.route == "torch" else ", products by oneDNN"
    told = f"{chunks} chunk{'s' if chunks > 1 else ''} of {plan.rows} rows{by}"
    if plain is None:
        note("cpu", f"{cpu.description()}, {told}")
    else:
        note("reference", f"{plain}; {told}")


def range_error(call: LinearCall, input: Tensor, linear_weight: Tensor, target: Tensor) -> Exception:
    reduction = inputs.reduction_for(call.function, call.options, loss_shape(input, linear_weight), input)
    scores = input.new_empty((len(input), len(linear_weight)), device="meta")
    return softmax.kernel_error(class_call(call, reduction, input.dtype), scores, target)


def by_operator(
    call: LinearCall, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor
) -> Tensor:
    """`by_plan` for the graph of torch.compile: an operator of it."""
    reduction = inputs.reduction_for(call.function, call.options, loss_shape(input, linear_weight), input)
    normalizer = reduction.normalizer
    loss: Tensor
    loss, _ = torch.ops.losskit.linear_cross_entropy.default(
        input,
        linear_weight,
        linear_bias,
        target,
        call.weight,
        reduction.sample_weight,
        reduction.mask,
        normalizer if isinstance(normalizer, Tensor) else None,
        None if isinstance(normalizer, Tensor) or normalizer is None else float(normalizer),
        call.function,
        call.ignore_index,
        call.label_smoothing,
        call.workspace,
        call.filter_eps,
        call.narrow,
        call.scores.z_loss,
        call.scores.softcap,
        call.scores.logit_scale,
        call.options.backend,
        reduction.name,
        reduction.on_empty,
        call.out_dtype,
        [
            torch.is_grad_enabled() and tensor is not None and tensor.requires_grad
            for tensor in (input, linear_weight, linear_bias)
        ],
    )
    return loss


def row_bytes(
    call: LinearCall, kernel: bool, input: Tensor, linear_weight: Tensor, target: Tensor, kept: Tensor | None
) -> int:
    """How much of the workspace a row takes: its scores, or what is copied of it where that is more."""
    classes, features = linear_weight.shape
    apart = kept is not None
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    target_copied = target.is_floating_point() and (apart or target.dtype != dtype or not target.is_contiguous())
    input_copied = apart or input.dtype != dtype
    scores = 1 if kernel else plain_copies(call)
    return dtype.itemsize * max(classes * (scores + target_copied), features if input_copied else 0)


def plain_copies(call: LinearCall) -> int:
    """How many matrices of the size of the scores the definition and its gradient hold at a time."""
    options = call.scores
    return (
        5
        + 2 * (call.label_smoothing > 0)
        + 2 * (options.softcap is not None or options.logit_scale != 1)
        + 2 * (options.z_loss != 0)
        + 4 * options.stats
    )


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
