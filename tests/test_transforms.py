"""What programs do to a loss besides calling it: torch.func, torch.compile, tracing, autocast, subclasses."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import oracles
import pytest
import torch
from assertions import assert_as_exact
from cases import ALL_CASES, BY_NAME, CASES, KERNEL_DTYPES, REDUCTIONS, VARIANTS, Call, Case, dtype_name
from torch import Tensor
from torch._dynamo import compiled_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor

import losskit
from losskit import functional as F


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def of_input(call: Call, function: Callable[..., Tensor], **more: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: replace(call, input=x).run(function, **more)


def torch_call(call: Call) -> Call:
    return replace(call, target=call.target.long()) if call.target.dtype == torch.uint8 else call


# torch.func


@pytest.mark.parametrize("case", ALL_CASES, ids=repr)
def test_tensors_around_a_transform(case: Case) -> None:
    """One that a transform left over, and one that it does not know: where a kernel's node would not do."""
    leaf = case.make("plain", (3, 4), torch.float32).leaves()
    wide = leaf.wide().leaves()

    def assert_same(loss: Tensor, factor: Tensor) -> None:
        """It and its gradient are `factor` times what one call gives, and as exact."""
        (gradient,) = torch.autograd.grad(loss.sum(), leaf.input)
        plain, exact = (factor * one.run(case.function) for one in (leaf, wide))
        assert_as_exact(loss, exact, plain, steps=16)
        gradients = [torch.autograd.grad(losses.sum(), one.input)[0] for losses, one in ((exact, wide), (plain, leaf))]
        assert_as_exact(gradient, *gradients, steps=16)

    left = []
    grad(lambda x: (left.append(x), x.sum())[1])(leaf.input)
    assert_same(replace(leaf, input=left[0]).run(case.function), torch.tensor(1.0))

    factors = torch.tensor([2.0, 3.0])
    assert_same(vmap(lambda factor: factor * leaf.run(case.function))(factors), factors)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_tensors_left_over_from_functionalize(case: Case) -> None:
    call = case.make("plain", (3, 4), torch.float32)

    def left_over(tensor: Tensor) -> Tensor:
        left = []
        functionalize(lambda x: (left.append(x), x.sum())[1])(tensor)
        return left[0]

    weight = torch.rand(case.loss_shape(call))
    loss = replace(call, input=left_over(call.input)).run(case.function, sample_weight=left_over(weight))
    expected = call.run(case.function, sample_weight=weight)
    assert_as_exact(torch._from_functional_tensor(loss), expected.double(), steps=16)


# Torch asks every tensor that it traces for its gradient, and hides the warning about it from all but -W error.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_compiled_backward_of_an_eager_loss(case: Case) -> None:
    leaf = case.make("plain", (3, 4), torch.float32).leaves()
    for reduction in ("none", "mean"):
        (expected,) = torch.autograd.grad(leaf.run(case.function, reduction=reduction).sum(), leaf.input)
        total = leaf.run(case.function, reduction=reduction).sum()
        leaf.input.grad = None
        with compiled_autograd._enable(partial(torch.compile, backend="aot_eager")):
            total.backward()
        assert_as_exact(leaf.input.grad, expected.double(), steps=16)


# PyTorch has neither a forward derivative of the backward of these nor a batching rule for it.
WITHOUT_TRANSFORMS = ("soft_margin_loss",)


def peer(case: Case) -> Callable[..., Tensor]:
    """Torch's function, or, where that cannot be transformed or derived twice, the textbook form."""
    if case.name not in WITHOUT_TRANSFORMS:
        return case.twice or case.torch_function
    return lambda *args, reduction="mean", **kwargs: oracles.reduced(case.textbook(*args, **kwargs), reduction)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=dtype_name)
