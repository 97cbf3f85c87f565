"""Cross entropy of scores whose classes lie on several ranks: from checked arguments to the result."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd import Function, forward_ad

from losskit.core.precision import narrow
from losskit.core.reduction import Reduction, where
from losskit.core.scores import ClassStats
from losskit.distributed.exchange import AllRows, Marks, bring_together, check_classes, check_labels
from losskit.distributed.rows import LocalRows, RowGradient, RowOptions, Scores, local_rows, transformed_in_place
from losskit.distributed.shards import Shard
from losskit.distributed.stats import ShardStats
from losskit.errors import LosskitRuntimeError

__all__ = ["Forward", "Node", "VocabularyCall", "check_no_transform", "forward", "result_of"]

# float32 has the whole numbers below.
_MARKS = 1 << 24


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
    # How many class weights were given, where they are those of all classes.
    all_weights: int | None
    reduction: Reduction
    out_dtype: torch.dtype
    # Whether the stats are to tell the rank of the target, which takes a collective of its own.
    rank: bool


@dataclass
class Forward:
    """What the exchange has given: the losses of the rows, and what their gradient needs."""

    values: Tensor
    # What each row adds to the divisor of the mean, None where each adds 1.
    divisor: Tensor | None
    highest: Tensor
    sum_of_exp: Tensor
    mass: Tensor
    # None where nothing asks for it.
    lse: Tensor | None
    own_weight: Tensor | None
    smooth: Tensor | None
    stats: ClassStats | ShardStats | None

    def saved(self) -> tuple[Tensor | None, ...]:
        """What a node of the graph keeps, and `row_gradient` takes."""
        return (self.highest, self.sum_of_exp, self.mass, self.lse, self.own_weight, self.smooth)


def check_no_transform(function: str, *tensors: Tensor | None) -> None:
    """A node of autograd knows of backward passes alone: a tangent would be lost without a word."""
    transformed = torch._C._are_functorch_transforms_active() or (
        forward_ad._current_level >= 0
        and any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
    )
    if transformed:
        raise LosskitRuntimeError(
            f"{function}: torch.func and forward-mode AD are not there for a vocabulary in shards: "
            "torch.autograd.grad(loss, input) is, and losskit.functional.cross_entropy has both."
        )


@torch.no_grad()
def forward(call: VocabularyCall, scores: Scores, places: list[slice], known: LocalRows | None = None) -> Forward:
    """One collective, and for the rank of the target a second one. `known`: the numbers of this shard, if there are."""
    rows, weight = call.rows, call.rows.weight
    empty = torch.empty(call.counts.shape, dtype=rows.dtype, device=call.counts.device)
    own_rows = local_rows(scores, places, empty, rows) if known is None else known
    everything = bring_together(call.function, own_rows, call.shard, weight, _marks(call))
    check_classes(call.function, everything, call.all_weights)
    if call.target is not None:
        check_labels(call.function, call.target, everything, call.counts)
    smoothing, z_loss = rows.label_smoothing, rows.scores.z_loss
    log_sum = everything.log_sum
    lse = None
    if z_loss or rows.scores.stats:
        # ∞ + NaN where the highest score is infinite.
        lse = torch.where(everything.highest.isinf(), everything.highest, everything.highest + log_sum)
    own_weight = None
    # The loss of a row is Σ a·(lse − x), and `mass` Σ a: a is what the target gives to a class.
    if everything.own is not None:
        values = log_sum + (everything.highest - everything.own)
        mass = torch.ones_like(values)
        if everything.own_weight is not None:
            mass = everything.own_weight
            # 0·inf is 0: a class of weight 0 costs nothing, however unlikely it is. NaN stays NaN.
            values = (mass * values).masked_fill((mass == 0) & ~values.isnan(), 0)
        divisor = call.counts if everything.own_weight is None else where(call.counts, mass)
        own_weight = mass * (1 - smoothing)
    else:
        mass = _given(everything.mass)
        values = mass * log_sum + _given(everything.expected_below)
        divisor = None
    smooth = None
    if smoothing > 0:
        smooth = smoothing / everything.classes
        uniform = smooth * (everything.weight * log_sum + _given(everything.below))
        # 0·inf is 0: a target that is smoothed away costs nothing, however unlikely it is.
        values = uniform if smoothing == 1 else (1 - smoothing) * values + uniform
        mass = (1 - smoothing) * mass + smooth * everything.weight
    if z_loss:
        values = values + z_loss * _given(lse).square()
    stats = _stats(call, everything, _given(lse), scores, places) if rows.scores.stats else None
    rounded = functools.partial(_rounded, dtype=rows.dtype)
    return Forward(
        values=_given(rounded(where(call.counts, values))),
        divisor=rounded(divisor),
        highest=_given(rounded(everything.highest)),
        sum_of_exp=_given(rounded(everything.sum_of_exp)),
        mass=_given(rounded(mass)),
        lse=rounded(lse),
        own_weight=rounded(own_weight),
        smooth=rounded(smooth),
        stats=stats,
    )


def _marks(call: VocabularyCall) -> Marks:
    """What must be the same on every rank, as two numbers: those of another call are others, nearly always."""
    scores = call.rows.scores
    softcap = 0.0 if scores.softcap is None else scores.softcap
    # Of floats alone, whose hashes are the same in every process.
    options = (call.rows.label_smoothing, float(scores.z_loss), float(softcap), float(scores.logit_scale))
    of_options = hash(options) % _MARKS
    if call.counts.device.type != "cpu":
        # Reading them would make the device wait.
        return Marks(of_options, 0)
    counted = call.counts.long() if call.target is None else (call.target + 1) * call.counts
    return Marks(of_options, int(torch.dot(counted, torch.arange(1, len(counted) + 1))) % _MARKS)


def _rounded(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else value.to(dtype)


def _given(value: Tensor | None) -> Tensor:
    """A number that the call asked the shards for."""
    if value is None:
        raise LosskitRuntimeError("a shard has not sent what the call needs.")
    return value


def _stats(
    call: VocabularyCall, rows: AllRows, lse: Tensor, scores: Scores, places: list[slice]
) -> ClassStats | ShardStats:
    own = rows.own if rows.own is not None else _given(rows.best_score)
    log_prob = -(rows.log_sum + (rows.highest - own))
    if rows.own is None:
        log_prob = -(_given(rows.plain_mass) * rows.log_sum + _given(rows.plain_below))
    entropy = rows.log_sum + _given(rows.entropy) / rows.sum_of_exp
    # Nothing is higher than NaN or infinity, and a row without a softmax has no right answer.
    lost = entropy.isnan() | ~call.counts
    shape = call.reduction.shape
    log_prob, lse, entropy = (
        where(call.counts, value).to(call.rows.dtype).reshape(shape) for value in (log_prob, lse, entropy)
    )
    if not call.rank:
        return ShardStats(log_prob, lse, entropy, ((own == rows.highest) & ~lost).reshape(shape))
    rank = torch.where(lost, rows.classes.long(), _higher(call, own, scores, places))
    return ClassStats(log_prob, lse, entropy, rank.reshape(shape))


def _higher(call: VocabularyCall, own: Tensor, scores: Scores, places: list[slice]) -> Tensor:
    """How many scores of all shards are higher than the target's, which only now is known everywhere."""
    higher = torch.zeros(call.counts.shape, dtype=torch.int64, device=call.counts.device)
    limit = own.to(call.rows.dtype).unsqueeze(1)
    for place in places:
        x = transformed_in_place(scores(place), call.rows.scores)
        higher[place] = (x > limit[place]).sum(1)
    if call.shard.group is not None:
        distributed.all_reduce(higher, group=call.shard.group)
    return higher


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
        if torch._C._functorch.is_legacy_batchedtensor(grad_output):
            raise LosskitRuntimeError(
                f"{ctx.function}: is_grads_batched=True is not there for a vocabulary in shards: ask for one "
                "gradient at a time."
            )
        return None, *ctx.gradients(ctx.saved_tensors, grad_output, ctx.needs_input_grad[1:])


def result_of(call: VocabularyCall, found: Forward, values: Tensor) -> Any:
    """The losses of the rows, reduced; with return_stats the pair of them and the stats."""
    shape = call.reduction.shape
    divisor = None if found.divisor is None else found.divisor.reshape(shape)
    loss = narrow(call.reduction.apply(values.reshape(shape), divisor), call.out_dtype)
    return loss if found.stats is None else (loss, found.stats)
