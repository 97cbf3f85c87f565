"""Losses of a row of scores against a class."""

from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function_unary

from losskit.core import dispatch, inputs
from losskit.core.precision import autocast
from losskit.core.reduction import Options, legacy_reduction
from losskit.core.scores import ClassStats
from losskit.errors import LosskitRuntimeError
from losskit.families import softmax as softmax_family
from losskit.kernels import cpu

# Each function first tries the lean path: no option beyond the loss's own, tensors that the kernel takes as they are.
# It costs a microsecond and answers None where anything is out of the ordinary or wrong; then every argument is
# checked.


@overload
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    return_stats: Literal[False] = False,
    inplace_backward: bool = False,
    backend: str = "auto",
) -> Tensor: ...
@overload
def cross_entropy(*args: Any, return_stats: Literal[True], **kwargs: Any) -> tuple[Tensor, ClassStats]: ...
@overload
def cross_entropy(*args: Any, return_stats: bool, **kwargs: Any) -> Tensor | tuple[Tensor, ClassStats]: ...
def cross_entropy(  # type: ignore[misc]  # the short overloads name what they are about alone
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    return_stats: bool = False,
    inplace_backward: bool = False,
    backend: str = "auto",
) -> Any:
    """Cross entropy of class scores: log Σ_c exp(x_c) − x_t.

    **Equivalent to**: `nll_loss(log_softmax(input, 1), target)`

    **Args**: `input`: logits (raw scores, no softmax), shape (C), (N, C) or (N, C, d1, …), floating point. `target`:
    class indices in [0, C), int64 or uint8, shape (), (N) or (N, d1, …); or class probabilities of the shape of input,
    floating point. `weight`: one per class, shape (C), dtype of input. `size_average`, `reduce`: PyTorch's deprecated
    flags; they win over `reduction`. `ignore_index`: a class index that does not count. `reduction`: `"none"`,
    `"mean"`, `"sum"`. `label_smoothing`: ε in [0, 1]; the target becomes (1 − ε)·target + ε/C. `logit_scale`,
    `softcap`: logits become s·x, and with a cap c·tanh(s·x/c), before all else. `z_loss`: a coefficient; the loss of
    each sample that counts gains z_loss·(log Σ_c exp(x_c))², not times its class weight. `return_stats`: also return a
    `losskit.ClassStats` with `logprob`, `lse`, `entropy`, `rank` and `correct` of each sample. `inplace_backward`: put
    the gradient in the place of the logits, which saves a buffer of their size; **the logits hold the gradient as soon
    as the call returns**, so do not read them afterwards. The other keywords are described at the head of
    `losskit.functional`.

    **Returns**: a 0-dim tensor, or the shape of input without its class dimension with `reduction="none"`; in nats.
    `mean` divides by the sum of `weight[target]` over the samples that are not ignored (their number, without weights);
    with class probabilities, by the number of samples. With `return_stats`, the pair (loss, stats).

    **Gradient**: by input: softmax(x) − onehot(t), times the weight of the class; exactly 0 in ignored samples. By
    target, where it holds probabilities: −log softmax(x).

    **Edge cases**: nothing that counts: NaN under `mean` (see `on_empty`), 0 under `sum`. A logit of −inf has
    probability 0 and gradient 0; as the target it costs inf. A sample with NaN, +inf or nothing but −inf is NaN.

    **Raises**: ValueError for an unknown reduction and for batch sizes that differ, IndexError for a class index out of
    range, RuntimeError for other shapes, dtypes or devices that do not go together and for label_smoothing outside [0,
    1].

    **Example**:

    >>> cross_entropy(torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([1]))
    tensor(1.1019)
    """
    if (
        sample_weight is None
        and mask is None
        and normalizer is None
        and out_dtype is None
        and size_average is None
        and reduce is None
        and backend == "auto"
        and on_empty == "nan"
        and softcap is None
        # A tensor may equal them too, and want a gradient.
        and type(z_loss) is float
        and z_loss == 0.0
        and type(logit_scale) is float
        and logit_scale == 1.0
        and return_stats is False
        and not inplace_backward
        and not is_compiling()
        and not dispatch.watchers
    ):
        result = cpu.lean_class_loss(False, input, target, weight, ignore_index, label_smoothing, reduction)
        if isinstance(result, list):
            return cpu.join_lean_class_loss(
                result, False, input, target, weight, ignore_index, label_smoothing, reduction, cross_entropy
            )
        if result is not None:
            return result
    if not isinstance(input, Tensor) and has_torch_function_unary(input):
        # As in torch: what stands for a tensor finds its loss itself.
        return handle_torch_function(
            cross_entropy,
            (input,),
            input,
            target,
            weight=weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            label_smoothing=label_smoothing,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=on_empty,
            out_dtype=out_dtype,
            z_loss=z_loss,
            softcap=softcap,
            logit_scale=logit_scale,
            return_stats=return_stats,
            inplace_backward=inplace_backward,
            backend=backend,
        )
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "cross_entropy"
    inputs.check_common_options(name, reduction, on_empty, out_dtype, backend)
    inputs.check_ignore_index(name, ignore_index)
    inputs.check_label_smoothing(name, label_smoothing)
    scores = inputs.score_options(name, z_loss, softcap, logit_scale, return_stats)
    inputs.check_class_tensors(name, input, target, weight)
    input, weight = autocast(input, weight)
    class_dim = inputs.class_dim_of(input)
    if input.ndim == 0:
        raise LosskitRuntimeError(f"{name}: input must have a dimension of classes, got a 0-dim tensor.")
    probabilities = target.shape == input.shape
    inputs.check_floating(name, "input", input)
    inputs.check_class_weight(name, weight, input.shape[class_dim])
    if probabilities:
        (target,) = autocast(target)
        inputs.check_probability_target(name, input, target, ignore_index)
        dtype = torch.promote_types(input.dtype, target.dtype)
        dtype = dtype if weight is None else torch.promote_types(dtype, weight.dtype)
    else:
        inputs.check_class_shapes(name, input, target)
        inputs.check_index_dtype(name, target)
        inputs.check_weight_dtype(name, weight, input)
        dtype = input.dtype
    if inplace_backward:
        inputs.check_inplace(name, input, reduction)
    return softmax_family.class_loss(
        name,
        False,
        input,
        target,
        weight,
        ignore_index,
        float(label_smoothing),
        Options(
            reduction, sample_weight, mask, normalizer, on_empty, dtype if out_dtype is None else out_dtype, backend
        ),
        inplace_backward,
        scores,
    )


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Negative log-likelihood of the target class: −log p_t.

    **Equivalent to**: `-input.gather(1, target.unsqueeze(1)).mean()`

    **Args**: `input`: log-probabilities, as log_softmax gives them, shape (C), (N, C) or (N, C, d1, …), floating point.
    `target`: class indices in [0, C), int64 or uint8, shape (), (N) or (N, d1, …). `weight`: one per class, shape (C),
    dtype of input. `size_average`, `reduce`: PyTorch's deprecated flags; they win over `reduction`. `ignore_index`: a
    class index that does not count. `reduction`: `"none"`, `"mean"`, `"sum"`. The other keywords are described at the
    head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the shape of input without its class dimension with `reduction="none"`; in nats.
    `mean` divides by the sum of `weight[target]` over the samples that are not ignored (their number, without weights).

    **Gradient**: by input: −w[t] at the target class, 0 elsewhere.

    **Edge cases**: nothing that counts: NaN under `mean` (see `on_empty`), 0 under `sum`. The loss is negative where
    input holds probabilities or logits instead of log-probabilities; nothing checks that here.

    **Raises**: ValueError for an unknown reduction and for batch sizes that differ, IndexError for a class index out of
    range, RuntimeError for other shapes, dtypes or devices that do not go together.

    **Example**:

    >>> log_probs = torch.log_softmax(torch.tensor([[0.1, 0.2, 0.3]]), 1)
    >>> nll_loss(log_probs, torch.tensor([1]))
    tensor(1.1019)
    """
    if (
        sample_weight is None
        and mask is None
        and normalizer is None
        and out_dtype is None
        and size_average is None
        and reduce is None
        and backend == "auto"
        and on_empty == "nan"
        and not is_compiling()
        and not dispatch.watchers
    ):
        result = cpu.lean_class_loss(True, input, target, weight, ignore_index, 0.0, reduction)
        if isinstance(result, list):
            return cpu.join_lean_class_loss(result, True, input, target, weight, ignore_index, 0.0, reduction, nll_loss)
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "nll_loss"
    inputs.check_common_options(name, reduction, on_empty, out_dtype, backend)
    inputs.check_ignore_index(name, ignore_index)
    inputs.check_class_tensors(name, input, target, weight)
    input, weight = autocast(input, weight)
    inputs.check_class_shapes(name, input, target)
    inputs.check_floating(name, "input", input)
    inputs.check_class_weight(name, weight, input.shape[inputs.class_dim_of(input)])
    inputs.check_index_dtype(name, target)
    inputs.check_weight_dtype(name, weight, input)
    loss = softmax_family.class_loss(
        name,
        True,
        input,
        target,
        weight,
        ignore_index,
        0.0,
        Options(
            reduction,
            sample_weight,
            mask,
            normalizer,
            on_empty,
            input.dtype if out_dtype is None else out_dtype,
            backend,
        ),
        False,
    )
    return softmax_family.loss_of(loss)
