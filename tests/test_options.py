"""The options beyond PyTorch's: the kernel and the definition against the textbook form in float64."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import oracles
import pytest
import torch
from assertions import assert_as_exact, assert_gradient_as_exact
from cases import BY_NAME, CASES, KERNEL_DTYPES, REDUCTIONS, VARIANTS, Call, Case, dtype_name
from torch import Tensor

import losskit
from losskit import functional as F
from losskit.errors import EmptyLossError
from losskit.kernels import cpu

needs_kernels = pytest.mark.skipif(not cpu.available(), reason=cpu.unavailable_reason())
BACKENDS = [pytest.param("cpu", marks=needs_kernels), "reference"]


def combinations(shape: torch.Size, dtype: torch.dtype) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each option by itself and with the others; all of them leave something that counts."""
    generator = torch.Generator().manual_seed(11)
    weight = (0.25 + torch.rand(shape, generator=generator)).to(dtype)
    mask = torch.rand(shape, generator=generator) > 0.3
    mask.view(-1)[:1] = True
    yield "sample_weight", {"sample_weight": weight}
    yield "mask", {"mask": mask}
    yield "both", {"sample_weight": weight, "mask": mask}
    yield "normalizer", {"normalizer": 7.5}
    yield "normalizer tensor", {"normalizer": torch.tensor(7.5)}
    yield "all", {"sample_weight": weight, "mask": mask, "normalizer": torch.tensor(3.25)}
    if len(shape) > 1:
        yield "broadcast weight", {"sample_weight": weight[..., :1]}
        yield "broadcast mask", {"mask": mask[:1]}
    if shape:
        yield "scalar weight", {"sample_weight": torch.tensor(0.5, dtype=dtype)}


