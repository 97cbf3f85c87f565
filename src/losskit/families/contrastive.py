"""Losses of pairs of vectors against the other pairs: from checked arguments to the result.

A. The rows are the pairs whose losses are wanted, the columns what they are compared with: the same batch, or those of
   all ranks. What does not count is left out of both, as if it had not been there.
B. A row of similarities and its loss are a linear layer without bias and its cross entropy, the columns being the
   layer: the chunks of `linear_softmax` compute them where they can.
C. Elsewhere the definition runs, in blocks of rows where the values can be read and as a whole where they cannot.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from losskit.core import inputs
from losskit.core.dispatch import named_backend_error, note, obstacle
from losskit.core.precision import autocast_enabled, narrow, widen
from losskit.core.reduction import Options, Reduction, where
from losskit.families import linear_softmax, softmax
from losskit.families.blocks import Blocks
from losskit.losses import contrastive as definitions

# What a block of similarities takes at most, in matrices of its size. Torch's profiler counts 5.3 for clip_loss and
# siglip_loss, forward and backward, and 4.2 for negatives.
_MATRICES = 5


@dataclass(frozen=True)
class PairsCall:
    """One call whose arguments have been checked."""

    function: str
    normalize: bool
    # With the out_dtype below.
    options: Options
    out_dtype: torch.dtype
    # How many bytes of similarities may exist at a time.
    workspace: int


@dataclass(frozen=True)
class Columns:
    """What the rows are compared with, where it is more than the rows themselves."""

    # In the order of the rows' tensors, (M, D) each.
    tensors: tuple[Tensor, ...]
    # The column of each row, (N), and which columns count, (M).
    target: Tensor
    counts: Tensor
    # What the mean over all of them divides by, for this part of it.
    divisor: Tensor


@dataclass(frozen=True)
class _Ready:
    """Tensors in the dtype of the computation, without what does not count."""

    rows: tuple[Tensor, ...]
    columns: tuple[Tensor, ...]
    target: Tensor
    # Where nothing could be left out: which columns and which rows count.
    counts: Tensor | None
    counted_rows: Tensor | None
    # Where something was: the places of the rows that are left.
    kept: Tensor | None


def clip_loss(call: PairsCall, image: Tensor, text: Tensor, scale: Tensor, columns: Columns | None = None) -> Tensor:
    reduction = inputs.reduction_for(call.function, call.options, image.shape[:1], image)
    with _in_full_precision(image):
        ready, scale = _ready(call, reduction, (image, text), columns, scale), _like(scale, image)
        rows, (images, texts) = ready.rows, ready.columns
        if _chunked(call, ready, rows[0], texts):
            halves = [
                _in_chunks(call, reduction, ready, scale, *sides) for sides in ((rows[0], texts), (rows[1], images))
            ]
            return _finished(call, reduction, ready, columns, 0.5 * (halves[0] + halves[1]))
        tensors = (*rows, images, texts, ready.target, scale)
        return _by_definition(
            call,
            reduction,
            ready,
            columns,
            partial(definitions.clip_loss, counts=ready.counts, counted_rows=ready.counted_rows),
            tensors,
            (True, True, False, False, True, False),
            len(texts),
        )


def info_nce(call: PairsCall, query: Tensor, key: Tensor, scale: Tensor, columns: Columns | None = None) -> Tensor:
    reduction = inputs.reduction_for(call.function, call.options, query.shape[:1], query)
    with _in_full_precision(query):
        rows = (query, key) if columns is None else (query,)
        ready, scale = _ready(call, reduction, rows, columns, scale), _like(scale, query)
        keys = ready.columns[-1]
        if _chunked(call, ready, ready.rows[0], keys):
            values = _in_chunks(call, reduction, ready, scale, ready.rows[0], keys)
            return _finished(call, reduction, ready, columns, values)
        return _by_definition(
            call,
            reduction,
            ready,
            columns,
            partial(definitions.info_nce, counts=ready.counts, counted_rows=ready.counted_rows),
            (ready.rows[0], keys, ready.target, scale),
            (True, False, True, False),
            len(keys),
        )


def info_nce_of_negatives(
    call: PairsCall, query: Tensor, key: Tensor, negatives: Tensor, scale: Tensor, columns: Columns | None = None
) -> Tensor:
    reduction = inputs.reduction_for(call.function, call.options, query.shape[:1], query)
    with _in_full_precision(query):
        of_each = negatives.ndim == 3
        rows = (query, key, negatives) if of_each else (query, key)
        ready, scale = _ready(call, reduction, rows, columns, scale), _like(scale, query)
        others = ready.rows[2] if of_each else _unit(call, widen(negatives))
        return _by_definition(
            call,
            reduction,
            ready,
            columns,
            definitions.info_nce_of_negatives,
            (*ready.rows[:2], others, scale),
            (True, True, of_each, False),
            others.shape[-2] + 1,
        )


def siglip_loss(
    call: PairsCall, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, columns: Columns | None = None
) -> Tensor:
    reduction = inputs.reduction_for(call.function, call.options, image.shape[:1], image)
    with _in_full_precision(image):
        ready = _ready(call, reduction, (image, text) if columns is None else (image,), columns, scale)
        texts = ready.columns[-1]
        return _by_definition(
            call,
            reduction,
            ready,
            columns,
            partial(definitions.siglip_loss, counts=ready.counts),
            (ready.rows[0], texts, ready.target, _like(scale, image), _like(bias, image)),
            (True, False, True, False, False),
            len(texts),
        )


def _in_full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Without autocast, which would take the products of float32 in half precision."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if autocast_enabled(kind) else nullcontext()


def _like(number: Tensor, features: Tensor) -> Tensor:
    return number.to(device=features.device, dtype=widen(features).dtype)


def _unit(call: PairsCall, features: Tensor) -> Tensor:
    return definitions.normalized(features) if call.normalize else features


def _ready(
    call: PairsCall, reduction: Reduction, tensors: tuple[Tensor, ...], columns: Columns | None, scale: Tensor
) -> _Ready:
    """The tensors of the rows as they are computed with, and those of the columns."""
    rows = tuple(widen(tensor) for tensor in tensors)
    others = rows if columns is None else tuple(widen(tensor) for tensor in columns.tensors)
    counted_rows = reduction.mask
    counts = counted_rows if columns is None else columns.counts
    target = definitions.positions(rows[0], len(rows[0])) if columns is None else columns.target
    kept = None
    if counts is not None and obstacle(*rows, *others, counts, counted_rows, scale) is None:
        if counted_rows is not None and not bool(counted_rows.all()):
            kept = counted_rows.nonzero().squeeze(1)
            rows, target = tuple(tensor[kept] for tensor in rows), target[kept]
        if not bool(counts.all()):
            # Each column moves up by the number of those before it that are left out.
            target = (counts.cumsum(0) - 1)[target]
            others = tuple(tensor[counts] for tensor in others)
        counts = counted_rows = None
    elif counts is not None:
        # Not the similarities but what they are computed from: a NaN times zero would come back through the gradient.
        if counted_rows is None:
            counted_rows = torch.ones_like(target, dtype=torch.bool)
        rows = tuple(_zeroed(tensor, counted_rows) for tensor in rows)
        others = tuple(_zeroed(tensor, counts) for tensor in others)
    unit = tuple(_unit(call, tensor) for tensor in rows)
    if columns is None:
        return _Ready(unit, unit, target, counts, counted_rows, kept)
    return _Ready(unit, tuple(_unit(call, tensor) for tensor in others), target, counts, counted_rows, kept)


def _zeroed(tensor: Tensor, counts: Tensor) -> Tensor:
    return where(counts.reshape([-1, *[1] * (tensor.ndim - 1)]), tensor)


def _chunked(call: PairsCall, ready: _Ready, rows: Tensor, columns: Tensor) -> bool:
    """Whether the chunks of linear cross entropy take this call. Raises where they must and cannot."""
    backend = call.options.backend
    if backend == "triton":
        raise named_backend_error(call.function, backend, "there is no Triton kernel for this loss")
    if backend == "reference":
        return False
    if torch.compiler.is_compiling():
        reason: str | None = "torch.compile is tracing"
    elif ready.counts is not None:
        reason = "what does not count cannot be left out"
    else:
        reason = linear_softmax.chunk_obstacle(_as_linear(call, None), rows, columns, None, ready.target)
    weight = call.options.sample_weight
    if reason is None and weight is not None and weight.dtype == torch.float64:
        reason = "a weight is float64"
    if reason is not None and backend == "cpu":
        raise named_backend_error(call.function, backend, reason)
    return reason is None


def _as_linear(call: PairsCall, sample_weight: Tensor | None, reduction: str = "none") -> linear_softmax.LinearCall:
    options = Options(reduction, sample_weight, None, None, "nan", torch.float32, "auto")
    return linear_softmax.LinearCall(
        function=call.function,
        weight=None,
        ignore_index=-100,
        label_smoothing=0.0,
        options=options,
        out_dtype=torch.float32,
        workspace=call.workspace,
    )


def _in_chunks(
    call: PairsCall, reduction: Reduction, ready: _Ready, scale: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """The losses of the rows, or their sum where they are summed."""
    weight = _row_weight(reduction, ready)
    linear = _as_linear(call, weight, "sum") if _sums(reduction, ready) else _as_linear(call, None)
    return softmax.loss_of(linear_softmax.in_chunks(linear, scale * rows, columns, None, ready.target))


def _sums(reduction: Reduction, ready: _Ready) -> bool:
    """Whether the losses are added up as they come, so that their gradients are known at once."""
    weight = reduction.sample_weight
    # Of nothing they would be 0, and NaN by the division.
    return (
        reduction.name != "none"
        and len(ready.target) > 0
        and (weight is None or not (torch.is_grad_enabled() and weight.requires_grad))
    )


def _row_weight(reduction: Reduction, ready: _Ready) -> Tensor | None:
    weight = reduction.sample_weight
    return weight if weight is None or ready.kept is None else weight[ready.kept]


def _by_definition(
    call: PairsCall,
    reduction: Reduction,
    ready: _Ready,
    columns: Columns | None,
    definition: Callable[..., Tensor],
    tensors: tuple[Tensor, ...],
    of_rows: tuple[bool, ...],
    width: int,
) -> Tensor:
    backend = call.options.backend
    if backend not in ("auto", "reference"):
        raise named_backend_error(call.function, backend, "there is no kernel for this loss")
    reason = obstacle(*tensors, reduction.mask, reduction.sample_weight)
    asked = "backend='reference' was asked for" if backend == "reference" else "there is no kernel for this call"
    if reason is not None or ready.counts is not None:
        note("reference", f"{asked}; not in blocks, since {reason}")
        return _finished(call, reduction, ready, columns, definition(*tensors), masked=True)
    count = len(ready.target)
    most = max(1, call.workspace // (_MATRICES * tensors[0].element_size() * max(1, width)))
    # As many in each block: a last one of a few rows would cost as much time as many more.
    number = max(1, -(-count // most))
    blocks = Blocks(definition, of_rows, max(1, -(-count // number)))
    note("reference", f"{asked}; {number} block{'s' if number > 1 else ''} of {blocks.size} rows")
    if _sums(reduction, ready):
        values = blocks.total(_row_weight(reduction, ready), *tensors)
    else:
        values = blocks.each(*tensors)
    return _finished(call, reduction, ready, columns, values)


def _finished(
    call: PairsCall,
    reduction: Reduction,
    ready: _Ready,
    columns: Columns | None,
    values: Tensor,
    masked: bool = False,
) -> Tensor:
    """The result from the losses of the rows that are left, or from their weighted sum.

    `masked` tells that all rows are there and the mask is still to be applied.
    """
    if columns is not None and reduction.name == "mean" and reduction.normalizer is None:
        reduction = _over_all(reduction, columns.divisor)
    if not masked and _sums(reduction, ready):
        divisor = reduction.divisor(None)
        if not isinstance(divisor, Tensor):
            # 0 / 0 is NaN, where Python would raise.
            divisor = values.new_full((), divisor)
        return narrow(values / divisor.to(values.dtype), call.out_dtype)
    if ready.kept is not None:
        values = values.new_zeros(reduction.shape).index_put((ready.kept,), values)
    return narrow(reduction.apply(values, None), call.out_dtype)


def _over_all(reduction: Reduction, divisor: Tensor) -> Reduction:
    """With the divisor of all columns, and what is to be done where nothing counts in any of them."""
    if reduction.on_empty == "raise" and not bool(divisor):
        raise reduction.empty_error()
    if reduction.on_empty == "zero":
        divisor = torch.where(divisor == 0, torch.ones_like(divisor), divisor)
    return replace(reduction, normalizer=divisor, on_empty="nan")
