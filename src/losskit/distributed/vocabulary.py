"""Cross entropy of scores whose classes lie on several ranks: from checked arguments to the result."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd import Function

from losskit.core.precision import narrow
from losskit.core.reduction import Reduction, where
from losskit.core.scores import ClassStats
from losskit.distributed.exchange import AllRows, bring_together, check_labels
from losskit.distributed.rows import LocalRows, RowGradient, RowOptions, Scores, local_rows, transformed_in_place
from losskit.distributed.shards import Shard
from losskit.errors import LosskitRuntimeError

__all__ = ["Forward", "Node", "VocabularyCall", "forward", "result_of"]


@dataclass(frozen=True)
class VocabularyCall:
    """One call whose arguments have been checked. Rows are samples: the loss before its reduction, flattened."""

    function: str
    shard: Shard
    rows: RowOptions
    # Class indices of the rows, None for class probabilities.
    target: Tensor | None
    # False for rows that are ignored or masked.
    counts: Tensor
    reduction: Reduction
    out_dtype: torch.dtype


@dataclass
class Forward:
    """What the exchange has given: the losses of the rows, and what their gradient needs."""

    values: Tensor
    # What each row adds to the divisor of the mean, None where each adds 1.
    divisor: Tensor | None
    highest: Tensor
    sum_of_exp: Tensor
    mass: Tensor
    lse: Tensor
    own_weight: Tensor | None
    smooth: Tensor | None
    stats: ClassStats | None

    def saved(self) -> tuple[Tensor | None, ...]:
        """What a node of the graph keeps, and `row_gradient` takes."""
        return (self.highest, self.sum_of_exp, self.mass, self.lse, self.own_weight, self.smooth)


@torch.no_grad()
def forward(call: VocabularyCall, scores: Scores, places: list[slice], known: LocalRows | None = None) -> Forward:
    """One collective, and with return_stats a second one. `known`: the numbers of this shard, where they are known."""
    rows, weight = call.rows, call.rows.weight
    empty = torch.empty(call.counts.shape, dtype=rows.dtype, device=call.counts.device)
    own_rows = local_rows(scores, places, empty, rows) if known is None else known
    everything = bring_together(call.function, own_rows, call.shard, weight)
    if call.target is not None:
        check_labels(call.function, call.target, everything, call.counts)
    smoothing, z_loss = rows.label_smoothing, rows.scores.z_loss
    log_sum = everything.log_sum
    lse = everything.highest + log_sum
    own_weight = None
    # The loss of a row is Σ a·(lse − x), and `mass` Σ a: a is what the target gives to a class.
    if everything.own is not None:
        values = log_sum + (everything.highest - everything.own)
        mass = torch.ones_like(values)
        if everything.own_weight is not None:
            mass = everything.own_weight
            # 0·inf is 0: a class of weight 0 costs nothing, however unlikely it is.
            values = (mass * values).masked_fill(mass == 0, 0)
        divisor = where(call.counts, mass)
        own_weight = mass * (1 - smoothing)
    else:
        mass = _given(everything.mass)
        values = mass * log_sum + _given(everything.expected_below)
        divisor = None
    smooth = None
    if smoothing > 0:
        smooth = smoothing / everything.classes
        uniform = smooth * (everything.weight * log_sum + _given(everything.below))
        values = (1 - smoothing) * values + uniform
        mass = (1 - smoothing) * mass + smooth * everything.weight
    if z_loss:
        values = values + z_loss * lse.square()
    stats = _stats(call, everything, lse, scores, places) if rows.scores.stats else None
    rounded = functools.partial(_rounded, dtype=rows.dtype)
    return Forward(
        values=_given(rounded(where(call.counts, values))),
        divisor=rounded(divisor),
        highest=_given(rounded(everything.highest)),
        sum_of_exp=_given(rounded(everything.sum_of_exp)),
        mass=_given(rounded(mass)),
        lse=_given(rounded(lse)),
        own_weight=rounded(own_weight),
        smooth=rounded(smooth),
        stats=stats,
    )


def _rounded(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else value.to(dtype)


def _given(value: Tensor | None) -> Tensor:
    """A number that the call asked the shards for."""
    if value is None:
        raise LosskitRuntimeError("a shard has not sent what the call needs.")
    return value


def _stats(call: VocabularyCall, rows: AllRows, lse: Tensor, scores: Scores, places: list[slice]) -> ClassStats:
    own = rows.own if rows.own is not None else _given(rows.best_score)
    log_prob = -(rows.log_sum + (rows.highest - own))
    if rows.own is None:
        log_prob = -(_given(rows.plain_mass) * rows.log_sum + _given(rows.plain_below))
    entropy = rows.log_sum + _given(rows.entropy) / rows.sum_of_exp
    # Only now is the target's score known everywhere, which is why this takes a collective of its own.
    higher = torch.zeros(call.counts.shape, dtype=torch.int64, device=call.counts.device)
    limit = own.to(call.rows.dtype).unsqueeze(1)
    for place in places:
        x = transformed_in_place(scores(place), call.rows.scores)
        higher[place] = (x > limit[place]).sum(1)
    if call.shard.group is not None:
        distributed.all_reduce(higher, group=call.shard.group)
    # Nothing is higher than NaN, and such a row has no right answer.
    lost = lse.isnan() | ~call.counts
    rank = torch.where(lost, rows.classes.long(), higher)
    shape = call.reduction.shape
    log_prob, lse, entropy = (
        where(call.counts, value).to(call.rows.dtype).reshape(shape) for value in (log_prob, lse, entropy)
    )
    return ClassStats(log_prob, lse, entropy, rank.reshape(shape))


def row_gradient(call: VocabularyCall, saved: tuple[Any, ...], grad_output: Tensor) -> RowGradient:
    highest, sum_of_exp, mass, lse, own_weight, smooth = saved
    z_loss = call.rows.scores.z_loss
    return RowGradient(
        highest=highest,
        sum_of_exp=sum_of_exp,
        grad_output=grad_output.to(call.rows.dtype),
        by_lse=mass + 2 * z_loss * lse if z_loss else mass,
        counts=call.counts,
        own_weight=own_weight,
        smooth=smooth,
    )


# The gradients by the tensors of the node, of what it saved, the gradient by the rows' losses, and which are needed.
Backward = Callable[[tuple[Any, ...], Tensor, tuple[bool, ...]], list[Tensor | None]]


class Node(Function):
    """The losses of the rows as a node of the graph. Its gradient needs no collective for the scores."""

    @staticmethod
    def forward(ctx: Any, packed: tuple[str, Forward, Backward], *tensors: Tensor | None) -> Tensor:
        ctx.function, found, ctx.gradients = packed
        ctx.save_for_backward(*tensors, *found.saved())
        return found.values

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise LosskitRuntimeError(
                f"{ctx.function}: create_graph=True is not there for a vocabulary in shards, because a derivative of "
                "its gradient needs the other ranks: losskit.functional.cross_entropy has it."
            )
        return None, *ctx.gradients(ctx.saved_tensors, grad_output, ctx.needs_input_grad[1:])


def result_of(call: VocabularyCall, found: Forward, values: Tensor) -> Any:
    """The losses of the rows, reduced; with return_stats the pair of them and the stats."""
    shape = call.reduction.shape
    divisor = None if found.divisor is None else found.divisor.reshape(shape)
    loss = narrow(call.reduction.apply(values.reshape(shape), divisor), call.out_dtype)
    return loss if found.stats is None else (loss, found.stats)
