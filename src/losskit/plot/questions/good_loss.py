"""Is 0.5 good?"""

import math
from typing import TYPE_CHECKING

import torch

from losskit import functional as F
from losskit.plot.questions.entry import Question
from losskit.plot.runs import guess
from losskit.plot.style import BARS, INK, LINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["QUESTION"]

LOSS = 0.5
TASKS = ((2, "2 classes"), (10, "10 classes"), (1000, "1,000 classes"), (50_000, "50,000 words"))


def _draw(axes: "list[Axes]") -> None:
    _probability(axes[0])
    _against_guessing(axes[1])


def _probability(panel: "Axes") -> None:
    probability = torch.linspace(0.02, 1, 400)
    certain = torch.ones_like(probability)
    loss = F.binary_cross_entropy(probability, certain, reduction="none")
    panel.plot(loss, 100 * probability, color=LINES[0].color, linewidth=2)
    at = 100 * math.exp(-LOSS)
    panel.plot([LOSS, LOSS, 0], [0, at, at], color=INK, linestyle=":", linewidth=1.5)
    panel.plot([LOSS], [at], marker="o", color=LINES[0].color, markersize=8)
    panel.annotate(f"loss {LOSS}: {at:.1f} %", (LOSS, at), (LOSS + 0.35, at + 8), arrowprops={"arrowstyle": "->"})
    panel.set_xlim(0, None)
    panel.set_ylim(0, 105)
    panel.set_xlabel("loss (nats)")
    panel.set_ylabel("probability of the true class (%)")
    panel.set_title("exp(−loss), the geometric mean\nof the true classes' probabilities")
    panel.grid(True, alpha=0.3)


def _against_guessing(panel: "Axes") -> None:
    guesses = [guess(classes).value for classes, _ in TASKS]
    places = range(len(TASKS))
    panel.barh(places, guesses, color=BARS[3].color, hatch=BARS[3].hatch, edgecolor=INK, height=0.55)
    for place, value in zip(places, guesses, strict=True):
        panel.text(value + 0.15, place, f"{value:.3f}", va="center", fontsize=9, color=INK)
    panel.axvline(LOSS, color=LINES[6].color, linewidth=2, linestyle="--", label=f"loss {LOSS}")
    panel.set_yticks(list(places), [name for _, name in TASKS])
    panel.set_xlim(0, max(guesses) * 1.18)
    panel.set_xlabel("loss of a guess, ln C (nats)")
    panel.set_title("The same loss against guessing")
    panel.legend(loc="lower right")
    panel.grid(True, axis="x", alpha=0.3)
    panel.set_axisbelow(True)


QUESTION = Question(
    name="good-loss",
    question="Is a loss of 0.5 good?",
    answer="A cross entropy is good or bad against a guess: ln C for C classes. exp(−loss) is the probability that the "
    "model gives the true class, in the geometric mean. For a regression compare with the variance of the target.",
    draw=_draw,
    size=(10.0, 4.2),
    widths=(1.0, 1.1),
)
