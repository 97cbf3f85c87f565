"""Why 2.3 at the start?"""

from typing import TYPE_CHECKING

import torch

from losskit import functional as F
from losskit.plot.questions.entry import Question
from losskit.plot.runs import guess
from losskit.plot.style import INK, LINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["QUESTION"]

CLASSES = (2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
SEEDS = 5
SAMPLES, FEATURES = 256, 64


def _untrained(classes: int, seed: int) -> float:
    """The loss of a linear layer as it comes, with torch's default initial weights, on random features."""
    generator = torch.Generator().manual_seed(seed)
    bound = FEATURES**-0.5
    features = torch.randn(SAMPLES, FEATURES, generator=generator)
    weight = (2 * torch.rand(classes, FEATURES, generator=generator) - 1) * bound
    bias = (2 * torch.rand(classes, generator=generator) - 1) * bound
    target = torch.randint(classes, (SAMPLES,), generator=generator)
    return float(F.cross_entropy(torch.nn.functional.linear(features, weight, bias), target))


def _draw(axes: "list[Axes]") -> None:
    (panel,) = axes
    panel.plot(
        CLASSES,
        [guess(classes).value for classes in CLASSES],
        color=LINES[0].color,
        linewidth=2,
        label="equal probabilities: ln C",
    )
    measured = [(classes, _untrained(classes, seed)) for classes in CLASSES for seed in range(SEEDS)]
    panel.plot(*zip(*measured, strict=True), linestyle="", marker="x", color=LINES[6].color, label="untrained layers")
    ten = guess(10).value
    panel.plot([10, 10, CLASSES[0]], [0, ten, ten], color=INK, linestyle=":", linewidth=1.5)
    panel.annotate(f"10 classes: {ten:.4f}", (10, ten), (16, ten - 0.75), fontsize=10, arrowprops={"arrowstyle": "->"})
    panel.set_xscale("log")
    panel.set_xlim(CLASSES[0], None)
    panel.set_ylim(0, None)
    panel.set_xticks([2, 10, 100, 1000], ["2", "10", "100", "1000"])
    panel.set_xlabel("number of classes C")
    panel.set_ylabel("loss before training (nats)")
    panel.set_title("cross_entropy")
    panel.grid(True, alpha=0.3)
    panel.legend(loc="upper left")


QUESTION = Question(
    name="first-loss",
    question="Why is the loss 2.3 at the start?",
    answer="A model that knows nothing gives each of C classes about the same probability 1/C, and −log(1/C) = ln C. "
    "A first loss far from it tells of a fault in the targets or in the last layer.",
    draw=_draw,
    size=(6.8, 4.4),
    widths=(1.0,),
)
