"""ctc_loss: against every path, against torch, and at the edges of lengths, labels and numbers."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import oracles
import pytest
import torch
from assertions import assert_as_exact, assert_same_bits
from cases import APART_CASES, HALVES, KERNEL_DTYPES, REDUCTIONS, Call, dtype_name
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import losskit
from losskit import functional as F
from losskit.errors import EmptyLossError
from losskit.kernels import cpu

CASE = APART_CASES[0]
torch_ctc_loss = torch.nn.functional.ctc_loss
needs_kernels = pytest.mark.skipif(not cpu.available(), reason=cpu.unavailable_reason())
BACKENDS = [pytest.param("cpu", marks=needs_kernels), "reference"]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def problem(
    frames: int, batch: int, classes: int, labels: int, dtype: torch.dtype = torch.float32, spread: float = 1.0
) -> Call:
    generator = torch.Generator().manual_seed(frames + classes)
    scores = spread * torch.randn(frames, batch, classes, generator=generator, dtype=torch.float64)
    counts = torch.randint(labels // 2, labels + 1, (batch,), generator=generator)
    lengths = torch.randint(2 * labels, frames + 1, (batch,), generator=generator)
    targets = torch.randint(1, classes, (batch, labels), generator=generator)
    return Call(scores.log_softmax(2).to(dtype), targets, {"input_lengths": lengths, "target_lengths": counts}).leaves()


def loss_and_gradient(call: Call, function: Any, seed: int = 3, **more: Any) -> tuple[Tensor, Tensor]:
    loss = call.run(function, **more)
    generator = torch.Generator().manual_seed(seed)
    upstream = torch.randn(loss.shape, generator=generator, dtype=torch.float64).to(call.input.dtype)
    (gradient,) = torch.autograd.grad(loss, call.input, upstream.to(loss.dtype))
    return loss.detach(), gradient


def frames_that_count(call: Call) -> Tensor:
    lengths = torch.as_tensor(call.kwargs["input_lengths"])
    return (torch.arange(len(call.input)).unsqueeze(1) < lengths).reshape(*call.input.shape[:-1], 1)


def options_of(batch: int, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    weight = torch.linspace(0.25, 1.75, batch, dtype=torch.float64).to(dtype)
    mask = torch.arange(batch) % 3 != 1
    yield {}
    yield {"sample_weight": weight}
    yield {"mask": mask}
    yield {"sample_weight": weight, "mask": mask, "normalizer": 3.25}


def by_every_path(call: Call, reduction: str, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Value and torch's gradient, exp(log_probs) − posterior, in float64."""
    wide = call.wide().leaves()
    values, counts = oracles.ctc_loss(wide.input, wide.target, **wide.kwargs)
    given = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in options.items()
    }
    if reduction == "mean":
        values = values / counts
    share = torch.where(frames_that_count(call), wide.input.exp(), 0.0)
    slope = (share - share.detach()).sum((0, -1))
    if reduction == "mean":
        slope = slope / counts
    # What is impossible is constant in the logits.
    impossible = (values == torch.inf) | (values == 0) if call.kwargs.get("zero_infinity") else values == torch.inf
    values = values + torch.where(impossible, 0.0, slope)
    result = oracles.reduced((values, torch.ones_like(values)), reduction, **given)
    generator = torch.Generator().manual_seed(3)
    upstream = torch.randn(result.shape, generator=generator, dtype=torch.float64).to(call.input.dtype).double()
    (gradient,) = torch.autograd.grad(result, wide.input, upstream)
    return result.detach(), gradient


@each_backend
@pytest.mark.parametrize("dtype", [*KERNEL_DTYPES, torch.float64], ids=dtype_name)
@pytest.mark.parametrize("variant", [name for name in CASE.variants if name != "impossible"])
def test_against_every_path(variant: str, dtype: torch.dtype, backend: str) -> None:
    if dtype == torch.float64 and backend == "cpu":
        backend = "auto"
    for shape in CASE.shapes:
        call = CASE.make(variant, shape, dtype).leaves()
        for options in options_of(shape[1], dtype) if len(shape) == 3 else [{}]:
            for reduction in REDUCTIONS:
                if reduction == "none" and "normalizer" in options:
                    continue
                value, slope = by_every_path(call, reduction, options)
                loss, gradient = loss_and_gradient(call, F.ctc_loss, reduction=reduction, backend=backend, **options)
                assert loss.dtype == dtype
                assert_as_exact(loss, value, steps=16, scale=max(10.0, float(value.abs().max())))
                assert_as_exact(gradient, slope, steps=32, scale=max(1.0, float(slope.abs().max())), what="gradient")


