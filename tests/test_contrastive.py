"""info_nce, clip_loss and siglip_loss in one process: values, gradients of every order, options, errors, memory."""

from __future__ import annotations

import copy
import doctest
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from assertions import assert_as_exact
from cases import CONTRASTIVE_CASES, REDUCTIONS, Call, Case, dtype_name
from torch import Tensor, nn

import losskit
from losskit import errors
from losskit import functional as L
from losskit.losses import contrastive as definitions

VARIANTS = [
    pytest.param(case, variant, id=f"{case.name}-{variant.replace(' ', '_')}")
    for case in CONTRASTIVE_CASES
    for variant in case.variants
]
each_variant = pytest.mark.parametrize(("case", "variant"), VARIANTS)
each_case = pytest.mark.parametrize("case", CONTRASTIVE_CASES, ids=repr)
# The kernel or one block, and a few rows at a time.
WORKSPACES = ("256MiB", 1000)


def learned(call: Call) -> tuple[Call, list[Tensor]]:
    """The call with every tensor as a leaf, and the leaves."""
    leaves: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1]

    return call.map(leaf), leaves


def gradients(case: Case, function: Callable[..., Tensor], call: Call, upstream: Tensor, **more: Any) -> list[Tensor]:
    call, leaves = learned(call)
    return list(torch.autograd.grad(call.run(function, **more), leaves, upstream))


def exact(case: Case, call: Call, reduction: str) -> Tensor:
    return oracles.reduced(case.textbook(call.input, call.target, **call.kwargs), reduction)


def example(name: str, rows: int = 6, dtype: torch.dtype = torch.float64, **more: Any) -> Call:
    case = next(case for case in CONTRASTIVE_CASES if case.name == name)
    call = case.make("plain", (rows, 5), dtype)
    return Call(call.input, call.target, {**call.kwargs, **more})


NAMES = tuple(case.name for case in CONTRASTIVE_CASES)


# values and gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=dtype_name)
@each_variant
def test_values_and_gradients(case: Case, variant: str, dtype: torch.dtype) -> None:
    for shape in case.shapes:
        call = case.make(variant, shape, dtype)
        wide, wide_leaves = learned(call.wide())
        for reduction in REDUCTIONS:
            truth = exact(case, wide, reduction)
            upstream = torch.randn(truth.shape).to(dtype).double()
            by_truth = torch.autograd.grad(truth, wide_leaves, upstream, retain_graph=True)
            floor = case.floor(call, upstream) / (max(shape[0], 1) if reduction == "mean" else 1)
            for workspace in WORKSPACES:
                for backend in ("auto", "reference"):
                    more = {"reduction": reduction, "workspace": workspace, "backend": backend}
                    ours, leaves = learned(call)
                    loss = ours.run(case.function, **more)
                    assert loss.dtype == dtype
                    size = 40.0 * max(shape[0], 1) if reduction == "sum" else 40.0
                    assert_as_exact(loss, truth, scale=size, what=f"{shape} {more}")
                    found = torch.autograd.grad(loss, leaves, upstream.to(dtype))
                    for place, (mine, theirs) in enumerate(zip(found, by_truth, strict=True)):
                        finite = theirs[theirs.isfinite()].abs()
                        scale = max(float(finite.max()) if finite.numel() else 0.0, floor * 4)
                        if mine.ndim == 0 or mine.shape == (1,):
                            # The sum of terms of all pairs, with signs.
                            scale = max(scale, float(upstream.abs().sum()) * 4)
                        assert_as_exact(mine, theirs, steps=24, scale=scale, what=f"{place} {shape} {more}")


