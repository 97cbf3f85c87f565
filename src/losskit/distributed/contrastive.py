"""The losses of pairs of vectors over the batches of all ranks.

A. One all-gather brings the vectors of all ranks to each, with the weight of each pair behind them. A rank computes the
   losses of its own pairs against all: of the W·N × W·N similarities N × W·N.
B. What a rank's losses say to the vectors of the others goes back to them: the backward pass adds it up by one
   reduce-scatter. Without it the gradient would not be that of the loss over all pairs.
C. The gradients of whatever all ranks hold alike, as the scale, are added up or averaged by whoever does so for the
   model, as DDP.
"""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd import Function

from losskit.core import inputs
from losskit.core.precision import widen
from losskit.core.reduction import Options
from losskit.distributed.exchange import all_gather
from losskit.distributed.groups import Group, process_group, size_of, transport_device
from losskit.distributed.shards import is_dtensor
from losskit.errors import LosskitRuntimeError, LosskitTypeError, LosskitValueError
from losskit.families import contrastive as family
from losskit.functional._contrastive import checked_negatives, checked_number, checked_pairs, checked_temperature
from losskit.losses.contrastive import positions

__all__ = ["clip_loss", "info_nce", "siglip_loss"]


def info_nce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    group: Group = None,
    max_batch: int | None = None,
    normalize: bool = True,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    workspace: int | str = "256MiB",
    backend: str = "auto",
) -> Tensor:
    """`losskit.functional.info_nce` against the keys of all ranks.

    **Args**: those of `losskit.functional.info_nce`, of the queries of this rank; with negatives, which stay where they
    are, the ranks share nothing but what the mean divides by. `group` and `max_batch`: as for `clip_loss` here.

    **Returns**: as `clip_loss` here.

    **Raises**: as `clip_loss` here.

    **Example**:

    >>> query, key = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> info_nce(query, key, temperature=0.5)
    tensor(0.3301)
    """
    name = "info_nce"
    options = Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend)
    call = checked_pairs(name, {"query": query, "key": key}, normalize, options, workspace)
    scale = checked_temperature(name, query, temperature)
    if negatives is not None:
        checked_negatives(name, query, negatives)
        columns = _of_all_ranks(call, group, max_batch, query)
        return family.info_nce_of_negatives(call, query, key, negatives, scale, columns)
    return family.info_nce(call, query, key, scale, _of_all_ranks(call, group, max_batch, query, key))


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    *,
    group: Group = None,
    max_batch: int | None = None,
    normalize: bool = True,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    workspace: int | str = "256MiB",
    backend: str = "auto",
) -> Tensor:
    """`losskit.functional.clip_loss` over the pairs of all ranks, each of which computes those of its own pairs.

    **Args**: those of `losskit.functional.clip_loss`, of the pairs of this rank; a `mask` leaves a pair out on all
    ranks. `group`: a ProcessGroup or a DeviceMesh of one dimension, the ranks whose pairs differ; None is every rank,
    and one process where no process group was initialised. `max_batch`: the most pairs that any rank has, the same
    number on each, such as the batch size of the loader. None asks the ranks first, by a collective of three numbers
    for which a GPU must wait. Batches may differ in size, and may be empty.

    **Returns**: with `"mean"`, the losses of this rank over W-th of the number of pairs of all W ranks: its average
    over the ranks, which is what DDP and FSDP2 make of gradients, is the loss of all pairs in one process. Where ranks
    have as many pairs each, that is the mean over its own. With `"sum"` and with `normalizer`, the sum over the ranks
    is that loss. With `"none"`, the losses of the own pairs.

    **Gradient**: as of the loss of all pairs in one process: that by the features of this rank holds what the losses of
    the other ranks say to them. By logit_scale it is that of the losses of this rank, which DDP averages. All ranks
    must run the backward pass, by one reduce-scatter; derivatives of the gradient, too, are those of all pairs.

    **Raises**: what `losskit.functional.clip_loss` raises, on the rank with the wrong argument; on all ranks together
    RuntimeError for vectors or dtypes that differ between them (where `max_batch` is None) and EmptyLossError for
    `on_empty="raise"`; ValueError for more pairs than `max_batch`.

    **Example**:

    >>> image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> clip_loss(image, text, 2.0)
    tensor(0.3701)
    """
    name = "clip_loss"
    options = Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend)
    features = {"image_features": image_features, "text_features": text_features}
    call = checked_pairs(name, features, normalize, options, workspace)
    scale = checked_number(name, image_features, "logit_scale", logit_scale)
    columns = _of_all_ranks(call, group, max_batch, image_features, image_features, text_features)
    return family.clip_loss(call, image_features, text_features, scale, columns)


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
    group: Group = None,
    max_batch: int | None = None,
    normalize: bool = True,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    workspace: int | str = "256MiB",
    backend: str = "auto",
) -> Tensor:
    """`losskit.functional.siglip_loss` over the pairs of all ranks: the images of this rank against the texts of all.

    **Args**: those of `losskit.functional.siglip_loss`, of the pairs of this rank. `group` and `max_batch`: as for
    `clip_loss` here.

    **Returns**: as `clip_loss` here.

    **Raises**: as `clip_loss` here.

    **Example**:

    >>> image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> siglip_loss(image, text, 2.0, -1.0)
    tensor(1.0277)
    """
    name = "siglip_loss"
    options = Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend)
    features = {"image_features": image_features, "text_features": text_features}
    call = checked_pairs(name, features, normalize, options, workspace)
    scale = checked_number(name, image_features, "logit_scale", logit_scale)
    bias = checked_number(name, image_features, "logit_bias", 0.0 if logit_bias is None else logit_bias)
    columns = _of_all_ranks(call, group, max_batch, image_features, text_features)
    return family.siglip_loss(call, image_features, text_features, scale, bias, columns)