@needs_kernels
@pytest.mark.parametrize("spread", [1.0, 30.0, 200.0])
@pytest.mark.parametrize(
    "shape", [(10, 3, 5, 3), (50, 4, 20, 15), (64, 5, 1030, 7), (400, 2, 30, 120), (16, 3, 9, 8)], ids=str
)
def test_the_kernel_is_no_less_exact_than_torch(shape: tuple[int, int, int, int], spread: float) -> None:
    for layout in ("frames first", "samples first", "strided"):
        call = problem(*shape, spread=spread)
        if layout == "samples first":
            call = replace(call, input=call.input.detach().transpose(0, 1).contiguous().transpose(0, 1))
        elif layout == "strided":
            call = replace(call, input=call.input.detach()[..., None].expand(*call.input.shape, 2).contiguous()[..., 0])
        call.input.requires_grad_(True)
        for reduction in REDUCTIONS:
            exact_loss, exact_gradient = loss_and_gradient(call.wide().leaves(), torch_ctc_loss, reduction=reduction)
            eager_loss, eager_gradient = loss_and_gradient(call, torch_ctc_loss, reduction=reduction)
            loss, gradient = loss_and_gradient(call, F.ctc_loss, reduction=reduction, backend="cpu")
            assert_as_exact(loss, exact_loss, eager_loss)
            assert_as_exact(gradient, exact_gradient, eager_gradient, steps=8, what="gradient")
            # Far from torch's: sums of paths are sums here, and not differences of large logarithms. Of the kernel's
            # steps each rounds by itself, which adds up to less than the square root of their number.
            digits = 2 * len(call.input) ** 0.5 * torch.finfo(torch.float32).eps
            worst = (gradient - exact_gradient).abs().max()
            assert worst <= digits * max(1.0, float(exact_gradient.abs().max()))


@needs_kernels
@pytest.mark.parametrize("dtype", HALVES, ids=dtype_name)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    call = problem(50, 4, 20, 15, dtype)
    for reduction in REDUCTIONS:
        value, slope = loss_and_gradient(call.wide().leaves(), torch_ctc_loss, reduction=reduction)
        for backend in ("cpu", "reference"):
            loss, gradient = loss_and_gradient(call, F.ctc_loss, reduction=reduction, backend=backend)
            assert loss.dtype == gradient.dtype == dtype
            assert_as_exact(loss, value, steps=1)
            assert_as_exact(gradient, slope, steps=1, what="gradient")
        wide = call.run(F.ctc_loss, reduction=reduction, out_dtype=torch.float32)
        assert_as_exact(wide, value)


@each_backend
def test_log_probabilities_that_are_not_normalised(backend: str) -> None:
    """Torch's gradient there too: exp(log_probs) − posterior, also where log_probs are above 0."""
    call = problem(20, 3, 7, 4)
    for shift in (-3.0, 0.5, 4.0, 40.0):
        moved = replace(call, input=(call.input.detach() + shift).requires_grad_(True))
        value, slope = loss_and_gradient(moved.wide().leaves(), torch_ctc_loss)
        loss, gradient = loss_and_gradient(moved, F.ctc_loss, backend=backend)
        assert_as_exact(loss, value, steps=16, scale=20 * abs(shift) + 30)
        assert_as_exact(gradient, slope, loss_and_gradient(moved, torch_ctc_loss)[1], steps=32, what="gradient")


