"""z_loss, softcap, logit_scale and return_stats of cross_entropy and linear_cross_entropy; shift and leading shapes."""

import copy
import pickle
from typing import Any

import pytest
import torch
from assertions import assert_as_exact, assert_same_bits
from cases import HALVES, KERNEL_DTYPES, REDUCTIONS, dtype_name
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import losskit
from losskit import functional as F
from losskit.core.scores import ClassStats
from losskit.errors import BackendError, LosskitRuntimeError, LosskitTypeError, LosskitValueError
from losskit.kernels import cpu

needs_kernels = pytest.mark.skipif(not cpu.available(), reason=cpu.unavailable_reason())

OPTIONS: list[dict[str, Any]] = [
    {"z_loss": 1e-2},
    {"softcap": 3.0},
    {"logit_scale": -0.5},
    {"z_loss": 0.1, "softcap": 2.0, "logit_scale": 1.5},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=["z", "cap", "scale", "all"])
SHAPES = [(7,), (6, 5), (3, 300), (2, 2500), (2, 4, 3), (2, 1, 5), (2, 5, 3, 4), (4, 1)]


def textbook(input: Tensor, target: Tensor, z_loss: float = 0, softcap: float = 0, logit_scale: float = 1, **rest: Any):
    """The loss of each sample with torch's own functions."""
    scores = input * logit_scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    class_dim = 1 if input.ndim > 1 else 0
    lse = torch.logsumexp(scores, class_dim)
    if target.is_floating_point():
        counted = torch.ones_like(lse)
    else:
        counted = (target != rest.get("ignore_index", -100)).to(lse.dtype)
    return nn.functional.cross_entropy(scores, target, reduction="none", **rest) + z_loss * counted * lse**2


def arguments(shape: tuple[int, ...], kind: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    input = 4 * torch.randn(shape, generator=generator)
    classes, dim = (shape[0], 0) if len(shape) == 1 else (shape[1], 1)
    if kind == "probabilities":
        return input, torch.randn(shape, generator=generator).softmax(dim)
    target = torch.randint(classes, shape[:dim] + shape[dim + 1 :], generator=generator)
    if target.ndim:
        target.view(-1)[0] = -100
    return input, target


def value_and_gradient(function: Any, input: Tensor, target: Tensor, **more: Any) -> tuple[Tensor, Tensor]:
    leaf = input.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    loss = function(leaf, target, **more)
    upstream = torch.randn(loss.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return loss.detach(), torch.autograd.grad(loss, leaf, upstream.to(loss.dtype))[0]


@each_option
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, *KERNEL_DTYPES], ids=dtype_name)
def test_value_and_gradient(dtype: torch.dtype, backend: str, kind: str, options: dict[str, Any]) -> None:
    for shape in SHAPES:
        for smoothing in (0.0, 0.2):
            input, target = arguments(shape, kind)
            input = input.to(dtype)
            target = target.to(dtype) if target.is_floating_point() else target
            wide = target.double() if target.is_floating_point() else target
            more = {"label_smoothing": smoothing, **options}
            exact = value_and_gradient(textbook, input.double(), wide, **more)
            eager = value_and_gradient(textbook, input, target, **more)
            ours = value_and_gradient(F.cross_entropy, input, target, reduction="none", backend=backend, **more)
            # Rounding a score moves the loss and its gradient by as much, however small they are.
            largest = float((input.double() * options.get("logit_scale", 1.0)).abs().max())
            for mine, true, theirs in zip(ours, exact, eager, strict=True):
                assert mine.dtype == dtype
                assert_as_exact(mine, true, theirs, steps=8, scale=max(largest, float(true.abs().max())))


@needs_kernels
@each_option
def test_a_kernel_computes_them(options: dict[str, Any]) -> None:
    for shape in SHAPES:
        for kind in ("indices", "probabilities"):
            input, target = arguments(shape, kind)
            for reduction in REDUCTIONS:
                F.cross_entropy(input, target, reduction=reduction, backend="cpu", **options)


