"""The mean over all losses of an optimizer's step, whatever the engine does to the gradients."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from losskit.core import inputs
from losskit.distributed.count import Counted, PendingCount, global_count
from losskit.distributed.groups import Group, process_group, size_of
from losskit.errors import LosskitRuntimeError, LosskitValueError

__all__ = ["GlobalMean"]


class GlobalMean:
    """The normalizer with which accumulated and averaged gradients are those of the mean over everything.

    Count the micro-batches of a step, then divide each sum by the count. The framework goes on doing what it does: DDP
    and FSDP2 divide gradients by the number of ranks, and the normalizer is smaller by as much.

    **Args**: `group`: all ranks whose targets differ, as in `global_count`. `gradients_divided_by`: what the engine
    divides the sum of the ranks' gradients by; None is the number of ranks of `group` (DDP, FSDP2, DeepSpeed), 1 where
    it adds them (FSDP2 after `set_gradient_divide_factor(1.0)`). `loss_divided_by`: what the framework divides the loss
    of each micro-batch by before its backward pass, 1 in a loop of your own; Accelerate, Lightning and DeepSpeed divide
    by their number of accumulation steps. `ignore_index`, `weight`, `shift`: those of `global_count`.

    **Raises**: ValueError for a divisor that is not positive and finite.

    **Example**: 3 and 1 tokens count; the mean of the two means would weigh the last as much as the other three.

    >>> import losskit, torch
    >>> scores = torch.zeros(2, 3, 5, requires_grad=True)
    >>> targets = torch.tensor([[1, 2, 3], [4, -100, -100]])
    >>> mean = GlobalMean()
    >>> mean.count(targets)
    >>> for input, target in zip(scores, targets):
    ...     losskit.functional.cross_entropy(input, target, normalizer=mean.normalizer).backward()
    >>> whole = losskit.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
    >>> bool(scores.grad.allclose(torch.autograd.grad(whole, scores)[0]))
    True
    """

    def __init__(
        self,
        group: Group = None,
        *,
        gradients_divided_by: float | None = None,
        loss_divided_by: float = 1,
        ignore_index: int = -100,
        weight: Tensor | None = None,
        shift: int = 0,
    ) -> None:
        for name, value in (("gradients_divided_by", gradients_divided_by), ("loss_divided_by", loss_divided_by)):
            if value is None:
                continue
            inputs.check_number("GlobalMean", name, value)
            if not (value > 0 and math.isfinite(value)):
                raise LosskitValueError(f"GlobalMean: {name} must be positive and finite, got {value:g}.")
        inputs.check_ignore_index("GlobalMean", ignore_index)
        self.group = group
        self.gradients_divided_by = gradients_divided_by
        self.loss_divided_by = loss_divided_by
        self._options: dict[str, Any] = {"ignore_index": ignore_index, "weight": weight, "shift": shift}
        self._pending: PendingCount | None = None

    def count(
        self,
        target: Counted | Iterable[Counted],
        *,
        mask: Tensor | Sequence[Tensor | None] | None = None,
        sample_weight: Tensor | Sequence[Tensor | None] | None = None,
    ) -> None:
        """Count what the targets of the coming step add: those of every micro-batch, as `global_count` takes them.

        It starts one asynchronous all-reduce; every rank of the group must call it once for each step.
        """
        self._pending = global_count(
            target, mask=mask, sample_weight=sample_weight, group=self.group, async_op=True, **self._options
        )

    @property
    def total(self) -> Tensor:
        """What was counted on all ranks, a 0-dim tensor; 1 where nothing counts."""
        if self._pending is None:
            raise LosskitRuntimeError("GlobalMean: count(targets) must come before normalizer and total.")
        return self._pending.wait()

    @property
    def normalizer(self) -> Tensor:
        """What each loss of the step takes as `normalizer=`, a 0-dim tensor."""
        divided_by = self.gradients_divided_by
        if divided_by is None:
            # Asked for now and not before: the process group may be younger than this object.
            divided_by = size_of(process_group("GlobalMean", self.group))
        return self.total / (divided_by * self.loss_divided_by)
