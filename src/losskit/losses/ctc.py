"""Connectionist temporal classification, unreduced (Graves et al. 2006).

It works on any device and floating dtype, to any order of derivative, under `torch.func` and `torch.compile`.
Reduction, weights and masks are added by the caller.
"""

import math

import torch
from torch import Tensor


def ctc_loss(
    log_probs: Tensor,
    labels: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int,
    zero_infinity: bool,
) -> Tensor:
    """−log p(labels | log_probs) of each sample: log_probs (T, N, C), labels (N, S), lengths (N), result (N).

    p is the sum, over all ways to stretch the labels over the frames, of the product of their frames' probabilities; a
    label may last several frames, and blanks may stand before, between and after labels; between two equal labels one
    must.

    **Gradient**: exp(log_probs) − posterior, torch's. It is what reaches the scores before a log_softmax, since there
    exp(log_probs) adds up to 1 (equation 16). The gradient of −log p alone would be −posterior.
    """
    frame = torch.arange(log_probs.shape[0], device=log_probs.device).unsqueeze(1)
    # (T, N)
    counts = frame < input_lengths
    log_probs = torch.where(counts.unsqueeze(2), log_probs, log_probs.new_zeros(()))
    loss = -_log_likelihood(log_probs, counts, labels, target_lengths, blank)
    # Worth 0, with the derivatives of exp. Where exp would overflow, far from any probability, they are left out.
    limit = log_probs.new_full((), math.floor(math.log(torch.finfo(log_probs.dtype).max)))
    share = torch.where(log_probs > limit, limit, log_probs).exp()
    share = torch.where(counts.unsqueeze(2), share, share.new_zeros(()))
    loss = loss + (share - share.detach()).sum((0, 2))
    impossible = loss == float("inf")
    if zero_infinity:
        return torch.where(impossible, loss.new_zeros(()), loss)
    # log 0 has no derivative. Here it is 1/0: torch's infinity, whose gradient is NaN in every frame.
    return torch.where(impossible, 1 / torch.where(impossible, 0 * share.sum((0, 2)), loss.new_ones(())), loss)


def _log_likelihood(log_probs: Tensor, counts: Tensor, labels: Tensor, target_lengths: Tensor, blank: int) -> Tensor:
    states = 2 * labels.shape[1] + 1
    state = torch.arange(states, device=labels.device)
    # Labels between blanks, l' in the paper: blanks at 0, 2, …
    index = (state // 2).clamp(max=max(labels.shape[1] - 1, 0))
    of_blank = torch.full_like(labels[:, :1], blank) if labels.shape[1] else labels.new_full((len(labels), 1), blank)
    padded = labels if labels.shape[1] else of_blank
    extended = torch.where(state % 2 == 1, padded[:, index], of_blank)
    # A state may be reached from the label two states before where the labels differ.
    two_before = torch.cat([extended[:, :1], extended[:, :1], extended[:, : states - 2]], 1)[:, :states]
    skips = (state % 2 == 1) & (state > 1) & (extended != two_before)
    # (T, N, states)
    emitted = log_probs.gather(2, extended.unsqueeze(0).expand(log_probs.shape[0], -1, -1))
    never = log_probs.new_full((), float("-inf"))
    # Before the first frame all is at the first blank; one step from there gives the paper's initial values.
    alpha = torch.where(state == 0, log_probs.new_zeros(()), never).expand(extended.shape)
    for frame in range(log_probs.shape[0]):
        # Equations 6 and 7, in logarithms.
        one = torch.cat([never.expand(alpha[:, :1].shape), alpha[:, :-1]], 1)
        two = torch.cat([never.expand(alpha[:, :2].shape), alpha[:, :-2]], 1)[:, :states]
        step = _log_sum_exp(torch.stack([alpha, one, torch.where(skips, two, never)])) + emitted[frame]
        # Past its last frame a sample waits.
        alpha = torch.where(counts[frame].unsqueeze(1), step, alpha)
    # Equation 8: the end is the last label or the blank behind it.
    last = 2 * target_lengths.unsqueeze(1)
    ends = (state == last) | (state == last - 1)
    return _log_sum_exp(torch.where(ends, alpha, never).movedim(1, 0))


def _log_sum_exp(terms: Tensor) -> Tensor:
    """log Σ exp along dim 0; −inf, with a gradient of 0 and not NaN, where every term is −inf."""
    top = terms.detach().amax(0)
    top = torch.where(top == float("-inf"), top.new_zeros(()), top)
    total = (terms - top).exp().sum(0)
    nothing = total == 0
    safe = torch.where(nothing, total.new_ones(()), total).log() + top
    return torch.where(nothing, safe.new_full((), float("-inf")), safe)


def padded_labels(targets: Tensor, target_lengths: Tensor, longest: int, blank: int) -> Tensor:
    """The labels as (N, longest): targets are that already, or of one dimension, one sample after another.

    What stands behind the labels of a sample becomes the blank, whatever it was.
    """
    place = torch.arange(longest, device=targets.device)
    inside = place < target_lengths.unsqueeze(1)
    if targets.ndim == 1:
        if targets.shape[0] == 0:
            targets = targets.new_zeros(1)
        start = (target_lengths.cumsum(0) - target_lengths).unsqueeze(1)
        targets = targets[torch.where(inside, start + place, 0)]
    return torch.where(inside, targets[:, :longest], blank)


def frames_needed(labels: Tensor, target_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The labels of each sample, and how many of them repeat the one before: both need a frame each.

    A repeated label needs a blank before it, or the two would be taken for one that lasts.
    """
    place = torch.arange(1, max(labels.shape[1], 1), device=labels.device)
    repeats = (labels[:, 1:] == labels[:, :-1]) & (place < target_lengths.unsqueeze(1))
    return target_lengths, repeats.sum(1)