@each_option
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_reductions_weights_and_masks(backend: str, options: dict[str, Any]) -> None:
    input, target = arguments((9, 6), "indices")
    generator = torch.Generator().manual_seed(4)
    weight, sample_weight = torch.rand(6, generator=generator), torch.rand(9, generator=generator)
    mask = torch.arange(9) != 4
    each = textbook(input.double(), target, weight=weight.double(), **options) * sample_weight * mask
    counts = weight.double()[target.clamp(min=0)] * (target != -100) * mask * sample_weight
    more = {"weight": weight, "sample_weight": sample_weight, "mask": mask, "backend": backend, **options}
    expected = {"none": each, "sum": each.sum(), "mean": each.sum() / counts.sum()}
    for reduction, exact in expected.items():
        assert_as_exact(F.cross_entropy(input, target, reduction=reduction, **more), exact, steps=8)
    assert_as_exact(F.cross_entropy(input, target, normalizer=7.0, **more), each.sum() / 7, steps=8)


@needs_kernels
@each_option
def test_layouts_give_the_same(options: dict[str, Any]) -> None:
    input, target = arguments((2, 5, 3, 4), "indices")
    expected = value_and_gradient(F.cross_entropy, input, target, backend="cpu", **options)
    for other in (input.contiguous(memory_format=torch.channels_last), input.flip(0).flip(0), input.mT.contiguous().mT):
        for mine, same in zip(
            value_and_gradient(F.cross_entropy, other, target, backend="cpu", **options), expected, strict=True
        ):
            torch.testing.assert_close(mine, same, rtol=1e-6, atol=1e-7)


@needs_kernels
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=dtype_name)
@pytest.mark.parametrize("inplace", [False, True])
def test_the_slope_of_a_cap_has_all_its_digits(inplace: bool, dtype: torch.dtype) -> None:
    # At 30 the tanh of the last two rounds to 1, of which no difference can be taken.
    values = torch.tensor([-500.0, -20.0, -1.0, 0.0, 3.0, 40.0, 200.0, 400.0])
    input = torch.stack([values, values], 1).to(dtype).requires_grad_()
    target = torch.zeros(8, dtype=torch.long)
    loss = F.cross_entropy(input * 1, target, reduction="sum", softcap=30.0, inplace_backward=inplace, backend="cpu")
    loss.backward()
    decay = torch.exp(-2 * values.double().abs() / 30)
    slope = 4 * decay / (1 + decay) ** 2
    for column, share in enumerate((-0.5, 0.5)):
        ratio = input.grad[:, column].double() / (share * slope)
        # The least of float16 is 6e-8.
        kept = slope > 1e-3 if dtype == torch.float16 else slope > 0
        assert_as_exact(ratio[kept].to(dtype), torch.ones_like(ratio)[kept], steps=64 if dtype == torch.float32 else 2)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("options", [{}, {"z_loss": 0.1}])
def test_what_costs_nothing_and_what_is_undefined(options: dict[str, Any], backend: str) -> None:
    inf, nan = float("inf"), float("nan")
    input = torch.tensor([[-inf, 1.0], [nan, 1.0], [inf, 1.0], [-inf, -inf]])
    target, given = torch.zeros(4, dtype=torch.long), {"reduction": "none", "backend": backend, **options}
    free = F.cross_entropy(input, target, torch.tensor([0.0, 1.0]), **given)
    assert free.isnan().tolist() == [False, True, True, True]
    assert free[0] == torch.tensor(options.get("z_loss", 0.0))
    # All of it is smoothing: half of the loss is that of the class that cannot be.
    assert F.cross_entropy(input[:1], target[:1], label_smoothing=1.0, **given).tolist() == [inf]


