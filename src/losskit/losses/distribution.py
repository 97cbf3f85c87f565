"""Losses of a distribution, or of its parameters, unreduced: the result has the broadcast shape of the tensors.

Every function here works on any device and floating dtype, to any order of derivative, under `torch.func` and
`torch.compile`. Reduction, weights and masks are added by the caller.
"""

import math

import torch
from torch import Tensor

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def kl_div(input: Tensor, target: Tensor, log_target: bool) -> Tensor:
    """y·(log y − x), for log-probabilities x; y is target, or exp(target). (Kullback and Leibler 1951)

    0·(−inf) is 0 here: what is impossible on both sides costs nothing.
    """
    if log_target:
        impossible = (target == float("-inf")) & (input < float("inf"))
        return target.exp() * (target - input).masked_fill(impossible, 0)
    impossible = (target == 0) & (input == float("-inf"))
    return torch.xlogy(target, target) - target * input.masked_fill(impossible, 0)


def poisson_nll_loss(input: Tensor, target: Tensor, log_input: bool, full: bool, eps: float) -> Tensor:
    """λ − y·log λ for λ = exp(x), or x − y·log(x + eps) for a rate x; `full` adds log y! where y > 1.

    log y! is approximated by y·log y − y + log(2π·y)/2 (Stirling). 0·(−inf) is 0: a count of 0 where the rate is 0
    costs nothing.
    """
    if log_input:
        impossible = (target == 0) & (input == float("-inf"))
        loss = input.exp() - target * input.masked_fill(impossible, 0)
    else:
        rate = input + eps
        impossible = (target == 0) & (rate == 0)
        loss = input - target * rate.masked_fill(impossible, 1).log()
    if full:
        few = target <= 1
        # Replaced before the logarithm and not behind it: its derivative at 0 times 0 would be NaN.
        count = target.masked_fill(few, 1)
        loss = loss + (count * count.log() - count + 0.5 * count.log() + HALF_LOG_TWO_PI).masked_fill(few, 0)
    return loss


def gaussian_nll_loss(input: Tensor, target: Tensor, var: Tensor, full: bool, eps: float) -> Tensor:
    """(log v + (x − y)²/v)/2 with v = max(var, eps); `full` adds log(2π)/2. (Nix and Weigend 1994, eq. 5)

    The derivative by var is that by v, also where var < eps: a clamp would leave a variance of 0 without a way back.
    """
    below = var < eps
    variance = torch.where(below, var - (var - eps).detach(), var)
    loss = 0.5 * (variance.log() + (input - target).square() / variance)
    return loss + HALF_LOG_TWO_PI if full else loss
