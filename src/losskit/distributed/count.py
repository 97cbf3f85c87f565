"""What all ranks and micro-batches add to the divisor of the mean."""

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, distributed

from losskit.core import inputs
from losskit.distributed.groups import Group, process_group, transport_device
from losskit.errors import LosskitRuntimeError, LosskitTypeError, LosskitValueError
from losskit.losses.softmax import class_weights

__all__ = ["Counted", "PendingCount", "global_count"]

# What one micro-batch brings: its class indices, its mask, or a number that has been counted already.
Counted = Tensor | float


class PendingCount:
    """A count whose all-reduce is on its way.

    **Example**:

    >>> pending = global_count(torch.tensor([1, -100, 2]), async_op=True)
    >>> pending.wait()
    tensor(2., dtype=torch.float64)
    """

    def __init__(self, total: Tensor, work: Any) -> None:
        self._total = total
        self._work = work

    def wait(self) -> Tensor:
        """The count, a 0-dim tensor. As with `torch.distributed`, a GPU waits in its stream and the CPU goes on."""
        if self._work is not None:
            self._work.wait()
            self._work = None
            self._total = _one_for_none(self._total)
        return self._total


@overload
def global_count(
    target: Counted | Iterable[Counted],
    *,
    ignore_index: int = ...,
    mask: Tensor | Sequence[Tensor | None] | None = ...,
    sample_weight: Tensor | Sequence[Tensor | None] | None = ...,
    weight: Tensor | None = ...,
    shift: int = ...,
    group: Group = ...,
    async_op: Literal[False] = ...,
) -> Tensor: ...
@overload
def global_count(
    target: Counted | Iterable[Counted],
    *,
    ignore_index: int = ...,
    mask: Tensor | Sequence[Tensor | None] | None = ...,
    sample_weight: Tensor | Sequence[Tensor | None] | None = ...,
    weight: Tensor | None = ...,
    shift: int = ...,
    group: Group = ...,
    async_op: Literal[True],
) -> PendingCount: ...
def global_count(
    target: Counted | Iterable[Counted],
    *,
    ignore_index: int = -100,
    mask: Tensor | Sequence[Tensor | None] | None = None,
    sample_weight: Tensor | Sequence[Tensor | None] | None = None,
    weight: Tensor | None = None,
    shift: int = 0,
    group: Group = None,
    async_op: bool = False,
) -> Tensor | PendingCount:
    """What the targets of all ranks and micro-batches add to the divisor of the mean: the `normalizer` of every loss.

    One all-reduce of one number. Where gradients are averaged over ranks, as DDP and FSDP2 do, the normalizer is this
    count divided by the number of ranks: `GlobalMean` sees to that.

    **Equivalent to**: `sum(int((t != ignore_index).sum()) for t in target)`, then `all_reduce`

    **Args**: `target`: for each micro-batch of this rank until the optimizer's step, its class indices, a bool tensor
    (True where a loss counts), or a number where every loss counts, such as `target.numel()` or the sum of the weights;
    one, or an iterable of them. `ignore_index`: a class index that does not count. `mask`: bool, True where a loss
    counts; `sample_weight`: a weight per loss; both broadcast to the targets, one for each micro-batch. `weight`: one
    per class. `shift`: how many labels at the beginning of each sequence (the last axis) are predicted by no token, 1
    for labels that the loss shifts; where a sequence is cut over ranks, shift first and cut then. `group`: a
    ProcessGroup or a DeviceMesh of one dimension, all ranks whose targets differ (data and context parallel, never
    tensor parallel); None is every rank, and one process where no process group was initialised. `async_op`: return at
    once.

    **Returns**: a 0-dim float64 tensor on the device of the targets, 1 where nothing counts on any rank, so that the
    sum of no losses over it is 0; with `async_op=True`, a `PendingCount` whose `wait()` gives that.

    **Raises**: TypeError for a target that is none of these (a floating-point target counts in full:
    `target.numel()`), IndexError for a class index outside `weight`, RuntimeError for shapes that do not go together.

    **Example**:

    >>> micro_batches = [torch.tensor([2, -100, -100]), torch.tensor([0, 1, 1])]
    >>> global_count(micro_batches)
    tensor(4., dtype=torch.float64)
    """
    name = "global_count"
    inputs.check_ignore_index(name, ignore_index)
    inputs.check_int(name, "shift", shift)
    if shift < 0:
        raise LosskitValueError(f"{name}: shift must not be negative, got {shift}.")
    ranks = process_group(name, group)
    targets = [target] if isinstance(target, (Tensor, numbers.Real)) else _listed(name, target)
    masks = _one_each(name, "mask", mask, len(targets))
    weights = _one_each(name, "sample_weight", sample_weight, len(targets))
    device = next((item.device for item in targets if isinstance(item, Tensor)), torch.device("cpu"))
    total = torch.zeros((), dtype=_exact(device), device=device)
    for item, own_mask, own_weight in zip(targets, masks, weights, strict=True):
        total = total + _share(name, item, ignore_index, own_mask, own_weight, weight, shift)
    if ranks is None:
        pending = PendingCount(_one_for_none(total), None)
    else:
        total = total.to(transport_device(ranks, total.device))
        pending = PendingCount(total, distributed.all_reduce(total, group=ranks, async_op=True))
    return pending if async_op else pending.wait()


