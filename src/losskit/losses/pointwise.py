"""Losses of one number against another, unreduced: the result has the broadcast shape of input and target.

Every function here works on any device and floating dtype, to any order of derivative, under `torch.func` and
`torch.compile`. Reduction, weights and masks are added by the caller.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy as torch_binary_cross_entropy
from torch.nn.functional import logsigmoid


def l1_loss(input: Tensor, target: Tensor) -> Tensor:
    """|x − y|. The derivative at x = y is the subgradient 0."""
    return (input - target).abs()


def mse_loss(input: Tensor, target: Tensor) -> Tensor:
    """(x − y)²."""
    return (input - target).square()


def smooth_l1_loss(input: Tensor, target: Tensor, beta: float) -> Tensor:
    """(x − y)² / 2β where |x − y| < β, else |x − y| − β/2. β = 0 is the L1 loss. (Girshick 2015, eq. 3, with β = 1)"""
    if beta == 0:
        return l1_loss(input, target)
    return huber_loss(input, target, beta) / beta


def huber_loss(input: Tensor, target: Tensor, delta: float) -> Tensor:
    """(x − y)² / 2 where |x − y| ≤ δ, else δ·(|x − y| − δ/2). (Huber 1964)"""
    difference = input - target
    if delta == float("inf"):
        return 0.5 * difference.square()
    # With c = clamp(x − y, ±δ) both branches are c·(x − y − c/2), and no branch that is not taken can send NaN back.
    clamped = difference.clamp(-delta, delta)
    return clamped * (difference - 0.5 * clamped)


def binary_cross_entropy(input: Tensor, target: Tensor) -> Tensor:
    """−y·max(log p, −100) − (1 − y)·max(log(1 − p), −100), for a probability p.

    The gradient is (p − y) / max(p·(1 − p), 1e-12). It is part of the meaning and is not the derivative of the
    clamped logarithm, which would be NaN at p = 0; torch's operator carries it to every order, so it is used here.
    """
    return torch_binary_cross_entropy(input, target, reduction="none")


def binary_cross_entropy_with_logits(input: Tensor, target: Tensor, pos_weight: Tensor | None) -> Tensor:
    """(1 − y)·softplus(x) + w₊·y·softplus(−x), which is binary cross entropy of sigmoid(x).

    softplus(x) = −log_sigmoid(−x). Both terms are positive, so nothing cancels for large |x|.
    """
    positive = target if pos_weight is None else pos_weight * target
    negative = 1 - target
    # 0·inf is 0 here: a certain and right prediction costs nothing.
    certain_right = input.isinf() & torch.where(input > 0, negative == 0, positive == 0)
    logit = input.masked_fill(certain_right, 0)
    loss = -negative * logsigmoid(-logit) - positive * logsigmoid(logit)
    return loss.masked_fill(certain_right, 0)
