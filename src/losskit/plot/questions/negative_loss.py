"""Why is the loss negative?"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from losskit import functional as F
from losskit.plot.questions.entry import Question
from losskit.plot.style import INK, LINES, Line, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["QUESTION"]

LEGAL = "#dbe9f4"


def _draw(axes: "list[Axes]") -> None:
    _log_probabilities(axes[0])
    _targets(axes[1])
    _variances(axes[2])
    for panel in axes:
        panel.axhline(0, color=INK, linewidth=1)
        panel.grid(True, alpha=0.3)
        panel.legend(fontsize="small")


def _nll(log_probability: Tensor) -> Tensor:
    """Of numbers that are given as the log-probability of the true class."""
    return F.nll_loss(
        log_probability.unsqueeze(1), torch.zeros(len(log_probability), dtype=torch.long), reduction="none"
    )


def _log_probabilities(panel: "Axes") -> None:
    scores = torch.tensor([[2.5, 1.0, 0.0]])
    x = torch.linspace(-4, 4, 161)
    panel.axvspan(-4, 0, facecolor=LEGAL, edgecolor="none", label="legal: log-probabilities")
    panel.plot(x, _nll(x), color=LINES[0].color, linewidth=2)
    given = {"log_softmax": F.log_softmax(scores, 1), "softmax": F.softmax(scores, 1), "raw scores": scores}
    for drawn, (name, numbers) in zip(LINES[4:7], given.items(), strict=True):
        _point(panel, float(numbers[0, 0]), float(_nll(numbers[:, 0])), drawn, name)
    panel.set_xlim(-4, 4)
    panel.set_xlabel("what is given for the true class")
    panel.set_ylabel("loss (nats)")
    panel.set_title("nll_loss")


def _point(panel: "Axes", x: float, loss: float, drawn: Line, name: str) -> None:
    label = f"{name}: {loss:.2f}".replace("-", "−")
    panel.plot(
        [x],
        [loss],
        marker=drawn.marker,
        linestyle="",
        markersize=9,
        color=drawn.color,
        markeredgecolor=INK,
        label=label,
    )


def _targets(panel: "Axes") -> None:
    target = torch.linspace(-1, 3, 161)
    panel.axvspan(0, 1, facecolor=LEGAL, edgecolor="none", label="legal: targets in [0, 1]")
    for index, logit in enumerate((2.0, -2.0)):
        loss = F.binary_cross_entropy_with_logits(torch.full_like(target, logit), target, reduction="none")
        panel.plot(target, loss, label=f"logit {logit:g}".replace("-", "−"), **line(index, len(target)))
    panel.set_xlim(-1, 3)
    panel.set_xlabel("target")
    panel.set_title("binary_cross_entropy_with_logits")


def _variances(panel: "Axes") -> None:
    variance = torch.logspace(-2, 1, 161)
    panel.axvspan(0.01, 10, facecolor=LEGAL, edgecolor="none", label="legal: any variance above 0")
    for index, error in enumerate((0.0, 0.5)):
        input = torch.full_like(variance, error)
        loss = F.gaussian_nll_loss(input, torch.zeros_like(input), variance, reduction="none")
        panel.plot(variance, loss, label=f"error {error:g}", **line(index, len(variance)))
    panel.set_xscale("log")
    panel.set_xlim(0.01, 10)
    panel.set_ylim(-3, 6)
    panel.set_xlabel("predicted variance (target units squared)")
    panel.set_title("gaussian_nll_loss: negative is fine")


QUESTION = Question(
    name="negative-loss",
    question="Why is the loss negative?",
    answer="Cross entropies of legal inputs are 0 or more; below 0 the input is no log-probability or the target lies "
    "outside [0, 1]. Only a density can be above 1: gaussian_nll_loss is negative where the model is sure and right.",
    draw=_draw,
    size=(12.5, 4.2),
    widths=(1.0, 1.0, 1.0),
)
