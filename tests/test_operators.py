"""The kernels as operators in the graph of torch.compile."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from assertions import assert_as_exact
from cases import APART_CASES, BY_NAME, CASES, KERNEL_DTYPES, REDUCTIONS, VARIANTS, Call, Case
from fresh_process import output_of
from torch import Tensor
from torch.library import opcheck
from torch.testing import assert_close

import losskit
from losskit import functional as F
from losskit.families.operators import kept
from losskit.kernels import cpu

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the kernels are not built here")

CLASSES = ("cross_entropy", "nll_loss")
# The code and the parameters of each kernel of several tensors.
FUSED: dict[str, tuple[int, list[float]]] = {
    "soft_margin_loss": (cpu.SOFT_MARGIN, []),
    "hinge_embedding_loss": (cpu.HINGE_EMBEDDING, [1.0]),
    "margin_ranking_loss": (cpu.MARGIN_RANKING, [0.5]),
    "kl_div": (cpu.KL_DIV, [0.0]),
    "poisson_nll_loss": (cpu.POISSON_NLL, [1e-8, 1.0, 0.0]),
    "gaussian_nll_loss": (cpu.GAUSSIAN_NLL, [1e-6, 0.0]),
    "multi_margin_loss": (cpu.MULTI_MARGIN, [1.0, 1.0]),
    "multilabel_margin_loss": (cpu.MULTILABEL_MARGIN, []),
    "multilabel_soft_margin_loss": (cpu.MULTILABEL_SOFT_MARGIN, []),
    "cosine_embedding_loss": (cpu.COSINE_EMBEDDING, [0.25]),
    "triplet_margin_loss": (cpu.TRIPLET_MARGIN, [1.0, 2.0, 1e-6, 0.0]),
}
CTC = next(case for case in APART_CASES if case.name == "ctc_loss")


def operator_of(case: Case) -> str:
    name = "class_loss" if case.name in CLASSES else "fused" if case.name in FUSED else "pointwise"
    return f"losskit.{'ctc_loss' if case is CTC else name}.default"


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs:
    """A backend of torch.compile that keeps the graphs it is given, and runs them."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def operators(self) -> list[str]:
        names = [str(node.target) for graph in self.graphs for node in graph.graph.nodes]
        return [name for name in names if name.startswith("losskit.")]


