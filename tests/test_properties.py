"""What holds for any numbers: invariances, and options as what they stand for."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from assertions import assert_as_exact
from cases import BY_NAME, CASES, Call, Case
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from losskit import functional as F
from losskit.kernels import cpu

BACKENDS = ("cpu", "reference") if cpu.available() else ("reference",)
DTYPES = (torch.float32, torch.float64, torch.bfloat16)

seeds = st.integers(0, 2**32 - 1)
rows, columns = st.integers(1, 9), st.integers(1, 40)


@st.composite
def calls(draw: st.DrawFn, case: Case, dtype: torch.dtype | None = torch.float32, plain: bool = False) -> Call:
    """Arguments of any variant, of (rows, columns)."""
    variant = "plain" if plain else draw(st.sampled_from(sorted(case.variants)))
    kind = dtype if dtype is not None else draw(st.sampled_from(DTYPES))
    return case.make(variant, (draw(rows), draw(columns)), kind, seed=draw(seeds))


def backend_of(call: Call, backend: str) -> str:
    return "auto" if call.input.dtype == torch.float64 else backend


def random(call: Call, shape: torch.Size, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(call.input.dtype)


def peak(case: Case, call: Call) -> float:
    """The largest single loss: the scale of a sum's rounding."""
    wide = call.wide()
    losses = wide.run(case.textbook)[0]
    return max(float(losses.abs().max()), 1e-30) if losses.numel() else 1.0


def assert_equal_up_to_rounding(ours: Tensor, other: Tensor, scale: float, steps: float = 16) -> None:
    assert_as_exact(ours, other.detach().double(), steps=steps, scale=scale)


each_case = pytest.mark.parametrize("case", CASES, ids=repr)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@each_backend
@each_case
@given(data=st.data())
def test_order_of_the_batch(case: Case, backend: str, data: st.DataObject) -> None:
    call = data.draw(calls(case, dtype=None))
    backend = backend_of(call, backend)
    order = torch.tensor(data.draw(st.permutations(range(len(call.input)))))
    plain = call.leaves()
    losses = plain.run(case.function, reduction="none", backend=backend)
    turned = plain.rows(order)
    again = turned.run(case.function, reduction="none", backend=backend)
    assert_equal_up_to_rounding(again, losses[order], peak(case, call))
    mean, other = plain.run(case.function, backend=backend), turned.run(case.function, backend=backend)
    if mean.isnan():
        assert other.isnan()
        return
    assert_equal_up_to_rounding(other, mean, peak(case, call))
    # Gradients go to the rows that they belong to.
    (a,), (b,) = torch.autograd.grad(mean, plain.input), torch.autograd.grad(other, plain.input)
    assert_equal_up_to_rounding(b, a, float(a.abs().max()))


@each_backend
@each_case
@given(data=st.data())
def test_mean_times_divisor_is_sum(case: Case, backend: str, data: st.DataObject) -> None:
    call = data.draw(calls(case, dtype=None))
    backend = backend_of(call, backend)
    wide = call.wide()
    counts = wide.run(case.textbook)[1].sum()
    options = {"reduction": "sum", "backend": backend, "out_dtype": torch.float64}
    total = call.run(case.function, **options)
    mean = call.run(case.function, **{**options, "reduction": "mean"})
    losses = call.run(case.function, **{**options, "reduction": "none"})
    scale = peak(case, call)
    eps = torch.finfo(torch.float64 if call.input.dtype == torch.float64 else torch.float32).eps
    room = 16 * eps * scale * max(1, losses.numel())
    assert abs(float(total - losses.sum())) <= room
    if counts == 0:
        assert mean.isnan()
    else:
        assert abs(float(mean * counts - total)) <= room
        by_normalizer = call.run(case.function, **options, normalizer=float(counts))
        assert abs(float(by_normalizer - mean)) <= room / float(counts)


