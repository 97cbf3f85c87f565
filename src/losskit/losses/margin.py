"""Losses of a margin between scores, unreduced.

Every function here works on any device and floating dtype, to any order of derivative, under `torch.func` and
`torch.compile`. Reduction, weights and masks are added by the caller.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from losskit.losses.pointwise import binary_cross_entropy_with_logits


def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float) -> Tensor:
    """x where y = 1, max(0, margin − x) where y = −1. For any other y the loss is the sum of both."""
    zero = input.new_zeros(())
    apart = torch.where(target != 1, (margin - input).clamp_min(0), zero)
    return apart + torch.where(target != -1, input, zero)


def margin_ranking_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float) -> Tensor:
    """max(0, margin − y·(x₁ − x₂)), for y of −1 or 1."""
    return (-target * (input1 - input2) + margin).clamp_min(0)


def multi_margin_loss(input: Tensor, target: Tensor, p: int, margin: float, weight: Tensor | None) -> Tensor:
    """w[t]/C·Σ_{c ≠ t} max(0, margin − x_t + x_c)^p of (…, C) and (…), for class indices within range.

    Weston & Watkins 1999 take the sum, as here; Crammer & Singer 2001 the largest term. The derivative of max(0, z) at
    0 is 0.
    """
    index = target.unsqueeze(-1)
    # Not arange, which knows nothing of a fake tensor's mode.
    own = index.new_ones(input.shape[-1]).cumsum(0) - 1 == index
    # A mask and not a difference, and before anything is computed from it: x_t may be infinite.
    excess = relu((margin - input.gather(-1, index) + input).masked_fill(own, 0))
    losses = (excess if p == 1 else excess.square()).sum(-1) / input.shape[-1]
    return losses if weight is None else losses * weight[target]


def multilabel_margin_loss(input: Tensor, target: Tensor) -> Tensor:
    """1/C·Σ_{t in the list} Σ_{c not in it} max(0, 1 − x_t + x_c) of (…, C) and lists (…, K) that end before a −1.

    All numbers of a list lie in [−1, C); one that stands in it twice counts twice. The derivative of max(0, z) at 0
    is 0.
    """
    listed = (target >= 0).long().cumprod(-1).bool()
    index = target.masked_fill(~listed, 0)
    # How often the list names each class.
    named = torch.zeros_like(input).scatter_add(-1, index, listed.to(input.dtype))
    counts = listed.unsqueeze(-1) & (named == 0).unsqueeze(-2)  # (…, K, C)
    gaps = 1 - input.gather(-1, index).unsqueeze(-1) + input.unsqueeze(-2)
    return relu(gaps.masked_fill(~counts, 0)).sum((-2, -1)) / input.shape[-1]


def multilabel_soft_margin_loss(input: Tensor, target: Tensor, weight: Tensor | None, classes: int) -> Tensor:
    """1/C·Σ_c w_c·(−y_c·log σ(x_c) − (1 − y_c)·log σ(−x_c)): binary cross entropies along the last axis."""
    losses = binary_cross_entropy_with_logits(input, target, None)
    return (losses if weight is None else losses * weight).sum(-1) / classes


def soft_margin_loss(input: Tensor, target: Tensor) -> Tensor:
    """log(1 + exp(−y·x)) = −log_sigmoid(y·x), for y of −1 or 1."""
    return -logsigmoid(target * input)
