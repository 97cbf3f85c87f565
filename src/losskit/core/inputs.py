"""Every error that a call can get for its arguments. Each is one sentence: function, argument, expected, got; then a
fix."""

import math
import numbers
import re
import sys
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from losskit.core.dispatch import BACKENDS, is_plain
from losskit.core.precision import autocast_enabled
from losskit.core.reduction import REDUCTIONS, Options, Reduction
from losskit.core.scores import ScoreOptions
from losskit.errors import (
    LosskitIndexError,
    LosskitRuntimeError,
    LosskitTypeError,
    LosskitValueError,
    UnsupportedDtypeError,
)

INDEX_DTYPES = (torch.int64, torch.uint8)
FLOAT_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_FLOAT32 = torch.finfo(torch.float32)


def shape_of(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def dtype_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def check_tensor(function: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise LosskitTypeError(f"{function}: {name} must be a torch.Tensor, got {type(value).__name__}.")


def check_choice(function: str, name: str, value: object, choices: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
        raise LosskitValueError(f"{function}: {name} must be {listed}, got {value!r}.")


def check_number(function: str, name: str, value: object) -> None:
    # A bool is one, as for torch, and so is a NumPy scalar.
    if not isinstance(value, (int, float, numbers.Real)):
        raise LosskitTypeError(f"{function}: {name} must be a number, got {type(value).__name__}.")


def check_tensors(function: str, **tensors: object) -> None:
    for name, tensor in tensors.items():
        check_tensor(function, name, tensor)


def check_bool(function: str, name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise LosskitTypeError(f"{function}: {name} must be a bool, got {type(value).__name__}.")


def check_positive_margin(function: str, margin: object) -> None:
    check_number(function, "margin", margin)
    value: float = margin  # type: ignore[assignment]  # check_number has seen that it is a number
    if value <= 0:
        raise LosskitValueError(f"{function}: margin must be greater than 0, got {value:g}.")


def check_devices(function: str, **tensors: Tensor | None) -> None:
    """All on the device of the first, a 0-dim tensor excepted where torch takes one from the CPU."""
    given = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    first_name, first = given[0]
    for name, tensor in given[1:]:
        if tensor.device != first.device:
            raise LosskitRuntimeError(
                f"{function}: {name} is on {tensor.device} but {first_name} is on {first.device}: "
                f"{name}.to({str(first.device)!r})?"
            )


def check_floating(function: str, name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and tensor.dtype not in FLOAT_DTYPES:
        raise UnsupportedDtypeError(
            f"{function}: {name} is {dtype_of(tensor)}, which has no arithmetic: {name}.float()?"
        )
    if not tensor.is_floating_point():
        fix = "take the loss of .real and .imag" if tensor.is_complex() else f"{name}.float()?"
        raise UnsupportedDtypeError(f"{function}: {name} must be floating point, got {dtype_of(tensor)}: {fix}")


def check_tensors_and_options(
    function: str,
    input: object,
    target: object,
    weight: object,
    reduction: object,
    on_empty: object,
    out_dtype: object,
    backend: object,
) -> None:
    check_tensor(function, "input", input)
    check_tensor(function, "target", target)
    if weight is not None:
        check_tensor(function, "weight", weight)
    check_common_options(function, reduction, on_empty, out_dtype, backend)


def check_not_bool(function: str, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bool:
            raise LosskitRuntimeError(f"{function}: {name} must be a number, got bool: {name}.float()?")


def check_common_options(
    function: str,
    reduction: object,
    on_empty: object,
    out_dtype: object,
    backend: object,
    reductions: Sequence[str] = REDUCTIONS,
) -> None:
    check_choice(function, "reduction", reduction, reductions)
    check_choice(function, "on_empty", on_empty, ("nan", "zero", "raise"))
    check_choice(function, "backend", backend, BACKENDS)
    if out_dtype is not None and out_dtype not in FLOAT_DTYPES:
        raise LosskitValueError(f"{function}: out_dtype must be a floating dtype or None, got {out_dtype}.")


def check_normalizer(function: str, normalizer: object, reduction: str) -> None:
    if normalizer is None:
        return
    if reduction == "none":
        raise LosskitValueError(f"{function}: normalizer divides a sum, but reduction is 'none'.")
    if isinstance(normalizer, Tensor):
        if normalizer.ndim != 0:
            raise LosskitValueError(
                f"{function}: normalizer must be a number or a 0-dim tensor, got shape {shape_of(normalizer)}."
            )
        if normalizer.is_complex():
            raise LosskitTypeError(f"{function}: normalizer must be real, got {dtype_of(normalizer)}.")
        if not is_plain(normalizer):
            return
        value = float(normalizer.detach())
    else:
        if isinstance(normalizer, bool):
            raise LosskitTypeError(f"{function}: normalizer must be a number, got bool.")
        check_number(function, "normalizer", normalizer)
        number: float = normalizer  # type: ignore[assignment]  # check_number has seen that it is a number
        # An int may be too large for a float.
        value = math.inf if number > sys.float_info.max else float(number)
    if not (value > 0 and math.isfinite(value)):
        raise LosskitValueError(f"{function}: normalizer must be positive and finite, got {value:g}.")


def check_mask(function: str, mask: object, shape: torch.Size) -> None:
    if mask is None:
        return
    check_tensor(function, "mask", mask)
    mask_tensor: Tensor = mask  # type: ignore[assignment]  # check_tensor has seen that it is one
    if mask_tensor.dtype != torch.bool:
        raise LosskitTypeError(
            f"{function}: mask must be bool (True where a value counts), got {dtype_of(mask_tensor)}: mask.bool()?"
        )
    check_broadcast(function, "mask", mask_tensor, shape)


def check_sample_weight(function: str, weight: object, shape: torch.Size) -> None:
    if weight is None:
        return
    check_tensor(function, "sample_weight", weight)
    weight_tensor: Tensor = weight  # type: ignore[assignment]  # check_tensor has seen that it is one
    if weight_tensor.is_complex():
        raise LosskitTypeError(f"{function}: sample_weight must be real, got {dtype_of(weight_tensor)}.")
    check_broadcast(function, "sample_weight", weight_tensor, shape)


def reduction_for(function: str, options: Options, shape: torch.Size, input: Tensor) -> Reduction:
    """The reduction of losses of this shape."""
    sample_weight, mask = options.sample_weight, options.mask
    check_sample_weight(function, sample_weight, shape)
    check_mask(function, mask, shape)
    check_devices(function, input=input, sample_weight=sample_weight, mask=mask)
    check_normalizer(function, options.normalizer, options.reduction)
    return Reduction(
        function=function,
        name=options.reduction,
        shape=shape,
        samples=input.shape[0] if input.ndim else 1,
        sample_weight=None if sample_weight is None else sample_weight.expand(shape),
        mask=None if mask is None else mask.expand(shape),
        normalizer=options.normalizer,
        on_empty=options.on_empty,
    )


def check_broadcast(function: str, name: str, tensor: Tensor, shape: torch.Size) -> None:
    """`tensor` may be expanded to the shape of the unreduced loss, but may not enlarge it."""
    own = tensor.shape
    fits = len(own) <= len(shape) and all(
        size in (1, full) for size, full in zip(reversed(own), reversed(shape), strict=False)
    )
    if not fits:
        raise LosskitRuntimeError(
            f"{function}: {name} must broadcast to the shape of the unreduced loss, {tuple(shape)}, "
            f"got shape {shape_of(tensor)}."
        )


def is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def check_real(function: str, input: Tensor, target: Tensor) -> None:
    """Not complex, and at least one of them floating point."""
    if input.is_complex() or not (is_inexact(input) or is_inexact(target)):
        check_floating(function, "input", input)
    if target.is_complex():
        check_floating(function, "target", target)


def check_binary(
    function: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: object,
    on_empty: object,
    out_dtype: object,
    backend: object,
) -> None:
    check_tensors_and_options(function, input, target, weight, reduction, on_empty, out_dtype, backend)
    check_devices(function, input=input, target=target, weight=weight)
    check_same_shape(function, input, target)


def broadcast_shape(function: str, input: Tensor, target: Tensor) -> torch.Size:
    """The shape of the unreduced loss. Warns where torch does: shapes that differ are rarely meant."""
    if input.shape == target.shape:
        return input.shape
    try:
        shape = torch.Size(torch.broadcast_shapes(input.shape, target.shape))
    except RuntimeError:
        raise LosskitRuntimeError(
            f"{function}: target must have the shape of input, {shape_of(input)}, got {shape_of(target)}, "
            "and the two do not broadcast."
        ) from None
    fix = ""
    if input.numel() == target.numel():
        fix = f": target.reshape({tuple(input.shape)})?"
    warnings.warn(
        f"{function}: target has shape {shape_of(target)} but input has {shape_of(input)}; they broadcast to "
        f"{tuple(shape)}, {math.prod(shape)} losses for {input.numel()} inputs{fix}",
        UserWarning,
        stacklevel=4,
    )
    return shape


def common_shape(function: str, **tensors: Tensor) -> torch.Size:
    """The shape that the tensors broadcast to."""
    first, *rest = tensors.values()
    if all(tensor.shape == first.shape for tensor in rest):
        return first.shape
    try:
        return torch.Size(torch.broadcast_shapes(*(tensor.shape for tensor in tensors.values())))
    except RuntimeError:
        shapes = ", ".join(f"{name} {shape_of(tensor)}" for name, tensor in tensors.items())
        raise LosskitRuntimeError(f"{function}: the shapes do not broadcast: {shapes}.") from None


def check_not_enlarged(function: str, shape: torch.Size, input: Tensor, target: Tensor) -> None:
    """The target may be expanded to the shape of the input, but not the other way round."""
    if shape != input.shape:
        raise LosskitRuntimeError(
            f"{function}: target must broadcast to the shape of input, {shape_of(input)}, got {shape_of(target)}."
        )


def check_same_ndim(function: str, **tensors: Tensor) -> None:
    if len({tensor.ndim for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {shape_of(tensor)}" for name, tensor in tensors.items())
        raise LosskitRuntimeError(f"{function}: the tensors must have the same number of dimensions, got {shapes}.")


def check_arithmetic(function: str, **tensors: Tensor) -> None:
    """Real numbers, of a dtype that can be computed with; integers too."""
    for name, tensor in tensors.items():
        if is_inexact(tensor):
            check_floating(function, name, tensor)


def variance_of(function: str, input: Tensor, var: object) -> Tensor:
    """The variances in a shape that broadcasts against the input."""
    if isinstance(var, float):
        if var < 0:
            raise LosskitValueError(f"{function}: var must not be negative, got {var:g}.")
        # Of integers the loss is computed in the default dtype.
        return input.new_full((), var, dtype=None if input.is_floating_point() else torch.get_default_dtype())
    if not isinstance(var, Tensor):
        raise LosskitTypeError(f"{function}: var must be a torch.Tensor or a float, got {type(var).__name__}.")
    if not var.is_floating_point():
        check_floating(function, "var", var)
    if var.shape == input.shape:
        return var
    if var.shape == input.shape[:-1]:
        return var.unsqueeze(-1)
    differing = [size for size, full in zip(var.shape, input.shape, strict=False) if size != full]
    if var.ndim != input.ndim or differing != [1]:
        short = " or ".join(str((*input.shape[:-1], *rest)) for rest in ((1,), ())) if input.ndim else "()"
        raise LosskitValueError(
            f"{function}: var must have the shape of input, {shape_of(input)}, or that with one dimension of size 1, "
            f"or without the last dimension, {short}, got {shape_of(var)}."
        )
    return var


def check_variances(function: str, var: Tensor) -> None:
    """No value is negative."""
    negative = var.detach() < 0
    found = int(negative.sum())
    if found:
        raise LosskitValueError(
            f"{function}: {found} of {var.numel()} values of var are negative (min={float(var.detach().min()):g}): "
            "a network that puts out log-variances needs var.exp()."
        )


def assert_variances(function: str, var: Tensor) -> None:
    """The same while a graph is traced: the values are looked at when it runs. The other losses index by theirs."""
    message = f"{function}: values of var are negative: a network that puts out log-variances needs var.exp()."
    # torch has no public operation for this.
    torch._assert_async(~(var.detach() < 0).any(), message)


def check_same_shape(function: str, input: Tensor, target: Tensor) -> None:
    if input.shape != target.shape:
        fix = f": target.reshape({tuple(input.shape)})?" if input.numel() == target.numel() else "."
        raise LosskitValueError(
            f"{function}: target must have the shape of input, {shape_of(input)}, got {shape_of(target)}{fix}"
        )


def check_probabilities(function: str, name: str, values: Tensor, mask: Tensor | None) -> None:
    """All that count lie in [0, 1]; a NaN does not."""
    if is_plain(values, mask):
        check_plain_probabilities(function, name, values, mask)


def check_plain_probabilities(function: str, name: str, values: Tensor, mask: Tensor | None) -> None:
    """The same of values that are there to be read."""
    values = values.detach() if mask is None else values.detach()[mask]
    if values.numel() == 0:
        return
    outside = ~((values >= 0) & (values <= 1))
    found = int(outside.sum())
    if found:
        low, high = values.aminmax()
        fix = (
            "these look like logits: binary_cross_entropy_with_logits?"
            if name == "input"
            else "these look like 0-255 values: divide by 255?"
            if float(high) > 1 and float(low) >= 0
            else "probabilities are needed."
        )
        if bool(values.isnan().any()):
            fix = f"{int(values.isnan().sum())} of them NaN."
        raise LosskitRuntimeError(
            f"{function}: {found} of {values.numel()} values of {name} lie outside [0, 1] "
            f"(min={float(low):g}, max={float(high):g}): {fix}"
        )


def class_dim_of(input: Tensor) -> int:
    return 1 if input.ndim > 1 else 0


def check_class_tensors(function: str, input: Tensor, target: Tensor, weight: Tensor | None) -> None:
    check_tensor(function, "input", input)
    check_tensor(function, "target", target)
    if weight is not None:
        check_tensor(function, "weight", weight)
    check_devices(function, input=input, target=target, weight=weight)


def check_inplace(function: str, input: Tensor, reduction: str) -> None:
    if reduction == "none":
        raise LosskitValueError(
            f"{function}: inplace_backward=True needs a reduction of 'mean' or 'sum': the gradient of single losses "
            "is not known before backward."
        )
    base = input if input._base is None else input._base
    if base.is_leaf and base.requires_grad and torch.is_grad_enabled():
        raise LosskitRuntimeError(
            f"{function}: inplace_backward=True would overwrite a leaf that requires a gradient; it is meant for the "
            "output of a layer."
        )


def check_no_overlap(function: str, input: Tensor, **tensors: Tensor | None) -> None:
    """What the kernel reads must not lie where it writes."""
    written = input.untyped_storage().data_ptr()
    for name, tensor in tensors.items():
        # Empty tensors have no memory to share.
        if written and tensor is not None and tensor.untyped_storage().data_ptr() == written:
            raise LosskitRuntimeError(
                f"{function}: inplace_backward=True overwrites input, and {name} shares its memory: {name}.clone()?"
            )


def check_class_shapes(function: str, input: Tensor, target: Tensor, name: str = "input") -> None:
    """Class indices: input (C) and target (); (N, C) and (N); (N, C, d1, …) and (N, d1, …)."""
    if input.ndim == 0:
        raise LosskitValueError(f"{function}: {name} must have a dimension of classes, got a 0-dim tensor.")
    if input.ndim == 1:
        if target.ndim > 1 or target.numel() != 1:
            error = LosskitRuntimeError if target.ndim > 1 else LosskitValueError
            raise error(
                f"{function}: {name} {shape_of(input)} is one sample of {input.shape[0]} classes, so target must be "
                f"a 0-dim tensor, got shape {shape_of(target)}."
            )
        return
    expected = (input.shape[0], *input.shape[2:])
    if tuple(target.shape) == expected:
        return
    message = f"{function}: {name} {shape_of(input)} takes a target of shape {expected}, got {shape_of(target)}"
    if input.ndim == 2 and target.ndim > 1 and target.shape[0] == input.shape[0]:
        fix = "target.squeeze(1)?" if target.shape[1] == 1 else f"one class index per row of {name} is needed."
        raise LosskitRuntimeError(f"{message}: {fix}")
    if input.ndim == 2 or (target.ndim > 0 and target.shape[0] != input.shape[0]):
        batch = target.shape[0] if target.ndim else 0
        raise LosskitValueError(f"{message}: {input.shape[0]} samples against {batch}.")
    if name == "input" and target.ndim == 2 and input.ndim == 3 and tuple(target.shape) == tuple(input.shape[:2]):
        raise LosskitRuntimeError(f"{message}: the classes belong in dim 1: input.transpose(1, 2)?")
    raise LosskitRuntimeError(f"{message}.")


def check_index_dtype(function: str, target: Tensor) -> None:
    if target.dtype in INDEX_DTYPES:
        return
    seen = f"{function}: target is {dtype_of(target)} with shape {shape_of(target)}"
    if target.is_floating_point():
        raise LosskitRuntimeError(f"{seen}, the shape of class indices; class indices must be integers: target.long()?")
    raise LosskitRuntimeError(f"{seen}; class indices must be int64 or uint8: target.long()?")


def check_probability_target(function: str, input: Tensor, target: Tensor, ignore_index: int) -> None:
    """`target` has the shape of `input`, so it holds class probabilities."""
    if not target.is_floating_point():
        raise LosskitRuntimeError(
            f"{function}: target is {dtype_of(target)} with shape {shape_of(target)}, the shape of class "
            "probabilities, which are floating point: target.float(), or target.argmax(1) for class indices?"
        )
    if ignore_index >= 0:
        raise LosskitRuntimeError(
            f"{function}: ignore_index={ignore_index} needs class indices, but target holds class probabilities "
            f"of shape {shape_of(target)}: mask= leaves samples out."
        )


def check_class_weight(function: str, weight: Tensor | None, classes: int) -> None:
    if weight is None:
        return
    if weight.ndim != 1 or weight.shape[0] != classes:
        raise LosskitRuntimeError(
            f"{function}: weight must hold one value for each of the {classes} classes, shape ({classes},), "
            f"got {shape_of(weight)}."
        )


def check_weight_dtype(function: str, weight: Tensor | None, input: Tensor) -> None:
    if weight is None:
        return
    if weight.dtype != input.dtype:
        raise LosskitRuntimeError(
            f"{function}: weight must have the dtype of input, {dtype_of(input)}, got {dtype_of(weight)}: "
            f"weight.to({input.dtype})?"
        )
    if weight.requires_grad:
        raise LosskitRuntimeError(
            f"{function}: weight has no gradient with class indices, but it requires one: weight.detach()?"
        )


def check_label_smoothing(function: str, label_smoothing: object) -> None:
    check_number(function, "label_smoothing", label_smoothing)
    value: float = label_smoothing  # type: ignore[assignment]  # check_number has seen that it is a number
    if not 0.0 <= value <= 1.0:
        raise LosskitRuntimeError(f"{function}: label_smoothing must lie in [0, 1], got {value:g}.")


def score_options(
    function: str, z_loss: object, softcap: object, logit_scale: object, return_stats: object
) -> ScoreOptions:
    for name, value in (("z_loss", z_loss), ("logit_scale", logit_scale), ("softcap", softcap)):
        if name == "softcap" and value is None:
            continue
        if isinstance(value, Tensor):
            raise LosskitTypeError(
                f"{function}: {name} must be a number, got a tensor: multiply the scores by it instead?"
            )
        check_number(function, name, value)
        given: float = value  # type: ignore[assignment]  # check_number has seen that it is a number
        # An int may be too large for a float. torch.compile traces a comparison, and not math.isfinite.
        number = (math.inf if given > 0 else -math.inf) if abs(given) > sys.float_info.max else float(given)
        if not -math.inf < number < math.inf:
            raise LosskitValueError(f"{function}: {name} must be finite, got {number:g}.")
        if name == "z_loss" and number < 0:
            raise LosskitValueError(f"{function}: z_loss must be 0 or more, got {number:g}.")
        if name == "softcap" and number <= 0:
            raise LosskitValueError(f"{function}: softcap must be greater than 0, got {number:g}: None is no cap.")
        # What is computed in float32 would be multiplied by infinity, and a cap of 0 is none for the kernels.
        if abs(number) > _FLOAT32.max or (name == "softcap" and number < _FLOAT32.tiny):
            raise LosskitValueError(
                f"{function}: {name} must be a normal number of float32, at most {_FLOAT32.max:.3g}, got {number:g}."
            )
    check_bool(function, "return_stats", return_stats)
    return ScoreOptions(
        float(z_loss),  # type: ignore[arg-type]  # as above
        None if softcap is None else float(softcap),  # type: ignore[arg-type]  # as above
        float(logit_scale),  # type: ignore[arg-type]  # as above
        bool(return_stats),
    )


def check_int(function: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise LosskitTypeError(f"{function}: {name} must be an int, got {type(value).__name__}.")


def check_shift(function: str, shift: object) -> None:
    check_int(function, "shift", shift)
    number: int = shift  # type: ignore[assignment]  # check_int has seen that it is one
    if number < 0:
        raise LosskitValueError(f"{function}: shift must be 0 or more, got {number}.")


def check_ignore_index(function: str, ignore_index: int) -> None:
    check_int(function, "ignore_index", ignore_index)
    if not -(2**63) <= ignore_index < 2**63:
        raise LosskitRuntimeError(f"{function}: ignore_index must fit 64 bits, got {ignore_index}.")


def check_range(function: str, target: Tensor, lowest: int, classes: int) -> None:
    """Every class index lies in [lowest, classes). A RuntimeError, which is what torch raises for the margin losses."""
    if target.numel() == 0:
        return
    outside = (target < lowest) | (target >= classes)
    found = int(outside.sum())
    if not found:
        return
    first = [int(place) for place in outside.nonzero()[0]]
    at = "" if not first else f" at index {first[0]}" if len(first) == 1 else f" at row {first[0]}, place {first[1]}"
    low, high = int(target.min()), int(target.max())
    seen = f"min={low}, max={high}"
    listed = sorted(set(target[outside].tolist()))
    if low >= 1 and high == classes:
        cause = f"{seen}=C: these labels look 1-based."
    elif len(listed) == 1 and listed[0] < 0 and lowest == 0:
        cause = f"{seen}: if {listed[0]} marks samples to leave out: mask=(target != {listed[0]})?"
    else:
        cause = f"{seen}: {classes} is the number of classes in input."
    shown = ", ".join(map(str, listed[:5])) + (", …" if len(listed) > 5 else "")
    raise LosskitRuntimeError(
        f"{function}: {found} of {target.numel()} targets lie outside [{lowest}, {classes}): {{{shown}}}"
        f"{', first' + at if at else ''}. {cause}"
    )


def check_class_range(function: str, target: Tensor, classes: int, counts: Tensor) -> None:
    """Every index that counts lies in [0, classes)."""
    if is_plain(target):
        check_plain_class_range(function, target, classes, counts)


def check_plain_class_range(function: str, target: Tensor, classes: int, counts: Tensor) -> None:
    """The same of a target whose values are there to be read."""
    if target.numel() == 0:
        return
    # A comparison in uint8 would take the number of classes modulo 256.
    target = target.long()
    outside = counts & ((target < 0) | (target >= classes))
    found = int(outside.sum())
    if not found:
        return
    wrong = target[outside]
    first = int(outside.flatten().nonzero()[0])
    listed = sorted(set(wrong.tolist()))
    shown = ", ".join(map(str, listed[:5])) + (", …" if len(listed) > 5 else "")
    counted = target[counts]
    low, high = int(counted.min()), int(counted.max())
    raise LosskitIndexError(
        f"{function}: {found} of {target.numel()} targets lie outside [0, {classes}): {{{shown}}}, "
        f"first at index {first}. {_likely_cause(low, high, classes, listed)}"
    )


def _likely_cause(low: int, high: int, classes: int, wrong: list[int]) -> str:
    seen = f"min={low}, max={high}"
    if low >= 1 and high == classes:
        return f"{seen}=C: these labels look 1-based."
    if wrong == [255]:
        return f"{seen}: 255 usually marks unlabelled pixels: ignore_index=255?"
    if len(wrong) == 1 and wrong[0] < 0:
        return f"{seen}: if {wrong[0]} marks samples to leave out: ignore_index={wrong[0]}?"
    return f"{seen}: {classes} is the size of the class dimension of input."


def check_int64(function: str, target: Tensor) -> None:
    if target.dtype != torch.int64:
        raise LosskitRuntimeError(
            f"{function}: target must hold class indices of dtype int64, got {dtype_of(target)}: target.long()?"
        )


def check_row_of_scores(function: str, input: Tensor) -> None:
    """(N, C), (C) or, of one class, ()."""
    if input.ndim > 2 or (input.ndim > 0 and input.shape[-1] == 0):
        raise LosskitRuntimeError(
            f"{function}: input must have the shape (N, C) or (C) with at least one class, got {shape_of(input)}."
        )


def check_index_per_row(function: str, input: Tensor, target: Tensor) -> None:
    rows = input.shape[0] if input.ndim == 2 else 1
    if target.ndim > 1 or target.numel() != rows:
        expected = f"({rows},)" if input.ndim == 2 else "() or (1,)"
        fix = ": target.flatten()?" if target.numel() == rows else "."
        raise LosskitRuntimeError(
            f"{function}: input {shape_of(input)} takes a class index per row, target of shape {expected}, got "
            f"{shape_of(target)}{fix}"
        )


def check_list_per_row(function: str, input: Tensor, target: Tensor) -> None:
    single = input.ndim < 2 and target.ndim < 2 and input.numel() == target.numel()
    if not single and input.shape != target.shape:
        raise LosskitRuntimeError(
            f"{function}: target must have the shape of input, {shape_of(input)}, a list of classes per row that ends "
            f"before a -1, got {shape_of(target)}."
        )


def check_one_sign_per_pair(function: str, input1: Tensor, input2: Tensor, target: Tensor) -> None:
    if target.ndim > 1:
        raise LosskitRuntimeError(
            f"{function}: target must hold one sign per pair of vectors, shape (N,) or (), got {shape_of(target)}."
        )
    if input1.ndim != target.ndim + 1 or input2.ndim != target.ndim + 1:
        expected = "(N, D)" if target.ndim else "(D)"
        raise LosskitRuntimeError(
            f"{function}: a target of shape {shape_of(target)} takes inputs of shape {expected}, got "
            f"{shape_of(input1)} and {shape_of(input2)}."
        )


def check_same_dims(function: str, **tensors: Tensor) -> None:
    dims = [tensor.ndim for tensor in tensors.values()]
    if any(ndim != dims[0] for ndim in dims):
        names = list(tensors)
        raise LosskitRuntimeError(
            f"{function}: {', '.join(names[:-1])} and {names[-1]} must have the same number of dimensions, got shapes "
            f"{', '.join(map(shape_of, tensors.values()))}."
        )


def shape_of_rows(function: str, *pairs: tuple[tuple[str, torch.Size], tuple[str, torch.Size]]) -> torch.Size:
    """The shape of one value per row, of pairs of named shapes that broadcast; the rows broadcast between the pairs."""
    rows = []
    for (first_name, first), (second_name, second) in pairs:
        try:
            rows.append(torch.broadcast_shapes(first, second)[:-1])
        except RuntimeError:
            raise LosskitRuntimeError(
                f"{function}: {second_name} must have the shape of {first_name}, {tuple(first)}, got {tuple(second)}, "
                "and the two do not broadcast."
            ) from None
    try:
        return torch.Size(torch.broadcast_shapes(*rows))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in dict(sum(pairs, ())).items())
        raise LosskitRuntimeError(f"{function}: the rows of {shapes} do not broadcast.") from None


def check_linear(function: str, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """input (…, K) and weight (C, K), or (N, K) and (C, d1, …, K); bias as the weight without K."""
    check_devices(function, input=input, linear_weight=weight, linear_bias=bias)
    check_floating(function, "input", input)
    if input.ndim == 0:
        raise LosskitRuntimeError(f"{function}: input must have shape (K) or (…, K), got a 0-dim tensor.")
    if weight.ndim < 2:
        raise LosskitRuntimeError(
            f"{function}: linear_weight must have shape (C, K) or (C, d1, …, K), got {shape_of(weight)}."
        )
    if input.shape[-1] != weight.shape[-1]:
        raise LosskitRuntimeError(
            f"{function}: input {shape_of(input)} has {input.shape[-1]} features but linear_weight {shape_of(weight)} "
            f"takes {weight.shape[-1]}."
        )
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise LosskitRuntimeError(
            f"{function}: linear_bias must have the shape of linear_weight without its last dimension, "
            f"{tuple(weight.shape[:-1])}, got {shape_of(bias)}."
        )
    if weight.ndim > 2 and input.ndim != 2:
        fix = ": input.unsqueeze(0)?" if input.ndim == 1 else "."
        raise LosskitRuntimeError(
            f"{function}: linear_weight {shape_of(weight)} needs an input of shape (N, {weight.shape[-1]}), got "
            f"{shape_of(input)}{fix}"
        )
    for name, tensor in (("linear_weight", weight), ("linear_bias", bias)):
        if tensor is not None and tensor.dtype != input.dtype and not autocast_enabled(input.device.type):
            raise LosskitRuntimeError(
                f"{function}: {name} must have the dtype of input, {dtype_of(input)}, got {dtype_of(tensor)}: "
                f"{name}.to({input.dtype})?"
            )


def ignored_index(function: str, ignore_index: int | None, probabilities: bool) -> int:
    """The class index that does not count; None is torch's −100."""
    if ignore_index is None:
        return -100
    check_ignore_index(function, ignore_index)
    if probabilities:
        raise LosskitRuntimeError(
            f"{function}: ignore_index={ignore_index} needs class indices, but target holds class probabilities: "
            "mask= leaves samples out."
        )
    return ignore_index


_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def bytes_of(function: str, name: str, size: object) -> int:
    """A number of bytes, or a text such as "256MiB"."""
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d{1,18})\s*([A-Za-z]*)\s*", size)
        if found and found[2] in _UNITS and int(found[1]) > 0:
            return int(found[1]) * _UNITS[found[2]]
    elif isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    raise LosskitValueError(
        f"{function}: {name} must be a positive number of bytes, or a text such as '256MiB', got {size!r}."
    )


def filter_bound(function: str, filter_eps: object) -> float:
    check_number(function, "filter_eps", filter_eps)
    value = float(filter_eps)  # type: ignore[arg-type]  # check_number has seen that it is a number
    if not 0.0 <= value < 1.0:
        raise LosskitValueError(f"{function}: filter_eps must lie in [0, 1), got {value:g}.")
    return value


def check_linear_options(function: str, options: object) -> None:
    kind = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if options is not None and (kind is None or not isinstance(options, kind)):
        raise LosskitTypeError(
            f"{function}: options must be a torch.nn.LinearCrossEntropyOptions or None, got {type(options).__name__}."
        )


def check_ctc_tensors(function: str, log_probs: Tensor, targets: Tensor, blank: object, zero_infinity: object) -> None:
    """What can be told without reading a number: log_probs (T, N, C) or (T, C), targets (N, S) or (sum of lengths)."""
    if not isinstance(zero_infinity, bool):
        raise LosskitTypeError(f"{function}: zero_infinity must be a bool, got {type(zero_infinity).__name__}.")
    check_int(function, "blank", blank)
    if log_probs.ndim not in (2, 3):
        raise LosskitRuntimeError(
            f"{function}: log_probs must have shape (T, N, C) or (T, C), got {shape_of(log_probs)}."
        )
    check_floating(function, "log_probs", log_probs)
    if log_probs.numel() == 0:
        raise LosskitRuntimeError(
            f"{function}: log_probs must hold at least one frame, sample and class, got shape {shape_of(log_probs)}."
        )
    classes, batch = log_probs.shape[-1], log_probs.shape[1] if log_probs.ndim == 3 else 1
    index: int = blank  # type: ignore[assignment]  # check_int has seen that it is one
    if not 0 <= index < classes:
        raise LosskitRuntimeError(f"{function}: blank must lie in [0, {classes}), got {index}.")
    if targets.is_complex():
        raise LosskitRuntimeError(f"{function}: targets must hold labels, got {dtype_of(targets)}.")
    if targets.ndim not in (1, 2):
        raise LosskitRuntimeError(
            f"{function}: targets must have shape (N, S), or (sum of target_lengths), got {shape_of(targets)}."
        )
    if targets.ndim == 2 and targets.shape[0] != batch:
        transposed = log_probs.ndim == 3 and targets.shape[0] == log_probs.shape[0]
        fix = "log_probs.transpose(0, 1)?" if transposed else "(N, S) is needed."
        raise LosskitRuntimeError(
            f"{function}: targets {shape_of(targets)} holds {targets.shape[0]} samples but log_probs "
            f"{shape_of(log_probs)} holds {batch}: {fix}"
        )


def ctc_lengths(function: str, name: str, lengths: object, batch: int, like: Tensor) -> Tensor:
    """The lengths as an int64 tensor of shape (N)."""
    if isinstance(lengths, Tensor):
        if is_inexact(lengths) or lengths.dtype == torch.bool:
            raise LosskitRuntimeError(f"{function}: {name} must be integers, got {dtype_of(lengths)}: {name}.long()?")
        count = lengths.numel()
        found = lengths.reshape(-1).to(like.device, torch.int64)
    else:
        if not isinstance(lengths, (tuple, list)):
            raise LosskitTypeError(
                f"{function}: {name} must be a tensor or a tuple of ints, got {type(lengths).__name__}."
            )
        for length in lengths:
            check_int(function, f"each of {name}", length)
        count = len(lengths)
        found = torch.tensor(lengths, dtype=torch.int64, device=like.device)
    if count != batch:
        raise LosskitRuntimeError(
            f"{function}: {name} must hold one length for each of the {batch} samples of log_probs, got {count}."
        )
    return found


def check_ctc_lengths(
    function: str, frames: int, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor
) -> None:
    """Every length fits its tensor. Read before anything is read by them."""
    if is_plain(targets, input_lengths, target_lengths):
        check_plain_ctc_lengths(function, frames, targets, input_lengths, target_lengths)


def check_plain_ctc_lengths(
    function: str, frames: int, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor
) -> None:
    """The same of tensors whose values are there to be read."""
    room = targets.shape[1] if targets.ndim == 2 else targets.shape[0]
    for name, lengths, limit, holder in (
        ("input_lengths", input_lengths, frames, f"log_probs has {frames} frames"),
        ("target_lengths", target_lengths, room, f"targets, shape {shape_of(targets)}, has room for {room} labels"),
    ):
        for n, length in enumerate(lengths.tolist()):
            if length < 0:
                raise LosskitRuntimeError(f"{function}: {name}[{n}] must be at least 0, got {length}.")
            if length > limit:
                raise LosskitRuntimeError(f"{function}: {name}[{n}] is {length} but {holder}.")
    total = int(target_lengths.sum())
    if targets.ndim == 1 and total != room:
        raise LosskitRuntimeError(
            f"{function}: target_lengths add up to {total} but targets, one sample after another, holds {room} labels: "
            "targets of shape (N, S) may be padded."
        )


def check_ctc_labels(function: str, labels: Tensor, target_lengths: Tensor, classes: int, mask: Tensor | None) -> None:
    """Every label lies in [0, classes): (N, S), of which the first target_lengths count, in samples that count."""
    if is_plain(labels, target_lengths, mask):
        check_plain_ctc_labels(function, labels, target_lengths, classes, mask)


def check_plain_ctc_labels(
    function: str, labels: Tensor, target_lengths: Tensor, classes: int, mask: Tensor | None
) -> None:
    """The same of tensors whose values are there to be read."""
    counts = torch.arange(labels.shape[1]) < target_lengths.unsqueeze(1)
    if mask is not None:
        counts &= mask.reshape(-1, 1)
    outside = counts & ((labels < 0) | (labels >= classes))
    found = int(outside.sum())
    if not found:
        return
    sample, place = outside.nonzero()[0].tolist()
    listed = sorted(set(labels[outside].tolist()))
    shown = ", ".join(map(str, listed[:5])) + (", …" if len(listed) > 5 else "")
    fix = "these labels look 1-based." if listed == [classes] else f"{classes} is the last size of log_probs."
    raise LosskitIndexError(
        f"{function}: {found} of {int(counts.sum())} labels lie outside [0, {classes}): {{{shown}}}, first in sample "
        f"{sample} at place {place}: {fix}"
    )


def check_pairs(function: str, **features: Tensor) -> None:
    """Two matrices with a row for each pair."""
    for name, tensor in features.items():
        check_floating(function, name, tensor)
        if tensor.ndim != 2:
            fix = f": {name}.unsqueeze(0)?" if tensor.ndim == 1 else f": {name}.flatten(1)?" if tensor.ndim else "."
            raise LosskitRuntimeError(
                f"{function}: {name} must have shape (N, D), a vector for each pair, got {shape_of(tensor)}{fix}"
            )
        if tensor.shape[1] == 0:
            raise LosskitRuntimeError(
                f"{function}: {name} must hold vectors of at least one number, got shape {shape_of(tensor)}."
            )
    (first_name, first), (second_name, second) = features.items()
    if first.shape[0] != second.shape[0]:
        raise LosskitValueError(
            f"{function}: {first_name} and {second_name} must hold as many vectors, the n-th of one belonging to the "
            f"n-th of the other, got {first.shape[0]} and {second.shape[0]}."
        )
    _check_same_vectors(function, first_name, first, second_name, second)


def _check_same_vectors(function: str, first_name: str, first: Tensor, name: str, tensor: Tensor) -> None:
    if tensor.shape[-1] != first.shape[-1]:
        raise LosskitRuntimeError(
            f"{function}: the vectors of {name} must be as long as those of {first_name}, {first.shape[-1]}, got "
            f"{tensor.shape[-1]}: do both come out of a projection to the same size?"
        )
    if tensor.dtype != first.dtype:
        raise LosskitRuntimeError(
            f"{function}: {name} must have the dtype of {first_name}, {dtype_of(first)}, got {dtype_of(tensor)}: "
            f"{name}.to({first.dtype})?"
        )


def check_negatives(function: str, query: Tensor, negatives: Tensor) -> None:
    """(M, D), the same for each query, or (N, M, D)."""
    check_floating(function, "negatives", negatives)
    fits = negatives.ndim == 2 or (negatives.ndim == 3 and negatives.shape[0] == query.shape[0])
    if not fits:
        n, d = query.shape
        raise LosskitRuntimeError(
            f"{function}: negatives must have shape (M, {d}), the same for each query, or ({n}, M, {d}), got "
            f"{shape_of(negatives)}."
        )
    _check_same_vectors(function, "query", query, "negatives", negatives)


def check_one_number(function: str, name: str, value: object, positive: bool = False) -> Tensor:
    """A number, or a tensor of one that may have a gradient; as a 0-dim tensor of floating point."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.ndim > 1:
            raise LosskitRuntimeError(
                f"{function}: {name} must be a number or a tensor of one, got shape {shape_of(value)}."
            )
        if value.is_complex() or value.dtype == torch.bool:
            raise LosskitTypeError(f"{function}: {name} must be real, got {dtype_of(value)}.")
        number = value.reshape(())
        number = number if number.is_floating_point() else number.to(torch.get_default_dtype())
        if positive and is_plain(number) and float(number.detach()) <= 0:
            raise LosskitValueError(f"{function}: {name} must be greater than 0, got {float(number.detach()):g}.")
        return number
    if isinstance(value, bool):
        raise LosskitTypeError(f"{function}: {name} must be a number, got bool.")
    check_number(function, name, value)
    real: float = value  # type: ignore[assignment]  # check_number has seen that it is a number
    if not math.isfinite(real):
        raise LosskitValueError(f"{function}: {name} must be finite, got {real:g}.")
    if positive and real <= 0:
        raise LosskitValueError(f"{function}: {name} must be greater than 0, got {real:g}.")
    return torch.tensor(float(real), dtype=torch.float64)
