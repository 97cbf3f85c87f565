"""Connectionist temporal classification: from checked arguments to the result."""

from dataclasses import dataclass

import torch
from torch import Tensor

from losskit.core import inputs
from losskit.core.dispatch import changed_meanwhile, is_plain, named_backend_error, note, obstacle, trace_obstacle
from losskit.core.precision import narrow, widen
from losskit.core.reduction import Options, Reduction, where
from losskit.kernels import cpu
from losskit.losses import ctc


@dataclass(frozen=True)
class CtcCall:
    """One call of ctc_loss whose arguments have been checked, but for the values of lengths and labels.

    Without log_probs and targets: what a node of the graph keeps must not hold them past the backward pass.
    """

    function: str
    # int64, (N)
    input_lengths: Tensor
    target_lengths: Tensor
    blank: int
    zero_infinity: bool
    reduction: Reduction
    out_dtype: torch.dtype
    backend: str


def ctc_loss(
    function: str,
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int,
    zero_infinity: bool,
    options: Options,
) -> Tensor:
    """A loss of log_probs (T, N, C) or (T, C) whose shapes and dtypes have been checked."""
    out_dtype = log_probs.dtype if options.out_dtype is None else options.out_dtype
    shape = log_probs.shape[1:-1]
    reduction = inputs.reduction_for(function, options, shape, log_probs)
    call = CtcCall(function, input_lengths, target_lengths, blank, zero_infinity, reduction, out_dtype, options.backend)
    # An unbatched call is a batch of one, whose loss has no dimension.
    batch = log_probs if log_probs.ndim == 3 else log_probs.unsqueeze(1)
    return run(call, batch, targets.long())


def run(call: CtcCall, log_probs: Tensor, targets: Tensor) -> Tensor:
    if call.backend == "reference":
        note("reference", "backend='reference' was asked for")
        return by_definition(call, log_probs, targets)
    if call.backend == "triton":
        raise named_backend_error(call.function, "triton", "there is no Triton kernel for this loss")
    reason = kernel_obstacle(call, log_probs, targets)
    if reason is None:
        if torch.compiler.is_compiling():
            # Always: the definition takes a step of the graph for each frame.
            return by_operator(call, log_probs, targets)
        note("cpu", cpu.description())
        return by_kernel(call, log_probs, targets)
    if call.backend == "cpu":
        raise named_backend_error(call.function, "cpu", reason)
    note("reference", reason)
    return by_definition(call, log_probs, targets)


def by_definition(call: CtcCall, log_probs: Tensor, targets: Tensor) -> Tensor:
    log_probs, mask = widen(log_probs), call.reduction.mask
    input_lengths, target_lengths = call.input_lengths, call.target_lengths
    inputs.check_ctc_lengths(call.function, log_probs.shape[0], targets, input_lengths, target_lengths)
    if is_plain(target_lengths):
        longest = int(target_lengths.max())
    else:
        # Where the lengths cannot be read, as many as there may be.
        longest = targets.shape[-1]
    labels = ctc.padded_labels(targets, target_lengths, longest, call.blank)
    inputs.check_ctc_labels(call.function, labels, target_lengths, log_probs.shape[2], mask)
    if mask is not None:
        # Not the loss but what it is computed from: a NaN times zero would come back through the gradient. No frames
        # and no labels cost nothing.
        counts = mask.reshape(-1)
        log_probs = where(counts.unsqueeze(1), log_probs)
        labels = torch.where(counts.unsqueeze(1), labels, call.blank)
        input_lengths, target_lengths = input_lengths * counts, target_lengths * counts
    values = ctc.ctc_loss(log_probs, labels, input_lengths, target_lengths, call.blank, call.zero_infinity)
    if call.reduction.name == "mean":
        values = values / target_lengths.clamp(min=1)
    return narrow(call.reduction.apply(values.reshape(call.reduction.shape), None), call.out_dtype)