# Derivatives.


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck(reduction: str) -> None:
    scores = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    targets, given = torch.tensor([[1, 1], [2, 0]]), {"input_lengths": (4, 3), "target_lengths": (2, 1)}

    def of(x: Tensor) -> Tensor:
        return F.ctc_loss(x.log_softmax(2), targets, **given, reduction=reduction)

    assert gradcheck(of, [scores], check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(of, [scores], check_batched_grad=True)


@each_backend
@pytest.mark.parametrize("variant", CASE.variants)
def test_second_derivatives_are_those_of_the_gradient(variant: str, backend: str) -> None:
    """Of unnormalised log-probabilities as well, where the gradient is not that of the loss."""
    call = CASE.make(variant, (4, 3, 3), torch.float32)
    if variant == "impossible":
        call = replace(call, kwargs={**call.kwargs, "zero_infinity": True})
    call = replace(call, input=call.input + 0.25).leaves()
    direction = torch.randn(call.input.shape)
    for reduction in REDUCTIONS:
        loss = call.run(F.ctc_loss, reduction=reduction, backend=backend)
        (gradient,) = torch.autograd.grad(loss.sum(), call.input, create_graph=True)
        (second,) = torch.autograd.grad(gradient, call.input, direction)
        step = 1e-6

        def slope(x: Tensor, reduction: str = reduction) -> Tensor:
            moved = replace(call, input=x.requires_grad_(True))
            return torch.autograd.grad(moved.run(torch_ctc_loss, reduction=reduction).sum(), x)[0]

        middle = call.input.detach().double()
        ahead, behind = slope(middle + step * direction), slope(middle - step * direction)
        difference = (ahead - behind) / (2 * step)
        torch.testing.assert_close(second.double(), difference, rtol=1e-4, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("lean", [True, False])
def test_backward_twice_and_any_grad_output(lean: bool) -> None:
    more = {} if lean else {"backend": "cpu"}
    for reduction in REDUCTIONS:
        for dtype in KERNEL_DTYPES:
            call = problem(20, 3, 7, 4, dtype)
            loss = call.run(F.ctc_loss, reduction=reduction, **more)
            for seed in (1, 2, 3):
                generator = torch.Generator().manual_seed(seed)
                upstream = torch.randn(loss.shape, generator=generator).to(dtype)
                (gradient,) = torch.autograd.grad(loss, call.input, upstream, retain_graph=True)
                wide = call.wide().leaves()
                (exact,) = torch.autograd.grad(
                    wide.run(torch_ctc_loss, reduction=reduction), wide.input, upstream.double()
                )
                assert_as_exact(gradient, exact, steps=16, scale=max(1.0, float(exact.abs().max())))
            hidden = call.input * 1
            loss = replace(call, input=hidden).run(F.ctc_loss, reduction=reduction, **more)
            loss.sum().backward(retain_graph=True)
            hidden.data.mul_(2)
            hidden.mul_(2)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.sum().backward()


@needs_kernels
def test_lengths_in_a_list_may_change_before_the_backward_pass() -> None:
    call = problem(20, 2, 7, 4)
    lists = {name: value.tolist() for name, value in call.kwargs.items()}
    plain = call.run(F.ctc_loss)
    (expected,) = torch.autograd.grad(plain, call.input, retain_graph=True)
    given = {name: list(value) for name, value in lists.items()}
    loss = F.ctc_loss(call.input, call.target, **given)
    torch.autograd.grad(loss, call.input, retain_graph=True)
    given["input_lengths"][0], given["target_lengths"][1] = 10**9, 10**9
    (again,) = torch.autograd.grad(loss, call.input, retain_graph=True)
    assert_same_bits(again, expected)
    loss = call.run(F.ctc_loss)
    torch.autograd.grad(loss, call.input, retain_graph=True)
    call.kwargs["input_lengths"].fill_(10**9)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, call.input)


# Numbers at the edge.


@each_backend
def test_an_impossible_target_costs_what_it_costs_in_torch(backend: str) -> None:
    """inf, with a NaN gradient in the frames of that sample; with zero_infinity both 0."""
    for shape in ((5, 3, 3), (4, 3)):
        call = CASE.make("impossible", shape, torch.float32).leaves()
        for zero_infinity in (False, True):
            for reduction in REDUCTIONS:
                given = {"zero_infinity": zero_infinity, "reduction": reduction}
                value, slope = loss_and_gradient(call, torch_ctc_loss, **given)
                loss, gradient = loss_and_gradient(call, F.ctc_loss, backend=backend, **given)
                torch.testing.assert_close(loss, value, equal_nan=True)
                torch.testing.assert_close(gradient, slope, equal_nan=True)


@each_backend
def test_a_log_probability_of_minus_infinity_has_no_gradient(backend: str) -> None:
    """Torch gives NaN: −inf + inf. The limit is 0."""
    call = problem(8, 2, 5, 2)
    call.target.clamp_(max=3)
    log_probs = call.input.detach().clone()
    log_probs[..., 4] = -torch.inf
    without = replace(call, input=log_probs[..., :4].contiguous()).leaves()
    excluded = replace(call, input=log_probs).leaves()
    assert loss_and_gradient(excluded, torch_ctc_loss)[1].isnan().any()
    for reduction in REDUCTIONS:
        expected, slope = loss_and_gradient(without, F.ctc_loss, reduction=reduction, backend=backend)
        loss, gradient = loss_and_gradient(excluded, F.ctc_loss, reduction=reduction, backend=backend)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient[..., :4], slope)
        assert not gradient[..., 4].any()


