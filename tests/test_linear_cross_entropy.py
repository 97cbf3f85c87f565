"""linear_cross_entropy: a linear layer and cross_entropy, in one call and one module."""

import copy
import pickle
import weakref
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
# The last: two rows of five classes at a time.
WAYS: list[dict[str, Any]] = [{}, {"backend": "reference"}, {"workspace": 40}]
each_way = pytest.mark.parametrize("way", WAYS, ids=["all at once", "reference", "in chunks"])


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


@each_way
@pytest.mark.parametrize("dtype", [torch.float64, *KERNEL_DTYPES], ids=dtype_name)
def test_value_and_gradients(dtype: torch.dtype, way: dict[str, Any]) -> None:
    for call in calls(dtype):
        for reduction in REDUCTIONS:
            exact = gradients(call.wide(), torch_function, reduction=reduction)
            eager = gradients(call, torch_function, reduction=reduction)
            ours = gradients(call, F.linear_cross_entropy, reduction=reduction, **way)
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


@each_way
def test_options_are_those_of_cross_entropy(way: dict[str, Any]) -> None:
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
            ours = call.run(F.linear_cross_entropy, **options, **way)
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@each_way
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_row_of_which_nothing_counts_reaches_no_gradient(poison: float, way: dict[str, Any]) -> None:
    """Not the weight's either, where a NaN would meet a gradient of 0."""
    for call in calls():
        loss_shape = torch.Size([6, *call.target.shape[1:-1]])
        mask = torch.ones(loss_shape, dtype=torch.bool)
        mask[1] = mask[4] = False
        clean = gradients(call, F.linear_cross_entropy, mask=mask, **way)
        input = call.input.clone()
        input[1] = input[4] = poison
        dirty = gradients(Call(input, call.target, call.kwargs), F.linear_cross_entropy, mask=mask, **way)
        for with_poison, without in zip(dirty, clean, strict=True):
            torch.testing.assert_close(with_poison, without)
            assert bool(with_poison.isfinite().all())
        assert not dirty[1][[1, 4]].any()
    # The same of a row that is ignored.
    call = map_of_classes()
    clean = gradients(call, F.linear_cross_entropy, **way)
    call.input[1] = poison
    for with_poison, without in zip(gradients(call, F.linear_cross_entropy, **way), clean, strict=True):
        torch.testing.assert_close(with_poison, without)


def test_gradcheck() -> None:
    for call in calls(torch.float64):
        call = call.leaves(0, 1)

        def of(*tensors: Tensor, call: Call = call) -> Tensor:
            return call.with_tensors(*tensors).run(F.linear_cross_entropy)

        assert gradcheck(of, call.wanted())
        assert gradgradcheck(of, call.wanted())


@each_way
def test_second_derivatives_through_the_kernel(way: dict[str, Any]) -> None:
    for call in calls():

        def penalty(call: Call, function: Any, **more: Any) -> tuple[Tensor, ...]:
            call = call.leaves(0, 1)
            first = torch.autograd.grad(call.run(function, **more), call.wanted(), create_graph=True)
            return torch.autograd.grad(sum(one.square().sum() for one in first), call.wanted())

        for ours, exact in zip(
            penalty(call, F.linear_cross_entropy, **way), penalty(call.wide(), torch_function), strict=True
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


# in chunks ------------------------------------------------------------------------------------------------------------


def large(dtype: torch.dtype = torch.float32, target: str = "indices", bias: bool = True) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        "input": torch.randn(37, 24, generator=generator).to(dtype).requires_grad_(),
        "linear_weight": torch.randn(91, 24, generator=generator).to(dtype).requires_grad_(),
    }
    if bias:
        tensors["linear_bias"] = torch.randn(91, generator=generator).to(dtype).requires_grad_()
    if target == "indices":
        tensors["target"] = torch.randint(91, (37,), generator=generator)
        tensors["target"][::5] = -100
    else:
        tensors["target"] = torch.rand(37, 91, generator=generator).softmax(1).to(dtype)
    return tensors


def differentiated(upstream: str, **arguments: Any) -> list[Tensor]:
    leaves = [tensor for tensor in arguments.values() if isinstance(tensor, Tensor) and tensor.requires_grad]
    loss = F.linear_cross_entropy(**arguments)
    generator = torch.Generator().manual_seed(4)
    factor = torch.rand(loss.shape, generator=generator, dtype=torch.float64).to(loss.dtype) if upstream else None
    return [loss.detach(), *torch.autograd.grad(loss, leaves, factor)]


CHUNKED: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"weight": torch.linspace(0.1, 2, 91)},
    {"weight": torch.linspace(0.1, 2, 91), "label_smoothing": 0.2},
    {"sample_weight": torch.linspace(0, 3, 37)},
    {"mask": torch.arange(37) % 3 > 0},
    {"mask": torch.arange(37) < 0, "on_empty": "zero"},
    {"mask": torch.arange(37) < 0},
    {"normalizer": 5.5},
    {"out_dtype": torch.float64},
]


