"""Losses of a margin between scores."""

import torch
from torch import Tensor
from torch.compiler import is_compiling

from losskit.core import dispatch, inputs
from losskit.core.precision import autocast, common_dtype, floating_dtype, widen
from losskit.core.reduction import Options, legacy_reduction
from losskit.errors import LosskitIndexError, LosskitValueError
from losskit.families import fused as fused_family
from losskit.kernels import cpu
from losskit.losses import margin as definitions


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
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
    """Hinge of a distance: x where y = 1, max(0, margin − x) where y = −1.

    **Equivalent to**: `torch.where(target == 1, input, (margin - input).clamp(min=0)).mean()`

    **Args**: `input`: distances x, any shape, floating point. `target`: y, 1 where the two are alike and −1 where they
    are not, of a shape that broadcasts with that of input. `margin`: how far apart the unlike should be.
    `size_average`, `reduce`: PyTorch's deprecated flags; they win over `reduction`. `reduction`: `"none"`, `"mean"`,
    `"sum"`. The other keywords are described at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the broadcast shape with `reduction="none"`; in units of the distance. `mean`
    divides by the number of losses.

    **Gradient**: by input: 1 where y = 1; where y = −1, −1 up to x = margin and 0 beyond it.

    **Edge cases**: for a y that is neither 1 nor −1 the loss is the sum of both terms, as for PyTorch. NaN comes
    through. An empty mean is NaN, an empty sum 0.

    **Raises**: ValueError for an unknown reduction, TypeError for a margin that is no number, RuntimeError for shapes
    that do not broadcast, NotImplementedError for an integer or complex input.

    **Example**:

    >>> hinge_embedding_loss(torch.tensor([0.5, 0.25]), torch.tensor([1.0, -1.0]))
    tensor(0.6250)
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
        and type(margin) is float
    ):
        result = cpu.lean_fused(cpu.HINGE_EMBEDDING, reduction, (margin,), input, target)
        if isinstance(result, list):
            return cpu.join_lean_fused(
                result,
                cpu.HINGE_EMBEDDING,
                (margin,),
                reduction,
                (input, target),
                hinge_embedding_loss,
                {"margin": margin},
            )
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "hinge_embedding_loss"
    inputs.check_tensors_and_options(name, input, target, None, reduction, on_empty, out_dtype, backend)
    inputs.check_number(name, "margin", margin)
    inputs.check_devices(name, input=input, target=target)
    input, target = autocast(input, target)
    inputs.check_floating(name, "input", input)
    shape = inputs.common_shape(name, input=input, target=target)
    dtype = input.dtype if out_dtype is None else out_dtype
    return fused_family.fused_loss(
        name,
        cpu.HINGE_EMBEDDING,
        lambda x, y: definitions.hinge_embedding_loss(x, y, margin),
        (input, target),
        shape,
        Options(reduction, sample_weight, mask, normalizer, on_empty, dtype, backend),
        parameters=(float(margin),),
    )


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
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
    """Hinge of a difference of scores: max(0, margin − y·(x₁ − x₂)).

    **Equivalent to**: `(margin - target * (input1 - input2)).clamp(min=0).mean()`

    **Args**: `input1`, `input2`: scores x₁ and x₂, real. `target`: y, 1 where x₁ should be the larger and −1 where x₂
    should. The three have the same number of dimensions, and shapes that broadcast. `margin`: by how much one should
    be larger. `size_average`, `reduce`: PyTorch's deprecated flags; they win over `reduction`. `reduction`: `"none"`,
    `"mean"`, `"sum"`. The other keywords are described at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the broadcast shape with `reduction="none"`; in units of the scores. `mean` divides
    by the number of losses.

    **Gradient**: by input1, input2 and target, −y, y and x₂ − x₁ where the loss is positive; also at the corner,
    y·(x₁ − x₂) = margin.

    **Edge cases**: NaN comes through. An empty mean is NaN, an empty sum 0.

    **Raises**: ValueError for an unknown reduction, TypeError for a margin that is no number, RuntimeError for numbers
    of dimensions that differ, shapes that do not broadcast and bool tensors, NotImplementedError for complex tensors.

    **Example**:

    >>> margin_ranking_loss(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.5]), torch.tensor([1.0, 1.0]))
    tensor(0.2500)
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
        and type(margin) in (float, int)
    ):
        result = cpu.lean_fused(cpu.MARGIN_RANKING, reduction, (margin,), input1, input2, target)
        if isinstance(result, list):
            return cpu.join_lean_fused(
                result,
                cpu.MARGIN_RANKING,
                (margin,),
                reduction,
                (input1, input2, target),
                margin_ranking_loss,
                {"margin": margin},
            )
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "margin_ranking_loss"
    for argument, value in (("input1", input1), ("input2", input2), ("target", target)):
        inputs.check_tensor(name, argument, value)
    inputs.check_common_options(name, reduction, on_empty, out_dtype, backend)
    inputs.check_number(name, "margin", margin)
    inputs.check_devices(name, input1=input1, input2=input2, target=target)
    input1, input2, target = autocast(input1, input2, target)
    inputs.check_arithmetic(name, input1=input1, input2=input2, target=target)
    inputs.check_not_bool(name, input1=input1, input2=input2, target=target)
    inputs.check_same_ndim(name, input1=input1, input2=input2, target=target)
    shape = inputs.common_shape(name, input1=input1, input2=input2, target=target)
    dtype = floating_dtype(input1, input2, target) if out_dtype is None else out_dtype
    return fused_family.fused_loss(
        name,
        cpu.MARGIN_RANKING,
        # Of integers too: a float is what makes the sum one.
        lambda x, y, z: definitions.margin_ranking_loss(x, y, z, float(margin)),
        (input1, input2, target),
        shape,
        Options(reduction, sample_weight, mask, normalizer, on_empty, dtype, backend),
        parameters=(float(margin),),
    )


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
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
    """Margin between the score of a class and every other: w[t]/C·Σ_{c ≠ t} max(0, margin − x_t + x_c)^p.

    **Equivalent to**: for one sample,

        excess = torch.relu(margin - input[target] + input) ** p
        (weight[target] * (excess.sum() - excess[target])) / len(input)

    **Args**: `input`: scores x, (N, C) or (C), floating point; float16 and bfloat16 too, which PyTorch takes on no CPU.
    `target`: class indices t, (N) or (), int64. `p`: 1 or 2. `margin`: a number. `weight`: (C), dtype of input.
    `size_average`, `reduce`: PyTorch's deprecated flags; they win over `reduction`. `reduction`: `"none"`, `"mean"`,
    `"sum"`. The other keywords are described at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the shape of target with `reduction="none"`; in units of the scores, to the power p.
    `mean` divides by the number of samples, also with `weight`.

    **Gradient**: by input, to every order (PyTorch has no second derivative): where the margin is not kept, w[t]/C for
    each such class and minus their sum for the target; the subgradient 0 where it is just kept.

    **Edge cases**: of one class the loss is 0. NaN scores give NaN (PyTorch: 0). An empty mean is NaN, an empty sum 0.

    **Raises**: RuntimeError for a class index outside [0, C), for shapes that do not fit, no classes, and a weight that
    requires a gradient; ValueError for an unknown reduction or p, or a weight that is not one-dimensional.

    **Example**:

    >>> multi_margin_loss(torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([3]))
    tensor(0.3250)
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
        and weight is None
        and isinstance(p, int)
        and 1 <= p <= 2
        and isinstance(margin, (int, float))
        and not is_compiling()
        and not dispatch.watchers
    ):
        result = cpu.lean_fused(cpu.MULTI_MARGIN, reduction, (p, margin), input, target)
        if isinstance(result, list):
            return cpu.join_lean_fused(
                result,
                cpu.MULTI_MARGIN,
                (p, margin),
                reduction,
                (input, target),
                multi_margin_loss,
                {"p": p, "margin": margin},
            )
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "multi_margin_loss"
    inputs.check_tensors_and_options(name, input, target, weight, reduction, on_empty, out_dtype, backend)
    inputs.check_devices(name, input=input, target=target, weight=weight)
    if p not in (1, 2):
        raise LosskitValueError(f"{name}: p must be 1 or 2, got {p!r}.")
    inputs.check_number(name, "margin", margin)
    if weight is not None and weight.ndim != 1:
        raise LosskitValueError(f"{name}: weight must be one-dimensional, got shape {inputs.shape_of(weight)}.")
    input, weight = autocast(input, weight)
    inputs.check_floating(name, "input", input)
    inputs.check_row_of_scores(name, input)
    inputs.check_index_per_row(name, input, target)
    inputs.check_int64(name, target)
    # One sample may come with or without a dimension of its own; the loss has the shape of target.
    classes = input.shape[-1] if input.ndim else 1
    inputs.check_class_weight(name, weight, classes)
    inputs.check_weight_dtype(name, weight, input)
    input = input.reshape(*target.shape, classes)
    wide = None if weight is None else widen(weight)
    return fused_family.fused_loss(
        name,
        cpu.MULTI_MARGIN,
        lambda input, target: definitions.multi_margin_loss(input, target, p, margin, wide),
        (input, target),
        target.shape,
        Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend),
        parameters=(float(p), float(margin)),
        class_weight=weight,
        rows=True,
    )


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
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
    """Margin between the scores of the classes that a list names and of the others.

    1/C·Σ_{t in the list} Σ_{c not in it} max(0, 1 − x_t + x_c).

    **Equivalent to**: for one sample, whose list `target` ends before its first −1,

        named = target[: (target < 0).int().argmax() if (target < 0).any() else len(target)]
        others = input[~torch.isin(torch.arange(len(input)), named)]
        torch.relu(1 - input[named].unsqueeze(1) + others).sum() / len(input)

    **Args**: `input`: scores x, (N, C) or (C), floating point; float16 and bfloat16 too, which PyTorch takes on no CPU.
    `target`: int64, of the shape of input: lists of class indices, each of which ends before a −1; what follows must
    lie in [−1, C) too. `size_average`, `reduce`: PyTorch's deprecated flags; they win over `reduction`. `reduction`:
    `"none"`, `"mean"`, `"sum"`. The other keywords are described at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or (N) or () with `reduction="none"`; in units of the scores. `mean` divides by the
    number of samples.

    **Gradient**: by input, to every order: 1/C for each pair whose margin is not kept, plus for the class that is not
    named, minus for the one that is; the subgradient 0 where it is just kept.

    **Edge cases**: an empty list costs 0; a class that stands in a list twice counts twice. NaN scores of a pair give
    NaN (PyTorch: 0). An empty mean is NaN, an empty sum 0. The definition, which runs where the kernel does not, takes
    memory for every pair of an entry of the longest list and a class.

    **Raises**: RuntimeError for a number outside [−1, C) in target, for shapes that differ and no classes; ValueError
    for an unknown reduction.

    **Example**:

    >>> multilabel_margin_loss(torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[3, 0, -1, 1]]))
    tensor(0.8500)
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
        result = cpu.lean_fused(cpu.MULTILABEL_MARGIN, reduction, (), input, target)
        if isinstance(result, list):
            return cpu.join_lean_fused(
                result, cpu.MULTILABEL_MARGIN, (), reduction, (input, target), multilabel_margin_loss, {}
            )
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "multilabel_margin_loss"
    inputs.check_tensors_and_options(name, input, target, None, reduction, on_empty, out_dtype, backend)
    inputs.check_devices(name, input=input, target=target)
    (input,) = autocast(input)
    inputs.check_floating(name, "input", input)
    inputs.check_row_of_scores(name, input)
    inputs.check_list_per_row(name, input, target)
    inputs.check_int64(name, target)
    if input.ndim < 2:
        # Of one class, () and (1) are the same.
        input, target = input.reshape(-1), target.reshape(-1)
    return fused_family.fused_loss(
        name,
        cpu.MULTILABEL_MARGIN,
        lambda input, target: definitions.multilabel_margin_loss(input, _without_common_end(target)),
        (input, target),
        input.shape[:-1],
        Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend),
        rows=True,
    )


