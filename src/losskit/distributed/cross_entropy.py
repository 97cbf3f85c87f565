"""Cross entropy of logits whose classes lie on several ranks."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from losskit.core import inputs
from losskit.core.dispatch import obstacle
from losskit.core.precision import autocast, widen
from losskit.core.reduction import Options
from losskit.core.scores import ScoreOptions
from losskit.distributed.groups import Group
from losskit.distributed.kernel_rows import by_kernel, gradient_by_kernel
from losskit.distributed.rows import RowOptions, gradient_by_probabilities, gradient_by_scores, slices
from losskit.distributed.shards import Shard, local_of, shard_of
from losskit.distributed.stats import check_return_stats
from losskit.distributed.vocabulary import (
    Node,
    VocabularyCall,
    check_no_transform,
    forward,
    result_of,
    row_gradient,
)
from losskit.errors import LosskitRuntimeError

__all__ = ["call_of", "vocab_parallel_cross_entropy"]


def vocab_parallel_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    vocab_start: int | None = None,
    vocab_size: int | None = None,
    group: Group = None,
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
) -> Any:
    """Cross entropy of logits whose classes lie on several ranks: log Σ_c exp(x_c) − x_t over the classes of all.

    One all-gather of a few numbers per row, and no collective in the backward pass. Every rank gets the same loss, to
    the bit, and the gradient by its own logits.

    **Equivalent to**: `losskit.functional.cross_entropy(torch.cat(logits_of_all_ranks, 1), target)`

    **Args**: `input`: the logits of this rank's classes, shape (C), (N, C) or (N, C, d1, …), floating point; the number
    of classes may differ between ranks and be 0. Or a DTensor that is `Shard(1)`, of which the next two are known.
    `vocab_start`: which class the first of these is. `group`: the ranks that share the classes, a ProcessGroup or a
    DeviceMesh of one dimension; None is all ranks. `vocab_size`: the number of classes where the last shards hold
    padding beyond it, which neither counts nor gets a gradient. `target`: the same class indices on every rank, in [0,
    sum of C), or this rank's columns of class probabilities. `weight`: one per class, those of all classes or of this
    shard. `ignore_index`, `reduction`, `label_smoothing`, `z_loss`, `softcap`, `logit_scale`: those of
    `losskit.functional.cross_entropy`; the other keywords are described at the head of `losskit.functional`.
    `return_stats`: True also returns `logprob`, `lse`, `entropy` and `correct` of each sample, and "rank" the
    `losskit.ClassStats` of `cross_entropy`. All ranks of the group must make the same call.

    **Returns**: what `losskit.functional.cross_entropy` returns for the logits of all ranks, as a plain tensor, and
    the stats in a tuple with it. The rank takes a second collective, of one number per row: how many scores are higher
    than the target's can be counted only when the target's is known.

    **Gradient**: by input, and by class probabilities. Exact for a loss that every rank computes and differentiates.

    **Edge cases**: those of `cross_entropy`. Where the all-gather would bring a rank more than 4 MiB there are two
    all-reduces in its place. On a GPU nothing waits for the target's values: a class index that belongs to no shard
    costs inf.

    **Raises**: what `cross_entropy` raises; on the CPU IndexError for a class index that belongs to no shard and
    ValueError for shards that overlap or leave a gap and for targets, masks or options that differ between ranks, on
    all ranks. RuntimeError for `create_graph=True`, `torch.func` and forward-mode AD.

    **Example**: one process holds all classes.

    >>> import torch
    >>> logits, target = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([1])
    >>> vocab_parallel_cross_entropy(logits, target, vocab_start=0)
    tensor(1.1019)
    """
    name = "vocab_parallel_cross_entropy"
    inputs.check_class_tensors(name, input, target, weight)
    inputs.check_floating(name, "input", input)
    if input.ndim == 0:
        raise LosskitRuntimeError(f"{name}: input must have a dimension of classes, got a 0-dim tensor.")
    class_dim = inputs.class_dim_of(input)
    logits, shard = shard_of(name, "input", input, class_dim, vocab_start, vocab_size, group)
    target = local_of(name, "target", target, shard, class_dim if target.shape == input.shape else None)
    weight = None if weight is None else local_of(name, "weight", weight, shard, 0)
    sample_weight = None if sample_weight is None else local_of(name, "sample_weight", sample_weight, shard)
    mask = None if mask is None else local_of(name, "mask", mask, shard)
    check_no_transform(name, logits, target)
    (logits,) = autocast(logits)
    shape = torch.Size([*logits.shape[:class_dim], *logits.shape[class_dim + 1 :]])
    call = call_of(
        name,
        shard,
        logits,
        logits.shape,
        target,
        weight,
        ignore_index,
        label_smoothing,
        Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, "auto"),
        inputs.score_options(name, z_loss, softcap, logit_scale, return_stats is not False),
        shape,
        return_stats,
    )
    columns = logits.shape[class_dim]
    matrix = logits.movedim(class_dim, -1).reshape(len(call.counts), columns)
    return _loss(call, matrix, call.rows.probabilities)


def _loss(call: VocabularyCall, matrix: Tensor, probabilities: Tensor | None) -> Any:
    """The loss of (N, C), of which the first columns are classes."""
    columns, dtype = call.shard.columns, call.rows.dtype
    places = list(slices(len(matrix), columns, matrix.device))

    def scores(place: slice) -> Tensor:
        return matrix.detach()[place, :columns].to(dtype, copy=True)

    fast = by_kernel(matrix.detach(), call.rows) if columns == matrix.shape[1] else None
    found = forward(call, scores, places, None if fast is None else fast[0])
    # The node saves the probabilities, and must not hold them past the backward pass.
    kept = replace(call, rows=replace(call.rows, probabilities=None))

    def gradients(saved: tuple[Any, ...], grad_output: Tensor, needs: tuple[bool, ...]) -> list[Tensor | None]:
        logits, given = saved[:2]
        rows, options = row_gradient(kept, saved[2:], grad_output), replace(kept.rows, probabilities=given)
        if fast is not None and obstacle(grad_output) is None:
            return [gradient_by_kernel(logits, options, rows, fast[1]), None]
        by_logits = torch.zeros_like(logits) if columns < logits.shape[1] else torch.empty_like(logits)
        by_target = torch.zeros_like(given) if needs[1] else None
        for place in places:
            x = logits[place, :columns].to(dtype, copy=True)
            if by_target is not None:
                by_target[place, :columns] = gradient_by_probabilities(x.clone(), place, options, rows)
            if needs[0]:
                by_logits[place, :columns] = gradient_by_scores(x, place, options, rows)
        return [by_logits if needs[0] else None, by_target]

    if not torch.is_grad_enabled() or not (
        matrix.requires_grad or (probabilities is not None and probabilities.requires_grad)
    ):
        return result_of(call, found, found.values)
    values = Node.apply((call.function, found, gradients), matrix, probabilities)  # type: ignore[no-untyped-call]  # apply has no annotations
    return result_of(call, found, values)


def call_of(
    function: str,
    shard: Shard,
    input: Tensor,
    scores_shape: torch.Size,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    options: Options,
    scores: ScoreOptions,
    shape: torch.Size,
    return_stats: bool | str,
) -> VocabularyCall:
    """The call, its arguments checked as cross_entropy checks them. `scores_shape` is that of this shard's scores."""
    inputs.check_common_options(function, options.reduction, options.on_empty, options.out_dtype, options.backend)
    inputs.check_ignore_index(function, ignore_index)
    inputs.check_label_smoothing(function, label_smoothing)
    check_return_stats(function, return_stats)
    inputs.check_tensor(function, "target", target)
    class_dim = 1 if len(scores_shape) > 1 else 0
    held = scores_shape[class_dim]
    like = input.new_empty(scores_shape, device="meta")
    own_weight, all_weights = _weight_of_shard(function, weight, shard, held)
    # Floating point too: a shard of one class has as many probabilities as there are rows.
    probable = target.shape == scores_shape and target.is_floating_point()
    dtype = widen(input).dtype
    out_dtype = input.dtype
    if probable:
        inputs.check_probability_target(function, like, target, ignore_index)
        (target,) = autocast(target)
        dtype = torch.promote_types(dtype, widen(target).dtype)
        out_dtype = torch.promote_types(out_dtype, target.dtype)
        out_dtype = out_dtype if weight is None else torch.promote_types(out_dtype, weight.dtype)
    else:
        inputs.check_class_shapes(function, like, target)
        inputs.check_index_dtype(function, target)
        inputs.check_weight_dtype(function, weight, input)
    reduction = inputs.reduction_for(function, options, shape, input)
    counts = torch.ones(shape, dtype=torch.bool, device=input.device) if reduction.mask is None else reduction.mask
    labels = probabilities = flat_target = None
    if probable:
        probabilities = target.movedim(class_dim, -1).reshape(counts.numel(), held)
    else:
        # uint8 would take ignore_index and C modulo 256.
        flat_target = target.long().reshape(-1)
        counts = counts.reshape(-1) & (flat_target != ignore_index)
        local = flat_target - shard.start
        labels = torch.where(counts & (local >= 0) & (local < shard.columns), local, -1)
    return VocabularyCall(
        function,
        shard,
        RowOptions(
            labels,
            probabilities,
            None if own_weight is None else own_weight.detach().to(dtype),
            float(label_smoothing),
            scores,
            dtype,
        ),
        flat_target,
        counts.reshape(-1),
        all_weights,
        reduction,
        out_dtype if options.out_dtype is None else options.out_dtype,
        return_stats == "rank",
    )


def _weight_of_shard(function: str, weight: Tensor | None, shard: Shard, held: int) -> tuple[Tensor | None, int | None]:
    """The weights of this shard's classes, of those or of all; and how many there are, where they are those of all."""
    if weight is None:
        return None, None
    end = shard.start + shard.columns
    if weight.ndim == 1 and weight.shape[0] != shard.vocab_size and weight.shape[0] in (held, shard.columns):
        return weight[: shard.columns], None
    if weight.ndim != 1 or (weight.shape[0] < end and shard.columns):
        raise LosskitRuntimeError(
            f"{function}: weight must hold one value for each class, or for each of the {held} of this shard, got "
            f"shape {inputs.shape_of(weight)}."
        )
    return weight[shard.start : end], weight.shape[0]