def kernel_obstacle(call: CtcCall, log_probs: Tensor, targets: Tensor) -> str | None:
    """Why the kernel cannot run this call, or None."""
    if not cpu.available():
        return cpu.unavailable_reason()
    reduction = call.reduction
    normalizer = reduction.normalizer if isinstance(reduction.normalizer, Tensor) else None
    factors = (reduction.sample_weight, normalizer)
    why = trace_obstacle if torch.compiler.is_compiling() else obstacle
    reason = why(log_probs, targets, call.input_lengths, call.target_lengths, reduction.mask, *factors)
    if reason is not None:
        return reason
    if log_probs.dtype not in cpu.DTYPES:
        return f"the kernel takes float32, bfloat16 or float16, not {inputs.dtype_of(log_probs)}"
    if reduction.sample_weight is not None and reduction.sample_weight.dtype == torch.float64:
        return "a weight is float64"
    if torch.is_grad_enabled() and any(factor is not None and factor.requires_grad for factor in factors):
        return "a weight or the normalizer requires a gradient"
    return None


def by_operator(call: CtcCall, log_probs: Tensor, targets: Tensor) -> Tensor:
    """`by_kernel` for the graph of torch.compile: an operator of it."""
    reduction = call.reduction
    normalizer = reduction.normalizer
    batch = log_probs.shape[1:2]
    loss: Tensor
    loss, _ = torch.ops.losskit.ctc_loss.default(
        log_probs,
        targets,
        call.input_lengths,
        call.target_lengths,
        # An unbatched call is a batch of one here too.
        None if reduction.sample_weight is None else reduction.sample_weight.reshape(batch),
        None if reduction.mask is None else reduction.mask.reshape(batch),
        normalizer if isinstance(normalizer, Tensor) else None,
        None if isinstance(normalizer, Tensor) or normalizer is None else float(normalizer),
        call.function,
        call.blank,
        call.zero_infinity,
        reduction.name,
        reduction.on_empty,
        call.out_dtype,
        torch.is_grad_enabled() and log_probs.requires_grad,
    )
    return loss if reduction.name != "none" else loss.reshape(reduction.shape)


def by_kernel(call: CtcCall, log_probs: Tensor, targets: Tensor) -> Tensor:
    lengths = (call.input_lengths, call.target_lengths)
    result = cpu.ctc_loss(
        *kernel_arguments(call.reduction, log_probs, targets, *lengths, call.blank, call.zero_infinity),
        call.reduction.name,
        call.out_dtype,
        lambda log_probs, targets: by_definition(call, log_probs, targets),
    )
    if result is None:
        raise kernel_error(call.reduction, log_probs, targets, *lengths, call.blank)
    return result if call.reduction.name != "none" else result.reshape(call.reduction.shape)


def kernel_arguments(
    reduction: Reduction,
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int,
    zero_infinity: bool,
) -> tuple[Tensor, Tensor, cpu.CtcFactors, int, bool, float]:
    """log_probs, targets, factors, blank, zero_infinity and divisor as the kernel takes them."""
    weight, mask = reduction.sample_weight, reduction.mask
    factors = (
        input_lengths.contiguous(),
        target_lengths.contiguous(),
        None if weight is None else weight.detach().float().contiguous(),
        None if mask is None else mask.contiguous(),
    )
    divisor = 1.0 if reduction.name == "none" else float(reduction.divisor(None))
    log_probs = log_probs if cpu.ctc_layout(log_probs) else log_probs.contiguous()
    return log_probs, targets.contiguous(), factors, blank, zero_infinity, divisor


def kernel_error(
    reduction: Reduction,
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int,
) -> Exception:
    """The faults that a kernel finds before it reads anything by lengths and labels."""
    function = reduction.function
    inputs.check_plain_ctc_lengths(function, log_probs.shape[0], targets, input_lengths, target_lengths)
    labels = ctc.padded_labels(targets, target_lengths, int(target_lengths.max()), blank)
    inputs.check_plain_ctc_labels(function, labels, target_lengths, log_probs.shape[2], reduction.mask)
    return changed_meanwhile(function)
