"""The kernels as nodes of the autograd graph.

A node knows its call as a tuple `(gradient, definition, state)`: `gradient(state, saved, upstream)` runs the kernel
once more on the saved tensors, and `definition(state, input, target)` is the loss in plain torch operations, for
derivatives of the gradient. A tuple and not a closure, because building one must cost nothing next to the smallest
loss.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.autograd import Function

from losskit.core.dispatch import obstacle
from losskit.errors import LosskitRuntimeError
from losskit.kernels.cpu.extension import ext

# upstream is the gradient of the loss: a float for one number, a tensor for one loss per element.
Gradient = Callable[[Any, tuple[Tensor, ...], Any], Tensor]
Definition = Callable[[Any, Tensor, Tensor], Tensor]
Call = tuple[Gradient, Definition, Any]


class Total(Function):
    """A loss that is reduced to one number. Its gradient was computed along with it."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, held: list[Tensor], others: tuple[Tensor, ...], call: Call
    ) -> Tensor:
        # In a list, loss and gradient are not taken for inputs of the graph; a list that is kept would make a cycle.
        loss, ctx.grad = held
        ctx.call = call
        ctx.save_for_backward(input, target, *others)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        if is_grad_enabled():
            return _by_definition(ctx, grad_output)
        # The only reference, so that a leaf's .grad takes the buffer instead of copying it.
        grad, ctx.grad = ctx.grad, None
        scaled = grad is not None and ext.scale_gradient(grad, grad_output)
        if scaled is None:
            return _by_definition(ctx, grad_output)
        if not scaled:
            if obstacle(grad_output) is not None:
                return _by_definition(ctx, grad_output)
            grad = ctx.call[0](ctx.call[2], ctx.saved_tensors, float(grad_output))
        if not ctx.needs_input_grad[1]:
            return grad, None, None, None, None
        return _both(ctx, grad)


class Each(Function):
    """One loss per element or sample. The gradient is computed in backward, when grad_output is known."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, held: list[Tensor], others: tuple[Tensor, ...], call: Call
    ) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(input, target, *others)
        return held[0]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        # Batched by vmap, say, or a lazy negative.
        if is_grad_enabled() or obstacle(grad_output) is not None:
            return _by_definition(ctx, grad_output)
        return _both(ctx, ctx.call[0](ctx.call[2], ctx.saved_tensors, grad_output.contiguous()))


class InPlace(Function):
    """A loss whose gradient stands where its logits stood."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, held: list[Tensor]) -> Tensor:
        ctx.save_for_backward(input)
        ctx.spent = False
        return held[0]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        if ctx.spent or is_grad_enabled():
            raise LosskitRuntimeError(
                "cross_entropy: inplace_backward=True leaves no logits for a second backward or create_graph=True: "
                "inplace_backward=False?"
            )
        (logits,) = ctx.saved_tensors
        ctx.spent = True
        grad = logits.detach()
        scaled = ext.scale_gradient(grad, grad_output)
        if scaled is None and obstacle(grad_output.resolve_neg()) is None:
            scaled = ext.scale_gradient(grad, grad_output.resolve_neg())
        if scaled is None:
            raise LosskitRuntimeError(
                "cross_entropy: inplace_backward=True takes a plain grad_output, because one gradient is all there is "
                "room for: inplace_backward=False?"
            )
        if not scaled:
            raise LosskitRuntimeError(
                f"cross_entropy: inplace_backward=True with {grad.dtype} logits takes a grad_output of 1, got "
                f"{float(grad_output):g}, because the gradient has been rounded already: "
                "normalizer= scales before that."
            )
        return grad, None


def _both(ctx: Any, grad: Tensor) -> Any:
    need_input, need_target = ctx.needs_input_grad[:2]
    # Only losses of input − target run a kernel when the target needs a gradient.
    return grad if need_input else None, -grad if need_target else None, None, None, None


def _by_definition(ctx: Any, grad_output: Tensor) -> Any:
    """The gradient by the definition: differentiable, for create_graph=True, and for any kind of grad_output."""
    create_graph = is_grad_enabled()
    tensors = ctx.saved_tensors[:2]
    needs = ctx.needs_input_grad[:2]
    needed = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
    with torch.enable_grad():
        loss = ctx.call[1](ctx.call[2], *tensors)
    grads = iter(torch.autograd.grad(loss, needed, grad_output, create_graph=create_graph))
    return *(next(grads) if need else None for need in needs), None, None, None
