"""What tensors, the graph, threads and processes can do to a fused loss: one test for each hazard."""

from __future__ import annotations

import gc
import multiprocessing
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fresh_process import output_of
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import losskit
import losskit.functional as L
from losskit.errors import LosskitRuntimeError, LosskitValueError
from losskit.kernels import cpu

needs_kernels = pytest.mark.skipif(not cpu.available(), reason="the kernels are not built here")

ROWS, CLASSES = 6, 5


@dataclass(frozen=True)
class Loss:
    """A loss with its peer in torch, and something to give to both."""

    name: str
    make: Callable[[int, int], tuple[Tensor, Tensor]]
    # From the first tensor, what the loss needs beside the two.
    rest: Callable[[Tensor], dict[str, Tensor]] = lambda _: {}

    def ours(self, input: Tensor, target: Tensor, **options: Any) -> Tensor:
        result: Tensor = getattr(L, self.name)(input, target, **self.rest(input), **options)
        return result

    def torchs(self, input: Tensor, target: Tensor, **options: Any) -> Tensor:
        result: Tensor = getattr(F, self.name)(input, target, **self.rest(input), **options)
        return result

    def tensors(self, rows: int = ROWS, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
        torch.manual_seed(rows * classes)
        return self.make(rows, classes)


def _numbers(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    return 2 * torch.randn(rows, classes), torch.randn(rows, classes)


def _classes(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    return 2 * torch.randn(rows, classes), torch.randint(classes, (rows,))


def _log_probs(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    logits, target = _classes(rows, classes)
    return logits.log_softmax(1), target


def _probabilities(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    return 0.05 + 0.9 * torch.rand(rows, classes), torch.rand(rows, classes)


def _logits(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    return 2 * torch.randn(rows, classes), torch.rand(rows, classes)


def _signs(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    return 2 * torch.randn(rows, classes), 2.0 * torch.randint(2, (rows, classes)) - 1


def _distributions(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    input, target = _probabilities(rows, classes)
    return input.log(), target + 0.01


def _counts(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, classes), torch.randint(5, (rows, classes)).float()


def _labels(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    """Some of the classes in front, ended by −1."""
    target = torch.stack([torch.randperm(classes) for _ in range(rows)])
    target[:, 2:3] = -1
    return 2 * torch.randn(rows, classes), target


LOSSES = [
    Loss("l1_loss", _numbers),
    Loss("mse_loss", _numbers),
    Loss("smooth_l1_loss", _numbers),
    Loss("huber_loss", _numbers),
    Loss("cross_entropy", _classes),
    Loss("nll_loss", _log_probs),
    Loss("binary_cross_entropy", _probabilities),
    Loss("binary_cross_entropy_with_logits", _logits),
    Loss("soft_margin_loss", _signs),
    Loss("hinge_embedding_loss", _signs),
    Loss("margin_ranking_loss", _numbers, lambda input: {"target": torch.ones_like(input.detach())}),
    Loss("kl_div", _distributions),
    Loss("poisson_nll_loss", _counts),
    Loss("gaussian_nll_loss", _numbers, lambda input: {"var": torch.full_like(input.detach(), 1.5)}),
    Loss("multi_margin_loss", _classes),
    Loss("multilabel_margin_loss", _labels),
    Loss("multilabel_soft_margin_loss", _logits),
    Loss("cosine_embedding_loss", _numbers, lambda input: {"target": torch.ones_like(input.detach()[..., 0])}),
    Loss("triplet_margin_loss", _numbers, lambda input: {"negative": torch.zeros_like(input.detach())}),
]
BY_NAME = {loss.name: loss for loss in LOSSES}
CROSS_ENTROPY, MSE = BY_NAME["cross_entropy"], BY_NAME["mse_loss"]
OF_ROWS = (
    "cross_entropy",
    "nll_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "cosine_embedding_loss",
    "triplet_margin_loss",
)
DIFFERENCES = ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss")

each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
each_reduction = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])


def assert_same(ours: Tensor, expected: Tensor, digits: float = 16) -> None:
    """Equal to a few units in the last place of the largest value; NaN and infinities in the same places."""
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    ours, expected = ours.detach(), expected.detach()
    finite = expected.isfinite()
    assert torch.equal(ours.isnan(), expected.isnan())
    assert torch.equal(ours[~finite].nan_to_num(0.0), expected[~finite].nan_to_num(0.0))
    scale = float(expected[finite].abs().max()) if bool(finite.any()) else 0.0
    error = float((ours[finite].double() - expected[finite].double()).abs().max()) if bool(finite.any()) else 0.0
    assert error <= digits * torch.finfo(expected.dtype).eps * scale, f"off by {error:g} of {scale:g}"


def gradient(
    function: Callable[..., Tensor], input: Tensor, target: Tensor, upstream: Any = None, **options: Any
) -> Tensor:
    """By the input, as a leaf."""
    leaf = input.detach().clone().requires_grad_()
    loss = function(leaf, target, **options)
    loss.backward(upstream)
    assert leaf.grad is not None
    return leaf.grad


def layer(*shape: int) -> tuple[Tensor, Tensor]:
    """A leaf, and logits that are computed from it and that nothing else saves."""
    torch.manual_seed(0)
    leaf = torch.randn(*shape, requires_grad=True)
    return leaf, leaf + 0


# tensors that a kernel cannot read ------------------------------------------------------------------------------------


@each_loss
def test_fake_tensors_have_no_memory(loss: Loss) -> None:
    input, target = loss.tensors()
    mode = FakeTensorMode()
    fake, fake_target = mode.from_tensor(input).requires_grad_(), mode.from_tensor(target)
    result = loss.ours(fake, fake_target)
    with mode:
        # torch's own clamp makes a real number in its backward.
        result.backward()
    assert result.shape == ()
    assert fake.grad is not None
    assert fake.grad.shape == input.shape
    # Of the numbers: torch's gaussian_nll_loss reads the variances.
    shape = loss.torchs(input, target, reduction="none").shape
    with mode:
        assert loss.ours(fake, fake_target, reduction="none").shape == shape


@each_loss
def test_backward_under_a_fake_mode_reads_no_memory(loss: Loss) -> None:
    input, target = loss.tensors()
    leaf = input.requires_grad_()
    result = loss.ours(leaf, target)
    with FakeTensorMode(allow_non_fake_inputs=True):
        (grad,) = torch.autograd.grad(result, leaf, torch.ones(()))
    assert grad.shape == leaf.shape


@each_loss
@each_reduction
def test_meta_tensors_have_no_memory(loss: Loss, reduction: str) -> None:
    input, target = loss.tensors()
    leaf = input.to("meta").requires_grad_()
    result = loss.ours(leaf, target.to("meta"), reduction=reduction)
    expected = loss.torchs(input, target, reduction=reduction)
    assert result.device.type == "meta"
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    result.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.shape == leaf.shape


@each_loss
@each_reduction
def test_lazy_negative_view(loss: Loss, reduction: str) -> None:
    input, target = loss.tensors()
    lazy = torch._neg_view(-input)
    assert lazy.is_neg()
    expected = loss.torchs(input, target, reduction=reduction)
    assert_same(loss.ours(lazy, target, reduction=reduction), expected)
    if target.is_floating_point():
        lazy_target = torch._neg_view(-target)
        assert_same(loss.ours(input, lazy_target, reduction=reduction), expected)


@pytest.mark.parametrize("name", [*DIFFERENCES, "binary_cross_entropy_with_logits"])
def test_imaginary_part_of_a_conjugate(name: str) -> None:
    loss = BY_NAME[name]
    torch.manual_seed(0)
    numbers = torch.randn(ROWS, CLASSES, dtype=torch.complex64)
    part = numbers.conj().imag
    assert part.is_neg()
    target = torch.rand(ROWS, CLASSES)
    assert_same(loss.ours(part, target), loss.torchs(part, target))
    assert_same(loss.ours(numbers.real, target), loss.torchs(numbers.real, target))
    grads = []
    for function in (loss.ours, loss.torchs):
        leaf = numbers.clone().requires_grad_()
        function(leaf.conj().imag, target).backward()
        assert leaf.grad is not None
        grads.append(torch.view_as_real(leaf.grad))
    assert_same(*grads)


def test_conjugate_view_of_complex_numbers() -> None:
    torch.manual_seed(0)
    numbers, target = torch.randn(2, ROWS, dtype=torch.complex64)
    assert_same(L.l1_loss(numbers.conj(), target), F.l1_loss(numbers.conj(), target))


def test_zero_tensor_without_memory() -> None:
    zeros = torch._efficientzerotensor((ROWS, CLASSES))
    _, target = MSE.tensors()
    assert_same(L.mse_loss(zeros, target), F.mse_loss(torch.zeros(ROWS, CLASSES), target))
    classes = torch.arange(ROWS) % CLASSES
    assert_same(L.cross_entropy(zeros, classes), F.cross_entropy(torch.zeros(ROWS, CLASSES), classes))


@pytest.mark.parametrize("layout", ["sparse", "mkldnn"])
def test_other_layouts_raise_what_torch_raises(layout: str) -> None:
    _, target = MSE.tensors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        input = target.to_sparse() if layout == "sparse" else target.to_mkldnn()
    with pytest.raises(RuntimeError):
        F.mse_loss(input, target)
    with pytest.raises(RuntimeError):
        L.mse_loss(input, target)


def test_a_subclass_keeps_its_meaning() -> None:
    class Doubled(Tensor):
        """Counts for twice what it holds."""

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            with torch._C.DisableTorchFunctionSubclass():
                plain = [2 * arg.as_subclass(Tensor) if isinstance(arg, Doubled) else arg for arg in args]
                return func(*plain, **(kwargs or {}))

    input, target = torch.ones(3), torch.zeros(3)
    assert float(L.l1_loss(input.as_subclass(Doubled), target)) == 2.0


@pytest.mark.parametrize("dims", [12, 13, 20])
def test_many_dimensions(dims: int) -> None:
    shape = [2, 3] + [1] * (dims - 2)
    torch.manual_seed(0)
    input, target = torch.randn(shape), torch.randn(shape)
    assert_same(L.mse_loss(input, target), F.mse_loss(input, target))
    classes = torch.randint(3, [2] + [1] * (dims - 2))
    assert_same(L.cross_entropy(input, classes), F.cross_entropy(input, classes))


@each_loss
@each_reduction
def test_expanded_input_overlaps_itself(loss: Loss, reduction: str) -> None:
    input, target = loss.tensors()
    row = input[:1]
    grads = []
    for function in (loss.ours, loss.torchs):
        leaf = row.clone().requires_grad_()
        result = function(leaf.expand(ROWS, CLASSES), target, reduction=reduction)
        result.backward(torch.linspace(0.5, 2, result.numel()).reshape(result.shape))
        assert leaf.grad is not None
        grads += [result, leaf.grad]
    assert_same(grads[0], grads[2])
    assert_same(grads[1], grads[3])


@pytest.mark.parametrize("name", [loss.name for loss in LOSSES if loss.name not in OF_ROWS])
@each_reduction
def test_no_dimension(name: str, reduction: str) -> None:
    loss = BY_NAME[name]
    input, target = torch.tensor(0.75), torch.tensor(0.25)
    assert_same(loss.ours(input, target, reduction=reduction), loss.torchs(input, target, reduction=reduction))
    assert_same(
        gradient(loss.ours, input, target, reduction=reduction),
        gradient(loss.torchs, input, target, reduction=reduction),
    )


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("batched", [False, True])
def test_one_sample_of_very_many_classes(name: str, batched: bool) -> None:
    loss = BY_NAME[name]
    input, _ = loss.tensors(1, 200_000)
    target = torch.tensor([123_456])
    if not batched:
        input, target = input[0], target[0]
    exact = loss.torchs(input.double(), target)
    assert_same(loss.ours(input, target), exact.float(), 4)
    assert_same(gradient(loss.ours, input, target), gradient(loss.torchs, input.double(), target).float(), 64)


# the graph ------------------------------------------------------------------------------------------------------------


@each_loss
@each_reduction
def test_second_backward_after_scaling_does_not_compound(loss: Loss, reduction: str) -> None:
    input, target = loss.tensors()
    leaf = input.clone().requires_grad_()
    result = loss.ours(leaf, target, reduction=reduction)
    unit = gradient(loss.torchs, input.double(), target.double() if target.is_floating_point() else target,
                    torch.ones(result.shape, dtype=torch.float64), reduction=reduction)  # fmt: skip
    for factor in (3.0, 3.0, 0.5, 1.0):
        leaf.grad = None
        result.backward(torch.full(result.shape, factor), retain_graph=True)
        assert leaf.grad is not None
        assert_same(leaf.grad, (factor * unit).float())


@needs_kernels
@each_loss
def test_buffer_of_a_leafs_grad_is_not_used_again(loss: Loss) -> None:
    # 512 KiB: a buffer of the pool.
    input, target = loss.tensors(512, 256)
    leaf = input.clone().requires_grad_()
    loss.ours(leaf, target).backward()
    kept = leaf.grad
    assert kept is not None
    before = kept.clone()
    for _ in range(3):
        gradient(loss.ours, -input if loss.name != "binary_cross_entropy" else 1 - input, target)
        losskit.empty_cache()
    assert torch.equal(kept, before)
    kept.zero_()
    assert int(kept.count_nonzero()) == 0


@needs_kernels
def test_leaf_takes_the_gradient_buffer_without_a_copy() -> None:
    # An idle buffer that is somewhat larger would serve too.
    losskit.empty_cache()
    input, target = CROSS_ENTROPY.tensors(512, 256)
    leaf = input.requires_grad_()
    before = losskit.memory_stats()["active_bytes"]
    loss = L.cross_entropy(leaf, target)
    loss.backward()
    assert losskit.memory_stats()["active_bytes"] == before + leaf.numel() * leaf.element_size()
    leaf.grad = None
    assert losskit.memory_stats()["active_bytes"] == before


@needs_kernels
@pytest.mark.parametrize("path", ["lean", "options", "none", "in place"])
@each_loss
def test_nothing_waits_for_the_garbage_collector(loss: Loss, path: str) -> None:
    options: dict[str, Any] = {"lean": {}, "options": {"normalizer": 7.0}, "none": {"reduction": "none"}}.get(path, {})
    if path == "in place":
        if loss is not CROSS_ENTROPY:
            pytest.skip("only cross entropy has inplace_backward")
        options = {"inplace_backward": True}
    input, target = loss.tensors(512, 256)
    before = losskit.memory_stats()["active_bytes"]
    gc.disable()
    try:
        leaf = input.clone().requires_grad_()
        logits = leaf + 0
        result = loss.ours(logits, target, **options)
        node = result.grad_fn
        result.sum().backward()
        watched = [weakref.ref(thing) for thing in (result, logits, leaf, node)]
        del result, logits, leaf, node
        assert [reference() for reference in watched] == [None] * len(watched)
        assert losskit.memory_stats()["active_bytes"] == before
        # And without a backward.
        result = loss.ours((input.clone().requires_grad_() + 0), target, **options)
        del result
        assert losskit.memory_stats()["active_bytes"] == before
    finally:
        gc.enable()


@pytest.mark.parametrize("options", [{}, {"normalizer": 7.0}, {"reduction": "none"}], ids=["lean", "options", "none"])
@each_loss
def test_a_loss_that_is_kept_does_not_keep_its_input(loss: Loss, options: dict[str, Any]) -> None:
    input, target = loss.tensors()
    logits = input.requires_grad_() + 0
    result = loss.ours(logits, target, **options)
    result.sum().backward()
    watched = weakref.ref(logits)
    del logits
    assert watched() is None
    assert result.grad_fn is not None


@pytest.mark.parametrize("options", [{}, {"normalizer": 7.0}, {"reduction": "none"}], ids=["lean", "options", "none"])
@each_loss
def test_saved_tensors_go_through_the_hooks(loss: Loss, options: dict[str, Any]) -> None:
    input, target = loss.tensors()
    packed: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor.clone())
        return packed[-1]

    leaf = input.clone().requires_grad_()
    logits = leaf + 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = loss.ours(logits, target, **options)
    assert packed
    watched = weakref.ref(logits)
    del logits
    assert watched() is None
    result.sum().backward()
    assert leaf.grad is not None
    if "normalizer" in options:
        expected = gradient(lambda x, y: loss.torchs(x, y, reduction="sum") / 7, input, target)
    else:
        expected = gradient(lambda x, y: loss.torchs(x, y, **options).sum(), input, target)
    assert_same(leaf.grad, expected)


@each_loss
def test_save_on_cpu(loss: Loss) -> None:
    input, target = loss.tensors()
    with torch.autograd.graph.save_on_cpu():
        ours = gradient(loss.ours, input, target, torch.tensor(3.0))
    assert_same(ours, gradient(loss.torchs, input, target, torch.tensor(3.0)))


@pytest.mark.parametrize("reentrant", [False, True])
@each_loss
@each_reduction
def test_checkpoint(loss: Loss, reduction: str, reentrant: bool) -> None:
    input, target = loss.tensors()
    leaf = input.clone().requires_grad_()
    result = checkpoint(loss.ours, leaf, target, reduction=reduction, use_reentrant=reentrant) if not reentrant else (
        checkpoint(lambda x, y: loss.ours(x, y, reduction=reduction), leaf, target, use_reentrant=True)
    )  # fmt: skip
    upstream = torch.linspace(0.5, 2, result.numel()).reshape(result.shape)
    result.backward(upstream)
    assert leaf.grad is not None
    assert_same(leaf.grad, gradient(loss.torchs, input, target, upstream, reduction=reduction))


@each_reduction
def test_input_changed_before_a_backward_that_needs_it(reduction: str) -> None:
    _, target = CROSS_ENTROPY.tensors()
    _, logits = layer(ROWS, CLASSES)
    loss = L.cross_entropy(logits, target, reduction=reduction).sum()
    if reduction != "none":
        # The first takes the gradient that the forward made.
        loss.backward(retain_graph=True)
    with torch.no_grad():
        logits.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_input_changed_before_a_backward_that_does_not_need_it() -> None:
    _, target = CROSS_ENTROPY.tensors()
    leaf, logits = layer(ROWS, CLASSES)
    loss = L.cross_entropy(logits, target)
    with torch.no_grad():
        logits.mul_(0)
    try:
        loss.backward()
    except RuntimeError as error:
        # Without the kernels the gradient is computed now, and torch says why it cannot be.
        assert "modified by an inplace operation" in str(error)  # noqa: PT017
    else:
        assert leaf.grad is not None
        assert_same(leaf.grad, gradient(F.cross_entropy, leaf, target))


@pytest.mark.parametrize("name", DIFFERENCES)
@each_reduction
def test_the_same_tensor_as_input_and_target(name: str, reduction: str) -> None:
    loss = BY_NAME[name]
    input, _ = loss.tensors()
    leaf = input.clone().requires_grad_()
    result = loss.ours(leaf, leaf, reduction=reduction)
    result.sum().backward()
    assert int(result.count_nonzero()) == 0
    assert leaf.grad is not None
    assert int(leaf.grad.count_nonzero()) == 0
    assert_same(
        gradient(lambda x, _: loss.ours(x, 2 * x), input, input),
        gradient(lambda x, _: loss.torchs(x, 2 * x), input, input),
    )


@pytest.mark.parametrize("input_too", [False, True])
@each_reduction
@each_loss
def test_gradient_by_the_target(loss: Loss, reduction: str, input_too: bool) -> None:
    input, target = loss.tensors()
    if loss.name in (
        "nll_loss",
        "soft_margin_loss",
        "hinge_embedding_loss",
        "multi_margin_loss",
        "multilabel_margin_loss",
    ):
        pytest.skip("torch has no gradient by class indices, nor by labels of -1 and 1")
    if loss is CROSS_ENTROPY:
        target = torch.rand(ROWS, CLASSES)
    grads = []
    for function in (loss.ours, loss.torchs):
        leaves = [input.clone().requires_grad_(input_too), target.clone().requires_grad_()]
        result = function(*leaves, reduction=reduction)
        result.backward(torch.linspace(0.5, 2, result.numel()).reshape(result.shape))
        grads.append([leaf.grad for leaf in leaves])
    for ours, expected in zip(*grads, strict=True):
        assert (ours is None) == (expected is None)
        if ours is not None and expected is not None:
            assert_same(ours, expected)


def test_hooks_on_the_input_see_and_change_the_gradient() -> None:
    input, target = CROSS_ENTROPY.tensors(512, 256)
    expected = gradient(F.cross_entropy, input, target)
    seen: list[Tensor] = []
    leaf = input.clone().requires_grad_()

    def hook(grad: Tensor) -> Tensor:
        seen.append(grad)
        return 2 * grad

    leaf.register_hook(hook)
    for _ in range(2):
        leaf.grad = None
        L.cross_entropy(leaf, target).backward()
        assert leaf.grad is not None
        assert_same(leaf.grad, 2 * expected)
    # What a hook keeps is its own.
    assert_same(seen[0], expected)
    assert_same(seen[1], expected)


@each_loss
def test_the_same_input_in_two_losses(loss: Loss) -> None:
    input, target = loss.tensors()
    other = target.flip(0)

    def both(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, y: 3 * function(x, y) + function(x, other, reduction="sum") + x.square().sum()

    assert_same(gradient(both(loss.ours), input, target), gradient(both(loss.torchs), input, target))


@pytest.mark.parametrize("factor", [0.0, 1.0, -1.0, 1e-30, float("inf"), float("nan")])
@each_loss
def test_any_upstream_number(loss: Loss, factor: float) -> None:
    input, target = loss.tensors()
    # Not torch's own gradient: for an infinite factor its log-softmax subtracts infinities.
    unit = gradient(loss.torchs, input, target)
    ours = gradient(loss.ours, input, target, torch.tensor(factor))
    # Where no gradient flows, an infinite factor may leave the 0 that torch has there.
    silent = (unit == 0) & (ours == 0)
    assert_same(ours, torch.where(silent, 0.0, factor * unit))


def upstreams(shape: torch.Size) -> Iterator[tuple[str, Tensor]]:
    torch.manual_seed(1)
    full = torch.randn(shape)
    yield "random", full
    yield "expanded", torch.tensor(0.7).expand(shape)
    yield "zero", torch.zeros(shape)
    yield "strided", torch.randn(*shape, 2)[..., 1]
    yield "transposed", torch.randn(tuple(reversed(shape))).permute(*reversed(range(len(shape))))
    yield "negative view", torch._neg_view(full)
    special = full.clone()
    special.view(-1)[0] = float("nan")
    special.view(-1)[1] = float("inf")
    yield "NaN and inf", special


@pytest.mark.parametrize("kind", [name for name, _ in upstreams(torch.Size([2, 2]))])
@each_loss
def test_any_upstream_tensor(loss: Loss, kind: str) -> None:
    input, target = loss.tensors()
    shape = loss.torchs(input, target, reduction="none").shape
    upstream = dict(upstreams(shape))[kind]
    if loss.name == "poisson_nll_loss" and kind == "NaN and inf":
        pytest.skip("torch has inf - inf where the slope times inf is inf")
    if loss.name == "multilabel_soft_margin_loss" and kind == "NaN and inf":
        pytest.skip("torch adds the infinities of its two log_sigmoids, which are of opposite signs")
    assert_same(
        gradient(loss.ours, input, target, upstream, reduction="none"),
        gradient(loss.torchs, input, target, upstream, reduction="none"),
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
@each_loss
def test_lazy_negative_upstream_number(loss: Loss, reduction: str) -> None:
    input, target = loss.tensors()
    lazy = torch._neg_view(torch.tensor(2.0))
    if reduction == "none":
        lazy = lazy.expand(loss.torchs(input, target, reduction="none").shape)
    assert_same(
        gradient(loss.ours, input, target, lazy, reduction=reduction),
        gradient(loss.torchs, input, target, lazy, reduction=reduction),
    )


@each_reduction
@each_loss
def test_many_upstreams_at_once(loss: Loss, reduction: str) -> None:
    input, target = loss.tensors()
    leaf = input.requires_grad_()
    shape = loss.torchs(leaf, target, reduction=reduction).shape
    many = torch.linspace(-1, 2, 3 * max(1, shape.numel())).reshape(3, *shape)
    ours, expected = (
        torch.autograd.grad(function(leaf, target, reduction=reduction), leaf, many, is_grads_batched=True)[0]
        for function in (loss.ours, loss.torchs)
    )
    assert_same(ours, expected)


@each_loss
def test_vectorised_jacobian(loss: Loss) -> None:
    input, target = loss.tensors()
    ours, expected = (
        torch.autograd.functional.jacobian(lambda x: function(x, target, reduction="none"), input, vectorize=True)  # noqa: B023
        for function in (loss.ours, loss.torchs)
    )
    assert_same(ours, expected)


def test_a_loss_scale_of_half_precision_keeps_small_gradients() -> None:
    """At 65536 times the loss no gradient may be rounded to float16 before it is scaled."""
    torch.manual_seed(0)
    logits = 4 * torch.randn(1024, 64).half()
    target = torch.randint(64, (1024,))
    scale = 65536.0
    exact = gradient(F.cross_entropy, logits.double(), target, torch.tensor(scale, dtype=torch.float64))
    ours = gradient(lambda x, y: scale * L.cross_entropy(x, y, out_dtype=torch.float32), logits, target).double()
    # As autocast has it: the logits widened, the gradient narrowed once, at the end.
    torchs = gradient(lambda x, y: scale * F.cross_entropy(x.float(), y), logits, target).double()
    # Without the scale most of the gradient is below what float16 can hold.
    assert float((exact / scale).abs().median()) < torch.finfo(torch.float16).tiny
    assert not bool(((ours == 0) & (torchs != 0)).any())
    normal = exact.abs() > torch.finfo(torch.float16).tiny
    worst = [float(((grad - exact).abs() / exact.abs())[normal].max()) for grad in (ours, torchs)]
    assert worst[0] <= worst[1] + 2**-20


def test_backward_of_a_sum_of_many_losses() -> None:
    input, target = CROSS_ENTROPY.tensors()
    leaf = input.clone().requires_grad_()
    total = torch.stack([L.cross_entropy(leaf, target.roll(k)) for k in range(5)]).mean()
    total.backward()
    assert leaf.grad is not None
    expected = gradient(
        lambda x, y: torch.stack([F.cross_entropy(x, y.roll(k)) for k in range(5)]).mean(), input, target
    )
    assert_same(leaf.grad, expected)


def test_lazy_clone_of_the_logits_is_not_overwritten() -> None:
    _, logits = layer(ROWS, CLASSES)
    _, target = CROSS_ENTROPY.tensors()
    copy = torch._lazy_clone(logits)
    before = copy.detach().clone()
    L.cross_entropy(logits, target, inplace_backward=cpu.available()).backward()
    assert torch.equal(copy, before)


# the gradient in the place of the logits ------------------------------------------------------------------------------


@needs_kernels
class TestInPlace:
    target = torch.arange(ROWS) % CLASSES

    @pytest.mark.parametrize("factor", [1.0, 3.0])
    def test_gradient(self, factor: float) -> None:
        leaf, logits = layer(ROWS, CLASSES)
        expected = gradient(F.cross_entropy, leaf, self.target, torch.tensor(factor))
        version = logits._version
        L.cross_entropy(logits, self.target, inplace_backward=True).backward(torch.tensor(factor))
        assert logits._version > version
        assert leaf.grad is not None
        assert_same(leaf.grad, expected)

    def test_lazy_negative_upstream(self) -> None:
        leaf, logits = layer(ROWS, CLASSES)
        expected = gradient(F.cross_entropy, leaf, self.target, torch.tensor(2.0))
        L.cross_entropy(logits, self.target, inplace_backward=True).backward(torch._neg_view(torch.tensor(-2.0)))
        assert leaf.grad is not None
        assert_same(leaf.grad, expected)

    @pytest.mark.parametrize("saver", [torch.exp, torch.tanh, torch.sigmoid])
    def test_logits_that_the_layer_before_saved(self, saver: Callable[[Tensor], Tensor]) -> None:
        leaf, _ = layer(ROWS, CLASSES)
        logits = saver(leaf)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            L.cross_entropy(logits, self.target, inplace_backward=True).backward()

    @pytest.mark.parametrize("saver", [torch.square, lambda x: x.log_softmax(1), torch.sin, lambda x: x * x.detach()])
    def test_logits_that_another_operation_saved(self, saver: Callable[[Tensor], Tensor]) -> None:
        _, logits = layer(ROWS, CLASSES)
        other = saver(logits).sum()
        loss = L.cross_entropy(logits, self.target, inplace_backward=True)
        # log_softmax saves its result alone, so nothing of it is lost.
        if other.grad_fn is not None and "LogSoftmax" in str(other.grad_fn.next_functions):
            (loss + other).backward()
        else:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                (loss + other).backward()

    def test_softmax_output_that_softmax_saved(self) -> None:
        leaf, _ = layer(ROWS, CLASSES)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            L.cross_entropy(leaf.softmax(1), self.target, inplace_backward=True).backward()

    def test_logits_changed_before_backward(self) -> None:
        _, logits = layer(ROWS, CLASSES)
        loss = L.cross_entropy(logits, self.target, inplace_backward=True)
        with torch.no_grad():
            logits.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    @pytest.mark.parametrize(
        "view", [lambda x: x, lambda x: x.view(ROWS, CLASSES), lambda x: x[:], lambda x: x.view(-1).view_as(x)]
    )
    def test_leaf(self, view: Callable[[Tensor], Tensor]) -> None:
        leaf, _ = layer(ROWS, CLASSES)
        before = leaf.detach().clone()
        with pytest.raises(LosskitRuntimeError) as raised:
            L.cross_entropy(view(leaf), self.target, inplace_backward=True)
        assert str(raised.value) == (
            "cross_entropy: inplace_backward=True would overwrite a leaf that requires a gradient; it is meant for the "
            "output of a layer."
        )
        assert torch.equal(leaf, before)

    def test_parameter(self) -> None:
        parameter = torch.nn.Parameter(torch.randn(ROWS, CLASSES))
        with pytest.raises(LosskitRuntimeError, match="would overwrite a leaf"):
            L.cross_entropy(parameter, self.target, inplace_backward=True)

    def test_nothing_is_overwritten_where_no_gradient_is_wanted(self) -> None:
        leaf, logits = layer(ROWS, CLASSES)
        before = leaf.detach().clone()
        with torch.no_grad():
            value = L.cross_entropy(leaf, self.target, inplace_backward=True)
            L.cross_entropy(logits, self.target, inplace_backward=True)
        L.cross_entropy(logits.detach(), self.target, inplace_backward=True)
        assert torch.equal(logits, before)
        assert torch.equal(leaf, before)
        assert_same(value, F.cross_entropy(before, self.target))

    def test_reduction_none(self) -> None:
        _, logits = layer(ROWS, CLASSES)
        before = logits.detach().clone()
        with pytest.raises(LosskitValueError) as raised:
            L.cross_entropy(logits, self.target, reduction="none", inplace_backward=True)
        assert str(raised.value) == (
            "cross_entropy: inplace_backward=True needs a reduction of 'mean' or 'sum': the gradient of single losses "
            "is not known before backward."
        )
        assert torch.equal(logits, before)

    def test_second_backward(self) -> None:
        _, logits = layer(ROWS, CLASSES)
        loss = L.cross_entropy(logits, self.target, inplace_backward=True)
        loss.backward(retain_graph=True)
        with pytest.raises(LosskitRuntimeError) as raised:
            loss.backward()
        assert str(raised.value) == (
            "cross_entropy: inplace_backward=True leaves no logits for a second backward or create_graph=True: "
            "inplace_backward=False?"
        )

    def test_create_graph(self) -> None:
        leaf, logits = layer(ROWS, CLASSES)
        loss = L.cross_entropy(logits, self.target, inplace_backward=True)
        with pytest.raises(LosskitRuntimeError, match="leaves no logits for a second backward or create_graph=True"):
            torch.autograd.grad(loss, leaf, create_graph=True)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_rounded_gradient_takes_no_factor(self, dtype: torch.dtype) -> None:
        leaf = torch.randn(ROWS, CLASSES).to(dtype).requires_grad_()
        loss = L.cross_entropy(leaf + 0, self.target, inplace_backward=True)
        with pytest.raises(LosskitRuntimeError) as raised:
            (4 * loss).backward()
        assert str(raised.value) == (
            f"cross_entropy: inplace_backward=True with {dtype} logits takes a grad_output of 1, got 4, because the "
            "gradient has been rounded already: normalizer= scales before that."
        )

    def test_rounded_gradient_scaled_by_the_normalizer(self) -> None:
        leaf = torch.randn(ROWS, CLASSES).half().requires_grad_()
        L.cross_entropy(leaf + 0, self.target, normalizer=1 / 1024, inplace_backward=True).backward()
        exact = gradient(F.cross_entropy, leaf.double(), self.target, reduction="sum") * 1024
        assert leaf.grad is not None
        assert_same(leaf.grad, exact.half(), 1)

    def test_strided_logits_are_left_alone(self) -> None:
        leaf, _ = layer(ROWS, 2 * CLASSES)
        logits = (leaf + 0)[:, :CLASSES]
        before = logits.detach().clone()
        with pytest.raises(LosskitRuntimeError) as raised:
            L.cross_entropy(logits, self.target, inplace_backward=True)
        assert str(raised.value) == (
            f"cross_entropy: inplace_backward=True needs contiguous logits, got strides ({2 * CLASSES}, 1)."
        )
        assert torch.equal(logits, before)

    def test_bad_target_leaves_the_logits_alone(self) -> None:
        _, logits = layer(ROWS, CLASSES)
        before = logits.detach().clone()
        with pytest.raises(IndexError):
            L.cross_entropy(logits, self.target + 1, inplace_backward=True)
        assert torch.equal(logits, before)

    def test_slice_of_a_batch(self) -> None:
        leaf, logits = layer(2 * ROWS, CLASSES)
        both = self.target.repeat(2)
        expected = gradient(
            lambda x, y: F.cross_entropy(x[:ROWS], y[:ROWS]) + F.cross_entropy(x[ROWS:], y[ROWS:]), leaf, both
        )
        loss = L.cross_entropy(logits[:ROWS], self.target, inplace_backward=True)
        loss = loss + L.cross_entropy(logits[ROWS:], self.target)
        try:
            loss.backward()
        except RuntimeError as error:
            # The halves share one version counter, so torch may refuse; it must not be wrong.
            assert "modified by an inplace operation" in str(error)  # noqa: PT017
        else:
            assert leaf.grad is not None
            assert_same(leaf.grad, expected)


# modes and settings ---------------------------------------------------------------------------------------------------


@each_loss
@each_reduction
def test_inference_mode(loss: Loss, reduction: str) -> None:
    input, target = loss.tensors()
    with torch.inference_mode():
        result = loss.ours(input, target, reduction=reduction)
        assert result.is_inference()
        assert not result.requires_grad
        assert_same(result, loss.torchs(input, target, reduction=reduction))
        made_here = loss.ours(input.clone(), target.clone(), reduction=reduction)
        assert_same(made_here, result)


@each_loss
def test_anomaly_mode(loss: Loss) -> None:
    input, target = loss.tensors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly():
            assert_same(gradient(loss.ours, input, target), gradient(loss.torchs, input, target))
            with pytest.raises(RuntimeError, match="returned nan values"):
                gradient(loss.ours, input, target, torch.tensor(float("nan")))


@pytest.mark.parametrize(
    "mode",
    [lambda: torch.device("cpu"), lambda: FlopCounterMode(display=False)],
    ids=["function mode", "dispatch mode"],
)
@each_loss
def test_modes(loss: Loss, mode: Callable[[], AbstractContextManager[Any]]) -> None:
    input, target = loss.tensors()
    expected = gradient(loss.torchs, input, target, torch.tensor(3.0))
    with mode():
        assert_same(loss.ours(input, target), loss.torchs(input, target))
        assert_same(gradient(loss.ours, input, target, torch.tensor(3.0)), expected)
    # A forward outside, its backward inside.
    leaf = input.clone().requires_grad_()
    result = loss.ours(leaf, target)
    with mode():
        result.backward(torch.tensor(3.0))
    assert leaf.grad is not None
    assert_same(leaf.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@each_loss
def test_autocast(loss: Loss, dtype: torch.dtype) -> None:
    if loss.name == "binary_cross_entropy":
        pytest.skip("torch refuses binary_cross_entropy of half-precision probabilities under autocast")
    if loss.name == "gaussian_nll_loss" and dtype != torch.float32:
        pytest.skip("torch takes the logarithm of the variance in half precision")
    if loss.name == "multilabel_soft_margin_loss" and dtype != torch.float32:
        pytest.skip("torch takes log_sigmoid in half precision")
    # A norm has more roundings, and torch takes them in another order.
    digits = 4 if loss.name == "triplet_margin_loss" else 2
    input, target = loss.tensors()
    input = input.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, expected = loss.ours(input, target), loss.torchs(input, target)
        assert_same(ours, expected)
        assert_same(gradient(loss.ours, input, target), gradient(loss.torchs, input, target), digits)


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@each_loss
@each_reduction
def test_default_dtype(loss: Loss, reduction: str, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and loss.name in ("multi_margin_loss", "multilabel_margin_loss"):
        pytest.skip("torch has no bfloat16 kernel for it")
    input, target = loss.tensors()
    input = input.to(dtype)
    target = target.to(dtype) if target.is_floating_point() else target
    ours, expected = (function(input, target, reduction=reduction) for function in (loss.ours, loss.torchs))
    assert ours.dtype == expected.dtype == dtype
    exact = loss.torchs(input.double(), target.double() if target.is_floating_point() else target, reduction=reduction)
    assert_same(ours, exact.to(dtype))
    upstream = torch.ones(ours.shape, dtype=dtype)
    assert gradient(loss.ours, input, target, upstream, reduction=reduction).dtype == dtype


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("backend", ["auto", "reference"])
@each_loss
@each_reduction
def test_deterministic_algorithms(loss: Loss, reduction: str, backend: str) -> None:
    input, target = loss.tensors()
    results = [loss.ours(input, target, reduction=reduction, backend=backend) for _ in range(2)]
    assert torch.equal(*results)
    upstream = torch.ones(results[0].shape)
    grads = [gradient(loss.ours, input, target, upstream, reduction=reduction, backend=backend) for _ in range(2)]
    assert torch.equal(*grads)
    assert_same(grads[0], gradient(loss.torchs, input, target, upstream, reduction=reduction))


@pytest.fixture
def flushed_denormals() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("flushed_denormals")
@each_loss
def test_flushed_denormals_change_nothing_else(loss: Loss) -> None:
    input, target = loss.tensors()
    flushed = loss.ours(input, target), gradient(loss.ours, input, target)
    torch.set_flush_denormal(False)
    assert torch.equal(flushed[0], loss.ours(input, target))
    assert torch.equal(flushed[1], gradient(loss.ours, input, target))


@pytest.mark.usefixtures("flushed_denormals")
def test_flushed_denormals_leave_the_small_numbers_of_float16() -> None:
    # They are normal numbers of float32, in which the loss is computed.
    bits = torch.arange(1, 1024, dtype=torch.int16)
    small = bits.view(torch.float16)
    total = L.l1_loss(small, torch.zeros_like(small), reduction="sum", out_dtype=torch.float32)
    assert float(total) == float(bits.sum()) * 2.0**-24
    single = L.l1_loss(small, torch.zeros_like(small), reduction="none")
    assert torch.equal(single.view(torch.int16), bits)


@each_loss
@each_reduction
def test_traced_function_takes_another_batch(loss: Loss, reduction: str) -> None:
    with warnings.catch_warnings():
        # torch.jit.trace is deprecated, and the checks of shapes are values of this trace.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(lambda x, y: loss.ours(x, y, reduction=reduction), loss.tensors(), check_trace=False)
    for rows in (ROWS, ROWS + 3):
        input, target = loss.tensors(rows)
        expected = loss.torchs(input, target, reduction=reduction)
        assert_same(traced(input, target), expected)
        upstream = torch.linspace(0.5, 2, expected.numel()).reshape(expected.shape)
        assert_same(
            gradient(traced, input, target, upstream),
            gradient(loss.torchs, input, target, upstream, reduction=reduction),
        )


# threads and processes ------------------------------------------------------------------------------------------------


def in_threads(*work: Callable[[], None]) -> None:
    """Run them at once; the first error of any of them is raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(work))

    def run(one: Callable[[], None]) -> None:
        try:
            start.wait(30)
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("shapes", [[(300, 200), (300, 200)], [(300, 200), (64, 3000)]], ids=["same", "different"])
@each_loss
def test_two_threads_at_once(loss: Loss, shapes: list[tuple[int, int]]) -> None:
    def work(shape: tuple[int, int]) -> Callable[[], None]:
        input, target = loss.tensors(*shape)
        value, grad = loss.ours(input, target), gradient(loss.ours, input, target, torch.tensor(3.0))

        def repeat() -> None:
            for _ in range(20):
                assert torch.equal(loss.ours(input, target), value)
                assert torch.equal(gradient(loss.ours, input, target, torch.tensor(3.0)), grad)

        return repeat

    in_threads(*map(work, shapes))


def test_threads_share_a_parameter() -> None:
    """Each takes a part of the batch forward; one backward goes through all."""
    torch.manual_seed(0)
    weight = torch.randn(8, 300, requires_grad=True)
    batches, targets = torch.randn(3, 200, 8), torch.randint(300, (3, 200))
    losses: list[Tensor | None] = [None] * 3

    def part(index: int) -> Callable[[], None]:
        def run() -> None:
            losses[index] = L.cross_entropy(batches[index] @ weight, targets[index])

        return run

    in_threads(*map(part, range(3)))
    torch.stack([loss for loss in losses if loss is not None]).sum().backward()
    assert weight.grad is not None
    ours, weight.grad = weight.grad, None
    torch.stack([F.cross_entropy(batches[index] @ weight, targets[index]) for index in range(3)]).sum().backward()
    assert weight.grad is not None
    assert_same(ours, weight.grad, 256)


def test_each_thread_runs_its_own_backward() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(4, 200, 300), torch.randint(300, (4, 200))
    expected = [gradient(L.cross_entropy, input, target) for input, target in zip(inputs, targets, strict=True)]
    leaves = [input.clone().requires_grad_() for input in inputs]
    # Made here, used there: the buffers go back to the pool from another thread.
    losses = [L.cross_entropy(leaf, target) for leaf, target in zip(leaves, targets, strict=True)]
    in_threads(*(loss.backward for loss in losses))
    for leaf, grad in zip(leaves, expected, strict=True):
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, grad)


@needs_kernels
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_one_thread_is_one_thread() -> None:
    code = """
        import os, torch
        torch.set_num_threads({threads})
        import losskit
        x, t = torch.empty(512, 2000).fill_(0.5).requires_grad_(), torch.zeros(512, dtype=torch.long)
        threads = len(os.listdir("/proc/self/task"))
        loss = losskit.functional.cross_entropy(x, t)
        print(len(os.listdir("/proc/self/task")) - threads)
    """
    assert output_of(code.format(threads=1)) == "0"


@needs_kernels
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_fork_after_use() -> None:
    """The child has none of the parent's threads: waiting for them would never end."""
    code = """
        import os, signal, sys, torch, losskit
        from losskit import functional as L
        torch.set_num_threads(2)
        torch.manual_seed(0)
        t = torch.randint(1000, (512,))
        x = torch.randn(512, 1000, requires_grad=True)
        y = torch.randn(512, 1000)
        # Made before the fork: torch's own threads are gone after it too.
        logits = [x + 0, x + 0, x + 0]

        def results():
            x.grad = None
            L.cross_entropy(x, t).backward(torch.tensor(3.0))
            none = L.cross_entropy(x, t, reduction="none")
            place = logits.pop()
            loss = L.cross_entropy(place, t, inplace_backward=True)
            return x.grad, none, L.mse_loss(x, y), L.huber_loss(x, y, reduction="none"), loss, place

        before = results()
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            torch.set_num_threads(2)
            after = results()
            losskit.empty_cache()
            torch.set_num_threads(1)
            os._exit(0 if all(map(torch.equal, before, after)) else 3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(all(map(torch.equal, before, results())))
    """
    assert output_of(code, timeout=90).split() == ["0", "True"]


@needs_kernels
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_loss_in_a_worker_of_the_data_loader() -> None:
    code = """
        import torch
        from torch.utils.data import DataLoader, Dataset
        from losskit import functional as L

        x = torch.linspace(-3, 3, 200_000).reshape(2000, 100)
        t = torch.arange(2000) % 100

        class Losses(Dataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                leaf = (x * (index + 1)).requires_grad_()
                loss = L.cross_entropy(leaf, t)
                loss.backward()
                return loss.detach(), leaf.grad[:3].clone()

        if __name__ == "__main__":
            torch.set_num_threads(2)
            here = [Losses()[index] for index in range(4)]
            loader = DataLoader(Losses(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
            there = list(loader)
            print(all(torch.equal(a, b) for one, other in zip(here, there) for a, b in zip(one, other)))
    """
    assert output_of(code, timeout=100) == "True"


@each_loss
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_nothing_counts_and_no_gradient_flows(loss: Loss, backend: str) -> None:
    if backend == "cpu" and not cpu.available():
        pytest.skip("the kernels are not built here")
    input, target = loss.tensors()
    leaf = input.requires_grad_()
    shape = loss.ours(leaf, target, reduction="none").shape
    loss.ours(leaf, target, mask=torch.zeros(shape, dtype=torch.bool), backend=backend).backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, torch.zeros_like(leaf))


@needs_kernels
@pytest.mark.parametrize("name", ["target", "weight"])
def test_in_place_refuses_what_shares_the_logits_memory(name: str) -> None:
    logits = torch.rand(1, 2000, requires_grad=True) * 1
    shared = logits.detach()
    target, weight = (shared, None) if name == "target" else (torch.tensor([3]), shared[0])
    with pytest.raises(LosskitRuntimeError) as raised:
        L.cross_entropy(logits, target, weight, inplace_backward=True)
    assert str(raised.value) == (
        f"cross_entropy: inplace_backward=True overwrites input, and {name} shares its memory: {name}.clone()?"
    )


def test_overflowed_loss_scale_leaves_ignored_rows_alone() -> None:
    leaf = torch.rand(3, 4, requires_grad=True)
    (L.nll_loss(leaf, torch.tensor([0, -100, 2])) * float("inf")).backward()
    assert leaf.grad is not None
    expected = torch.zeros(3, 4)
    expected[0, 0] = expected[2, 2] = -float("inf")
    assert torch.equal(leaf.grad, expected)


@needs_kernels
@pytest.mark.parametrize(("classes", "gap"), [(3, 20.0), (21, 15.0), (100, 15.0), (256, 20.0), (32000, 25.0)])
@pytest.mark.parametrize("positions", [1, 7])
def test_sure_predictions_keep_their_digits(classes: int, gap: float, positions: int) -> None:
    torch.manual_seed(classes)
    logits = torch.randn(4, classes, positions) / 10
    logits[:, 1] = gap
    logits = logits.squeeze(2)
    target = torch.ones(4, *logits.shape[2:], dtype=torch.long)
    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = L.cross_entropy(leaf, target, backend="cpu")
    truth = F.cross_entropy(exact, target)
    loss.backward()
    truth.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert exact.grad is not None
    # Eager loses every digit here, so its error is no yardstick: the exponentials of scores about `gap` below the
    # maximum are known to gap / 2 roundings.
    allowed = (4 + gap / 2) * torch.finfo(torch.float32).eps
    assert abs(loss.item() - truth.item()) <= allowed * truth.item()
    error = (leaf.grad[:, 1].double() - exact.grad[:, 1]).abs()
    assert bool((error <= allowed * exact.grad[:, 1].abs()).all())


def test_targets_that_another_thread_rewrites_never_lead_outside() -> None:
    input, target = torch.randn(20000, 20), torch.ones(20000, dtype=torch.long)
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            target.fill_(2**40)
            target.fill_(1)

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        for _ in range(300):
            try:
                L.nll_loss(input, target)
                L.cross_entropy(input, target)
            except losskit.LosskitError:
                # The targets were out of range in one of the looks at them.
                pass
    finally:
        stop.set()
        thread.join()
    assert torch.isfinite(L.nll_loss(input, torch.ones_like(target)))
