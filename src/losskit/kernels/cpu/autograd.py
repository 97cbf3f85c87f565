"""The kernels as nodes of the autograd graph.

A node knows its call as a tuple `(gradient, definition, state)`: `gradient(state, saved, upstream)` runs the kernel
once more on the saved tensors, and `definition(state, input, target)` is the loss in plain torch operations, for
derivatives of the gradient. A tuple and not a closure, because building one must cost nothing next to the smallest
loss.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.autograd import Function
from torch.compiler import is_compiling

from losskit.core.dispatch import obstacle
from losskit.errors import LosskitRuntimeError
from losskit.kernels.cpu.extension import ext

# upstream is the gradient of the loss: a float for one number, a tensor for one loss per element.
Gradient = Callable[[Any, tuple[Tensor, ...], Any], Tensor]
Definition = Callable[[Any, Tensor, Tensor], Tensor]
Call = tuple[Gradient, Definition, Any]


# loss, gradient or None, target, the other tensors that the gradient depends on, the call. In a tuple, loss and
# gradient are not taken for inputs of the graph, and every further argument would cost as much as the smallest kernel.
Packed = tuple[Tensor, Tensor | None, Tensor, tuple[Tensor, ...], Call]


class Total(Function):
    """A loss that is reduced to one number. Its gradient was computed along with it."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, packed: Packed) -> Tensor:
        loss, ctx.grad, target, others, ctx.call = packed
        ctx.save_for_backward(input, target, *others)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return _of_total(ctx, grad_output), None


class TotalOfBoth(Function):
    """The same for a target that may need a gradient, which is minus that of the input."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, packed: Packed) -> Tensor:
        loss, ctx.grad, _, others, ctx.call = packed
        ctx.save_for_backward(input, target, *others)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        if is_grad_enabled():
            return *_by_definition(ctx, grad_output), None
        return *_both(ctx, _of_total(ctx, grad_output)), None


class Each(Function):
    """One loss per element or sample. The gradient is computed in backward, when grad_output is known."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, packed: Packed) -> Tensor:
        loss, _, target, others, ctx.call = packed
        ctx.save_for_backward(input, target, *others)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return _of_each(ctx, grad_output), None


