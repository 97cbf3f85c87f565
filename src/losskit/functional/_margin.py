"""Losses of a margin between scores."""

import torch
from torch import Tensor
from torch.compiler import is_compiling

from losskit.core import dispatch, inputs
from losskit.core.precision import common_dtype
from losskit.core.reduction import Options, legacy_reduction
from losskit.families import fused as fused_family
from losskit.kernels import cpu
from losskit.losses import margin as definitions


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

    **Args**: `input`: scores x, any shape, floating point. `target`: y, −1 or 1, of the shape of input. `size_average`,
    `reduce`: PyTorch's deprecated flags; they win over `reduction`. `reduction`: `"none"`, `"mean"`, `"sum"`. The other
    keywords are described at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the shape of input with `reduction="none"`; in nats. `mean` divides by the number of
    losses.

    **Gradient**: by input: −y·σ(−y·x); by target: −x·σ(−y·x).

    **Edge cases**: no overflow: where −y·x is large the loss is −y·x. NaN comes through. An empty mean is NaN, an empty
    sum 0.

    **Raises**: ValueError for an unknown reduction, RuntimeError for shapes that differ.

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
    inputs.check_floating(name, "input", input)
    shape = inputs.broadcast_shape(name, input, target)
    dtype = common_dtype(input, target) if out_dtype is None else out_dtype
    return fused_family.fused_loss(
        name,
        cpu.SOFT_MARGIN,
        definitions.soft_margin_loss,
        (input, target),
        shape,
        Options(reduction, sample_weight, mask, normalizer, on_empty, dtype, backend),
    )