def logits_of(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def labels_of(*shape: int, classes: int = 5) -> Tensor:
    target = torch.randint(classes, shape)
    target.view(-1)[0] = -100
    return target


def compiled(function: Callable[..., Tensor], inductor: bool = False, **options: Any) -> Callable[..., Tensor]:
    """`function` with these options in one graph: as it was traced, or as Inductor makes code of it."""
    return torch.compile(
        lambda x, y: function(x, y, **options),
        fullgraph=True,
        dynamic=False,
        backend="inductor" if inductor else "aot_eager",
    )


def assert_same_call(ours: Tensor, expected: Tensor, *leaves: Tensor) -> None:
    """The same kernel has run: the same bits. Of a sample that is impossible they are those of a NaN."""
    assert_close(ours, expected, rtol=0, atol=0)
    grad_output = torch.randn_like(ours) if ours.ndim else ours.new_tensor(-0.375)
    found = torch.autograd.grad(ours, leaves, grad_output)
    wanted = torch.autograd.grad(expected, leaves, grad_output)
    assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


# opcheck


def class_arguments(input: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> tuple[Any, ...]:
    return input, target, weight, None, None, None, None, "cross_entropy", -100, 0.1, reduction, "nan"


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("input", "target"),
    [
        (torch.randn(6, 5), labels_of(6)),
        (torch.randn(5, 6).t(), labels_of(6)),
        (torch.randn(2, 5, 3, 4).contiguous(memory_format=torch.channels_last), labels_of(2, 3, 4)),
        (torch.randn(2, 5, 4), torch.rand(2, 5, 4)),
        (torch.randn(5), torch.tensor(2)),
    ],
    ids=["rows", "transposed", "channels last", "probabilities", "one sample"],
)
def test_class_operators_pass_opcheck(input: Tensor, target: Tensor, reduction: str) -> None:
    for weight in (None, torch.rand(5)):
        arguments = class_arguments(input.detach().requires_grad_(), target, weight, reduction)
        opcheck(torch.ops.losskit.class_loss.default, (*arguments, torch.float32, True))
        arguments = class_arguments(input, target, weight, reduction)
        loss, owner = torch.ops.losskit.class_loss.default(*arguments, torch.float32, True)
        opcheck(torch.ops.losskit.class_loss_backward.default, (torch.rand_like(loss), owner, *arguments))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kernel", [cpu.MSE, cpu.HUBER, cpu.BCE, cpu.BCE_WITH_LOGITS])
def test_pointwise_operators_pass_opcheck(kernel: int, reduction: str) -> None:
    input, target = torch.rand(6, 5), torch.rand(6, 5)
    factors = (torch.rand(6, 5), None, None, torch.rand(6, 5) > 0.3, None)
    options = (None, "the loss", kernel, 0.5, False, reduction, "nan")
    needs = (input.detach().requires_grad_(), target.detach().requires_grad_(kernel in cpu.SYMMETRIC))
    opcheck(torch.ops.losskit.pointwise.default, (*needs, *factors, *options, torch.float32, True))
    arguments = (input, target, *factors, *options)
    loss, owner = torch.ops.losskit.pointwise.default(*arguments, torch.float32, True)
    opcheck(torch.ops.losskit.pointwise_backward.default, (torch.rand_like(loss), owner, *arguments))


def fused_arguments(name: str, reduction: str, *tensors: Tensor) -> tuple[Any, ...]:
    kernel, parameters = FUSED[name]
    shape = tensors[0].shape[:-1] if kernel in cpu.ROWS else tensors[0].shape
    class_weight = torch.rand(5) if kernel in (cpu.MULTI_MARGIN, cpu.MULTILABEL_SOFT_MARGIN) else None
    factors = (class_weight, torch.rand(shape), torch.rand(shape) > 0.3, None)
    places = (*tensors, *[None] * (3 - len(tensors)))
    return *places, *factors, None, name, kernel, parameters, tensors[0].shape[0], reduction, "nan"


def test_every_kernel_of_several_tensors_is_checked() -> None:
    assert sorted(kernel for kernel, _ in FUSED.values()) == sorted(cpu.GRADIENTS)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", FUSED)
def test_fused_operators_pass_opcheck(name: str, reduction: str) -> None:
    call = BY_NAME[name].make("plain", (6, 5), torch.float32)
    places = cpu.GRADIENTS[FUSED[name][0]]
    needs = [place in places for place in range(len(call.tensors))]
    arguments = fused_arguments(name, reduction, *call.leaves(*places).tensors)
    opcheck(torch.ops.losskit.fused.default, (*arguments, torch.float32, needs))
    arguments = fused_arguments(name, reduction, *call.tensors)
    # All that there can be, and the last alone.
    for wanted in (needs, [False] * places[-1] + [True]):
        loss, owner = torch.ops.losskit.fused.default(*arguments, torch.float32, wanted)
        opcheck(torch.ops.losskit.fused_backward.default, (torch.rand_like(loss), owner, *arguments, wanted))


def ctc_arguments(call: Call, reduction: str) -> tuple[Any, ...]:
    batch = call.input.shape[1]
    lengths = (call.kwargs["input_lengths"], call.kwargs["target_lengths"])
    factors = (torch.rand(batch), torch.arange(batch) != 1, None, None)
    return call.input, call.target, *lengths, *factors, "ctc_loss", 0, True, reduction, "nan"


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("samples_first", [False, True])
@pytest.mark.parametrize("variant", ["plain", "concatenated", "impossible"])
def test_ctc_operators_pass_opcheck(variant: str, samples_first: bool, reduction: str) -> None:
    call = CTC.make(variant, (5, 3, 3), torch.float32)
    if samples_first:
        call = call.with_tensors(call.input.transpose(0, 1).contiguous().transpose(0, 1), call.target)
    assert call.input.is_contiguous() != samples_first
    opcheck(torch.ops.losskit.ctc_loss.default, (*ctc_arguments(call.leaves(), reduction), torch.float32, True))
    arguments = ctc_arguments(call, reduction)
    loss, owner = torch.ops.losskit.ctc_loss.default(*arguments, torch.float32, True)
    opcheck(torch.ops.losskit.ctc_loss_backward.default, (torch.rand_like(loss), owner, *arguments))


# values and gradients


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": torch.tensor([1.0, 0.5, 2.0, 0.25, 3.0])},
        {"ignore_index": 3},
        {"label_smoothing": 0.1},
        {"sample_weight": torch.linspace(0.5, 2, 6)},
        {"mask": torch.tensor([True, False, True, True, False, True])},
        {"normalizer": 7},
        {"normalizer": torch.tensor(3.0)},
        {"on_empty": "zero"},
        {"out_dtype": torch.float64},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_options(options: dict[str, Any]) -> None:
    x, t = logits_of(6, 5), labels_of(6)
    if options.get("ignore_index") == 3:
        t[0] = 3
    for reduction in REDUCTIONS:
        if reduction == "none" and "normalizer" in options:
            continue
        ours = compiled(F.cross_entropy, backend="cpu", reduction=reduction, **options)(x, t)
        assert_same_call(ours, F.cross_entropy(x, t, reduction=reduction, **options), x)
        torch._dynamo.reset()


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("case", [*CASES, CTC], ids=repr)
def test_every_loss(case: Case, dtype: torch.dtype) -> None:
    call = case.make("plain", case.shapes[0] if case is CTC else (6, 5), dtype).leaves(*case.kernel_gradients)
    for reduction in (*REDUCTIONS, *(["batchmean"] if case.name == "kl_div" else [])):
        assert_operator(case, call, reduction=reduction)


@pytest.mark.parametrize(
    ("case", "variant"),
    [*VARIANTS, *(pytest.param(CTC, variant, id=f"ctc_loss-{variant.replace(' ', '_')}") for variant in CTC.variants)],
)
def test_every_variant_with_weights_and_a_mask(case: Case, variant: str) -> None:
    call = case.make(variant, case.shapes[0] if case is CTC else (6, 5), torch.float32).leaves(*case.kernel_gradients)
    shape = call.input.shape[1:2] if case is CTC else case.loss_shape(call)
    mask = torch.arange(shape.numel()).reshape(shape) % 3 != 1
    assert_operator(case, call, sample_weight=torch.linspace(0.5, 2, shape.numel()).reshape(shape), mask=mask)


def assert_operator(case: Case, call: Call, **options: Any) -> None:
    """The call is one operator in the graph, with the bits of the eager call."""
    graphs = Graphs()
    ours = torch.compile(
        lambda x, y, **more: case.function(x, y, backend="cpu", **more), fullgraph=True, backend=graphs
    )
    assert_same_call(call.run(ours, **options), call.run(case.function, **options), *call.wanted())
    assert graphs.operators() == [operator_of(case)]
    torch._dynamo.reset()


@pytest.mark.parametrize("case", [BY_NAME[name] for name in ("gaussian_nll_loss", "cosine_embedding_loss")], ids=repr)
def test_gradients_by_some_tensors(case: Case) -> None:
    for place in case.kernel_gradients:
        for reduction in REDUCTIONS:
            assert_operator(case, case.make("plain", (6, 5), torch.float32).leaves(place), reduction=reduction)


def test_one_sequence() -> None:
    call = CTC.make("plain", (4, 3), torch.float32).leaves()
    for reduction in REDUCTIONS:
        assert_operator(CTC, call, reduction=reduction, mask=torch.tensor(True), sample_weight=torch.tensor(0.5))


@pytest.mark.parametrize("layout", ["samples first", "classes first"])
def test_layouts_of_sequences(layout: str) -> None:
    call = CTC.make("plain", (5, 3, 3), torch.float32)
    order = (1, 0, 2) if layout == "samples first" else (2, 1, 0)
    call = call.with_tensors(call.input.permute(order).contiguous().permute(order), call.target).leaves()
    for reduction in REDUCTIONS:
        assert_operator(CTC, call, reduction=reduction)


@pytest.mark.parametrize("case", [CTC, BY_NAME["triplet_margin_loss"], BY_NAME["multi_margin_loss"]], ids=repr)
def test_through_inductor(case: Case) -> None:
    call = case.make("plain", case.shapes[0], torch.float32)
    call = call.leaves(*case.kernel_gradients)

    def loss(function: Callable[..., Tensor], **more: Any) -> Tensor:
        # Something before and after the loss, for Inductor to put into the graph.
        return 2 * call.with_tensors(call.input * 1.5, *call.tensors[1:]).run(function, **more)

    ours = torch.compile(lambda: loss(case.function, backend="cpu"), fullgraph=True)()
    assert_same_call(ours, loss(case.function), *call.wanted())


def test_target_of_a_difference_gets_its_gradient() -> None:
    x, y = torch.randn(7, requires_grad=True), torch.randn(7, requires_grad=True)
    assert_same_call(compiled(F.mse_loss, backend="cpu")(x, y), F.mse_loss(x, y), x, y)
    assert_same_call(compiled(F.mse_loss, backend="cpu")(x.detach(), y), F.mse_loss(x.detach(), y), y)


@pytest.mark.parametrize("layout", ["transposed", "channels last", "sliced"])
def test_layouts(layout: str) -> None:
    t = labels_of(2, 4, 3)
    x = {
        "transposed": torch.randn(4, 5, 2, 3).transpose(0, 2),
        "channels last": torch.randn(2, 5, 4, 3).contiguous(memory_format=torch.channels_last),
        "sliced": torch.randn(2, 10, 4, 3)[:, ::2],
    }[layout]
    x = x.detach().requires_grad_()
    shape = (x.shape[0], *x.shape[2:])
    t = t.reshape(shape)
    for reduction in REDUCTIONS:
        ours = compiled(F.cross_entropy, backend="cpu", reduction=reduction)(x, t)
        assert_same_call(ours, F.cross_entropy(x, t, reduction=reduction), x)


def test_without_a_gradient_none_is_computed() -> None:
    x, t = torch.randn(64, 1024), torch.randint(1024, (64,))
    function = compiled(F.cross_entropy, inductor=True)
    before = losskit.memory_stats()["active_bytes"]
    loss = function(x, t)
    assert losskit.memory_stats()["active_bytes"] - before < x.nbytes
    assert_close(loss, F.cross_entropy(x, t), rtol=0, atol=0)
    with torch.no_grad():
        assert not function(x.requires_grad_(), t).requires_grad


# the gradient that waits for its backward pass


def test_the_gradient_is_handed_over_once_and_computed_anew_after_that() -> None:
    x, t = logits_of(6, 5), labels_of(6)
    arguments = class_arguments(x, t, None, "mean")
    loss, owner = torch.ops.losskit.class_loss.default(*arguments, torch.float32, True)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    copy = first.clone()
    assert kept.take(owner) is None
    first.fill_(9)
    (second,) = torch.autograd.grad(loss, x, loss.new_tensor(2.0), retain_graph=True)
    assert_close(second, 2 * copy, rtol=0, atol=0)
    (third,) = torch.autograd.grad(loss, x)
    assert_close(third, copy, rtol=0, atol=0)


def test_gradients_by_several_tensors_are_handed_over_once() -> None:
    tensors = tuple(torch.randn(6, 5, requires_grad=True) for _ in range(3))
    arguments = fused_arguments("triplet_margin_loss", "mean", *tensors)
    loss, owner = torch.ops.losskit.fused.default(*arguments, torch.float32, [True, False, True])
    # Of what was kept the second is missing: all three are computed anew.
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    assert kept.take(owner) is None
    copies = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.fill_(9)
    second = torch.autograd.grad(loss, tensors, loss.new_tensor(2.0), retain_graph=True)
    assert_close(second, tuple(2 * copy for copy in copies), rtol=0, atol=0)
    third = torch.autograd.grad(loss, tensors[1:])
    assert_close(third, tuple(copies[1:]), rtol=0, atol=0)


def test_the_gradient_goes_with_its_owner() -> None:
    x, t = logits_of(6, 5), labels_of(6)
    loss, owner = torch.ops.losskit.class_loss.default(*class_arguments(x, t, None, "mean"), torch.float32, True)
    held = weakref.ref(kept._owners[owner.data_ptr()])
    alias = owner.detach()
    del loss, owner
    gc.collect()
    assert held() is not None
    copy = alias.clone()
    assert kept.take(copy) is None
    del alias
    gc.collect()
    assert held() is None


def test_saved_tensors_that_are_copied() -> None:
    """What the hooks give back is another byte: the gradient is computed anew."""
    x, t = logits_of(64, 1024), labels_of(64, classes=1024)
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved.clone(), lambda saved: saved):
        loss = torch.ops.losskit.class_loss.default(*class_arguments(x, t, None, "mean"), torch.float32, True)[0]
    expected = F.cross_entropy(x, t, label_smoothing=0.1)
    # A power of 2, by which the one that was kept is scaled without rounding.
    upstream = torch.tensor(-0.5)
    assert_close(torch.autograd.grad(loss, x, upstream), torch.autograd.grad(expected, x, upstream), rtol=0, atol=0)