@each_option
def test_derivatives_of_any_order(options: dict[str, Any]) -> None:
    input, target = arguments((4, 3), "indices")
    input = input.double().requires_grad_()

    def loss(input: Tensor) -> Tensor:
        value: Tensor = F.cross_entropy(input, target, label_smoothing=0.1, **options)
        return value

    assert gradcheck(loss, input)
    assert gradgradcheck(loss, input)
    single = input.detach().float().requires_grad_()
    (first,) = torch.autograd.grad(loss(single), single, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), single)
    (first64,) = torch.autograd.grad(loss(input), input, create_graph=True)
    (second64,) = torch.autograd.grad(first64.square().sum(), input)
    assert_as_exact(second, second64, steps=32)


@each_option
def test_transforms_and_compile(options: dict[str, Any]) -> None:
    input, target = arguments((4, 3), "indices")

    def loss(input: Tensor) -> Tensor:
        value: Tensor = F.cross_entropy(input, target, **options)
        return value

    value, gradient = value_and_gradient(lambda input, _: loss(input), input, target)
    expected = torch.autograd.functional.jacobian(loss, input)
    torch.testing.assert_close(torch.func.grad(loss)(input), expected)
    torch.testing.assert_close(torch.func.vmap(loss)(input.expand(2, 4, 3)), value.expand(2))
    compiled = torch.compile(lambda input, _: loss(input), fullgraph=True)
    for mine, same in zip(value_and_gradient(compiled, input, target), (value, gradient), strict=True):
        torch.testing.assert_close(mine, same)


@needs_kernels
def test_in_place() -> None:
    input, target = arguments((5, 7), "indices")
    expected = value_and_gradient(F.cross_entropy, input, target, z_loss=0.1, softcap=2.0)
    leaf = input.clone().requires_grad_()
    logits = leaf * 1
    loss = F.cross_entropy(logits, target, z_loss=0.1, softcap=2.0, inplace_backward=True)
    loss.backward(torch.randn((), generator=torch.Generator().manual_seed(2), dtype=torch.float64).float())
    torch.testing.assert_close(loss.detach(), expected[0])
    torch.testing.assert_close(leaf.grad, expected[1])
    image, places = arguments((2, 3, 4), "indices")
    with pytest.raises(LosskitRuntimeError, match="neighbours"):
        F.cross_entropy(image.requires_grad_() * 1, places, z_loss=0.1, inplace_backward=True)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_what_is_not_finite(backend: str) -> None:
    inf, nan = float("inf"), float("nan")
    input = torch.tensor([[1.0, -inf, 2.0], [nan, 0.0, 1.0], [inf, 0.0, 1.0], [-inf, -inf, -inf], [1.0, 2.0, 3.0]])
    target = torch.tensor([0, 0, 1, 2, -100])
    value, gradient = value_and_gradient(
        F.cross_entropy, input, target, reduction="none", z_loss=0.5, softcap=None, backend=backend
    )
    assert value.isnan().tolist() == [False, True, True, True, False]
    assert value[4] == 0
    assert gradient[0].isfinite().all()
    assert gradient[4].tolist() == [0, 0, 0]
    lse = torch.logsumexp(torch.tensor([1.0, 2.0]), 0)
    torch.testing.assert_close(value[0], lse - 1 + 0.5 * lse**2)
    # A cap is what no score passes, infinite or not.
    capped = F.cross_entropy(input[[0, 2]], target[[0, 2]], reduction="none", softcap=2.0, backend=backend)
    exact = textbook(input[[0, 2]].double(), target[[0, 2]], softcap=2.0)
    assert_as_exact(capped, exact, steps=8)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_large_offset_keeps_the_digits(backend: str) -> None:
    input, target = arguments((4, 2000), "indices")
    # Multiples of a power of two: adding the offset rounds nothing.
    input = (input * 64).round() / 64 + 4096
    exact = value_and_gradient(textbook, input.double(), target, z_loss=1e-6)
    ours = value_and_gradient(F.cross_entropy, input, target, z_loss=1e-6, reduction="none", backend=backend)
    eager = value_and_gradient(textbook, input, target, z_loss=1e-6)
    for mine, true, theirs in zip(ours, exact, eager, strict=True):
        assert_as_exact(mine, true, theirs)


