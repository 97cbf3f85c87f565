"""The loop over the rows as a node of the autograd graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.autograd import Function

from losskit.core.dispatch import plain_obstacle
from losskit.errors import LosskitRuntimeError
from losskit.kernels.cpu.autograd import differentiated
from losskit.kernels.linear.chunks import Plan, Tensors, evaluate


class InChunks(Function):
    """A loss whose gradients, where it is one number, were computed along with it.

    Those of a loss for each row are computed in backward, when grad_output is known.
    """

    @staticmethod
    def forward(ctx: Any, packed: Any, *tensors: Tensor) -> Tensor:
        loss: Tensor
        loss, ctx.grads, others, ctx.plan, ctx.definition = packed
        ctx.count = len(tensors)
        ctx.save_for_backward(*tensors, *others)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        # The only references, so that a leaf's .grad takes the buffer instead of copying it.
        grads, ctx.grads = ctx.grads, None
        needs = ctx.needs_input_grad[1:]
        tensors = ctx.saved_tensors[: ctx.count]
        # For derivatives of the gradient, and under a transform such as vmap.
        if is_grad_enabled() or plain_obstacle(grad_output) is not None:
            call = (None, lambda _, *own: ctx.definition(*own), None)
            return None, *differentiated(call, tensors, needs, grad_output)
        if grads is not None:
            return None, *scaled(grads, grad_output)
        return None, *anew(tensors, ctx.plan, grad_output, needs)


def scaled(grads: list[Tensor | None], grad_output: Tensor) -> list[Tensor | None]:
    """The gradients of one number times grad_output, in place."""
    # A number on another device would have to be waited for.
    if grad_output.device.type != "cpu" or float(grad_output) != 1:
        for gradient in grads:
            if gradient is not None:
                gradient.mul_(grad_output)
    return grads


def anew(tensors: Tensors, plan: Plan, grad_output: Tensor, needs: tuple[bool, ...]) -> list[Tensor | None]:
    """The gradients times grad_output, through the rows once more."""
    each, one = (None, grad_output.detach()) if plan.total else (grad_output.contiguous(), 1.0)
    result = evaluate(tensors, plan, each, one, needs, False)
    if result is None:
        # The forward pass took these targets; autograd would have seen a change by an operation that it knows of.
        raise LosskitRuntimeError("a target has left the range of the classes since the forward pass.")
    return result[1]


def chunked_loss(
    tensors: Tensors,
    plan: Plan,
    others: tuple[Tensor, ...],
    out_dtype: torch.dtype,
    definition: Callable[..., Tensor],
    stats: Tensor | None = None,
) -> Tensor | None:
    """The loss of input (N, K), linear_weight (C, K), linear_bias and target; None where an index is out of range.

    `others` are the tensors that the plan holds; `definition` is the loss of the first four, in plain torch operations.
    `stats`, of shape (N, 4), is filled in.
    """
    needs = tuple(is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in tensors)
    wanted = needs if plan.total else (False,) * len(needs)
    result = evaluate(tensors, plan, None, 1.0, wanted, True, stats)
    if result is None:
        return None
    loss, grads = result
    loss = loss.to(out_dtype)
    if not any(needs):
        return loss
    packed = (loss, grads if plan.total else None, others, plan, definition)
    return InChunks.apply(packed, *tensors)  # type: ignore[no-untyped-call, no-any-return]  # apply has no annotations