def test_equal_calls_that_the_compiler_makes_one() -> None:
    x, t = logits_of(6, 5), labels_of(6)

    def twice(x: Tensor) -> tuple[Tensor, Tensor]:
        return F.cross_entropy(x, t, backend="cpu"), 3 * F.cross_entropy(x, t, backend="cpu")

    found = torch.autograd.grad(torch.compile(twice, fullgraph=True)(x), x, [torch.tensor(2.0), torch.tensor(-1.0)])
    expected = torch.autograd.grad(F.cross_entropy(x, t), x, torch.tensor(-1.0))
    assert_as_exact(found[0], expected[0].double(), steps=8)


def test_checkpoint() -> None:
    x, t = logits_of(64, 1024), labels_of(64, classes=1024)

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(2 * x, t)

    for function in (torch.compile(loss, fullgraph=True), loss):
        ours = torch.utils.checkpoint.checkpoint(function, x, use_reentrant=False)
        assert_same_call(ours, loss(x), x)
    inside = torch.compile(lambda x: torch.utils.checkpoint.checkpoint(loss, x, use_reentrant=False), fullgraph=True)
    assert_same_call(inside(x), loss(x), x)


def test_a_float16_gradient_is_scaled_before_it_is_rounded() -> None:
    x = torch.randn(512, 128, dtype=torch.float16, requires_grad=True)
    t = torch.randint(128, (512,))
    scale = torch.tensor(4096.0, dtype=torch.float16)
    (ours,) = torch.autograd.grad(compiled(F.cross_entropy)(x, t), x, scale)
    (expected,) = torch.autograd.grad(F.cross_entropy(x, t), x, scale)
    assert_close(ours, expected, rtol=0, atol=0)
    assert int((ours == 0).sum()) == 0


