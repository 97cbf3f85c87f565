"""Ten questions that learners ask of a loss, each with the picture that answers it."""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch

from losskit.errors import LosskitValueError
from losskit.plot.questions import (
    bce_or_ce,
    class_weights,
    first_loss,
    good_loss,
    micro_batches,
    mse_for_classes,
    negative_loss,
    softmax_twice,
    target_shape,
    validation_rises,
)
from losskit.plot.questions.entry import Question
from losskit.plot.style import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["QUESTIONS", "Question", "question", "question_named"]

QUESTIONS: tuple[Question, ...] = (
    softmax_twice.QUESTION,
    target_shape.QUESTION,
    first_loss.QUESTION,
    good_loss.QUESTION,
    negative_loss.QUESTION,
    micro_batches.QUESTION,
    bce_or_ce.QUESTION,
    validation_rises.QUESTION,
    mse_for_classes.QUESTION,
    class_weights.QUESTION,
)


def question(name: str, ax: Any = None) -> "Axes | tuple[Axes, ...]":
    """The picture that answers a learner's question; its numbers are computed while it is drawn.

    **Args**: `name`: one of `[question.name for question in losskit.plot.QUESTIONS]`, such as `"softmax-twice"`. `ax`:
    as many matplotlib Axes as the picture has panels, or None for a new figure.

    **Returns**: the Axes, or a tuple of them where there are several.

    **Raises**: `LosskitValueError` for a name that is not known.

    **Example**:

    >>> import losskit
    >>> axes = losskit.plot.question("mse-for-classes")
    >>> axes[1].get_ylabel()
    'gradient: d loss / d logit'
    """
    asked = question_named(name)
    axes = panels(ax, len(asked.widths), "question", asked.size, widths=asked.widths)
    with torch.enable_grad():
        asked.draw(axes)
    if ax is None:
        axes[0].figure.suptitle(asked.question, fontsize="x-large")
    return axes[0] if len(axes) == 1 else tuple(axes)


def question_named(name: str) -> Question:
    known = {asked.name: asked for asked in QUESTIONS}
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(known)}."
    raise LosskitValueError(f"question: no question is called {name!r}. {hint}")