class EachOfBoth(Function):
    """The same for a target that may need a gradient, which is minus that of the input."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, packed: Packed) -> Tensor:
        loss, _, _, others, ctx.call = packed
        ctx.save_for_backward(input, target, *others)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        if is_grad_enabled():
            return *_by_definition(ctx, grad_output), None
        return *_both(ctx, _of_each(ctx, grad_output)), None


# What a node of several tensors does. `gradients(state, saved, upstream, needs)` runs the kernel once more;
# `definition(state, *tensors)` is the loss.
Gradients = Callable[[Any, tuple[Tensor, ...], Any, tuple[bool, ...]], list[Tensor | None]]
CallOfSeveral = tuple[Gradients, Callable[..., Tensor], Any]


class OfSeveral(Function):
    """A loss of several tensors, any of which may need a gradient.

    The gradients of one number were computed along with it; those of one loss per element or row are computed in
    backward, when grad_output is known.
    """

    @staticmethod
    def forward(ctx: Any, packed: Any, *tensors: Tensor) -> Tensor:
        loss: Tensor
        loss, ctx.grads, others, ctx.call = packed
        ctx.count = len(tensors)
        ctx.save_for_backward(*tensors, *others)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return None, *_of_several(ctx, grad_output)


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


def bound(node: type[Function]) -> Callable[..., Tensor]:
    """`node.apply` without the part of it that is Python, which costs more than the smallest kernel.

    That part looks for transforms of torch.func and for tensors left over from one; kernels run with neither.
    """
    apply: Callable[..., Tensor] = super(Function, node).apply  # type: ignore[misc]  # a method of C++, not annotated
    return apply


join_total, join_several = bound(Total), bound(OfSeveral)
_join_each, _join_total_of_both, _join_each_of_both = bound(Each), bound(TotalOfBoth), bound(EachOfBoth)


def _of_total(ctx: Any, grad_output: Tensor) -> Any:
    # Compiled autograd traces this, and cannot look into the extension.
    if is_grad_enabled() or is_compiling():
        return _by_definition(ctx, grad_output)[0]
    # The only reference, so that a leaf's .grad takes the buffer instead of copying it.
    grad, ctx.grad = ctx.grad, None
    scaled = grad is not None and ext.scale_gradient(grad, grad_output)
    if scaled:
        return grad
    if scaled is None or obstacle(grad_output) is not None:
        return _by_definition(ctx, grad_output)[0]
    gradient, _, state = ctx.call
    return gradient(state, ctx.saved_tensors, float(grad_output))


def _of_each(ctx: Any, grad_output: Tensor) -> Any:
    # Batched by vmap, say, or a lazy negative.
    if is_grad_enabled() or obstacle(grad_output) is not None:
        return _by_definition(ctx, grad_output)[0]
    gradient, _, state = ctx.call
    return gradient(state, ctx.saved_tensors, grad_output.contiguous())


def _of_several(ctx: Any, grad_output: Tensor) -> list[Tensor | None]:
    needs = ctx.needs_input_grad[1:]
    if is_grad_enabled() or is_compiling():
        return _several_by_definition(ctx, grad_output, needs)
    total = ctx.grads is not None
    if total and ctx.grads:
        # The only references, as above.
        grads, ctx.grads = ctx.grads, ()
        scaled = [ext.scale_gradient(grad, grad_output) for grad in grads if grad is not None]
        if all(scaled):
            return grads  # type: ignore[no-any-return]  # what the kernel gave
        del grads
        if None in scaled:
            return _several_by_definition(ctx, grad_output, needs)
    if obstacle(grad_output) is not None:
        return _several_by_definition(ctx, grad_output, needs)
    gradients: Gradients = ctx.call[0]
    upstream = float(grad_output) if total else grad_output.contiguous()
    return gradients(ctx.call[2], ctx.saved_tensors, upstream, needs)


def _several_by_definition(ctx: Any, grad_output: Tensor, needs: tuple[bool, ...]) -> list[Tensor | None]:
    return differentiated(ctx.call, ctx.saved_tensors[: ctx.count], needs, grad_output)


def _both(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    # Only losses of input − target run a kernel when the target needs a gradient.
    need_input, need_target, _ = ctx.needs_input_grad
    return grad if need_input else None, -grad if need_target else None


def _by_definition(ctx: Any, grad_output: Tensor) -> list[Any]:
    input, target, *_ = ctx.saved_tensors
    # The last input of the node is the packed tuple; some have no target before it.
    needs = ctx.needs_input_grad[:-1]
    return differentiated(ctx.call, (input, target), (needs[0], len(needs) > 1 and needs[1]), grad_output)


def differentiated(
    call: Any, tensors: tuple[Tensor, ...], needs: tuple[bool, ...], grad_output: Tensor
) -> list[Tensor | None]:
    """The gradients by the definition: differentiable, for create_graph=True, and for any kind of grad_output."""
    create_graph = is_grad_enabled()
    _, definition, state = call
    if is_compiling():
        return _traced(partial(definition, state), tensors, needs, grad_output)
    with torch.enable_grad():
        # Views, at which differentiation ends: one tensor may have been computed from another, or be the other, and
        # what flows between them is the graph's business.
        own = [tensor.view_as(tensor) if need else tensor for tensor, need in zip(tensors, needs, strict=True)]
        loss = definition(state, *own)
    needed = [tensor for tensor, need in zip(own, needs, strict=True) if need]
    grads = iter(torch.autograd.grad(loss, needed, grad_output, create_graph=create_graph))
    return [next(grads) if need else None for need in needs]


def _traced(
    definition: Callable[..., Tensor], tensors: tuple[Tensor, ...], needs: tuple[bool, ...], grad_output: Tensor
) -> list[Tensor | None]:
    """The same where compiled autograd traces the backward pass: dynamo takes torch.func into its graph."""

    def loss(*needed: Tensor) -> Tensor:
        own = iter(needed)
        return definition(*(next(own) if need else tensor for tensor, need in zip(tensors, needs, strict=True)))

    needed = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
    _, gradient = torch.func.vjp(loss, *needed)  # type: ignore[misc]  # three with has_aux
    grads = iter(gradient(grad_output))
    return [next(grads) if need else None for need in needs]


def join(
    input: Tensor,
    target: Tensor,
    loss: Tensor,
    grad: Tensor | None,
    others: tuple[Tensor, ...],
    call: Call,
    total: bool,
) -> Tensor:
    """The loss as a node of the graph."""
    packed = (loss, grad, target, others, call)
    if target.requires_grad:
        return (_join_total_of_both if total else _join_each_of_both)(input, target, packed)
    return (join_total if total else _join_each)(input, packed)