@each_backend
@pytest.mark.parametrize("lowest", [-80.0, -1e4, -1e9, -1e30, torch.finfo(torch.float32).min])
def test_very_small_probabilities(lowest: float, backend: str) -> None:
    """As masks of scores leave them: no path but through them."""
    log_probs = torch.full((3, 1, 3), lowest)
    log_probs[..., 0] = 0.0
    leaf = log_probs.requires_grad_(True)
    loss = F.ctc_loss(leaf, torch.tensor([[1]]), (3,), (1,), reduction="sum", backend=backend)
    # Of the six paths, the three of a single label are all that is left.
    assert_as_exact(loss, torch.tensor(-lowest - math.log(3), dtype=torch.float64), steps=8)
    if backend == "cpu" and lowest > -1e8:
        # A logarithm of this size has no digits left for the 3; nor has an exponent, from there on.
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert_as_exact(gradient[:, 0, 1], torch.full((3,), -1 / 3, dtype=torch.float64), steps=4)


@each_backend
def test_a_nan_stays_a_nan(backend: str) -> None:
    call = problem(12, 3, 5, 3)
    call.kwargs["input_lengths"].fill_(12)
    log_probs = call.input.detach().clone()
    log_probs[4, 1] = torch.nan
    dirty = replace(call, input=log_probs).leaves()
    loss, gradient = loss_and_gradient(dirty, F.ctc_loss, reduction="none", backend=backend)
    assert loss.isnan().tolist() == [False, True, False]
    assert bool(gradient[4, 1].isnan().all())
    assert not gradient[:, ::2].isnan().any()
    assert dirty.run(F.ctc_loss, backend=backend).isnan()


@each_backend
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_padding_is_not_looked_at(poison: float, backend: str) -> None:
    for dtype in KERNEL_DTYPES:
        call = problem(12, 4, 5, 3, dtype)
        lengths, counts = call.kwargs["input_lengths"], call.kwargs["target_lengths"]
        frames = torch.where(frames_that_count(call), call.input.detach(), poison)
        labels = torch.where(torch.arange(3) < counts.unsqueeze(1), call.target, -(2**62))
        assert bool((lengths < 12).any())
        assert bool((counts < 3).any())
        dirty = replace(call, input=frames, target=labels).leaves()
        for reduction in REDUCTIONS:
            expected, slope = loss_and_gradient(call, F.ctc_loss, reduction=reduction, backend=backend)
            loss, gradient = loss_and_gradient(dirty, F.ctc_loss, reduction=reduction, backend=backend)
            assert_same_bits(loss, expected)
            assert_same_bits(gradient, slope)
            assert not gradient.masked_select(~frames_that_count(call)).any()


@each_backend
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_nothing_leaks_from_under_the_mask(poison: float, backend: str) -> None:
    mask = torch.tensor([True, False, True, True])
    for dtype in KERNEL_DTYPES:
        call = problem(12, 4, 5, 3, dtype)
        frames, labels = call.input.detach().clone(), call.target.clone()
        frames[:, 1], labels[1] = poison, 10**15
        dirty = replace(call, input=frames, target=labels).leaves()
        for reduction in REDUCTIONS:
            given = {"mask": mask, "reduction": reduction, "backend": backend}
            expected, slope = loss_and_gradient(call, F.ctc_loss, **given)
            loss, gradient = loss_and_gradient(dirty, F.ctc_loss, **given)
            assert_same_bits(loss, expected)
            assert_same_bits(gradient, slope)
            assert not gradient[:, 1].any()
            weight = torch.tensor([1.0, torch.nan, 1.0, 1.0], dtype=dtype)
            assert_same_bits(loss_and_gradient(dirty, F.ctc_loss, **given, sample_weight=weight)[0], loss)


