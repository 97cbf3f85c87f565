"""Which loss serves a task."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from losskit.catalog import LOSSES
from losskit.errors import LosskitTypeError, LosskitValueError
from losskit.tasks import TASKS, Task

__all__ = ["Suggestion", "Suggestions", "markdown", "suggest"]

# A question says "classify" where the table says "classification", and "anomalies" for "anomaly": words of at least so
# many letters match where they begin alike, but for the last letter of the shorter one.
SHORTEST_STEM = 5
# Of a question, these say nothing of the task.
IDLE = {"a", "an", "for", "of", "or", "the", "with"}


@dataclass(frozen=True)
class Suggestion:
    """A loss for a task: why, and what model and data must bring."""

    # The function in losskit.functional and the class in losskit.
    loss: str
    module: str
    why: str
    # What the last layer of the model must be.
    output_layer: str
    target: str
    target_dtype: str
    # How much a single element that is far off can weigh.
    outliers: str
    try_next: tuple[str, ...]

    def __str__(self) -> str:
        rows = (
            ("output layer", self.output_layer),
            ("target", self.target),
            ("target dtype", self.target_dtype),
            ("outliers", self.outliers),
            ("try next", ", ".join(self.try_next)),
        )
        return "\n".join(
            [f"{self.loss} ({self.module}): {self.why}", *(f"   {name:<13} {text}" for name, text in rows)]
        )


class Suggestions(tuple[Suggestion, ...]):
    """The losses for a task, the one to try first in front. Prints as a list that is easy to read."""

    task: str

    def __new__(cls, task: str, found: Iterable[Suggestion]) -> "Suggestions":
        made = super().__new__(cls, found)
        made.task = task
        return made

    def __str__(self) -> str:
        return "\n\n".join([f"{self.task}:", *(f"{number}. {one}" for number, one in enumerate(self, 1))])

    __repr__ = __str__


def suggest(task: str) -> Suggestions:
    """The losses that serve a task, from the catalog.

    **Args**: `task`: a few words such as `"segmentation"`, `"object detection boxes"`, `"regression with outliers"`,
    `"language model"`, in any case.

    **Returns**: a tuple of `Suggestion(loss, module, why, output_layer, target, target_dtype, outliers, try_next)` that
    prints as a list; its `.task` is the task that was understood.

    **Raises**: `LosskitValueError` for words that name no known task.

    **Example**:

    >>> [suggestion.loss for suggestion in suggest("regression with outliers")]
    ['huber_loss', 'l1_loss', 'smooth_l1_loss']
    >>> print(suggest("counts")[0])
    poisson_nll_loss (PoissonNLLLoss): whole numbers from 0: the model says the logarithm of their rate
       output layer  none: the logarithm of a rate
       target        counts, broadcasts
       target dtype  floating point counts, 0 or more
       outliers      a rate that is too high costs as its exponential
       try next      gaussian_nll_loss
    """
    if not isinstance(task, str):
        raise LosskitTypeError(f"suggest: task must be words such as 'segmentation', got {type(task).__name__}.")
    return _suggestions(_understood(task))


def markdown() -> str:
    """The tables of docs/which-loss.md, a section for each task.

    **Example**:

    >>> markdown().splitlines()[0]
    '## classification'
    """
    parts = []
    for task in TASKS:
        lines = [f"## {task.name}", "", f"Also: {task.also}.", ""]
        lines += ["| loss | why | output layer | target | outliers | try next |", "|" + "---|" * 6]
        for one in _suggestions(task):
            next_ones = ", ".join(f"`{name}`" for name in one.try_next)
            cells = (
                f"`{one.loss}`",
                one.why,
                one.output_layer,
                f"{one.target}; {one.target_dtype}",
                one.outliers,
                next_ones,
            )
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _suggestions(task: Task) -> Suggestions:
    catalog = {info.name: info for info in LOSSES}
    return Suggestions(
        task.name,
        [
            Suggestion(
                loss=name,
                module=catalog[name].module,
                why=why,
                output_layer=catalog[name].output_layer,
                target=catalog[name].target,
                target_dtype=catalog[name].target_dtype,
                outliers=catalog[name].outliers,
                try_next=catalog[name].try_next,
            )
            for name, why in task.losses
        ],
    )


def _understood(text: str) -> Task:
    # Each word once: a text that says them again and again is no other question.
    asked = list(dict.fromkeys(_words(text)))
    best = max(reversed(TASKS), key=lambda task: _fit(task, asked))
    if _fit(best, asked) == (0, 0):
        known = {phrase: None for task in TASKS for phrase in task.phrases}
        near = get_close_matches(" ".join(asked), known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(task.name for task in TASKS)}."
        raise LosskitValueError(f"suggest: task {text!r} is not known. {hint}")
    return best


def _fit(task: Task, asked: list[str]) -> tuple[int, int]:
    """How many words of the question the task explains, and how many of them by one phrase."""
    explained: set[str] = set()
    longest = 0
    for phrase in task.phrases:
        words = _words(phrase)
        matched = {word for word in asked for known in words if _alike(word, known)}
        if all(any(_alike(word, known) for word in asked) for known in words):
            explained |= matched
            longest = max(longest, len(words))
    return len(explained), longest


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z0-9]+", text.casefold()) if word not in IDLE]


def _alike(word: str, known: str) -> bool:
    """The same word, but for its ending."""
    if _singular(word) & _singular(known):
        return True
    stem = max(SHORTEST_STEM, min(len(word), len(known)) - 1)
    return len(known) >= stem and word.startswith(known[:stem])


def _singular(word: str) -> set[str]:
    return {word, word.removesuffix("s"), word.removesuffix("es")}