# derivatives of the gradient


def test_second_derivatives_raise() -> None:
    x, t = logits_of(6, 5), labels_of(6)
    sentence = (
        "a loss that torch.compile has taken into its graph as an operator has no second derivative: "
        "backend='reference' has."
    )
    sequences = CTC.make("plain", (5, 3, 3), torch.float32).leaves()
    for leaf, loss in (
        (x, torch.ops.losskit.class_loss.default(*class_arguments(x, t, None, "mean"), torch.float32, True)[0]),
        (
            x,
            torch.ops.losskit.fused.default(
                *fused_arguments("kl_div", "mean", x, torch.rand(6, 5)), torch.float32, [True, False]
            )[0],
        ),
        (
            sequences.input,
            torch.ops.losskit.ctc_loss.default(*ctc_arguments(sequences, "mean"), torch.float32, True)[0],
        ),
    ):
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        with pytest.raises(losskit.LosskitError) as raised:
            torch.autograd.grad(gradient.square().sum(), leaf)
        assert str(raised.value) == sentence
    (gradient,) = torch.autograd.grad(compiled(F.cross_entropy, backend="cpu")(x, t), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(gradient.square().sum(), x)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacfwd, torch.func.hessian])
def test_transforms_inside_take_the_definition(transform: Callable[..., Any]) -> None:
    x, t = torch.randn(8, 5), torch.randint(5, (8,))
    graphs = Graphs()
    # Enough numbers for the operator, were it not for the transform.
    wide = torch.randn(8, 8192)

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(torch.cat([x, wide], 1), t)

    ours = torch.compile(lambda x: transform(loss)(x), fullgraph=True, backend=graphs)(x)
    assert_as_exact(ours, transform(loss)(x).double(), steps=64)
    assert graphs.operators() == []


