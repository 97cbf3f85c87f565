"""What do class weights do?"""

from typing import TYPE_CHECKING

import torch

from losskit.plot.breakdown import classes
from losskit.plot.questions.entry import Question
from losskit.plot.style import BARS, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["QUESTION"]

SAMPLES = (900, 90, 10)


def _draw(axes: "list[Axes]") -> None:
    counts = torch.tensor(SAMPLES, dtype=torch.float32)
    target = torch.repeat_interleave(torch.arange(len(SAMPLES)), torch.tensor(SAMPLES))
    # A model that has learned how frequent the classes are, and nothing else.
    logits = (counts / counts.sum()).log().expand(len(target), -1)
    weight = counts.sum() / (len(SAMPLES) * counts)
    left, right = axes
    color, hatch = BARS[3]
    shares = (100 * counts / counts.sum()).tolist()
    bars = left.bar(range(len(SAMPLES)), shares, 0.6, color=color, hatch=hatch, edgecolor=INK)
    left.bar_label(bars, [f"{share:.1f}" for share in shares], fontsize="small", padding=2)
    names = [f"class {index}\nweight {float(value):.3g}" for index, value in enumerate(weight)]
    left.set_xticks(range(len(SAMPLES)), names, fontsize="small")
    left.set_xlabel("class, and its weight N / (C · samples)")
    left.set_ylabel("share of the samples (%)")
    left.set_title("Samples")
    left.margins(y=0.12)
    left.grid(True, axis="y", alpha=0.3)
    left.set_axisbelow(True)
    classes("cross_entropy", logits, target, weight, ax=right)


QUESTION = Question(
    name="class-weights",
    question="What do class weights do?",
    answer="They multiply the loss of each sample by the weight of its class, and so the share that a class has of the "
    "gradient. reduction='mean' divides by the weights of the samples that came, not by their number.",
    draw=_draw,
    size=(10.0, 4.2),
    widths=(0.8, 1.0),
)
