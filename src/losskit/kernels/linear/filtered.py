"""The matrix products of a gradient by scores of which few entries are left."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

# How large a share of the entries may be left for single entries to cost less than the products.
_DENSEST = 1 / 25
# How many entries are looked at, and how many numbers are added up, at a time: they stay in the cache.
_ENTRIES = 1 << 21
_NUMBERS = 1 << 21


@dataclass(frozen=True)
class Entries:
    """The entries of a matrix that are left, row by row."""

    # One for each entry.
    rows: Tensor
    columns: Tensor
    values: Tensor
    # Where each row begins.
    offsets: Tensor


def entries(by_scores: Tensor, limit: Tensor, labels: Tensor | None) -> Entries | None:
    """The entries above the limit of their row, and those of the labels; None where they are too many to pay."""
    count, classes = by_scores.shape
    step = max(1, _ENTRIES // classes)
    found = []
    left = 0
    for begin in range(0, count, step):
        part = by_scores[begin : begin + step]
        # Written so that a NaN is left.
        above = (part.abs() <= limit[begin : begin + step, None]).logical_not_()
        if labels is not None:
            above.scatter_(1, labels[begin : begin + step].long().unsqueeze(1), True)
        place = above.nonzero()
        left += len(place)
        if left > _DENSEST * classes * min(begin + step, count):
            return None
        place[:, 0] += begin
        found.append(place)
    places = torch.cat(found)
    rows, columns = places.unbind(1)
    offsets = torch.searchsorted(rows.contiguous(), torch.arange(count, device=rows.device))
    return Entries(rows.contiguous(), columns.contiguous(), by_scores[rows, columns], offsets)


def by_input(entries: Entries, linear_weight: Tensor, out: Tensor) -> None:
    """out ← G·W."""
    out.copy_(
        embedding_bag(
            entries.columns,
            linear_weight.contiguous(),
            entries.offsets,
            mode="sum",
            per_sample_weights=entries.values,
        )
    )


def by_layer(entries: Entries, x: Tensor, out: Tensor) -> None:
    """out ← out + Gᵀ·x."""
    columns, order = torch.sort(entries.columns, stable=True)
    rows, values = entries.rows[order], entries.values[order]
    classes, counts = torch.unique_consecutive(columns, return_counts=True)
    ends = counts.cumsum(0)
    step = max(1, _NUMBERS // x.shape[1])
    x = x.contiguous()
    for begin in range(0, len(classes), step):
        last = min(begin + step, len(classes))
        first_entry = int(ends[begin] - counts[begin])
        these = slice(first_entry, int(ends[last - 1]))
        part = embedding_bag(
            rows[these],
            x,
            (ends - counts)[begin:last] - first_entry,
            mode="sum",
            per_sample_weights=values[these],
        )
        out.index_add_(0, classes[begin:last], part)
