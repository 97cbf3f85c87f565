"""Random calls of every loss that are in order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit import functional

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Of a row of scores: class axis second.
SHAPES = ((4, 3), (8, 10), (32, 5), (64, 2), (16, 100), (6, 4, 3), (3, 5, 2, 4), (7,))

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Maker:
    """Calls from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def values(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """randn, relu or uniform."""
        kind = self.random.choice(("randn", "relu", "uniform"))
        if kind == "uniform":
            found = torch.rand(shape, generator=self.generator)
        else:
            found = torch.randn(shape, generator=self.generator) * self.random.choice((0.1, 1.0, 5.0))
        found = found.relu() if kind == "relu" else found
        return found.to(dtype or self.random.choice(DTYPES)).requires_grad_(self.random.random() < 0.8)

    def shape(self) -> tuple[int, ...]:
        return self.random.choice(SHAPES)

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator)

    def indices(self, shape: tuple[int, ...]) -> Tensor:
        dim = min(len(shape) - 1, 1)
        return self.integers(0, shape[dim], shape[:dim] + shape[dim + 1 :])

    def distribution(self, like: Tensor, dim: int) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).mul(2).softmax(dim).to(like.dtype)

    def signs(self, shape: tuple[int, ...]) -> Tensor:
        return 2.0 * self.integers(0, 2, shape) - 1

    def rates(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=self.generator).to(like.dtype)


def cross_entropy(make: Maker) -> Call:
    x = make.values(make.shape())
    dim = min(x.ndim - 1, 1)
    target = make.indices(tuple(x.shape)) if make.random.random() < 0.7 else make.distribution(x, dim)
    return F.cross_entropy, (x, target), {"label_smoothing": make.random.choice((0.0, 0.1))}


def nll_loss(make: Maker) -> Call:
    x = make.values(make.shape())
    return F.nll_loss, (x.log_softmax(min(x.ndim - 1, 1)), make.indices(tuple(x.shape))), {}


def kl_div(make: Maker) -> Call:
    x = make.values(make.shape())
    dim = make.random.choice(range(min(x.ndim - 1, 1), x.ndim))
    target = make.distribution(x, dim)
    logs = make.random.random() < 0.5
    target = target.double().log().to(x.dtype) if logs else target
    return F.kl_div, (x.log_softmax(dim), target), {"log_target": logs, "reduction": "batchmean"}


def ctc_loss(make: Maker) -> Call:
    frames, batch, classes = make.random.choice(((12, 2, 4), (20, 3, 6), (9, 1, 3)))
    x = make.values((frames, batch, classes), make.random.choice((torch.float32, torch.float64)))
    labels = make.integers(1, classes, (batch, 4))
    lengths = make.integers(1, 5, (batch,))
    return F.ctc_loss, (x.log_softmax(2), labels, torch.full((batch,), frames), lengths), {}


def binary_cross_entropy(make: Maker) -> Call:
    x = make.values(make.shape(), make.random.choice(DTYPES[:2]))
    return F.binary_cross_entropy, (x.sigmoid().clamp(1e-6, 1 - 1e-6), make.rates(x)), {}


def yes_no(function: Callable[..., Any]) -> Callable[[Maker], Call]:
    def build(make: Maker) -> Call:
        x = make.values(make.shape())
        return function, (x, make.rates(x).round() if make.random.random() < 0.5 else make.rates(x)), {}

    return build


def of_signs(function: Callable[..., Any]) -> Callable[[Maker], Call]:
    def build(make: Maker) -> Call:
        # In float16 the exponential of a score of 12 is infinite.
        x = make.values(make.shape(), make.random.choice(DTYPES[:3]))
        return function, (x, make.signs(tuple(x.shape)).to(x.dtype)), {}

    return build


def margin_ranking_loss(make: Maker) -> Call:
    shape, dtype = make.shape(), make.random.choice(DTYPES)
    target = make.signs(shape).to(dtype)
    return F.margin_ranking_loss, (make.values(shape, dtype), make.values(shape, dtype), target), {"margin": 0.5}


def cosine_embedding_loss(make: Maker) -> Call:
    shape, dtype = (make.random.choice((1, 8)), 6), make.random.choice(DTYPES[:2])
    return F.cosine_embedding_loss, (make.values(shape, dtype), make.values(shape, dtype), make.signs(shape[:1])), {}


def regression(function: Callable[..., Any]) -> Callable[[Maker], Call]:
    def build(make: Maker) -> Call:
        shape, dtype = make.shape(), make.random.choice(DTYPES)
        return function, (make.values(shape, dtype), make.values(shape, dtype).detach()), {}

    return build