def test_vmap_inside_takes_the_definition() -> None:
    x, t = torch.randn(3, 8, 8192), torch.randint(8192, (3, 8))
    graphs = Graphs()
    ours = torch.compile(torch.vmap(F.cross_entropy), fullgraph=True, backend=graphs)(x, t)
    assert_as_exact(ours, torch.stack([F.cross_entropy(*one) for one in zip(x, t, strict=True)]).double(), steps=8)
    assert graphs.operators() == []


# which calls get an operator


@pytest.mark.parametrize(
    ("function", "shape", "options", "operator"),
    [
        (F.cross_entropy, (32, 1024), {}, True),
        (F.cross_entropy, (31, 1024), {}, False),
        (F.cross_entropy, (32, 1024), {"backend": "reference"}, False),
        (F.cross_entropy, (4, 10), {"backend": "cpu"}, True),
        (F.nll_loss, (32, 1024), {}, True),
        (F.binary_cross_entropy_with_logits, (1 << 16,), {}, True),
        (F.binary_cross_entropy_with_logits, ((1 << 16) - 1,), {}, False),
        (F.binary_cross_entropy, (1 << 16,), {}, True),
        (F.mse_loss, (1 << 16,), {}, False),
        (F.mse_loss, (1 << 16,), {"backend": "cpu"}, True),
        (F.soft_margin_loss, (1 << 16,), {}, True),
        (F.soft_margin_loss, ((1 << 16) - 1,), {}, False),
        (F.soft_margin_loss, (1 << 16,), {"backend": "reference"}, False),
        (F.gaussian_nll_loss, (1 << 16,), {}, True),
        (F.triplet_margin_loss, (512, 128), {}, True),
        (F.triplet_margin_loss, (511, 128), {}, False),
        (F.multilabel_margin_loss, (16, 64), {}, True),
        (F.multilabel_margin_loss, (15, 64), {}, False),
        (F.ctc_loss, (4, 2, 3), {}, True),
        (F.ctc_loss, (4, 2, 3), {"backend": "reference"}, False),
    ],
)
def test_who_gets_an_operator(
    function: Callable[..., Tensor], shape: tuple[int, ...], options: dict[str, Any], operator: bool
) -> None:
    if function is F.ctc_loss:
        call = CTC.make("plain", shape, torch.float32)
    elif (name := function.__name__) in FUSED:
        call = BY_NAME[name].make("plain", shape, torch.float32)
    else:
        x = torch.rand(shape)
        call = Call(x, torch.randint(shape[1], shape[:1]) if name in CLASSES else torch.rand(shape))
    graphs = Graphs()
    ours = torch.compile(lambda x, y, **more: function(x, y, **more), fullgraph=True, backend=graphs)
    assert_as_exact(call.run(ours, **options), call.run(function).double(), steps=8)
    assert bool(graphs.operators()) == operator


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_the_kernel_does_not_take_is_the_definition(dtype: torch.dtype) -> None:
    x, y = torch.randn(64, 1024, dtype=dtype), torch.rand(64, 1024, dtype=dtype)
    y.requires_grad_(dtype == torch.float32)
    graphs = Graphs()
    ours = torch.compile(F.cross_entropy, fullgraph=True, backend=graphs)(x, y)
    assert_as_exact(ours, F.cross_entropy(x, y).double(), steps=8)
    assert graphs.operators() == []


