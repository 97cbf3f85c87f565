"""Losses of a margin between scores."""

import torch
from torch import Tensor
from torch.compiler import is_compiling

from losskit.core import dispatch, inputs
from losskit.core.precision import autocast, floating_dtype
from losskit.core.reduction import Options, legacy_reduction
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