# return_stats


def expected_stats(scores: Tensor, target: Tensor, counted: Tensor) -> dict[str, Tensor]:
    class_dim = 1 if scores.ndim > 1 else 0
    log_p = scores.log_softmax(class_dim)
    if target.is_floating_point():
        log_prob, label = (log_p * target).sum(class_dim), target.argmax(class_dim)
    else:
        label = torch.where(counted, target, 0)
        log_prob = log_p.gather(class_dim, label.unsqueeze(class_dim)).squeeze(class_dim)
    own = scores.gather(class_dim, label.unsqueeze(class_dim))
    rank = torch.where(counted, (scores > own).sum(class_dim), scores.shape[class_dim])
    entropy = -(log_p.exp() * log_p).sum(class_dim)
    numbers = {"logprob": log_prob, "lse": scores.logsumexp(class_dim), "entropy": entropy}
    return {name: torch.where(counted, value, 0.0) for name, value in numbers.items()} | {"rank": rank}


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, *KERNEL_DTYPES], ids=dtype_name)
def test_stats(dtype: torch.dtype, backend: str, kind: str) -> None:
    for shape in SHAPES:
        for options in ({}, {"logit_scale": 0.5}):
            input, target = arguments(shape, kind)
            input = input.to(dtype)
            target = target.to(dtype) if target.is_floating_point() else target
            plain = F.cross_entropy(input, target, backend=backend, **options)
            loss, stats = F.cross_entropy(input.requires_grad_(), target, return_stats=True, backend=backend, **options)
            assert isinstance(stats, ClassStats)
            torch.testing.assert_close(loss.detach(), plain, equal_nan=True)
            counted = torch.ones(loss.new_empty(target.shape).shape, dtype=torch.bool) if kind == "indices" else None
            shape_of_loss = shape[:0] if len(shape) == 1 else shape[:1] + shape[2:]
            counted = torch.ones(shape_of_loss, dtype=torch.bool) if counted is None else target != -100
            scores = input.detach().double() * options.get("logit_scale", 1.0)
            wide = target.double() if kind == "probabilities" else target
            for name, exact in expected_stats(scores, wide, counted).items():
                mine = getattr(stats, name)
                assert not mine.requires_grad
                if name == "rank":
                    assert mine.dtype == torch.int64
                    assert torch.equal(mine, exact)
                else:
                    largest = max(1.0, float(scores.abs().max()))
                    assert_as_exact(mine, exact, steps=8, scale=largest, what=name)
            assert torch.equal(stats.correct, stats.rank == 0)
            assert torch.equal(stats.top(2), stats.rank < 2)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_stats_of_what_does_not_count_and_of_nan(backend: str) -> None:
    input = torch.tensor([[3.0, 1.0], [float("nan"), 1.0], [1.0, 3.0], [2.0, 2.0]])
    target = torch.tensor([0, 0, -100, 1])
    mask = torch.tensor([True, True, True, True])
    _, stats = F.cross_entropy(input, target, mask=mask, return_stats=True, backend=backend)
    assert stats.rank.tolist() == [0, 2, 2, 0]
    assert stats.correct.tolist() == [True, False, False, True]
    assert [float(each[2]) for each in stats[:3]] == [0, 0, 0]
    _, stats = F.cross_entropy(input, target, mask=~mask, return_stats=True, on_empty="zero", backend=backend)
    assert stats.rank.tolist() == [2, 2, 2, 2]
    assert stats.lse.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("kind", ["indices", "probabilities", "none"])