@each_backend
def test_on_empty(backend: str) -> None:
    call = problem(12, 4, 5, 3)
    nothing = torch.zeros(4, dtype=torch.bool)
    assert call.run(F.ctc_loss, mask=nothing, backend=backend).isnan()
    zero = call.run(F.ctc_loss, mask=nothing, on_empty="zero", backend=backend)
    assert zero.item() == 0
    assert not torch.autograd.grad(zero, call.input)[0].any()
    with pytest.raises(EmptyLossError):
        call.run(F.ctc_loss, mask=nothing, on_empty="raise", backend=backend)


@each_backend
def test_normalizer_adds_up_micro_batches(backend: str) -> None:
    call = problem(12, 4, 5, 3)
    lengths, counts = call.kwargs["input_lengths"], call.kwargs["target_lengths"]
    for reduction in ("mean", "sum"):
        parts = [
            F.ctc_loss(
                call.input[:, rows],
                call.target[rows],
                lengths[rows],
                counts[rows],
                reduction=reduction,
                normalizer=4,
                backend=backend,
            )
            for rows in (slice(0, 1), slice(1, 4))
        ]
        whole = call.run(F.ctc_loss, reduction=reduction, backend=backend) / (1 if reduction == "mean" else 4)
        torch.testing.assert_close(sum(parts), whole)


@needs_kernels
def test_threads_change_nothing_and_every_number_is_written() -> None:
    call = problem(100, 9, 61, 12)
    assert call.input.numel() > 32768
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        # What an earlier call left in the buffers of the pool shows in what is not written.
        losskit.empty_cache()
        poison = torch.autograd.grad(F.mse_loss(call.input * torch.nan, call.input), call.input)[0]
        del poison
        found.append(loss_and_gradient(call, F.ctc_loss, backend="cpu"))
    for loss, gradient in found[1:]:
        assert_same_bits(loss, found[0][0])
        assert_same_bits(gradient, found[0][1])
    assert bool(found[0][1].isfinite().all())


def test_the_lean_path_gives_the_same_bits() -> None:
    for variant in CASE.variants:
        call = CASE.make(variant, (5, 3, 3), torch.float32).leaves()
        for reduction in ("mean", "sum"):
            by_lean = loss_and_gradient(call, F.ctc_loss, reduction=reduction)
            by_all = loss_and_gradient(call, F.ctc_loss, reduction=reduction, normalizer=None, backend="cpu")
            for lean, full in zip(by_lean, by_all, strict=True):
                assert torch.equal(lean.nan_to_num(7.0), full.nan_to_num(7.0))


# Transforms and tensors without numbers.


def test_func() -> None:
    call = problem(6, 3, 4, 2, torch.float64)
    wide = call.input.detach()

    def loss(x: Tensor, target: Tensor = call.target) -> Tensor:
        return replace(call, input=x.log_softmax(2), target=target).run(F.ctc_loss)

    leaf = wide.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    for transform in (grad, jacrev, jacfwd):
        torch.testing.assert_close(transform(loss)(wide), expected)
    second = torch.autograd.functional.hessian(loss, wide)
    torch.testing.assert_close(hessian(loss)(wide), second)
    batch, targets = torch.stack([wide, 2 * wide]), torch.stack([call.target, call.target.flip(1)])
    each = torch.stack([grad(loss)(x, y) for x, y in zip(batch, targets, strict=True)])
    torch.testing.assert_close(vmap(grad(loss))(batch, targets), each)
    lengths = torch.stack([call.kwargs["input_lengths"], call.kwargs["input_lengths"] - 1])

    def of_lengths(given: Tensor) -> Tensor:
        return call.run(F.ctc_loss, input_lengths=given)

    torch.testing.assert_close(vmap(of_lengths)(lengths), torch.stack([of_lengths(given) for given in lengths]))


