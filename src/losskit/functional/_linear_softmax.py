"""A linear layer and the loss of its scores in one call."""

import warnings
from typing import Any, Literal, overload

import torch
from torch import Tensor

from losskit.core import inputs
from losskit.core.precision import autocast_enabled, widen
from losskit.core.reduction import Options
from losskit.core.scores import ClassStats
from losskit.families import linear_softmax as family
from losskit.families import sequences


@overload
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    return_stats: Literal[False] = False,
    shift: int = 0,
    workspace: int | str = "256MiB",
    filter_eps: float = 0.0,
    backend: str = "auto",
) -> Tensor: ...
@overload
def linear_cross_entropy(*args: Any, return_stats: Literal[True], **kwargs: Any) -> tuple[Tensor, ClassStats]: ...
@overload
def linear_cross_entropy(*args: Any, return_stats: bool, **kwargs: Any) -> Tensor | tuple[Tensor, ClassStats]: ...
def linear_cross_entropy(  # type: ignore[misc]  # the short overloads name what they are about alone
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    return_stats: bool = False,
    shift: int = 0,
    workspace: int | str = "256MiB",
    filter_eps: float = 0.0,
    backend: str = "auto",
) -> Any:
    """Cross entropy of the scores that a linear layer gives: log Σ_c exp(z_c) − z_t with z = x·Wᵀ + b.

    **Equivalent to**: `cross_entropy(linear(input, linear_weight, linear_bias), target)`

    **Args**: `input`: x, shape (K), (N, K) or (B, …, T, K), floating point. `linear_weight`: W, shape (C, K), or (C,
    d1, …, K) for a score at each place of a map; dtype of input. `target`: class indices or class probabilities, of the
    shapes that `cross_entropy` takes for logits of shape (C), (N, C) or (N, C, d1, …); for sequences (B, …, T) or (B,
    …, T, C). `linear_bias`: b, shape (C) or (C, d1, …).
    `weight`: one per class, shape (C). `reduction`: `"none"`, `"mean"`, `"sum"`. `ignore_index`: a class index that
    does not count; None is −100, and the only choice with class probabilities. `label_smoothing`: that of
    `cross_entropy`. `options`: a `torch.nn.LinearCrossEntropyOptions`, which tells PyTorch to go through the batch in
    chunks; it changes no number, and here `workspace` says how large they are: how much memory the scores may take at a
    time, a number of bytes or a text such as "256MiB". `filter_eps`: at 0 every entry of the gradient by the scores is
    used; above 0, those that are not larger than filter_eps·|f|, f being what the row's loss is multiplied by, may
    count as 0 in the products. Then |ΔdX[i, k]| ≤ filter_eps·|f_i|·Σ_c |W[c, k]| and |ΔdW[c, k]| ≤ filter_eps·Σ_i
    |f_i|·|x[i, k]|, and the entry of the label is always used; the loss and the gradient by the bias do not change.
    `shift`: for sequences; position t is scored against the label,
    mask and sample_weight of position t + shift, and the last `shift` positions count for nothing. `z_loss`, `softcap`,
    `logit_scale`, `return_stats`: those of `cross_entropy`. The other keywords are described at the head of
    `losskit.functional`.

    **Returns**: a 0-dim tensor, or one loss per target with `reduction="none"`; in nats. `mean` divides as
    `cross_entropy` does. With `return_stats`, the pair (loss, stats).

    **Gradient**: by input, linear_weight and linear_bias; by target, where it holds probabilities. A row of which
    nothing counts adds exactly 0 to each, whatever it holds.

    **Edge cases**: those of `cross_entropy` for the scores. float16 and bfloat16 are multiplied in float32, and
    gradients by such tensors are added up in float32 and rounded once; under autocast they are rounded to its dtype
    first, as autocast does. No more scores exist at a time than fit into `workspace`, one row at least, and no row that
    does not count is multiplied: in the CPU kernels, in plain operations on any device and in the graph of
    `torch.compile`. Derivatives of the gradient, gradients by target, weight, sample_weight and normalizer,
    `torch.func` and scores on a map need all scores at once; `losskit.explain_dispatch` tells.

    **Raises**: ValueError for an unknown reduction and for batch sizes that differ, IndexError for a class index out of
    range, RuntimeError for other shapes, dtypes or devices that do not go together.

    **Example**:

    >>> linear_cross_entropy(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.1, 0.0], [0.0, 0.1]]), torch.tensor([1]))
    tensor(0.6444)
    """
    name = "linear_cross_entropy"
    inputs.check_tensor(name, "linear_weight", linear_weight)
    if linear_bias is not None:
        inputs.check_tensor(name, "linear_bias", linear_bias)
    inputs.check_common_options(name, reduction, on_empty, out_dtype, backend)
    inputs.check_label_smoothing(name, label_smoothing)
    inputs.check_class_tensors(name, input, target, weight)
    inputs.check_linear(name, input, linear_weight, linear_bias)
    inputs.check_shift(name, shift)
    sequences.check_sequences(name, shift, input)
    scores = inputs.score_options(name, z_loss, softcap, logit_scale, return_stats)
    leading = input.shape[:-1]
    if len(leading) > 1:
        classes = linear_weight.shape[0]
        ignored = inputs.ignored_index(name, ignore_index, target.shape == (*leading, classes))
        input, target, sample_weight, mask = sequences.as_rows(
            name, input, target, classes, sample_weight, mask, ignored, shift
        )
    logits_shape = torch.Size([*input.shape[:-1], *linear_weight.shape[:-1]])
    probabilities = target.shape == logits_shape
    ignored = inputs.ignored_index(name, ignore_index, probabilities)
    inputs.check_linear_options(name, options)
    if options is not None and (linear_weight.ndim > 2 or label_smoothing != 0 or target.dtype != torch.int64):
        warnings.warn(
            f"{name}: options is ignored: chunks are for a linear_weight of two dimensions, int64 targets and no "
            "label_smoothing",
            UserWarning,
            stacklevel=2,
        )
    inputs.check_class_weight(name, weight, linear_weight.shape[0])
    autocasting = autocast_enabled(input.device.type)
    if probabilities:
        inputs.check_probability_target(name, input, target, ignored)
    else:
        inputs.check_class_shapes(name, input.new_empty(logits_shape, device="meta"), target, "the product")
        inputs.check_index_dtype(name, target)
        if not autocasting:
            inputs.check_weight_dtype(name, weight, input)
    shape = logits_shape[:1] + logits_shape[2:] if len(logits_shape) > 1 else torch.Size()
    inputs.check_mask(name, mask, shape)
    dtype = widen(input).dtype if autocasting else input.dtype
    if probabilities:
        dtype = torch.promote_types(dtype, target.dtype)
        dtype = dtype if weight is None else torch.promote_types(dtype, weight.dtype)
    dtype = dtype if out_dtype is None else out_dtype
    result = family.run(
        family.LinearCall(
            name,
            weight,
            ignored,
            float(label_smoothing),
            Options(reduction, sample_weight, mask, normalizer, on_empty, dtype, backend),
            dtype,
            inputs.bytes_of(name, "workspace", workspace),
            inputs.filter_bound(name, filter_eps),
            scores,
        ),
        input,
        linear_weight,
        linear_bias,
        target,
    )
    return sequences.in_shape(result, leading) if len(leading) > 1 else result