def test_stats_where_there_is_no_softmax(kind: str, backend: str) -> None:
    inf, nan = float("inf"), float("nan")
    input = torch.tensor([[inf, 1.0], [inf, inf], [inf, nan], [nan, -inf], [-inf, -inf], [-inf, 0.0]])
    target = torch.zeros(6, dtype=torch.long) if kind == "indices" else torch.zeros(6, 2)
    if kind == "probabilities":
        target[:, 0] = 1
    _, stats = F.cross_entropy(input, target, return_stats=True, backend=backend)
    assert stats.rank.tolist() == [2, 2, 2, 2, 2, 1]
    assert not stats.correct.any()
    last = 0.0 if kind == "none" else -inf
    for mine, expected in (
        (stats.lse, [inf, inf, nan, nan, -inf, 0.0]),
        (stats.entropy, [nan, nan, nan, nan, nan, 0.0]),
        (stats.logprob, [nan, nan, nan, nan, nan, last]),
    ):
        torch.testing.assert_close(mine, torch.tensor(expected), equal_nan=True)


def test_stats_of_no_samples_and_no_classes() -> None:
    loss, stats = F.cross_entropy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), return_stats=True)
    assert loss.isnan()
    assert [tuple(each.shape) for each in stats] == [(0,)] * 4
    loss, stats = F.cross_entropy(torch.zeros(0, 0), torch.zeros(0, dtype=torch.long), return_stats=True)
    assert [tuple(each.shape) for each in stats] == [(0,)] * 4


