"""Losses of a row of scores against a class, unreduced. `class_dim` is the axis of the classes.

Every function returns the loss of each sample, shape of the input without its class axis. Reduction, sample weights and
masks are added by the caller.
"""

import torch
from torch import Tensor


def take_class(values: Tensor, target: Tensor, class_dim: int) -> Tensor:
    """values[…, target, …]: the entry of each sample's class."""
    return values.gather(class_dim, target.unsqueeze(class_dim)).squeeze(class_dim)


def class_weights(target: Tensor, counts: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """w[target] where the sample counts, else 0: what a sample adds to the divisor of the mean."""
    return counts.to(dtype) if weight is None else weight[target].masked_fill(~counts, 0)


def scores(input: Tensor, logit_scale: float, softcap: float | None) -> Tensor:
    """logit_scale·x, and with a cap softcap·tanh(logit_scale·x / softcap), which no score leaves.

    (Gemma Team 2024, section 2, for the cap)
    """
    if softcap is not None:
        return softcap * torch.tanh(input * (logit_scale / softcap))
    return input if logit_scale == 1 else input * logit_scale


def z_loss(logits: Tensor, counts: Tensor | None, coefficient: float, class_dim: int) -> Tensor:
    """coefficient·(log Σ_c exp(x_c))² where `counts`, else 0: it keeps the scores from drifting away together.

    (Chowdhery et al. 2022, section 5)
    """
    loss = coefficient * torch.logsumexp(logits, class_dim).square()
    return loss if counts is None else loss.masked_fill(~counts, 0)


def nll_loss(log_probs: Tensor, target: Tensor, counts: Tensor, weight: Tensor | None, class_dim: int) -> Tensor:
    """−w[t]·log p[t] where `counts`, else 0. `target` holds class indices, all within range."""
    loss = -take_class(log_probs, target, class_dim)
    if weight is not None:
        taken = weight[target]
        # 0·inf is 0: a class of weight 0 costs nothing, however unlikely it is. What is NaN stays so.
        free = (taken == 0) & (loss == float("inf"))
        loss = (taken * loss).masked_fill(free, 0)
    return loss.masked_fill(~counts, 0)


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    counts: Tensor,
    weight: Tensor | None,
    label_smoothing: float,
    class_dim: int,
) -> Tensor:
    """Class indices: (1 − ε)·w[t]·(−log p[t]) + ε/C·Σ_c w[c]·(−log p[c]) where `counts`, else 0; p = softmax(logits).

    (Szegedy et al. 2016, section 7, for ε)
    """
    log_probs = torch.log_softmax(logits, class_dim)
    loss = nll_loss(log_probs, target, counts, weight, class_dim)
    if label_smoothing == 0:
        return loss
    share = label_smoothing / logits.shape[class_dim]
    uniform = torch.full_like(log_probs, share) if weight is None else share * _along(weight, logits.ndim, class_dim)
    smooth = _expected(uniform, log_probs, class_dim)
    if label_smoothing == 1:
        # 0·inf is 0: the target has no share of its own, however unlikely it is.
        return smooth.masked_fill(~counts, 0)
    return (1 - label_smoothing) * loss + smooth.masked_fill(~counts, 0)


def cross_entropy_of_probabilities(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    label_smoothing: float,
    class_dim: int,
) -> Tensor:
    """−Σ_c w[c]·y[c]·log p[c], with y = (1 − ε)·target + ε/C; p = softmax(logits)."""
    log_probs = torch.log_softmax(logits, class_dim)
    if label_smoothing > 0:
        target = (1 - label_smoothing) * target + label_smoothing / logits.shape[class_dim]
    if weight is not None:
        target = target * _along(weight, logits.ndim, class_dim)
    return _expected(target, log_probs, class_dim)


def stats(logits: Tensor, target: Tensor, counts: Tensor | None, class_dim: int) -> tuple[Tensor, ...]:
    """The log-probability of the target, log-sum-exp, entropy and rank of each sample, of the shape of its loss.

    Where `counts` is False they are 0, 0, 0 and the number of classes. `target` holds class indices within range, or
    class probabilities.
    """
    lse = torch.logsumexp(logits, class_dim)
    log_probs = torch.log_softmax(logits, class_dim)
    entropy = _expected(log_probs.exp(), log_probs, class_dim)
    if target.is_floating_point():
        log_prob = -_expected(target, log_probs, class_dim)
        target = target.argmax(class_dim)
    else:
        log_prob = take_class(log_probs, target, class_dim)
    own = take_class(logits, target, class_dim).unsqueeze(class_dim)
    rank = (logits > own).sum(class_dim)
    # Nothing is higher than NaN or infinity, and a row without a softmax has no right answer.
    lost = entropy.isnan() if counts is None else entropy.isnan() | ~counts
    rank = rank.masked_fill(lost, logits.shape[class_dim])
    if counts is None:
        return log_prob, lse, entropy, rank
    return *(values.masked_fill(~counts, 0) for values in (log_prob, lse, entropy)), rank


def _expected(share: Tensor, log_probs: Tensor, class_dim: int) -> Tensor:
    # 0·(−inf) is 0: a class that is excluded on both sides costs nothing.
    excluded = (share == 0) & (log_probs == float("-inf"))
    return -(share * log_probs.masked_fill(excluded, 0)).sum(class_dim)


def _along(weight: Tensor, ndim: int, class_dim: int) -> Tensor:
    """The class weights with the shape that broadcasts against the logits."""
    return weight.reshape([-1 if axis == class_dim else 1 for axis in range(ndim)])
