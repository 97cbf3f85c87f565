"""The kernels as operators of torch, `torch.ops.losskit`: what `torch.compile` puts into its graph.

A. An operator is the eager call without its node: it takes the checked arguments, checks what depends on values when it
   runs, and raises the same errors.
B. `needs_grad` computes the gradient along with the loss. It does not leave as a tensor: a graph may not write to a
   tensor that it has saved, so that multiplying it by grad_output would copy it, which costs as much as the loss. It
   stays with the owner of a second result, one byte, whose storage keeps the owner alive, and the backward operator
   takes it from there.
C. Where it is gone (a second backward pass, a byte that was copied) the backward operator computes it anew from the
   tensors that it is given. Its result is the same either way.
D. The backward operator has no derivative and says so.
"""

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from losskit.core.inputs import class_dim_of
from losskit.core.reduction import Reduction
from losskit.errors import LosskitRuntimeError
from losskit.families import pointwise, softmax
from losskit.kernels import cpu


class _Owner(bytearray):
    """The memory of a byte, which owns the gradient."""

    gradient: Tensor | None


# By the address of the byte. A copy of the byte has another.
_owners: WeakValueDictionary[int, _Owner] = WeakValueDictionary()


def _keep(gradient: Tensor | None) -> Tensor:
    """The byte that owns this gradient."""
    owner = _Owner(1)
    owner.gradient = gradient
    byte = torch.frombuffer(owner, dtype=torch.uint8)
    _owners[byte.data_ptr()] = owner
    return byte


def _take(byte: Tensor) -> Tensor | None:
    owner = _owners.get(byte.data_ptr())
    if owner is None:
        return None
    # The only reference: the caller may write to it.
    gradient, owner.gradient = owner.gradient, None
    return gradient


# What an operator and its backward operator take, in this order. Two more follow: out_dtype and needs_grad, or
# grad_output and the owner precede.
_CLASS_TENSORS = (
    "Tensor input, Tensor target, Tensor? weight, Tensor? sample_weight, Tensor? mask, Tensor? normalizer_tensor"
)
_CLASS_OPTIONS = (
    "float? normalizer, str function, SymInt ignore_index, float label_smoothing, str reduction, str on_empty"
)
_POINTWISE_TENSORS = (
    "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, Tensor? sample_weight, Tensor? mask, "
    "Tensor? normalizer_tensor"
)
_POINTWISE_OPTIONS = (
    "float? normalizer, str function, int kernel, float parameter, bool weight_divides, str reduction, str on_empty"
)


# class_loss -----------------------------------------------------------------------------------------------------------


def _class_call(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer_tensor: Tensor | None,
    normalizer: float | None,
    function: str,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    on_empty: str,
    out_dtype: torch.dtype,
) -> softmax.ClassCall:
    given = normalizer if normalizer_tensor is None else normalizer_tensor
    return softmax.ClassCall(
        function,
        weight,
        ignore_index,
        label_smoothing,
        class_dim_of(input),
        function == "nll_loss",
        Reduction(
            function,
            reduction,
            _shape_of_class_loss(input),
            input.shape[0],
            sample_weight,
            mask,
            given,
            on_empty,
        ),
        out_dtype,
        False,
        "cpu",
    )


def _class_loss(*given: Any) -> tuple[Tensor, Tensor]:
    input, target, *_, needs_grad = given
    call = _class_call(*given[:-1])
    if not cpu.class_layout(input):
        input = input.contiguous()
    arguments = softmax.kernel_arguments(call, input, target)
    result = cpu.evaluate_class_loss(call.log_probs, *arguments, call.reduction.name, call.out_dtype, needs_grad)
    if result is None:
        raise softmax.kernel_error(call, input, target)
    loss, gradient = result
    return loss, _keep(gradient)


def _class_loss_backward(grad_output: Tensor, owner: Tensor, *given: Any) -> Tensor:
    gradient = _take(owner)
    if gradient is not None and cpu.scale_gradient(gradient, grad_output):
        return gradient
    input, target, *_ = given
    everything = (*given, input.dtype)
    call = _class_call(*everything)
    if not cpu.class_layout(input):
        input = input.contiguous()
    arguments = softmax.kernel_arguments(call, input, target)
    return cpu.class_loss_gradient(call.log_probs, *arguments, call.reduction.name, grad_output)


