"""A linear layer whose rows lie on several ranks, and cross entropy of its scores, which never exist as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, distributed

from losskit.core import inputs
from losskit.core.precision import autocast
from losskit.core.reduction import Options
from losskit.distributed.cross_entropy import call_of
from losskit.distributed.exchange import all_gather
from losskit.distributed.groups import Group, size_of
from losskit.distributed.rows import gradient_by_scores, slices
from losskit.distributed.shards import local_of, shard_of
from losskit.distributed.vocabulary import (
    Node,
    VocabularyCall,
    check_no_transform,
    forward,
    result_of,
    row_gradient,
)
from losskit.errors import LosskitRuntimeError

__all__ = ["vocab_parallel_linear_cross_entropy"]

# How many bytes of a layer in half precision stand in float32 at a time.
_WIDENED_BYTES = 1 << 24


def vocab_parallel_linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    vocab_start: int | None = None,
    vocab_size: int | None = None,
    group: Group = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    return_stats: bool | str = False,
    workspace: int | str = "256MiB",
    sequence_parallel: bool = False,
) -> Any:
    """Cross entropy of the scores of a linear layer whose rows lie on several ranks.

    The scores exist for a few rows at a time and never leave their rank. Forward takes the one all-gather of
    `vocab_parallel_cross_entropy`, backward one all-reduce of the gradient by input; the scores are computed again for
    it, and for the rank.

    **Equivalent to**: `vocab_parallel_cross_entropy(linear(input, linear_weight, linear_bias), target)`

    **Args**: `input`: features, shape (K) or (…, K), floating point, the same on every rank. `linear_weight`: the rows
    of the layer for this rank's classes, shape (C, K), dtype of input, or a DTensor that is `Shard(0)`; how many may
    differ between ranks. `linear_bias`: theirs, shape (C). `target`: the same class indices on every rank, of the shape
    of input without K, or this rank's columns of class probabilities. `workspace`: how much memory the scores may take
    at a time, a number of bytes or a text such as "256MiB". `sequence_parallel`: input holds this rank's part of the
    first axis alone, as many as on the other ranks; the parts are gathered, and their gradient is reduced and scattered
    in place of the all-reduce. target is that of all parts. The other arguments are those of
    `vocab_parallel_cross_entropy`.

    **Returns**: what `vocab_parallel_cross_entropy` returns for the scores.

    **Gradient**: by input (the sum over the ranks), linear_weight and linear_bias (this rank's). A row that does not
    count adds exactly 0 to each, whatever it holds. Gradients by tensors in half precision are added up in float32.

    **Edge cases**: those of `vocab_parallel_cross_entropy` for the scores.

    **Raises**: what that raises, and RuntimeError for shapes and dtypes of the layer that do not go with input.

    **Example**: one process holds all classes.

    >>> import torch
    >>> x, layer = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.1, 0.0], [0.0, 0.1]])
    >>> vocab_parallel_linear_cross_entropy(x, layer, torch.tensor([1]), vocab_start=0)
    tensor(0.6444)
    """
    name = "vocab_parallel_linear_cross_entropy"
    inputs.check_tensors(name, input=input, linear_weight=linear_weight, target=target)
    inputs.check_bool(name, "sequence_parallel", sequence_parallel)
    layer, shard = shard_of(name, "linear_weight", linear_weight, 0, vocab_start, vocab_size, group)
    held = len(layer) if layer.ndim else 0
    input = local_of(name, "input", input, shard)
    sample_weight = None if sample_weight is None else local_of(name, "sample_weight", sample_weight, shard)
    mask = None if mask is None else local_of(name, "mask", mask, shard)
    target = local_of(name, "target", target, shard, target.ndim - 1 if target.is_floating_point() else None)
    weight = None if weight is None else local_of(name, "weight", weight, shard, 0)
    bias = None if linear_bias is None else local_of(name, "linear_bias", linear_bias, shard, 0)
    check_no_transform(name, input, layer, bias, target)
    input, layer, bias = autocast(input, layer, bias)
    _check_layer(name, input, layer, bias)
    features = input.shape[-1]
    outer = input.shape[:-1]
    x = input.reshape(-1, features)
    if sequence_parallel:
        if not outer:
            raise LosskitRuntimeError(f"{name}: sequence_parallel=True needs an input of shape (N, …, K), got (K).")
        outer = torch.Size([outer[0] * size_of(shard.group), *outer[1:]])
    rows = outer.numel()
    sample_weight = _per_row(name, "sample_weight", sample_weight, outer)
    options = Options(
        reduction, sample_weight, _per_row(name, "mask", mask, outer), normalizer, on_empty, out_dtype, "auto"
    )
    call = call_of(
        name,
        shard,
        x,
        torch.Size([rows, held]),
        _target_per_row(name, target, outer, held),
        weight,
        ignore_index,
        label_smoothing,
        options,
        inputs.score_options(name, z_loss, softcap, logit_scale, return_stats is not False),
        torch.Size([rows]),
        return_stats,
    )
    if call.rows.probabilities is not None and call.rows.probabilities.requires_grad and torch.is_grad_enabled():
        raise LosskitRuntimeError(
            f"{name}: target has no gradient here, but it requires one: target.detach(), or "
            "vocab_parallel_cross_entropy of the scores."
        )
    result = _loss(call, x, layer, bias, inputs.bytes_of(name, "workspace", workspace), sequence_parallel)
    if reduction != "none" and not return_stats:
        return result
    loss, stats = result if return_stats else (result, None)
    loss = loss.reshape(outer) if reduction == "none" else loss
    return loss if stats is None else (loss, type(stats)(*(value.reshape(outer) for value in stats)))


def _check_layer(function: str, input: Tensor, layer: Tensor, bias: Tensor | None) -> None:
    inputs.check_devices(function, input=input, linear_weight=layer, linear_bias=bias)
    inputs.check_floating(function, "input", input)
    if input.ndim == 0 or layer.ndim != 2 or input.shape[-1] != layer.shape[1]:
        raise LosskitRuntimeError(
            f"{function}: linear_weight must have the shape (C, K) and input (…, K), got {inputs.shape_of(layer)} and "
            f"{inputs.shape_of(input)}."
        )
    if bias is not None and bias.shape != layer.shape[:1]:
        raise LosskitRuntimeError(
            f"{function}: linear_bias must have the shape of linear_weight without its last dimension, "
            f"{tuple(layer.shape[:1])}, got {inputs.shape_of(bias)}."
        )
    for which, tensor in (("linear_weight", layer), ("linear_bias", bias)):
        if tensor is not None and tensor.dtype != input.dtype:
            raise LosskitRuntimeError(
                f"{function}: {which} must have the dtype of input, {inputs.dtype_of(input)}, got "
                f"{inputs.dtype_of(tensor)}: {which}.to({input.dtype})?"
            )


def _per_row(function: str, name: str, tensor: Tensor | None, outer: torch.Size) -> Tensor | None:
    if tensor is None:
        return None
    inputs.check_tensor(function, name, tensor)
    inputs.check_broadcast(function, name, tensor, outer)
    return tensor.expand(outer).reshape(-1)


def _target_per_row(function: str, target: Tensor, outer: torch.Size, held: int) -> Tensor:
    if target.shape == outer or (not outer and target.shape == (1,)):
        return target.reshape(-1)
    if target.is_floating_point() and target.shape == (*outer, held):
        return target.reshape(outer.numel(), held)
    raise LosskitRuntimeError(
        f"{function}: target must have the shape {tuple(outer)}, or {(*outer, held)} for class probabilities, got "
        f"{inputs.shape_of(target)}."
    )


@dataclass(frozen=True)
class _Layer:
    """This rank's rows of the layer, without padding."""

    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype

    def parts(self) -> Iterator[slice]:
        """The rows that stand in the dtype of the arithmetic at a time: all, where they are that already."""
        classes, features = self.weight.shape
        step = classes if self.weight.dtype == self.dtype else max(1, _WIDENED_BYTES // (4 * max(1, features)))
        return (slice(begin, min(begin + step, classes)) for begin in range(0, classes, max(1, step)))

    def scores(self, x: Tensor, out: Tensor) -> Tensor:
        for part in self.parts():
            torch.mm(x, self.weight[part].to(self.dtype).t(), out=out[:, part])
        return out if self.bias is None else out.add_(self.bias)

    def by_input(self, by_scores: Tensor, out: Tensor) -> None:
        out.zero_()
        for part in self.parts():
            out.addmm_(by_scores[:, part], self.weight[part].to(self.dtype))


class _Chunks:
    """The scores of as many rows at a time as the workspace holds, handed out in slices."""

    def __init__(self, call: VocabularyCall, x: Tensor, layer: _Layer, workspace: int) -> None:
        self._counts, self._x, self._layer = call.counts, x, layer
        classes = len(layer.weight)
        rows = max(1, workspace // max(1, layer.dtype.itemsize * classes))
        count = len(x)
        self.places = [slice(begin, min(begin + rows, count)) for begin in range(0, count, rows)]
        self._room = x.new_empty((min(rows, count), classes), dtype=layer.dtype)
        self._begin = 0

    def rows(self, place: slice) -> Tensor:
        """The features of a slice; a row that does not count is taken out: a NaN in it times 0 would be NaN."""
        return self._x[place].to(self._layer.dtype).masked_fill(~self._counts[place].unsqueeze(1), 0)

    def scores(self, place: slice) -> Tensor:
        return self._layer.scores(self.rows(place), self._room[: place.stop - place.start])

    def slice_of_scores(self, place: slice) -> Tensor:
        """Slices of a chunk, from the first to the last, may be written to; then those of another."""
        for chunk in self.places:
            if chunk.start == place.start:
                self._begin = chunk.start
                self.scores(chunk)
        return self._room[place.start - self._begin : place.stop - self._begin]

    def within(self, chunk: slice) -> list[slice]:
        """A chunk in slices that fit a cache."""
        inner = slices(chunk.stop - chunk.start, len(self._layer.weight), self._room.device)
        return [slice(chunk.start + part.start, chunk.start + part.stop) for part in inner]


def _loss(
    call: VocabularyCall, x: Tensor, weight: Tensor, bias: Tensor | None, workspace: int, sequence_parallel: bool
) -> Any:
    shard, dtype = call.shard, call.rows.dtype
    group = shard.group if size_of(shard.group) > 1 else None

    def layer_of(weight: Tensor, bias: Tensor | None) -> _Layer:
        bias = None if bias is None else bias.detach()[: shard.columns].to(dtype)
        return _Layer(weight.detach()[: shard.columns], bias, dtype)

    def all_rows(x: Tensor) -> Tensor:
        return all_gather(x.detach(), group) if sequence_parallel and group is not None else x.detach()

    chunks = _Chunks(call, all_rows(x), layer_of(weight, bias), workspace)
    found = forward(call, chunks.slice_of_scores, [part for chunk in chunks.places for part in chunks.within(chunk)])
    del chunks
    needs = [tensor is not None and tensor.requires_grad for tensor in (x, weight, bias)]
    if not torch.is_grad_enabled() or not any(needs):
        return result_of(call, found, found.values)
    # What the node saves must not be held past the backward pass.
    kept = replace(call, rows=replace(call.rows, probabilities=None))

    def gradients(saved: tuple[Any, ...], grad_output: Tensor, needs: tuple[bool, ...]) -> list[Tensor | None]:
        x, weight, bias, given, *numbers = saved
        rows, options = row_gradient(kept, tuple(numbers), grad_output), replace(kept.rows, probabilities=given)
        layer, whole = layer_of(weight, bias), all_rows(x)
        chunks = _Chunks(kept, whole, layer, workspace)
        by_x = whole.new_empty(whole.shape, dtype=dtype) if needs[0] else None
        by_weight = weight.new_zeros(weight.shape, dtype=dtype) if needs[1] else None
        by_bias = weight.new_zeros(len(weight), dtype=dtype) if needs[2] else None
        for chunk in chunks.places:
            scores = chunks.scores(chunk)
            for place in chunks.within(chunk):
                part = scores[place.start - chunk.start : place.stop - chunk.start]
                result = gradient_by_scores(part, place, options, rows)
                if result is not part:
                    part.copy_(result)
            if by_x is not None:
                layer.by_input(scores, by_x[chunk])
            if by_weight is not None:
                by_weight[: shard.columns].addmm_(scores.t(), chunks.rows(chunk))
            if by_bias is not None:
                by_bias[: shard.columns] += scores.sum(0)
        if by_x is not None and group is not None:
            by_x = _reduced(by_x, group, sequence_parallel)
        by_each = (by_x, by_weight, by_bias)
        return [None if grad is None else grad.to(x.dtype) for grad in by_each] + [None]

    tensors = (x, weight, bias, call.rows.probabilities)
    values = Node.apply((call.function, found, gradients), *tensors)  # type: ignore[no-untyped-call]  # apply has no annotations
    return result_of(call, found, values)


def _reduced(by_x: Tensor, group: Any, scattered: bool) -> Tensor:
    """The sum over the ranks, or this rank's part of it."""
    if not scattered:
        distributed.all_reduce(by_x, group=group)
        return by_x
    part = by_x.new_empty((len(by_x) // size_of(group), by_x.shape[1]))
    # Renamed in PyTorch 2.13.
    scatter = getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor
    scatter(part, by_x, group=group)
    return part
