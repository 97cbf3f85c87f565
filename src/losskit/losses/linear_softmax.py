"""A linear layer whose outputs are the scores of a softmax loss."""

from torch import Tensor
from torch.nn.functional import linear


def linear_logits(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Σ_k x_k·w[c, …, k] + b[c, …]: input (N, K) or (K), weight (C, d1, …, K), result (N, C, d1, …) or (C)."""
    rows = weight.flatten(0, -2)
    scores = linear(input, rows, None if bias is None else bias.reshape(-1))
    return scores.reshape(*input.shape[:-1], *weight.shape[:-1])
