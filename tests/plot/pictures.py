"""A picture of each kind, from fixed data: what the tests of style, of references and of files draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import losskit
from losskit import plot

GENERATOR_SEED = 0
LABELS = torch.tensor([0] * 8 + [1] * 3 + [2])
ROWS = [
    {"epoch": epoch, "train_loss": 2.2 / epoch, "test_loss": 2.3 / epoch**0.5, "test_accuracy": 0.95}
    for epoch in range(1, 9)
]


def logits() -> torch.Tensor:
    return 2 * torch.randn(12, 3, generator=torch.Generator().manual_seed(GENERATOR_SEED))


def losses_by_epoch() -> torch.Tensor:
    spread = torch.rand(len(ROWS), 200, generator=torch.Generator().manual_seed(GENERATOR_SEED)) ** 3
    return spread * torch.tensor([row["test_loss"] for row in ROWS]).unsqueeze(1)


def long_tail() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    return torch.randn(500, generator=generator), torch.randn(500, generator=generator) ** 3


LINE = (torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([-1.0, 1.0, 3.0, 5.0]))

PICTURES: dict[str, Callable[[], Any]] = {
    "curve": lambda: plot.curve("mse", "l1", losskit.HuberLoss(delta=2), "smooth_l1"),
    "compare": lambda: plot.compare("bce_with_logits", "multi_margin", "ctc", of="gradient"),
    "many": lambda: plot.compare("bce_with_logits", "multi_margin", "ctc", "soft_margin", "cross_entropy"),
    "samples": lambda: plot.samples("cross_entropy", logits(), LABELS),
    "many-samples": lambda: plot.samples("mse", *long_tail()),
    "classes": lambda: plot.classes("cross_entropy", logits(), LABELS, "balanced"),
    "landscape": lambda: plot.landscape("cross_entropy"),
    "line": lambda: plot.landscape("mse", *LINE),
    "history": lambda: plot.history(ROWS, num_classes=10, losses=losses_by_epoch()),
    **{asked.name: (lambda name=asked.name: plot.question(name)) for asked in plot.QUESTIONS},
}


def figure_of(picture: Any) -> Any:
    return (picture[0] if isinstance(picture, tuple) else picture).figure