@each_backend
@each_case
@given(data=st.data())
def test_a_mask_drops(case: Case, backend: str, data: st.DataObject) -> None:
    """Masking rows is leaving them out, in value and gradient."""
    call = data.draw(calls(case)).leaves()
    kept = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(call.input), max_size=len(call.input))))
    assume(bool(kept.any()))
    shape = case.loss_shape(call)
    mask = kept if len(shape) == 1 else kept[:, None].expand(shape)
    scale = peak(case, call)
    for reduction in ("mean", "sum"):
        few = call.rows(kept)
        masked = call.run(case.function, mask=mask, reduction=reduction, backend=backend)
        dropped = few.run(case.function, reduction=reduction, backend=backend)
        if dropped.isnan():
            assert masked.isnan()
            continue
        assert_equal_up_to_rounding(masked, dropped, max(scale, float(dropped.detach().abs())))
        (a,), (b,) = torch.autograd.grad(masked, call.input), torch.autograd.grad(dropped, call.input)
        assert_equal_up_to_rounding(a, b, max(float(b.abs().max()), 1e-30))
        assert not bool(a[~kept].any())


@each_backend
@each_case
@given(data=st.data())
def test_a_weight_repeats(case: Case, backend: str, data: st.DataObject) -> None:
    """A whole sample weight stands for as many copies of the row."""
    call = data.draw(calls(case)).leaves()
    copies = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(call.input), max_size=len(call.input))))
    assume(bool(copies.any()))
    shape = case.loss_shape(call)
    weight = copies.float() if len(shape) == 1 else copies.float()[:, None].expand(shape)
    scale = peak(case, call)
    for reduction in ("mean", "sum"):
        many = call.rows(torch.repeat_interleave(torch.arange(len(copies)), copies))
        weighted = call.run(case.function, sample_weight=weight, reduction=reduction, backend=backend)
        repeated = many.run(case.function, reduction=reduction, backend=backend)
        if repeated.isnan():
            assert weighted.isnan()
            continue
        assert_equal_up_to_rounding(weighted, repeated, 3 * max(scale, float(repeated.detach().abs())))
        (a,), (b,) = torch.autograd.grad(weighted, call.input), torch.autograd.grad(repeated, call.input)
        assert_equal_up_to_rounding(a, b, max(float(b.abs().max()), 1e-30))


@each_backend
@each_case
@given(data=st.data())
def test_a_factor_goes_through(case: Case, backend: str, data: st.DataObject) -> None:
    """sum is linear in the sample weights, mean does not see a factor common to all."""
    call = data.draw(calls(case))
    weight = random(call, case.loss_shape(call), data.draw(seeds)) + 0.5
    factor = data.draw(st.sampled_from([0.25, 2.0, 8.0]))
    one = {"backend": backend, "sample_weight": weight}
    other = {"backend": backend, "sample_weight": factor * weight}
    # Powers of two change no digit.
    total = call.run(case.function, reduction="sum", **one)
    assert torch.equal(call.run(case.function, reduction="sum", **other), factor * total)
    mean, scaled = call.run(case.function, **one), call.run(case.function, **other)
    assert torch.equal(mean, scaled) or (mean.isnan() and scaled.isnan())


@each_case
@given(data=st.data())
def test_bounds(case: Case, data: st.DataObject) -> None:
    call = data.draw(calls(case, dtype=None))
    losses = call.run(case.function, reduction="none")
    assert not case.nonnegative or bool((losses >= 0).all())
    largest, smallest = losses.double().max(), losses.double().min()
    if "weight" in call.kwargs or "ignore_index" in call.kwargs or "pos_weight" in call.kwargs:
        return
    mean = call.run(case.function, out_dtype=torch.float64).double()
    room = 8 * torch.finfo(call.input.dtype).eps * float(losses.double().abs().max())
    assert float(smallest) - room <= float(mean) <= float(largest) + room


