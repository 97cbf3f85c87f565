"""Numbers at the edges of their formats, and the same numbers on every machine."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import oracles
import pytest
import torch
from assertions import assert_as_exact, assert_gradient_as_exact, assert_same_bits
from cases import BY_NAME, CASES, HALVES, KERNEL_DTYPES, REDUCTIONS, VARIANTS, Call, Case, dtype_name
from torch import Tensor

from losskit import functional as F
from losskit.kernels import cpu

needs_kernels = pytest.mark.skipif(not cpu.available(), reason=cpu.unavailable_reason())
BACKENDS = [pytest.param("cpu", marks=needs_kernels), "reference"]

# What `oracles.extremes` computes with 60 digits: the loss, then its gradient by each element of the input.
FROZEN = {
    "offset 1e4": [2.5146228546961313, 0.17125136095376153, 0.282345761440812, -0.9191065849740645, 0.4655094625794909],
    "offset -1e4": [1.9088896826385957, 0.244414510225592, -0.8517551058695315, 0.517425522207957, 0.08991507343598255],
    "offset 1e30": [1.0986122886681098, -0.6666666666666666, 0.3333333333333333, 0.3333333333333333],
    "certain and right": [
        1.280010007730933e-13,
        -1.2800100077308513e-13,
        9.357622968838977e-14,
        3.4424771084695356e-14,
    ],
    "certain and wrong": [31.000000000000128, 0.999999999999872, 9.357622968838977e-14, -0.9999999999999656],
    "far apart": [200.0, 1.0, -1.0, 1.9151695967140057e-174],
    "huge": [0.0, 0.0, 0.0],
    "one class": [0.0, 0.0],
    "excluded class": [1.1368710061148999, 0.679178699175393, 0.0, -0.679178699175393],
    "excluded target": [math.inf, 0.679178699175393, -1.0, 0.320821300824607],
    "bce denormal": [97.04060527839235, -1000000000000.0],
    "bce tiny": [9.313225750491594e-10, 1.0000000009313226],
    "bce near one": [16.635532333438686, 16777216.0],
    "bce zero": [100.0, -1000000000000.0],
    "bce one": [100.0, 1000000000000.0],
    "logit 100 right": [3.720075976020836e-44, -3.720075976020836e-44],
    "logit 100 wrong": [100.0, 1.0],
    "logit -60 right": [8.75651076269652e-27, 8.75651076269652e-27],
    "logit huge": [1.7014118346046923e38, 1.0],
    "logit small": [0.6931474189786381, 0.2500002384185791],
    "l1 huge": [1.7014118346046923e38, 1.0],
    "l1 denormal": [7.174648137343064e-43, 1.0],
    "mse small": [8.271806125530277e-25, 1.8189894035458565e-12],
    "mse large": [1.329227995784916e36, 2.305843009213694e18],
    "smooth l1 at beta": [0.25, 1.0],
    "smooth l1 huge": [8.507059173023462e37, 1.0],
    "huber at delta": [0.125, 0.5],
    "huber huge": [2.535301200456459e30, 2.0],
    "huber below delta": [0.499999940395357, 0.9999999403953552],
}
PARAMETERS = {"smooth_l1_loss": "beta", "huber_loss": "delta"}


def test_the_frozen_table_is_what_mpmath_computes() -> None:
    pytest.importorskip("mpmath")
    assert oracles.extremes() == FROZEN


def extreme(name: str, dtype: torch.dtype) -> tuple[Case, Call]:
    function, input, target, parameter = oracles.EXTREMES[name]
    case = BY_NAME[function]
    kwargs = {PARAMETERS[function]: parameter} if function in PARAMETERS else {}
    if case.classes:
        call = Call(torch.tensor([input], dtype=dtype), torch.tensor([int(target)]), kwargs)
    else:
        call = Call(torch.tensor(input, dtype=dtype), torch.tensor([target], dtype=dtype), kwargs)
    return case, call.leaves()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FROZEN)
def test_extremes(name: str, backend: str) -> None:
    case, call = extreme(name, torch.float32)
    loss, *gradient = FROZEN[name]
    for reduction in REDUCTIONS:
        ours = call.run(case.function, reduction=reduction, backend=backend)
        eager = call.run(case.torch_function, reduction=reduction)
        assert_as_exact(ours, torch.tensor(loss, dtype=torch.float64).expand(ours.shape), eager, what=name)
        (our,) = torch.autograd.grad(ours.sum(), call.input)
        (their,) = torch.autograd.grad(eager.sum(), call.input)
        exact = torch.tensor(gradient, dtype=torch.float64).reshape(our.shape)
        if name == "excluded target":
            # The loss is inf; the gradient is finite all the same, p − onehot.
            assert_as_exact(our, exact, what=f"gradient of {name}")
            continue
        assert_as_exact(our, exact, their, what=f"gradient of {name}")


# Torch's derivative is NaN, from inf / inf, where the loss is very large; here it is what it tends to.
OVERFLOWS = ("soft_margin_loss",)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=dtype_name)
@pytest.mark.parametrize(("case", "variant"), [given for given in VARIANTS if given.values[0].any_input])
def test_infinities_and_nan_as_torch(case: Case, variant: str, dtype: torch.dtype, backend: str) -> None:
    """A NaN or infinity in one place: what is NaN for torch is NaN, and it stays in its row."""
    for shape in [shape for shape in case.shapes if 0 not in shape and len(shape) in (2, 4)]:
        call = case.make(variant, shape, dtype)
        theirs = replace(call, target=call.target.long()) if call.target.dtype == torch.uint8 else call
        for odd in (math.nan, math.inf, -math.inf):
            input = call.input.clone()
            input.view(-1)[input.numel() // 2] = odd
            leaf = input.requires_grad_(True)
            ours = replace(call, input=leaf).run(case.function, reduction="none", backend=backend)
            wide = replace(theirs, input=leaf.detach()).wide().leaves()
            # Where torch's loop passes over a NaN, the textbook does not.
            exact = wide.run(case.twice or case.torch_function, reduction="none")
            # Of -inf some of torch's NaN are 0·inf, which has the limit 0 here.
            if odd != -math.inf:
                assert torch.equal(ours.isnan(), exact.isnan())
            finite = exact.isfinite()
            assert bool(ours[finite].isfinite().all())
            (our,) = torch.autograd.grad(ours.sum(), leaf)
            (true,) = torch.autograd.grad(exact.sum(), wide.input)
            clean = call.leaves()
            (undisturbed,) = torch.autograd.grad(
                clean.run(case.function, reduction="none", backend=backend).sum(), clean.input
            )
            elsewhere = leaf.detach() == call.input
            if case.classes:
                elsewhere = elsewhere.all(1, keepdim=True).expand(shape)
            elif case.rows:
                elsewhere = elsewhere.all(-1, keepdim=True).expand(leaf.shape)
            assert torch.equal(our[elsewhere], undisturbed[elsewhere])
            # At a NaN the sign of a difference is 0 for torch and NaN here, and both in a row that is ignored.
            if odd != -math.inf:
                spoiled = our.isnan() & ~true.isnan() if case.name in OVERFLOWS else our.isnan() != true.isnan()
                assert not bool((spoiled & ~leaf.isnan() & ~ignored(case, call, shape)).any())
            assert bool((our[ignored(case, call, shape)] == 0).all())


def ignored(case: Case, call: Call, shape: tuple[int, ...]) -> Tensor:
    index = call.kwargs.get("ignore_index")
    if not case.classes or index is None:
        return torch.zeros(shape, dtype=torch.bool)
    return (call.target == index).unsqueeze(1).expand(shape)


def rows_with_infinities() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Whole blocks of 1024 classes excluded, in each place, and the target inside and outside of them."""
    generator = torch.Generator().manual_seed(5)
    for classes in (3, 63, 64, 1025, 2050, 3072):
        for start, stop in (
            (0, classes // 3),
            (classes // 3, 2 * classes // 3),
            (2 * classes // 3, classes),
            (0, classes - 1),
        ):
            logits = torch.randn(4, classes, generator=generator)
            logits[:, start:stop] = -math.inf
            finite = torch.nonzero(logits[0].isfinite()).flatten()
            yield f"{classes} {start} {stop}", logits, finite[torch.randint(0, len(finite), (4,), generator=generator)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_excluded_classes(backend: str) -> None:
    case = BY_NAME["cross_entropy"]
    for what, logits, target in rows_with_infinities():
        for dtype in KERNEL_DTYPES:
            call = Call(logits.to(dtype), target).leaves()
            wide = call.wide().leaves()
            for reduction in REDUCTIONS:
                ours = call.run(case.function, reduction=reduction, backend=backend)
                eager = call.run(case.torch_function, reduction=reduction)
                exact = wide.run(case.torch_function, reduction=reduction)
                assert_as_exact(ours, exact, eager, what=what)
                (our,) = torch.autograd.grad(ours.sum(), call.input)
                (their,) = torch.autograd.grad(eager.sum(), call.input)
                (true,) = torch.autograd.grad(exact.sum(), wide.input)
                assert_gradient_as_exact(case, call, our, true, their)
                assert bool((our[logits == -math.inf] == 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("classes", [1, 5, 64, 1025, 2500])
def test_rows_without_a_softmax(classes: int, backend: str) -> None:
    """Nothing but −inf, a +inf or a NaN: NaN in value and gradient, of this row alone, and 0 where it is ignored."""
    for odd in ("all -inf", "inf", "nan"):
        for dtype in KERNEL_DTYPES:
            logits = torch.randn(3, classes, dtype=torch.float64).to(dtype)
            if odd == "all -inf":
                logits[1] = -math.inf
            else:
                logits[1, classes // 2] = float(odd)
            target = torch.zeros(3, dtype=torch.int64)
            leaf = logits.requires_grad_(True)
            loss = F.cross_entropy(leaf, target, reduction="none", backend=backend)
            assert loss.isnan().tolist() == [False, True, False]
            assert F.cross_entropy(leaf, target, backend=backend).isnan()
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
            assert bool(gradient[1].isnan().all())
            assert bool(gradient[[0, 2]].isfinite().all())
            target[1] = -100
            for reduction in REDUCTIONS:
                loss = F.cross_entropy(leaf, target, reduction=reduction, backend=backend)
                assert bool(loss.isfinite().all())
                (gradient,) = torch.autograd.grad(loss.sum(), leaf)
                assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_and_denormal(backend: str) -> None:
    """Losses near the end of the format do not overflow on the way."""
    huge = torch.tensor([3e38, -3e38], requires_grad=True)
    zero = torch.zeros(2)
    for function in (F.l1_loss, F.smooth_l1_loss, F.huber_loss):
        loss = function(huge, zero, reduction="none", backend=backend)
        assert torch.equal(loss.detach(), torch.full((2,), 3e38))
        (gradient,) = torch.autograd.grad(loss.sum(), huge)
        assert gradient.tolist() == [1.0, -1.0]
    assert F.mse_loss(huge, zero, backend=backend).item() == math.inf
    assert F.l1_loss(huge, -huge.detach(), reduction="none", backend=backend).tolist() == [math.inf, math.inf]
    logits = torch.tensor([[3e38, -3e38, 0.0]], requires_grad=True)
    loss = F.cross_entropy(logits, torch.tensor([2]), backend=backend)
    assert loss.item() == pytest.approx(3e38, rel=1e-7)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.tolist() == [[1.0, 0.0, -1.0]]
    denormal = torch.tensor([1e-40, 1e-45, 1.4e-44], requires_grad=True)
    assert_as_exact(
        F.binary_cross_entropy(denormal, torch.ones(3), reduction="none", backend=backend),
        -denormal.detach().double().log().clamp(min=-100),
    )
    small = torch.tensor([1e-40, -1e-45])
    assert torch.equal(F.l1_loss(small, zero, reduction="none", backend=backend), small.abs())


# The error against float64, in sizes where sums are long.


def long_calls() -> Iterator[tuple[str, Case, Call]]:
    for case in CASES:
        shapes: tuple[tuple[int, ...], ...] = ((100_003,), (1,))
        if case.classes:
            shapes = ((512, 300), (20, 5000), (2, 21, 40, 40), (20_000, 10), (7, 1024), (7, 1025))
            # Rows and images that a thread takes more than one block of at a time.
            shapes = (*shapes, (40_000, 3), (2, 3, 363, 362))
        elif case.rows:
            shapes = ((512, 300), (20_000, 10), (7, 1025), (100_003,))
        for variant in case.variants:
            for shape in shapes:
                call = case.make(variant, shape, torch.float32)
                if call.target.dtype == torch.uint8:
                    call = replace(call, target=call.target.long())
                yield f"{variant} {shape}", case, call
                if case.name == "cross_entropy":
                    yield f"{variant} {shape}, offset 1e4", case, replace(call, input=call.input + 1e4)


def assert_no_worse_than_eager(what: str, case: Case, call: Call, backend: str = "cpu") -> None:
    call, wide = call.leaves(), call.wide().leaves()
    for reduction in REDUCTIONS:
        ours = call.run(case.function, reduction=reduction, backend=backend)
        eager = call.run(case.torch_function, reduction=reduction)
        exact = wide.run(case.torch_function, reduction=reduction)
        # Sums of logarithms of both signs do not occur here: all losses are at least 0.
        assert_as_exact(ours, exact, eager, steps=2, what=f"{case.name} {what} {reduction}")
        generator = torch.Generator().manual_seed(2)
        upstream = torch.randn(ours.shape, generator=generator)
        (our,) = torch.autograd.grad(ours, call.input, upstream)
        (their,) = torch.autograd.grad(eager, call.input, upstream)
        (true,) = torch.autograd.grad(exact, wide.input, upstream.double())
        assert_gradient_as_exact(case, call, our, true, their, steps=4)


@needs_kernels
@pytest.mark.parametrize(
    ("what", "case", "call"),
    [pytest.param(what, case, call, id=f"{case.name}-{what.replace(' ', '_')}") for what, case, call in long_calls()],
)
def test_error_is_at_most_twice_that_of_eager(what: str, case: Case, call: Call) -> None:
    assert_no_worse_than_eager(what, case, call)


@needs_kernels
def test_mean_of_many_in_half_precision() -> None:
    """Eager sums 8 bits of digits; the loss handed over in float32 has those of float32."""
    for dtype in HALVES:
        call = BY_NAME["cross_entropy"].make("plain", (4096, 50), dtype)
        exact = call.wide().run(torch.nn.functional.cross_entropy)
        assert_as_exact(call.run(F.cross_entropy, out_dtype=torch.float32), exact, steps=4)


# Formats.

LOW_BITS = (0x0000, 0x0001, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF)


def every_high_half() -> Iterator[Tensor]:
    """All float32 numbers with these low bits: each neighbourhood of a tie among them."""
    high = torch.arange(65536, dtype=torch.int64) << 16
    for low in LOW_BITS:
        bits = high | low
        yield torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).view(torch.float32)


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """To the bit, but for which NaN it is."""
    integer = {4: torch.int32, 2: torch.int16}[a.element_size()]
    alike = a.view(integer) == b.view(integer)
    return a.dtype == b.dtype and bool((alike | (a.isnan() & b.isnan())).all())


def check_conversions() -> None:
    for half in HALVES:
        patterns = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(half)
        zeros = torch.zeros_like(patterns)
        widened = F.l1_loss(patterns, zeros, reduction="none", out_dtype=torch.float32, backend="cpu")
        # Of the sign of 0 nothing is promised here.
        assert same_numbers(widened.abs(), patterns.float().abs())
        column, first = patterns[:, None], torch.zeros(65536, dtype=torch.int64)
        # The loss of one class is minus its log-probability, of either sign.
        widened = F.nll_loss(column, first, reduction="none", out_dtype=torch.float32, backend="cpu")
        assert same_numbers(widened, -patterns.float())
        for numbers in every_high_half():
            narrowed = F.l1_loss(numbers, torch.zeros(65536), reduction="none", out_dtype=half, backend="cpu")
            assert same_numbers(narrowed.abs(), numbers.abs().to(half))
            narrowed = F.nll_loss(numbers[:, None], first, reduction="none", out_dtype=half, backend="cpu")
            assert same_numbers(narrowed, (-numbers).to(half))


@needs_kernels
def test_conversions_of_every_bit_pattern() -> None:
    check_conversions()


@needs_kernels
@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 1023, 1024, 1025, 70000])
def test_sums_that_only_double_holds(count: int) -> None:
    """Finite where single losses are, in whatever order they stand."""
    target = torch.ones(count)
    alike, turning = torch.full((count,), 3e38), 3e38 * (1 - 2 * (torch.arange(count) // 2 % 2)).float()
    for losses in (alike, turning, turning.sort().values, turning.sort(descending=True).values):
        ours = F.hinge_embedding_loss(losses, target, out_dtype=torch.float64)
        torch.testing.assert_close(ours, losses.double().mean(), rtol=1e-6, atol=0)
        assert F.hinge_embedding_loss(losses, target) == losses.double().mean().float()
    for odd in (float("inf"), float("-inf"), float("nan")):
        for place in {0, count // 2, count - 1}:
            losses = alike.clone()
            losses[place] = odd
            torch.testing.assert_close(F.hinge_embedding_loss(losses, target), torch.tensor(odd), equal_nan=True)


@needs_kernels
@pytest.mark.parametrize("half", HALVES, ids=dtype_name)
def test_conversion_of_a_reduced_loss(half: torch.dtype) -> None:
    """One number goes another way than many."""
    for value in (
        0.1,
        -0.1,
        65504.0,
        65519.9,
        65520.0,
        1e-7,
        3e-8,
        2.9e-8,
        -3e-8,
        1.00048828125,
        3.3e38,
        math.inf,
        math.nan,
        0.0,
    ):
        given = torch.tensor([[value]])
        expected = (-given.squeeze()).to(half)
        for reduction in ("mean", "sum"):
            loss = F.nll_loss(given, torch.tensor([0]), reduction=reduction, out_dtype=half, backend="cpu")
            assert torch.equal(loss.abs(), expected.abs()) or (loss.isnan() and expected.isnan())
            if value:
                assert torch.equal(loss.signbit(), expected.signbit()) or math.isnan(value)


# The same everywhere.

THREADED = {"pointwise": (70_001,), "rows": (150, 1000), "few classes": (40_000, 7), "images": (3, 21, 40, 41),
            "large images": (2, 3, 363, 362)}  # fmt: skip


@needs_kernels
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=dtype_name)
@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_thread_count_changes_no_bit(case: Case, variant: str, dtype: torch.dtype) -> None:
    for kind, shape in THREADED.items():
        if (case.classes or case.rows) == (kind == "pointwise"):
            continue
        call = case.make(variant, shape, dtype).leaves()
        for reduction in REDUCTIONS:
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                loss = call.run(case.function, reduction=reduction, backend="cpu")
                upstream = torch.linspace(-1, 1, max(1, loss.numel())).to(dtype).reshape(loss.shape)
                results.append((loss, torch.autograd.grad(loss, call.input, upstream)[0]))
            for other in results[1:]:
                assert_same_bits(other[0], results[0][0])
                assert_same_bits(other[1], results[0][1])


# A NaN has 2²³ − 1 patterns of bits and a sign; memory that was never written is often full of ones.
NANS = (0x7FC00000, 0x7FC00001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001, 0x7F800001)


@needs_kernels
@pytest.mark.parametrize("case", [case for case in CASES if case.any_input], ids=lambda case: case.name)
def test_every_nan_stays_one(case: Case) -> None:
    for shape in ((3, 5), (3, 300), (2, 3, 7)):
        if case.rows and len(shape) > 2:
            continue
        results = []
        for bits in NANS:
            call = case.make("plain", shape, torch.float32)
            values = call.input.clone()
            values.view(torch.int32)[0] = bits if bits < 1 << 31 else bits - (1 << 32)
            call = replace(call, input=values).leaves()
            loss = call.run(case.function, reduction="none", backend="cpu")
            (gradient,) = torch.autograd.grad(loss.sum(), call.input)
            results.append((loss.isnan(), gradient.isnan()))
        assert bool(results[0][0].any())
        for loss, gradient in results[1:]:
            assert torch.equal(loss, results[0][0])
            assert torch.equal(gradient, results[0][1])


# So large that gradients go around the caches.
STREAMED = [
    *[(name, (8_400_001,)) for name in ("l1_loss", "mse_loss", "huber_loss", "binary_cross_entropy_with_logits")],
    ("cross_entropy", (840_001, 10)),
    ("cross_entropy", (3, 7, 633, 634)),
]


@needs_kernels
@pytest.mark.parametrize(("name", "shape"), STREAMED)
def test_size_changes_no_bit(name: str, shape: tuple[int, ...]) -> None:
    """The same as in parts that stay in the caches."""
    case = BY_NAME[name]
    call = case.make("plain", shape, torch.float32).leaves()
    for reduction in ("sum", "none"):
        loss = call.run(case.function, reduction=reduction, backend="cpu")
        (gradient,) = torch.autograd.grad(loss.sum(), call.input)
        cut = shape[0] // 3
        for begin in range(0, shape[0], cut):
            here = slice(begin, begin + cut)
            part = replace(call, input=call.input.detach()[here], target=call.target[here]).leaves()
            own = part.run(case.function, reduction=reduction, backend="cpu")
            assert_same_bits(torch.autograd.grad(own.sum(), part.input)[0], gradient[here])
            if reduction == "none":
                assert_same_bits(own, loss[here])


@needs_kernels
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=dtype_name)
@pytest.mark.parametrize("shape", [(1000, 10), (301, 3), (70, 100), (2, 7, 33, 35)], ids=str)
def test_factors_of_one_change_no_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Blocks in which each sample counts once are computed without factors; one left out brings them to its block."""
    leaf = (4 * torch.randn(shape)).to(dtype).requires_grad_()
    samples = (shape[0], *shape[2:])
    target = torch.randint(shape[1], samples)
    one = (0,) * len(samples)
    left_out = target.clone()
    left_out[one] = -100
    others = torch.arange(target.numel()).reshape(samples) != 0

    def results(target: Tensor, **options: Any) -> list[Tensor]:
        found = []
        for reduction in ("none", "sum"):
            loss = F.cross_entropy(leaf, target, reduction=reduction, backend="cpu", **options)
            found += [loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0].movedim(1, -1)]
        return found

    plain = results(target)
    ones = {"weight": torch.ones(shape[1], dtype=dtype), "sample_weight": torch.ones(samples), "mask": others | True}
    for name, option in ones.items():
        for before, after in zip(plain, results(target, **{name: option}), strict=True):
            assert_same_bits(after, before)
    each, each_gradient, total, gradient = results(left_out)
    assert_same_bits(each[others], plain[0][others])
    assert_same_bits(each_gradient[others], plain[1][others])
    assert_same_bits(gradient[others], plain[3][others])
    assert_same_bits(torch.stack([gradient[one], each_gradient[one]]), torch.zeros(2, shape[1], dtype=dtype))
    assert each[one] == 0.0
    assert_as_exact(total, plain[0][others].double().sum(), scale=float(plain[2]))


class Several(NamedTuple):
    """A loss of several tensors. `odd` is for each an infinity, a zero, or a number beyond exp."""

    name: str
    function: Callable[..., Tensor]
    tensors: list[Tensor]
    odd: list[float]
    differentiable: int

    def losses_and_gradients(self) -> list[Tensor]:
        """The loss of each element, and the gradients of their sum."""
        leaves = [tensor.clone().requires_grad_(i < self.differentiable) for i, tensor in enumerate(self.tensors)]
        each = self.function(*leaves, reduction="none", backend="cpu")
        total = self.function(*leaves, reduction="sum", backend="cpu")
        return [each.detach(), *torch.autograd.grad(total, leaves[: self.differentiable])]


def of_several_tensors(n: int) -> list[Several]:
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(2, n, generator=generator)
    share = torch.rand(n, generator=generator) + 0.01
    sign = torch.where(y > 0, 1.0, -1.0)
    of_rates = partial(F.poisson_nll_loss, log_input=False)
    return [
        Several("kl_div", F.kl_div, [x, share], [-math.inf, 0.0], 2),
        Several("kl_div log_target", partial(F.kl_div, log_target=True), [x, y], [-math.inf, -math.inf], 2),
        Several("poisson_nll_loss", F.poisson_nll_loss, [x, share], [100.0, 0.0], 1),
        Several("poisson_nll_loss of rates", of_rates, [share, share], [math.inf, 0.0], 1),
        Several("gaussian_nll_loss", F.gaussian_nll_loss, [x, y, share], [math.inf, math.inf, math.inf], 3),
        Several("hinge_embedding_loss", F.hinge_embedding_loss, [x, sign], [math.inf, 0.0], 1),
        Several("margin_ranking_loss", F.margin_ranking_loss, [x, y, sign], [math.inf, math.inf, 0.0], 2),
        Several("soft_margin_loss", F.soft_margin_loss, [x, sign], [math.inf, 0.0], 1),
    ]


@needs_kernels
@pytest.mark.parametrize("which", range(8), ids=[several.name for several in of_several_tensors(1)])
def test_size_changes_no_bit_of_several_tensors(which: int) -> None:
    n = 8_400_001
    several = of_several_tensors(n)[which]
    whole = several.losses_and_gradients()
    for begin in range(0, n, n // 3):
        here = slice(begin, begin + n // 3)
        parts = several._replace(tensors=[tensor[here] for tensor in several.tensors]).losses_and_gradients()
        for part, all_of_it in zip(parts, whole, strict=True):
            assert_same_bits(part, all_of_it[here])


@needs_kernels
@pytest.mark.parametrize("several", of_several_tensors(3000), ids=lambda several: several.name)
def test_an_odd_number_changes_no_bit_of_its_neighbours(several: Several) -> None:
    """Blocks of plain numbers take a shorter way."""
    plain = several.losses_and_gradients()
    places = [5, 1500, 2999]
    others = torch.ones(3000, dtype=torch.bool)
    others[places] = False
    for i, number in enumerate(several.odd):
        tensors = [tensor.clone() for tensor in several.tensors]
        tensors[i][places] = number
        for left, right in zip(several._replace(tensors=tensors).losses_and_gradients(), plain, strict=True):
            assert_same_bits(left[others], right[others])


def scaled_calls() -> list[tuple[str, Callable[..., Tensor], list[Tensor], int]]:
    """Losses whose gradient is rounded once, with the scale, and elements whose gradient is large, and never 0."""
    bce, with_logits = F.binary_cross_entropy, F.binary_cross_entropy_with_logits
    probabilities, labels = torch.tensor([0.0, 1.0, 0.3]), torch.tensor([1.0, 0.0, 1.0])
    logits, numbers = torch.tensor([1.0, -2.0, -1e10]), torch.tensor([0.0, -1e38, 1e38])
    means, variances = torch.tensor([1e10, 2.0, -3.0]), torch.tensor([1e-6, 1.0, 2.0])
    return [
        ("binary_cross_entropy", bce, [probabilities, labels], 1),
        ("binary_cross_entropy_with_logits", with_logits, [logits, labels], 1),
        ("binary_cross_entropy_with_logits of any number", with_logits, [logits, numbers], 1),
        ("gaussian_nll_loss", F.gaussian_nll_loss, [means, torch.zeros(3), variances], 3),
    ]


@needs_kernels
@pytest.mark.parametrize("upstream", [0.0, 3.0, 1e35, -1e35, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("given", scaled_calls(), ids=lambda given: given[0])
def test_a_second_backward_pass_scales_as_the_first(
    given: tuple[str, Callable[..., Tensor], list[Tensor], int], upstream: float
) -> None:
    """The first has the gradient and multiplies it; the second computes it with the factor."""
    _, function, tensors, differentiable = given
    leaves = [tensor.clone().requires_grad_(i < differentiable) for i, tensor in enumerate(tensors)]
    loss = function(*leaves, backend="cpu")
    wanted, factor = leaves[:differentiable], torch.tensor(upstream)
    first = torch.autograd.grad(loss, wanted, factor, retain_graph=True)
    second = torch.autograd.grad(loss, wanted, factor)
    for left, right in zip(first, second, strict=True):
        torch.testing.assert_close(left, right, equal_nan=True, rtol=3e-7, atol=0)


@needs_kernels
@pytest.mark.parametrize("n", [1000, 4095, 12289])
def test_the_divisor_of_a_mean_biases_no_gradient(n: int) -> None:
    """1/n has no exact float; its error would be the same in every element."""
    x = torch.linspace(0.5, 15.5, n, requires_grad=True)
    F.binary_cross_entropy_with_logits(x, torch.ones(n), backend="cpu").backward()
    exact = -torch.sigmoid(-x.detach().double()) / n
    assert abs(((x.grad - exact) / exact).mean().item()) < 1e-8


@needs_kernels
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=dtype_name)
def test_minus_zero_is_a_probability(dtype: torch.dtype) -> None:
    p, yes = torch.tensor([-0.0, 0.0], dtype=dtype), torch.ones(2, dtype=dtype)
    assert F.binary_cross_entropy(p, yes, reduction="none", backend="cpu").tolist() == [100, 100]
    assert F.binary_cross_entropy(p, 1 - yes, reduction="none", backend="cpu").tolist() == [0, 0]


@needs_kernels
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("x", "y", "variance"), [(1.0, 0.0, math.inf), (0.0, 1e-45, 2e-39), (1.0, 1.0, 2e-39), (2.0, 1.0, 1e38)]
)
def test_variances_at_the_edges(x: float, y: float, variance: float, reduction: str) -> None:
    tensors = [torch.tensor([number, 1.0]) for number in (x, y, variance)]

    def gradients(tensors: list[Tensor], function: Callable[..., Tensor], **options: object) -> tuple[Tensor, ...]:
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        return torch.autograd.grad(function(*leaves, eps=1e-45, reduction=reduction, **options).sum(), leaves)

    ours = gradients(tensors, F.gaussian_nll_loss, backend="cpu")
    exact = gradients([tensor.double() for tensor in tensors], torch.nn.functional.gaussian_nll_loss)
    for got, true in zip(ours, exact, strict=True):
        torch.testing.assert_close(got, true.float())


@needs_kernels
def test_nan_beside_an_infinite_target_stays_one() -> None:
    x = torch.full((2,), math.nan, requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, torch.tensor([math.inf, -math.inf]), backend="cpu")
    for _ in range(2):
        (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert bool(gradient.isnan().all())


@needs_kernels
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=dtype_name)
@pytest.mark.parametrize("variant", BY_NAME["cross_entropy"].variants)
def test_images_of_several_blocks(variant: str, dtype: torch.dtype) -> None:
    """A block is read while the one before it is computed; images of one block have nothing of the kind."""
    case = BY_NAME["cross_entropy"]
    call = case.make(variant, (2, 3, 363, 362), dtype).leaves()
    loss = call.run(case.function, reduction="none", backend="cpu")
    (gradient,) = torch.autograd.grad(loss.sum(), call.input)
    wide = call.wide().leaves()
    if wide.target.dtype == torch.uint8:
        wide = replace(wide, target=wide.target.long())
    exact = wide.run(case.torch_function, reduction="none")
    (true,) = torch.autograd.grad(exact.sum(), wide.input)
    assert_as_exact(loss, exact)
    assert_gradient_as_exact(case, call, gradient, true)


@needs_kernels
@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_old_contents_of_a_buffer_do_not_matter(case: Case, variant: str) -> None:
    """Results are written whole: a buffer that comes back full of NaN leaves none."""
    shape = (130, 200) if case.classes or case.rows else (26_000,)
    call = case.make(variant, shape, torch.float32).leaves()
    poison = torch.full(shape, math.nan if case.any_input else 0.5)
    for reduction in REDUCTIONS:

        def both(reduction: str = reduction) -> tuple[Tensor, Tensor]:
            loss = call.run(case.function, reduction=reduction, backend="cpu")
            return loss.detach(), torch.autograd.grad(loss.sum(), call.input)[0]

        first = [tensor.clone() for tensor in both()]
        for _ in range(3):
            spoiled = replace(call, input=poison).leaves()
            loss = spoiled.run(case.function, reduction=reduction, backend="cpu")
            (gradient,) = torch.autograd.grad(loss.sum() * math.nan, spoiled.input)
            del loss, gradient
        for again, before in zip(both(), first, strict=True):
            assert_same_bits(again, before)


def error_in_steps(got: Tensor, exact: Tensor) -> float:
    """The largest error in units in the last place of the exact number."""
    _, exponent = torch.frexp(exact)
    return ((got.double() - exact).abs() / torch.ldexp(torch.ones_like(exact), exponent - 24)).max().item()


def check_elementary_functions() -> None:
    """Where a loss is nothing but a logarithm or an exponential, on a grid of float32 numbers of every magnitude."""
    bits = torch.arange(0x2F800000, 0x3F800000, 1021, dtype=torch.int32)
    p = bits.view(torch.float32)
    one, zero = torch.ones_like(p), torch.zeros_like(p)
    wide = p.double()
    log = F.binary_cross_entropy(p, one, reduction="none", backend="cpu")
    assert error_in_steps(log, -wide.log()) < 0.9
    log1m = F.binary_cross_entropy(p, zero, reduction="none", backend="cpu")
    assert error_in_steps(log1m, -torch.log1p(-wide)) < 0.9
    x = -17.5 - 69.5 * p
    exp = F.binary_cross_entropy_with_logits(x, zero, reduction="none", backend="cpu")
    assert error_in_steps(exp, x.double().exp().log1p()) < 0.9
    x = -17.5 * p
    softplus = F.binary_cross_entropy_with_logits(x, zero, reduction="none", backend="cpu")
    # The error of exp, 0.75 at most, and that of log(1 + y).
    assert error_in_steps(softplus, x.double().exp().log1p()) < 1.8
    # For any number, in a block without an odd one and in a block with one.
    everything = torch.cat([bits[::4].view(torch.float32), 1 / bits[::4].view(torch.float32)])
    for odd in ([], [0.0]):
        y = torch.cat([everything, torch.tensor(odd)])
        log = F.kl_div(torch.zeros_like(y), y, reduction="none", backend="cpu")[: len(everything)]
        # The error of the logarithm, and that of the product.
        assert error_in_steps(log, torch.special.xlogy(everything.double(), everything.double())) < 1.5
    for odd in ([], [-100.0]):
        x = torch.cat([torch.linspace(-87, 87, 200_001), torch.tensor(odd)])
        exp = F.poisson_nll_loss(x, torch.zeros_like(x), reduction="none", backend="cpu")
        assert error_in_steps(exp[:200_001], x[:200_001].double().exp()) < 1.01
    x = torch.linspace(87, 88.7, 1001)
    exp = F.poisson_nll_loss(x, torch.zeros_like(x), reduction="none", backend="cpu")
    assert error_in_steps(exp, x.double().exp()) < 1.01
    # The log-sum-exp of a single capped score is the score, tanh.
    magnitudes = torch.cat([torch.logspace(-37, 1.2, 400_000), torch.linspace(0.5, 0.8, 200_000)])
    x = torch.cat([magnitudes, -magnitudes]).unsqueeze(1)
    target = torch.zeros(len(x), dtype=torch.long)
    _, stats = F.cross_entropy(x, target, softcap=1.0, return_stats=True, reduction="sum", backend="cpu")
    tanh = x.double().tanh()
    assert error_in_steps(stats.lse, tanh.squeeze(1)) < 1.5
    # Half its square has tanh times the slope as its derivative: their errors, 1.5 and 2.5 at most, and the product's.
    # With a target of no probability the loss has no other part.
    x.requires_grad_()
    F.cross_entropy(x, torch.zeros_like(x), softcap=1.0, z_loss=0.5, reduction="sum", backend="cpu").backward()
    decay = torch.exp(-2 * x.detach().double().abs())
    assert error_in_steps(x.grad, tanh.detach() * 4 * decay / (1 + decay) ** 2) < 5


def check_instruction_set(name: str) -> None:
    """In a process of its own, which was told to use it."""
    check_elementary_functions()
    assert cpu.description() == f"fused C++ kernel, instruction set {name}"
    check_conversions()
    for case in CASES:
        for variant in case.variants:
            for shape in (*case.shapes, (40, 1500) if case.classes or case.rows else (2000,)):
                for dtype in KERNEL_DTYPES:
                    call = case.make(variant, shape, dtype)
                    if call.target.dtype == torch.uint8:
                        call = replace(call, target=call.target.long())
                    call, wide = call.leaves(), call.wide().leaves()
                    loss = call.run(case.function, reduction="none", backend="cpu")
                    exact = wide.run(case.torch_function, reduction="none")
                    eager = call.run(case.torch_function, reduction="none")
                    what = f"{name} {case.name} {variant} {shape} {dtype}"
                    assert_as_exact(loss, exact, eager, steps=8, what=what)
                    upstream = torch.linspace(-1, 1, max(1, loss.numel())).to(dtype)[: loss.numel()].reshape(loss.shape)
                    (our,) = torch.autograd.grad(loss, call.input, upstream)
                    (their,) = torch.autograd.grad(eager, call.input, upstream)
                    (true,) = torch.autograd.grad(exact, wide.input, upstream.double())
                    assert_gradient_as_exact(case, call, our, true, their, floor=case.floor(call, upstream))


def run_with(name: str, program: str) -> "subprocess.CompletedProcess[str]":
    tests = str(Path(__file__).parent)
    path = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "LOSSKIT_ISA": name, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@needs_kernels
@pytest.mark.parametrize("name", cpu.instruction_sets())
def test_instruction_sets(name: str) -> None:
    done = run_with(name, f"import test_numerics; test_numerics.check_instruction_set({name!r})")
    assert done.returncode == 0, done.stderr[-3000:]


@needs_kernels
def test_an_unknown_instruction_set_is_an_error() -> None:
    done = run_with("avx9", "import losskit")
    assert done.returncode == 1
    names = ", ".join(cpu.instruction_sets())
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith(f"BackendError: LOSSKIT_ISA='avx9' is not an instruction set of this processor: {names}.")