def _exact(device: torch.device) -> torch.dtype:
    # A float32 sum of ones is exact only up to 2**24.
    return torch.float32 if device.type == "mps" else torch.float64


def _one_for_none(total: Tensor) -> Tensor:
    # Not clamp(min=1): weights may add up to less than 1.
    return torch.where(total == 0, torch.ones_like(total), total)


def _listed(function: str, target: object) -> list[Any]:
    if isinstance(target, (str, bytes, dict)) or not isinstance(target, Iterable):
        raise LosskitTypeError(
            f"{function}: target must be a tensor, a number, or an iterable of them, got {type(target).__name__}."
        )
    return list(target)


def _one_each(function: str, name: str, given: Any, micro_batches: int) -> Sequence[Tensor | None]:
    """One for each micro-batch."""
    if given is None:
        return [None] * micro_batches
    listed = [given] if isinstance(given, Tensor) else list(given)
    if len(listed) != micro_batches:
        raise LosskitRuntimeError(
            f"{function}: {name} must hold one tensor for each of the {micro_batches} micro-batches, got {len(listed)}."
        )
    return listed


@torch.no_grad()
def _share(
    function: str,
    target: Any,
    ignore_index: int,
    mask: Tensor | None,
    sample_weight: Tensor | None,
    weight: Tensor | None,
    shift: int,
) -> Tensor | float:
    """What one micro-batch adds."""
    number = target if isinstance(target, Tensor) and target.ndim == 0 and target.is_floating_point() else None
    if number is not None or isinstance(target, numbers.Real):
        return _of_number(function, target, mask, sample_weight, weight)
    inputs.check_tensor(function, "target", target)
    if target.is_floating_point() or target.is_complex():
        raise LosskitTypeError(
            f"{function}: target must hold class indices or be bool, got {inputs.dtype_of(target)}: target.numel() "
            "where every value counts, len(target) for class probabilities, or mask."
        )
    if target.ndim == 0:
        raise LosskitTypeError(
            f"{function}: target is a 0-dim {inputs.dtype_of(target)} tensor: target.reshape(1) for a class index, "
            "target.double() for a count."
        )
    inputs.check_mask(function, mask, target.shape)
    inputs.check_sample_weight(function, sample_weight, target.shape)
    inputs.check_devices(function, target=target, mask=mask, sample_weight=sample_weight, weight=weight)
    counted = target if target.dtype == torch.bool else target.long() != ignore_index
    if mask is not None:
        counted = counted & mask
    counted = counted[..., shift:]
    exact = _exact(target.device)
    share = counted.to(exact)
    if weight is not None:
        if target.dtype == torch.bool:
            raise LosskitTypeError(f"{function}: weight needs class indices, but target is bool.")
        inputs.check_class_weight(function, weight, weight.numel())
        labels = target.long()[..., shift:]
        inputs.check_class_range(function, labels, weight.numel(), counted)
        share = class_weights(labels.masked_fill(~counted, 0), counted, weight.to(exact), exact)
    if sample_weight is not None:
        factors = sample_weight.expand(target.shape)[..., shift:].to(exact)
        # A weight that does not count may be NaN.
        share = share * factors.masked_fill(~counted, 0)
    total: Tensor = share.sum()
    return total


def _of_number(
    function: str, count: Any, mask: Tensor | None, sample_weight: Tensor | None, weight: Tensor | None
) -> Tensor | float:
    for name, factor in (("mask", mask), ("sample_weight", sample_weight), ("weight", weight)):
        if factor is not None:
            raise LosskitTypeError(f"{function}: {name} needs class indices or a bool tensor, but target is a number.")
    if isinstance(count, Tensor):
        return count.detach().to(_exact(count.device))
    if isinstance(count, bool) or not (count >= 0 and math.isfinite(count)):
        raise LosskitValueError(f"{function}: a number of losses must be finite and not negative, got {count}.")
    return float(count)
