"""linear_cross_entropy: a linear layer and cross_entropy, in one call and one module."""

import copy
import pickle
from typing import Any

import pytest
import torch
from assertions import assert_as_exact
from cases import APART_CASES, HALVES, KERNEL_DTYPES, REDUCTIONS, Call, dtype_name
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap

import losskit
from losskit import functional as F
from losskit.errors import BackendError
from losskit.kernels import cpu

CASE = APART_CASES[1]
torch_function = nn.functional.linear_cross_entropy
needs_kernels = pytest.mark.skipif(not cpu.available(), reason=cpu.unavailable_reason())
BACKENDS = ["auto", "reference"]


def map_of_classes(dtype: torch.dtype = torch.float32) -> Call:
    """A linear_weight (C, d1, d2, K)."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 3, 2, 4, generator=generator).to(dtype)
    target = torch.randint(5, (6, 3, 2), generator=generator)
    target[1], target[2, 0, 0] = -100, -100
    bias = torch.randn(5, 3, 2, generator=generator).to(dtype)
    return Call(torch.randn(6, 4, generator=generator).to(dtype), weight, {"target": target, "linear_bias": bias})


def calls(dtype: torch.dtype = torch.float32) -> list[Call]:
    return [CASE.make(variant, (6, 4), dtype) for variant in CASE.variants] + [map_of_classes(dtype)]


def gradients(call: Call, function: Any, **more: Any) -> list[Tensor]:
    call = call.leaves(0, 1)
    loss = call.run(function, **more)
    upstream = torch.randn(loss.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return [loss.detach(), *torch.autograd.grad(loss, call.wanted(), upstream.to(loss.dtype))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, *KERNEL_DTYPES], ids=dtype_name)
def test_value_and_gradients(dtype: torch.dtype, backend: str) -> None:
    for call in calls(dtype):
        for reduction in REDUCTIONS:
            exact = gradients(call.wide(), torch_function, reduction=reduction)
            eager = gradients(call, torch_function, reduction=reduction)
            ours = gradients(call, F.linear_cross_entropy, reduction=reduction, backend=backend)
            for mine, true, theirs in zip(ours, exact, eager, strict=True):
                assert mine.dtype == dtype
                assert_as_exact(mine, true, theirs, steps=8, scale=max(1.0, float(true.abs().max())))


@pytest.mark.parametrize("dtype", HALVES, ids=dtype_name)
def test_half_precision_is_multiplied_in_float32(dtype: torch.dtype) -> None:
    for call in calls(dtype):
        exact = gradients(call.wide(), torch_function)
        ours = gradients(call, F.linear_cross_entropy, out_dtype=torch.float32)
        assert ours[0].dtype == torch.float32
        assert_as_exact(ours[0], exact[0], steps=8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_options_are_those_of_cross_entropy(backend: str) -> None:
    for call in calls():
        target, weight = call.kwargs["target"], call.target
        bias = call.kwargs.get("linear_bias")
        scores = torch.tensordot(call.input, weight, dims=([-1], [-1]))
        scores = scores if bias is None else scores + bias
        rest = {name: value for name, value in call.kwargs.items() if name not in ("target", "linear_bias")}
        shape = torch.Size([*scores.shape[:1], *scores.shape[2:]])
        mask = torch.arange(shape.numel()).reshape(shape) % 3 != 1
        for options in ({"mask": mask}, {"sample_weight": torch.rand(shape)}, {"mask": mask, "normalizer": 2.5}):
            expected = F.cross_entropy(scores, target, **rest, **options)
            ours = call.run(F.linear_cross_entropy, **options, backend=backend)
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_row_of_which_nothing_counts_reaches_no_gradient(poison: float, backend: str) -> None:
    """Not the weight's either, where a NaN would meet a gradient of 0."""
    for call in calls():
        loss_shape = torch.Size([6, *call.target.shape[1:-1]])
        mask = torch.ones(loss_shape, dtype=torch.bool)
        mask[1] = mask[4] = False
        clean = gradients(call, F.linear_cross_entropy, mask=mask, backend=backend)
        input = call.input.clone()
        input[1] = input[4] = poison
        dirty = gradients(Call(input, call.target, call.kwargs), F.linear_cross_entropy, mask=mask, backend=backend)
        for with_poison, without in zip(dirty, clean, strict=True):
            torch.testing.assert_close(with_poison, without)
            assert bool(with_poison.isfinite().all())
        assert not dirty[1][[1, 4]].any()
    # The same of a row that is ignored.
    call = map_of_classes()
    clean = gradients(call, F.linear_cross_entropy, backend=backend)
    call.input[1] = poison
    for with_poison, without in zip(gradients(call, F.linear_cross_entropy, backend=backend), clean, strict=True):
        torch.testing.assert_close(with_poison, without)


def test_gradcheck() -> None:
    for call in calls(torch.float64):
        call = call.leaves(0, 1)

        def of(*tensors: Tensor, call: Call = call) -> Tensor:
            return call.with_tensors(*tensors).run(F.linear_cross_entropy)

        assert gradcheck(of, call.wanted())
        assert gradgradcheck(of, call.wanted())