@pytest.mark.parametrize("variant", ["plain", "concatenated", "numbers", "zero_infinity"])
def test_compile(variant: str) -> None:
    torch._dynamo.reset()
    call = CASE.make(variant, (3, 2, 3), torch.float32).leaves()
    compiled = torch.compile(
        lambda *args, **kwargs: F.ctc_loss(*args, **kwargs), fullgraph=True, backend="aot_eager", dynamic=False
    )
    reduction = "none" if variant == "plain" else "mean"
    expected, slope = loss_and_gradient(call, F.ctc_loss, reduction=reduction, backend="reference")
    loss, gradient = loss_and_gradient(call, compiled, reduction=reduction)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, slope)
    torch._dynamo.reset()


@pytest.mark.parametrize("variant", CASE.variants)
def test_tensors_without_numbers(variant: str) -> None:
    for dtype in KERNEL_DTYPES:
        call = CASE.make(variant, (5, 3, 3), dtype)
        for reduction in REDUCTIONS:
            expected = call.run(F.ctc_loss, reduction=reduction)
            meta = call.map_all(lambda tensor: tensor.to("meta"))
            results = [meta.run(F.ctc_loss, reduction=reduction)]
            with FakeTensorMode() as mode:
                results.append(call.map_all(mode.from_tensor).run(F.ctc_loss, reduction=reduction))
            for result in results:
                assert result.shape == expected.shape
                assert result.dtype == expected.dtype


def test_autocast() -> None:
    call = problem(12, 4, 5, 3, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = call.run(F.ctc_loss)
    assert loss.dtype == call.run(F.ctc_loss, out_dtype=torch.float32).dtype
    (gradient,) = torch.autograd.grad(loss, call.input)
    assert gradient.dtype == torch.bfloat16


@needs_kernels
def test_explain_dispatch() -> None:
    for variant in CASE.variants:
        for dtype in KERNEL_DTYPES:
            call = CASE.make(variant, (5, 3, 3), dtype).leaves()
            assert losskit.explain_dispatch(call.run, F.ctc_loss).backend == "cpu"
    wide = call.wide()
    assert losskit.explain_dispatch(wide.run, F.ctc_loss).reason == (
        "the kernel takes float32, bfloat16 or float16, not float64"
    )


# What is told of infeasible samples.


def test_explain_ctc() -> None:
    call = CASE.make("impossible", (5, 3, 3), torch.float32)
    losses = call.run(F.ctc_loss, reduction="none")
    told = F.explain_ctc(call.target, call.kwargs["input_lengths"], call.kwargs["target_lengths"])
    infinite = [n for n, loss in enumerate(losses.tolist()) if loss == float("inf")]
    assert [int(sentence.split("sample ")[1].split()[0]) for sentence in told] == infinite
    assert infinite
    labels = torch.tensor([1, 2, 2, 2, 5, 5, 3])
    assert F.explain_ctc(labels, (6, 2, 0), (4, 2, 1)) == [
        "ctc_loss: sample 1 needs 3 frames (2 labels + 1 repeat) but input_lengths[1] is 2: its loss is inf.",
        "ctc_loss: sample 2 needs 1 frame (1 label + 0 repeats) but input_lengths[2] is 0: its loss is inf.",
    ]
    assert F.explain_ctc(labels[:0], (), ()) == []


@each_backend
@pytest.mark.parametrize("index", [-1, 5, 100_000, 2**40, -(2**62)])
@pytest.mark.parametrize("concatenated", [False, True])
def test_labels_out_of_range_are_never_read_by(index: int, concatenated: bool, backend: str) -> None:
    """Torch reads out of bounds with them; its op is not called here."""
    call = problem(12, 3, 5, 3)
    call.kwargs["target_lengths"].fill_(3)
    call.target[1, 2] = index
    target = call.target.reshape(-1) if concatenated else call.target
    message = f"1 of 9 labels lie outside [0, 5): {{{index}}}, first in sample 1 at place 2: "
    with pytest.raises(IndexError, match=re.escape(message)):
        replace(call, target=target).run(F.ctc_loss, backend=backend)