@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_func(case: Case, variant: str, dtype: torch.dtype) -> None:
    call = case.make(variant, (3, 4), dtype)
    theirs = torch_call(call)
    wide = torch_call(call.wide())
    direction = torch.randn(3, 4, dtype=torch.float64)
    for reduction in ("mean", "sum"):
        ours = of_input(call, case.function, reduction=reduction)
        eager = of_input(theirs, peer(case), reduction=reduction)
        exact = of_input(wide, peer(case), reduction=reduction)
        for transform in (grad, jacrev, jacfwd, hessian):
            assert_as_exact(
                transform(ours)(call.input),
                transform(exact)(wide.input),
                transform(eager)(call.input),
                steps=16,
                what=transform.__name__,
            )
        for mine, true, their in zip(
            jvp(ours, (call.input,), (direction.to(dtype),)),
            jvp(exact, (wide.input,), (direction,)),
            jvp(eager, (call.input,), (direction.to(dtype),)),
            strict=True,
        ):
            assert mine.dtype == their.dtype
            assert_as_exact(mine, true, their, steps=16, scale=max(1.0, abs(true.item())), what="jvp")


@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_vmap(case: Case, variant: str) -> None:
    """Of the loss and of its gradient, one call per example of a batch."""
    calls = [case.make(variant, (3, 4), torch.float32, seed=seed) for seed in range(5)]
    batch = [torch.stack(tensors) for tensors in zip(*(call.tensors for call in calls), strict=True)]
    examples = list(zip(*batch, strict=True))
    first = calls[0]

    for reduction in REDUCTIONS:

        def loss(*tensors: Tensor, reduction: str = reduction) -> Tensor:
            return first.with_tensors(*tensors).run(case.function, reduction=reduction)

        each = torch.stack([loss(*tensors) for tensors in examples])
        assert_as_exact(vmap(loss)(*batch), each.double(), steps=8)

    def mean(*tensors: Tensor) -> Tensor:
        return first.with_tensors(*tensors).run(case.function)

    gradients = torch.stack([grad(mean)(*tensors) for tensors in examples])
    assert_as_exact(vmap(grad(mean))(*batch), gradients.double(), steps=8)
    # One target for all.
    rest = examples[0][1:]
    each = torch.stack([mean(x, *rest) for x in batch[0]])
    assert_as_exact(vmap(mean, in_dims=(0, *(None for _ in rest)))(batch[0], *rest), each.double(), steps=8)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_func_with_options(case: Case) -> None:
    call = case.make("plain", (3, 4), torch.float64)
    shape = case.loss_shape(call)
    mask = torch.arange(shape.numel()).reshape(shape) % 3 != 1
    weight = torch.rand(shape, dtype=torch.float64)
    options = {"mask": mask, "sample_weight": weight, "normalizer": torch.tensor(3.0), "on_empty": "zero"}
    leaf = call.leaves()
    (expected,) = torch.autograd.grad(leaf.run(case.function, **options), leaf.input)
    assert_as_exact(grad(of_input(call, case.function, **options))(call.input), expected)
    # Over the options themselves.
    masks = torch.stack([mask, ~mask])

    def with_mask(own: Tensor) -> Tensor:
        return call.run(case.function, mask=own)

    assert_as_exact(vmap(with_mask)(masks), torch.stack([with_mask(own) for own in masks]))


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_functional_derivatives_of_autograd(case: Case) -> None:
    """torch.autograd.functional, also vectorised: the backward of a kernel under a batch of grad_outputs."""
    call = case.make("plain", (3, 4), torch.float32)
    loss = of_input(call, case.function, reduction="none")
    wide = of_input(call.wide(), case.torch_function, reduction="none")
    exact = torch.autograd.functional.jacobian(wide, call.wide().input)
    for vectorize in (False, True):
        found = torch.autograd.functional.jacobian(loss, call.input, vectorize=vectorize)
        assert_as_exact(found, exact, steps=8, what=f"jacobian, vectorize={vectorize}")
    leaf = call.leaves()
    result = leaf.run(case.function, reduction="none")
    batch = torch.randn(4, *result.shape)
    (found,) = torch.autograd.grad(result, leaf.input, batch, is_grads_batched=True, retain_graph=True)
    each = torch.stack([torch.autograd.grad(result, leaf.input, one, retain_graph=True)[0] for one in batch])
    assert_as_exact(found, each.double(), steps=8)
    _, pulled = vjp(loss, call.input)
    assert_as_exact(pulled(batch[0])[0], each[0].double(), steps=8)


