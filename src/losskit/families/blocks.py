"""A loss per row of some tensors, computed for a block of rows at a time.

What such a loss holds on the way, as a row of similarities with all other rows, then exists for one block alone, in the
backward pass too. Where the losses are added up, their gradients are computed along with them and nothing of a block is
kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from losskit.core.dispatch import obstacle
from losskit.kernels.cpu.autograd import differentiated


@dataclass(frozen=True)
class Blocks:
    """A definition and how its tensors go through it."""

    # The tensors to the losses, one per row.
    definition: Callable[..., Tensor]
    # Whether a tensor has a row for each loss; the others are there as a whole for every block.
    of_rows: tuple[bool, ...]
    # Rows of a block.
    size: int

    def each(self, *tensors: Tensor) -> Tensor:
        """The losses, (N)."""
        return _Each.apply(self, *tensors)  # type: ignore[no-untyped-call, no-any-return]  # apply has no annotations

    def total(self, weight: Tensor | None, *tensors: Tensor) -> Tensor:
        """Their sum, each times its weight."""
        # forward runs without gradients and cannot tell.
        needs = tuple(torch.is_grad_enabled() and tensor.requires_grad for tensor in tensors)
        return _Total.apply(self, weight, needs, *tensors)  # type: ignore[no-untyped-call, no-any-return]  # apply has no annotations

    def evaluate(
        self, tensors: Sequence[Tensor], seed: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The losses, and the gradients of Σ seed·loss by the tensors that need one."""
        count = len(seed)
        values = seed.new_zeros(count)
        grads = [torch.zeros_like(tensor) if need else None for tensor, need in zip(tensors, needs, strict=True)]
        for begin in range(0, count, self.size):
            place = slice(begin, min(begin + self.size, count))
            own = [
                (tensor[place] if rows else tensor).detach().requires_grad_(need)
                for tensor, rows, need in zip(tensors, self.of_rows, needs, strict=True)
            ]
            with torch.set_grad_enabled(any(needs)):
                losses = self.definition(*own)
            values[place] = losses.detach()
            if any(needs):
                wanted = [tensor for tensor in own if tensor.requires_grad]
                found = iter(torch.autograd.grad(losses, wanted, seed[place]))
                for grad, rows in zip(grads, self.of_rows, strict=True):
                    if grad is not None and rows:
                        grad[place] = next(found)
                    elif grad is not None:
                        grad += next(found)
        return values, grads


def _dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    return next(tensor.dtype for tensor in tensors if tensor.is_floating_point())


class _Each(Function):
    @staticmethod
    def forward(ctx: Any, blocks: Blocks, *tensors: Tensor) -> Tensor:
        ctx.blocks, ctx.total = blocks, False
        ctx.save_for_backward(*tensors)
        count = len(tensors[blocks.of_rows.index(True)])
        seed = tensors[0].new_ones(count, dtype=_dtype(tensors))
        return blocks.evaluate(tensors, seed, [False] * len(tensors))[0]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        needs = ctx.needs_input_grad[1:]
        # Batched by vmap, say.
        if torch.is_grad_enabled() or obstacle(grad_output) is not None:
            return None, *_by_definition(ctx, None, needs, grad_output)
        return None, *ctx.blocks.evaluate(ctx.saved_tensors, grad_output, needs)[1]


class _Total(Function):
    @staticmethod
    def forward(ctx: Any, blocks: Blocks, weight: Tensor | None, needs: tuple[bool, ...], *tensors: Tensor) -> Tensor:
        ctx.blocks, ctx.weight, ctx.total = blocks, weight, True
        ctx.save_for_backward(*tensors)
        dtype = _dtype(tensors)
        count = len(tensors[blocks.of_rows.index(True)])
        seed = tensors[0].new_ones(count, dtype=dtype) if weight is None else weight.to(dtype)
        values, ctx.grads = blocks.evaluate(tensors, seed, needs)
        return (values.double() * seed.double()).sum().to(dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        if torch.is_grad_enabled():
            return None, None, None, *_by_definition(ctx, ctx.weight, ctx.needs_input_grad[3:], grad_output)
        return None, None, None, *(None if grad is None else grad * grad_output for grad in ctx.grads)


def _by_definition(
    ctx: Any, weight: Tensor | None, needs: tuple[bool, ...], grad_output: Tensor
) -> list[Tensor | None]:
    """The gradients with a graph of their own, of all rows at once."""

    def definition(_: None, *tensors: Tensor) -> Tensor:
        losses: Tensor = ctx.blocks.definition(*tensors)
        if not ctx.total:
            return losses
        return losses.sum() if weight is None else (losses * weight.to(losses.dtype)).sum()

    return differentiated((None, definition, None), ctx.saved_tensors, needs, grad_output)
