"""Logits or softmax before the loss?"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from losskit import functional as F
from losskit.plot.questions.entry import Question, arrow, blank, box
from losskit.plot.style import BAD, GOOD, INK, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["QUESTION"]

CLASSES = 10


def _loss(scores: Tensor) -> Tensor:
    """Of scores whose first class is the true one."""
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long), reduction="none")


def _draw(axes: "list[Axes]") -> None:
    lead = torch.linspace(0, 20, 201)
    scores = torch.nn.functional.pad(lead.unsqueeze(1), (0, CLASSES - 1))  # (n, C)
    right, wrong = _loss(scores), _loss(F.softmax(scores, 1))
    perfect = torch.full((1, CLASSES), -torch.inf)
    perfect[0, 0] = 0
    # What no model can go below, however sure it is.
    floor = float(_loss(F.softmax(perfect, 1)))
    _pipelines(axes[0], float(_loss(perfect)), floor)
    curves = axes[1]
    curves.plot(lead, right, label="logits → cross_entropy", **line(0, len(lead)))
    curves.plot(lead, wrong, label="softmax → cross_entropy", **line(1, len(lead)))
    curves.axhline(floor, color=INK, linestyle=":", linewidth=1.5, label=f"floor: {floor:.4f} nats")
    curves.set_xlabel("lead of the true class's logit over the others")
    curves.set_ylabel("loss (nats)")
    curves.set_title(f"{CLASSES} classes")
    curves.grid(True, alpha=0.3)
    curves.legend(fontsize="small")


def _pipelines(axes: "Axes", right: float, wrong: float) -> None:
    blank(axes, "A perfect model")
    for height, steps, loss, color, verdict in (
        (0.75, ("logits", "cross_entropy"), right, GOOD, "right"),
        (0.25, ("logits", "softmax", "cross_entropy"), wrong, BAD, "wrong"),
    ):
        end = box(axes, 0.75, height - 0.2, f"{verdict}: the loss is {loss:.4f} nats", edge=color)
        places = (0.1, 0.75) if len(steps) == 2 else (0.1, 0.38, 0.75)
        boxes = [box(axes, place, height, step) for place, step in zip(places, steps, strict=True)]
        for start, stop in zip(boxes, [*boxes[1:], end], strict=True):
            arrow(axes, start, stop)


QUESTION = Question(
    name="softmax-twice",
    question="Logits or softmax before the loss?",
    answer="cross_entropy takes the raw scores and makes the softmax itself. A softmax before it is a second one: the "
    "loss of a perfect model then stays far above 0.",
    draw=_draw,
    size=(10.0, 4.2),
    widths=(1.0, 1.1),
)
