"""Losses of several tensors, any of which may have a gradient: from checked arguments to the result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from losskit.core import inputs
from losskit.core.dispatch import changed_meanwhile, is_plain, named_backend_error, note, obstacle, trace_obstacle
from losskit.core.precision import narrow, widen
from losskit.core.reduction import Options, Reduction, where
from losskit.kernels import cpu

# The place of the tensor whose values `check_values` reads.
_LIMITED = {cpu.GAUSSIAN_NLL: 2, cpu.MULTI_MARGIN: 1, cpu.MULTILABEL_MARGIN: 1}


@dataclass(frozen=True)
class FusedCall:
    """One call of a loss whose arguments have been checked.

    Without its tensors: what a node of the graph keeps must not hold them past the backward pass.
    """

    function: str
    # The code of the kernel; where this call has none, `no_kernel` says why.
    kernel: int
    no_kernel: str
    parameters: tuple[float, ...]
    # The tensors, at least float32, to the unreduced losses.
    definition: Callable[..., Tensor]
    # One weight per element of a row, where the loss takes one; `definition` applies it by itself.
    class_weight: Tensor | None
    # Whether there is a loss per row, along the last axis, and not per element.
    rows: bool
    reduction: Reduction
    out_dtype: torch.dtype
    backend: str


def fused_loss(
    function: str,
    kernel: int,
    definition: Callable[..., Tensor],
    tensors: tuple[Tensor, ...],
    shape: torch.Size,
    options: Options,
    *,
    parameters: tuple[float, ...] = (),
    class_weight: Tensor | None = None,
    rows: bool = False,
    no_kernel: str = "",
) -> Tensor:
    """A loss whose shapes and dtypes have been checked. `shape` is that of the unreduced loss."""
    reduction = inputs.reduction_for(function, options, shape, tensors[0])
    if not rows:
        tensors = tuple(tensor if tensor.shape == shape else tensor.expand(shape) for tensor in tensors)
    if not rows and tensors[0].dtype == torch.float32:
        # Integers beside float32 are computed as float32, and then by the kernel. Half precision would round them.
        tensors = tuple(tensor if inputs.is_inexact(tensor) else tensor.float() for tensor in tensors)
    out_dtype = tensors[0].dtype if options.out_dtype is None else options.out_dtype
    return run(
        FusedCall(
            function,
            kernel,
            no_kernel,
            parameters,
            definition,
            class_weight,
            rows,
            reduction,
            out_dtype,
            options.backend,
        ),
        *tensors,
    )


def run(call: FusedCall, *tensors: Tensor) -> Tensor:
    if call.backend == "reference":
        note("reference", "backend='reference' was asked for")
        return by_definition(call, *tensors)
    if call.backend == "triton":
        raise named_backend_error(call.function, "triton", "there is no Triton kernel for this loss")
    compiling = torch.compiler.is_compiling()
    reason = kernel_obstacle(call, tensors)
    if reason is None and compiling:
        reason = operator_obstacle(call, tensors)
    if reason is None:
        if compiling:
            return by_operator(call, tensors)
        note("cpu", cpu.description())
        return by_kernel(call, tensors)
    if call.backend == "cpu":
        raise named_backend_error(call.function, "cpu", reason)
    note("reference", reason)
    return by_definition(call, *tensors)


def by_definition(call: FusedCall, *tensors: Tensor) -> Tensor:
    tensors = masked(call.reduction.mask, tuple(widen(tensor) for tensor in tensors))
    if is_plain(tensors[_LIMITED.get(call.kernel, 0)]):
        check_values(call.function, call.kernel, tensors)
    elif call.kernel == cpu.GAUSSIAN_NLL and torch.compiler.is_compiling():
        inputs.assert_variances(call.function, tensors[2])
    return narrow(call.reduction.apply(call.definition(*tensors), None), call.out_dtype)


def masked(mask: Tensor | None, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Not the loss but what it is computed from: a NaN times zero would come back through the gradient."""
    if mask is None:
        return tensors
    return tuple(where(mask.unsqueeze(-1) if tensor.ndim > mask.ndim else mask, tensor) for tensor in tensors)


def kernel_obstacle(call: FusedCall, tensors: tuple[Tensor, ...]) -> str | None:
    """Why the kernel cannot run this call, or None."""
    if call.no_kernel:
        return call.no_kernel
    if not cpu.available():
        return cpu.unavailable_reason()
    reduction = call.reduction
    normalizer = reduction.normalizer if isinstance(reduction.normalizer, Tensor) else None
    factors = (call.class_weight, reduction.sample_weight, normalizer)
    why = trace_obstacle if torch.compiler.is_compiling() else obstacle
    reason = why(*tensors, reduction.mask, *factors)
    if reason is not None:
        return reason
    # A loss per row may take class indices.
    numbers = [tensor for tensor in tensors if not call.rows or inputs.is_inexact(tensor)]
    if numbers[0].dtype not in cpu.DTYPES or any(tensor.dtype != numbers[0].dtype for tensor in numbers):
        return (
            "the kernel takes float32, bfloat16 or float16, the same for each tensor, not "
            f"{' and '.join(inputs.dtype_of(tensor) for tensor in numbers)}"
        )
    whole = tensors[0].shape
    if (whole[:-1] if call.rows else whole) != reduction.shape or (call.rows and not whole):
        return "the tensors have different shapes"
    if any(tensor.shape not in (whole, reduction.shape) for tensor in tensors):
        return "the tensors have different shapes"
    if any(factor is not None and factor.dtype == torch.float64 for factor in factors[:2]):
        return "a weight is float64"
    if torch.is_grad_enabled():
        if any(factor is not None and factor.requires_grad for factor in factors):
            return "a weight or the normalizer requires a gradient"
        for i, tensor in enumerate(tensors):
            if tensor.requires_grad and i not in cpu.GRADIENTS[call.kernel]:
                return "a tensor requires a gradient that the kernel does not compute"
    return None