# torch.compile


@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_compile(case: Case, variant: str) -> None:
    """In one graph, forward and backward, as function and as module."""
    call = case.make(variant, (6, 5), torch.float32).leaves()
    compiled = torch.compile(
        lambda x, y, **kwargs: case.function(x, y, **kwargs), fullgraph=True, backend="aot_eager", dynamic=False
    )
    loss = call.run(compiled)
    plain = call.run(case.function, backend="reference")
    assert_as_exact(loss, plain.double())
    (ours,), (expected,) = torch.autograd.grad(loss, call.input), torch.autograd.grad(plain, call.input)
    assert_as_exact(ours, expected.double(), steps=8)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_compile_of_a_module_with_options(case: Case) -> None:
    call = case.make("plain", (6, 5), torch.float32).leaves()
    shape = case.loss_shape(call)
    options = {"mask": torch.arange(shape.numel()).reshape(shape) % 3 != 1, "sample_weight": torch.rand(shape)}
    for reduction in REDUCTIONS:
        criterion = case.module(reduction=reduction, on_empty="zero")
        compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager", dynamic=False)
        loss, plain = call.run(compiled, **options), call.run(criterion, **options)
        assert_as_exact(loss, plain.double(), steps=8)
        (ours,) = torch.autograd.grad(loss.sum(), call.input)
        (expected,) = torch.autograd.grad(plain.sum(), call.input)
        assert_as_exact(ours, expected.double(), steps=8)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_compile_with_sizes_that_change(case: Case) -> None:
    """The divisor is that of each call, not that of the one that was traced."""
    compiled = torch.compile(
        lambda x, y, **kwargs: case.function(x, y, **kwargs), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for rows in (4, 7, 9):
        call = case.make("plain", (rows, 5), torch.float32)
        assert_as_exact(call.run(compiled), call.run(case.function).double(), steps=8)


def test_compile_by_inductor() -> None:
    call = BY_NAME["cross_entropy"].make("all", (6, 5), torch.float32).leaves()
    compiled = torch.compile(F.cross_entropy, fullgraph=True)
    loss, plain = call.run(compiled), call.run(F.cross_entropy)
    assert_as_exact(loss, plain.double(), steps=8)
    (ours,), (expected,) = torch.autograd.grad(loss, call.input), torch.autograd.grad(plain, call.input)
    assert_as_exact(ours, expected.double(), steps=8)


# Tensors without numbers.


@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_meta_tensors(case: Case, variant: str) -> None:
    for dtype in (torch.float64, *KERNEL_DTYPES):
        call = case.make(variant, case.shapes[0], dtype)
        meta = call.map_all(lambda tensor: tensor.to("meta"))
        for reduction in REDUCTIONS:
            expected = call.run(case.function, reduction=reduction)
            result = meta.run(case.function, reduction=reduction)
            assert result.is_meta
            assert result.shape == expected.shape
            assert result.dtype == expected.dtype


@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_fake_tensors(case: Case, variant: str) -> None:
    for dtype in KERNEL_DTYPES:
        for reduction in REDUCTIONS:
            call = case.make(variant, case.shapes[0], dtype)
            expected = call.run(case.function, reduction=reduction)
            with FakeTensorMode() as mode:
                fake = call.map_all(mode.from_tensor)
                fake.input.requires_grad_(True)
                result = fake.run(case.function, reduction=reduction)
                assert type(result) is type(fake.input)
                assert result.shape == expected.shape
                assert result.dtype == expected.dtype
                (gradient,) = torch.autograd.grad(result.sum(), fake.input)
                assert gradient.shape == call.input.shape


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_make_fx(case: Case) -> None:
    call = case.make("plain", (6, 5), torch.float32)

    def loss_and_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_(True)
        loss = replace(call, input=leaf).run(case.function)
        return loss, torch.autograd.grad(loss, leaf)[0]

    other = case.make("plain", (6, 5), torch.float32, seed=3).input
    for mode in ("real", "fake"):
        graph = make_fx(loss_and_gradient, tracing_mode=mode, _allow_non_fake_inputs=True)(call.input)
        for found, expected in zip(graph(other), loss_and_gradient(other), strict=True):
            assert_as_exact(found, expected.double(), steps=8)


# Autocast.


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=dtype_name)
@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_autocast(case: Case, variant: str, half: torch.dtype) -> None:
    """The dtype of the result, and whether there is one, is torch's."""
    for dtype in (torch.float32, half):
        call = case.make(variant, case.shapes[0], dtype).leaves()
        theirs = torch_call(call)
        with torch.autocast("cpu", dtype=half):
            try:
                expected: Tensor | Exception = theirs.run(case.torch_function)
            except RuntimeError as error:
                expected = error
            if isinstance(expected, Exception):
                with pytest.raises(type(expected)):
                    call.run(case.function)
                continue
            ours = call.run(case.function)
        assert ours.dtype == expected.dtype
        exact = torch_call(call.wide()).run(case.torch_function)
        assert_as_exact(ours, exact, expected, scale=max(1.0, abs(exact.item())))
        (gradient,) = torch.autograd.grad(ours, call.input)
        assert gradient.dtype == dtype


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_autocast_around_a_network(case: Case) -> None:
    """The usual loop: a layer in half precision, the loss in float32, backward outside."""
    layer = torch.nn.Linear(3, 5)
    call = case.make("plain", (4, 5), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(torch.randn(4, 3))
        assert output.dtype == torch.bfloat16
        if case.name == "binary_cross_entropy":
            output = output.sigmoid()
        elif case.name == "nll_loss":
            output = torch.log_softmax(output, 1)
        loss = replace(call, input=output).run(case.function)
    assert loss.dtype == torch.float32
    loss.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    assert bool(layer.weight.grad.isfinite().all())


# Tensors that are more than tensors.


class Marked(Tensor):
    """A subclass that goes through every operation."""


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_subclass_goes_through(case: Case) -> None:
    call = case.make("plain", case.shapes[0], torch.float32)
    marked = call.input.as_subclass(Marked).requires_grad_(True)
    loss = replace(call, input=marked).run(case.function)
    assert type(loss) is type(replace(call, input=marked).run(case.torch_function))
    assert_as_exact(loss.as_subclass(Tensor), call.run(case.function).double(), steps=8)
    loss.backward()
    assert marked.grad is not None
    assert losskit.explain_dispatch(replace(call, input=marked).run, case.function).backend == "reference"


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_subclass_with_its_own_dispatch(case: Case) -> None:
    """A wrapper of two tensors, as quantised and distributed tensors are wrappers: its storage is not to be read."""
    call = case.make("plain", case.shapes[0], torch.float32)
    other = case.make("plain", case.shapes[0], torch.float32, seed=4).input
    loss = replace(call, input=TwoTensor(call.input, other)).run(case.function, reduction="sum")
    assert type(loss) is TwoTensor
    assert_as_exact(loss.a, call.run(case.function, reduction="sum").double(), steps=8)
    assert_as_exact(loss.b, replace(call, input=other).run(case.function, reduction="sum").double(), steps=8)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_parameter_as_input(case: Case) -> None:
    call = case.make("plain", case.shapes[0], torch.float32)
    parameter = torch.nn.Parameter(call.input.clone())
    replace(call, input=parameter).run(case.function).backward()
    leaf = call.leaves()
    leaf.run(case.function).backward()
    assert torch.equal(parameter.grad, leaf.input.grad)