def _fake_class_loss(input: Tensor, target: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, reduction, _, out_dtype, _ = rest
    shape = _shape_of_class_loss(input) if reduction == "none" else ()
    return input.new_empty(shape, dtype=out_dtype), input.new_empty(1, dtype=torch.uint8)


def _fake_class_loss_backward(grad_output: Tensor, owner: Tensor, input: Tensor, *_: Any) -> Tensor:
    # As the kernel writes it: contiguous, or channels last as the input.
    if input.ndim > 2 and not input.is_contiguous() and input.movedim(1, -1).is_contiguous():
        return torch.empty_strided(input.shape, input.stride(), dtype=input.dtype, device=input.device)
    return input.new_empty(input.shape)


def _shape_of_class_loss(input: Tensor) -> torch.Size:
    class_dim = class_dim_of(input)
    return torch.Size([*input.shape[:class_dim], *input.shape[class_dim + 1 :]])


def _save_class_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _save(ctx, inputs, output, _CLASS_TENSORS.count(",") + 1)


def _backward_of_class_loss(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Any, ...]:
    gradient = torch.ops.losskit.class_loss_backward.default(grad_output, *ctx.saved_tensors, *ctx.options)
    return gradient, *[None] * (ctx.arguments - 1)


# pointwise ------------------------------------------------------------------------------------------------------------


def _pointwise_arguments(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer_tensor: Tensor | None,
    normalizer: float | None,
    function: str,
    kernel: int,
    parameter: float,
    weight_divides: bool,
    reduction: str,
    on_empty: str,
) -> tuple[Reduction, tuple[int, Tensor, Tensor, float, cpu.Factors, float, str]]:
    given = normalizer if normalizer_tensor is None else normalizer_tensor
    samples = input.shape[0] if input.ndim else 1
    meaning = Reduction(function, reduction, input.shape, samples, sample_weight, mask, given, on_empty)
    arguments = pointwise.kernel_arguments(meaning, weight, weight_divides, pos_weight, parameter, input, target)
    return meaning, (kernel, *arguments, reduction)


def _pointwise(*everything: Any) -> tuple[Tensor, Tensor]:
    *given, out_dtype, needs_grad = everything
    reduction, arguments = _pointwise_arguments(*given)
    result = cpu.evaluate_pointwise(*arguments, out_dtype, needs_grad)
    if result is None:
        raise pointwise.kernel_error(reduction, given[0], given[1])
    loss, gradient = result
    return loss, _keep(gradient)


def _pointwise_backward(grad_output: Tensor, owner: Tensor, *given: Any) -> Tensor:
    gradient = _take(owner)
    if gradient is not None and cpu.scale_gradient(gradient, grad_output):
        return gradient
    _, arguments = _pointwise_arguments(*given)
    return cpu.pointwise_gradient(*arguments, grad_output)


def _fake_pointwise(input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, reduction, _, out_dtype, _ = rest
    shape = input.shape if reduction == "none" else ()
    return input.new_empty(shape, dtype=out_dtype), input.new_empty(1, dtype=torch.uint8)


def _fake_pointwise_backward(grad_output: Tensor, owner: Tensor, input: Tensor, *_: Any) -> Tensor:
    return input.new_empty(input.shape)


def _save_pointwise(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _save(ctx, inputs, output, _POINTWISE_TENSORS.count(",") + 1)


def _backward_of_pointwise(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Any, ...]:
    gradient = torch.ops.losskit.pointwise_backward.default(grad_output, *ctx.saved_tensors, *ctx.options)
    need_input, need_target, *_ = ctx.needs_input_grad
    # Only losses of input − target come here with a target that needs a gradient.
    by_target = -gradient if need_target else None
    return gradient if need_input else None, by_target, *[None] * (ctx.arguments - 2)


# both -----------------------------------------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor], tensors: int) -> None:
    ctx.arguments = len(inputs)
    # Without out_dtype and needs_grad.
    ctx.options = inputs[tensors:-2]
    ctx.save_for_backward(output[1], *inputs[:tensors])


def _no_second_derivative(ctx: Any, *_: Any) -> Any:
    raise LosskitRuntimeError(
        "a loss that torch.compile has taken into its graph as an operator has no second derivative: "
        "backend='reference' has."
    )


def _register() -> Library:
    library = Library("losskit", "DEF")
    class_arguments = f"{_CLASS_TENSORS}, {_CLASS_OPTIONS}"
    pointwise_arguments = f"{_POINTWISE_TENSORS}, {_POINTWISE_OPTIONS}"
    for name, arguments, forward, backward, fake, fake_backward, save, differentiate in (
        (
            "class_loss", class_arguments, _class_loss, _class_loss_backward,
            _fake_class_loss, _fake_class_loss_backward, _save_class_loss, _backward_of_class_loss,
        ),
        (
            "pointwise", pointwise_arguments, _pointwise, _pointwise_backward,
            _fake_pointwise, _fake_pointwise_backward, _save_pointwise, _backward_of_pointwise,
        ),
    ):  # fmt: skip
        library.define(f"{name}({arguments}, ScalarType out_dtype, bool needs_grad) -> (Tensor, Tensor)")
        library.define(f"{name}_backward(Tensor grad_output, Tensor owner, {arguments}) -> Tensor")
        library.impl(name, forward, "CPU")
        library.impl(f"{name}_backward", backward, "CPU")
        register_fake(f"losskit::{name}", fake, lib=library)
        register_fake(f"losskit::{name}_backward", fake_backward, lib=library)
        register_autograd(f"losskit::{name}", differentiate, setup_context=save, lib=library)
        register_autograd(f"losskit::{name}_backward", _no_second_derivative, lib=library)
    return library


# Its end would take the operators away.
_library = _register() if cpu.available() else None
