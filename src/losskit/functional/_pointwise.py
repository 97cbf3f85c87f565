"""Losses of one number against another."""

import torch
from torch import Tensor
from torch.compiler import is_compiling

from losskit.core import dispatch, inputs
from losskit.core.precision import autocast, common_dtype
from losskit.core.reduction import Options, legacy_reduction
from losskit.errors import LosskitRuntimeError
from losskit.families import pointwise as pointwise_family
from losskit.kernels import cpu
from losskit.losses import pointwise as definitions

# Each function first tries the lean path: no option beyond the loss's own, tensors that the kernel takes as they are.
# It costs a microsecond and answers None where anything is out of the ordinary or wrong; then every argument is
# checked.


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Absolute error: |x − y|.

    **Equivalent to**: `(input - target).abs().mean()`

    **Args**: `input`, `target`: any shape, the same for both (others broadcast, with a warning); floating point, or
    complex. `size_average`, `reduce`: PyTorch's deprecated flags; they win over `reduction`. `reduction`: `"none"`,
    `"mean"`, `"sum"`. `weight`: of the shape of input, multiplies each loss. The keywords after `weight` are described
    at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the broadcast shape with `reduction="none"`; in units of the target. `mean` divides
    by the number of losses, or by the sum of `weight` where it is given.

    **Gradient**: by input and target: sign(x − y), with the subgradient 0 at x = y.

    **Edge cases**: an empty mean is NaN, an empty sum 0; NaN and infinite differences come through.

    **Raises**: ValueError for an unknown reduction or a weight of another shape, RuntimeError for shapes that do not
    broadcast and for integers under `mean`.

    **Example**:

    >>> l1_loss(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 5.0]))
    tensor(0.6667)
    """
    if (
        weight is None
        and sample_weight is None
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
        result = cpu.lean_pointwise(cpu.L1, input, target, 0.0, reduction, True)
        if isinstance(result, list):
            return cpu.join_lean_pointwise(result, cpu.L1, input, target, 0.0, reduction, l1_loss)
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    inputs.check_tensors_and_options("l1_loss", input, target, weight, reduction, on_empty, out_dtype, backend)
    if weight is None:
        # With a weight torch computes in ordinary arithmetic, which autocast leaves alone.
        input, target = autocast(input, target)
    if reduction == "mean" and weight is None and not (inputs.is_inexact(input) or inputs.is_inexact(target)):
        raise LosskitRuntimeError(
            f"l1_loss: the mean of integers is not an integer: input is {inputs.dtype_of(input)} and target "
            f"{inputs.dtype_of(target)}: input.float()?"
        )
    return pointwise_family.difference_loss(
        "l1_loss",
        cpu.L1,
        lambda x, y, _: definitions.l1_loss(x, y),
        0.0,
        input,
        target,
        weight,
        True,
        Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend),
    )


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Squared error: (x − y)².

    **Equivalent to**: `(input - target).square().mean()`

    **Args**: `input`, `target`: any shape, the same for both (others broadcast, with a warning); at least one floating
    point. `size_average`, `reduce`: PyTorch's deprecated flags; they win over `reduction`. `reduction`: `"none"`,
    `"mean"`, `"sum"`. `weight`: of the shape of input, multiplies each loss. The keywords after `weight` are described
    at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the broadcast shape with `reduction="none"`; in squared units of the target. `mean`
    divides by the number of losses, or by the sum of `weight` where it is given.

    **Gradient**: by input and target: 2·(x − y).

    **Edge cases**: an empty mean is NaN, an empty sum 0; NaN comes through; (x − y)² beyond the range of the dtype is
    inf.

    **Raises**: ValueError for an unknown reduction or a weight of another shape, RuntimeError for shapes that do not
    broadcast, NotImplementedError for integer or complex tensors.

    **Example**:

    >>> mse_loss(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 5.0]))
    tensor(1.3333)
    """
    if (
        weight is None
        and sample_weight is None
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
        result = cpu.lean_pointwise(cpu.MSE, input, target, 0.0, reduction, True)
        if isinstance(result, list):
            return cpu.join_lean_pointwise(result, cpu.MSE, input, target, 0.0, reduction, mse_loss)
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    inputs.check_tensors_and_options("mse_loss", input, target, weight, reduction, on_empty, out_dtype, backend)
    if weight is None:
        # With a weight torch computes in ordinary arithmetic, which autocast leaves alone.
        input, target = autocast(input, target)
    inputs.check_real("mse_loss", input, target)
    return pointwise_family.difference_loss(
        "mse_loss",
        cpu.MSE,
        lambda x, y, _: definitions.mse_loss(x, y),
        0.0,
        input,
        target,
        weight,
        True,
        Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend),
    )


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Absolute error with a rounded corner: (x − y)² / 2β where |x − y| < β, else |x − y| − β/2.

    **Equivalent to**: `huber_loss(input, target, delta=beta) / beta`

    **Args**: `input`, `target`: any shape, the same for both (others broadcast, with a warning); at least one floating
    point. `size_average`, `reduce`: PyTorch's deprecated flags; they win over `reduction`. `reduction`: `"none"`,
    `"mean"`, `"sum"`. `beta`: where quadratic turns linear, ≥ 0; 0 is the L1 loss. The keywords after `beta` are
    described at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the broadcast shape with `reduction="none"`; in units of the target. `mean` divides
    by the number of losses.

    **Gradient**: by input and target: (x − y)/β, clamped to ±1.

    **Edge cases**: an empty mean is NaN, an empty sum 0; NaN comes through.

    **Raises**: ValueError for an unknown reduction, RuntimeError for shapes that do not broadcast and for a negative
    beta, NotImplementedError for integer or complex tensors.

    **Example**:

    >>> smooth_l1_loss(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 4.0]))
    tensor(0.3333)

    **Source**: Girshick, Fast R-CNN (2015), equation 3, for β = 1.
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
        and type(beta) is float
        and beta > 0
    ):
        result = cpu.lean_pointwise(cpu.SMOOTH_L1, input, target, beta, reduction, True)
        if isinstance(result, list):
            return cpu.join_lean_pointwise(
                result, cpu.SMOOTH_L1, input, target, beta, reduction, smooth_l1_loss, {"beta": beta}
            )
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    inputs.check_tensors_and_options("smooth_l1_loss", input, target, None, reduction, on_empty, out_dtype, backend)
    inputs.check_number("smooth_l1_loss", "beta", beta)
    if not beta >= 0:
        raise LosskitRuntimeError(f"smooth_l1_loss: beta must be 0 or more, got {beta:g}.")
    input, target = autocast(input, target)
    inputs.check_real("smooth_l1_loss", input, target)
    return pointwise_family.difference_loss(
        "smooth_l1_loss",
        cpu.SMOOTH_L1 if beta > 0 else cpu.L1,
        lambda x, y, _: definitions.smooth_l1_loss(x, y, beta),
        float(beta),
        input,
        target,
        None,
        False,
        Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend),
    )


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Squared error that turns linear: (x − y)² / 2 where |x − y| ≤ δ, else δ·(|x − y| − δ/2).

    **Equivalent to**: `c = (input - target).clamp(-delta, delta); (c * (input - target - c / 2)).mean()`

    **Args**: `input`, `target`: any shape, the same for both (others broadcast, with a warning); floating point.
    `reduction`: `"none"`, `"mean"`, `"sum"`. `delta`: where quadratic turns linear, > 0. `weight`: of the shape of
    input, multiplies each loss. The keywords after `weight` are described at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the broadcast shape with `reduction="none"`; in squared units of the target. `mean`
    divides by the number of losses, also where `weight` is given: PyTorch's l1_loss and mse_loss divide by the sum of
    the weights, its huber_loss does not. `sample_weight` divides by the sum in all of them.

    **Gradient**: by input and target: x − y, clamped to ±δ.

    **Edge cases**: an empty mean is NaN, an empty sum 0; NaN comes through.

    **Raises**: ValueError for an unknown reduction or a weight of another shape, RuntimeError for shapes that do not
    broadcast and for a delta that is not positive, NotImplementedError for integer or complex tensors.

    **Example**:

    >>> huber_loss(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 5.0]))
    tensor(0.5000)

    **Source**: Huber, Robust Estimation of a Location Parameter (1964).
    """
    if (
        weight is None
        and sample_weight is None
        and mask is None
        and normalizer is None
        and out_dtype is None
        and backend == "auto"
        and on_empty == "nan"
        and not is_compiling()
        and not dispatch.watchers
        and type(delta) is float
        and delta > 0
    ):
        result = cpu.lean_pointwise(cpu.HUBER, input, target, delta, reduction, True)
        if isinstance(result, list):
            return cpu.join_lean_pointwise(
                result, cpu.HUBER, input, target, delta, reduction, huber_loss, {"delta": delta}
            )
        if result is not None:
            return result
    inputs.check_tensors_and_options("huber_loss", input, target, weight, reduction, on_empty, out_dtype, backend)
    inputs.check_number("huber_loss", "delta", delta)
    if not delta > 0:
        raise LosskitRuntimeError(f"huber_loss: delta must be positive, got {delta:g}.")
    input, target, weight = autocast(input, target, weight)
    inputs.check_real("huber_loss", input, target)
    inputs.check_floating("huber_loss", "input", input)
    if out_dtype is None:
        # torch's huber_loss alone does not promote: the result has the dtype of input.
        out_dtype = common_dtype(input, weight)
    return pointwise_family.difference_loss(
        "huber_loss",
        cpu.HUBER,
        lambda x, y, _: definitions.huber_loss(x, y, delta),
        float(delta),
        input,
        target,
        weight,
        False,
        Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend),
    )


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
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
    """Cross entropy of a yes-no probability: −y·log p − (1 − y)·log(1 − p), each logarithm at least −100.

    **Equivalent to**: `-(y * p.log().clamp(-100) + (1 - y) * (1 - p).log().clamp(-100)).mean()`

    **Args**: `input`: probabilities p in [0, 1], any shape; `target`: y in [0, 1], the shape and dtype of input.
    `weight`: broadcasts to the shape of input, multiplies each loss. `size_average`, `reduce`: PyTorch's deprecated
    flags; they win over `reduction`. `reduction`: `"none"`, `"mean"`, `"sum"`. The other keywords are described at the
    head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the shape of input with `reduction="none"`; in nats. `mean` divides by the number of
    losses, also where `weight` is given.

    **Gradient**: by input: (p − y) / max(p·(1 − p), 1e-12); by target: log(1 − p) − log p.

    **Edge cases**: p = 0 against y = 1 gives 100, where the logit's loss may be less:
    `binary_cross_entropy_with_logits` is exact there. An empty mean is NaN, an empty sum 0.

    **Raises**: ValueError for an unknown reduction and for shapes that differ, RuntimeError for values outside [0, 1]
    (NaN among them), for dtypes that differ and for a weight that does not broadcast.

    **Example**:

    >>> binary_cross_entropy(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0]))
    tensor(0.1643)
    """
    if (
        weight is None
        and sample_weight is None
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
        result = cpu.lean_pointwise(cpu.BCE, input, target, 0.0, reduction, False)
        if isinstance(result, list):
            return cpu.join_lean_pointwise(result, cpu.BCE, input, target, 0.0, reduction, binary_cross_entropy)
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "binary_cross_entropy"
    inputs.check_binary(name, input, target, weight, reduction, on_empty, out_dtype, backend)
    input, target, weight = autocast(input, target, weight)
    inputs.check_floating(name, "input", input)
    if target.dtype != input.dtype:
        raise LosskitRuntimeError(
            f"{name}: target must have the dtype of input, {inputs.dtype_of(input)}, got {inputs.dtype_of(target)}: "
            f"target.to({input.dtype})?"
        )
    if weight is not None:
        inputs.check_broadcast(name, "weight", weight, input.shape)
    return pointwise_family.pointwise_loss(
        name,
        cpu.BCE,
        lambda p, y, _: definitions.binary_cross_entropy(p, y),
        0.0,
        input,
        target,
        weight,
        False,
        None,
        input.shape,
        Options(
            reduction,
            sample_weight,
            mask,
            normalizer,
            on_empty,
            input.dtype if out_dtype is None else out_dtype,
            backend,
        ),
    )


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Cross entropy of a yes-no score: (1 − y)·softplus(x) + w₊·y·softplus(−x).

    **Equivalent to**: `binary_cross_entropy(input.sigmoid(), target)`, without its clamp and its loss of digits

    **Args**: `input`: logits x, any shape; `target`: y, meant to lie in [0, 1], of the shape of input, floating point.
    `weight`: broadcasts to the shape of input, multiplies each loss. `pos_weight`: w₊, broadcasts to the shape of
    input, multiplies the term of the positives. `size_average`, `reduce`: PyTorch's deprecated flags; they win over
    `reduction`. `reduction`: `"none"`, `"mean"`, `"sum"`. The other keywords are described at the head of
    `losskit.functional`.

    **Returns**: a 0-dim tensor, or the shape of input with `reduction="none"`; in nats. `mean` divides by the number of
    losses, whatever the weights.

    **Gradient**: by input: (1 − y)·σ(x) − w₊·y·σ(−x), which is σ(x) − y without w₊; by target: w₊·softplus(−x) −
    softplus(x).

    **Edge cases**: an infinite logit of the right sign costs 0, of the wrong one inf. NaN comes through. An empty mean
    is NaN, an empty sum 0.

    **Raises**: ValueError for an unknown reduction and for shapes that differ, RuntimeError for a target that is not
    floating point and for weights that do not broadcast.

    **Example**:

    >>> binary_cross_entropy_with_logits(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0]))
    tensor(0.2201)
    """
    if (
        weight is None
        and pos_weight is None
        and sample_weight is None
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
        result = cpu.lean_pointwise(cpu.BCE_WITH_LOGITS, input, target, 0.0, reduction, False)
        if isinstance(result, list):
            return cpu.join_lean_pointwise(
                result, cpu.BCE_WITH_LOGITS, input, target, 0.0, reduction, binary_cross_entropy_with_logits
            )
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "binary_cross_entropy_with_logits"
    inputs.check_binary(name, input, target, weight, reduction, on_empty, out_dtype, backend)
    if pos_weight is not None:
        inputs.check_tensor(name, "pos_weight", pos_weight)
        inputs.check_devices(name, input=input, pos_weight=pos_weight)
        inputs.check_broadcast(name, "pos_weight", pos_weight, input.shape)
    input, target, weight, pos_weight = autocast(input, target, weight, pos_weight)
    inputs.check_floating(name, "input", input)
    if not target.is_floating_point():
        raise LosskitRuntimeError(
            f"{name}: target must be floating point, got {inputs.dtype_of(target)}: target.to({input.dtype})?"
        )
    if weight is not None:
        inputs.check_broadcast(name, "weight", weight, input.shape)
    return pointwise_family.pointwise_loss(
        name,
        cpu.BCE_WITH_LOGITS,
        definitions.binary_cross_entropy_with_logits,
        0.0,
        input,
        target,
        weight,
        False,
        pos_weight,
        input.shape,
        # torch computes in place of 1 − target, so the result has the dtype of target.
        Options(
            reduction,
            sample_weight,
            mask,
            normalizer,
            on_empty,
            target.dtype if out_dtype is None else out_dtype,
            backend,
        ),
    )
