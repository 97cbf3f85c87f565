"""Every complaint, word for word, and of the type that torch raises for the same call."""

import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from assertions import assert_as_exact
from cases import BY_NAME, CASES, Case
from torch import Tensor

import losskit
from losskit import functional as F
from losskit.errors import (
    BackendError,
    EmptyLossError,
    LosskitError,
    LosskitIndexError,
    LosskitRuntimeError,
    LosskitTypeError,
    LosskitValueError,
    UnsupportedDtypeError,
)
from losskit.kernels import cpu

NAMES = tuple(BY_NAME)
CLASS_NAMES = tuple(case.name for case in CASES if case.classes)
DIFFERENCE_NAMES = tuple(case.name for case in CASES if case.symmetric)
BINARY_NAMES = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
POINTWISE_NAMES = DIFFERENCE_NAMES + BINARY_NAMES
# The losses of several tensors.
FUSED_NAMES = tuple(name for name in BY_NAME if name not in POINTWISE_NAMES + CLASS_NAMES)

needs_kernels = pytest.mark.skipif(not cpu.available(), reason=cpu.unavailable_reason())


def arguments(name: str) -> tuple[Tensor, ...]:
    """Good tensors for this loss, two losses in all."""
    if name in CLASS_NAMES:
        return torch.log_softmax(torch.zeros(2, 3), 1), torch.tensor([0, 2])
    if name in POINTWISE_NAMES:
        return torch.tensor([0.25, 0.5]), torch.tensor([0.0, 1.0])
    return BY_NAME[name].make("plain", (2, 3) if BY_NAME[name].rows else (2,), torch.float32).tensors


def parameters(name: str) -> list[str]:
    """What the tensors of `arguments` are called."""
    return list(inspect.signature(getattr(F, name)).parameters)[: len(arguments(name))]


def takes_weight(name: str) -> bool:
    return "weight" in inspect.signature(getattr(F, name)).parameters


