"""The kernels as nodes of the autograd graph.

Every node holds `again(*saved, scale) -> gradient`, which runs the kernel once more, and `definition(input, target)`, the
loss in plain torch operations, for derivatives of the gradient.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from losskit.errors import LosskitRuntimeError
from losskit.kernels.cpu.extension import ext

Definition = Callable[[Tensor, Tensor], Tensor]
Again = Callable[..., Tensor]


class Total(Function):
    """A loss that is reduced to one number. Its gradient was computed along with it."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, held: list[Tensor], others: Any, again: Again, definition: Definition
    ) -> Tensor:
        # In a list, loss and gradient are not taken for inputs of the graph; a list that is kept would make a cycle.
        loss, ctx.grad = held
        ctx.again, ctx.definition = again, definition
        ctx.save_for_backward(input, target, *others)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        if torch.is_grad_enabled():
            return _by_definition(ctx, grad_output)
        # The only reference, so that a leaf's .grad takes the buffer instead of copying it.
        grad, ctx.grad = ctx.grad, None
        if grad is None or not ext.scale_gradient(grad, grad_output):
            grad = ctx.again(*ctx.saved_tensors, float(grad_output))
        if not ctx.needs_input_grad[1]:
            return grad, None, None, None, None, None
        return _both(ctx, grad)


class Each(Function):
    """One loss per element or sample. The gradient is computed in backward, when grad_output is known."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, held: list[Tensor], others: Any, again: Again, definition: Definition
    ) -> Tensor:
        ctx.again, ctx.definition = again, definition
        ctx.save_for_backward(input, target, *others)
        return held[0]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        if torch.is_grad_enabled():
            return _by_definition(ctx, grad_output)
        return _both(ctx, ctx.again(*ctx.saved_tensors, grad_output))


class InPlace(Function):
    """A loss whose gradient stands where its logits stood."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, held: list[Tensor]) -> Tensor:
        ctx.save_for_backward(input)
        ctx.spent = False
        return held[0]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        if ctx.spent or torch.is_grad_enabled():
            raise LosskitRuntimeError(
                "cross_entropy: inplace_backward=True leaves no logits for a second backward or create_graph=True: "
                "inplace_backward=False?"
            )
        (logits,) = ctx.saved_tensors
        ctx.spent = True
        grad = logits.detach()
        if not ext.scale_gradient(grad, grad_output):
            raise LosskitRuntimeError(
                f"cross_entropy: inplace_backward=True with {grad.dtype} logits takes a grad_output of 1, got "
                f"{float(grad_output):g}, because the gradient has been rounded already: normalizer= scales before that."
            )
        return grad, None


def _both(ctx: Any, grad: Tensor) -> Any:
    need_input, need_target = ctx.needs_input_grad[:2]
    # Only losses of input − target run a kernel when the target needs a gradient.
    return grad if need_input else None, -grad if need_target else None, None, None, None, None


def _by_definition(ctx: Any, grad_output: Tensor) -> Any:
    """The gradient as a differentiable function, for create_graph=True."""
    tensors = ctx.saved_tensors[:2]
    needs = ctx.needs_input_grad[:2]
    needed = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
    loss = ctx.definition(*tensors)
    grads = iter(torch.autograd.grad(loss, needed, grad_output, create_graph=True))
    return *(next(grads) if need else None for need in needs), None, None, None, None