def _without_common_end(target: Tensor) -> Tensor:
    """Without the columns that lie beyond the end of every list."""
    if not dispatch.is_plain(target) or target.numel() == 0:
        return target
    return target[..., : int((target >= 0).long().cumprod(-1).sum(-1).max())]


def multilabel_soft_margin_loss(
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
    """Binary cross entropy of the scores of every class, as their mean: 1/C·Σ_c w_c·(−y·log σ(x) − (1 − y)·log σ(−x)).

    **Equivalent to**: `(weight * F.binary_cross_entropy_with_logits(input, target, reduction="none")).mean(-1).mean()`

    **Args**: `input`: scores x, (…, C), floating point. `target`: y in [0, 1], of the shape of input (others
    broadcast). `weight`: (C), or a shape that broadcasts to that of input; multiplies the terms. `size_average`,
    `reduce`: PyTorch's deprecated flags; they win over `reduction`. `reduction`: `"none"`, `"mean"`, `"sum"`. The other
    keywords are described at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the shape of input without its last axis with `reduction="none"`; in nats. `mean`
    divides by the number of rows.

    **Gradient**: by input: w·(σ(x) − y)/C; by target: −w·x/C; by weight.

    **Edge cases**: no overflow for large scores; an infinite score of the right sign costs 0 (PyTorch: NaN). Rows of no
    classes and an empty mean are NaN, an empty sum 0.

    **Raises**: IndexError for a 0-dim input, RuntimeError for shapes that do not broadcast or a bool target, ValueError
    for an unknown reduction.

    **Example**:

    >>> multilabel_soft_margin_loss(torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.2201)
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
        and weight is None
        and not is_compiling()
        and not dispatch.watchers
    ):
        result = cpu.lean_fused(cpu.MULTILABEL_SOFT_MARGIN, reduction, (), input, target)
        if isinstance(result, list):
            return cpu.join_lean_fused(
                result, cpu.MULTILABEL_SOFT_MARGIN, (), reduction, (input, target), multilabel_soft_margin_loss, {}
            )
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "multilabel_soft_margin_loss"
    inputs.check_tensors_and_options(name, input, target, weight, reduction, on_empty, out_dtype, backend)
    inputs.check_devices(name, input=input, target=target, weight=weight)
    inputs.check_floating(name, "input", input)
    inputs.check_not_bool(name, target=target)
    if target.is_complex():
        inputs.check_floating(name, "target", target)
    if input.ndim == 0:
        raise LosskitIndexError(f"{name}: input must have a dimension of classes, got a 0-dim tensor.")
    dtype = common_dtype(input, target, weight) if out_dtype is None else out_dtype
    if not target.is_floating_point():
        target = target.to(input.dtype)
    classes, no_kernel = input.shape[-1], ""
    by_class = weight is None or (weight.numel() == weight.shape[-1:].numel() and weight.numel() in (1, classes))
    if input.shape == target.shape and by_class:
        if weight is not None:
            weight = weight.reshape(-1).expand(classes)
    else:
        no_kernel = "input, target and weight have different shapes"
        given = {"input": input, "target": target} | ({} if weight is None else {"weight": weight})
        shape = inputs.common_shape(name, **given)
        # As in PyTorch the axis of the classes is that of input, counted from the first.
        input, target, *rest = (tensor.expand(shape).movedim(input.ndim - 1, -1) for tensor in given.values())
        weight = rest[0] if rest else None
    wide = None if weight is None else widen(weight)
    return fused_family.fused_loss(
        name,
        cpu.MULTILABEL_SOFT_MARGIN,
        lambda input, target: definitions.multilabel_soft_margin_loss(input, target, wide, classes),
        (input, target),
        input.shape[:-1],
        Options(reduction, sample_weight, mask, normalizer, on_empty, dtype, backend),
        class_weight=None if no_kernel else weight,
        rows=True,
        no_kernel=no_kernel,
    )


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
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
    """Logistic loss of a score against a sign: log(1 + exp(−y·x)).

    **Equivalent to**: `torch.nn.functional.softplus(-target * input).mean()`

    **Args**: `input`: scores x, any shape, floating point. `target`: y, −1 or 1, of a shape that broadcasts to that of
    input. `size_average`, `reduce`: PyTorch's deprecated flags; they win over `reduction`. `reduction`: `"none"`,
    `"mean"`, `"sum"`. The other keywords are described at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the shape of input with `reduction="none"`; in nats. `mean` divides by the number of
    losses.

    **Gradient**: by input: −y·σ(−y·x); by target: −x·σ(−y·x).

    **Edge cases**: no overflow: where −y·x is large the loss is −y·x. NaN comes through. An empty mean is NaN, an empty
    sum 0.

    **Raises**: ValueError for an unknown reduction, RuntimeError for a target that does not broadcast to input,
    NotImplementedError for an integer or complex input.

    **Example**:

    >>> soft_margin_loss(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0]))
    tensor(0.7201)
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
        result = cpu.lean_fused(cpu.SOFT_MARGIN, reduction, (), input, target)
        if isinstance(result, list):
            return cpu.join_lean_fused(result, cpu.SOFT_MARGIN, (), reduction, (input, target), soft_margin_loss, {})
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "soft_margin_loss"
    inputs.check_tensors_and_options(name, input, target, None, reduction, on_empty, out_dtype, backend)
    inputs.check_devices(name, input=input, target=target)
    input, target = autocast(input, target)
    inputs.check_floating(name, "input", input)
    inputs.check_arithmetic(name, target=target)
    shape = inputs.common_shape(name, input=input, target=target)
    inputs.check_not_enlarged(name, shape, input, target)
    # Whatever the dtype of target is.
    dtype = input.dtype if out_dtype is None else out_dtype
    return fused_family.fused_loss(
        name,
        cpu.SOFT_MARGIN,
        definitions.soft_margin_loss,
        (input, target),
        shape,
        Options(reduction, sample_weight, mask, normalizer, on_empty, dtype, backend),
    )