def poisson_nll_loss(make: Maker) -> Call:
    x = make.values(make.shape(), make.random.choice(DTYPES[:2]))
    return F.poisson_nll_loss, (x, make.integers(0, 9, tuple(x.shape)).to(x.dtype)), {}


def gaussian_nll_loss(make: Maker) -> Call:
    shape, dtype = make.shape(), make.random.choice(DTYPES[:2])
    x = make.values(shape, dtype)
    return F.gaussian_nll_loss, (x, make.values(shape, dtype).detach(), make.rates(x) + 0.1), {}


def multi_margin_loss(make: Maker) -> Call:
    x = make.values(make.random.choice(((4, 3), (32, 5), (7,))), make.random.choice(DTYPES[:2]))
    return F.multi_margin_loss, (x, make.indices(tuple(x.shape))), {}


def multilabel_margin_loss(make: Maker) -> Call:
    x = make.values((8, 5), make.random.choice(DTYPES[:2]))
    target = torch.full((8, 5), -1)
    target[:, 0] = make.integers(0, 5, (8,))
    return F.multilabel_margin_loss, (x, target), {}


def triplet(function: Callable[..., Any]) -> Callable[[Maker], Call]:
    def build(make: Maker) -> Call:
        shape, dtype = (make.random.choice((1, 16)), 6), make.random.choice(DTYPES[:2])
        noise = torch.randn(3, *shape, generator=make.generator).to(dtype)
        return function, tuple(make.values(shape, dtype) + each for each in noise), {}

    return build


def linear_cross_entropy(make: Maker) -> Call:
    classes = make.random.choice((2, 5, 30))
    weight = torch.randn(classes, 6, generator=make.generator)
    x = make.values((16, 6), torch.float32)
    return F.linear_cross_entropy, (x, weight, make.integers(0, classes, (16,))), {}


# With how many calls each is tried.
def pairs(function: Callable[..., Any], **options: tuple[float, ...]) -> Callable[[Maker], Call]:
    """Vectors whose partner is in the same row, and one of the values of each option."""

    def build(make: Maker) -> Call:
        shape, dtype = (make.random.choice((8, 17)), 6), make.random.choice(DTYPES)
        chosen = {name: make.random.choice(values) for name, values in options.items()}
        return function, (make.values(shape, dtype), make.values(shape, dtype)), chosen

    return build


BUILDERS: dict[str, tuple[Callable[[Maker], Call], int]] = {
    "binary_cross_entropy": (binary_cross_entropy, 300),
    "binary_cross_entropy_with_logits": (yes_no(F.binary_cross_entropy_with_logits), 1000),
    "clip_loss": (pairs(functional.clip_loss, logit_scale=(1.0, 1 / 0.07, 100.0)), 300),
    "cosine_embedding_loss": (cosine_embedding_loss, 300),
    "cross_entropy": (cross_entropy, 2000),
    "ctc_loss": (ctc_loss, 2000),
    "gaussian_nll_loss": (gaussian_nll_loss, 300),
    "hinge_embedding_loss": (of_signs(F.hinge_embedding_loss), 300),
    "huber_loss": (regression(F.huber_loss), 300),
    "info_nce": (pairs(functional.info_nce, temperature=(1.0, 0.07)), 300),
    "kl_div": (kl_div, 1000),
    "l1_loss": (regression(F.l1_loss), 300),
    "linear_cross_entropy": (linear_cross_entropy, 300),
    "margin_ranking_loss": (margin_ranking_loss, 300),
    "mse_loss": (regression(F.mse_loss), 300),
    "multi_margin_loss": (multi_margin_loss, 300),
    "multilabel_margin_loss": (multilabel_margin_loss, 300),
    "multilabel_soft_margin_loss": (yes_no(F.multilabel_soft_margin_loss), 300),
    "nll_loss": (nll_loss, 1000),
    "poisson_nll_loss": (poisson_nll_loss, 300),
    "siglip_loss": (pairs(functional.siglip_loss, logit_scale=(1.0, 10.0), logit_bias=(-10.0, 0.0)), 300),
    "smooth_l1_loss": (regression(F.smooth_l1_loss), 300),
    "soft_margin_loss": (of_signs(F.soft_margin_loss), 300),
    "triplet_margin_loss": (triplet(F.triplet_margin_loss), 300),
    "triplet_margin_with_distance_loss": (triplet(F.triplet_margin_with_distance_loss), 300),
}
