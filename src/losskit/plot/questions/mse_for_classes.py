"""Why not the squared error for classes?"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from losskit import functional as F
from losskit.plot.curves import value_and_gradient
from losskit.plot.questions.entry import Question
from losskit.plot.style import INK, MUTED, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["QUESTION"]

# A logit that is sure and wrong.
WRONG = -6.0


def _squared(logit: Tensor) -> Tensor:
    return F.mse_loss(torch.sigmoid(logit), torch.ones_like(logit), reduction="none")


def _logistic(logit: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, torch.ones_like(logit), reduction="none")


def _draw(axes: "list[Axes]") -> None:
    logits = torch.linspace(-8, 8, 321, dtype=torch.float64)
    values, gradients = axes
    names = ("binary_cross_entropy_with_logits", "mse_loss of the sigmoid")
    for index, (name, function) in enumerate(zip(names, (_logistic, _squared), strict=True)):
        value, gradient = value_and_gradient(function, logits)
        values.plot(logits, value, label=name, **line(index, len(logits)))
        _, (at_wrong,) = value_and_gradient(function, torch.tensor([WRONG], dtype=torch.float64))
        said = f"{float(at_wrong):.4f}".replace("-", "−")
        gradients.plot(
            logits, gradient, label=f"at logit {WRONG:g}: {said}".replace("-", "−"), **line(index, len(logits))
        )
    gradients.axvline(WRONG, color=INK, linestyle=":", linewidth=1.5)
    for panel, name in ((values, "Value"), (gradients, "Gradient")):
        panel.axhline(0, color=MUTED, linewidth=0.8, zorder=0)
        panel.set_xlabel("logit of the true class: sure and wrong on the left")
        panel.set_title(name)
        panel.grid(True, alpha=0.3)
    values.set_ylabel("loss (nats; squared probability)")
    gradients.set_ylabel("gradient: d loss / d logit")
    values.legend(fontsize="small")
    gradients.legend(fontsize="small", loc="lower right")


QUESTION = Question(
    name="mse-for-classes",
    question="Why not the squared error for classes?",
    answer="Where the model is sure and wrong, the slope of the sigmoid is almost 0, and the gradient of the squared "
    "error with it: nothing is learned. In the cross entropy the logarithm cancels that slope.",
    draw=_draw,
    size=(10.0, 4.2),
    widths=(1.0, 1.0),
)
