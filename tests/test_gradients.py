"""Gradients: of the definitions against finite differences, of the kernels against float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from assertions import assert_as_exact, assert_gradient_as_exact, assert_same_bits
from cases import CASES, HALVES, KERNEL_DTYPES, REDUCTIONS, VARIANTS, Call, Case, dtype_name
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import losskit
from losskit.kernels import cpu

needs_kernels = pytest.mark.skipif(not cpu.available(), reason=cpu.unavailable_reason())
KERNEL_BACKENDS = [pytest.param("cpu", marks=needs_kernels), "reference"]


def own_gradients(case: Case, call: Call, grad_output: Tensor | None = None, **more: Any) -> list[Tensor]:
    loss = call.run(case.function, **more)
    return list(torch.autograd.grad(loss, call.wanted(), grad_output))


def true_gradients(case: Case, call: Call, grad_output: Tensor | None = None, **more: Any) -> list[Tensor]:
    """By torch's own function in float64."""
    call = call.wide().leaves(*case.differentiable(call))
    if call.target.dtype == torch.uint8:
        call = replace(call, target=call.target.long())
    loss = call.run(case.torch_function, **more)
    return list(torch.autograd.grad(loss, call.wanted(), None if grad_output is None else grad_output.double()))


def eager_gradients(case: Case, call: Call, grad_output: Tensor | None = None, **more: Any) -> list[Tensor]:
    if call.target.dtype == torch.uint8:
        call = replace(call, target=call.target.long())
    call = call.leaves(*case.differentiable(call))
    loss = call.run(case.torch_function, **more)
    return list(torch.autograd.grad(loss, call.wanted(), grad_output))


