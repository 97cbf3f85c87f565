"""Losses of a margin between scores, unreduced.

Every function here works on any device and floating dtype, to any order of derivative, under `torch.func` and
`torch.compile`. Reduction, weights and masks are added by the caller.
"""

from torch import Tensor
from torch.nn.functional import softplus


def soft_margin_loss(input: Tensor, target: Tensor) -> Tensor:
    """log(1 + exp(−y·x)) = softplus(−y·x), for y of −1 or 1."""
    return softplus(-target * input)
