"""The loop over the rows: the scores of all rows never exist.

The gradients are computed along with the loss, while the scores of some rows are there: a step gives the gradient by
these scores, and two more matrix products make of it those by the input and by the layer. The step is the C++ kernel,
which puts the gradient in the place of the scores, or plain torch operations on any device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losskit.kernels.linear import filtered
from losskit.kernels.linear.products import Products

# The scores of some rows, their targets, where they stand in the batch, and, where there is one loss for each row, its
# grad_output; then the factor of the sum, and whether loss and gradient are wanted. Gives the loss, as one number or as
# one for each row, and the gradient by the scores; None where a class index is out of range. The last argument is
# filled in with four numbers for each row, as `losskit.core.scores.ClassStats` has them.
Step = Callable[
    [Tensor, Tensor, Any, "Tensor | None", float, bool, bool, "Tensor | None"], "tuple[Tensor, Tensor | None] | None"
]


@dataclass(frozen=True)
class Plan:
    """How the rows are taken."""

    step: Step
    products: Products
    # A float matrix whose numbers are not set.
    empty: Callable[[int, int], Tensor]
    # The numbers of the rows that count; None: all.
    kept: Tensor | None
    # Whether there is one number, the sum divided by `divisor`, or a loss for each row.
    total: bool
    divisor: float
    # How many rows' scores may exist at a time.
    rows: int
    # One factor for each row of input.
    row_weight: Tensor | None
    # Gradients by a score that are this small next to the row's factor may count as 0; 0: none.
    filter_eps: float


# input, linear_weight, linear_bias, target
Tensors = tuple[Any, ...]


@torch.no_grad()
def evaluate(
    tensors: Tensors,
    plan: Plan,
    grad_output: Tensor | None,
    upstream: float | Tensor,
    needs: tuple[bool, ...],
    want_loss: bool,
    stats: Tensor | None = None,
) -> tuple[Tensor, list[Tensor | None]] | None:
    """The loss and its gradients by the tensors that need one; None where a class index is out of range.

    Both are of the dtype that is added up in: whoever gets them rounds them once. One number is of float64 where the
    device has it. `stats`, of shape (N, 4), is filled in.
    """
    # A product of what has been widened already must not be one of half precision again.
    with torch.autocast(tensors[0].device.type, enabled=False):
        return _evaluate(tensors, plan, grad_output, upstream, needs, want_loss, stats)


def _evaluate(
    tensors: Tensors,
    plan: Plan,
    grad_output: Tensor | None,
    upstream: float | Tensor,
    needs: tuple[bool, ...],
    want_loss: bool,
    stats: Tensor | None,
) -> tuple[Tensor, list[Tensor | None]] | None:
    input, linear_weight, target = (tensors[i].detach() for i in (0, 1, 3))
    bias = None if tensors[2] is None else tensors[2].detach()
    count, classes = len(input), len(linear_weight)
    kept, dtype = plan.kept, plan.products.dtype
    sum_dtype = torch.float64 if input.device.type != "mps" else torch.float32
    # What torch divides by 0 is infinite or NaN; Python would raise.
    divisor = torch.tensor(plan.divisor, dtype=sum_dtype)
    factor = float(torch.as_tensor(upstream, dtype=sum_dtype, device="cpu") / divisor)
    grads = _Gradients(plan, input, linear_weight, needs)
    each = None if plan.total or not want_loss else input.new_zeros(count, dtype=dtype)
    total = input.new_zeros((), dtype=sum_dtype)
    number = count if kept is None else len(kept)
    if stats is not None and kept is not None:
        # Of rows that do not count, which no step sees.
        stats.copy_(stats.new_tensor([0.0, 0.0, 0.0, classes]))
    scores = plan.empty(min(plan.rows, number), classes)
    for begin in range(0, number, plan.rows):
        end = min(begin + plan.rows, number)
        place: Any = slice(begin, end) if kept is None else kept[begin:end]
        x = input[place] if plan.products.narrow else input[place].to(dtype)
        z = plan.products.scores(x, linear_weight, bias, scores[: end - begin])
        outer = None if grad_output is None else grad_output[place].contiguous()
        labels = target[place]
        part = None if stats is None else stats[place]
        result = plan.step(z, labels, place, outer, factor, want_loss, any(needs), part)
        if result is None:
            return None
        loss, by_scores = result
        if each is not None:
            each[place] = loss.to(dtype)
        elif want_loss:
            total += loss
        if stats is not None and part is not None and kept is not None:
            stats[place] = part
        if by_scores is not None:
            grads.add(place, x, by_scores, linear_weight, labels, outer, factor)
    return (total / divisor.to(total.device) if each is None else each), grads.all()


class _Gradients:
    """The gradients by input, linear_weight and linear_bias, added up over the chunks; the target has none."""

    def __init__(self, plan: Plan, input: Tensor, linear_weight: Tensor, needs: tuple[bool, ...]) -> None:
        self._plan = plan
        self._input: Tensor | None = None
        self._layer: Tensor | None = None
        self._bias: Tensor | None = None
        self._first = True
        if needs[0]:
            self._input = plan.empty(*input.shape)
            if plan.kept is not None:
                self._input.zero_()
        if needs[1]:
            self._layer = plan.empty(*linear_weight.shape)
        if needs[2]:
            # One number per class: in float64, which costs nothing here.
            self._bias = linear_weight.new_zeros(
                len(linear_weight), dtype=torch.float64 if input.device.type != "mps" else torch.float32
            )

    def add(
        self,
        place: Any,
        x: Tensor,
        by_scores: Tensor,
        linear_weight: Tensor,
        labels: Tensor,
        grad_output: Tensor | None,
        factor: float,
    ) -> None:
        plan = self._plan
        entries = None
        # What is left out must be found and added up one by one, in the dtype of the layer.
        if plan.filter_eps > 0 and linear_weight.dtype == plan.products.dtype and linear_weight.shape[1] > 0:
            limit = self._limit(place, by_scores, grad_output, factor)
            entries = filtered.entries(by_scores, limit, None if labels.is_floating_point() else labels)
        if self._input is not None:
            whole = isinstance(place, slice)
            part = self._input[place] if whole else x.new_empty(x.shape, dtype=plan.products.dtype)
            if entries is None:
                plan.products.by_input(by_scores, linear_weight, part)
            else:
                filtered.by_input(entries, linear_weight, part)
            if not whole:
                self._input[place] = part
        if self._layer is not None:
            if entries is None:
                plan.products.by_layer(by_scores, x, self._layer, self._first)
            else:
                filtered.by_layer(entries, x, self._layer.zero_() if self._first else self._layer)
        if self._bias is not None:
            self._bias += by_scores.sum(0)
        self._first = False

    def _limit(self, place: Any, by_scores: Tensor, grad_output: Tensor | None, factor: float) -> Tensor:
        """filter_eps times what the loss of each row is multiplied by."""
        limit = by_scores.new_full((len(by_scores),), abs(factor) * self._plan.filter_eps)
        for more in (grad_output, None if self._plan.row_weight is None else self._plan.row_weight[place]):
            limit = limit if more is None else limit * more.abs().to(limit.dtype)
        return limit

    def all(self) -> list[Tensor | None]:
        if self._first:
            # No row counted, and nothing has been written.
            for gradient in (self._input, self._layer):
                if gradient is not None:
                    gradient.zero_()
        bias = None if self._bias is None else self._bias.to(self._plan.products.dtype)
        return [self._input, self._layer, bias, None]