def _of_all_ranks(
    call: family.PairsCall, group: Group, max_batch: int | None, rows: Tensor, *features: Tensor
) -> family.Columns | None:
    """What the rows of this rank are compared with; None where there is one process."""
    name, options = call.function, call.options
    ranks = process_group(name, group)
    inputs.check_mask(name, options.mask, rows.shape[:1])
    inputs.check_sample_weight(name, options.sample_weight, rows.shape[:1])
    inputs.check_normalizer(name, options.normalizer, options.reduction)
    weight = options.sample_weight
    if weight is not None and weight.requires_grad and torch.is_grad_enabled() and ranks is not None:
        raise LosskitRuntimeError(
            f"{name}: sample_weight has no gradient across ranks, but it requires one: sample_weight.detach()?"
        )
    if ranks is not None:
        for tensor in (rows, *features):
            if is_dtensor(tensor):
                raise LosskitTypeError(
                    f"{name}: the vectors of a rank must be plain tensors, got a DTensor: .to_local()?"
                )
    if max_batch is not None:
        inputs.check_int(name, "max_batch", max_batch)
        if len(rows) > max_batch:
            raise LosskitValueError(f"{name}: max_batch must be at least the {len(rows)} pairs here, got {max_batch}.")
    if ranks is None:
        return None
    capacity = _largest_batch(name, rows, ranks) if max_batch is None else max_batch
    *gathered, tails = _Gather.apply(  # type: ignore[no-untyped-call]  # Function.apply has no annotations
        ranks, capacity, _tail(options, rows), *features
    )
    weights, counts = _read_as(torch.float64, tails[:, :8]).squeeze(1), tails[:, 8].bool()
    return family.Columns(
        tuple(gathered),
        positions(rows, len(rows)) + distributed.get_rank(ranks) * capacity,
        counts,
        weights.sum() / size_of(ranks),
    )


def _tail(options: Options, rows: Tensor) -> Tensor:
    """What each pair adds to the divisor of the mean, in float64, and whether it counts, as bytes (N, 9)."""
    count = rows.shape[:1]
    counts = torch.ones(count, dtype=torch.bool, device=rows.device)
    weight = torch.ones(count, dtype=torch.float64, device=rows.device)
    if options.mask is not None:
        counts = options.mask.expand(count)
    if options.sample_weight is not None:
        weight = options.sample_weight.detach().expand(count).double()
    weight = weight.masked_fill(~counts, 0)
    return torch.cat([weight.unsqueeze(1).view(torch.uint8), counts.unsqueeze(1).to(torch.uint8)], 1)


