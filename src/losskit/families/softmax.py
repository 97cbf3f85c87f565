"""Losses of a row of scores against a class: from checked arguments to the result."""

from dataclasses import dataclass

import torch
from torch import Tensor

from losskit.core import inputs
from losskit.core.dispatch import changed_meanwhile, named_backend_error, note, obstacle, trace_obstacle
from losskit.core.precision import narrow, widen
from losskit.core.reduction import Options, Reduction, where
from losskit.core.scores import PLAIN, ClassStats, ScoreOptions
from losskit.errors import LosskitRuntimeError
from losskit.kernels import cpu
from losskit.losses import softmax


@dataclass(frozen=True)
class ClassCall:
    """One call of cross_entropy or nll_loss whose arguments have been checked.

    Without input and target: what a node of the graph keeps must not hold them past the backward pass.
    """

    function: str
    weight: Tensor | None
    ignore_index: int
    label_smoothing: float
    class_dim: int
    # Whether input holds log-probabilities, as for nll_loss, and not logits.
    log_probs: bool
    reduction: Reduction
    out_dtype: torch.dtype
    inplace_backward: bool
    backend: str
    scores: ScoreOptions = PLAIN


# The loss, and with return_stats what comes with it.
Result = Tensor | tuple[Tensor, ClassStats]


def class_loss(
    function: str,
    log_probs: bool,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    options: Options,
    inplace_backward: bool,
    scores: ScoreOptions = PLAIN,
) -> Result:
    """A loss whose shapes and dtypes have been checked; out_dtype is given."""
    out_dtype = input.dtype if options.out_dtype is None else options.out_dtype
    class_dim = inputs.class_dim_of(input)
    shape = torch.Size([*input.shape[:class_dim], *input.shape[class_dim + 1 :]])
    if input.ndim == 1 and not target.is_floating_point():
        # One sample, whose index torch takes with or without a dimension.
        target = target.reshape(())
    reduction = inputs.reduction_for(function, options, shape, input)
    return run(
        ClassCall(
            function,
            weight,
            ignore_index,
            label_smoothing,
            class_dim,
            log_probs,
            reduction,
            out_dtype,
            inplace_backward,
            options.backend,
            scores,
        ),
        input,
        target,
    )


def run(call: ClassCall, input: Tensor, target: Tensor) -> Result:
    if call.backend == "reference" and not call.inplace_backward:
        note("reference", "backend='reference' was asked for")
        return by_definition(call, input, target)
    if call.backend == "triton":
        raise named_backend_error(call.function, "triton", "there is no Triton kernel for this loss")
    compiling = torch.compiler.is_compiling()
    reason = kernel_obstacle(call, input, target)
    if reason is None and call.backend == "reference":
        reason = "backend='reference' was asked for"
    if reason is None and compiling:
        reason = operator_obstacle(call, input)
    if reason is None:
        if compiling:
            return by_operator(call, input, target)
        note("cpu", cpu.description())
        return by_kernel(call, input, target)
    if call.inplace_backward:
        raise LosskitRuntimeError(f"{call.function}: inplace_backward=True needs the CPU kernel, but {reason}.")
    if call.backend == "cpu":
        raise named_backend_error(call.function, "cpu", reason)
    note("reference", reason)
    return by_definition(call, input, target)