def random_like(shape: torch.Size, dtype: torch.dtype, seed: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# Finite differences. They say nothing at the corners of a loss; the samples lie off them.


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_gradcheck(case: Case, variant: str, reduction: str) -> None:
    call = case.make(variant, (3, 4), torch.float64)
    call = call.leaves(*case.differentiable(call))

    def of(*tensors: Tensor) -> Tensor:
        given = iter(tensors)
        data = [next(given) if tensor.requires_grad else tensor for tensor in call.tensors]
        return call.with_tensors(*data).run(case.function, reduction=reduction)

    assert gradcheck(of, call.wanted(), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(of, call.wanted(), check_batched_grad=True)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (2, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_gradcheck_of_other_shapes(case: Case, shape: tuple[int, ...]) -> None:
    for variant in case.variants:
        call = case.make(variant, shape, torch.float64).leaves()
        assert gradcheck(lambda x, call=call: replace(call, input=x).run(case.function), [call.input])


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_gradcheck_of_options(case: Case) -> None:
    call = case.make("plain", (6, 5), torch.float64).leaves()
    shape = case.loss_shape(call)
    mask = random_like(shape, torch.float64) > -0.5
    weight = random_like(shape, torch.float64).abs().requires_grad_(True)
    normalizer = torch.tensor(7.5, dtype=torch.float64, requires_grad=True)

    def of(x: Tensor, w: Tensor, n: Tensor) -> Tensor:
        own = replace(call, input=x)
        by_weight = own.run(case.function, sample_weight=w, mask=mask)
        return torch.stack([by_weight, own.run(case.function, sample_weight=w, mask=mask, normalizer=n)])

    assert gradcheck(of, [call.input, weight, normalizer])
    assert gradgradcheck(of, [call.input, weight, normalizer])


# The kernels.


@needs_kernels
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=dtype_name)
@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_kernel_gradient(case: Case, variant: str, dtype: torch.dtype) -> None:
    """Every reduction and shape, a random grad_output; the gradient by each tensor and by all of them."""
    for shape in case.shapes:
        for reduction in REDUCTIONS:
            call = case.make(variant, shape, dtype).leaves()
            loss = call.run(case.function, reduction=reduction, backend="cpu")
            grad_output = random_like(loss.shape, loss.dtype)
            exact = true_gradients(case, call, grad_output, reduction=reduction)
            eager = eager_gradients(case, call, grad_output, reduction=reduction)
            (ours,) = torch.autograd.grad(loss, call.input, grad_output)
            assert ours.dtype == dtype
            floor = case.floor(call, grad_output)
            assert_gradient_as_exact(case, call, ours, exact[0], eager[0], floor=floor)
            if case.kernel_gradients == (0,):
                continue
            places = case.differentiable(call)
            together = call.leaves(*case.kernel_gradients)
            found = own_gradients(case, together, grad_output, reduction=reduction, backend="cpu")
            assert_same_bits(found[0], ours)
            for place, gradient in zip(case.kernel_gradients, found, strict=True):
                at = places.index(place)
                assert_gradient_as_exact(case, call, gradient, exact[at], eager[at], floor=floor)
                alone = own_gradients(case, call.leaves(place), grad_output, reduction=reduction, backend="cpu")
                assert_same_bits(alone[0], gradient)


@pytest.mark.parametrize("backend", KERNEL_BACKENDS)
@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_large_grad_output_in_half_precision(case: Case, variant: str, backend: str) -> None:
    """A loss scale is there to keep small gradients from rounding to 0, so it must come before the rounding."""
    for dtype in HALVES:
        call = case.make(variant, case.shapes[0], dtype).leaves()
        scale = torch.tensor(2.0**8, dtype=dtype)
        ours = own_gradients(case, call, scale, backend=backend)[0]
        exact = true_gradients(case, call, scale)[0]
        assert_gradient_as_exact(case, call, ours, exact, steps=2)


LAYOUTS = ["transposed", "strided", "expanded", "offset", "channels last", "negative view"]


def laid_out(call: Call, layout: str) -> Call:
    """The same numbers as input, elsewhere in memory, requiring a gradient as a view would."""
    input = call.input.detach()
    if layout == "transposed":
        input = input.transpose(0, 1).contiguous().transpose(0, 1)
    elif layout == "strided":
        input = input[..., None].expand(*input.shape, 3).contiguous()[..., 1]
    elif layout == "expanded":
        input = input[:1].expand(input.shape)
    elif layout == "offset":
        input = torch.cat([torch.zeros(1, dtype=input.dtype), input.flatten()])[1:].view(input.shape)
    elif layout == "channels last" and input.ndim == 4:
        input = input.contiguous(memory_format=torch.channels_last)
    elif layout == "channels last":
        # Of a matrix of rows: the columns first.
        input = input.T.contiguous().T
    else:
        input = torch._neg_view(-input)
    return replace(call, input=input.requires_grad_(True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_layouts(case: Case, layout: str) -> None:
    """Wherever the numbers lie, the gradient of every variant and reduction is that of contiguous tensors."""
    for variant in case.variants:
        for reduction in REDUCTIONS:
            call = laid_out(case.make(variant, (4, 6, 5, 3), torch.float32), layout)
            straight = replace(call, input=call.input.detach().resolve_neg().contiguous().requires_grad_(True))
            loss = call.run(case.function, reduction=reduction)
            grad_output = random_like(loss.shape, loss.dtype)
            (ours,) = torch.autograd.grad(loss, call.input, grad_output)
            expected_loss = straight.run(case.function, reduction=reduction)
            (expected,) = torch.autograd.grad(expected_loss, straight.input, grad_output)
            exact = true_gradients(case, straight, grad_output, reduction=reduction)[0]
            eager = eager_gradients(case, straight, grad_output, reduction=reduction)[0]
            assert_gradient_as_exact(case, straight, ours, exact, eager)
            assert_gradient_as_exact(case, straight, expected, exact, eager)
            terms = straight.wide()
            terms = replace(terms, target=terms.target.long()) if terms.target.dtype == torch.uint8 else terms
            truth = terms.run(case.torch_function, reduction=reduction)
            peak = float(terms.run(case.torch_function, reduction="none").abs().max())
            assert_as_exact(loss, truth, scale=max(peak, float(truth.abs().max())))


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_target_and_grad_output_that_are_not_contiguous(case: Case) -> None:
    for variant in case.variants:
        call = case.make(variant, (4, 6, 5, 3), torch.float32).leaves()
        others = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in call.tensors[1:]]
        loss = call.with_tensors(call.input, *others).run(case.function, reduction="none")
        plain = random_like(loss.shape, loss.dtype)
        expected = own_gradients(case, call, plain, reduction="none")[0]
        for grad_output in (
            plain,
            plain.transpose(0, -1).contiguous().transpose(0, -1),
            plain[..., None].expand(*plain.shape, 2).contiguous()[..., 0],
        ):
            (ours,) = torch.autograd.grad(loss, call.input, grad_output, retain_graph=True)
            assert_same_bits(ours.contiguous(), expected)
        one = torch.ones((), dtype=loss.dtype)
        (ours,) = torch.autograd.grad(loss, call.input, one.expand(loss.shape))
        assert_same_bits(
            ours.contiguous(), own_gradients(case, call, one.expand(loss.shape).contiguous(), reduction="none")[0]
        )


# The graph.


@pytest.mark.parametrize("backend", KERNEL_BACKENDS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_backward_twice(case: Case, reduction: str, backend: str) -> None:
    """With any upstream gradient, the right gradient each time; without retain_graph, torch's error."""
    for variant in case.variants:
        for dtype in KERNEL_DTYPES:
            call = case.make(variant, case.shapes[0], dtype).leaves()
            loss = call.run(case.function, reduction=reduction, backend=backend)
            for seed in (1, 2, 3):
                grad_output = random_like(loss.shape, loss.dtype, seed)
                (ours,) = torch.autograd.grad(loss, call.input, grad_output, retain_graph=True)
                fresh = own_gradients(case, call, grad_output, reduction=reduction, backend=backend)[0]
                exact = true_gradients(case, call, grad_output, reduction=reduction)[0]
                eager = eager_gradients(case, call, grad_output, reduction=reduction)[0]
                assert_gradient_as_exact(case, call, ours, exact, eager)
                assert_gradient_as_exact(case, call, fresh, exact, eager)
            torch.autograd.grad(loss, call.input, random_like(loss.shape, loss.dtype))
            with pytest.raises(RuntimeError, match="backward through the graph a second time"):
                torch.autograd.grad(loss, call.input, random_like(loss.shape, loss.dtype))


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_backward_twice_accumulates(case: Case) -> None:
    call = case.make("plain", case.shapes[0], torch.float32).leaves()
    loss = call.run(case.function)
    loss.backward(retain_graph=True)
    once = call.input.grad.clone()
    loss.backward()
    torch.testing.assert_close(call.input.grad, 2 * once, rtol=1e-6, atol=0)
    # Into a gradient that another loss left there.
    call.run(case.function, reduction="sum").backward()
    total = call.run(case.function, reduction="sum")
    (more,) = torch.autograd.grad(total, call.input)
    torch.testing.assert_close(call.input.grad, 2 * once + more, rtol=1e-5, atol=1e-7 * float(more.abs().max()))


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_backward_and_grad_agree_and_a_kept_gradient_stays(case: Case) -> None:
    call = case.make("plain", case.shapes[0], torch.float32).leaves()
    (by_grad,) = torch.autograd.grad(call.run(case.function), call.input)
    kept = by_grad.clone()
    call.run(case.function).backward()
    assert_same_bits(call.input.grad, by_grad)
    # Later losses take buffers from the same pool.
    for _ in range(3):
        other = case.make("plain", case.shapes[0], torch.float32, seed=5).leaves()
        other.run(case.function).backward()
    assert_same_bits(call.input.grad, kept)
    assert_same_bits(by_grad, kept)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_second_derivatives_through_the_kernel(case: Case, variant: str, reduction: str) -> None:
    """A gradient penalty: the derivative of the gradient's norm, as torch gives it in float64."""

    def penalty(call: Call, function: Any) -> tuple[Tensor, Tensor, Tensor]:
        loss = call.run(function, reduction=reduction)
        grad_output = random_like(loss.shape, loss.dtype)
        (gradient,) = torch.autograd.grad(loss, call.input, grad_output, create_graph=True)
        if not gradient.requires_grad:
            # The gradient is constant.
            return loss, gradient, torch.zeros_like(call.input)
        (second,) = torch.autograd.grad(gradient.square().sum(), call.input, allow_unused=True)
        return loss, gradient, torch.zeros_like(call.input) if second is None else second

    call = case.make(variant, (6, 5), torch.float32).leaves()
    loss, gradient, second = penalty(call, case.function)
    theirs = replace(call, target=call.target.long()) if call.target.dtype == torch.uint8 else call
    _, eager_gradient, eager = penalty(theirs, case.twice or case.torch_function)
    _, exact_gradient, exact = penalty(theirs.wide().leaves(), case.twice or case.torch_function)
    assert loss.requires_grad
    assert_as_exact(gradient, exact_gradient, eager_gradient, steps=8)
    # What is 0 for torch (L1, inside Huber's linear part) is 0 here.
    assert_as_exact(second, exact, eager, steps=16)


@pytest.mark.parametrize(
    ("case", "place"), [(case, place) for case in CASES for place in case.kernel_gradients if place], ids=str
)
def test_mixed_second_derivatives(case: Case, place: int) -> None:
    for variant in case.variants:
        call = case.make(variant, (4, 5), torch.float32).leaves(0, place)

        def mixed(call: Call, function: Any) -> Tensor:
            (gradient,) = torch.autograd.grad(call.run(function), call.tensors[place], create_graph=True)
            if not gradient.requires_grad:
                return torch.zeros_like(call.input)
            (second,) = torch.autograd.grad((gradient**3).sum(), call.input, allow_unused=True)
            return torch.zeros_like(call.input) if second is None else second

        exact = mixed(call.wide().leaves(0, place), case.torch_function)
        assert_as_exact(mixed(call, case.function), exact, mixed(call, case.torch_function), steps=16)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_no_gradient_where_none_is_wanted(case: Case) -> None:
    call = case.make("plain", case.shapes[0], torch.float32)
    assert not call.run(case.function).requires_grad
    with torch.no_grad():
        assert not call.leaves().run(case.function).requires_grad
    with torch.inference_mode():
        inside = call.run(case.function)
    assert inside.is_inference()
    assert call.leaves().run(case.function).requires_grad


@needs_kernels
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_changing_an_input_before_backward(case: Case) -> None:
    """The gradient is that of the numbers that the loss saw, or torch's error; never that of the changed ones."""
    for reduction in REDUCTIONS:
        call = case.make("plain", case.shapes[0], torch.float32).leaves()
        expected = own_gradients(case, call, reduction="sum" if reduction == "none" else reduction)[0]
        hidden = call.input * 1
        loss = replace(call, input=hidden).run(case.function, reduction=reduction, backend="cpu").sum()
        hidden.mul_(2)
        if reduction != "none":
            # Computed in forward; a second time there is nothing to compute it from.
            loss.backward(retain_graph=True)
            assert_same_bits(call.input.grad, expected)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@needs_kernels
def test_the_kernel_runs_in_these_tests() -> None:
    """Else the tests above compare the definition with itself."""
    for case in CASES:
        for dtype in KERNEL_DTYPES:
            call = case.make("plain", case.shapes[0], dtype).leaves()
            assert losskit.explain_dispatch(call.run, case.function).backend == "cpu"


# One tensor of the data computed from another, or the same.


def related(case: Case, call: Call, same: bool) -> tuple[Tensor, Call]:
    """A leaf, and the call with every tensor that has a gradient made from it."""
    leaf = call.input.detach().clone().requires_grad_(True)
    places = case.differentiable(call)
    # Within the domain of every loss: positive where the tensors are.
    made = [
        (leaf if same or not place else leaf + 0.125 * place * leaf.roll(1, 0)) if place in places else tensor.detach()
        for place, tensor in enumerate(call.tensors)
    ]
    return leaf, call.with_tensors(*made)


RELATED = [case for case in CASES if len(case.differentiable(case.make("plain", case.shapes[0], torch.float64))) > 1]


@pytest.mark.parametrize("same", [True, False], ids=["the same", "computed"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", RELATED, ids=repr)
def test_tensors_that_depend_on_each_other(case: Case, reduction: str, same: bool) -> None:
    """Nothing that flows between them is counted twice, whatever grad_output is and whoever differentiates again."""
    call = case.make("plain", case.shapes[0], torch.float32)
    call = call.with_tensors(*(tensor.abs() + 0.25 if place else tensor for place, tensor in enumerate(call.tensors)))
    if not case.any_input or case.name == "gaussian_nll_loss":
        call = call.with_tensors(call.input.abs().clamp(0.05, 0.6), *call.tensors[1:])

    def found(backend: str) -> list[Tensor]:
        leaf, own = related(case, call, same)
        loss = own.run(case.function, reduction=reduction, backend=backend)
        grad_output = random_like(loss.shape, loss.dtype)
        lazy = torch._neg_view(-grad_output)
        batch = torch.stack([grad_output, 2 * grad_output])
        results = list(torch.autograd.grad(loss, leaf, grad_output, retain_graph=True))
        results += torch.autograd.grad(loss, leaf, lazy, retain_graph=True)
        results += torch.autograd.grad(loss, leaf, batch, retain_graph=True, is_grads_batched=True)
        (gradient,) = torch.autograd.grad(loss, leaf, grad_output, create_graph=True)
        results.append(gradient)
        if gradient.requires_grad:
            results += torch.autograd.grad(gradient.square().sum(), leaf)
        return results

    for ours, expected in zip(found("auto"), found("reference"), strict=True):
        peak = max(1.0, float(expected.detach().abs().max()))
        assert_as_exact(ours, expected.double(), steps=32, scale=peak)