def _read_as(dtype: torch.dtype, part: Tensor) -> Tensor:
    """The numbers that these bytes are."""
    # Not contiguous(), which leaves a part without rows the strides of the whole.
    return part.clone(memory_format=torch.contiguous_format).view(dtype)


def _largest_batch(function: str, rows: Tensor, ranks: Any) -> int:
    """The most pairs that a rank has. All ranks see the same and raise together."""
    own = [len(rows), rows.shape[1], inputs.FLOAT_DTYPES.index(rows.dtype)]
    every = _everywhere(torch.tensor([own], device=rows.device), ranks).tolist()
    kinds = {(length, dtype) for _, length, dtype in every}
    if len(kinds) > 1:
        names = [str(dtype).removeprefix("torch.") for dtype in inputs.FLOAT_DTYPES]
        listed = ", ".join(f"rank {rank}: {length} of {names[dtype]}" for rank, (_, length, dtype) in enumerate(every))
        raise LosskitRuntimeError(
            f"{function}: the vectors of all ranks must have the same length and dtype, got {listed}."
        )
    largest: int = max(count for count, _, _ in every)
    return largest


class _Gather(Function):
    """The rows of all ranks, one rank after another, each with room for `capacity`; and the bytes behind them."""

    @staticmethod
    def forward(ctx: Any, ranks: Any, capacity: int, tail: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks, ctx.count, ctx.dtypes = ranks, len(tail), [tensor.dtype for tensor in features]
        ctx.lengths = [tensor.shape[1] for tensor in features]
        packed = torch.cat([*(tensor.contiguous().view(torch.uint8) for tensor in features), tail], 1)
        padded = packed.new_zeros(capacity, packed.shape[1])
        padded[: len(packed)] = packed
        ctx.capacity = capacity
        # As bytes: vectors and weights differ in dtype, and none is rounded on its way.
        every = _everywhere(padded, ranks)
        widths = [tensor.shape[1] * tensor.element_size() for tensor in features]
        *parts, tails = every.split([*widths, tail.shape[1]], 1)
        ctx.mark_non_differentiable(tails)
        found = (_read_as(dtype, part) for part, dtype in zip(parts, ctx.dtypes, strict=True))
        # The gradients then come back, and are added up, in the precision of the computation.
        return *(widen(part) for part in found), tails

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        packed = torch.cat(grads[:-1], 1)
        own = _AddUp.apply(ctx.ranks, packed)[: ctx.count]  # type: ignore[no-untyped-call]  # apply has no annotations
        parts = own.split(ctx.lengths, 1)
        return None, None, None, *(part.to(dtype) for part, dtype in zip(parts, ctx.dtypes, strict=True))


class _AddUp(Function):
    """The sum over all ranks of what each has for the rows of this one. Its own gradient goes the other way."""

    @staticmethod
    def forward(ctx: Any, ranks: Any, rows: Tensor) -> Tensor:
        ctx.ranks = ranks
        sent = rows.contiguous().to(transport_device(ranks, rows.device))
        own = sent.new_empty((len(rows) // size_of(ranks), rows.shape[1]))
        # Renamed in PyTorch 2.13.
        scatter = getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor
        scatter(own, sent, group=ranks)
        return own.to(rows.device)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return None, _Everywhere.apply(ctx.ranks, grad_output)  # type: ignore[no-untyped-call]  # apply has no annotations


class _Everywhere(Function):
    """The rows of all ranks, for derivatives of the gradient."""

    @staticmethod
    def forward(ctx: Any, ranks: Any, rows: Tensor) -> Tensor:
        ctx.ranks = ranks
        return _everywhere(rows, ranks)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return None, _AddUp.apply(ctx.ranks, grad_output)  # type: ignore[no-untyped-call]  # apply has no annotations


def _everywhere(rows: Tensor, ranks: Any) -> Tensor:
    return all_gather(rows.to(transport_device(ranks, rows.device)), ranks).to(rows.device)