@pytest.mark.parametrize("case", [case for case in CASES if case.convex], ids=repr)
@given(data=st.data())
def test_convex_along_a_segment(case: Case, data: st.DataObject) -> None:
    """In the logits or the prediction; the loss between two points lies below the chord."""
    call = data.draw(calls(case))
    share = data.draw(st.floats(0, 1))
    if case.name == "binary_cross_entropy":
        end = 0.05 + 0.9 * random(call, call.input.shape, data.draw(seeds))
    else:
        end = call.input + 4 * (random(call, call.input.shape, data.draw(seeds)) - 0.5)
    between = (1 - share) * call.input + share * end
    start, stop, middle = (
        replace(call, input=point).run(case.function, reduction="sum", out_dtype=torch.float64)
        for point in (call.input, end, between)
    )
    slope = float(between.abs().max()) + 1
    room = 64 * torch.finfo(torch.float32).eps * (float(start.abs() + stop.abs()) + slope * call.input.numel())
    assert float(middle) <= (1 - share) * float(start) + share * float(stop) + room


@each_case
@given(data=st.data())
def test_gradient_is_the_slope(case: Case, data: st.DataObject) -> None:
    """The change along a small step, in float64, is the gradient of the float32 kernel times the step."""
    call = data.draw(calls(case, plain=True))
    direction = random(call, call.input.shape, data.draw(seeds)).double() - 0.5
    leaf = call.leaves()
    (gradient,) = torch.autograd.grad(leaf.run(case.function, reduction="sum"), leaf.input)
    wide, step = call.wide(), 1e-5
    ahead, behind = (
        replace(wide, input=wide.input + sign * step * direction).run(case.function, reduction="sum")
        for sign in (1, -1)
    )
    slope = float(ahead - behind) / (2 * step)
    # Losses with corners have one slope on each side of them; the step crosses a corner of few elements at most.
    near = case.symmetric and bool(((wide.input - wide.target).abs() < 2 * step).any())
    assume(not near)
    room = 1e-5 * float(direction.abs().sum()) * max(1.0, float(gradient.abs().max()))
    assert abs(float((gradient.double() * direction).sum()) - slope) <= room


# Losses of scores against a class.

class_cases = pytest.mark.parametrize("case", [case for case in CASES if case.classes], ids=repr)


@each_backend
@given(data=st.data())
def test_shift_of_the_logits(backend: str, data: st.DataObject) -> None:
    """A number added to all logits of a row changes nothing."""
    case = BY_NAME["cross_entropy"]
    call = data.draw(calls(case)).leaves()
    shift = torch.tensor(
        data.draw(st.lists(st.integers(-4096, 4096), min_size=len(call.input), max_size=len(call.input)))
    )
    # Logits of few digits, so that adding the shift rounds none away.
    logits = (call.input.detach() * 64).round() / 64
    plain, shifted = replace(call, input=logits).leaves(), replace(call, input=logits + shift[:, None]).leaves()
    for reduction in ("none", "sum"):
        a = plain.run(case.function, reduction=reduction, backend=backend)
        b = shifted.run(case.function, reduction=reduction, backend=backend)
        assert_equal_up_to_rounding(b, a, max(peak(case, call), float(a.detach().abs().max())))
        (x,), (y,) = torch.autograd.grad(a.sum(), plain.input), torch.autograd.grad(b.sum(), shifted.input)
        assert_equal_up_to_rounding(y, x, max(float(x.abs().max()), 1e-7))


@each_backend
@class_cases
@given(data=st.data())
def test_order_of_the_classes(case: Case, backend: str, data: st.DataObject) -> None:
    call = data.draw(calls(case)).leaves()
    classes = call.input.shape[1]
    order = torch.tensor(data.draw(st.permutations(range(classes))))
    place = torch.argsort(order)
    if call.target.is_floating_point():
        target = call.target[:, order]
    else:
        outside = call.target.long() == call.kwargs.get("ignore_index", -100)
        target = torch.where(outside, call.target, place[torch.where(outside, 0, call.target).long()])
        target = target.to(call.target.dtype)
    kwargs = dict(call.kwargs)
    if "weight" in kwargs:
        kwargs["weight"] = kwargs["weight"][order]
    turned = Call(call.input[:, order], target, kwargs)
    losses = call.run(case.function, reduction="none", backend=backend)
    other = turned.run(case.function, reduction="none", backend=backend)
    assert_equal_up_to_rounding(other, losses, peak(case, call))
    (a,), (b,) = torch.autograd.grad(losses.sum(), call.input), torch.autograd.grad(other.sum(), call.input)
    assert_equal_up_to_rounding(b, a, max(float(a.abs().max()), 1e-7))