def by_definition(call: ClassCall, input: Tensor, target: Tensor) -> Result:
    input, weight, mask = widen(input), call.weight, call.reduction.mask
    weight = None if weight is None else widen(weight)
    class_dim, scores = call.class_dim, call.scores
    counts, counted = None, mask
    if mask is not None:
        # Not the loss but what it is computed from: a NaN times zero would come back through the gradient.
        input = where(mask.unsqueeze(class_dim), input)
    if not target.is_floating_point():
        # uint8 would take ignore_index and C modulo 256.
        target = target.long()
        counted = _counted(call, target)
        inputs.check_class_range(call.function, target, input.shape[class_dim], counted)
        # The gradient of a row that does not count is 0, whatever the row holds.
        input = where(counted.unsqueeze(class_dim), input)
    input = softmax.scores(input, scores.logit_scale, scores.softcap)
    no_classes = input.shape[class_dim] == 0
    if no_classes:
        # Without a class nothing counts, and there is no index 0 to take: a sum over nothing is the zero.
        values = input.sum(class_dim)
        counts = torch.zeros_like(values)
    elif counted is None or target.is_floating_point():
        if mask is not None:
            target = where(mask.unsqueeze(class_dim), target)
        values = softmax.cross_entropy_of_probabilities(input, widen(target), weight, call.label_smoothing, class_dim)
    else:
        target = where(counted, target)
        if call.log_probs:
            values = softmax.nll_loss(input, target, counted, weight, class_dim)
        else:
            values = softmax.cross_entropy(input, target, counted, weight, call.label_smoothing, class_dim)
        counts = softmax.class_weights(target, counted, weight, input.dtype)
    if scores.z_loss != 0 and not no_classes:
        values = values + softmax.z_loss(input, counted, scores.z_loss, class_dim)
    loss = narrow(call.reduction.apply(values, counts), call.out_dtype)
    if not scores.stats:
        return loss
    if no_classes:
        zero = values.detach()
        return loss, ClassStats(zero, zero, zero, zero.long())
    return loss, ClassStats(*softmax.stats(input.detach(), widen(target.detach()), counted, class_dim))


def loss_of(result: Result) -> Tensor:
    """Without what comes with it."""
    return result if isinstance(result, Tensor) else result[0]


def kernel_obstacle(call: ClassCall, input: Tensor, target: Tensor) -> str | None:
    """Why the kernel cannot run this call, or None."""
    if not cpu.available():
        return cpu.unavailable_reason()
    reduction = call.reduction
    normalizer = reduction.normalizer if isinstance(reduction.normalizer, Tensor) else None
    factors = (call.weight, reduction.sample_weight, normalizer)
    compiling = torch.compiler.is_compiling()
    reason = (trace_obstacle if compiling else obstacle)(input, target, reduction.mask, *factors)
    if reason is not None:
        return reason
    if input.dtype not in cpu.DTYPES:
        return f"the kernel takes float32, bfloat16 or float16, not {inputs.dtype_of(input)}"
    if input.shape[call.class_dim] == 0:
        return "there are no classes"
    if not call.scores.plain and input.ndim > 2 and input.numel() == 0:
        return "these options take rows of classes, and there are no samples"
    if target.is_floating_point() and target.dtype != input.dtype:
        return "class probabilities have another dtype than input"
    if any(factor is not None and factor.dtype == torch.float64 for factor in factors[:2]):
        return "a weight is float64"
    if torch.is_grad_enabled():
        if any(factor is not None and factor.requires_grad for factor in factors):
            return "a weight or the normalizer requires a gradient"
        if target.requires_grad:
            return "target requires a gradient"
    return None


def by_kernel(call: ClassCall, input: Tensor, target: Tensor) -> Result:
    reduction = call.reduction
    in_layout = cpu.class_layout(input)
    if not call.scores.plain and input.ndim > 2:
        # The kernel takes the classes of a sample as neighbours for these.
        in_layout = input.movedim(1, -1).is_contiguous()
    if not in_layout:
        if call.inplace_backward:
            apart = "" if call.scores.plain else " with the classes of each sample as neighbours"
            raise LosskitRuntimeError(
                f"{call.function}: inplace_backward=True needs contiguous logits{apart}, got strides {input.stride()}."
            )
        input = input.contiguous() if call.scores.plain else input.movedim(1, -1).contiguous().movedim(-1, 1)
    if call.inplace_backward:
        inputs.check_no_overlap(
            call.function,
            input,
            target=target,
            weight=call.weight,
            sample_weight=reduction.sample_weight,
            mask=reduction.mask,
        )
    arguments = kernel_arguments(call, input, target)
    stats = cpu.room_for_stats(reduction.shape) if call.scores.stats else None
    loss = cpu.class_loss(
        call.log_probs,
        *arguments,
        reduction.name,
        call.out_dtype,
        call.inplace_backward,
        lambda input, target: loss_of(by_definition(call, input, target)),
        stats,
    )
    if loss is None:
        raise kernel_error(call, input, target)
    return loss if stats is None else (loss, cpu.stats_of(stats))


