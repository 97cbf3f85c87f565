"""Binary cross entropy or cross entropy?"""

from typing import TYPE_CHECKING

import torch

from losskit import functional as F
from losskit.plot.questions.entry import Question, arrow, blank, box
from losskit.plot.style import BLUE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["QUESTION"]

BATCH, FEATURES, CLASSES = 8, 16, 5


def _leaf(function: str, heads: int, target: torch.Tensor, of_one_column: bool = False) -> str:
    """What a layer of this size gives the loss, and what the loss is while all scores are 0."""
    weight = torch.zeros(heads, FEATURES)
    scores = torch.nn.functional.linear(torch.ones(BATCH, FEATURES), weight)
    scores = scores.squeeze(1) if of_one_column else scores
    loss = float(getattr(F, function)(scores, target))
    kind = str(target.dtype).removeprefix("torch.")
    return (
        f"{function}\nLinear({FEATURES}, {len(weight)})\ninput {tuple(scores.shape)}\n"
        f"target {tuple(target.shape)} {kind}\nfirst loss {loss:.4f}"
    )


def _draw(axes: "list[Axes]") -> None:
    (panel,) = axes
    blank(panel)
    root = box(panel, 0.5, 0.92, "How many of the classes are true for one sample?", size=11)
    one = box(panel, 0.36, 0.69, "exactly one", size=10)
    many = box(panel, 0.84, 0.69, f"any number of {CLASSES}, also none", size=10)
    two = box(panel, 0.24, 0.5, "of two", size=10)
    several = box(panel, 0.55, 0.5, f"of {CLASSES}", size=10)
    labels = torch.zeros(BATCH)
    indices = torch.zeros(BATCH, dtype=torch.long)
    bce, ce = "binary_cross_entropy_with_logits", "cross_entropy"
    leaves = (
        (two, 0.1, _leaf(bce, 1, labels, of_one_column=True)),
        (two, 0.36, _leaf(ce, 2, indices)),
        (several, 0.61, _leaf(ce, CLASSES, indices)),
        (many, 0.88, _leaf(bce, CLASSES, torch.zeros(BATCH, CLASSES))),
    )
    for start, end in ((root, one), (root, many), (one, two), (one, several)):
        arrow(panel, start, end)
    for parent, place, text in leaves:
        arrow(
            panel, parent, box(panel, place, 0.2, text.replace("entropy_with", "entropy\n_with"), edge=BLUE, size=9.5)
        )
    scores = torch.linspace(-3, 3, 7)
    single = F.binary_cross_entropy_with_logits(scores, torch.ones(7))
    double = F.cross_entropy(torch.stack((torch.zeros(7), scores), 1), torch.ones(7, dtype=torch.long))
    panel.text(
        0.23,
        0.0,
        f"one score x, or two scores 0 and x: the same loss ({float(single):.4f}, {float(double):.4f})",
        ha="center",
        va="center",
        fontsize=9.5,
    )


QUESTION = Question(
    name="bce-or-ce",
    question="Binary cross entropy or cross entropy?",
    answer="Count the classes that can be true at once. Exactly one: cross_entropy, a score for each class. Any "
    "number: binary_cross_entropy_with_logits, a score and a target of 0 or 1 for each. Of two classes, one score is "
    "enough.",
    draw=_draw,
    size=(10.5, 5.4),
    widths=(1.0,),
)
