"""Losses of the distance between vectors, unreduced.

Every function here works on any device and floating dtype, to any order of derivative, under `torch.func` and
`torch.compile`. Reduction, weights and masks are added by the caller.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pairwise_distance


def cosine_embedding_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float) -> Tensor:
    """1 − cos(x₁, x₂) where y is 1, max(0, cos(x₁, x₂) − margin) where it is −1, of (…, D), (…, D) and (…).

    0 for any other y, as in PyTorch. cos(x₁, x₂) = x₁·x₂ / √((|x₁|² + 1e-12)·(|x₂|² + 1e-12)), so that it is 0 for a
    vector of zeros. The derivative of max(0, z) at 0 is 1.
    """
    # Two roots: the product of the squares could overflow.
    lengths = (input1.square().sum(-1) + 1e-12).sqrt() * (input2.square().sum(-1) + 1e-12).sqrt()
    cosine = (input1 * input2).sum(-1) / lengths
    zero = torch.zeros_like(cosine)
    return torch.where(target == 1, 1 - cosine, zero) + torch.where(target == -1, (cosine - margin).clamp_min(0), zero)


def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float, p: float, eps: float, swap: bool
) -> Tensor:
    """The loss below with the distance ‖x − y + eps‖_p along the last axis. (Balntas et al. 2016)

    The derivative of a norm at 0 is 0.
    """
    distance = partial(pairwise_distance, p=p, eps=eps)
    return triplet_margin_with_distance_loss(anchor, positive, negative, distance, margin, swap)


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    distance_function: Callable[[Tensor, Tensor], Tensor],
    margin: float,
    swap: bool,
) -> Tensor:
    """max(0, margin + d(a, p) − d(a, n)); with `swap`, min(d(a, n), d(p, n)) in the place of d(a, n).

    The derivative of max(0, z) at 0 is 1; where the two distances of a minimum are the same, each takes half.
    """
    to_positive, to_negative = distance_function(anchor, positive), distance_function(anchor, negative)
    if swap:
        to_negative = torch.minimum(to_negative, distance_function(positive, negative))
    return (margin + to_positive - to_negative).clamp_min(0)
