"""Losses of the distance between vectors."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn.functional import pairwise_distance

from losskit.core import dispatch, inputs
from losskit.core.precision import autocast, common_dtype, floating_dtype, narrow, widen
from losskit.core.reduction import Options, legacy_reduction, where
from losskit.errors import LosskitRuntimeError, LosskitTypeError
from losskit.families import fused as fused_family
from losskit.kernels import cpu
from losskit.losses import embedding as definitions


def cosine_embedding_loss(
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
    """Cosine of the angle between two vectors against a sign: 1 − cos for y = 1, max(0, cos − margin) for y = −1.

    **Equivalent to**:

        cosine = F.cosine_similarity(input1, input2)
        torch.where(target == 1, 1 - cosine, (cosine - margin).clamp_min(0)).mean()

    **Args**: `input1`, `input2`: vectors (N, D) or (D), numbers (others broadcast). `target`: y, 1 or −1, (N) or (), of
    any dtype; where it is neither, the loss is 0. `margin`: a number, best between 0 and 0.5. `size_average`, `reduce`:
    PyTorch's deprecated flags; they win over `reduction`. `reduction`: `"none"`, `"mean"`, `"sum"`. The other keywords
    are described at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or (N) or () with `reduction="none"`; without unit. `mean` divides by the number of
    pairs.

    **Gradient**: by input1 and input2: that of the cosine; 0 where the cosine is below the margin.

    **Edge cases**: the cosine with a vector of zeros is 0. An empty mean is NaN, an empty sum 0; NaN comes through.

    **Raises**: RuntimeError for shapes that do not fit, ValueError for an unknown reduction.

    **Example**:

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> cosine_embedding_loss(x, torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([1, -1]))
    tensor(0.5000)
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
        and isinstance(margin, (int, float))
        and not is_compiling()
        and not dispatch.watchers
    ):
        result = cpu.lean_fused(cpu.COSINE_EMBEDDING, reduction, (margin,), input1, input2, target)
        if isinstance(result, list):
            return cpu.join_lean_fused(
                result,
                cpu.COSINE_EMBEDDING,
                (margin,),
                reduction,
                (input1, input2, target),
                cosine_embedding_loss,
                {"margin": margin},
            )
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "cosine_embedding_loss"
    inputs.check_tensors(name, input1=input1, input2=input2, target=target)
    inputs.check_common_options(name, reduction, on_empty, out_dtype, backend)
    inputs.check_number(name, "margin", margin)
    inputs.check_devices(name, input1=input1, input2=input2, target=target)
    for place, tensor in (("input1", input1), ("input2", input2)):
        if tensor.is_floating_point() or tensor.is_complex():
            inputs.check_floating(name, place, tensor)
    inputs.check_one_sign_per_pair(name, input1, input2, target)
    signs = ("target", target.unsqueeze(-1).shape)
    shape = inputs.shape_of_rows(name, (("input1", input1.shape), ("input2", input2.shape)), (signs, signs))
    input1, input2 = (_floating(tensor) for tensor in autocast(input1, input2))
    dtype = common_dtype(input1, input2)
    if target.dtype != dtype:
        # Rounding could make a 1 of what is none.
        target = (target == 1).to(dtype) - (target == -1).to(dtype)
    return fused_family.fused_loss(
        name,
        cpu.COSINE_EMBEDDING,
        lambda input1, input2, target: definitions.cosine_embedding_loss(input1, input2, target, margin),
        (input1, input2, target.expand(shape)),
        shape,
        Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype or dtype, backend),
        parameters=(float(margin),),
        rows=True,
    )


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
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
    """Distance to the positive against distance to the negative: max(0, margin + d(a, p) − d(a, n)).

    d(x, y) = ‖x − y + eps‖_p. With `swap`, d(a, n) is min(d(a, n), d(p, n)).

    **Equivalent to**:

        distance = torch.nn.PairwiseDistance(p, eps)
        (margin + distance(anchor, positive) - distance(anchor, negative)).clamp_min(0).mean()

    **Args**: `anchor`, `positive`, `negative`: vectors (…, D), numbers, the same shape for all (others broadcast).
    `margin`: above 0. `p`: the order of the norm, any number. `eps`: added to each difference. `swap`: whether the
    positive may take the place of the anchor. `size_average`, `reduce`: PyTorch's deprecated flags; they win over
    `reduction`. `reduction`: `"none"`, `"mean"`, `"sum"`. The other keywords are described at the head of
    `losskit.functional`.

    **Returns**: a 0-dim tensor, or the shape of anchor without its last axis with `reduction="none"`; in units of the
    vectors. `mean` divides by the number of triplets.

    **Gradient**: by all three: those of the distances, 0 at a distance of 0, and 0 where the loss is below 0 before it
    is clamped; two distances that are the same under `swap` take half each.

    **Edge cases**: an empty mean is NaN, an empty sum 0; NaN comes through.

    **Raises**: ValueError for a margin of 0 or below or an unknown reduction; RuntimeError for shapes that do not
    broadcast or numbers of dimensions that differ.

    **Example**:

    >>> a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 4.5]])
    >>> triplet_margin_loss(a, p, n)
    tensor(1.5000)
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
        and isinstance(margin, (int, float))
        and margin > 0
        and isinstance(p, (int, float))
        and (p == 2 or p == 1)
        and isinstance(eps, (int, float))
        and isinstance(swap, bool)
        and not is_compiling()
        and not dispatch.watchers
    ):
        result = cpu.lean_fused(cpu.TRIPLET_MARGIN, reduction, (margin, p, eps, swap), anchor, positive, negative)
        if isinstance(result, list):
            return cpu.join_lean_fused(
                result,
                cpu.TRIPLET_MARGIN,
                (margin, p, eps, swap),
                reduction,
                (anchor, positive, negative),
                triplet_margin_loss,
                {"margin": margin, "p": p, "eps": eps, "swap": swap},
            )
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "triplet_margin_loss"
    inputs.check_tensors(name, anchor=anchor, positive=positive, negative=negative)
    inputs.check_common_options(name, reduction, on_empty, out_dtype, backend)
    inputs.check_positive_margin(name, margin)
    inputs.check_number(name, "p", p)
    inputs.check_number(name, "eps", eps)
    inputs.check_bool(name, "swap", swap)
    shape = _shape_of_triplets(name, anchor, positive, negative, swap)
    if anchor.shape[-1:].numel() == 0 and (p < 0 or p == float("inf")):
        raise LosskitRuntimeError(f"{name}: vectors without elements have no norm of order {p:g}.")
    given = autocast(anchor, positive, negative)
    dtype = _real_dtype(*given) if out_dtype is None else out_dtype
    anchor, positive, negative = (_floating(tensor) for tensor in given)
    return fused_family.fused_loss(
        name,
        cpu.TRIPLET_MARGIN,
        lambda anchor, positive, negative: definitions.triplet_margin_loss(
            anchor, positive, negative, margin, p, eps, swap
        ),
        (anchor, positive, negative),
        shape,
        Options(reduction, sample_weight, mask, normalizer, on_empty, dtype, backend),
        parameters=(float(margin), float(p), float(eps), float(swap)),
        rows=True,
        no_kernel="" if p in (1, 2) else f"the kernel has the norms of order 1 and 2, not {p:g}",
    )


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """`triplet_margin_loss` with any distance: max(0, margin + d(a, p) − d(a, n)).

    With `swap`, d(a, n) is min(d(a, n), d(p, n)).

    **Equivalent to**:

        to_positive, to_negative = distance_function(anchor, positive), distance_function(anchor, negative)
        (margin + to_positive - to_negative).clamp_min(0).mean()

    **Args**: `anchor`, `positive`, `negative`: whatever `distance_function` takes, with the same number of dimensions.
    `distance_function`: from two tensors to a distance for each pair; None is `torch.nn.PairwiseDistance()`. `margin`:
    above 0. `swap`: whether the positive may take the place of the anchor. `reduction`: `"none"`, `"mean"`, `"sum"`.
    The other keywords are described at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the shape of the distances with `reduction="none"`; in their unit. `mean` divides by
    their number.

    **Gradient**: by whatever the distances have one by; 0 where the loss is below 0 before it is clamped.

    **Edge cases**: the definition runs, since a distance of any kind has no kernel; in the dtype of the distances,
    without `distance_function` in float32 for half precisions. Where the distances stand along the first axes of the
    tensors, `distance_function` gets zeros for what `mask` leaves out. An empty mean is NaN, an empty sum 0; NaN comes
    through.

    **Raises**: ValueError for a margin of 0 or below or an unknown reduction, RuntimeError for numbers of dimensions
    that differ, TypeError for distances that are no tensor.

    **Example**:

    >>> a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 4.5]])
    >>> triplet_margin_with_distance_loss(a, p, n, distance_function=lambda x, y: (x - y).abs().amax(-1))
    tensor(0.5000)
    """
    name, reason = "triplet_margin_with_distance_loss", "a distance of any kind has no kernel"
    inputs.check_tensors(name, anchor=anchor, positive=positive, negative=negative)
    inputs.check_common_options(name, reduction, on_empty, out_dtype, backend)
    inputs.check_positive_margin(name, margin)
    inputs.check_same_dims(name, anchor=anchor, positive=positive, negative=negative)
    tensors = (anchor, positive, negative)
    distance = distance_function
    dtype = out_dtype
    if distance is None:
        _shape_of_triplets(name, anchor, positive, negative, swap)
        dtype = _real_dtype(*tensors) if out_dtype is None else out_dtype
        tensors = (widen(_floating(anchor)), widen(_floating(positive)), widen(_floating(negative)))
        distance = pairwise_distance
    elif not callable(distance):
        raise LosskitTypeError(
            f"{name}: distance_function must be callable or None, got {type(distance_function).__name__}."
        )
    if backend in ("cpu", "triton"):
        raise dispatch.named_backend_error(name, backend, reason)
    dispatch.note("reference", "backend='reference' was asked for" if backend == "reference" else reason)
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        tensors = (_counted(mask, tensors[0]), _counted(mask, tensors[1]), _counted(mask, tensors[2]))
    values = definitions.triplet_margin_with_distance_loss(*tensors, _checked(name, distance), margin, swap)
    options = Options(reduction, sample_weight, mask, normalizer, on_empty, dtype, backend)
    result = inputs.reduction_for(name, options, values.shape, values).apply(values, None)
    return narrow(result, values.dtype if dtype is None else dtype)


def _floating(tensor: Tensor) -> Tensor:
    """Integers as numbers of the default dtype, as a division would make them."""
    return tensor if inputs.is_inexact(tensor) else tensor.to(torch.get_default_dtype())


def _real_dtype(*tensors: Tensor) -> torch.dtype:
    """Of a distance between vectors of these dtypes."""
    dtype = floating_dtype(*tensors)
    # Not dtype.to_real(), which torch.compile does not trace.
    return {torch.complex128: torch.float64, torch.complex64: torch.float32}.get(dtype, dtype)


def _shape_of_triplets(name: str, anchor: Tensor, positive: Tensor, negative: Tensor, swap: bool) -> torch.Size:
    inputs.check_devices(name, anchor=anchor, positive=positive, negative=negative)
    inputs.check_not_bool(name, anchor=anchor, positive=positive, negative=negative)
    for place, tensor in (("anchor", anchor), ("positive", positive), ("negative", negative)):
        if tensor.is_floating_point():
            inputs.check_floating(name, place, tensor)
    inputs.check_same_dims(name, anchor=anchor, positive=positive, negative=negative)
    a, p, n = ("anchor", anchor.shape), ("positive", positive.shape), ("negative", negative.shape)
    return inputs.shape_of_rows(name, (a, p), (a, n), *([(p, n)] if swap else []))


def _counted(mask: Tensor, tensor: Tensor) -> Tensor:
    """Zeros for what the mask leaves out, where its axes are the first ones of the tensor."""
    sizes = zip(mask.shape, tensor.shape, strict=False)
    if mask.ndim > tensor.ndim or any(own not in (1, size) for own, size in sizes):
        return tensor
    return where(mask.reshape(*mask.shape, *(1 for _ in tensor.shape[mask.ndim :])), tensor)


def _checked(name: str, distance: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def checked(x: Tensor, y: Tensor) -> Tensor:
        found = distance(x, y)
        inputs.check_tensor(name, "what distance_function returns", found)
        return found

    return checked