@each_variant
def test_derivatives_of_every_order(case: Case, variant: str) -> None:
    call, leaves = learned(case.make(variant, (4, 3), torch.float64).wide())
    # Two rows at a time, where there are blocks.
    width = 4 if variant != "own negatives" else 5

    for reduction in ("mean", "none"):

        def loss(*tensors: Tensor, reduction: str = reduction) -> Tensor:
            place = iter(tensors)
            again = call.map(lambda _: next(place))
            return again.run(case.function, reduction=reduction, workspace=2 * 5 * 8 * width)

        assert torch.autograd.gradcheck(loss, leaves, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(loss, leaves)


@each_variant
def test_second_derivatives_behind_the_kernel(case: Case, variant: str) -> None:
    call = case.make(variant, (6, 5), torch.float32)
    norms = []
    for given, function in ((call, case.function), (call.wide(), case.torch_function)):
        ours, leaves = learned(given)
        first = torch.autograd.grad(ours.run(function), leaves[:2], create_graph=True)
        norms.append(torch.autograd.grad(sum(grad.square().sum() for grad in first), leaves))
    for mine, theirs in zip(*norms, strict=True):
        assert_as_exact(mine, theirs, steps=200)


@each_case
def test_transforms(case: Case) -> None:
    call = case.make("plain", (4, 3), torch.float64)
    one, other = torch.randn(2, 3, 4, 3, dtype=torch.float64)
    mask = torch.tensor([True, True, False, True])

    def loss(x: Tensor, y: Tensor, **more: Any) -> Tensor:
        return case.function(x, y, **call.kwargs, **more)

    for more in ({}, {"mask": mask}, {"sample_weight": mask.double() + 0.5}):
        found = torch.func.vmap(lambda x, y, more=more: loss(x, y, **more))(one, other)
        torch.testing.assert_close(found, torch.stack([loss(x, y, **more) for x, y in zip(one, other, strict=True)]))
        gradient = torch.func.grad(lambda x, more=more: loss(x, other[0], **more))(one[0])
        leaf = one[0].clone().requires_grad_()
        torch.testing.assert_close(gradient, *torch.autograd.grad(loss(leaf, other[0], **more), leaf))
    forward = torch.func.jacfwd(torch.func.grad(lambda x: loss(x, other[0], mask=mask)))(one[0])
    torch.testing.assert_close(forward, torch.func.hessian(lambda x: loss(x, other[0], mask=mask))(one[0]))
    leaf = one[0].clone().requires_grad_()
    losses = loss(leaf, other[0], reduction="none")
    rows = torch.eye(4, dtype=torch.float64)
    batched = torch.autograd.grad(losses, leaf, rows, is_grads_batched=True, retain_graph=True)[0]
    torch.testing.assert_close(
        batched, torch.stack([torch.autograd.grad(losses, leaf, row, retain_graph=True)[0] for row in rows])
    )


@pytest.mark.parametrize("name", NAMES)
def test_under_compile(name: str) -> None:
    call = example(name, dtype=torch.float32)
    function = getattr(L, name)
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    torch.testing.assert_close(call.run(compiled), call.run(function))
    mask = torch.arange(6) != 2
    torch.testing.assert_close(call.run(compiled, mask=mask), call.run(function, mask=mask))


@pytest.mark.parametrize("workspace", WORKSPACES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_a_second_backward_gives_the_same(name: str, reduction: str, workspace: Any) -> None:
    call = example(name, dtype=torch.float32)
    for places in ((0,), (1,), (0, 1)):
        again = call.leaves(*places)
        loss = again.run(getattr(L, name), reduction=reduction, workspace=workspace)
        upstream = torch.randn(loss.shape)
        first = torch.autograd.grad(loss, again.wanted(), upstream, retain_graph=True)
        second = torch.autograd.grad(loss, again.wanted(), 2 * upstream)
        for one, other in zip(first, second, strict=True):
            torch.testing.assert_close(2 * one, other, rtol=1e-6, atol=1e-7)


# numbers --------------------------------------------------------------------------------------------------------------


def test_two_pairs_by_hand() -> None:
    image, text = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    # The cosines are [[1, 0.6], [0, 0.8]]; times 5 they are [[5, 3], [0, 4]].
    rows = (math.log1p(math.exp(3 - 5)), math.log1p(math.exp(0 - 4)))
    columns = (math.log1p(math.exp(0 - 5)), math.log1p(math.exp(3 - 4)))
    assert L.info_nce(image, text, temperature=0.2, reduction="none").tolist() == pytest.approx(rows, rel=1e-5)
    expected = [(row + column) / 2 for row, column in zip(rows, columns, strict=True)]
    assert L.clip_loss(image, text, 5.0, reduction="none").tolist() == pytest.approx(expected, rel=1e-5)
    terms = (
        math.log1p(math.exp(-(5 - 2))) + math.log1p(math.exp(3 - 2)),
        math.log1p(math.exp(0 - 2)) + math.log1p(math.exp(-(4 - 2))),
    )
    assert L.siglip_loss(image, text, 5.0, -2.0, reduction="none").tolist() == pytest.approx(terms, rel=1e-5)
    negatives = torch.tensor([[0.0, 7.0]])
    own = (math.log1p(math.exp(0 - 5)), math.log1p(math.exp(5 - 4)))
    found = L.info_nce(image, text, negatives, temperature=0.2, reduction="none")
    assert found.tolist() == pytest.approx(own, rel=1e-5)


def test_one_loss_is_another() -> None:
    x, y = torch.randn(2, 7, 5, dtype=torch.float64)
    halves = L.info_nce(x, y, temperature=0.25) / 2 + L.info_nce(y, x, temperature=0.25) / 2
    torch.testing.assert_close(L.clip_loss(x, y, 4.0), halves)
    unit_x, unit_y = nn.functional.normalize(x, dim=1), nn.functional.normalize(y, dim=1)
    torch.testing.assert_close(
        L.info_nce(x, y, temperature=0.25), L.linear_cross_entropy(4 * unit_x, unit_y, torch.arange(7))
    )
    signs = 2 * torch.eye(7, dtype=torch.float64) - 1
    scores = 4 * unit_x @ unit_y.T - 1
    torch.testing.assert_close(L.siglip_loss(x, y, 4.0, -1.0), L.soft_margin_loss(scores, signs, reduction="sum") / 7)
    # The keys of the others as negatives of its own.
    others = torch.stack([torch.cat((y[:n], y[n + 1 :])) for n in range(7)])
    torch.testing.assert_close(L.info_nce(x, y, others), L.info_nce(x, y))
    # Lengths do not matter, and where they are 1 nothing is changed.
    torch.testing.assert_close(L.clip_loss(3 * x, y / 7, 4.0), L.clip_loss(x, y, 4.0))
    torch.testing.assert_close(L.clip_loss(unit_x, unit_y, 4.0, normalize=False), L.clip_loss(x, y, 4.0))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_pairs_does_not_matter(name: str) -> None:
    call, order = example(name), torch.randperm(6)
    losses = call.run(getattr(L, name), reduction="none")
    again = call.rows(order).run(getattr(L, name), reduction="none")
    torch.testing.assert_close(again, losses[order])


@pytest.mark.parametrize("length", [1e-30, 1e-12, 1.0, 1e25])
@pytest.mark.parametrize("name", NAMES)
def test_vectors_of_any_length(name: str, length: float) -> None:
    call = example(name, dtype=torch.float32)
    expected = call.run(getattr(L, name))
    scaled = call.with_tensors(length * call.input, call.target).leaves(0)
    loss = scaled.run(getattr(L, name))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss, scaled.input)
    base = call.leaves(0)
    (of_one,) = torch.autograd.grad(base.run(getattr(L, name)), base.input)
    torch.testing.assert_close(gradient.double() * length, of_one.double(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=dtype_name)
@pytest.mark.parametrize("name", NAMES)
def test_a_vector_of_zeros_has_no_direction(name: str, dtype: torch.dtype) -> None:
    call = example(name, dtype=dtype)
    call.input[2], call.target[4] = 0, 0
    again, leaves = learned(call)
    loss = again.run(getattr(L, name))
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    assert bool(loss.isfinite())
    assert not bool(first[0][2].any())
    assert not bool(first[1][4].any())
    assert bool(first[0][[0, 1, 3, 4, 5]].any(1).all())
    second = torch.autograd.grad(sum(grad.square().sum() for grad in first), leaves)
    assert all(bool(grad.isfinite().all()) for grad in (*first, *second))
    # Its similarity with all others is 0.
    if name == "info_nce":
        assert float(again.run(L.info_nce, reduction="none")[2].detach()) == pytest.approx(math.log(6))


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_a_huge_scale(scale: float) -> None:
    eye = torch.eye(4, requires_grad=True)
    for loss in (
        L.clip_loss(eye, eye, scale),
        L.siglip_loss(eye, eye, scale),
        L.info_nce(eye, eye, temperature=1 / scale),
    ):
        assert bool(loss.isfinite())
    assert float(L.clip_loss(eye, eye, scale).detach()) == 0
    flipped = eye.detach().flip(0).requires_grad_()
    loss = L.clip_loss(eye, flipped, scale)
    assert float(loss.detach()) == pytest.approx(scale)
    assert all(bool(grad.isfinite().all()) for grad in torch.autograd.grad(loss, (eye, flipped)))
    assert float(L.siglip_loss(eye, flipped, scale).detach()) == pytest.approx(scale, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_nan_goes_where_it_belongs(name: str) -> None:
    call = example(name, dtype=torch.float32)
    call.input[2, 1] = math.nan
    for workspace in WORKSPACES:
        losses = call.run(getattr(L, name), reduction="none", workspace=workspace)
        touched = torch.ones(6, dtype=torch.bool) if name == "clip_loss" else torch.arange(6) == 2
        assert torch.equal(losses.isnan(), touched)
    call.input[2, 1], call.target[3, 0] = 0.0, math.nan
    assert bool(call.run(getattr(L, name), reduction="none").isnan().all())
    call.target[3, 0] = math.inf
    assert bool(call.run(getattr(L, name), reduction="none").isnan().all())


def test_one_pair() -> None:
    x, y = torch.randn(2, 1, 5)
    assert float(L.clip_loss(x, y, 10.0)) == float(L.info_nce(x, y)) == 0
    leaf = x.clone().requires_grad_()
    L.clip_loss(leaf, y, 10.0).backward()
    assert leaf.grad is not None
    assert not bool(leaf.grad.any())
    cosine = nn.functional.cosine_similarity(x, y)
    assert float(L.siglip_loss(x, y, 10.0)) == pytest.approx(float(nn.functional.softplus(-10 * cosine)), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=dtype_name)
@pytest.mark.parametrize("name", NAMES)
def test_no_pairs(name: str, dtype: torch.dtype) -> None:
    call, function = example(name, rows=0, dtype=dtype).leaves(0, 1), getattr(L, name)
    assert bool(call.run(function).isnan())
    assert float(call.run(function, reduction="sum").detach()) == 0
    assert call.run(function, reduction="none").shape == (0,)
    zero = call.run(function, on_empty="zero")
    assert float(zero.detach()) == 0
    assert all(grad.shape == (0, 5) for grad in torch.autograd.grad(zero, call.wanted()))
    with pytest.raises(errors.EmptyLossError, match=f"^{name}: no value counts"):
        call.run(function, on_empty="raise")


# options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=dtype_name)
@each_variant
def test_a_masked_pair_is_not_there(case: Case, variant: str, dtype: torch.dtype, backend: str) -> None:
    call = case.make(variant, (6, 5), dtype)
    mask = torch.tensor([True, False, True, True, False, True])
    kwargs = {
        name: value[mask] if isinstance(value, Tensor) and value.ndim == 3 else value
        for name, value in call.kwargs.items()
    }
    dropped = Call(call.input[mask], call.target[mask], kwargs)
    weight = torch.rand(6, dtype=dtype) + 0.25
    poisoned = Call(call.input.clone(), call.target.clone(), call.kwargs)
    poisoned.input[1], poisoned.target[4] = math.nan, math.nan
    for reduction in REDUCTIONS:
        for weights in (None, weight):
            ours, leaves = learned(poisoned)
            theirs, other_leaves = learned(dropped)
            found = ours.run(case.function, reduction=reduction, mask=mask, sample_weight=weights, backend=backend)
            expected = theirs.run(
                case.function, reduction=reduction, sample_weight=None if weights is None else weights[mask]
            )
            if reduction == "none":
                assert not bool(found[~mask].any())
                found = found[mask]
            torch.testing.assert_close(found, expected)
            mine = torch.autograd.grad(found.sum(), leaves)
            for one, other in zip(mine, torch.autograd.grad(expected.sum(), other_leaves), strict=True):
                rows = one.shape[:1] == (6,)
                if rows:
                    assert not bool(one[~mask].any())
                torch.testing.assert_close(one[mask] if rows else one, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=dtype_name)
@pytest.mark.parametrize("name", NAMES)
def test_weights_normalizer_and_dtype(name: str, dtype: torch.dtype) -> None:
    call, function = example(name, dtype=dtype), getattr(L, name)
    losses = call.run(function, reduction="none")
    weight = torch.rand(6, dtype=dtype) + 0.25
    torch.testing.assert_close(call.run(function, sample_weight=weight), (weight * losses).sum() / weight.sum())
    torch.testing.assert_close(
        call.run(function, sample_weight=weight.double()), (weight * losses).sum() / weight.sum()
    )
    torch.testing.assert_close(call.run(function, normalizer=4.0), losses.sum() / 4)
    divisor = torch.tensor(4.0, dtype=dtype, requires_grad=True)
    total = call.run(function, normalizer=divisor)
    torch.testing.assert_close(*torch.autograd.grad(total, divisor), -losses.sum() / 16)
    asked = weight.clone().requires_grad_()
    torch.testing.assert_close(
        *torch.autograd.grad(call.run(function, sample_weight=asked), asked),
        losses / weight.sum() - (weight * losses).sum() / weight.sum() ** 2,
    )
    assert call.run(function, out_dtype=torch.float64).dtype == torch.float64
    assert call.to(torch.bfloat16).run(function, out_dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_all_masked(name: str) -> None:
    call, function = example(name, dtype=torch.float32).leaves(0, 1), getattr(L, name)
    none = torch.zeros(6, dtype=torch.bool)
    assert bool(call.run(function, mask=none).isnan())
    zero = call.run(function, mask=none, on_empty="zero")
    assert float(zero.detach()) == 0
    assert not any(bool(grad.any()) for grad in torch.autograd.grad(zero, call.wanted()))


@pytest.mark.parametrize("name", NAMES)
def test_autocast_does_not_reach_the_similarities(name: str) -> None:
    call, function = example(name, dtype=torch.float32).leaves(0), getattr(L, name)
    expected = call.run(function)
    with torch.autocast("cpu", torch.bfloat16):
        found = call.run(function)
        half = call.to(torch.bfloat16).run(function)
    assert torch.equal(found, expected)
    assert half.dtype == torch.float32
    torch.testing.assert_close(*(torch.autograd.grad(loss, call.input)[0] for loss in (found, expected)))


# memory and backends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_no_more_similarities_than_the_workspace_holds(
    name: str, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, workspace = 96, 16 * 1024
    call = example(name, rows=rows, dtype=torch.float32).leaves(0, 1)
    original, seen = getattr(definitions, name), []

    def recorded(one: Tensor, *others: Tensor, **more: Any) -> Tensor:
        seen.append(len(one))
        return original(one, *others, **more)

    monkeypatch.setattr(definitions, name, recorded)
    kept: list[int] = []
    backend = "reference" if name != "siglip_loss" else "auto"
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda t: t):
        loss = call.run(getattr(L, name), reduction=reduction, workspace=workspace, backend=backend)
    torch.autograd.grad(loss.sum(), call.wanted())
    # Five matrices of float32 for each block.
    assert max(seen) <= workspace // (5 * 4 * rows)
    assert sum(seen) == (rows if reduction == "mean" else 2 * rows)
    assert max(kept) < rows * rows / 4


def test_what_runs() -> None:
    def dispatched(name: str, **more: Any) -> losskit.Dispatch:
        call = example(name, rows=64, dtype=torch.float32)
        return call.run(lambda *args, **kwargs: losskit.explain_dispatch(getattr(L, name), *args, **kwargs), **more)

    if losskit.kernels.cpu.available():  # type: ignore[attr-defined]  # a room, and no public name
        assert dispatched("clip_loss").backend == dispatched("info_nce", backend="cpu").backend == "cpu"
        assert dispatched("clip_loss", workspace=64 * 4 * 16).reason.endswith("4 chunks of 16 rows")
    assert dispatched("siglip_loss", workspace=5 * 4 * 64 * 16) == losskit.Dispatch(
        "reference", "there is no kernel for this call; 4 blocks of 16 rows"
    )
    assert (
        dispatched("clip_loss", backend="reference").reason == "backend='reference' was asked for; 1 block of 64 rows"
    )
    for name, backend, reason in (
        ("siglip_loss", "cpu", "there is no kernel for this loss"),
        ("clip_loss", "triton", "there is no Triton kernel for this loss"),
        ("siglip_loss", "triton", "there is no kernel for this loss"),
    ):
        with pytest.raises(errors.BackendError, match=f"^{name}: backend='{backend}' cannot run this call: {reason}"):
            dispatched(name, backend=backend)
    with pytest.raises(errors.BackendError, match=r"^clip_loss: backend='cpu' cannot run this call: the kernel takes"):
        example("clip_loss").run(L.clip_loss, backend="cpu")


# errors ---------------------------------------------------------------------------------------------------------------

X = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: L.clip_loss(X, X[:3], 1.0),
            ValueError,
            "clip_loss: image_features and text_features must hold as many vectors, the n-th of one belonging to the "
            "n-th of the other, got 4 and 3.",
        ),
        (
            lambda: L.siglip_loss(X, X[:, :2], 1.0),
            RuntimeError,
            "siglip_loss: the vectors of text_features must be as long as those of image_features, 3, got 2: do both "
            "come out of a projection to the same size?",
        ),
        (
            lambda: L.info_nce(X, X.double()),
            RuntimeError,
            "info_nce: key must have the dtype of query, float32, got float64: key.to(torch.float32)?",
        ),
        (
            lambda: L.info_nce(X[0], X[0]),
            RuntimeError,
            "info_nce: query must have shape (N, D), a vector for each pair, got (3,): query.unsqueeze(0)?",
        ),
        (
            lambda: L.clip_loss(X.reshape(2, 2, 3), X, 1.0),
            RuntimeError,
            "clip_loss: image_features must have shape (N, D), a vector for each pair, got (2, 2, 3): "
            "image_features.flatten(1)?",
        ),
        (
            lambda: L.clip_loss(X[:, :0], X[:, :0], 1.0),
            RuntimeError,
            "clip_loss: image_features must hold vectors of at least one number, got shape (4, 0).",
        ),
        (
            lambda: L.clip_loss(X.long(), X.long(), 1.0),
            NotImplementedError,
            "clip_loss: image_features must be floating point, got int64: image_features.float()?",
        ),
        (
            lambda: L.clip_loss([[1.0]], X, 1.0),  # type: ignore[arg-type]  # what is tested
            TypeError,
            "clip_loss: image_features must be a torch.Tensor, got list.",
        ),
        (
            lambda: L.clip_loss(X, X, "10"),  # type: ignore[arg-type]  # what is tested
            TypeError,
            "clip_loss: logit_scale must be a number, got str.",
        ),
        (
            lambda: L.clip_loss(X, X, torch.ones(2)),
            RuntimeError,
            "clip_loss: logit_scale must be a number or a tensor of one, got shape (2,).",
        ),
        (
            lambda: L.siglip_loss(X, X, 1.0, torch.ones(1, dtype=torch.complex64)),
            TypeError,
            "siglip_loss: logit_bias must be real, got complex64.",
        ),
        (
            lambda: L.siglip_loss(X, X, True),
            TypeError,
            "siglip_loss: logit_scale must be a number, got bool.",
        ),
        (lambda: L.info_nce(X, X, temperature=0), ValueError, "info_nce: temperature must be greater than 0, got 0."),
        (
            lambda: L.info_nce(X, X, temperature=torch.tensor(-1.0)),
            ValueError,
            "info_nce: temperature must be greater than 0, got -1.",
        ),
        (
            lambda: L.info_nce(X, X, torch.randn(3, 2, 3)),
            RuntimeError,
            "info_nce: negatives must have shape (M, 3), the same for each query, or (4, M, 3), got (3, 2, 3).",
        ),
        (
            lambda: L.info_nce(X, X, torch.randn(5, 2)),
            RuntimeError,
            "info_nce: the vectors of negatives must be as long as those of query, 3, got 2: do both come out of a "
            "projection to the same size?",
        ),
        (
            lambda: L.clip_loss(X, X, 1.0, normalize=1),  # type: ignore[arg-type]  # what is tested
            TypeError,
            "clip_loss: normalize must be a bool, got int.",
        ),
        (
            lambda: L.clip_loss(X, X, 1.0, reduction="batchmean"),
            ValueError,
            "clip_loss: reduction must be 'none', 'mean' or 'sum', got 'batchmean'.",
        ),
        (
            lambda: L.clip_loss(X, X, 1.0, mask=torch.ones(5, dtype=torch.bool)),
            RuntimeError,
            "clip_loss: mask must broadcast to the shape of the unreduced loss, (4,), got shape (5,).",
        ),
        (
            lambda: L.clip_loss(X, X, 1.0, workspace=0),
            ValueError,
            "clip_loss: workspace must be a positive number of bytes, or a text such as '256MiB', got 0.",
        ),
        (
            lambda: L.clip_loss(X, X.to("meta"), 1.0),
            RuntimeError,
            "clip_loss: text_features is on meta but image_features is on cpu: text_features.to('cpu')?",
        ),
        (
            lambda: losskit.CLIPLoss(init_scale=0),
            ValueError,
            "CLIPLoss: init_scale must be positive and finite, got 0.",
        ),
        (
            lambda: losskit.SigLIPLoss(init_bias="0"),  # type: ignore[arg-type]  # what is tested
            TypeError,
            "SigLIPLoss: init_bias must be a number, got str.",
        ),
        (
            lambda: losskit.InfoNCELoss(temperature=-1),
            ValueError,
            "InfoNCELoss: temperature must be positive and finite, got -1.",
        ),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
    assert isinstance(caught.value, losskit.LosskitError)


def test_the_page_on_pairs() -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "contrastive.md"
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert (failed, tried) == (0, 14)


# modules --------------------------------------------------------------------------------------------------------------


def test_modules_begin_as_the_papers_say() -> None:
    clip, siglip = losskit.CLIPLoss(), losskit.SigLIPLoss()
    assert float(clip.logit_scale.detach()) == pytest.approx(1 / 0.07)
    assert (float(siglip.logit_scale.detach()), float(siglip.logit_bias.detach())) == pytest.approx((10.0, -10.0))
    assert list(clip.state_dict()) == ["log_scale"]
    assert list(siglip.state_dict()) == ["log_scale", "logit_bias"]
    assert list(losskit.InfoNCELoss().parameters()) == []
    assert repr(clip) == "CLIPLoss(max_scale=100.0, normalize=True, reduction=mean)"
    assert repr(siglip) == "SigLIPLoss(normalize=True, reduction=mean)"
    assert repr(losskit.InfoNCELoss(0.5)) == (
        "InfoNCELoss(temperature=0.5, learn_temperature=False, normalize=True, reduction=mean)"
    )


@pytest.mark.parametrize(
    ("criterion", "function"),
    [
        (losskit.CLIPLoss(init_scale=3.0), lambda x, y, **more: L.clip_loss(x, y, 3.0, **more)),
        (losskit.SigLIPLoss(3.0, -2.0), lambda x, y, **more: L.siglip_loss(x, y, 3.0, -2.0, **more)),
        (losskit.InfoNCELoss(0.5), lambda x, y, **more: L.info_nce(x, y, temperature=0.5, **more)),
        (
            losskit.InfoNCELoss(0.5, normalize=False, reduction="none"),
            lambda x, y, **more: L.info_nce(x, y, temperature=0.5, normalize=False, reduction="none", **more),
        ),
    ],
    ids=["clip", "siglip", "info_nce", "info_nce as they are"],
)
def test_a_module_calls_its_function(criterion: nn.Module, function: Callable[..., Tensor]) -> None:
    x, y = torch.randn(2, 6, 5)
    mask, weight = torch.arange(6) != 2, torch.rand(6)
    for each in (criterion, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        for more in ({}, {"mask": mask, "sample_weight": weight}):
            torch.testing.assert_close(each(x, y, **more), function(x, y, **more))


def test_a_learned_scale_and_its_limit() -> None:
    x = torch.eye(4)
    criterion = losskit.CLIPLoss(init_scale=90.0)
    assert float(criterion(x, x.flip(0)).detach()) == pytest.approx(90.0)
    criterion(x, x.flip(0)).backward()
    # Every image is nearest to another's text: the gradient asks for a smaller scale.
    assert criterion.log_scale.grad is not None
    assert float(criterion.log_scale.grad) == pytest.approx(90.0)
    with torch.no_grad():
        criterion.log_scale.fill_(10.0)
    criterion(x, x)
    assert float(criterion.logit_scale.detach()) == pytest.approx(100.0)
    unlimited = losskit.CLIPLoss(init_scale=1e4, max_scale=None)
    unlimited(x, x)
    assert float(unlimited.logit_scale.detach()) == pytest.approx(1e4)


@pytest.mark.parametrize(
    "criterion",
    [losskit.CLIPLoss(), losskit.SigLIPLoss(), losskit.InfoNCELoss(0.5, learn_temperature=True)],
    ids=["clip", "siglip", "info_nce"],
)
def test_a_criterion_learns_pairs(criterion: nn.Module) -> None:
    torch.manual_seed(0)
    images, texts = torch.randn(8, 6), torch.randn(8, 4)
    layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(4, 8), criterion])
    optimizer = torch.optim.Adam(layers.parameters(), lr=0.05)
    before = [parameter.detach().clone() for parameter in criterion.parameters()]
    losses = []
    for _ in range(60):
        loss = criterion(layers[0](images), layers[1](texts))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    for old, parameter in zip(before, criterion.parameters(), strict=True):
        assert not torch.equal(old, parameter.detach())


def test_a_functional_call_of_a_module() -> None:
    criterion = losskit.CLIPLoss(init_scale=3.0)
    x, y = torch.randn(2, 5, 4)
    given = {"log_scale": torch.tensor(1.5)}
    expected = L.clip_loss(x, y, math.exp(1.5))
    torch.testing.assert_close(torch.func.functional_call(criterion, given, (x, y)), expected)
    slope = torch.func.grad(lambda s: torch.func.functional_call(criterion, {"log_scale": s}, (x, y)))(
        torch.tensor(1.5)
    )
    leaf = torch.tensor(1.5, requires_grad=True)
    torch.testing.assert_close(slope, *torch.autograd.grad(L.clip_loss(x, y, leaf.exp()), leaf))