def exact(case: Case, call: Call, reduction: str, options: dict[str, Any]) -> tuple[Tensor, Tensor, float, Tensor]:
    """Result, gradient by input, the largest loss, and what the gradient is taken with: by the textbook form."""
    wide = call.wide().leaves()
    options = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in options.items()
    }
    losses = wide.run(case.textbook)
    expanded = {
        name: value.expand(losses[0].shape) if isinstance(value, Tensor) and name != "normalizer" else value
        for name, value in options.items()
    }
    result = oracles.reduced(losses, reduction, **expanded)
    generator = torch.Generator().manual_seed(3)
    upstream = torch.randn(result.shape, generator=generator, dtype=torch.float64).to(call.input.dtype)
    (gradient,) = torch.autograd.grad(result, wide.input, upstream.double())
    peak = float(losses[0].detach().abs().max()) if losses[0].numel() else 0.0
    peak = max(peak, case.terms(call))
    if call.input.dtype == torch.float64 or not case.nonnegative:
        # The textbook form takes the logarithm of an exponential: it is no better than the digits of the input. Neither
        # is a difference of terms.
        peak = max(peak, float(call.input.detach().abs().max()))
    return result.detach(), gradient, peak, upstream


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [*KERNEL_DTYPES, torch.float64], ids=dtype_name)
@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_options_by_themselves_and_together(case: Case, variant: str, dtype: torch.dtype, backend: str) -> None:
    if dtype == torch.float64 and backend == "cpu":
        backend = "auto"
    for shape in [shape for shape in case.shapes if (0 not in shape and len(shape) != 0) or shape == ()][:7]:
        call = case.make(variant, shape, dtype).leaves()
        for name, options in combinations(case.loss_shape(call), dtype):
            for reduction in REDUCTIONS:
                if reduction == "none" and "normalizer" in options:
                    continue
                expected, gradient, peak, upstream = exact(case, call, reduction, options)
                ours = call.run(case.function, reduction=reduction, backend=backend, **options)
                (our_gradient,) = torch.autograd.grad(ours, call.input, upstream)
                assert ours.dtype == dtype, name
                scale = max(peak, float(expected.abs().max()))
                assert_as_exact(ours, expected, scale=scale, what=f"{name}, {reduction}")
                floor = case.floor(call, upstream) or float(gradient.abs().max())
                assert_gradient_as_exact(case, call, our_gradient, gradient, steps=16, floor=floor)


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=dtype_name)
@pytest.mark.parametrize("dtype", [*KERNEL_DTYPES, torch.float64], ids=dtype_name)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_out_dtype(case: Case, dtype: torch.dtype, out_dtype: torch.dtype) -> None:
    for reduction in REDUCTIONS:
        for variant in case.variants:
            call = case.make(variant, case.shapes[0], dtype).leaves()
            expected, gradient, peak, _ = exact(case, call, reduction, {})
            result = call.run(case.function, reduction=reduction, out_dtype=out_dtype)
            assert result.dtype == out_dtype
            # The loss is computed in float32, or float64; out_dtype hands it over as it is.
            computed = torch.float64 if dtype == torch.float64 else torch.float32
            digits = max(torch.finfo(out_dtype).eps, torch.finfo(computed).eps)
            steps = 8 * digits / torch.finfo(out_dtype).eps
            assert_as_exact(result, expected, steps=steps, scale=max(peak, float(expected.abs().max())))
            generator = torch.Generator().manual_seed(3)
            upstream = torch.randn(result.shape, generator=generator, dtype=torch.float64).to(dtype)
            (ours,) = torch.autograd.grad(result, call.input, upstream.to(out_dtype))
            assert ours.dtype == dtype
            rounding = 1 + torch.finfo(out_dtype).eps / torch.finfo(dtype).eps
            assert_gradient_as_exact(case, call, ours, gradient, steps=16 * rounding, floor=float(gradient.abs().max()))


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_nothing_leaks_from_under_the_mask(case: Case, variant: str, backend: str, poison: float) -> None:
    """Neither into the value nor into any gradient, to which the masked entries contribute an exact 0."""
    for dtype in KERNEL_DTYPES:
        for reduction in REDUCTIONS:
            places = case.kernel_gradients
            call = case.make(variant, case.shapes[0], dtype).leaves(*places)
            shape = case.loss_shape(call)
            mask = torch.arange(shape.numel()).reshape(shape) % 3 != 1
            clean = call.run(case.function, reduction=reduction, mask=mask, backend=backend)
            dirty = call.with_tensors(
                *(
                    torch.where(case.spread(mask, tensor), tensor.detach(), poison)
                    if tensor.is_floating_point()
                    else tensor
                    for tensor in call.tensors
                )
            ).leaves(*places)
            loss = dirty.run(case.function, reduction=reduction, mask=mask, backend=backend)
            assert torch.equal(loss, clean)
            found = torch.autograd.grad(loss.sum(), dirty.wanted())
            expected = torch.autograd.grad(clean.sum(), call.wanted())
            for ours, theirs in zip(found, expected, strict=True):
                assert torch.equal(ours, theirs)
                assert bool((ours[~case.spread(mask, ours)] == 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("index", [-1, 5, 255, 2**40])
@pytest.mark.parametrize("case", [case for case in CASES if case.classes], ids=repr)
def test_indices_out_of_range_under_the_mask(case: Case, index: int, backend: str) -> None:
    call = case.make("plain", (6, 5), torch.float32).leaves()
    mask = torch.tensor([True, False, True, True, False, True])
    for dtype in (torch.int64, torch.uint8):
        if dtype == torch.uint8 and not 0 <= index < 256:
            continue
        target = torch.where(mask, call.target, index).to(dtype)
        for reduction in REDUCTIONS:
            ours = replace(call, target=target).run(case.function, reduction=reduction, mask=mask, backend=backend)
            plain = call.run(case.function, reduction=reduction, mask=mask, backend=backend)
            assert torch.equal(ours, plain)
            (gradient,) = torch.autograd.grad(ours.sum(), call.input)
            (expected,) = torch.autograd.grad(plain.sum(), call.input)
            assert torch.equal(gradient, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [case for case in CASES if case.classes], ids=repr)
def test_uint8_labels_mean_the_same_as_int64(case: Case, backend: str) -> None:
    """All 256 of them, whatever ignore_index would be as a byte."""
    logits = torch.log_softmax(torch.randn(256, 300), 1)
    labels = torch.arange(256)
    for ignore_index in (-100, 255, 0, 256, -1, 1000):
        for mask in (None, labels % 2 == 0):
            given = {"ignore_index": ignore_index, "mask": mask, "backend": backend}
            for reduction in REDUCTIONS:
                of_bytes = case.function(logits, labels.to(torch.uint8), reduction=reduction, **given)
                assert torch.equal(of_bytes, case.function(logits, labels, reduction=reduction, **given))
    assert torch.equal(
        case.function(logits, labels.to(torch.uint8), reduction="none", backend=backend) > 0,
        torch.ones(256, dtype=torch.bool),
    )


def _layer_of(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    return F.linear_cross_entropy(logits, torch.eye(logits.shape[1]), target, **options)


OF_CLASSES = pytest.mark.parametrize(
    "function", [F.cross_entropy, F.nll_loss, _layer_of], ids=["cross_entropy", "nll_loss", "linear_cross_entropy"]
)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@OF_CLASSES
def test_uint8_labels_take_the_weights_of_their_classes(function: Any, backend: str) -> None:
    """As many samples as classes: the labels would do for a mask of the weights."""
    logits = torch.log_softmax(torch.randn(4, 4), 1)
    labels, weight = torch.tensor([0, 1, 0, 3]), torch.tensor([1.0, 2.0, 5.0, 11.0])
    for options in (
        {},
        {"mask": torch.tensor([True, True, False, True])},
        {"sample_weight": torch.tensor([1.0, 2.0, 3.0, 4.0])},
        {"on_empty": "zero"},
        {"normalizer": 3.0},
    ):
        for reduction in ("mean", "sum"):
            given = {"weight": weight, "reduction": reduction, "backend": backend, **options}
            assert torch.equal(function(logits, labels.to(torch.uint8), **given), function(logits, labels, **given))


@OF_CLASSES
def test_a_divisor_of_nan_is_in_every_gradient(function: Any) -> None:
    """None of them is divided by anything else."""
    logits = torch.log_softmax(torch.randn(3, 4), 1)
    nan = float("nan")
    mask, sample_weight = torch.ones(3, dtype=torch.bool), torch.tensor([nan, 1.0, 1.0])
    for options in ({"weight": torch.tensor([nan, 1.0, 1.0, 1.0]), "mask": mask}, {"sample_weight": sample_weight}):
        found = []
        for backend in ("auto", "reference"):
            leaf = logits.clone().requires_grad_()
            loss = function(leaf, torch.tensor([0, 1, 2]), backend=backend, **options)
            assert loss.isnan()
            first, again = (torch.autograd.grad(loss, leaf, retain_graph=True)[0] for _ in range(2))
            assert torch.equal(first.isnan(), again.isnan())
            found.append(first.isnan())
        assert torch.equal(*found)
        assert found[0].any(1).all()


def nothing_counts(case: Case, call: Call) -> Iterator[dict[str, Any]]:
    shape = case.loss_shape(call)
    yield {"mask": torch.zeros(shape, dtype=torch.bool)}
    yield {"sample_weight": torch.zeros(shape)}
    yield {"mask": torch.zeros(shape, dtype=torch.bool), "sample_weight": torch.ones(shape)}


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_on_empty(case: Case, variant: str, backend: str) -> None:
    call = case.make(variant, case.shapes[0], torch.float32).leaves()
    for options in nothing_counts(case, call):
        given = {**options, "backend": backend}
        assert call.run(case.function, **given).isnan()
        assert call.run(case.function, on_empty="nan", **given).isnan()
        for reduction in ("mean", "sum"):
            zero = call.run(case.function, on_empty="zero", reduction=reduction, **given)
            assert zero.item() == 0
            (gradient,) = torch.autograd.grad(zero, call.input)
            assert torch.equal(gradient, torch.zeros_like(call.input))
            with pytest.raises(EmptyLossError):
                call.run(case.function, on_empty="raise", reduction=reduction, **given)
        assert call.run(case.function, reduction="sum", **given).item() == 0
        assert call.run(case.function, normalizer=2.0, **given).item() == 0
        assert not call.run(case.function, on_empty="raise", reduction="none", **given).any()
    # Where something counts, on_empty changes nothing.
    for on_empty in ("nan", "zero", "raise"):
        assert torch.equal(
            call.run(case.function, on_empty=on_empty, backend=backend), call.run(case.function, backend=backend)
        )


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_on_empty_without_elements(case: Case, backend: str) -> None:
    for shape in case.shapes:
        call = case.make("plain", shape, torch.float32).leaves()
        if case.loss_shape(call).numel():
            continue
        assert call.run(case.function, backend=backend).isnan()
        zero = call.run(case.function, on_empty="zero", backend=backend)
        assert zero.item() == 0
        zero.backward()
        assert call.input.grad is not None
        assert call.input.grad.shape == call.input.shape
        with pytest.raises(EmptyLossError):
            call.run(case.function, on_empty="raise", backend=backend)


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("name", [case.name for case in CASES if case.classes])
def test_on_empty_when_all_is_ignored(name: str, backend: str) -> None:
    function = BY_NAME[name].function
    logits = torch.log_softmax(torch.randn(3, 4), 1).requires_grad_(True)
    target = torch.full((3,), -100)
    assert function(logits, target, backend=backend).isnan()
    zero = function(logits, target, on_empty="zero", backend=backend)
    (gradient,) = torch.autograd.grad(zero, logits)
    assert zero.item() == 0
    assert torch.equal(gradient, torch.zeros(3, 4))
    with pytest.raises(EmptyLossError):
        function(logits, target, on_empty="raise", backend=backend)
    # A batch whose classes all weigh nothing is empty too.
    weightless = {"weight": torch.tensor([0.0, 1.0, 1.0, 1.0]), "backend": backend}
    assert function(logits, torch.zeros(3, dtype=torch.int64), on_empty="zero", **weightless).item() == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [case for case in CASES if case.any_input], ids=repr)
def test_a_weight_of_zero_keeps_nan(case: Case, backend: str) -> None:
    """What a weight multiplies is still computed: only a mask takes a NaN out."""
    call = case.make("plain", case.shapes[0], torch.float32)
    input = call.input.clone()
    input[0] = torch.nan
    weight = torch.ones(case.loss_shape(call))
    weight[0] = 0
    assert replace(call, input=input).run(case.function, sample_weight=weight, backend=backend).isnan()


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_weight_of_an_ignored_or_masked_sample_is_not_looked_at(case: Case) -> None:
    call = case.make("plain", case.shapes[0], torch.float32)
    shape = case.loss_shape(call)
    mask = torch.ones(shape, dtype=torch.bool)
    mask[0] = False
    weight = torch.where(mask, 0.5, torch.nan)
    for backend in ("auto", "reference"):
        for reduction in REDUCTIONS:
            given = {"mask": mask, "backend": backend, "reduction": reduction}
            dirty = call.run(case.function, sample_weight=weight, **given)
            clean = call.run(case.function, sample_weight=torch.full(shape, 0.5), **given)
            assert torch.equal(dirty, clean)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_normalizer_adds_up_micro_batches(case: Case, backend: str) -> None:
    """Two micro-batches with the divisor of both give the mean, and its gradient, of the whole batch."""
    for variant in case.variants:
        call = case.make(variant, (6, 5), torch.float32).leaves()
        whole = call.run(case.function, backend=backend)
        (expected,) = torch.autograd.grad(whole, call.input)
        wide = call.wide()
        divisor = wide.run(case.textbook)[1].sum().float()

        def part(rows: slice, call: Call = call, divisor: Tensor = divisor) -> Tensor:
            return call.rows(rows).run(case.function, normalizer=divisor, backend=backend)

        parts = part(slice(0, 2)) + part(slice(2, 6))
        (gradient,) = torch.autograd.grad(parts, call.input)
        assert_as_exact(parts, whole.double(), steps=8, scale=1.0 + abs(whole.item()))
        assert_as_exact(gradient, expected.double(), steps=8)


@needs_kernels
class TestExplainDispatch:
    @pytest.mark.parametrize(("case", "variant"), VARIANTS)
    def test_the_kernel_takes_every_option(self, case: Case, variant: str) -> None:
        for dtype in KERNEL_DTYPES:
            call = case.make(variant, case.shapes[0], dtype).leaves()
            for _, options in combinations(case.loss_shape(call), dtype):
                ran = losskit.explain_dispatch(call.run, case.function, **options)
                assert ran.backend == "cpu"
                assert ran.reason.startswith("fused C++ kernel, instruction set ")

    @pytest.mark.parametrize("case", CASES, ids=repr)
    def test_modules_and_reasons(self, case: Case) -> None:
        call = case.make("plain", case.shapes[0], torch.float32)
        assert losskit.explain_dispatch(call.run, case.module()).backend == "cpu"
        ran = losskit.explain_dispatch(call.run, case.module(backend="reference"))
        assert ran == losskit.Dispatch("reference", "backend='reference' was asked for")
        wide = call.wide()
        ran = losskit.explain_dispatch(wide.run, case.function)
        assert ran.backend == "reference"
        assert ran.reason.startswith("the kernel takes float32, bfloat16 or float16, ")

    def test_the_last_call_of_several_and_nesting(self) -> None:
        def two_losses() -> Tensor:
            F.mse_loss(torch.ones(2), torch.ones(2))
            inner = losskit.explain_dispatch(F.l1_loss, torch.ones(2), torch.ones(2), backend="reference")
            assert inner.backend == "reference"
            return F.mse_loss(torch.ones(2), torch.ones(2), backend="cpu")

        assert losskit.explain_dispatch(two_losses).backend == "cpu"

    def test_an_error_leaves_nothing_behind(self) -> None:
        with pytest.raises(ValueError, match="reduction"):
            losskit.explain_dispatch(F.mse_loss, torch.ones(2), torch.ones(2), reduction="")
        with pytest.raises(ValueError, match="ran no loss"):
            losskit.explain_dispatch(abs, -1)


def test_channels_last_and_classes_first_agree() -> None:
    """The kernels walk images as they lie, with every option."""
    for name in ("cross_entropy", "nll_loss"):
        case = BY_NAME[name]
        for variant in case.variants:
            call = case.make(variant, (3, 7, 5, 4), torch.float32)
            for _, options in combinations(case.loss_shape(call), torch.float32):
                straight = call.leaves()
                last = replace(
                    call, input=call.input.contiguous(memory_format=torch.channels_last).requires_grad_(True)
                )
                a, b = straight.run(case.function, **options), last.run(case.function, **options)
                assert_as_exact(b, a.double())
                (x,), (y,) = torch.autograd.grad(a, straight.input), torch.autograd.grad(b, last.input)
                assert_gradient_as_exact(case, call, y, x.double(), floor=float(x.abs().max()))
