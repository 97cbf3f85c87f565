"""The numbers of a shard's rows, and the gradient by the shard, through the CPU kernels: several times faster.

The kernels know the softmax of one shard alone, as the loss of a row against one of its classes k. That loss is
log s + (m − x_k), in float64. The gradient of the whole vocabulary is that of the shard, each row times the shard's
part of the softmax, apart from the entries of k and of the row's own class.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from losskit.core.dispatch import obstacle
from losskit.distributed.rows import LocalRows, RowGradient, RowOptions
from losskit.errors import LosskitRuntimeError
from losskit.kernels import cpu

__all__ = ["KernelRows", "by_kernel", "gradient_by_kernel"]

# A class index that no row has.
_IGNORED = -1


@dataclass(frozen=True)
class KernelRows:
    """What the gradient needs of the forward pass, (N) each."""

    # The class k and its score, and the numbers of LocalRows.
    some: Tensor
    score: Tensor
    highest: Tensor
    sum_of_exp: Tensor
    own: Tensor


def by_kernel(matrix: Tensor, options: RowOptions) -> tuple[LocalRows, KernelRows] | None:
    """The numbers of the rows of (N, C) logits; None where the kernels do not take them."""
    half = matrix.dtype in (torch.float16, torch.bfloat16)
    scores = options.scores
    if (
        options.labels is None
        or not cpu.available()
        or matrix.dtype not in cpu.DTYPES
        or 0 in matrix.shape
        or not matrix.is_contiguous()
        # Half precision would be rounded before the smoothing is taken away, and again after.
        or (half and options.label_smoothing > 0)
        or scores.stats
        or scores.softcap is not None
        or scores.logit_scale != 1
        or obstacle(matrix, options.labels, options.weight) is not None
    ):
        return None
    highest = matrix.amax(1).float()
    if bool((highest == float("-inf")).any()):
        # The kernel has no softmax of nothing but −inf.
        return None
    # Any class will do whose score is not −inf. Taking the first saves a pass.
    some, score = torch.zeros(len(matrix), dtype=torch.int64), matrix[:, 0].double()
    if bool((score == float("-inf")).any()):
        score, some = matrix.max(1)
        score = score.double()
    log_sum = _losses(matrix, some, None, 0.0) - (highest.double() - score)
    labels = options.labels
    here, index = labels >= 0, labels.clamp(min=0)
    own = matrix.gather(1, index.unsqueeze(1)).squeeze(1).float().masked_fill(~here, float("-inf"))
    rows = LocalRows(highest, log_sum.exp().float(), own)
    if options.weight is not None:
        rows.own_weight = options.weight[index].masked_fill(~here, 0)
    if options.label_smoothing > 0:
        # Of a label smoothing of 1 the loss is Σ w·(lse − x) / C.
        classes = matrix.shape[1]
        total = classes if options.weight is None else options.weight.sum(dtype=torch.float64)
        rows.below = (classes * _losses(matrix, some, options.weight, 1.0) - total * log_sum).float()
    return rows, KernelRows(some, score, highest, rows.sum_of_exp, own)


def _losses(matrix: Tensor, target: Tensor, weight: Tensor | None, label_smoothing: float) -> Tensor:
    options = cpu.ClassOptions(weight, _IGNORED, label_smoothing, None, None)
    result = cpu.evaluate_class_loss(False, matrix, target, options, 1.0, "none", torch.float64, False)
    if result is None:
        raise LosskitRuntimeError("the logits have changed while they were read: does another thread write to them?")
    return result[0]


def gradient_by_kernel(matrix: Tensor, options: RowOptions, rows: RowGradient, kept: KernelRows) -> Tensor:
    """The gradient by the logits."""
    exact = torch.float64
    output, by_lse = rows.grad_output.to(exact), rows.by_lse.to(exact)
    whole, sum_of_exp = rows.highest.to(exact), rows.sum_of_exp.to(exact)
    part = torch.exp(kept.highest.to(exact) - whole) / sum_of_exp  # what an exponential of the shard is of the softmax
    share = output * by_lse * part * kept.sum_of_exp
    target = kept.some.masked_fill(~rows.counts, _IGNORED)
    grad = cpu.class_loss_gradient(
        False, matrix, target, cpu.ClassOptions(None, _IGNORED, 0.0, None, None), 1.0, "none", share.float()
    )
    labels = options.labels
    if labels is None or rows.own_weight is None:
        raise LosskitRuntimeError("the kernels take class indices alone.")
    of_some = output * by_lse * torch.exp(kept.score - whole) / sum_of_exp
    own = torch.exp(kept.own.to(exact) - whole) / sum_of_exp
    of_own = output * (by_lse * own - rows.own_weight.to(exact))
    index = labels.clamp(min=0)
    if rows.smooth is not None:
        uniform = output * rows.smooth.to(exact)
        taken = uniform.masked_fill(~rows.counts, 0).float().unsqueeze(1)
        if options.weight is None:
            grad.sub_(taken)
            of_some, of_own = of_some - uniform, of_own - uniform
        else:
            grad.addmm_(taken, options.weight.unsqueeze(0), alpha=-1)
            of_some = of_some - uniform * options.weight[kept.some]
            of_own = of_own - uniform * options.weight[index]
    _put(grad, kept.some, of_some, rows.counts)
    _put(grad, index, of_own, labels >= 0)
    return grad


def _put(grad: Tensor, column: Tensor, value: Tensor, where: Tensor) -> None:
    """grad[row, column[row]] = value[row] in the rows of `where`."""
    column = column.unsqueeze(1)
    kept = grad.gather(1, column).squeeze(1)
    grad.scatter_(1, column, torch.where(where, value.to(grad.dtype), kept).unsqueeze(1))