def test_the_modules_hold_the_options() -> None:
    input, target = arguments((5, 4), "indices")
    options = {"z_loss": 0.1, "softcap": 2.0, "logit_scale": 1.5, "return_stats": True}
    criterion = losskit.CrossEntropyLoss(**options)
    expected, _ = F.cross_entropy(input, target, **options)
    for each in (criterion, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        loss, stats = each(input, target)
        assert_same_bits(loss, expected)
        assert isinstance(stats, ClassStats)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"z_loss": -1.0}, LosskitValueError, "z_loss must be 0 or more, got -1"),
        ({"z_loss": float("nan")}, LosskitValueError, "z_loss must be finite, got nan"),
        ({"z_loss": "a"}, LosskitTypeError, "z_loss must be a number, got str"),
        ({"softcap": 0.0}, LosskitValueError, "softcap must be greater than 0, got 0: None is no cap"),
        ({"softcap": float("inf")}, LosskitValueError, "softcap must be finite, got inf"),
        ({"logit_scale": torch.ones(())}, LosskitTypeError, "logit_scale must be a number, got a tensor"),
        ({"softcap": 1e-50}, LosskitValueError, "softcap must be a normal number of float32, .* got 1e-50"),
        ({"z_loss": 1e39}, LosskitValueError, "z_loss must be a normal number of float32, at most 3.4e.38, got 1e.39"),
        ({"logit_scale": -(10**400)}, LosskitValueError, "logit_scale must be finite, got -inf"),
        ({"return_stats": 1}, LosskitTypeError, "return_stats must be a bool, got int"),
        ({"return_stats": None}, LosskitTypeError, "return_stats must be a bool, got NoneType"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    input, target = arguments((5, 4), "indices")
    with pytest.raises(error, match=rf"^cross_entropy: {message}"):
        F.cross_entropy(input, target, **options)
    with pytest.raises(error, match=rf"^linear_cross_entropy: {message}"):
        F.linear_cross_entropy(input, torch.zeros(4, 4), target, **options)
    with pytest.raises(error, match=rf"^CrossEntropyLoss: {message}"):
        losskit.CrossEntropyLoss(**options)
    with pytest.raises(error, match=rf"^LinearCrossEntropyLoss: {message}"):
        losskit.LinearCrossEntropyLoss(4, 4, **options)


# linear_cross_entropy

# The last: two rows of five classes at a time.
WAYS: list[dict[str, Any]] = [{}, {"backend": "reference"}, {"workspace": 40}]
each_way = pytest.mark.parametrize("way", WAYS, ids=["all at once", "reference", "in chunks"])


def layer(kind: str = "indices", leading: tuple[int, ...] = (3, 4)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    input, weight = torch.randn(*leading, 6, generator=generator), torch.randn(5, 6, generator=generator)
    bias = torch.randn(5, generator=generator)
    if kind == "probabilities":
        return input, weight, bias, torch.randn(*leading, 5, generator=generator).softmax(-1)
    target = torch.randint(5, leading, generator=generator)
    target[0, 1] = -100
    return input, weight, bias, target


def by_rows(input: Tensor, weight: Tensor, target: Tensor, *, linear_bias: Tensor, shift: int = 0, **more: Any) -> Any:
    """cross_entropy of the scores with the sequences cut as one does by hand."""
    length = input.shape[-2] - shift
    rows = input[..., :length, :].reshape(-1, input.shape[-1])
    labels = target[:, shift:]
    for name in ("mask", "sample_weight"):
        if name in more:
            more[name] = more[name].expand(input.shape[:-1])[:, shift:].reshape(-1)
    labels = labels.reshape(-1, weight.shape[0]) if target.is_floating_point() else labels.reshape(-1)
    result = F.cross_entropy(rows @ weight.T + linear_bias, labels, backend="reference", **more)
    loss = result[0] if isinstance(result, tuple) else result
    if loss.ndim == 0:
        return loss
    return nn.functional.pad(loss.reshape(*input.shape[:-2], length), (0, shift))


@each_way
@each_option
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_linear(shift: int, kind: str, options: dict[str, Any], way: dict[str, Any]) -> None:
    input, weight, bias, target = layer(kind)
    generator = torch.Generator().manual_seed(5)
    extra = {"mask": torch.rand(3, 4, generator=generator) > 0.2, "sample_weight": torch.rand(4, generator=generator)}
    for reduction in REDUCTIONS:
        for more in ({}, extra, {"label_smoothing": 0.2}):
            found = []
            for dtype, function, how in ((torch.float64, by_rows, {}), (torch.float32, F.linear_cross_entropy, way)):
                tensors = [each.to(dtype).requires_grad_() for each in (input, weight, bias)]
                labels = target.to(dtype) if kind == "probabilities" else target
                given = {
                    name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
                    for name, value in more.items()
                }
                loss = function(
                    tensors[0],
                    tensors[1],
                    labels,
                    linear_bias=tensors[2],
                    reduction=reduction,
                    shift=shift,
                    **options,
                    **given,
                    **how,
                )
                upstream = torch.linspace(0.5, 1.5, loss.numel(), dtype=dtype).reshape(loss.shape)
                found.append([loss, *torch.autograd.grad(loss, tensors, upstream)])
            for exact, mine in zip(*found, strict=True):
                assert_as_exact(mine, exact, steps=16, scale=max(1.0, float(exact.detach().abs().max())))


@each_way
@pytest.mark.parametrize("leading", [(3, 4), (2, 3, 4), (1, 1)])
def test_stats_of_sequences(leading: tuple[int, ...], way: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(3)
    _, weight, bias, _ = layer()
    input = torch.randn(*leading, 6, generator=generator)
    target = torch.randint(5, leading, generator=torch.Generator().manual_seed(1))
    loss, stats = F.linear_cross_entropy(
        input, weight, target, linear_bias=bias, return_stats=True, reduction="none", z_loss=0.1, **way
    )
    assert loss.shape == torch.Size(leading)
    scores = (input.double() @ weight.double().T + bias).movedim(-1, 1)
    for name, exact in expected_stats(scores, target, torch.ones(leading, dtype=torch.bool)).items():
        mine = getattr(stats, name)
        assert mine.shape == torch.Size(leading)
        if name == "rank":
            assert torch.equal(mine, exact)
        else:
            assert_as_exact(mine, exact, steps=16, scale=float(scores.abs().max()), what=name)


@each_way
def test_stats_of_rows_that_are_left_out(way: dict[str, Any]) -> None:
    input, weight, bias, target = layer()
    _, stats = F.linear_cross_entropy(input, weight, target, linear_bias=bias, return_stats=True, shift=1, **way)
    for place in ((0, 0), (0, 3), (2, 3)):
        assert [float(each[place]) for each in stats] == [0, 0, 0, 5]
    assert bool((stats.lse[1, :3] != 0).all())


def test_a_shift_beyond_the_sequence_leaves_nothing() -> None:
    input, weight, bias, target = layer()
    loss = F.linear_cross_entropy(input.requires_grad_(), weight, target, linear_bias=bias, shift=9, on_empty="zero")
    loss.backward()
    assert loss == 0
    assert bool((input.grad == 0).all())


@each_way
def test_sequences_without_features_or_classes(way: dict[str, Any]) -> None:
    *_, target = layer()
    loss = F.linear_cross_entropy(torch.zeros(3, 4, 0), torch.zeros(5, 0), target, shift=1, **way)
    torch.testing.assert_close(loss, torch.tensor(5.0).log())
    input, nothing = torch.zeros(3, 4, 6), torch.zeros(3, 4, 0)
    loss = F.linear_cross_entropy(input, torch.zeros(0, 6), nothing, reduction="none", **way)
    assert loss.tolist() == [[0.0] * 4] * 3


@pytest.mark.parametrize("shift", [0, 1])
def test_labels_of_other_integers_are_refused(shift: int) -> None:
    input, weight, bias, target = layer()
    for dtype in (torch.int32, torch.bool):
        with pytest.raises(LosskitRuntimeError, match="class indices must be int64 or uint8"):
            F.linear_cross_entropy(input, weight, target.to(dtype), linear_bias=bias, shift=shift)


def test_labels_of_uint8_are_moved() -> None:
    input, weight, bias, target = layer()
    target = target.clamp(min=0)
    expected = F.linear_cross_entropy(input, weight, target, linear_bias=bias, shift=2)
    assert_same_bits(F.linear_cross_entropy(input, weight, target.byte(), linear_bias=bias, shift=2), expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"shift": -1}, LosskitValueError, "shift must be 0 or more, got -1"),
        ({"shift": 1.0}, LosskitTypeError, "shift must be an int, got float"),
        ({"input": torch.zeros(4, 6), "target": torch.zeros(4).long(), "shift": 1}, LosskitValueError, "shift=1 needs"),
        (
            {"target": torch.zeros(12).long()},
            LosskitRuntimeError,
            r"input \(3, 4, 6\) takes a target of shape \(3, 4\)",
        ),
        ({"target": torch.zeros(3, 4, 2)}, LosskitRuntimeError, r"or \(3, 4, 5\) with class probabilities"),
        ({"mask": torch.ones(12, dtype=torch.bool)}, RuntimeError, "mask"),
        ({"sample_weight": torch.ones(12)}, RuntimeError, "sample_weight"),
        ({"linear_weight": torch.zeros(5, 2, 6), "linear_bias": None}, LosskitRuntimeError, r"needs an input of shape"),
        ({"target": torch.full((3, 4), 5)}, IndexError, "12 of 12 targets"),
    ],
)
def test_errors_of_sequences(change: dict[str, Any], error: type[Exception], message: str) -> None:
    input, weight, bias, target = layer()
    given = {"input": input, "linear_weight": weight, "target": target, "linear_bias": bias} | change
    with pytest.raises(error, match=message):
        F.linear_cross_entropy(**given)


