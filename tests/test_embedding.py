"""The triplet loss with any distance: it takes a function and has no kernel, so it is not in the list of cases."""

import inspect
from typing import Any

import pytest
import torch
from assertions import assert_as_exact
from cases import HALVES, dtype_name
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing._internal.common_methods_invocations import op_db

import losskit
from losskit import functional as F
from losskit.errors import BackendError, EmptyLossError, LosskitRuntimeError, LosskitTypeError, LosskitValueError

NAME = "triplet_margin_with_distance_loss"
ours, theirs = getattr(F, NAME), getattr(torch.nn.functional, NAME)


def triplet(dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (6, 5)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    anchor, positive, negative = (
        (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_(True)
        for _ in range(3)
    )
    return anchor, positive, negative


def largest(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().amax(-1)


def clamped(*args: Any, **kwargs: Any) -> Tensor:
    """The loss as its docstring has it."""
    a, p, n = args
    distance = kwargs.get("distance_function") or torch.nn.PairwiseDistance()
    margin = kwargs.get("margin", 1.0)
    return (margin + distance(a, p) - distance(a, n)).clamp_min(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=dtype_name)
def test_samples_of_torch(dtype: torch.dtype) -> None:
    (op,) = (op for op in op_db if op.name == f"nn.functional.{NAME}")
    seen = 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        bound = inspect.signature(theirs).bind(sample.input, *sample.args, **sample.kwargs)
        tensors = bound.args
        wide = [tensor.detach().double().requires_grad_(True) for tensor in tensors]
        result, eager, exact = (
            ours(*tensors, **bound.kwargs),
            theirs(*tensors, **bound.kwargs),
            theirs(*wide, **bound.kwargs),
        )
        assert result.dtype == eager.dtype
        assert result.shape == eager.shape
        # Terms of the size of a distance cancel.
        scale = max(10.0, float(exact.detach().abs().max()))
        assert_as_exact(result, exact, eager, scale=scale)
        grad_output = torch.randn(eager.shape).to(dtype)
        for our, their, true in zip(
            torch.autograd.grad(result, tensors, grad_output),
            torch.autograd.grad(eager, tensors, grad_output),
            torch.autograd.grad(exact, wide, grad_output.double()),
            strict=True,
        ):
            assert_as_exact(our, true, their, steps=8, what="gradient")
        seen += 1
    assert seen > 5


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("distance", [None, largest, torch.nn.CosineSimilarity()], ids=["default", "own", "module"])
def test_derivatives(distance: Any, swap: bool) -> None:
    def loss(*tensors: Tensor) -> Tensor:
        return ours(*tensors, distance_function=distance, swap=swap, margin=2.0)

    assert gradcheck(loss, triplet(torch.float64, (3, 4)))
    assert gradgradcheck(loss, triplet(torch.float64, (3, 4)))


def test_options() -> None:
    tensors = triplet(torch.float64)
    values = clamped(*tensors, distance_function=largest)
    weight, mask = torch.linspace(0.5, 2.0, 6, dtype=torch.float64), torch.arange(6) % 3 != 1
    given: dict[str, Any] = {"distance_function": largest}
    assert_as_exact(ours(*tensors, **given, reduction="none"), values.detach())
    expected = (values * weight)[mask].sum() / weight[mask].sum()
    assert_as_exact(ours(*tensors, **given, sample_weight=weight, mask=mask), expected.detach())
    assert_as_exact(ours(*tensors, **given, normalizer=3.0), (values.sum() / 3).detach())
    assert ours(*tensors, **given, out_dtype=torch.float32).dtype == torch.float32
    nothing = torch.zeros(6, dtype=torch.bool)
    assert ours(*tensors, **given, mask=nothing, on_empty="zero").item() == 0
    with pytest.raises(EmptyLossError):
        ours(*tensors, **given, mask=nothing, on_empty="raise")


@pytest.mark.parametrize("distance", [None, largest])
def test_nothing_leaks_from_under_the_mask(distance: Any) -> None:
    anchor, positive, negative = (tensor.detach() for tensor in triplet())
    mask = torch.arange(6) % 3 != 1
    dirty = torch.where(mask[:, None], anchor, torch.nan).requires_grad_(True)
    loss = ours(dirty, positive, negative, distance_function=distance, mask=mask)
    assert torch.equal(loss, ours(anchor, positive, negative, distance_function=distance, mask=mask))
    (gradient,) = torch.autograd.grad(loss, dirty)
    assert bool(gradient.isfinite().all())
    assert bool((gradient[~mask] == 0).all())


def test_module_is_like_torch() -> None:
    for kwargs in ({}, {"margin": 0.5, "swap": True}, {"distance_function": largest, "reduction": "sum"}):
        mine, their = losskit.TripletMarginWithDistanceLoss(**kwargs), torch.nn.TripletMarginWithDistanceLoss(**kwargs)
        assert repr(mine) == repr(their)
        assert isinstance(mine, torch.nn.TripletMarginWithDistanceLoss)
        assert_as_exact(mine(*triplet()), their(*triplet(torch.float64)), their(*triplet()), scale=10.0)


def test_what_runs() -> None:
    ran = losskit.explain_dispatch(ours, *triplet())
    assert (ran.backend, ran.reason) == ("reference", "a distance of any kind has no kernel")


@pytest.mark.parametrize(
    ("error", "message", "kwargs"),
    [
        (LosskitValueError, "margin must be greater than 0, got 0.", {"margin": 0}),
        (LosskitTypeError, "margin must be a number, got str.", {"margin": "1"}),
        (LosskitValueError, "reduction must be 'none', 'mean' or 'sum', got 'all'.", {"reduction": "all"}),
        (LosskitTypeError, "distance_function must be callable or None, got int.", {"distance_function": 3}),
        (
            LosskitTypeError,
            "what distance_function returns must be a torch.Tensor, got float.",
            {"distance_function": lambda x, y: 1.0},
        ),
        (
            BackendError,
            "backend='cpu' cannot run this call: a distance of any kind has no kernel. backend='auto' can.",
            {"backend": "cpu"},
        ),
    ],
)
def test_errors(error: type[Exception], message: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(error) as caught:
        ours(*triplet(), **kwargs)
    assert str(caught.value) == f"{NAME}: {message}"


def test_error_of_dimensions() -> None:
    anchor, positive, negative = triplet()
    with pytest.raises(LosskitRuntimeError) as caught:
        ours(anchor, positive[0], negative, distance_function=largest)
    assert str(caught.value) == (
        f"{NAME}: anchor, positive and negative must have the same number of dimensions, "
        "got shapes (6, 5), (5,), (6, 5)."
    )