@needs_kernels
@pytest.mark.parametrize("upstream", ["", "random"])
@pytest.mark.parametrize("target", ["indices", "probabilities"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", CHUNKED, ids=lambda options: "-".join(options) or "plain")
def test_any_chunk_gives_the_same(options: dict[str, Any], reduction: str, target: str, upstream: str) -> None:
    if reduction == "none" and (not upstream or "normalizer" in options):
        pytest.skip("single losses have no gradient of their own and no divisor")
    tensors = large(target=target)
    wide = {
        name: t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t
        for name, t in tensors.items()
    }
    exact_options = {name: t.double() if name in ("weight", "sample_weight") else t for name, t in options.items()}
    exact = differentiated(upstream, **wide, **exact_options, reduction=reduction, backend="reference")
    whole = differentiated(upstream, **tensors, **options, reduction=reduction, backend="reference")
    for rows in (1, 2, 12, 37):
        ours = differentiated(upstream, **tensors, **options, reduction=reduction, workspace=rows * 91 * 4)
        for mine, true, theirs in zip(ours, exact, whole, strict=True):
            assert mine.dtype == theirs.dtype
            assert_as_exact(mine, true.to(torch.float64), theirs, steps=8, scale=float(true.nan_to_num().abs().max()))


@needs_kernels
@pytest.mark.parametrize("dtype", HALVES, ids=dtype_name)
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_gradients_of_half_precision_are_rounded_once(dtype: torch.dtype, scale: float) -> None:
    """Added up over chunks in float32, and also under a loss scale."""
    tensors = large(dtype)
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    wide = {
        name: t.detach().float().requires_grad_(t.requires_grad) if t.is_floating_point() else t
        for name, t in tensors.items()
    }
    loss = F.linear_cross_entropy(**tensors, workspace=5 * 91 * 4, reduction="sum")
    exact = F.linear_cross_entropy(**wide, reduction="sum", backend="reference")
    expected = torch.autograd.grad(scale * exact, [tensor for tensor in wide.values() if tensor.requires_grad])
    for mine, true in zip(torch.autograd.grad(scale * loss, leaves), expected, strict=True):
        assert mine.dtype == dtype
        # One rounding of the largest, and what rounding the loss's own factor costs.
        assert float((mine.double() - true).abs().max()) <= 0.51 * torch.finfo(dtype).eps * float(true.abs().max())


@needs_kernels
@pytest.mark.parametrize(
    "frozen", [("input",), ("linear_weight",), ("input", "linear_bias"), ("linear_weight", "linear_bias")]
)
def test_what_is_frozen_gets_no_gradient(frozen: tuple[str, ...]) -> None:
    tensors = {name: t.detach().requires_grad_(t.requires_grad and name not in frozen) for name, t in large().items()}
    for ours, whole in zip(
        differentiated("random", **tensors, workspace=5 * 91 * 4),
        differentiated("random", **tensors, backend="reference"),
        strict=True,
    ):
        torch.testing.assert_close(ours, whole)


@needs_kernels
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_second_backward_and_other_factors(reduction: str) -> None:
    tensors = large()
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    loss = F.linear_cross_entropy(**tensors, reduction=reduction, workspace=4 * 91 * 4)
    one = torch.ones_like(loss)
    first = torch.autograd.grad(loss, leaves, one, retain_graph=True)
    for factor in (1.0, -3.0, 0.0):
        for again, before in zip(
            torch.autograd.grad(loss, leaves, factor * one, retain_graph=True), first, strict=True
        ):
            torch.testing.assert_close(again, factor * before)


@needs_kernels
def test_the_scores_never_exist_as_a_whole() -> None:
    """Beyond the gradients there is a workspace, however many rows and classes there are."""
    for rows, classes, workspace in ((4096, 1000, 1 << 20), (512, 20000, 1 << 21), (3000, 500, 1 << 18)):
        input = torch.randn(rows, 16, requires_grad=True)
        linear_weight = torch.randn(classes, 16, requires_grad=True)
        target = torch.randint(classes, (rows,))
        losskit.empty_cache()
        before = losskit.memory_stats()["active_bytes"]
        loss = F.linear_cross_entropy(input, linear_weight, target, label_smoothing=0.1, workspace=workspace)
        held = losskit.memory_stats()["active_bytes"] - before
        gradients = 4 * (input.numel() + linear_weight.numel())
        assert held <= 1.05 * gradients + 8192
        # The buffers that were used and are idle again.
        assert losskit.memory_stats()["cached_bytes"] <= 1.3 * workspace
        loss.backward()
        # Before the next cache is looked at.
        del loss, input, linear_weight


@needs_kernels
def test_chunks_are_told() -> None:
    tensors = large()
    seen = losskit.explain_dispatch(F.linear_cross_entropy, **tensors, workspace=10 * 91 * 4)
    # 29 of the 37 rows count, in chunks of at most ten.
    assert seen == losskit.Dispatch("cpu", f"{cpu.description()}, 3 chunks of 10 rows")


@pytest.mark.parametrize(
    ("size", "rows"),
    [(91 * 4 * 10, 10), ("4KiB", 10), ("4 kB", 10), ("1MiB", 29), (1, 1)],
)
@needs_kernels
def test_workspace(size: int | str, rows: int) -> None:
    reason = losskit.explain_dispatch(F.linear_cross_entropy, **large(), workspace=size).reason
    assert reason.endswith(f" of {rows} rows")


@needs_kernels
def test_what_is_copied_of_a_row_fits_into_the_workspace_too() -> None:
    input, linear_weight, indices = torch.randn(100, 40), torch.randn(5, 40), torch.randint(5, (100,))
    some = {"mask": torch.arange(100) < 99}

    def rows(input: Tensor, linear_weight: Tensor, target: Tensor, workspace: int, **options: Any) -> str:
        dispatch = losskit.explain_dispatch(
            F.linear_cross_entropy, input, linear_weight, target, workspace=workspace, **options
        )
        return dispatch.reason.split(", ")[-1]

    assert rows(input, linear_weight, indices, 400) == "5 chunks of 20 rows"
    assert rows(input, linear_weight, indices, 1600, **some) == "10 chunks of 10 rows"
    assert rows(input.half(), linear_weight.half(), indices, 1600) == "10 chunks of 10 rows"
    # 40 classes now.
    wide, input, linear_weight = torch.rand(100, 40).softmax(1), input[:, :5], linear_weight.t()
    assert rows(input, linear_weight, wide, 1600) == "10 chunks of 10 rows"
    for copied in (wide.double(), wide.half(), wide.t().contiguous().t(), wide[:1].expand(100, 40)):
        assert rows(input, linear_weight, copied, 3200) == "10 chunks of 10 rows"
    assert rows(input, linear_weight, wide, 3200, **some) == "10 chunks of 10 rows"


@needs_kernels
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_probabilities_that_lie_in_any_order(reduction: str) -> None:
    tensors = large(target="probabilities")
    target = tensors.pop("target")
    for lying in (target.t().contiguous().t(), target[:1].expand(37, 91), target.double().t().contiguous().t()):
        ours = differentiated("random", **tensors, target=lying, reduction=reduction, workspace=5 * 91 * 8)
        plain = differentiated("random", **tensors, target=lying.float().contiguous(), reduction=reduction)
        for mine, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(mine, other.to(mine.dtype), rtol=1e-5, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("target", ["indices", "probabilities"])
def test_a_loss_that_is_kept_does_not_keep_its_tensors(target: str, reduction: str) -> None:
    tensors = large(target=target)
    tensors = {name: tensor + 0 for name, tensor in tensors.items()}
    loss = F.linear_cross_entropy(**tensors, reduction=reduction, workspace=5 * 91 * 4)
    loss.sum().backward()
    watched = {name: weakref.ref(tensor) for name, tensor in tensors.items()}
    tensors.clear()
    assert [name for name, reference in watched.items() if reference() is not None] == []
    assert loss.grad_fn is not None


@each_way
def test_weights_that_cancel_divide_as_one_sum(way: dict[str, Any]) -> None:
    """The sum over 0 and not sums over 0, whose infinities would cancel."""
    call = CASE.make("plain", (6, 4), torch.float32)
    weight = torch.tensor([1.0, -1.0, 2.0, -2.0, 1.0, -1.0])
    single = call.run(F.linear_cross_entropy, reduction="none", sample_weight=weight, **way)
    loss = call.run(F.linear_cross_entropy, sample_weight=weight, **way)
    assert torch.equal(loss, single.sum() / 0.0)


@each_way
@pytest.mark.parametrize("dtype", [torch.float64, *KERNEL_DTYPES], ids=dtype_name)
def test_no_features(dtype: torch.dtype, way: dict[str, Any]) -> None:
    """The scores are the bias, or 0."""
    input, linear_weight = torch.zeros(3, 0, dtype=dtype), torch.zeros(5, 0, dtype=dtype, requires_grad=True)
    target, bias = torch.tensor([0, 4, 2]), torch.linspace(0, 1, 5).to(dtype).requires_grad_()
    plain = F.linear_cross_entropy(input, linear_weight, target, **way)
    torch.testing.assert_close(plain, torch.tensor(5.0).log().to(dtype))
    loss = F.linear_cross_entropy(input, linear_weight, target, linear_bias=bias, **way)
    torch.testing.assert_close(loss, F.cross_entropy(bias.expand(3, 5), target))
    assert [tuple(one.shape) for one in torch.autograd.grad(loss, [linear_weight, bias])] == [(5, 0), (5,)]


@pytest.mark.parametrize("size", [0, -1, "", "0MiB", "1.5GiB", "12 apples", True, 1.5, None, "9" * 5000])
def test_a_wrong_workspace(size: Any) -> None:
    with pytest.raises(
        ValueError, match=r"linear_cross_entropy: workspace must be a positive number of bytes, or a text such as "
    ):
        F.linear_cross_entropy(**large(), workspace=size)


@needs_kernels
def test_a_class_index_out_of_range_in_the_last_chunk() -> None:
    tensors = large()
    tensors["target"][36] = 91
    with pytest.raises(IndexError, match=r"^linear_cross_entropy: 1 of 37 targets lies? outside \[0, 91\)"):
        F.linear_cross_entropy(**tensors, workspace=91 * 4)


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