@each_backend
@given(data=st.data())
def test_gradients_of_a_row_add_up_to_zero(backend: str, data: st.DataObject) -> None:
    """Because of the shift; and without weights no element leaves [−1, 1]."""
    call = data.draw(calls(BY_NAME["cross_entropy"], plain=True)).leaves()
    total = call.run(F.cross_entropy, reduction="sum", backend=backend)
    (gradient,) = torch.autograd.grad(total, call.input)
    assert float(gradient.double().sum(1).abs().max()) <= 4e-7 * math.sqrt(call.input.shape[1])
    assert float(gradient.abs().max()) <= 1


@given(data=st.data())
def test_indices_are_one_hot_probabilities(data: st.DataObject) -> None:
    case = BY_NAME["cross_entropy"]
    call = data.draw(calls(case, plain=True))
    smoothing = data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    one_hot = torch.nn.functional.one_hot(call.target, call.input.shape[1]).float()
    by_index = call.run(case.function, reduction="none", label_smoothing=smoothing)
    by_share = replace(call, target=one_hot).run(case.function, reduction="none", label_smoothing=smoothing)
    assert_equal_up_to_rounding(by_share, by_index, max(peak(case, call), float(by_index.max())))


@each_backend
@given(data=st.data())
def test_cross_entropy_is_log_softmax_and_nll(backend: str, data: st.DataObject) -> None:
    variant = data.draw(st.sampled_from(["plain", "weight", "ignore"]))
    call = BY_NAME["cross_entropy"].make(
        variant, (data.draw(rows), data.draw(columns)), torch.float32, data.draw(seeds)
    )
    losses = call.run(F.cross_entropy, reduction="none", backend=backend)
    log_probs = torch.log_softmax(call.input.double(), 1).float()
    other = replace(call, input=log_probs).run(F.nll_loss, reduction="none", backend=backend)
    assert_equal_up_to_rounding(other, losses, max(peak(BY_NAME["cross_entropy"], call), float(log_probs.abs().max())))


# Losses of one number against another.


@pytest.mark.parametrize("case", [case for case in CASES if case.symmetric], ids=repr)
@given(data=st.data())
def test_symmetry_and_zero(case: Case, data: st.DataObject) -> None:
    call = data.draw(calls(case, dtype=None))
    losses = call.run(case.function, reduction="none")
    swapped = replace(call, input=call.target, target=call.input).run(case.function, reduction="none")
    assert torch.equal(losses, swapped)
    same = replace(call, target=call.input.clone()).leaves()
    loss = same.run(case.function, reduction="sum")
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, same.input)[0].any()


@given(data=st.data())
def test_huber_is_smooth_l1_times_delta(data: st.DataObject) -> None:
    call = data.draw(calls(BY_NAME["huber_loss"], plain=True))
    delta = data.draw(st.sampled_from([0.25, 0.5, 1.0, 4.0]))
    huber: Any = call.run(F.huber_loss, delta=delta, reduction="none")
    smooth = call.run(F.smooth_l1_loss, beta=delta, reduction="none")
    assert_equal_up_to_rounding(huber, delta * smooth, max(float(huber.max()), 1e-30))


@given(data=st.data())
def test_bce_of_a_certain_target_is_a_class_of_two(data: st.DataObject) -> None:
    """Binary cross entropy of x is cross entropy of the logits (0, x)."""
    call = data.draw(calls(BY_NAME["binary_cross_entropy_with_logits"], plain=True))
    yes = (call.target > 0.5).float()
    binary = F.binary_cross_entropy_with_logits(call.input, yes, reduction="none")
    logits = torch.stack([torch.zeros_like(call.input), call.input], 1)
    classes = F.cross_entropy(logits, yes.long(), reduction="none")
    assert_equal_up_to_rounding(binary, classes, max(float(classes.max()), 1.0))