def operator_obstacle(call: ClassCall, input: Tensor) -> str | None:
    """Why the graph of torch.compile has no operator for this call that the kernel can run, or None."""
    if call.inplace_backward or not call.scores.plain:
        return "torch.compile is tracing"
    # One thread, forward and backward, the definition as Inductor compiles it against the operator: 1.6 to 2 times
    # slower at 10^6 x 10 after another operation, 4.7 times on its own; 7 for a map of 21 classes, 9 for 1024 x 32000,
    # 2.9 for 512 x 1000. The operator's call costs what Inductor takes for some 2^15 logits: 0.67 for 4 x 10, 0.85 for
    # 1024 x 10, 0.78 for 16 x 1000.
    if call.backend == "auto" and input.numel() < 2**15:
        return "torch.compile is tracing, and the call of an operator costs more than these few logits"
    return None


def by_operator(call: ClassCall, input: Tensor, target: Tensor) -> Tensor:
    """`by_kernel` for the graph of torch.compile: an operator of it."""
    reduction = call.reduction
    normalizer = reduction.normalizer
    if not (input.is_contiguous() or (input.ndim > 2 and input.movedim(1, -1).is_contiguous())):
        input = input.contiguous()
    loss: Tensor
    loss, _ = torch.ops.losskit.class_loss.default(
        input,
        target,
        call.weight,
        reduction.sample_weight,
        reduction.mask,
        normalizer if isinstance(normalizer, Tensor) else None,
        None if isinstance(normalizer, Tensor) or normalizer is None else float(normalizer),
        call.function,
        call.ignore_index,
        float(call.label_smoothing),
        reduction.name,
        reduction.on_empty,
        call.out_dtype,
        torch.is_grad_enabled() and input.requires_grad,
    )
    return loss


def kernel_arguments(
    call: ClassCall, input: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, cpu.ClassOptions, float | None]:
    """Input, target, options and divisor as the kernel takes them; the divisor is None where the kernel counts it."""
    reduction = call.reduction
    weight = None if call.weight is None else call.weight.detach().float().contiguous()
    row_weight = None if reduction.sample_weight is None else reduction.sample_weight.detach().float().contiguous()
    divisor = None
    if reduction.name != "none" and (
        reduction.normalizer is not None
        or reduction.mask is not None
        or row_weight is not None
        or reduction.on_empty != "nan"
    ):
        divisor = float(reduction.divisor(counts_of(call, input, target)))
    row_mask = None if reduction.mask is None else reduction.mask.contiguous()
    options = cpu.ClassOptions(weight, call.ignore_index, call.label_smoothing, row_weight, row_mask, call.scores)
    return input, cpu.target_like(input, target, target.is_floating_point()), options, divisor


def kernel_error(call: ClassCall, input: Tensor, target: Tensor) -> Exception:
    """The one fault that a kernel finds in its pass over the targets."""
    inputs.check_plain_class_range(call.function, target, input.shape[call.class_dim], _counted(call, target))
    return changed_meanwhile(call.function)


def _counted(call: ClassCall, target: Tensor) -> Tensor:
    counted = target.long() != call.ignore_index
    return counted if call.reduction.mask is None else counted & call.reduction.mask


def counts_of(call: ClassCall, input: Tensor, target: Tensor) -> Tensor | None:
    """What each sample adds to the divisor of the mean."""
    if target.is_floating_point():
        return None
    counted = _counted(call, target)
    inputs.check_plain_class_range(call.function, target, input.shape[call.class_dim], counted)
    weight = None if call.weight is None else call.weight.detach()
    # float64 stays what it is: the definition may run on single chunks of a batch.
    weight = weight if weight is None or weight.dtype == torch.float64 else weight.float()
    # An index of uint8 would be taken for a mask.
    return softmax.class_weights(where(counted, target.long()), counted, weight, torch.float32)
