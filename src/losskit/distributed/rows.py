"""What one shard of a row of scores tells the other shards, and the gradient by the shard.

A row's softmax is kept as its maximum m and its sum s = Σ_c exp(x_c − m), never as log s + m: logits that carry a large
offset would lose their digits. Other sums are taken of m − x_c for the same reason.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from losskit.core.scores import ScoreOptions
from losskit.losses.softmax import scores as transformed

__all__ = [
    "LocalRows",
    "RowGradient",
    "RowOptions",
    "gradient_by_probabilities",
    "gradient_by_scores",
    "local_rows",
    "slices",
]

# How many scores are worked on at a time: few enough for a cache, or for a GPU few enough to be little memory.
_SCORES_AT_A_TIME = {"cpu": 1 << 18, "other": 1 << 26}
# Scores of a slice of rows, in the dtype of the arithmetic; whoever asks may write to them.
Scores = Callable[[slice], Tensor]


@dataclass(frozen=True)
class RowOptions:
    """What is asked of the rows."""

    # The place of each row's class in this shard, −1 where it has none here or the row does not count.
    labels: Tensor | None
    # (N, C) in place of labels.
    probabilities: Tensor | None
    # (C), the weights of this shard's classes.
    weight: Tensor | None
    label_smoothing: float
    scores: ScoreOptions
    dtype: torch.dtype


@dataclass
class LocalRows:
    """What a shard knows of each row, (N) each. Sums are relative to `highest`, or to 0 where that is −inf."""

    highest: Tensor
    # Σ exp(x − m)
    sum_of_exp: Tensor
    # The score of the row's class, −inf where another shard has it.
    own: Tensor | None = None
    # Its weight, 0 where another shard has it.
    own_weight: Tensor | None = None
    # Σ w·(m − x) over the classes, for label smoothing.
    below: Tensor | None = None
    # Σ w·y and Σ w·y·(m − x), for class probabilities y.
    mass: Tensor | None = None
    expected_below: Tensor | None = None
    # Σ exp(x − m)·(m − x), for the entropy.
    entropy: Tensor | None = None
    # Of class probabilities: Σ y, Σ y·(m − x), the highest y and the score of its class.
    plain_mass: Tensor | None = None
    plain_below: Tensor | None = None
    best: Tensor | None = None
    best_score: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}


def slices(rows: int, columns: int, device: torch.device, at_a_time: int | None = None) -> Iterator[slice]:
    if at_a_time is None:
        at_a_time = _SCORES_AT_A_TIME["cpu" if device.type == "cpu" else "other"]
    step = max(1, at_a_time // max(1, columns))
    for begin in range(0, rows, step):
        yield slice(begin, min(begin + step, rows))


def local_rows(scores: Scores, rows: list[slice], empty: Tensor, options: RowOptions) -> LocalRows:
    """The numbers of all rows, slice by slice. `empty` is an uninitialised (N) of the arithmetic's dtype."""
    found: dict[str, Tensor] = {}
    for place in rows:
        for name, value in (
            _numbers(transformed_in_place(scores(place), options.scores), place, options).named().items()
        ):
            found.setdefault(name, torch.empty_like(empty))[place] = value
    if not found:
        # No rows: the names still tell the exchange what is sent.
        nothing = empty.new_empty((0, 1))
        return _numbers(nothing, slice(0, 0), options)
    return LocalRows(**found)


def transformed_in_place(x: Tensor, options: ScoreOptions) -> Tensor:
    return (
        x
        if options.logit_scale == 1 and options.softcap is None
        else transformed(x, options.logit_scale, options.softcap)
    )