def complaint(error: type[Exception], message: str, call: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    """The call raises this error with exactly this message, and changes none of its tensors."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and not value.is_meta]
    before = [(tensor.detach().clone(), tensor._version) for tensor in tensors]
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is error
    assert isinstance(caught.value, LosskitError)
    assert str(caught.value) == message
    for tensor, (copy, version) in zip(tensors, before, strict=True):
        assert torch.equal(tensor.isnan(), copy.isnan())
        assert torch.equal(tensor.detach().nan_to_num(), copy.nan_to_num())
        assert tensor._version == version
        assert not tensor.is_leaf or tensor.grad is None


# Arguments of every loss.


@pytest.mark.parametrize("reduction", ["mean/sum", "Mean", "batch_mean", "", None, 1, ["mean"]], ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_reduction(name: str, reduction: object) -> None:
    known = "'none', 'mean', 'sum' or 'batchmean'" if name == "kl_div" else "'none', 'mean' or 'sum'"
    message = f"{name}: reduction must be {known}, got {reduction!r}."
    complaint(LosskitValueError, message, getattr(F, name), *arguments(name), reduction=reduction)
    module = BY_NAME[name].module
    message = f"{module.__name__}: reduction must be {known}, got {reduction!r}."
    complaint(LosskitValueError, message, module, reduction=reduction)


@pytest.mark.parametrize("name", NAMES)
def test_on_empty(name: str) -> None:
    message = f"{name}: on_empty must be 'nan', 'zero' or 'raise', got 'ignore'."
    complaint(LosskitValueError, message, getattr(F, name), *arguments(name), on_empty="ignore")
    module = BY_NAME[name].module
    message = f"{module.__name__}: on_empty must be 'nan', 'zero' or 'raise', got 'ignore'."
    complaint(LosskitValueError, message, module, on_empty="ignore")


@pytest.mark.parametrize("name", NAMES)
def test_backend(name: str) -> None:
    message = f"{name}: backend must be 'auto', 'reference', 'cpu' or 'triton', got 'cuda'."
    complaint(LosskitValueError, message, getattr(F, name), *arguments(name), backend="cuda")
    module = BY_NAME[name].module
    message = f"{module.__name__}: backend must be 'auto', 'reference', 'cpu' or 'triton', got 'cuda'."
    complaint(LosskitValueError, message, module, backend="cuda")


@pytest.mark.parametrize(
    ("out_dtype", "shown"), [(torch.int64, "torch.int64"), (torch.complex64, "torch.complex64"), ("float32", "float32")]
)
@pytest.mark.parametrize("name", NAMES)
def test_out_dtype(name: str, out_dtype: object, shown: str) -> None:
    message = f"{name}: out_dtype must be a floating dtype or None, got {shown}."
    complaint(LosskitValueError, message, getattr(F, name), *arguments(name), out_dtype=out_dtype)


@pytest.mark.parametrize(("value", "kind"), [([0.5, 0.5], "list"), (1.0, "float"), (None, "NoneType")])
@pytest.mark.parametrize(
    ("name", "argument"),
    # The variance may be a number.
    [(name, argument) for name in NAMES for argument in parameters(name) if argument != "var"],
)
def test_no_tensor(name: str, argument: str, value: object, kind: str) -> None:
    given = dict(zip(parameters(name), arguments(name), strict=True), **{argument: value})
    message = f"{name}: {argument} must be a torch.Tensor, got {kind}."
    complaint(LosskitTypeError, message, getattr(F, name), **given)


@pytest.mark.parametrize("name", NAMES)
def test_target_on_another_device(name: str) -> None:
    input, target, *rest = arguments(name)
    first, second, *_ = parameters(name)
    message = f"{name}: {second} is on meta but {first} is on cpu: {second}.to('cpu')?"
    complaint(LosskitRuntimeError, message, getattr(F, name), input, target.to("meta"), *rest)


@pytest.mark.parametrize("name", [name for name in NAMES if takes_weight(name)])
def test_weight_is_no_tensor(name: str) -> None:
    message = f"{name}: weight must be a torch.Tensor, got list."
    complaint(LosskitTypeError, message, getattr(F, name), *arguments(name), weight=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("name", [name for name in NAMES if takes_weight(name)])
def test_weight_on_another_device(name: str) -> None:
    input, target = arguments(name)
    weight = torch.ones(2 if name in POINTWISE_NAMES else 3, device="meta")
    message = f"{name}: weight is on meta but input is on cpu: weight.to('cpu')?"
    complaint(LosskitRuntimeError, message, getattr(F, name), input, target, weight=weight)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", NAMES)
class TestOptions:
    def test_mask_dtype(self, name: str, backend: str) -> None:
        message = f"{name}: mask must be bool (True where a value counts), got int64: mask.bool()?"
        mask = torch.tensor([1, 0])
        complaint(LosskitTypeError, message, getattr(F, name), *arguments(name), mask=mask, backend=backend)

    def test_mask_type(self, name: str, backend: str) -> None:
        message = f"{name}: mask must be a torch.Tensor, got list."
        complaint(LosskitTypeError, message, getattr(F, name), *arguments(name), mask=[True, False], backend=backend)

    @pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 2, 2)], ids=str)
    def test_mask_shape(self, name: str, backend: str, shape: tuple[int, ...]) -> None:
        message = f"{name}: mask must broadcast to the shape of the unreduced loss, (2,), got shape {shape}."
        mask = torch.ones(shape, dtype=torch.bool)
        complaint(LosskitRuntimeError, message, getattr(F, name), *arguments(name), mask=mask, backend=backend)

    def test_mask_device(self, name: str, backend: str) -> None:
        message = f"{name}: mask is on meta but input is on cpu: mask.to('cpu')?"
        mask = torch.ones(2, dtype=torch.bool, device="meta")
        complaint(LosskitRuntimeError, message, getattr(F, name), *arguments(name), mask=mask, backend=backend)

    def test_sample_weight_type(self, name: str, backend: str) -> None:
        message = f"{name}: sample_weight must be a torch.Tensor, got list."
        call = getattr(F, name)
        complaint(LosskitTypeError, message, call, *arguments(name), sample_weight=[1.0, 1.0], backend=backend)

    def test_sample_weight_dtype(self, name: str, backend: str) -> None:
        message = f"{name}: sample_weight must be real, got complex64."
        weight = torch.ones(2, dtype=torch.complex64)
        complaint(LosskitTypeError, message, getattr(F, name), *arguments(name), sample_weight=weight, backend=backend)

    @pytest.mark.parametrize("shape", [(3,), (2, 1), (0,)], ids=str)
    def test_sample_weight_shape(self, name: str, backend: str, shape: tuple[int, ...]) -> None:
        message = f"{name}: sample_weight must broadcast to the shape of the unreduced loss, (2,), got shape {shape}."
        weight = torch.ones(shape)
        call = getattr(F, name)
        complaint(LosskitRuntimeError, message, call, *arguments(name), sample_weight=weight, backend=backend)

    @pytest.mark.parametrize(
        ("normalizer", "shown"),
        [
            (-2.0, "-2"),
            (0, "0"),
            (float("nan"), "nan"),
            (float("inf"), "inf"),
            (torch.tensor(-1.5), "-1.5"),
            (torch.tensor(0), "0"),
        ],
        ids=str,
    )
    def test_normalizer_value(self, name: str, backend: str, normalizer: float | Tensor, shown: str) -> None:
        message = f"{name}: normalizer must be positive and finite, got {shown}."
        call = getattr(F, name)
        complaint(LosskitValueError, message, call, *arguments(name), normalizer=normalizer, backend=backend)

    def test_normalizer_shape(self, name: str, backend: str) -> None:
        message = f"{name}: normalizer must be a number or a 0-dim tensor, got shape (1,)."
        call = getattr(F, name)
        complaint(LosskitValueError, message, call, *arguments(name), normalizer=torch.ones(1), backend=backend)

    def test_normalizer_dtype(self, name: str, backend: str) -> None:
        message = f"{name}: normalizer must be real, got complex64."
        call = getattr(F, name)
        complaint(LosskitTypeError, message, call, *arguments(name), normalizer=torch.tensor(1j), backend=backend)

    @pytest.mark.parametrize(("normalizer", "kind"), [("2", "str"), (True, "bool"), ([2.0], "list")])
    def test_normalizer_type(self, name: str, backend: str, normalizer: object, kind: str) -> None:
        message = f"{name}: normalizer must be a number, got {kind}."
        call = getattr(F, name)
        complaint(LosskitTypeError, message, call, *arguments(name), normalizer=normalizer, backend=backend)

    def test_normalizer_of_no_sum(self, name: str, backend: str) -> None:
        message = f"{name}: normalizer divides a sum, but reduction is 'none'."
        call = getattr(F, name)
        complaint(LosskitValueError, message, call, *arguments(name), normalizer=2.0, reduction="none", backend=backend)

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_nothing_counts(self, name: str, backend: str, reduction: str) -> None:
        message = (
            f"{name}: no value counts (on_empty='raise'): every one is masked, ignored or of weight 0, "
            "or the input is empty."
        )
        call, given = getattr(F, name), {"on_empty": "raise", "reduction": reduction, "backend": backend}
        complaint(EmptyLossError, message, call, *arguments(name), mask=torch.tensor([False, False]), **given)
        complaint(EmptyLossError, message, call, *arguments(name), sample_weight=torch.zeros(2), **given)
        empty = [tensor[:0] for tensor in arguments(name)]
        complaint(EmptyLossError, message, call, *empty, **given)


@pytest.mark.parametrize("name", NAMES)
def test_triton_does_not_fall_back(name: str) -> None:
    message = (
        f"{name}: backend='triton' cannot run this call: there is no Triton kernel for this loss. backend='auto' can."
    )
    complaint(BackendError, message, getattr(F, name), *arguments(name), backend="triton")


@needs_kernels
class TestNamedKernelDoesNotFallBack:
    @pytest.mark.parametrize("name", NAMES)
    def test_float64(self, name: str) -> None:
        given = [tensor.double() if tensor.is_floating_point() else tensor for tensor in arguments(name)]
        numbers = [tensor for tensor in given if tensor.is_floating_point()]
        dtypes = "float32, bfloat16 or float16"
        if name not in CLASS_NAMES:
            dtypes += ", the same for " + ("input and target" if name in POINTWISE_NAMES else "each tensor")
        seen = " and ".join("float64" for _ in numbers)
        message = (
            f"{name}: backend='cpu' cannot run this call: the kernel takes {dtypes}, not {seen}. backend='auto' can."
        )
        complaint(BackendError, message, getattr(F, name), *given, backend="cpu")

    @pytest.mark.parametrize("name", NAMES)
    def test_weight_with_gradient(self, name: str) -> None:
        weight = torch.ones(2, requires_grad=True)
        message = (
            f"{name}: backend='cpu' cannot run this call: a weight or the normalizer requires a gradient. "
            "backend='auto' can."
        )
        complaint(BackendError, message, getattr(F, name), *arguments(name), sample_weight=weight, backend="cpu")

    @pytest.mark.parametrize(
        "name", [case.name for case in CASES if 1 in case.gradients and 1 not in case.kernel_gradients]
    )
    def test_target_with_gradient(self, name: str) -> None:
        input, target, *rest = arguments(name)
        target = torch.full((2, 3), 1 / 3) if name in CLASS_NAMES else target
        reason = "target requires a gradient"
        if name not in CLASS_NAMES + POINTWISE_NAMES:
            reason = "a tensor requires a gradient that the kernel does not compute"
        message = f"{name}: backend='cpu' cannot run this call: {reason}. backend='auto' can."
        complaint(BackendError, message, getattr(F, name), input, target.requires_grad_(), *rest, backend="cpu")

    @pytest.mark.parametrize("name", NAMES)
    def test_weight_of_float64(self, name: str) -> None:
        weight = torch.ones(2, dtype=torch.float64)
        message = f"{name}: backend='cpu' cannot run this call: a weight is float64. backend='auto' can."
        complaint(BackendError, message, getattr(F, name), *arguments(name), sample_weight=weight, backend="cpu")

    def test_broadcast(self) -> None:
        message = (
            "mse_loss: backend='cpu' cannot run this call: input and target have different shapes. backend='auto' can."
        )
        with pytest.warns(UserWarning, match="they broadcast to"):
            complaint(BackendError, message, F.mse_loss, torch.ones(2), torch.ones(()), backend="cpu")

    def test_probabilities_of_another_dtype(self) -> None:
        message = (
            "cross_entropy: backend='cpu' cannot run this call: class probabilities have another dtype than input. "
            "backend='auto' can."
        )
        complaint(
            BackendError,
            message,
            F.cross_entropy,
            torch.zeros(1, 2),
            torch.zeros(1, 2, dtype=torch.float64),
            backend="cpu",
        )

    def test_transform(self) -> None:
        message = "mse_loss: backend='cpu' cannot run this call: a torch.func transform is active. backend='auto' can."
        with pytest.raises(BackendError, match=f"^{re.escape(message)}$"):
            torch.func.grad(lambda x: F.mse_loss(x, torch.zeros(2), backend="cpu"))(torch.ones(2))

    def test_subclass(self) -> None:
        class Marked(Tensor):
            pass

        message = "mse_loss: backend='cpu' cannot run this call: Marked is a subclass of Tensor. backend='auto' can."
        complaint(BackendError, message, F.mse_loss, torch.ones(2).as_subclass(Marked), torch.ones(2), backend="cpu")


# Losses of one number against another.


@pytest.mark.parametrize("name", DIFFERENCE_NAMES)
def test_shapes_that_do_not_broadcast(name: str) -> None:
    message = f"{name}: target must have the shape of input, (3,), got (2,), and the two do not broadcast."
    complaint(LosskitRuntimeError, message, getattr(F, name), torch.zeros(3), torch.zeros(2))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", DIFFERENCE_NAMES)
def test_shapes_that_broadcast_warn(name: str, backend: str) -> None:
    expected = (
        f"{name}: target has shape (3,) but input has (3, 1); they broadcast to (3, 3), 9 losses for 3 inputs: "
        "target.reshape((3, 1))?"
    )
    with pytest.warns(UserWarning, match="they broadcast to") as seen:
        getattr(F, name)(torch.zeros(3, 1), torch.zeros(3), backend=backend)
    assert [str(warning.message) for warning in seen] == [expected]
    expected = f"{name}: target has shape (1,) but input has (3,); they broadcast to (3,), 3 losses for 3 inputs"
    with pytest.warns(UserWarning, match="they broadcast to") as seen:
        getattr(F, name)(torch.zeros(3), torch.zeros(1), backend=backend)
    assert [str(warning.message) for warning in seen] == [expected]


@pytest.mark.parametrize("name", DIFFERENCE_NAMES)
def test_the_broadcast_warning_names_the_line_of_the_call(name: str) -> None:
    with pytest.warns(UserWarning, match="they broadcast to") as seen:
        getattr(F, name)(torch.zeros(3), torch.zeros(1))
    assert [warning.filename for warning in seen] == [__file__]


@pytest.mark.parametrize("name", ["l1_loss", "mse_loss", "huber_loss"])
def test_weight_of_another_shape(name: str) -> None:
    message = f"{name}: weight must have the shape of input, (2,), got (3,)."
    complaint(LosskitValueError, message, getattr(F, name), *arguments(name), weight=torch.ones(3))


# A distance between complex vectors is real.
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("l1_loss", "triplet_margin_loss")])
def test_complex_input(name: str) -> None:
    input, *rest = arguments(name)
    first = parameters(name)[0]
    message = f"{name}: {first} must be floating point, got complex64: take the loss of .real and .imag"
    input = input.to(torch.complex64)
    complaint(UnsupportedDtypeError, message, getattr(F, name), input, *rest)


@pytest.mark.parametrize("name", ["mse_loss", "smooth_l1_loss", "huber_loss"])
def test_complex_target(name: str) -> None:
    message = f"{name}: target must be floating point, got complex64: take the loss of .real and .imag"
    target = torch.ones(2, dtype=torch.complex64)
    complaint(UnsupportedDtypeError, message, getattr(F, name), torch.ones(2), target)


# torch takes integers where it divides by something.
TAKES_INTEGERS = (
    "l1_loss",
    "cosine_embedding_loss",
    "triplet_margin_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "gaussian_nll_loss",
    "poisson_nll_loss",
    "kl_div",
)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TAKES_INTEGERS])
def test_integer_input(name: str) -> None:
    input, target, *rest = arguments(name)
    if name not in CLASS_NAMES:
        target = target.long()
    message = f"{name}: input must be floating point, got int64: input.float()?"
    complaint(UnsupportedDtypeError, message, getattr(F, name), input.long(), target, *rest)


def test_mean_of_integers() -> None:
    message = "l1_loss: the mean of integers is not an integer: input is int64 and target int32: input.float()?"
    complaint(LosskitRuntimeError, message, F.l1_loss, torch.tensor([1]), torch.tensor([2], dtype=torch.int32))
    assert F.l1_loss(torch.tensor([1, 5]), torch.tensor([2, 2]), reduction="sum").item() == 4


def test_beta_and_delta() -> None:
    zeros = torch.zeros(2), torch.zeros(2)
    complaint(
        LosskitRuntimeError, "smooth_l1_loss: beta must be 0 or more, got -1.", F.smooth_l1_loss, *zeros, beta=-1.0
    )
    complaint(LosskitRuntimeError, "huber_loss: delta must be positive, got 0.", F.huber_loss, *zeros, delta=0)
    complaint(LosskitRuntimeError, "huber_loss: delta must be positive, got -2.", F.huber_loss, *zeros, delta=-2.0)
    message = "smooth_l1_loss: beta must be a number, got str."
    complaint(LosskitTypeError, message, F.smooth_l1_loss, *zeros, beta="1")
    message = "huber_loss: delta must be a number, got NoneType."
    complaint(LosskitTypeError, message, F.huber_loss, *zeros, delta=None)


@pytest.mark.parametrize("name", BINARY_NAMES)
def test_binary_shapes(name: str) -> None:
    call = getattr(F, name)
    message = f"{name}: target must have the shape of input, (2, 1), got (2,): target.reshape((2, 1))?"
    complaint(LosskitValueError, message, call, torch.full((2, 1), 0.5), torch.ones(2))
    message = f"{name}: target must have the shape of input, (2,), got (3,)."
    complaint(LosskitValueError, message, call, torch.full((2,), 0.5), torch.ones(3))
    message = f"{name}: weight must broadcast to the shape of the unreduced loss, (2,), got shape (3,)."
    complaint(LosskitRuntimeError, message, call, *arguments(name), weight=torch.ones(3))


def test_binary_target_dtypes() -> None:
    input, target = arguments("binary_cross_entropy")
    message = "binary_cross_entropy: target must have the dtype of input, float32, got int64: target.to(torch.float32)?"
    complaint(LosskitRuntimeError, message, F.binary_cross_entropy, input, target.long())
    message = "binary_cross_entropy_with_logits: target must be floating point, got int64: target.to(torch.float32)?"
    complaint(LosskitRuntimeError, message, F.binary_cross_entropy_with_logits, input, target.long())


def test_pos_weight() -> None:
    name = "binary_cross_entropy_with_logits"
    call, given = F.binary_cross_entropy_with_logits, arguments(name)
    message = f"{name}: pos_weight must broadcast to the shape of the unreduced loss, (2,), got shape (3,)."
    complaint(LosskitRuntimeError, message, call, *given, pos_weight=torch.ones(3))
    message = f"{name}: pos_weight must be a torch.Tensor, got float."
    complaint(LosskitTypeError, message, call, *given, pos_weight=2.0)
    message = f"{name}: pos_weight is on meta but input is on cpu: pos_weight.to('cpu')?"
    complaint(LosskitRuntimeError, message, call, *given, pos_weight=torch.ones(2, device="meta"))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_probabilities_outside_their_range(reduction: str, backend: str) -> None:
    name = "binary_cross_entropy"
    good, given = torch.tensor([0.5, 0.25, 1.0]), {"reduction": reduction, "backend": backend}
    head = f"{name}: 1 of 3 values of"
    complaint(
        LosskitRuntimeError,
        f"{head} input lie outside [0, 1] (min=0.25, max=2.5): these look like logits: "
        "binary_cross_entropy_with_logits?",
        F.binary_cross_entropy,
        torch.tensor([0.5, 2.5, 0.25]),
        good,
        **given,
    )
    complaint(
        LosskitRuntimeError,
        f"{head} target lie outside [0, 1] (min=0, max=255): these look like 0-255 values: divide by 255?",
        F.binary_cross_entropy,
        good,
        torch.tensor([0.0, 1.0, 255.0]),
        **given,
    )
    complaint(
        LosskitRuntimeError,
        f"{head} target lie outside [0, 1] (min=-1, max=1): probabilities are needed.",
        F.binary_cross_entropy,
        good,
        torch.tensor([-1.0, 1.0, 1.0]),
        **given,
    )
    complaint(
        LosskitRuntimeError,
        f"{head} input lie outside [0, 1] (min=nan, max=nan): 1 of them NaN.",
        F.binary_cross_entropy,
        torch.tensor([0.5, torch.nan, 0.25]),
        good,
        **given,
    )


# Losses against a class.

INDEX_SHAPES = {"unbatched": (3,), "rows": (4, 3), "images": (2, 3, 2, 2)}


def class_arguments(kind: str, wrong: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Good indices with the wrong ones at the end."""
    shape = INDEX_SHAPES[kind]
    target = torch.zeros((shape[0], *shape[2:]) if len(shape) > 1 else (), dtype=torch.int64)
    flat = target.view(-1)
    flat[-len(wrong) :] = torch.tensor(wrong)
    return torch.log_softmax(torch.randn(shape), 0 if len(shape) == 1 else 1), target.to(dtype)


CAUSES = [
    ([3], "{3}", "min=0, max=3: 3 is the size of the class dimension of input."),
    ([255], "{255}", "min=0, max=255: 255 usually marks unlabelled pixels: ignore_index=255?"),
    ([-1], "{-1}", "min=-1, max=0: if -1 marks samples to leave out: ignore_index=-1?"),
    ([9, 4], "{4, 9}", "min=0, max=9: 3 is the size of the class dimension of input."),
    ([-7, 200], "{-7, 200}", "min=-7, max=200: 3 is the size of the class dimension of input."),
    ([2**40], f"{{{2**40}}}", f"min=0, max={2**40}: 3 is the size of the class dimension of input."),
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    "extra", [{}, {"weight": torch.ones(3)}, {"label_smoothing": 0.1}], ids=["", "weight", "smoothing"]
)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", INDEX_SHAPES)
@pytest.mark.parametrize("name", CLASS_NAMES)
def test_class_index_out_of_range(name: str, kind: str, reduction: str, extra: dict[str, Any], backend: str) -> None:
    if name == "nll_loss" and "label_smoothing" in extra:
        extra = {"sample_weight": torch.ones(())}
    for dtype in (torch.int64, torch.uint8):
        for wrong, shown, cause in CAUSES:
            if dtype == torch.uint8 and not all(0 <= index < 256 for index in wrong):
                continue
            if kind == "unbatched":
                if len(wrong) > 1:
                    continue
                cause = cause.replace("min=0", f"min={wrong[0]}").replace("max=0", f"max={wrong[0]}")
                if wrong == [3]:
                    cause = "min=3, max=3=C: these labels look 1-based."
            input, target = class_arguments(kind, wrong, dtype)
            for needs_grad in (False, True):
                message = (
                    f"{name}: {len(wrong)} of {target.numel()} targets lie outside [0, 3): {shown}, first at index "
                    f"{target.numel() - len(wrong)}. {cause}"
                )
                logits = input.clone().requires_grad_(needs_grad)
                call = getattr(F, name)
                complaint(
                    LosskitIndexError, message, call, logits, target, reduction=reduction, backend=backend, **extra
                )


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_one_based_and_many_wrong_labels(name: str) -> None:
    call = getattr(F, name)
    message = (
        f"{name}: 2 of 4 targets lie outside [0, 3): {{3}}, first at index 1. min=1, max=3=C: "
        "these labels look 1-based."
    )
    complaint(LosskitIndexError, message, call, torch.zeros(4, 3), torch.tensor([1, 3, 2, 3]))
    message = (
        f"{name}: 7 of 7 targets lie outside [0, 2): {{10, 11, 12, 13, 14, …}}, first at index 0. min=10, max=16: "
        "2 is the size of the class dimension of input."
    )
    complaint(LosskitIndexError, message, call, torch.zeros(7, 2), torch.arange(16, 9, -1))
    # What is ignored or masked is not counted.
    message = (
        f"{name}: 1 of 3 targets lie outside [0, 2): {{5}}, first at index 1. min=0, max=5: 2 is the size of the class "
        "dimension of input."
    )
    given = torch.zeros(3, 2), torch.tensor([9, 5, 0])
    complaint(LosskitIndexError, message, call, *given, ignore_index=9)
    complaint(LosskitIndexError, message, call, *given, mask=torch.tensor([False, True, True]))


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_class_shapes(name: str) -> None:
    call = getattr(F, name)

    def check(error: type[Exception], input: tuple[int, ...], target: tuple[int, ...], message: str) -> None:
        complaint(error, f"{name}: {message}", call, torch.zeros(input), torch.zeros(target, dtype=torch.int64))

    check(
        LosskitRuntimeError,
        (4, 3),
        (4, 1),
        "input (4, 3) takes a target of shape (4,), got (4, 1): target.squeeze(1)?",
    )
    check(
        LosskitRuntimeError,
        (4, 3),
        (4, 2),
        "input (4, 3) takes a target of shape (4,), got (4, 2): one class index per row of input is needed.",
    )
    check(LosskitValueError, (4, 3), (5,), "input (4, 3) takes a target of shape (4,), got (5,): 4 samples against 5.")
    check(
        LosskitValueError,
        (2, 3, 4),
        (5, 4),
        "input (2, 3, 4) takes a target of shape (2, 4), got (5, 4): 2 samples against 5.",
    )
    check(
        LosskitRuntimeError,
        (2, 4, 3),
        (2, 4),
        "input (2, 4, 3) takes a target of shape (2, 3), got (2, 4): the classes belong in dim 1: "
        "input.transpose(1, 2)?",
    )
    check(LosskitRuntimeError, (2, 3, 4), (2, 5), "input (2, 3, 4) takes a target of shape (2, 4), got (2, 5).")
    check(
        LosskitValueError,
        (3,),
        (2,),
        "input (3,) is one sample of 3 classes, so target must be a 0-dim tensor, got shape (2,).",
    )
    error = LosskitRuntimeError if name == "cross_entropy" else LosskitValueError
    check(error, (), (), "input must have a dimension of classes, got a 0-dim tensor.")


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_index_dtypes(name: str) -> None:
    call, input = getattr(F, name), torch.zeros(4, 3)
    message = (
        f"{name}: target is float32 with shape (4,), the shape of class indices; class indices must be integers: "
        "target.long()?"
    )
    complaint(LosskitRuntimeError, message, call, input, torch.zeros(4))
    for dtype in (torch.int32, torch.int16, torch.int8, torch.bool):
        shown = str(dtype).removeprefix("torch.")
        message = f"{name}: target is {shown} with shape (4,); class indices must be int64 or uint8: target.long()?"
        complaint(LosskitRuntimeError, message, call, input, torch.zeros(4, dtype=dtype))


@pytest.mark.parametrize("shape", [(2,), (4,), (1, 3), ()], ids=str)
@pytest.mark.parametrize("name", CLASS_NAMES)
def test_class_weight_shape(name: str, shape: tuple[int, ...]) -> None:
    message = f"{name}: weight must hold one value for each of the 3 classes, shape (3,), got {shape}."
    complaint(LosskitRuntimeError, message, getattr(F, name), *arguments(name), weight=torch.ones(shape))


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_class_weight_dtype(name: str) -> None:
    call = getattr(F, name)
    message = f"{name}: weight must have the dtype of input, float32, got float64: weight.to(torch.float32)?"
    complaint(LosskitRuntimeError, message, call, *arguments(name), weight=torch.ones(3, dtype=torch.float64))
    message = f"{name}: weight has no gradient with class indices, but it requires one: weight.detach()?"
    complaint(LosskitRuntimeError, message, call, *arguments(name), weight=torch.ones(3, requires_grad=True))


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_ignore_index_type(name: str) -> None:
    for value, kind in ((1.5, "float"), ("1", "str"), (True, "bool")):
        message = f"{name}: ignore_index must be an int, got {kind}."
        complaint(LosskitTypeError, message, getattr(F, name), *arguments(name), ignore_index=value)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_numbers_that_are_too_large(name: str) -> None:
    message = f"{name}: ignore_index must fit 64 bits, got {2**64}."
    complaint(LosskitRuntimeError, message, getattr(F, name), *arguments(name), ignore_index=2**64)
    message = f"{name}: normalizer must be positive and finite, got inf."
    complaint(LosskitValueError, message, getattr(F, name), *arguments(name), normalizer=10**400)


@pytest.mark.parametrize("target", [torch.tensor([0, 2]), torch.full((2, 3), 1 / 3)], ids=["indices", "probabilities"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_label_smoothing(target: Tensor, backend: str) -> None:
    logits = torch.zeros(2, 3)
    for value, shown in ((-0.5, "-0.5"), (1.5, "1.5"), (float("nan"), "nan"), (float("inf"), "inf")):
        message = f"cross_entropy: label_smoothing must lie in [0, 1], got {shown}."
        complaint(LosskitRuntimeError, message, F.cross_entropy, logits, target, label_smoothing=value, backend=backend)
    for value, kind in (("0.1", "str"), (None, "NoneType"), (torch.tensor(0.1), "Tensor")):
        message = f"cross_entropy: label_smoothing must be a number, got {kind}."
        complaint(LosskitTypeError, message, F.cross_entropy, logits, target, label_smoothing=value, backend=backend)


def test_probability_targets() -> None:
    logits = torch.zeros(2, 3)
    message = (
        "cross_entropy: target is int64 with shape (2, 3), the shape of class probabilities, which are floating point: "
        "target.float(), or target.argmax(1) for class indices?"
    )
    complaint(LosskitRuntimeError, message, F.cross_entropy, logits, torch.zeros(2, 3, dtype=torch.int64))
    message = (
        "cross_entropy: ignore_index=1 needs class indices, but target holds class probabilities of shape (2, 3): "
        "mask= leaves samples out."
    )
    complaint(LosskitRuntimeError, message, F.cross_entropy, logits, torch.full((2, 3), 1 / 3), ignore_index=1)


@needs_kernels
def test_inplace_backward() -> None:
    target = torch.tensor([0, 2])
    leaf = torch.zeros(2, 3, requires_grad=True)
    call = F.cross_entropy

    message = (
        "cross_entropy: inplace_backward=True needs a reduction of 'mean' or 'sum': the gradient of single losses is "
        "not known before backward."
    )
    complaint(LosskitValueError, message, call, leaf * 1, target, reduction="none", inplace_backward=True)
    message = (
        "cross_entropy: inplace_backward=True would overwrite a leaf that requires a gradient; it is meant for the "
        "output of a layer."
    )
    complaint(LosskitRuntimeError, message, call, leaf, target, inplace_backward=True)
    complaint(LosskitRuntimeError, message, call, leaf.view(2, 3), target, inplace_backward=True)
    message = "cross_entropy: inplace_backward=True needs contiguous logits, got strides (1, 2)."
    complaint(
        LosskitRuntimeError,
        message,
        call,
        (torch.zeros(3, 2, requires_grad=True) * 1).t(),
        target,
        inplace_backward=True,
    )
    message = "cross_entropy: inplace_backward=True needs the CPU kernel, but backend='reference' was asked for."
    complaint(LosskitRuntimeError, message, call, leaf * 1, target, inplace_backward=True, backend="reference")
    message = (
        "cross_entropy: inplace_backward=True needs the CPU kernel, but the kernel takes float32, bfloat16 or float16, "
        "not float64."
    )
    complaint(LosskitRuntimeError, message, call, leaf.double() * 1, target, inplace_backward=True)

    message = (
        "cross_entropy: inplace_backward=True leaves no logits for a second backward or create_graph=True: "
        "inplace_backward=False?"
    )
    loss = call(leaf * 1, target, inplace_backward=True)
    loss.backward(retain_graph=True)
    with pytest.raises(LosskitRuntimeError, match=f"^{re.escape(message)}$"):
        loss.backward()
    loss = call(leaf * 1, target, inplace_backward=True)
    with pytest.raises(LosskitRuntimeError, match=f"^{re.escape(message)}$"):
        torch.autograd.grad(loss, leaf, create_graph=True)

    message = (
        "cross_entropy: inplace_backward=True with torch.bfloat16 logits takes a grad_output of 1, got 3, because the "
        "gradient has been rounded already: normalizer= scales before that."
    )
    loss = call(leaf.bfloat16() * 1, target, inplace_backward=True)
    with pytest.raises(LosskitRuntimeError, match=f"^{re.escape(message)}$"):
        (3 * loss).backward()


# The types of torch, call by call. None: torch accepts the call, and so must we.

ONES = torch.ones(2, 3)
ROW = torch.tensor([0, 2])
PROBABILITIES = torch.full((2, 3), 1 / 3)

WRONG_CALLS: list[tuple[str, str, tuple[Any, ...], dict[str, Any]]] = [
    *(
        (name, label, args, kwargs)
        for name in DIFFERENCE_NAMES
        for label, args, kwargs in [
            ("reduction", (ONES, ONES), {"reduction": "mean/sum"}),
            ("shapes", (ONES, torch.ones(4)), {}),
            ("lists", ([1.0], [1.0]), {}),
            ("list target", (ONES, [1.0]), {}),
            ("number target", (ONES, 1.0), {}),
            ("integers", (ONES.long(), ONES.long()), {}),
            ("integer input", (ONES.long(), ONES), {}),
            ("integer target", (ONES, ONES.long()), {}),
            ("booleans", (ONES.bool(), ONES.bool()), {}),
            ("boolean target", (ONES, ONES.bool()), {}),
            ("complex", (ONES.to(torch.complex64), ONES.to(torch.complex64)), {}),
            ("complex target", (ONES, ONES.to(torch.complex64)), {}),
            ("dtypes", (ONES, ONES.double()), {}),
            ("half dtypes", (ONES.half(), ONES.bfloat16()), {}),
            ("zero size", (torch.ones(0), torch.ones(0)), {}),
            ("meta target", (ONES, ONES.to("meta")), {}),
        ]
    ),
    *(
        (name, label, (ONES, ONES), kwargs)
        for name in ("l1_loss", "mse_loss", "huber_loss")
        for label, kwargs in [
            ("weight shape", {"weight": torch.ones(3)}),
            ("weight list", {"weight": [1.0]}),
            ("weight dtype", {"weight": ONES.double()}),
            ("weight integer", {"weight": ONES.long()}),
        ]
    ),
    ("smooth_l1_loss", "beta", (ONES, ONES), {"beta": -1.0}),
    ("smooth_l1_loss", "beta 0", (ONES, ONES), {"beta": 0.0}),
    ("smooth_l1_loss", "beta type", (ONES, ONES), {"beta": "1"}),
    ("smooth_l1_loss", "beta None", (ONES, ONES), {"beta": None}),
    ("smooth_l1_loss", "beta int", (ONES, ONES), {"beta": 2}),
    ("huber_loss", "delta", (ONES, ONES), {"delta": 0.0}),
    ("huber_loss", "delta below 0", (ONES, ONES), {"delta": -1.0}),
    ("huber_loss", "delta int", (ONES, ONES), {"delta": 2}),
    ("huber_loss", "delta type", (ONES, ONES), {"delta": "1"}),
    *(
        (name, label, args, kwargs)
        for name in BINARY_NAMES
        for label, args, kwargs in [
            ("reduction", (ONES, ONES), {"reduction": "mean/sum"}),
            ("shapes", (ONES, torch.ones(2)), {}),
            ("same count", (torch.ones(2, 1), torch.ones(2)), {}),
            ("lists", ([1.0], [1.0]), {}),
            ("list target", (ONES, [1.0]), {}),
            ("integers", (ONES.long(), ONES.long()), {}),
            ("integer input", (ONES.long(), ONES), {}),
            ("integer target", (ONES, ONES.long()), {}),
            ("complex", (ONES.to(torch.complex64), ONES.to(torch.complex64)), {}),
            ("dtypes", (ONES, ONES.double()), {}),
            ("weight shape", (ONES, ONES), {"weight": torch.ones(4)}),
            ("weight list", (ONES, ONES), {"weight": [1.0]}),
            ("weight dtype", (ONES, ONES), {"weight": ONES.double()}),
            ("weight larger", (ONES, ONES), {"weight": torch.ones(5, 2, 3)}),
            ("zero size", (torch.ones(0), torch.ones(0)), {}),
            ("meta target", (ONES, ONES.to("meta")), {}),
        ]
    ),
    ("binary_cross_entropy", "above 1", (2 * ONES, ONES), {}),
    ("binary_cross_entropy", "below 0", (-ONES, ONES), {"reduction": "none"}),
    ("binary_cross_entropy", "target above 1", (ONES, 2 * ONES), {"reduction": "sum"}),
    ("binary_cross_entropy", "NaN", (ONES * torch.nan, ONES), {}),
    ("binary_cross_entropy", "target NaN", (ONES, ONES * torch.nan), {}),
    ("binary_cross_entropy_with_logits", "pos_weight shape", (ONES, ONES), {"pos_weight": torch.ones(4)}),
    ("binary_cross_entropy_with_logits", "pos_weight list", (ONES, ONES), {"pos_weight": [1.0]}),
    ("binary_cross_entropy_with_logits", "target above 1", (ONES, 2 * ONES), {}),
    *(
        (name, label, args, kwargs)
        for name in CLASS_NAMES
        for label, args, kwargs in [
            ("reduction", (ONES, ROW), {"reduction": "mean/sum"}),
            ("lists", ([[1.0]], [0]), {}),
            ("list target", (ONES, [0, 1]), {}),
            ("column", (ONES, ROW[:, None]), {}),
            ("batch sizes", (ONES, torch.zeros(3, dtype=torch.int64)), {}),
            ("scalar target", (ONES, torch.tensor(1)), {}),
            ("scalar input", (torch.tensor(1.0), torch.tensor(0)), {}),
            ("unbatched", (ONES[0], torch.tensor(1)), {}),
            ("unbatched with a dimension", (ONES[0], torch.tensor([1])), {}),
            ("unbatched with two", (ONES[0], torch.tensor([1, 2])), {}),
            ("unbatched column", (ONES[0], torch.tensor([[1]])), {}),
            ("unbatched out of range", (ONES[0], torch.tensor(3)), {}),
            ("images", (torch.ones(2, 3, 4), torch.zeros(2, 5, dtype=torch.int64)), {}),
            ("images batch", (torch.ones(2, 3, 4), torch.zeros(3, 4, dtype=torch.int64)), {}),
            ("images dimensions", (torch.ones(2, 3, 4), ROW), {}),
            ("4-d batch", (torch.ones(2, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.int64)), {}),
            ("4-d size", (torch.ones(2, 3, 4, 4), torch.zeros(2, 4, 5, dtype=torch.int64)), {}),
            ("4-d dimensions", (torch.ones(2, 3, 4, 4), torch.zeros(2, 4, dtype=torch.int64)), {}),
            ("5-d", (torch.ones(2, 3, 2, 2, 2), torch.zeros(2, 2, 2, 2, dtype=torch.int64)), {}),
            ("5-d size", (torch.ones(2, 3, 2, 2, 2), torch.zeros(2, 2, 2, 3, dtype=torch.int64)), {}),
            ("float indices", (ONES, ROW.float()), {}),
            ("int32 indices", (ONES, ROW.int()), {}),
            ("bool indices", (ONES, ROW.bool()), {}),
            ("uint8 indices", (ONES, ROW.to(torch.uint8)), {}),
            ("out of range", (ONES, ROW + 1), {}),
            ("out of range none", (ONES, ROW + 1), {"reduction": "none"}),
            ("out of range sum", (ONES, ROW + 1), {"reduction": "sum"}),
            ("below 0", (ONES, ROW - 1), {}),
            ("255 in uint8", (ONES, torch.tensor([0, 255], dtype=torch.uint8)), {}),
            ("ignored out of range", (ONES, torch.tensor([0, 99])), {"ignore_index": 99}),
            ("image out of range", (torch.ones(1, 3, 2, 2), torch.full((1, 2, 2), 3)), {}),
            ("weight length", (ONES, ROW), {"weight": torch.ones(4)}),
            ("weight shape", (ONES, ROW), {"weight": torch.ones(1, 3)}),
            ("weight dtype", (ONES, ROW), {"weight": torch.ones(3, dtype=torch.float64)}),
            ("weight list", (ONES, ROW), {"weight": [1.0, 1.0, 1.0]}),
            ("weight with gradient", (ONES, ROW), {"weight": torch.ones(3, requires_grad=True)}),
            ("ignore_index type", (ONES, ROW), {"ignore_index": 1.5}),
            ("ignore_index None", (ONES, ROW), {"ignore_index": None}),
            ("complex", (ONES.to(torch.complex64), ROW), {}),
            ("integer input", (ONES.long(), ROW), {}),
            ("no rows", (torch.ones(0, 3), torch.ones(0, dtype=torch.int64)), {}),
            ("no classes", (torch.ones(2, 0), ROW), {}),
            ("neither", (torch.ones(0, 0), torch.ones(0, dtype=torch.int64)), {}),
            ("meta target", (ONES, ROW.to("meta")), {}),
        ]
    ),
    ("cross_entropy", "smoothing above 1", (ONES, ROW), {"label_smoothing": 1.5}),
    ("cross_entropy", "smoothing above 1, probabilities", (ONES, PROBABILITIES), {"label_smoothing": 1.5}),
    ("cross_entropy", "smoothing 1", (ONES, ROW), {"label_smoothing": 1.0}),
    ("cross_entropy", "smoothing int", (ONES, ROW), {"label_smoothing": 1}),
    ("cross_entropy", "smoothing type", (ONES, ROW), {"label_smoothing": "0.1"}),
    ("cross_entropy", "smoothing None", (ONES, ROW), {"label_smoothing": None}),
    ("cross_entropy", "smoothing out of range", (ONES, ROW + 1), {"label_smoothing": 0.1}),
    ("cross_entropy", "integer probabilities", (ONES, ONES.long()), {}),
    ("cross_entropy", "probabilities ignore", (ONES, PROBABILITIES), {"ignore_index": 1}),
    ("cross_entropy", "probabilities negative ignore", (ONES, PROBABILITIES), {"ignore_index": -1}),
    ("cross_entropy", "probabilities weight length", (ONES, PROBABILITIES), {"weight": torch.ones(4)}),
    ("cross_entropy", "probabilities weight dtype", (ONES, PROBABILITIES), {"weight": torch.ones(3).double()}),
    ("cross_entropy", "probabilities dtype", (ONES, PROBABILITIES.double()), {}),
    ("cross_entropy", "probabilities unbatched", (ONES[0], PROBABILITIES[0]), {}),
    ("cross_entropy", "probabilities no classes", (torch.ones(2, 0), torch.ones(2, 0)), {}),
    ("cross_entropy", "probabilities no rows", (torch.ones(0, 3), torch.ones(0, 3)), {}),
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        pytest.param(name, args, kwargs, id=f"{name}-{label.replace(' ', '_')}")
        for name, label, args, kwargs in WRONG_CALLS
    ],
)
def test_torch_raises_the_same_type(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], backend: str) -> None:
    case = BY_NAME[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected: Tensor | Exception = case.torch_function(*args, **kwargs)
        except Exception as error:
            expected = error
        if isinstance(expected, Exception):
            with pytest.raises(type(expected)) as caught:
                case.function(*args, **kwargs, backend=backend)
            assert isinstance(caught.value, LosskitError)
            assert str(caught.value).startswith(f"{name}: ")
        else:
            ours = case.function(*args, **kwargs, backend=backend)
            assert ours.shape == expected.shape
            assert ours.dtype == expected.dtype
            assert torch.allclose(ours, expected, rtol=1e-5, atol=0, equal_nan=True)


def test_a_missing_or_unknown_argument_is_a_type_error() -> None:
    for case in CASES:
        for function in (case.function, case.torch_function):
            with pytest.raises(TypeError):
                function(torch.ones(2))
            with pytest.raises(TypeError):
                function(torch.ones(2), torch.ones(2), nonsense=1)


# The losses of several tensors, one value per element.


def test_margin() -> None:
    two = torch.ones(2)
    message = "hinge_embedding_loss: margin must be a number, got str."
    complaint(LosskitTypeError, message, F.hinge_embedding_loss, two, two, margin="wide")
    message = "margin_ranking_loss: margin must be a number, got NoneType."
    complaint(LosskitTypeError, message, F.margin_ranking_loss, two, two, two, margin=None)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_flags_that_are_no_bool(value: object) -> None:
    two, kind = torch.ones(2), type(value).__name__
    for function, name in ((F.kl_div, "log_target"), (F.poisson_nll_loss, "log_input"), (F.poisson_nll_loss, "full")):
        message = f"{function.__name__}: {name} must be a bool, got {kind}."
        complaint(LosskitTypeError, message, function, two, two, **{name: value})


@pytest.mark.parametrize("name", ["hinge_embedding_loss", "kl_div", "poisson_nll_loss"])
def test_shapes_of_two_that_do_not_broadcast(name: str) -> None:
    message = f"{name}: the shapes do not broadcast: input (4, 5), target (3, 5)."
    complaint(LosskitRuntimeError, message, getattr(F, name), torch.ones(4, 5), torch.ones(3, 5))


def test_shapes_of_three() -> None:
    four, three = torch.ones(4, 5), torch.ones(3, 5)
    message = "margin_ranking_loss: the shapes do not broadcast: input1 (4, 5), input2 (4, 5), target (3, 5)."
    complaint(LosskitRuntimeError, message, F.margin_ranking_loss, four, four, three)
    message = (
        "margin_ranking_loss: the tensors must have the same number of dimensions, got input1 (4, 5), input2 (4, 5), "
        "target (5,)."
    )
    complaint(LosskitRuntimeError, message, F.margin_ranking_loss, four, four, torch.ones(5))
    message = "soft_margin_loss: target must broadcast to the shape of input, (5,), got (4, 5)."
    complaint(LosskitRuntimeError, message, F.soft_margin_loss, torch.ones(5), four)
    message = (
        "gaussian_nll_loss: var must have the shape of input, (4, 5), or that with one dimension of size 1, or without "
        "the last dimension, (4, 1) or (4,), got (5,)."
    )
    complaint(LosskitValueError, message, F.gaussian_nll_loss, four, four, torch.ones(5))
    message = "gaussian_nll_loss: the shapes do not broadcast: input (4, 5), target (3, 5), var (4, 5)."
    complaint(LosskitRuntimeError, message, F.gaussian_nll_loss, four, three, four)


@pytest.mark.parametrize("backend", ["auto", "reference", pytest.param("cpu", marks=needs_kernels)])
def test_negative_variance(backend: str) -> None:
    two = torch.ones(2)
    message = (
        "gaussian_nll_loss: 1 of 2 values of var are negative (min=-0.5): a network that puts out log-variances needs "
        "var.exp()."
    )
    given = {"backend": backend}
    complaint(LosskitValueError, message, F.gaussian_nll_loss, two, two, torch.tensor([1.0, -0.5]), **given)
    message = "gaussian_nll_loss: var must not be negative, got -0.5."
    complaint(LosskitValueError, message, F.gaussian_nll_loss, two, two, -0.5, **given)


def test_dtypes_of_several_tensors() -> None:
    two, integer, complex_two = torch.ones(2), torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.complex64)
    for name in ("soft_margin_loss", "hinge_embedding_loss", "kl_div"):
        message = f"{name}: input must be floating point, got int64: input.float()?"
        complaint(UnsupportedDtypeError, message, getattr(F, name), integer, two)
    message = "kl_div: target must be floating point, got int64: target.float()?"
    complaint(UnsupportedDtypeError, message, F.kl_div, two, integer)
    message = "gaussian_nll_loss: var must be floating point, got int64: var.float()?"
    complaint(UnsupportedDtypeError, message, F.gaussian_nll_loss, two, two, integer)
    message = "poisson_nll_loss: target must be floating point, got complex64: take the loss of .real and .imag"
    complaint(UnsupportedDtypeError, message, F.poisson_nll_loss, two, complex_two)
    message = "margin_ranking_loss: target must be a number, got bool: target.float()?"
    complaint(LosskitRuntimeError, message, F.margin_ranking_loss, two, two, two > 0)
    message = "poisson_nll_loss: target must be a number, got bool: target.float()?"
    complaint(LosskitRuntimeError, message, F.poisson_nll_loss, two, two > 0, full=True)


# Unusual input that is not wrong.


@pytest.mark.parametrize("backend", ["auto", "reference", pytest.param("cpu", marks=needs_kernels)])
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_zero_size_and_non_contiguous_work(case: Case, backend: str) -> None:
    for shape in case.shapes:
        call = case.make("plain", shape, torch.float32)
        plain = call.run(case.function, reduction="none", backend=backend)
        spread = torch.empty((*shape, 2)).copy_(call.input[..., None].expand(*shape, 2))[..., 1]
        moved = [spread]
        if len(shape) > 1:
            moved.append(call.input.transpose(0, 1).contiguous().transpose(0, 1))
        for input in moved:
            elsewhere = replace(call, input=input)
            again = elsewhere.run(case.function, reduction="none", backend=backend)
            if case.rows and backend == "reference":
                # torch's sums over a row take the order that the memory has.
                exact = elsewhere.wide().run(case.torch_function, reduction="none")
                assert_as_exact(again, exact, elsewhere.run(case.torch_function, reduction="none"))
            else:
                assert torch.equal(again.nan_to_num(), plain.nan_to_num())
        if plain.numel() == 0:
            mean = call.run(case.function, backend=backend)
            total = call.run(case.function, reduction="sum", backend=backend)
            assert mean.isnan()
            assert total.item() == 0.0


def test_explain_dispatch_of_something_else() -> None:
    with pytest.raises(LosskitValueError, match=r"^explain_dispatch: .* ran no loss of losskit\.$"):
        losskit.explain_dispatch(torch.nn.functional.relu, torch.ones(2))


def test_cache_limit() -> None:
    complaint(LosskitTypeError, "set_cache_limit: limit must be an int, got float.", losskit.set_cache_limit, 1.5)
    complaint(LosskitValueError, "set_cache_limit: limit must be 0 or more bytes, got -1.", losskit.set_cache_limit, -1)


# Connectionist temporal classification. Torch's own op is called for none of these: it reads by labels and lengths.


def sequences(**changed: object) -> dict[str, Any]:
    """A good call of three samples: six frames, five classes, two labels each."""
    return {
        "log_probs": torch.log_softmax(torch.zeros(6, 3, 5), 2),
        "targets": torch.tensor([[1, 2], [3, 4], [2, 1]]),
        "input_lengths": (6, 6, 5),
        "target_lengths": (2, 2, 1),
        **changed,
    }


CTC_COMPLAINTS: list[tuple[type[LosskitError], str, dict[str, Any]]] = [
    (LosskitTypeError, "log_probs must be a torch.Tensor, got list.", {"log_probs": [0.0]}),
    (LosskitTypeError, "targets must be a torch.Tensor, got list.", {"targets": [[1, 2]]}),
    (LosskitTypeError, "zero_infinity must be a bool, got int.", {"zero_infinity": 1}),
    (LosskitTypeError, "blank must be an int, got float.", {"blank": 0.0}),
    (LosskitTypeError, "blank must be an int, got bool.", {"blank": True}),
    (LosskitRuntimeError, "blank must lie in [0, 5), got 5.", {"blank": 5}),
    (LosskitRuntimeError, "blank must lie in [0, 5), got -1.", {"blank": -1}),
    (LosskitValueError, "reduction must be 'none', 'mean' or 'sum', got 'max'.", {"reduction": "max"}),
    (
        LosskitRuntimeError,
        "log_probs must have shape (T, N, C) or (T, C), got (5,).",
        {"log_probs": torch.zeros(5)},
    ),
    (
        LosskitRuntimeError,
        "log_probs must hold at least one frame, sample and class, got shape (0, 3, 5).",
        {"log_probs": torch.zeros(0, 3, 5)},
    ),
    (
        UnsupportedDtypeError,
        "log_probs must be floating point, got int64: log_probs.float()?",
        {"log_probs": torch.zeros(6, 3, 5, dtype=torch.int64)},
    ),
    (
        LosskitRuntimeError,
        "targets must have shape (N, S), or (sum of target_lengths), got (3, 2, 1).",
        {"targets": torch.ones(3, 2, 1, dtype=torch.int64)},
    ),
    (
        LosskitRuntimeError,
        "targets must hold labels, got complex64.",
        {"targets": torch.ones(3, 2, dtype=torch.complex64)},
    ),
    (
        LosskitRuntimeError,
        "targets (4, 2) holds 4 samples but log_probs (6, 3, 5) holds 3: (N, S) is needed.",
        {"targets": torch.ones(4, 2, dtype=torch.int64)},
    ),
    (
        LosskitRuntimeError,
        "targets (6, 2) holds 6 samples but log_probs (6, 3, 5) holds 3: log_probs.transpose(0, 1)?",
        {"targets": torch.ones(6, 2, dtype=torch.int64)},
    ),
    (
        LosskitRuntimeError,
        "targets is on meta but log_probs is on cpu: targets.to('cpu')?",
        {"targets": torch.ones(3, 2, dtype=torch.int64, device="meta")},
    ),
    (
        LosskitTypeError,
        "input_lengths and target_lengths must be two tensors or two tuples of ints, got Tensor and tuple.",
        {"input_lengths": torch.tensor([6, 6, 5])},
    ),
    (
        LosskitRuntimeError,
        "input_lengths must be integers, got float32: input_lengths.long()?",
        {"input_lengths": torch.tensor([6.0, 6.0, 5.0]), "target_lengths": torch.tensor([2, 2, 1])},
    ),
    (LosskitTypeError, "input_lengths must be a tensor or a tuple of ints, got int.", {"input_lengths": 6}),
    (LosskitTypeError, "each of target_lengths must be an int, got float.", {"target_lengths": (2.0, 2, 1)}),
    (
        LosskitRuntimeError,
        "input_lengths must hold one length for each of the 3 samples of log_probs, got 2.",
        {"input_lengths": (6, 6)},
    ),
    (
        LosskitRuntimeError,
        "target_lengths must hold one length for each of the 3 samples of log_probs, got 4.",
        {"target_lengths": (2, 2, 1, 1)},
    ),
    (LosskitRuntimeError, "input_lengths[1] is 7 but log_probs has 6 frames.", {"input_lengths": (6, 7, 5)}),
    (LosskitRuntimeError, "input_lengths[2] must be at least 0, got -1.", {"input_lengths": (6, 6, -1)}),
    (LosskitRuntimeError, "target_lengths[0] must be at least 0, got -2.", {"target_lengths": (-2, 2, 1)}),
    (
        LosskitRuntimeError,
        "target_lengths[1] is 4611686018427387904 but targets, shape (3, 2), has room for 2 labels.",
        {"target_lengths": (2, 2**62, 1)},
    ),
    (
        LosskitRuntimeError,
        "target_lengths add up to 5 but targets, one sample after another, holds 6 labels: targets of shape (N, S) may "
        "be padded.",
        {"targets": torch.tensor([1, 2, 3, 4, 2, 1])},
    ),
    (
        LosskitIndexError,
        "1 of 5 labels lie outside [0, 5): {100000}, first in sample 1 at place 1: 5 is the last size of log_probs.",
        {"targets": torch.tensor([[1, 2], [3, 100000], [2, 1]])},
    ),
    (
        LosskitIndexError,
        "2 of 5 labels lie outside [0, 5): {5}, first in sample 0 at place 0: these labels look 1-based.",
        {"targets": torch.tensor([[5, 2], [3, 4], [5, 5]])},
    ),
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("error", "message", "changed"), CTC_COMPLAINTS, ids=lambda value: None)
def test_ctc_loss(error: type[LosskitError], message: str, changed: dict[str, Any], backend: str) -> None:
    F.ctc_loss(**sequences(), backend=backend)
    complaint(error, f"ctc_loss: {message}", F.ctc_loss, **sequences(**changed), backend=backend)
    # The module hands everything on.
    if not {"blank", "zero_infinity", "reduction"} & set(changed):
        complaint(error, f"ctc_loss: {message}", losskit.CTCLoss(backend=backend), **sequences(**changed))


# A linear layer and its loss.


def layer(**changed: object) -> dict[str, Any]:
    return {
        "input": torch.ones(4, 3),
        "linear_weight": torch.ones(2, 3),
        "target": torch.tensor([0, 1, 0, 1]),
        **changed,
    }


LINEAR_COMPLAINTS: list[tuple[type[LosskitError], str, dict[str, Any]]] = [
    (LosskitTypeError, "linear_weight must be a torch.Tensor, got list.", {"linear_weight": [1.0]}),
    (LosskitTypeError, "linear_bias must be a torch.Tensor, got float.", {"linear_bias": 1.0}),
    (LosskitTypeError, "options must be a torch.nn.LinearCrossEntropyOptions or None, got int.", {"options": 2}),
    (LosskitTypeError, "ignore_index must be an int, got str.", {"ignore_index": "0"}),
    (
        LosskitRuntimeError,
        "input (2, 4, 3) takes a target of shape (2, 4), or (2, 4, 2) with class probabilities, got (4,).",
        {"input": torch.ones(2, 4, 3)},
    ),
    (
        LosskitRuntimeError,
        "input must have shape (K) or (…, K), got a 0-dim tensor.",
        {"input": torch.ones(())},
    ),
    (
        LosskitRuntimeError,
        "linear_weight must have shape (C, K) or (C, d1, …, K), got (3,).",
        {"linear_weight": torch.ones(3)},
    ),
    (
        LosskitRuntimeError,
        "input (4, 3) has 3 features but linear_weight (2, 5) takes 5.",
        {"linear_weight": torch.ones(2, 5)},
    ),
    (
        LosskitRuntimeError,
        "linear_bias must have the shape of linear_weight without its last dimension, (2,), got (3,).",
        {"linear_bias": torch.ones(3)},
    ),
    (
        LosskitRuntimeError,
        "linear_weight (2, 4, 3) needs an input of shape (N, 3), got (3,): input.unsqueeze(0)?",
        {"input": torch.ones(3), "linear_weight": torch.ones(2, 4, 3)},
    ),
    (
        LosskitRuntimeError,
        "linear_weight must have the dtype of input, float32, got float64: linear_weight.to(torch.float32)?",
        {"linear_weight": torch.ones(2, 3, dtype=torch.float64)},
    ),
    (
        LosskitRuntimeError,
        "ignore_index=0 needs class indices, but target holds class probabilities: mask= leaves samples out.",
        {"target": torch.full((4, 2), 0.5), "ignore_index": 0},
    ),
    (
        LosskitValueError,
        "the product (4, 2) takes a target of shape (4,), got (3,): 4 samples against 3.",
        {"target": torch.tensor([0, 1, 0])},
    ),
    (
        LosskitRuntimeError,
        "the product (4, 2) takes a target of shape (4,), got (4, 3): one class index per row of the product is "
        "needed.",
        {"target": torch.ones(4, 3, dtype=torch.int64)},
    ),
    (
        LosskitIndexError,
        "1 of 4 targets lie outside [0, 2): {2}, first at index 3. min=0, max=2: 2 is the size of the class dimension "
        "of input.",
        {"target": torch.tensor([0, 1, 0, 2])},
    ),
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("error", "message", "changed"), LINEAR_COMPLAINTS, ids=lambda value: None)
def test_linear_cross_entropy(error: type[LosskitError], message: str, changed: dict[str, Any], backend: str) -> None:
    F.linear_cross_entropy(**layer(), backend=backend)
    complaint(error, f"linear_cross_entropy: {message}", F.linear_cross_entropy, **layer(**changed), backend=backend)


# Losses with one value per row.


@pytest.mark.parametrize("backend", ["auto", "reference"])
class TestRows:
    @pytest.mark.parametrize(
        ("target", "seen"),
        [
            (
                [0, 3],
                "1 of 2 targets lie outside [0, 3): {3}, first at index 1. min=0, max=3: "
                "3 is the number of classes in input.",
            ),
            (
                [1, 3],
                "1 of 2 targets lie outside [0, 3): {3}, first at index 1. min=1, max=3=C: these labels look 1-based.",
            ),
            (
                [-100, 2],
                "1 of 2 targets lie outside [0, 3): {-100}, first at index 0. min=-100, max=2: if -100 marks "
                "samples to leave out: mask=(target != -100)?",
            ),
            (
                [2**62, -(2**63)],
                f"2 of 2 targets lie outside [0, 3): {{{-(2**63)}, {2**62}}}, first at index 0. min={-(2**63)}, "
                f"max={2**62}: 3 is the number of classes in input.",
            ),
        ],
    )
    def test_class_index(self, backend: str, target: list[int], seen: str) -> None:
        for input in (torch.zeros(2, 3), torch.zeros(2, 3, requires_grad=True)):
            for reduction in ("none", "mean"):
                given = (input, torch.tensor(target))
                options = {"backend": backend, "reduction": reduction}
                complaint(LosskitRuntimeError, f"multi_margin_loss: {seen}", F.multi_margin_loss, *given, **options)

    @pytest.mark.parametrize("wrong", [3, -2, 2**62, -(2**63)])
    def test_class_in_a_list(self, backend: str, wrong: int) -> None:
        """Behind the end of the list too."""
        low, high = min(wrong, -1), max(wrong, 1)
        message = (
            f"multilabel_margin_loss: 1 of 6 targets lie outside [-1, 3): {{{wrong}}}, first at row 1, place 2. "
            f"min={low}, max={high}: 3 is the number of classes in input."
        )
        target = torch.tensor([[0, 1, -1], [1, -1, wrong]])
        complaint(LosskitRuntimeError, message, F.multilabel_margin_loss, torch.zeros(2, 3), target, backend=backend)

    def test_masked_indices_may_be_anything(self, backend: str) -> None:
        mask = torch.tensor([True, False])
        loss = F.multi_margin_loss(torch.zeros(2, 3), torch.tensor([0, 99]), mask=mask, backend=backend)
        assert loss.item() == pytest.approx(2 / 3)
        lists = torch.tensor([[0, -1, -1], [99, 99, 99]])
        loss = F.multilabel_margin_loss(torch.zeros(2, 3), lists, mask=mask, backend=backend)
        assert loss.item() == pytest.approx(2 / 3)

    @pytest.mark.parametrize(
        ("error", "message", "name", "args", "kwargs"),
        [
            (LosskitValueError, "p must be 1 or 2, got 3.", "multi_margin_loss", ((2, 3), [0, 1]), {"p": 3}),
            (
                LosskitTypeError,
                "margin must be a number, got str.",
                "multi_margin_loss",
                ((2, 3), [0, 1]),
                {"margin": "1"},
            ),
            (
                LosskitValueError,
                "weight must be one-dimensional, got shape (1, 3).",
                "multi_margin_loss",
                ((2, 3), [0, 1]),
                {"weight": torch.ones(1, 3)},
            ),
            (
                LosskitRuntimeError,
                "input must have the shape (N, C) or (C) with at least one class, got (2, 3, 4).",
                "multi_margin_loss",
                ((2, 3, 4), [0, 1]),
                {},
            ),
            (
                LosskitRuntimeError,
                "input must have the shape (N, C) or (C) with at least one class, got (2, 0).",
                "multi_margin_loss",
                ((2, 0), [0, 1]),
                {},
            ),
            (
                LosskitRuntimeError,
                "input (2, 3) takes a class index per row, target of shape (2,), got (2, 1): target.flatten()?",
                "multi_margin_loss",
                ((2, 3), [[0], [1]]),
                {},
            ),
            (
                LosskitRuntimeError,
                "target must hold class indices of dtype int64, got float32: target.long()?",
                "multi_margin_loss",
                ((2, 3), [0.0, 1.0]),
                {},
            ),
            (
                LosskitRuntimeError,
                "target must have the shape of input, (2, 3), a list of classes per row that ends before a -1, "
                "got (2,).",
                "multilabel_margin_loss",
                ((2, 3), [0, 1]),
                {},
            ),
            (
                LosskitIndexError,
                "input must have a dimension of classes, got a 0-dim tensor.",
                "multilabel_soft_margin_loss",
                ((), 0.0),
                {},
            ),
            (
                LosskitRuntimeError,
                "target must hold one sign per pair of vectors, shape (N,) or (), got (2, 1).",
                "cosine_embedding_loss",
                ((2, 3), (2, 3), [[1], [1]]),
                {},
            ),
            (
                LosskitRuntimeError,
                "a target of shape () takes inputs of shape (D), got (2, 3) and (2, 3).",
                "cosine_embedding_loss",
                ((2, 3), (2, 3), 1),
                {},
            ),
            (
                LosskitRuntimeError,
                "input2 must have the shape of input1, (2, 3), got (2, 4), and the two do not broadcast.",
                "cosine_embedding_loss",
                ((2, 3), (2, 4), [1, 1]),
                {},
            ),
            (
                LosskitRuntimeError,
                "positive must have the shape of anchor, (2, 3), got (4, 3), and the two do not broadcast.",
                "triplet_margin_loss",
                ((2, 3), (4, 3), (2, 3)),
                {},
            ),
            (
                LosskitTypeError,
                "swap must be a bool, got int.",
                "triplet_margin_loss",
                ((2, 3), (2, 3), (2, 3)),
                {"swap": 1},
            ),
            (
                LosskitRuntimeError,
                "vectors without elements have no norm of order inf.",
                "triplet_margin_loss",
                ((2, 0), (2, 0), (2, 0)),
                {"p": float("inf")},
            ),
        ],
    )
    def test_arguments(
        self, backend: str, error: type[Exception], message: str, name: str, args: Any, kwargs: dict[str, Any]
    ) -> None:
        given = [torch.zeros(value) if isinstance(value, tuple) else torch.tensor(value) for value in args]
        complaint(error, f"{name}: {message}", getattr(F, name), *given, **kwargs, backend=backend)

    def test_norms_without_a_kernel(self, backend: str) -> None:
        tensors = arguments("triplet_margin_loss")
        message = (
            "triplet_margin_loss: backend='cpu' cannot run this call: the kernel has the norms of order 1 and 2, "
            "not 3. backend='auto' can."
        )
        F.triplet_margin_loss(*tensors, p=3, backend=backend)
        complaint(BackendError, message, F.triplet_margin_loss, *tensors, p=3, backend="cpu")