def test_export_holds_the_definition() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return F.cross_entropy(x, t)

    x, t = torch.randn(64, 1024), torch.randint(1024, (64,))
    program = torch.export.export(Model(), (x, t))
    assert "losskit" not in str(program.graph)
    assert_as_exact(program.module()(x, t), F.cross_entropy(x, t).double(), steps=8)


def test_in_place_is_refused() -> None:
    x, t = torch.randn(64, 1024), torch.randint(1024, (64,))
    with pytest.raises(RuntimeError, match=r"needs the CPU kernel, but torch\.compile is tracing"):
        compiled(F.cross_entropy, inplace_backward=True)(x, t)


# sizes that change


def test_one_graph_for_every_batch() -> None:
    graphs = Graphs()
    function = torch.compile(F.cross_entropy, fullgraph=True, backend=graphs, dynamic=True)
    counts = set()
    for rows in (40, 64, 100, 41):
        x, t = logits_of(rows, 1024), labels_of(rows, classes=1024)
        assert_same_call(function(x, t), F.cross_entropy(x, t), x)
        counts.add(len(graphs.graphs))
    assert len(counts) == 1
    assert graphs.operators() == ["losskit.class_loss.default"]


@pytest.mark.parametrize("name", ["kl_div", "multi_margin_loss", "triplet_margin_loss"])
def test_one_graph_for_every_batch_of_several_tensors(name: str) -> None:
    case = BY_NAME[name]
    graphs = Graphs()
    function = torch.compile(
        lambda x, y, **more: case.function(x, y, backend="cpu", **more), fullgraph=True, backend=graphs, dynamic=True
    )
    reduction = "batchmean" if name == "kl_div" else "mean"
    for rows in (40, 64, 100, 41):
        call = case.make("plain", (rows, 16), torch.float32).leaves(*case.kernel_gradients)
        ours = call.run(function, reduction=reduction)
        assert_same_call(ours, call.run(case.function, reduction=reduction), *call.wanted())
    assert graphs.operators() == ["losskit.fused.default"]