def _numbers(x: Tensor, place: slice, options: RowOptions) -> LocalRows:
    weight, stats = options.weight, options.scores.stats
    if x.shape[1] == 0:
        # A shard without classes is one of a single class that is impossible.
        x = x.new_full((len(x), 1), float("-inf"))
        weight = x.new_zeros(1)
    highest = x.amax(1) if len(x) else x.sum(1)
    rows = LocalRows(highest, highest)
    if options.labels is not None:
        labels = options.labels[place]
        here = labels >= 0
        index = labels.clamp(min=0)
        rows.own = x.gather(1, index.unsqueeze(1)).squeeze(1).masked_fill(~here, float("-inf"))
        if options.weight is not None and weight is not None:
            rows.own_weight = weight[index].masked_fill(~here, 0)
    # Where every score is −inf: −inf − (−inf) would be NaN.
    reference = highest.masked_fill(highest == float("-inf"), 0).unsqueeze(1)
    if options.label_smoothing == 0 and options.probabilities is None and not stats:
        rows.sum_of_exp = x.sub_(reference).exp_().sum(1)
        return rows
    below = reference - x
    if options.label_smoothing > 0:
        rows.below = _expected(weight, below)
    if options.probabilities is not None:
        given = options.probabilities[place]
        given = given.to(x.dtype) if given.shape[1] else torch.zeros_like(x)
        weighted = given if weight is None else given * weight
        rows.mass, rows.expected_below = weighted.sum(1), _expected(weighted, below)
        if stats:
            rows.plain_mass, rows.plain_below = given.sum(1), _expected(given, below)
            rows.best, index = given.max(1)
            rows.best_score = x.gather(1, index.unsqueeze(1)).squeeze(1)
    exponentials = torch.sub(x, reference, out=x).exp_()
    rows.sum_of_exp = exponentials.sum(1)
    if stats:
        rows.entropy = _expected(exponentials, below)
    return rows


def _expected(share: Tensor | None, below: Tensor) -> Tensor:
    """Σ_c share·(m − x_c), where 0·inf is 0."""
    if share is None:
        return below.sum(1)
    return (share * below).masked_fill((share == 0) & (below == float("inf")), 0).sum(1)


@dataclass(frozen=True)
class RowGradient:
    """What the gradient of each row needs of all shards, (N) each."""

    highest: Tensor
    sum_of_exp: Tensor
    # The gradient of the row's loss by the loss that was handed out.
    grad_output: Tensor
    # The gradient by the log-sum-exp: the mass of the target, and 2·z·lse.
    by_lse: Tensor
    # False where the gradient is 0 whatever the row holds.
    counts: Tensor
    # (1 − ε)·w of the row's class.
    own_weight: Tensor | None
    # ε / (number of classes), a 0-dim tensor.
    smooth: Tensor | None


def gradient_by_scores(x: Tensor, place: slice, options: RowOptions, rows: RowGradient) -> Tensor:
    """The gradient by the scores of a slice, before they were scaled and capped; it takes their place."""
    if x.shape[1] == 0:
        return x
    scores = options.scores
    x = transformed_in_place(x, scores)
    slope = None if scores.softcap is None else 1 - (x / scores.softcap).square()
    output = rows.grad_output[place].unsqueeze(1)
    share = (rows.by_lse[place] / rows.sum_of_exp[place]).unsqueeze(1) * output
    x = x.sub_(rows.highest[place].unsqueeze(1)).exp_().mul_(share)
    if rows.smooth is not None:
        uniform = output * rows.smooth
        x -= uniform if options.weight is None else uniform * options.weight
    if options.probabilities is not None:
        given = options.probabilities[place].to(x.dtype)
        given = given if options.weight is None else given * options.weight
        x -= given * (output * (1 - options.label_smoothing))
    if options.labels is not None and rows.own_weight is not None:
        labels = options.labels[place]
        taken = (rows.own_weight[place] * output.squeeze(1)).masked_fill(labels < 0, 0)
        x.scatter_add_(1, labels.clamp(min=0).unsqueeze(1), -taken.unsqueeze(1))
    if slope is not None:
        x *= slope
    if scores.logit_scale != 1:
        x *= scores.logit_scale
    return x.masked_fill_(~rows.counts[place].unsqueeze(1), 0)


def gradient_by_probabilities(x: Tensor, place: slice, options: RowOptions, rows: RowGradient) -> Tensor:
    """The gradient by the class probabilities of a slice: −(1 − ε)·w·log p."""
    x = transformed_in_place(x, options.scores)
    log_sum = rows.sum_of_exp[place].log().unsqueeze(1)
    loss = (rows.highest[place].unsqueeze(1) - x) + log_sum
    if options.label_smoothing == 0 and options.probabilities is not None:
        # A class that is excluded on both sides costs nothing.
        loss = loss.masked_fill((options.probabilities[place] == 0) & (x == float("-inf")), 0)
    if options.weight is not None:
        loss = (loss * options.weight).masked_fill(options.weight == 0, 0)
    loss *= rows.grad_output[place].unsqueeze(1) * (1 - options.label_smoothing)
    return loss.masked_fill_(~rows.counts[place].unsqueeze(1), 0)