def test_second_derivatives_through_the_kernel() -> None:
    for call in calls():

        def penalty(call: Call, function: Any) -> tuple[Tensor, ...]:
            call = call.leaves(0, 1)
            first = torch.autograd.grad(call.run(function), call.wanted(), create_graph=True)
            return torch.autograd.grad(sum(one.square().sum() for one in first), call.wanted())

        for ours, exact in zip(
            penalty(call, F.linear_cross_entropy), penalty(call.wide(), torch_function), strict=True
        ):
            assert_as_exact(ours, exact, steps=64)


def test_transforms() -> None:
    call = CASE.make("bias", (6, 4), torch.float32)

    def loss(x: Tensor) -> Tensor:
        return call.with_tensors(x, call.target).run(F.linear_cross_entropy)

    leaf = call.input.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(grad(loss)(call.input), expected)
    batch = torch.stack([call.input, -call.input])
    torch.testing.assert_close(vmap(loss)(batch), torch.stack([loss(x) for x in batch]))
    compiled = torch.compile(F.linear_cross_entropy, fullgraph=True, backend="aot_eager")
    for ours, plain in zip(gradients(call, compiled), gradients(call, F.linear_cross_entropy), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("half", HALVES, ids=dtype_name)
def test_autocast(half: torch.dtype) -> None:
    call = CASE.make("bias", (6, 4), torch.float32).leaves(0, 1)
    with torch.autocast("cpu", dtype=half):
        ours, theirs = call.run(F.linear_cross_entropy), call.run(torch_function)
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
    assert all(one.dtype == torch.float32 for one in torch.autograd.grad(ours, call.wanted()))


@needs_kernels
def test_explain_dispatch() -> None:
    for dtype in KERNEL_DTYPES:
        for call in calls(dtype):
            assert losskit.explain_dispatch(call.leaves(0, 1).run, F.linear_cross_entropy).backend == "cpu"
    with pytest.raises(BackendError):
        calls(torch.float64)[0].run(F.linear_cross_entropy, backend="cpu")


def test_the_options_for_chunks_change_no_number() -> None:
    call = CASE.make("weight", (6, 4), torch.float32)
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=2, allow_retain_graph=True)
    for reduction in REDUCTIONS:
        plain = call.run(F.linear_cross_entropy, reduction=reduction)
        assert torch.equal(call.run(F.linear_cross_entropy, reduction=reduction, options=options), plain)
        torch.testing.assert_close(call.run(torch_function, reduction=reduction, options=options), plain)
    smooth = CASE.make("smoothing", (6, 4), torch.float32)
    for function in (F.linear_cross_entropy, torch_function):
        with pytest.warns(UserWarning, match=r"options.* ignored"):
            smooth.run(function, options=options)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"bias": True, "reduction": "sum", "label_smoothing": 0.1},
    {"weight": torch.tensor([0.5, 1.0, 2.0]), "ignore_index": 1},
    {"out_features": (2, 2), "bias": True},
    {"options": nn.LinearCrossEntropyOptions(batch_chunk_size=2)},
]


@pytest.mark.parametrize("given", SETTINGS, ids=lambda given: "-".join(given) or "plain")
def test_the_module_is_torchs(given: dict[str, Any]) -> None:
    ours, theirs = losskit.LinearCrossEntropyLoss(4, 3, **given), nn.LinearCrossEntropyLoss(4, 3, **given)
    assert isinstance(ours, nn.LinearCrossEntropyLoss)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert set(vars(theirs)) <= set(vars(ours))
    theirs.load_state_dict(ours.state_dict())
    input, target = torch.randn(5, 4), torch.randint(3, (5, *given.get("out_features", ())))
    torch.testing.assert_close(ours(input, target), theirs(input, target))
    ours(input, target).backward()
    theirs(input, target).backward()
    for (name, mine), their in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, their.grad, msg=name)
    for made in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert repr(made) == repr(ours)
        assert torch.equal(made(input, target), ours(input, target))
    mask = torch.arange(5) % 2 == 0
    mask = mask.reshape(5, *[1] * len(given.get("out_features", ()))).expand(target.shape)
    torch.testing.assert_close(
        losskit.LinearCrossEntropyLoss(4, 3, on_empty="zero", **given)(input, target, mask=~mask & mask),
        torch.tensor(0.0),
    )
    assert ours(input, target, mask=mask, normalizer=2.0).ndim == 0


def test_the_module_complains_when_it_is_made() -> None:
    with pytest.raises(RuntimeError, match=r"^LinearCrossEntropyLoss: weight must hold one value for each of the 3 "):
        losskit.LinearCrossEntropyLoss(4, 3, weight=torch.ones(2))
    with pytest.raises(RuntimeError, match=r"^LinearCrossEntropyLoss: label_smoothing must lie in \[0, 1\], got 2\."):
        losskit.LinearCrossEntropyLoss(4, 3, label_smoothing=2)
    with pytest.raises(ValueError, match=r"^LinearCrossEntropyLoss: reduction must be 'none', 'mean' or 'sum', got ''"):
        losskit.LinearCrossEntropyLoss(4, 3, reduction="")
    with pytest.raises(ValueError, match=r"^LinearCrossEntropyLoss: backend must be "):
        losskit.LinearCrossEntropyLoss(4, 3, backend="cuda")