def operator_obstacle(call: FusedCall, tensors: tuple[Tensor, ...]) -> str | None:
    """Why the graph of torch.compile does not get an operator for this call that the kernel can run, or None."""
    # One thread, forward and backward, after a tanh, the time of the definition as Inductor compiles it over that of
    # the operator, on 10^7, 2^16 and 2^14 numbers: soft margin 2.1, 1.5, 0.87; hinge 5.6, 3.4, 1.7; ranking 1.2, 1.1,
    # 0.73; kl_div 1.4, 1.1, 0.79, of logarithms 1.4, 0.99, 0.75; Poisson 1.5, 1.15, 0.80; Gaussian 1.3, 1.25, 0.81. In
    # rows of 128: multi_margin 2.3, 1.1, 0.76; multilabel soft margin 3.2, 2.3, 1.2; cosine 1.7, 1.2, 0.86; triplet
    # 1.4, 1.2, 0.92.
    work = tensors[0].numel()
    if call.kernel == cpu.MULTILABEL_MARGIN:
        # The definition takes time and memory for each pair of classes: 66 on 512 rows of 128, 14 on 128, 1.2 on 4.
        work *= tensors[0].shape[-1]
    if call.backend == "auto" and work < 2**16:
        return "torch.compile is tracing, and the call of an operator costs more than these few losses"
    return None


def by_operator(call: FusedCall, tensors: tuple[Tensor, ...]) -> Tensor:
    """`by_kernel` for the graph of torch.compile: an operator of it."""
    reduction = call.reduction
    normalizer = reduction.normalizer
    grad_enabled = torch.is_grad_enabled()
    loss: Tensor
    loss, _ = torch.ops.losskit.fused.default(
        tensors[0],
        tensors[1],
        tensors[2] if len(tensors) == 3 else None,
        call.class_weight,
        reduction.sample_weight,
        reduction.mask,
        normalizer if isinstance(normalizer, Tensor) else None,
        None if isinstance(normalizer, Tensor) or normalizer is None else float(normalizer),
        call.function,
        call.kernel,
        list(call.parameters),
        reduction.samples,
        reduction.name,
        reduction.on_empty,
        call.out_dtype,
        [grad_enabled and tensor.requires_grad for tensor in tensors],
    )
    return loss


def by_kernel(call: FusedCall, tensors: tuple[Tensor, ...]) -> Tensor:
    arguments = kernel_arguments(call.reduction, call.kernel, call.parameters, tensors, call.class_weight)
    result = cpu.fused(*arguments, call.reduction.name, call.out_dtype, lambda *tensors: by_definition(call, *tensors))
    if result is None:
        raise kernel_error(call.reduction, call.kernel, tensors)
    return result


def kernel_arguments(
    reduction: Reduction,
    kernel: int,
    parameters: Sequence[float],
    tensors: tuple[Tensor, ...],
    class_weight: Tensor | None,
) -> tuple[int, Sequence[float], tuple[Tensor, ...], cpu.FusedFactors, float]:
    """Code, parameters, tensors, factors and divisor as the kernel takes them."""
    divisor = 1.0 if reduction.name == "none" else float(reduction.divisor(None))
    factors = (
        None if reduction.sample_weight is None else reduction.sample_weight.detach().float().contiguous(),
        None if reduction.mask is None else reduction.mask.contiguous(),
        None if class_weight is None else class_weight.detach().float().contiguous(),
    )
    return kernel, parameters, tuple(tensor.contiguous() for tensor in tensors), factors, divisor


def kernel_error(reduction: Reduction, kernel: int, tensors: tuple[Tensor, ...]) -> Exception:
    """The one fault that a kernel finds in its pass over the values."""
    check_values(reduction.function, kernel, masked(reduction.mask, tensors))
    return changed_meanwhile(reduction.function)


def check_values(function: str, kernel: int, tensors: tuple[Tensor, ...]) -> None:
    """Every value lies in the domain of the loss."""
    if kernel == cpu.GAUSSIAN_NLL:
        inputs.check_variances(function, tensors[2])
    elif kernel == cpu.MULTI_MARGIN:
        inputs.check_range(function, tensors[1], 0, tensors[0].shape[-1])
    elif kernel == cpu.MULTILABEL_MARGIN:
        inputs.check_range(function, tensors[1], -1, tensors[0].shape[-1])
