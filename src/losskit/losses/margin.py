"""Losses of a margin between scores, unreduced.

Every function here works on any device and floating dtype, to any order of derivative, under `torch.func` and
`torch.compile`. Reduction, weights and masks are added by the caller.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float) -> Tensor:
    """x where y = 1, max(0, margin − x) where y = −1. For any other y the loss is the sum of both."""
    zero = input.new_zeros(())
    apart = torch.where(target != 1, (margin - input).clamp_min(0), zero)
    return apart + torch.where(target != -1, input, zero)


def margin_ranking_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float) -> Tensor:
    """max(0, margin − y·(x₁ − x₂)), for y of −1 or 1."""
    return (-target * (input1 - input2) + margin).clamp_min(0)


def soft_margin_loss(input: Tensor, target: Tensor) -> Tensor:
    """log(1 + exp(−y·x)) = −log_sigmoid(y·x), for y of −1 or 1."""
    return -logsigmoid(target * input)
