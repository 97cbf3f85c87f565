"""Mean, sum or none?"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from losskit import functional as F
from losskit.plot.questions.entry import Question
from losskit.plot.style import BARS, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["QUESTION"]

# Tokens of two micro-batches: unequal, as sentences are.
TOKENS = (2, 6)
CLASSES = 5


def _draw(axes: "list[Axes]") -> None:
    generator = torch.Generator().manual_seed(3)
    total = sum(TOKENS)
    logits = 2 * torch.randn(total, CLASSES, generator=generator, dtype=torch.float64)
    target = torch.randint(CLASSES, (total,), generator=generator)

    def batches(scores: Tensor) -> list[tuple[Tensor, Tensor]]:
        return list(zip(scores.split(TOKENS), target.split(TOKENS), strict=True))

    def all_at_once(scores: Tensor) -> Tensor:
        return F.cross_entropy(scores, target)

    def mean_of_means(scores: Tensor) -> Tensor:
        return torch.stack([F.cross_entropy(x, y) for x, y in batches(scores)]).mean()

    def sum_over_all(scores: Tensor) -> Tensor:
        return torch.stack([F.cross_entropy(x, y, normalizer=total) for x, y in batches(scores)]).sum()

    each = F.cross_entropy(logits, target, reduction="none")
    _losses(axes[0], each, float(each.sum()), float(all_at_once(logits)))
    ways = {
        "mean of all tokens at once": all_at_once,
        "mean of each batch, averaged": mean_of_means,
        "sums ÷ all tokens (normalizer)": sum_over_all,
    }
    _weights(axes[1], {name: _weight(way, logits, target) for name, way in list(ways.items())[1:]})
    _results(axes[2], {name: float(way(logits)) for name, way in ways.items()})


def _weight(way: object, logits: Tensor, target: Tensor) -> Tensor:
    """How much the loss of each token counts: its gradient in the whole over its gradient by itself."""
    leaf = logits.clone().requires_grad_()
    (whole,) = torch.autograd.grad(way(leaf), leaf)  # type: ignore[operator]  # a function of the logits
    (alone,) = torch.autograd.grad(F.cross_entropy(leaf, target, reduction="sum"), leaf)
    return (whole * alone).sum(1) / (alone * alone).sum(1)


def _batch_of(token: int) -> int:
    return 0 if token < TOKENS[0] else 1


def _losses(panel: "Axes", each: Tensor, total: float, mean: float) -> None:
    for batch in range(len(TOKENS)):
        places = [token for token in range(len(each)) if _batch_of(token) == batch]
        heights = [float(each[token]) for token in places]
        color, hatch = BARS[batch]
        panel.bar(places, heights, color=color, hatch=hatch, edgecolor=INK, label=f"micro-batch {batch + 1}")
    panel.set_xlabel("token")
    panel.set_ylabel("loss (nats)")
    panel.set_title(f'"none": {len(each)} losses\n"sum": {total:.4f}, "mean": {mean:.4f}')
    panel.legend(fontsize="small")


def _weights(panel: "Axes", weights: dict[str, Tensor]) -> None:
    for group, (name, numbers) in enumerate(weights.items()):
        color, hatch = BARS[2 + group]
        places = [token + (group - 0.5) * 0.4 for token in range(len(numbers))]
        panel.bar(places, numbers.tolist(), 0.4, color=color, hatch=hatch, edgecolor=INK, label=name)
    panel.axvline(TOKENS[0] - 0.5, color=INK, linestyle=":", linewidth=1)
    panel.set_xlabel("token")
    panel.set_ylabel("weight of the token's loss")
    panel.set_title("What each token counts\nin the accumulated gradient")
    panel.margins(y=0.25)
    panel.legend(fontsize="small", loc="upper right")


def _results(panel: "Axes", results: dict[str, float]) -> None:
    places = range(len(results))
    styles = (BARS[0], BARS[2], BARS[3])
    for place, value, (color, hatch) in zip(places, results.values(), styles, strict=True):
        panel.barh(place, value, 0.5, color=color, hatch=hatch, edgecolor=INK)
        panel.text(value * 1.02, place, f"{value:.4f}", va="center", fontsize=9, color=INK)
    panel.set_yticks(list(places), [name.replace(" (", "\n(").replace(", ", ",\n") for name in results])
    panel.set_xlim(0, max(results.values()) * 1.3)
    panel.invert_yaxis()
    panel.set_xlabel("loss (nats)")
    panel.set_title("What comes out")


QUESTION = Question(
    name="reduction",
    question="Mean, sum or none?",
    answer='"none" gives every loss, "sum" adds them, "mean" divides the sum by the number that counts. Over unequal '
    "micro-batches a mean of means weighs the tokens of a short batch more: divide each sum by the count of all.",
    draw=_draw,
    size=(12.5, 4.0),
    widths=(1.0, 1.2, 0.9),
)
