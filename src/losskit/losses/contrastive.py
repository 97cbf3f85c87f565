"""Losses of pairs of vectors, each pair against the vectors of the other pairs, unreduced: one loss per pair.

The pairs of which losses are wanted are the rows; what each is compared with are the columns. They are the same batch,
or a part of it against the whole, and `target` says which column belongs to which row. `counts` is True for the columns
that count, None where all do. Every function here works on any device and floating dtype, to any order of derivative,
under `torch.func` and `torch.compile`. Reduction, weights and masks are added by the caller.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from losskit.losses.softmax import cross_entropy


def normalized(features: Tensor) -> Tensor:
    """x/‖x‖ of (…, D). A vector of zeros, which has no direction, stays one, with a derivative of 0."""
    zero = (features == 0).all(-1, keepdim=True)
    # Replaced before the division and not behind it: its derivative at 0 times 0 would be NaN.
    kept = torch.where(zero, features.new_ones(()), features)
    # x/‖x‖ is the same for x/c, c > 0, and with c the largest number no square overflows or vanishes.
    scaled = kept / kept.detach().abs().amax(-1, keepdim=True)
    unit = scaled / scaled.square().sum(-1, keepdim=True).sqrt()
    return torch.where(zero, features.new_zeros(()), unit)


def positions(like: Tensor, count: int) -> Tensor:
    """0, 1, …, count − 1."""
    # Not arange, which knows nothing of a fake tensor's mode.
    return like.new_ones(count, dtype=torch.int64).cumsum(0) - 1


def info_nce(
    query: Tensor, keys: Tensor, target: Tensor, scale: Tensor, counts: Tensor | None, counted_rows: Tensor | None
) -> Tensor:
    """log Σ_j exp(s·q_n·k_j) − s·q_n·k_t: (N, D), (M, D) and (N) to (N), s being 1/τ.

    It is the cross entropy of the row of similarities against its own column. (van den Oord et al. 2018, equation 4;
    with the temperature τ: Wu et al. 2018, equation 2) The loss of a row that does not count is log M.
    """
    logits = (scale * query) @ keys.t()  # (N, M)
    if counts is not None and counted_rows is not None:
        # exp(−∞) is 0: the column is out of the sum. A row of −∞ alone would have a derivative of NaN.
        logits = torch.where(counts, logits, logits.new_full((), float("-inf")))
        logits = torch.where(counted_rows.unsqueeze(1), logits, logits.new_zeros(()))
    return cross_entropy(logits, target, torch.ones_like(target, dtype=torch.bool), None, 0.0, 1)


def info_nce_of_negatives(query: Tensor, key: Tensor, negatives: Tensor, scale: Tensor) -> Tensor:
    """log (exp(s·q_n·k_n) + Σ_j exp(s·q_n·m_j)) − s·q_n·k_n: (N, D), (N, D) and m to (N).

    m holds the same negatives for all rows, (M, D), or others for each, (N, M, D). (He et al. 2020, equation 1)
    """
    own = (query * key).sum(-1, keepdim=True)  # (N, 1)
    if negatives.ndim == 2:
        others = query @ negatives.t()  # (N, M)
    else:
        others = (negatives @ query.unsqueeze(-1)).squeeze(-1)
    logits = scale * torch.cat((own, others), 1)
    first = torch.zeros_like(logits[:, 0], dtype=torch.int64)
    return cross_entropy(logits, first, torch.ones_like(first, dtype=torch.bool), None, 0.0, 1)


def clip_loss(
    image: Tensor,
    text: Tensor,
    images: Tensor,
    texts: Tensor,
    target: Tensor,
    scale: Tensor,
    counts: Tensor | None,
    counted_rows: Tensor | None,
) -> Tensor:
    """Half of each image against all texts, and half of each text against all images. (Radford et al. 2021, figure 3)

    The image and the text of a pair have rows of their own, (N, D); images and texts are the columns, (M, D).
    """
    of_image = info_nce(image, texts, target, scale, counts, counted_rows)
    return 0.5 * (of_image + info_nce(text, images, target, scale, counts, counted_rows))


def siglip_loss(
    image: Tensor, texts: Tensor, target: Tensor, scale: Tensor, bias: Tensor, counts: Tensor | None
) -> Tensor:
    """Σ_j log(1 + exp(−z_nj·(s·x_n·y_j + b))): (N, D), (M, D) and (N) to (N); z is 1 for a pair and −1 for no pair.

    (Zhai et al. 2023, algorithm 1)
    """
    scaled = scale * image
    # log(1 + exp(−z)) = −log_sigmoid(z)
    of_own = -logsigmoid((scaled * texts[target]).sum(1) + bias)
    negative = -(scaled @ texts.t() + bias)  # (N, M)
    # log(1 + exp(−∞)) is 0, with derivatives of 0: the own text is paid for above, and what does not count by nobody.
    left_out = positions(target, texts.shape[0]) == target.unsqueeze(1)
    if counts is not None:
        left_out = left_out | ~counts
    return of_own - logsigmoid(negative.masked_fill(left_out, float("inf"))).sum(1)
