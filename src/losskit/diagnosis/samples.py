"""Small parts of large tensors: what a check reads instead of all of them."""

import math

import torch
from torch import Tensor

from losskit.core.precision import HALF_DTYPES, widen

__all__ = [
    "ROWS",
    "column_blocks",
    "columns_are_normalised",
    "log_sum_tolerance",
    "look_like_probabilities",
    "rows",
    "sum_tolerance",
]

# Rows that the checks of values read, and how few of them are too few to tell.
ROWS, LEAST_ROWS = 8, 4
# As long as a batch, columns do not add up to 1 by chance.
LEAST_COLUMNS = 2
# A block of the input that is read whole holds at most this many numbers.
MOST = 2**20


def rows(values: Tensor, dim: int, count: int = ROWS) -> Tensor:
    """The first rows along `dim`, in the order of the other axes: (`count`, length of dim), float32 or wider."""
    if values.ndim == 1:
        found = values.unsqueeze(0)
    else:
        moved = values.movedim(dim, -1)
        if moved.ndim > 2:
            lead = moved.shape[:-1]
            place = torch.arange(min(count, math.prod(lead)), device=values.device)
            found = moved[torch.unravel_index(place, lead)]
        else:
            found = moved[:count]
    return widen(found)


def sum_tolerance(values: Tensor) -> float:
    """How far from 1 the sum of a distribution may be."""
    return 2e-2 if values.dtype in HALF_DTYPES else 1e-3


def log_sum_tolerance(values: Tensor) -> float:
    """How far from 0 the log-sum-exp of log-probabilities may be."""
    return 5e-2 if values.dtype in HALF_DTYPES else 1e-3


def look_like_probabilities(found: Tensor, tolerance: float) -> bool:
    """Whether every row holds no negative number and adds up to 1."""
    if found.numel() == 0 or float(found.min()) < -1e-6:
        return False
    return bool(((found.sum(1) - 1).abs() <= tolerance).all())


def column_blocks(values: Tensor, class_dim: int) -> list[tuple[int, Tensor]]:
    """For every axis but that of the classes: its number, and its first columns, (at most 8, length of the axis)."""
    return [
        (axis, rows(values, axis))
        for axis in range(values.ndim)
        if axis != class_dim % values.ndim and 1 < values.shape[axis] <= MOST // ROWS
    ]


def columns_are_normalised(values: Tensor, class_dim: int, kinds: str = "both") -> int | None:
    """The axis, not that of the classes, along which `values` are probabilities or log-probabilities; or None.

    `kinds` is "probabilities" or "logarithms" where only those are looked for.
    """
    for axis, block in column_blocks(values, class_dim):
        if len(block) < LEAST_COLUMNS or not bool(block.isfinite().all()):
            continue
        if kinds != "logarithms" and look_like_probabilities(block, sum_tolerance(values)):
            return axis
        if (
            kinds != "probabilities"
            and float(block.max()) <= 1e-6
            and bool((block.logsumexp(1).abs() <= log_sum_tolerance(values)).all())
        ):
            return axis
    return None
