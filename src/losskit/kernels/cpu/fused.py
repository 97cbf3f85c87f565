"""Losses of several tensors through the C++ kernels."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.errors import LosskitRuntimeError
from losskit.kernels.cpu.autograd import join_several, join_total
from losskit.kernels.cpu.extension import dtype_code, ext

# The codes of `Fused` in csrc/kernels.h.
(
    SOFT_MARGIN,
    HINGE_EMBEDDING,
    MARGIN_RANKING,
    KL_DIV,
    POISSON_NLL,
    GAUSSIAN_NLL,
    MULTI_MARGIN,
    MULTILABEL_MARGIN,
    MULTILABEL_SOFT_MARGIN,
    COSINE_EMBEDDING,
    TRIPLET_MARGIN,
) = range(11)
# Those that take a loss per row, along the last axis, and not per element.
ROWS = frozenset({MULTI_MARGIN, MULTILABEL_MARGIN, MULTILABEL_SOFT_MARGIN, COSINE_EMBEDDING, TRIPLET_MARGIN})
# The tensors that the kernel has a gradient by: `grads` of `FusedLayout` in csrc/kernels.h.
GRADIENTS = {
    SOFT_MARGIN: (0,),
    HINGE_EMBEDDING: (0,),
    MARGIN_RANKING: (0, 1),
    KL_DIV: (0, 1),
    POISSON_NLL: (0,),
    GAUSSIAN_NLL: (0, 1, 2),
    MULTI_MARGIN: (0,),
    MULTILABEL_MARGIN: (0,),
    MULTILABEL_SOFT_MARGIN: (0,),
    COSINE_EMBEDDING: (0, 1),
    TRIPLET_MARGIN: (0, 1, 2),
}


def join_lean_fused(
    result: list[Any],
    kernel: int,
    parameters: tuple[float, ...],
    reduction: str,
    tensors: tuple[Tensor, ...],
    function: Callable[..., Tensor],
    options: dict[str, Any],
) -> Tensor:
    """The result [loss, gradient, …] of `lean_fused` as a node of the graph.

    `function` is the public function, which takes the tensors in their order, and `options` what it needs beside them
    and the reduction, for derivatives of the gradient.
    """
    state = (kernel, parameters, reduction, function, options)
    loss = result.pop(0)
    if len(tensors) == 2 and result[1] is None:
        # The node of one gradient costs less next to the smallest loss.
        packed = (loss, result[0], tensors[1], (), (_lean_gradient, _lean_definition, state))
        return join_total(tensors[0], packed)
    call = (_lean_gradients, _lean_definition, state)
    return join_several((loss, result, (), call), *tensors)


def _lean_gradient(state: Any, saved: tuple[Tensor, ...], upstream: float) -> Tensor | None:
    return _lean_gradients(state, saved, upstream, (True, False))[0]


def _lean_gradients(
    state: Any, saved: tuple[Tensor, ...], upstream: float, needs: tuple[bool, ...]
) -> list[Tensor | None]:
    kernel, parameters, reduction, _, _ = state
    divisor = 1.0
    if reduction == "mean":
        divisor = float(saved[0].shape[:-1].numel() if kernel in ROWS else saved[0].numel())
    elif reduction == "batchmean" and saved[0].ndim > 0:
        divisor = float(saved[0].shape[0])
    return _gradients(kernel, parameters, saved, (None, None, None), None, divisor, upstream, needs)


def _lean_definition(state: Any, *tensors: Tensor) -> Tensor:
    _, _, reduction, function, options = state
    loss: Tensor = function(*tensors, reduction=reduction, backend="reference", **options)
    return loss


# weight and mask of each loss, weight of each element of a row
FusedFactors = tuple[Tensor | None, Tensor | None, Tensor | None]


def _gradients(
    kernel: int,
    parameters: Sequence[float],
    tensors: tuple[Tensor, ...],
    factors: FusedFactors,
    grad_output: Tensor | None,
    divisor: float,
    upstream: float,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    weight, mask, class_weight = factors
    result = ext.fused(
        loss=kernel,
        tensors=list(tensors),
        parameters=parameters,
        weight=weight,
        mask=mask,
        class_weight=class_weight,
        grad_output=grad_output,
        total=True,
        divisor=divisor,
        upstream=upstream,
        want_loss=False,
        wants=_bits(needs),
        out_dtype=0,
    )
    if result is None:
        # The forward pass took these values; autograd would have seen a change by an operation that it knows of.
        raise LosskitRuntimeError("a value has left the domain of the loss since the forward pass.")
    return list(result[1])


def _bits(needs: Sequence[bool]) -> int:
    return sum(1 << i for i, need in enumerate(needs) if need)


def evaluate_fused(
    kernel: int,
    parameters: Sequence[float],
    tensors: tuple[Tensor, ...],
    factors: FusedFactors,
    divisor: float,
    reduction: str,
    out_dtype: torch.dtype,
    needs: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]] | None:
    """The loss and its gradients by the tensors that need one; None where a value is out of the domain of the loss.

    The gradients of single losses are not computed: their grad_output is not known yet.
    """
    weight, mask, class_weight = factors
    total = reduction != "none"
    result: tuple[Tensor, list[Tensor | None]] | None = ext.fused(
        loss=kernel,
        tensors=list(tensors),
        parameters=parameters,
        weight=weight,
        mask=mask,
        class_weight=class_weight,
        grad_output=None,
        total=total,
        divisor=divisor,
        upstream=1.0,
        want_loss=True,
        wants=_bits(needs) if total else 0,
        out_dtype=dtype_code(out_dtype),
    )
    return result


def fused_gradients(
    kernel: int,
    parameters: Sequence[float],
    tensors: tuple[Tensor, ...],
    factors: FusedFactors,
    divisor: float,
    reduction: str,
    grad_output: Tensor,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients, by the tensors that need one, of the loss times `grad_output`."""
    if reduction == "none":
        return _gradients(kernel, parameters, tensors, factors, grad_output.contiguous(), divisor, 1.0, needs)
    return _gradients(kernel, parameters, tensors, factors, None, divisor, float(grad_output), needs)


def fused(
    kernel: int,
    parameters: Sequence[float],
    tensors: tuple[Tensor, ...],
    factors: FusedFactors,
    divisor: float,
    reduction: str,
    out_dtype: torch.dtype,
    definition: Callable[..., Tensor],
) -> Tensor | None:
    """The loss of contiguous tensors as the kernel takes them; None where a value is out of the domain of the loss."""
    total = reduction != "none"
    needs = tuple(torch.is_grad_enabled() and tensor.requires_grad for tensor in tensors)
    result = evaluate_fused(kernel, parameters, tensors, factors, divisor, reduction, out_dtype, needs)
    if result is None:
        return None
    loss, grads = result
    if not any(needs):
        return loss
    count = len(tensors)

    def gradients(_: Any, saved: tuple[Tensor, ...], upstream: Any, needs: tuple[bool, ...]) -> list[Tensor | None]:
        if total:
            return _gradients(kernel, parameters, saved[:count], factors, None, divisor, upstream, needs)
        return _gradients(kernel, parameters, saved[:count], factors, upstream, divisor, 1.0, needs)

    others = tuple(factor for factor in factors if factor is not None)
    call = (gradients, lambda _, *tensors: definition(*tensors), None)
    packed = (loss, grads if total else None, others, call)
    return join_several(packed, *tensors)