@pytest.mark.parametrize("dtype", HALVES, ids=dtype_name)
def test_half_precision_in_chunks(dtype: torch.dtype) -> None:
    input, weight, bias, target = (each.to(dtype) if each.is_floating_point() else each for each in layer())
    more = {"z_loss": 0.1, "softcap": 2.0, "logit_scale": 1.5}
    exact = by_rows(input.double(), weight.double(), target, linear_bias=bias.double(), **more)
    ours = F.linear_cross_entropy(
        input, weight, target, linear_bias=bias, workspace=40, out_dtype=torch.float32, **more
    )
    assert_as_exact(ours, exact, steps=8)


@needs_kernels
def test_a_named_backend_runs_or_raises() -> None:
    input, target = arguments((4, 3), "indices")
    with pytest.raises(BackendError, match="float64"):
        F.cross_entropy(input.double(), target, z_loss=0.1, backend="cpu")


# from_linear


def test_a_head_is_shared() -> None:
    embedding, head = nn.Embedding(5, 6), nn.Linear(6, 5, bias=False)
    head.weight = embedding.weight
    criterion = losskit.LinearCrossEntropyLoss.from_linear(head, shift=1, label_smoothing=0.1)
    *_, target = layer()
    hidden = embedding(target.clamp(min=0))
    loss = criterion(hidden, target)
    loss.backward()
    scores = embedding(target.clamp(min=0)) @ embedding.weight.T
    expected = F.cross_entropy(scores[:, :-1].reshape(-1, 5), target[:, 1:].reshape(-1), label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(expected, embedding.weight)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(embedding.weight.grad, gradient)
    assert criterion.linear is head
    assert "num_classes=5" in repr(criterion)
    twin = copy.deepcopy(criterion)
    assert twin.linear is not head
    assert_same_bits(twin(hidden, target), loss)


def test_modules_pickled_before_the_options_existed() -> None:
    input, _, _, target = layer()
    criterion = losskit.LinearCrossEntropyLoss(6, 5)
    expected = criterion(input, target)
    for name in ("z_loss", "softcap", "logit_scale", "return_stats", "shift"):
        del vars(criterion)[name]
    assert_same_bits(pickle.loads(pickle.dumps(criterion))(input, target), expected)


def test_a_head_that_does_not_fit_the_options() -> None:
    for out_features in ((3,), (0,)):
        with pytest.raises(LosskitValueError, match=r"from_linear: out_features .* must divide the 10 scores of head"):
            losskit.LinearCrossEntropyLoss.from_linear(nn.Linear(6, 10), out_features=out_features)
    with pytest.raises(LosskitValueError, match="LinearCrossEntropyLoss: shift must be 0 or more, got -1"):
        losskit.LinearCrossEntropyLoss.from_linear(nn.Linear(6, 10), shift=-1)


def test_a_parametrized_head_is_used_as_it_is() -> None:
    head = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
    criterion = losskit.LinearCrossEntropyLoss.from_linear(head)
    input, _, _, target = layer()
    expected = nn.functional.cross_entropy(head(input).reshape(-1, 5), target.reshape(-1))
    torch.testing.assert_close(criterion(input, target), expected)
    parameters = list(head.parameters())
    ours = torch.autograd.grad(criterion(input, target), parameters)
    for mine, theirs in zip(ours, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_other_heads_are_refused() -> None:
    with pytest.raises(LosskitTypeError, match=r"from_linear: head must be an nn.Linear, .* got Sequential"):
        losskit.LinearCrossEntropyLoss.from_linear(nn.Sequential(nn.Linear(6, 5)))

    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    with pytest.raises(LosskitTypeError, match="got Scaled"):
        losskit.LinearCrossEntropyLoss.from_linear(Scaled(6, 5))
    head = nn.Linear(6, 5)
    criterion = losskit.LinearCrossEntropyLoss.from_linear(head)
    head.register_forward_hook(lambda *_: None)
    input, _, _, target = layer()
    with pytest.raises(LosskitRuntimeError, match="forward hooks"):
        criterion(input, target)
