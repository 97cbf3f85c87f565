"""What the losses should give, written apart from losskit: textbook forms in float64, and exact numbers by mpmath."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _unit(vectors: Tensor, normalize: bool) -> Tensor:
    return vectors / (vectors * vectors).sum(-1, keepdim=True) ** 0.5 if normalize else vectors


def info_nce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    q, k = _unit(query, normalize), _unit(key, normalize)
    own = (torch.einsum("nd,nd->n", q, k) / temperature).exp()
    if negatives is None:
        total = (torch.einsum("nd,md->nm", q, k) / temperature).exp().sum(1)
    else:
        form = "nd,md->nm" if negatives.ndim == 2 else "nd,nmd->nm"
        total = own + (torch.einsum(form, q, _unit(negatives, normalize)) / temperature).exp().sum(1)
    return _weighted(-(own / total).log(), None)


def clip_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: float | Tensor, normalize: bool = True
) -> tuple[Tensor, Tensor]:
    one, _ = info_nce(image_features, text_features, None, 1 / logit_scale, normalize)
    other, ones = info_nce(text_features, image_features, None, 1 / logit_scale, normalize)
    return (one + other) / 2, ones


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor = 0.0,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    x, y = _unit(image_features, normalize), _unit(text_features, normalize)
    scores = logit_scale * torch.einsum("nd,md->nm", x, y) + logit_bias
    signs = 2 * torch.eye(len(x), dtype=x.dtype) - 1
    return _weighted((1 + torch.exp(-signs * scores)).log().sum(1), None)


def l1_loss(input: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    difference = input - target
    # The sign of 0 is 0, and so is the subgradient.
    return _weighted(difference * difference.detach().sign(), weight, divides=True)


def mse_loss(input: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return _weighted(input * input - 2 * input * target + target * target, weight, divides=True)


def smooth_l1_loss(input: Tensor, target: Tensor, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    distance = (input - target).abs()
    if beta == 0:
        return _weighted(distance, None)
    return _weighted(torch.where(distance < beta, distance**2 / (2 * beta), distance - beta / 2), None)


def huber_loss(
    input: Tensor, target: Tensor, delta: float = 1.0, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    distance = (input - target).abs()
    values = torch.where(distance <= delta, distance**2 / 2, delta * distance - delta**2 / 2)
    return _weighted(values, weight)


def binary_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    right, wrong = input.log().clamp(min=-100), torch.log1p(-input).clamp(min=-100)
    return _weighted(-target * right - (1 - target) * wrong, weight)


def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    # 1 − sigmoid(x) is sigmoid(−x).
    yes, no = 1 / (1 + torch.exp(-input)), 1 / (1 + torch.exp(input))
    factor = 1 if pos_weight is None else pos_weight
    values = -factor * target * yes.log() - (1 - target) * no.log()
    return _weighted(values, weight)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    axis = 1 if input.ndim > 1 else 0
    log_probs = input - input.exp().sum(axis, keepdim=True).log()
    return _against_distribution(log_probs, target, weight, ignore_index, label_smoothing, axis)


def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    return _against_distribution(input, target, weight, ignore_index, 0.0, 1 if input.ndim > 1 else 0)


def multi_margin_loss(
    input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    classes = input.shape[-1]
    rows, own = input.reshape(-1, classes), torch.nn.functional.one_hot(target.flatten(), classes).bool()
    others = rows[~own].reshape(len(rows), classes - 1)
    gaps = margin - (rows[own].unsqueeze(1) - others)
    # A NaN is above 0 here.
    losses = (torch.where(gaps <= 0, 0.0, gaps) ** p).sum(1) / classes
    if weight is not None:
        losses = losses * weight[target.flatten()]
    return _weighted(losses.reshape(target.shape), None)


def multilabel_margin_loss(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    classes = input.shape[-1]
    rows = input.reshape(-1, classes)
    lists = [entries[: [*entries, -1].index(-1)] for entries in target.reshape(-1, classes).tolist()]
    others = torch.ones(rows.shape, dtype=torch.bool)
    for row, labels in enumerate(lists):
        others[row, labels] = False
    losses = rows[:, :0].sum(1)
    # The first entries of all lists, then the second ones, …
    for place in range(max(map(len, lists), default=0)):
        have = torch.tensor([len(labels) > place for labels in lists])
        labels = torch.tensor([labels[place] for labels in lists if len(labels) > place])
        gaps = 1 - (rows[have, labels].unsqueeze(1) - rows[have])
        pairs = torch.where(~others[have] | (gaps <= 0), 0.0, gaps)
        losses = losses.index_add(0, have.nonzero().flatten(), pairs.sum(1))
    return _weighted((losses / classes).reshape(input.shape[:-1]), None)


def multilabel_soft_margin_loss(input: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    terms = binary_cross_entropy_with_logits(input, target)[0]
    return _weighted((terms if weight is None else weight * terms).mean(-1), None)


def cosine_embedding_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0) -> tuple[Tensor, Tensor]:
    one, two = ((x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-12)) for x in (input1, input2))
    cosine = (one * two).sum(-1)
    apart = torch.where(cosine > margin, cosine - margin, 0.0)
    return _weighted((target == 1) * (1 - cosine) + (target == -1) * apart, None)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
) -> tuple[Tensor, Tensor]:
    def distance(x: Tensor, y: Tensor) -> Tensor:
        return ((x - y + eps).abs() ** p).sum(-1) ** (1 / p)

    away = distance(anchor, negative)
    if swap:
        other = distance(positive, negative)
        away = torch.where(other < away, other, away)
    loss = margin + distance(anchor, positive) - away
    return _weighted(torch.where(loss > 0, loss, 0.0), None)


def soft_margin_loss(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    # log(1 + exp(z)) is max(z, 0) plus a small part.
    margin = -target * input
    return _weighted(margin.clamp(min=0) + torch.log1p(torch.exp(-margin.abs())), None)


def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0) -> tuple[Tensor, Tensor]:
    alike = (target + 1) / 2
    return _weighted(alike * input + (1 - alike) * (margin - input).clamp(min=0), None)


def margin_ranking_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0) -> tuple[Tensor, Tensor]:
    lead = torch.where(target > 0, input1 - input2, input2 - input1)
    # At the corner clamp has the slope of the upper side.
    return _weighted((margin - lead).clamp(min=0), None)


def kl_div(input: Tensor, target: Tensor, log_target: bool = False) -> tuple[Tensor, Tensor]:
    probability = target.exp() if log_target else target
    return _weighted(probability * torch.log(probability / input.exp()), None)


def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool = True, full: bool = False, eps: float = 1e-8
) -> tuple[Tensor, Tensor]:
    # The logarithm of rate^y·exp(−rate), and of y! by Stirling.
    values = input.exp() - target * input if log_input else input - target * torch.log(input + eps)
    if full:
        stirling = torch.log(torch.sqrt(2 * math.pi * target) * (target / math.e) ** target)
        values = values + torch.where(target > 1, stirling, 0.0)
    return _weighted(values, None)


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor, full: bool = False, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    density = torch.distributions.Normal(input, var.clamp(min=eps).sqrt()).log_prob(target)
    return _weighted(-density - (0.0 if full else math.log(math.sqrt(2 * math.pi))), None)


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | tuple[int, ...],
    target_lengths: Tensor | tuple[int, ...],
    blank: int = 0,
    zero_infinity: bool = False,
) -> tuple[Tensor, Tensor]:
    """By going through every sequence of classes: −log of the sum of those that collapse to the labels.

    Each loss and its number of labels, at least 1.
    """
    batched = log_probs if log_probs.ndim == 3 else log_probs.unsqueeze(1)
    frames, counts = [
        lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
        for lengths in (input_lengths, target_lengths)
    ]
    starts = [sum(counts[:n]) for n in range(len(counts))]
    losses = []
    for n, (length, count, start) in enumerate(zip(frames, counts, starts, strict=True)):
        row = targets[n] if targets.ndim == 2 else targets[start:]
        labels = row[:count].tolist()
        total = batched.new_zeros(())
        for path in itertools.product(range(batched.shape[2]), repeat=length):
            merged = [index for index, _ in itertools.groupby(path)]
            if [index for index in merged if index != blank] == labels:
                total = total + batched[range(length), n, path].sum().exp()
        loss = -total.log() if total.item() else total.new_full((), math.inf)
        losses.append(total if zero_infinity and total.item() == 0 else loss)
    values = torch.stack(losses).reshape(log_probs.shape[1:-1])
    return values, values.new_tensor(counts).clamp(min=1).reshape(values.shape)


def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, target: Tensor, linear_bias: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    scores = torch.tensordot(input, linear_weight, dims=([-1], [-1]))
    return cross_entropy(scores if linear_bias is None else scores + linear_bias, target, **kwargs)


def _weighted(values: Tensor, weight: Tensor | None, divides: bool = False) -> tuple[Tensor, Tensor]:
    if weight is None:
        return values, torch.ones_like(values)
    return values * weight, weight.expand_as(values) if divides else torch.ones_like(values)


def _against_distribution(
    log_probs: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, axis: int
) -> tuple[Tensor, Tensor]:
    """−Σ_c w_c·y_c·log p_c with the target as a one-hot distribution, mixed with the uniform one."""
    log_probs = log_probs.movedim(axis, -1)
    classes = log_probs.shape[-1]
    weight = torch.ones(classes, dtype=log_probs.dtype) if weight is None else weight
    if target.is_floating_point():
        distribution = target.movedim(axis, -1)
        counts = torch.ones_like(log_probs[..., 0])
        counted = torch.ones_like(counts, dtype=torch.bool)
    else:
        counted = target != ignore_index
        index = torch.where(counted, target, 0).long()
        distribution = torch.nn.functional.one_hot(index, classes).to(log_probs)
        counts = torch.where(counted, weight[index], 0.0)
    mixed = (1 - smoothing) * distribution + smoothing / classes
    values = -(weight * mixed * log_probs).sum(-1)
    return torch.where(counted, values, 0.0), counts


def reduced(
    losses: tuple[Tensor, Tensor],
    reduction: str,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """The losses with what each adds to the divisor, as the options say. Samples out of the mask are dropped."""
    values, counts = losses
    if sample_weight is not None:
        values, counts = values * sample_weight, counts * sample_weight
    if reduction == "none":
        return values if mask is None else torch.where(mask, values, 0.0)
    if mask is not None:
        values, counts = values[mask.expand(values.shape)], counts[mask.expand(values.shape)]
    total = values.sum()
    if normalizer is not None:
        return total / normalizer
    return total / counts.sum() if reduction == "mean" else total


def log_sum_exp(logits: list[float]) -> Any:
    import mpmath

    finite = [mpmath.mpf(x) for x in logits if x != -math.inf]
    top = max(finite)
    return top + mpmath.log(mpmath.fsum(mpmath.exp(x - top) for x in finite))


def exact_cross_entropy(logits: list[float], target: int) -> tuple[Any, list[Any]]:
    """The loss of one sample and its gradient, in the present precision of mpmath."""
    import mpmath

    lse = log_sum_exp(logits)
    probability = [mpmath.mpf(0) if x == -math.inf else mpmath.exp(mpmath.mpf(x) - lse) for x in logits]
    loss = mpmath.inf if logits[target] == -math.inf else lse - mpmath.mpf(logits[target])
    return loss, [p - (1 if k == target else 0) for k, p in enumerate(probability)]


def exact_bce(probability: float, target: float) -> tuple[Any, Any]:
    import mpmath

    p, y = mpmath.mpf(probability), mpmath.mpf(target)
    lowest = mpmath.mpf(-100)
    right = lowest if p == 0 else max(mpmath.log(p), lowest)
    wrong = lowest if p == 1 else max(mpmath.log(1 - p), lowest)
    # torch's derivative, which is that of the loss without its clamp, bounded.
    return -y * right - (1 - y) * wrong, (p - y) / max(p * (1 - p), mpmath.mpf("1e-12"))


def exact_bce_with_logits(logit: float, target: float) -> tuple[Any, Any]:
    import mpmath

    x, y = mpmath.mpf(logit), mpmath.mpf(target)
    sigmoid = 1 / (1 + mpmath.exp(-x))
    return (1 - y) * mpmath.log(1 + mpmath.exp(x)) + y * mpmath.log(1 + mpmath.exp(-x)), sigmoid - y


def exact_difference(name: str, difference: float, parameter: float) -> tuple[Any, Any]:
    """l1, mse, smooth_l1 (parameter β) or huber (δ) of one difference, and its derivative."""
    import mpmath

    d, p = mpmath.mpf(difference), mpmath.mpf(parameter)
    forms: dict[str, Callable[[], tuple[Any, Any]]] = {
        "l1_loss": lambda: (abs(d), mpmath.sign(d)),
        "mse_loss": lambda: (d * d, 2 * d),
        "smooth_l1_loss": lambda: (d * d / (2 * p), d / p) if abs(d) < p else (abs(d) - p / 2, mpmath.sign(d)),
        "huber_loss": lambda: (d * d / 2, d) if abs(d) <= p else (p * (abs(d) - p / 2), p * mpmath.sign(d)),
    }
    return forms[name]()


def extremes(digits: int = 60) -> dict[str, list[float]]:
    """The table of extremes: for each row of `EXTREMES` its loss, then its gradient by each element of the input."""
    import mpmath

    table = {}
    with mpmath.workdps(digits):
        for name, (function, input, target, parameter) in EXTREMES.items():
            if function == "cross_entropy":
                loss, gradient = exact_cross_entropy(input, int(target))
            elif function == "binary_cross_entropy":
                loss, derivative = exact_bce(input[0], target)
                gradient = [derivative]
            elif function == "binary_cross_entropy_with_logits":
                loss, derivative = exact_bce_with_logits(input[0], target)
                gradient = [derivative]
            else:
                loss, derivative = exact_difference(function, input[0] - target, parameter)
                gradient = [derivative]
            table[name] = [float(loss), *map(float, gradient)]
    return table


# Function, input, target, parameter. Every number is one of float32, and so is every difference of input and target.
EXTREMES: dict[str, tuple[str, list[float], float, float]] = {
    "offset 1e4": ("cross_entropy", [10000.0, 10000.5, 9999.25, 10001.0], 2, 0.0),
    "offset -1e4": ("cross_entropy", [-10000.0, -10000.5, -9999.25, -10001.0], 1, 0.0),
    "offset 1e30": ("cross_entropy", [2.0**100, 2.0**100, 2.0**100], 0, 0.0),
    "certain and right": ("cross_entropy", [30.0, 0.0, -1.0], 0, 0.0),
    "certain and wrong": ("cross_entropy", [30.0, 0.0, -1.0], 2, 0.0),
    "far apart": ("cross_entropy", [200.0, 0.0, -200.0], 1, 0.0),
    "huge": ("cross_entropy", [2.0**127, -(2.0**127)], 0, 0.0),
    "one class": ("cross_entropy", [3.5], 0, 0.0),
    "excluded class": ("cross_entropy", [0.5, -math.inf, -0.25], 2, 0.0),
    "excluded target": ("cross_entropy", [0.5, -math.inf, -0.25], 1, 0.0),
    "bce denormal": ("binary_cross_entropy", [2.0**-140], 1.0, 0.0),
    "bce tiny": ("binary_cross_entropy", [2.0**-30], 0.0, 0.0),
    "bce near one": ("binary_cross_entropy", [1 - 2.0**-24], 0.0, 0.0),
    "bce zero": ("binary_cross_entropy", [0.0], 1.0, 0.0),
    "bce one": ("binary_cross_entropy", [1.0], 0.0, 0.0),
    "logit 100 right": ("binary_cross_entropy_with_logits", [100.0], 1.0, 0.0),
    "logit 100 wrong": ("binary_cross_entropy_with_logits", [100.0], 0.0, 0.0),
    "logit -60 right": ("binary_cross_entropy_with_logits", [-60.0], 0.0, 0.0),
    "logit huge": ("binary_cross_entropy_with_logits", [2.0**127], 0.0, 0.0),
    "logit small": ("binary_cross_entropy_with_logits", [2.0**-20], 0.25, 0.0),
    "l1 huge": ("l1_loss", [2.0**126], -(2.0**126), 0.0),
    "l1 denormal": ("l1_loss", [2.0**-140], 0.0, 0.0),
    "mse small": ("mse_loss", [2.0**-40], 0.0, 0.0),
    "mse large": ("mse_loss", [2.0**60], 0.0, 0.0),
    "smooth l1 at beta": ("smooth_l1_loss", [0.5], 0.0, 0.5),
    "smooth l1 huge": ("smooth_l1_loss", [2.0**126], 0.0, 1.0),
    "huber at delta": ("huber_loss", [0.5], 0.0, 0.5),
    "huber huge": ("huber_loss", [2.0**100], 0.0, 2.0),
    "huber below delta": ("huber_loss", [1 - 2.0**-24], 0.0, 1.0),
}