def test_one_graph_for_every_batch_of_sequences() -> None:
    graphs = Graphs()
    function = torch.compile(F.ctc_loss, fullgraph=True, backend=graphs, dynamic=True)
    for batch, frames in ((4, 12), (6, 20), (5, 14), (9, 31)):
        call = CTC.make("plain", (frames, batch, 7), torch.float32).leaves()
        assert_same_call(call.run(function), call.run(F.ctc_loss), *call.wanted())
    assert graphs.operators() == ["losskit.ctc_loss.default"]


def test_batch_sizes_through_inductor() -> None:
    function = torch.compile(F.cross_entropy, fullgraph=True)
    for rows in (40, 64, 100):
        x, t = logits_of(rows, 1024), labels_of(rows, classes=1024)
        assert_same_call(function(x, t), F.cross_entropy(x, t), x)


# faults


def test_class_out_of_range() -> None:
    x, t = logits_of(64, 1024), torch.randint(1024, (64,))
    function = compiled(F.cross_entropy, inductor=True)
    function(x, t)
    t[12] = 1024
    with pytest.raises(IndexError) as raised:
        function(x, t)
    with pytest.raises(IndexError) as eager:
        F.cross_entropy(x, t)
    assert str(raised.value) == str(eager.value)
    assert str(raised.value).startswith(
        "cross_entropy: 1 of 64 targets lie outside [0, 1024): {1024}, first at index 12"
    )
    # Whatever modes are on while the compiled code runs.
    with torch.device("cpu"), pytest.raises(IndexError) as raised:
        torch.ops.losskit.class_loss.default(*class_arguments(x, t, None, "mean"), torch.float32, True)
    assert str(raised.value) == str(eager.value)


def test_value_that_is_no_probability() -> None:
    p, y = torch.rand(1 << 16), torch.rand(1 << 16)
    function = compiled(F.binary_cross_entropy)
    function(p, y)
    p[3] = 1.5
    with pytest.raises(RuntimeError) as raised:
        function(p, y)
    with pytest.raises(RuntimeError) as eager:
        F.binary_cross_entropy(p, y)
    assert str(raised.value) == str(eager.value)


def multi_margin_fault() -> tuple[Call, type[Exception]]:
    call = BY_NAME["multi_margin_loss"].make("plain", (6, 5), torch.float32)
    call.target[2] = 5
    return call, RuntimeError


def multilabel_margin_fault() -> tuple[Call, type[Exception]]:
    call = BY_NAME["multilabel_margin_loss"].make("plain", (6, 5), torch.float32)
    call.target[2, 3] = -2
    return call, RuntimeError


