"""Each loss as a function of one number: which number that is, and which input and target it makes.

A loss of many classes is cut along the score of the true class while the other scores stay 0; a loss of vectors along
their angle or distance. What the number is called and which values are worth seeing is told by its axis.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["AXES", "SECTIONS", "Axis", "Section"]


class Axis(NamedTuple):
    label: str
    # What the gradient is by, in few words.
    symbol: str
    low: float
    high: float


AXES = {
    "error": Axis("error: input − target (target units)", "error", -3.0, 3.0),
    "logit": Axis("logit of the true class, all others 0", "logit", -6.0, 6.0),
    "log-probability": Axis("input: log-probability (nats)", "log-probability", -5.0, 0.0),
    "probability": Axis("input: probability of y = 1", "probability", 0.005, 0.995),
    "log-rate": Axis("input: logarithm of the rate", "log-rate", -2.0, 3.0),
    "distance": Axis("distance of the pair", "distance", 0.0, 3.0),
    "angle": Axis("angle between the two vectors (radians)", "angle", 0.0, math.pi),
    "difference": Axis("difference x₁ − x₂ of the two scores", "difference", -3.0, 3.0),
    "distances": Axis("d(anchor, positive) − d(anchor, negative)", "difference", -3.0, 3.0),
}


class Section(NamedTuple):
    axis: str
    # From positions (n,), the target and the number of classes to the arguments whose n losses are the curve.
    arguments: Callable[[Tensor, float, int], tuple[Tensor, ...]]
    # The target that is drawn where none is asked for; None where the section has no choice of one.
    target: float | None = None
    # What else was chosen.
    note: str = ""
    # Options that a function needs, and a module holds.
    options: Mapping[str, float] = MappingProxyType({})
    # Whether each position is a batch of its own, of which the first loss is drawn.
    alone: bool = False


def _error(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    return x, torch.zeros_like(x)


def _error_and_variance(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    return x, torch.zeros_like(x), torch.ones_like(x)


def _value(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    return x, torch.full_like(x, target)


def _labels(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    # A column for each label that has a weight of its own; the curve is the first.
    columns = x.unsqueeze(1).expand(-1, classes)  # (n, C)
    return columns, torch.full_like(columns, target)


def _label_row(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    row = x.unsqueeze(1)  # (n, 1)
    return row.expand(-1, classes), torch.full_like(row, target).expand(-1, classes)


def _scores(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    columns = pad(x.unsqueeze(1), (0, max(classes, 2) - 1))  # (n, C)
    return columns, torch.zeros(len(x), dtype=torch.long)


def _listed_class(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    return pad(x.unsqueeze(1), (0, 1)), torch.tensor([[0, -1]]).expand(len(x), 2)


def _layer(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    weight = pad(x.new_ones(1, 1), (0, 0, 0, max(classes, 2) - 1))  # (C, 1)
    return x.unsqueeze(1), weight, torch.zeros(len(x), dtype=torch.long)


def _two_frames(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    frame = torch.log_softmax(pad(x.unsqueeze(1), (1, 0)), 1)  # (n, 2): blank, label
    lengths = torch.ones(len(x), dtype=torch.long)
    return frame.expand(2, -1, -1), lengths.unsqueeze(1), 2 * lengths, lengths


def _angle(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    turned = torch.stack((x.cos(), x.sin()), 1)  # (n, 2)
    return turned, x.new_tensor([[1.0, 0.0]]).expand(len(x), 2), torch.full_like(x, target)


def _query(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    # A query that turns away from its key, and a negative at right angles to both.
    query = torch.stack((x.cos(), x.sin(), torch.zeros_like(x)), 1)  # (n, 3)
    key, negative = x.new_tensor([[1.0, 0.0, 0.0]]), x.new_tensor([[0.0, 0.0, 1.0]])
    return query, key.expand(len(x), 3), negative.expand(len(x), 1, 3)


def _two_pairs(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    # An image that turns away from its text, and another pair at right angles to both.
    turned = torch.cat((x.cos(), x.sin(), torch.zeros_like(x)))
    other = x.new_tensor([0.0, 0.0, 1.0])
    return torch.stack((turned, other)), torch.stack((x.new_tensor([1.0, 0.0, 0.0]), other))


def _two_scores(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    return x, torch.zeros_like(x), torch.full_like(x, target)


def _triplet(x: Tensor, target: float, classes: int) -> tuple[Tensor, ...]:
    # On a line: the anchor at 0, the negative so far off that the positive never passes the anchor.
    far = float(x.detach().abs().max()) + 1
    column = x.unsqueeze(1)  # (n, 1)
    return torch.zeros_like(column), far + column, torch.full_like(column, far)


SECTIONS = {
    "binary_cross_entropy": Section("probability", _labels, target=1),
    "binary_cross_entropy_with_logits": Section("logit", _labels, target=1),
    "clip_loss": Section("angle", _two_pairs, note="2 pairs", options={"logit_scale": 10.0}, alone=True),
    "cosine_embedding_loss": Section("angle", _angle, target=1),
    "cross_entropy": Section("logit", _scores),
    "ctc_loss": Section("logit", _two_frames, note="1 label, 2 frames"),
    "gaussian_nll_loss": Section("error", _error_and_variance, note="var = 1"),
    "hinge_embedding_loss": Section("distance", _value, target=-1),
    "huber_loss": Section("error", _error),
    "info_nce": Section("angle", _query, note="1 negative"),
    "kl_div": Section("log-probability", _value, target=0.5),
    "l1_loss": Section("error", _error),
    "linear_cross_entropy": Section("logit", _layer),
    "margin_ranking_loss": Section("difference", _two_scores, target=1),
    "mse_loss": Section("error", _error),
    "multi_margin_loss": Section("logit", _scores),
    "multilabel_margin_loss": Section("logit", _listed_class),
    "multilabel_soft_margin_loss": Section("logit", _label_row, target=1),
    "nll_loss": Section("log-probability", _scores),
    "poisson_nll_loss": Section("log-rate", _value, target=3),
    "siglip_loss": Section(
        "angle",
        _two_pairs,
        note="2 pairs",
        options={"logit_scale": 10.0, "logit_bias": -10.0},
        alone=True,
    ),
    "smooth_l1_loss": Section("error", _error),
    "soft_margin_loss": Section("logit", _value, target=1),
    "triplet_margin_loss": Section("distances", _triplet),
    "triplet_margin_with_distance_loss": Section("distances", _triplet),
}
