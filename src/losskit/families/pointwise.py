"""Losses of one number against another: from checked arguments to the result."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from losskit.core import inputs
from losskit.core.dispatch import changed_meanwhile, named_backend_error, note, obstacle, trace_obstacle
from losskit.core.precision import common_dtype, narrow, widen
from losskit.core.reduction import Options, Reduction, where
from losskit.errors import LosskitValueError
from losskit.kernels import cpu

# input, target and pos_weight to the unreduced loss.
Definition = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class PointwiseCall:
    """One call of a pointwise loss whose arguments have been checked.

    Without input and target: what a node of the graph keeps must not hold them past the backward pass.
    """

    function: str
    kernel: int
    definition: Definition
    # beta or delta, where the loss has one.
    parameter: float
    # Multiplies each loss.
    weight: Tensor | None
    # Whether the mean divides by the sum of `weight`, as torch does for l1_loss and mse_loss alone.
    weight_divides: bool
    pos_weight: Tensor | None
    reduction: Reduction
    out_dtype: torch.dtype
    backend: str


def difference_loss(
    function: str,
    kernel: int,
    definition: Definition,
    parameter: float,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    weight_divides: bool,
    options: Options,
) -> Tensor:
    """A loss of input − target, whose shapes may broadcast."""
    if weight is not None and weight.shape != input.shape:
        raise LosskitValueError(
            f"{function}: weight must have the shape of input, {inputs.shape_of(input)}, got {inputs.shape_of(weight)}."
        )
    inputs.check_devices(function, input=input, target=target, weight=weight)
    shape = inputs.broadcast_shape(function, input, target)
    # torch subtracts no booleans, but its losses other than l1_loss take them for 0 and 1.
    if kernel == cpu.L1:
        inputs.check_not_bool(function, input=input, target=target)
    elif target.dtype == torch.bool:
        target = target.to(input.dtype)
    elif input.dtype == torch.bool:
        input = input.to(target.dtype)
    if options.out_dtype is None:
        dtype = common_dtype(input, target, weight)
        options = replace(options, out_dtype=dtype.to_real() if dtype.is_complex else dtype)
    return pointwise_loss(
        function, kernel, definition, parameter, input, target, weight, weight_divides, None, shape, options
    )


def pointwise_loss(
    function: str,
    kernel: int,
    definition: Definition,
    parameter: float,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    weight_divides: bool,
    pos_weight: Tensor | None,
    shape: torch.Size,
    options: Options,
) -> Tensor:
    """A loss whose shapes and dtypes have been checked; out_dtype is given."""
    out_dtype = input.dtype if options.out_dtype is None else options.out_dtype
    reduction = inputs.reduction_for(function, options, shape, input)
    return run(
        PointwiseCall(
            function,
            kernel,
            definition,
            parameter,
            weight,
            weight_divides,
            pos_weight,
            reduction,
            out_dtype,
            options.backend,
        ),
        input,
        target,
    )


def run(call: PointwiseCall, input: Tensor, target: Tensor) -> Tensor:
    if call.backend == "reference":
        note("reference", "backend='reference' was asked for")
        return by_definition(call, input, target)
    if call.backend == "triton":
        raise named_backend_error(call.function, "triton", "there is no Triton kernel for this loss")
    compiling = torch.compiler.is_compiling()
    reason = kernel_obstacle(call, input, target)
    if reason is None and compiling:
        reason = operator_obstacle(call, input)
    if reason is None:
        if compiling:
            return by_operator(call, input, target)
        note("cpu", cpu.description())
        return by_kernel(call, input, target)
    if call.backend == "cpu":
        raise named_backend_error(call.function, "cpu", reason)
    note("reference", reason)
    return by_definition(call, input, target)


def by_definition(call: PointwiseCall, input: Tensor, target: Tensor) -> Tensor:
    input, target = widen(input), widen(target)
    mask = call.reduction.mask
    if mask is not None:
        # Not the loss but what it is computed from: a NaN times zero would come back through the gradient.
        input, target = where(mask, input), where(mask, target)
    if call.kernel == cpu.BCE:
        check_probabilities(call, input, target)
    values = call.definition(input, target, call.pos_weight)
    counts = None
    if call.weight is not None:
        weight = widen(call.weight).expand(call.reduction.shape)
        values = values * weight
        counts = weight if call.weight_divides else None
    return narrow(call.reduction.apply(values, counts), call.out_dtype)


def kernel_obstacle(call: PointwiseCall, input: Tensor, target: Tensor) -> str | None:
    """Why the kernel cannot run this call, or None."""
    if not cpu.available():
        return cpu.unavailable_reason()
    reduction = call.reduction
    normalizer = reduction.normalizer if isinstance(reduction.normalizer, Tensor) else None
    factors = (call.weight, call.pos_weight, reduction.sample_weight, normalizer)
    compiling = torch.compiler.is_compiling()
    reason = (trace_obstacle if compiling else obstacle)(input, target, reduction.mask, *factors)
    if reason is not None:
        return reason
    if input.dtype not in cpu.DTYPES or target.dtype != input.dtype:
        return (
            "the kernel takes float32, bfloat16 or float16, the same for input and target, not "
            f"{inputs.dtype_of(input)} and {inputs.dtype_of(target)}"
        )
    if input.shape != target.shape:
        return "input and target have different shapes"
    if any(factor is not None and factor.dtype == torch.float64 for factor in factors[:3]):
        return "a weight is float64"
    if torch.is_grad_enabled():
        if any(factor is not None and factor.requires_grad for factor in factors):
            return "a weight or the normalizer requires a gradient"
        if target.requires_grad and call.kernel not in cpu.SYMMETRIC:
            return "target requires a gradient"
    return None


def operator_obstacle(call: PointwiseCall, input: Tensor) -> str | None:
    """Why the graph of torch.compile does not get an operator for this call that the kernel can run, or None."""
    # One thread, forward and backward, the time of the definition as Inductor compiles it over that of the operator.
    # Losses of a difference: 5.6 on 10^7 numbers that lie in memory, but 0.92 to 1.04 on what the graph has computed,
    # 0.64 to 0.83 on 10^5. Binary cross entropy of a sigmoid or tanh: 1.4 to 3.0 on 10^7, 1.07 and 2.4 on 2^16, 0.81
    # and 1.14 on 2^14.
    if call.backend == "auto" and call.kernel in cpu.SYMMETRIC:
        return "torch.compile is tracing, and fuses this loss with what computes its input"
    if call.backend == "auto" and input.numel() < 2**16:
        return "torch.compile is tracing, and the call of an operator costs more than these few losses"
    return None


def by_operator(call: PointwiseCall, input: Tensor, target: Tensor) -> Tensor:
    """`by_kernel` for the graph of torch.compile: an operator of it."""
    reduction = call.reduction
    normalizer = reduction.normalizer
    loss: Tensor
    loss, _ = torch.ops.losskit.pointwise.default(
        input,
        target,
        call.weight,
        call.pos_weight,
        reduction.sample_weight,
        reduction.mask,
        normalizer if isinstance(normalizer, Tensor) else None,
        None if isinstance(normalizer, Tensor) or normalizer is None else float(normalizer),
        call.function,
        call.kernel,
        float(call.parameter),
        call.weight_divides,
        reduction.name,
        reduction.on_empty,
        call.out_dtype,
        torch.is_grad_enabled() and (input.requires_grad or target.requires_grad),
    )
    return loss


def by_kernel(call: PointwiseCall, input: Tensor, target: Tensor) -> Tensor:
    arguments = kernel_arguments(
        call.reduction, call.weight, call.weight_divides, call.pos_weight, call.parameter, input, target
    )
    result = cpu.pointwise(
        call.kernel,
        *arguments,
        call.reduction.name,
        call.out_dtype,
        lambda input, target: by_definition(call, input, target),
    )
    if result is None:
        raise kernel_error(call.reduction, input, target)
    return result


def kernel_arguments(
    reduction: Reduction,
    weight: Tensor | None,
    weight_divides: bool,
    pos_weight: Tensor | None,
    parameter: float,
    input: Tensor,
    target: Tensor,
) -> tuple[Tensor, Tensor, float, cpu.Factors, float]:
    """Input, target, parameter, factors and divisor as the kernel takes them."""
    if weight is not None:
        weight = weight.detach().float().expand(reduction.shape)
    divisor = 1.0
    if reduction.name != "none":
        divisor = float(reduction.divisor(weight if weight_divides else None))
    if reduction.sample_weight is not None:
        factor = reduction.sample_weight.detach().float()
        weight = factor if weight is None else weight * factor
    if pos_weight is not None:
        pos_weight = pos_weight.detach().float().expand(reduction.shape)
    factors = (
        None if weight is None else weight.contiguous(),
        None if reduction.mask is None else reduction.mask.contiguous(),
        None if pos_weight is None else pos_weight.contiguous(),
    )
    return input.contiguous(), target.contiguous(), parameter, factors, divisor


def kernel_error(reduction: Reduction, input: Tensor, target: Tensor) -> Exception:
    """The one fault that a kernel finds in its pass over the values."""
    inputs.check_plain_probabilities(reduction.function, "input", input, reduction.mask)
    inputs.check_plain_probabilities(reduction.function, "target", target, reduction.mask)
    return changed_meanwhile(reduction.function)


def check_probabilities(call: PointwiseCall, input: Tensor, target: Tensor) -> None:
    inputs.check_probabilities(call.function, "input", input, call.reduction.mask)
    inputs.check_probabilities(call.function, "target", target, call.reduction.mask)