def gaussian_fault() -> tuple[Call, type[Exception]]:
    call = BY_NAME["gaussian_nll_loss"].make("plain", (6, 5), torch.float32)
    call.kwargs["var"][2, 3] = -0.5
    return call, ValueError


def label_fault() -> tuple[Call, type[Exception]]:
    call = CTC.make("plain", (6, 3, 4), torch.float32)
    call.kwargs["target_lengths"][1] = 2
    call.target[1, :2] = torch.tensor([1, 4])
    return call, IndexError


def length_fault() -> tuple[Call, type[Exception]]:
    call = CTC.make("plain", (6, 3, 4), torch.float32)
    call.kwargs["input_lengths"][1] = 7
    return call, RuntimeError


FAULTS = [
    ("multi_margin_loss", multi_margin_fault, "multi_margin_loss: 1 of 6 targets lie outside [0, 5): {5}, first at"),
    ("multilabel_margin_loss", multilabel_margin_fault, "multilabel_margin_loss: 1 of 30 targets lie outside [-1, 5)"),
    ("gaussian_nll_loss", gaussian_fault, "gaussian_nll_loss: 1 of 30 values of var are negative (min=-0.5)"),
    ("ctc_loss", label_fault, "ctc_loss: 1 of 4 labels lie outside [0, 4): {4}, first in sample 1 at place 1"),
    ("ctc_loss", length_fault, "ctc_loss: input_lengths[1] is 7 but log_probs has 6 frames."),
]


@pytest.mark.parametrize(("name", "fault", "beginning"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_faults_in_values(name: str, fault: Callable[[], tuple[Call, type[Exception]]], beginning: str) -> None:
    case = CTC if name == "ctc_loss" else BY_NAME[name]
    call, error = fault()
    ours = torch.compile(lambda x, y, **more: case.function(x, y, backend="cpu", **more), fullgraph=True, dynamic=False)
    sound = case.make("plain", (6, 3, 4) if case is CTC else (6, 5), torch.float32)
    sound.run(ours)
    with pytest.raises(error) as raised:
        call.run(ours)
    with pytest.raises(error) as eager:
        call.run(case.function)
    assert str(raised.value) == str(eager.value)
    assert str(raised.value).startswith(beginning)
    # Whatever modes are on while the compiled code runs.
    operator, arguments = (
        (torch.ops.losskit.ctc_loss.default, (*ctc_arguments(call, "mean"), torch.float32, False))
        if case is CTC
        else (
            torch.ops.losskit.fused.default,
            (*fused_arguments(name, "mean", *call.tensors), torch.float32, [False] * len(call.tensors)),
        )
    )
    # Without weights and a mask.
    first = 4 if case is CTC else 3
    arguments = (*arguments[:first], *[None] * 4, *arguments[first + 4 :])
    with torch.device("cpu"), pytest.raises(error) as raised:
        operator(*arguments)
    assert str(raised.value) == str(eager.value)


# programs


def test_training_step() -> None:
    """The loss inside the compiled step, with an optimizer: the training that runs eagerly."""
    losses: dict[bool, list[float]] = {}
    for compile in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(16, 512)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        criterion = losskit.CrossEntropyLoss(label_smoothing=0.1)
        x, t = torch.randn(64, 16), torch.randint(512, (64,))

        def loss_of(
            x: Tensor, t: Tensor, model: torch.nn.Module = model, criterion: torch.nn.Module = criterion
        ) -> Tensor:
            return criterion(model(x), t)

        step = torch.compile(loss_of, fullgraph=True) if compile else loss_of
        losses[compile] = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = step(x, t)
            loss.backward()
            optimizer.step()
            losses[compile].append(loss.item())
    assert losses[True][-1] < losses[True][0]
    assert_close(losses[True], losses[False], rtol=1e-5, atol=0)


def test_without_kernels_there_are_no_operators() -> None:
    code = """
        import sys
        sys.modules["losskit._kernels"] = None
        import torch, losskit
        x, t = torch.randn(64, 1024), torch.randint(1024, (64,))
        compiled = torch.compile(losskit.functional.cross_entropy, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, t), torch.nn.functional.cross_entropy(x, t))
        print(hasattr(torch.ops.losskit, "class_loss"))
    """
    assert output_of(code) == "False"
