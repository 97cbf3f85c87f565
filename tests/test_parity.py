"""PyTorch's own test data: what it accepts we accept, with its number, shape, dtype and gradient; so with errors."""

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from assertions import assert_as_exact, assert_gradient_as_exact
from cases import BY_NAME, KERNEL_DTYPES, TORCH_CASES, Call, Case, dtype_name
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

from losskit import functional as F

NAMES = {f"nn.functional.{case.name}": case.name for case in TORCH_CASES}
# Some losses stand there several times, as variants.
OPS = {name: [op for op in op_db if op.name == full] for full, name in NAMES.items()}
FUNCTIONS = {case.name: case.function for case in TORCH_CASES}
MODULES = {info.module_cls: info for info in module_db}
BACKENDS = ("auto", "reference")
REAL_DTYPES = (torch.float64, *KERNEL_DTYPES)

OPS_AND_DTYPES = [
    pytest.param(case, dtype, id=f"{case.name}-{dtype_name(dtype)}")
    for case in TORCH_CASES
    for dtype in (
        # Torch's own connectionist temporal classification has no half precision.
        *(REAL_DTYPES if case.name != "ctc_loss" else REAL_DTYPES[:2]),
        *((torch.complex64, torch.complex128) if case.name == "l1_loss" else ()),
    )
]


def test_every_loss_is_in_the_data() -> None:
    assert [name for name, ops in OPS.items() if not ops] == []
    assert {case.name for case in TORCH_CASES if case.torch_module not in MODULES} == {
        # torch has samples of the function alone.
        "triplet_margin_loss"
    }


def as_call(case: Case, sample: Any) -> Call:
    bound = inspect.signature(case.torch_function).bind(sample.input, *sample.args, **sample.kwargs)
    arguments = dict(bound.arguments)
    first, second = list(inspect.signature(case.torch_function).parameters)[:2]
    return Call(arguments.pop(first), arguments.pop(second), arguments)


def recorded(call: Call, function: Any, **more: Any) -> tuple[Tensor, list[type[Warning]]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = call.run(function, **more)
    return result, [warning.category for warning in seen]


def gradients(call: Call, result: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    # The sign tells a keyword from the first two tensors, whatever their names are.
    tensors = {"input": call.input, "target": call.target} | {f"{name}=": value for name, value in call.kwargs.items()}
    wanted = {name: value for name, value in tensors.items() if isinstance(value, Tensor) and value.requires_grad}
    if not result.requires_grad:
        assert not wanted
        return {}
    found = torch.autograd.grad(result, list(wanted.values()), grad_output, allow_unused=True)
    return {name: grad for name, grad in zip(wanted, found, strict=True) if grad is not None}


def differentiable(call: Call) -> Call:
    return call.map(lambda tensor: tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_(True))


def needing_what_it_needed(copy: Call, original: Call) -> Call:
    """The copy's tensors require a gradient where the original's do."""
    copy.input.requires_grad_(original.input.requires_grad)
    if copy.target.is_floating_point() or copy.target.is_complex():
        copy.target.requires_grad_(original.target.requires_grad)
    for name, value in original.kwargs.items():
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
            copy.kwargs[name].requires_grad_(value.requires_grad)
    return copy


# Where a gradient that is NaN for torch is a number here, and why.
LIMITS = {("poisson_nll_loss", "target"): "torch multiplies the infinite slope of Stirling's term at 0 by 0"}


def assert_parity(case: Case, call: Call, backend: str) -> None:
    # Of one byte, torch takes indices without dimensions d1, … alone.
    indices = call.target.long() if call.target.dtype == torch.uint8 else call.target
    eager, eager_warnings = recorded(replace(call, target=indices), case.torch_function)
    wide = needing_what_it_needed(differentiable(replace(call, target=indices).wide()), call)
    # Torch takes its options for chunks with some dtypes alone. They change no number.
    wide = replace(wide, kwargs={name: value for name, value in wide.kwargs.items() if name != "options"})
    exact = recorded(wide, case.torch_function)[0]
    ours, our_warnings = recorded(call, case.function, backend=backend)
    assert ours.dtype == eager.dtype
    assert ours.shape == eager.shape
    assert ours.requires_grad == eager.requires_grad
    assert our_warnings == eager_warnings
    scale = None
    if exact.ndim == 0 and exact.numel() and call.input.numel():
        # Terms of both signs may cancel in the sum.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            terms = wide.run(case.torch_function, **unreduced(wide))
        peak = float(terms.detach().abs().max()) if terms.numel() else 0.0
        scale = max(abs(float(exact.detach())), peak if torch.isfinite(torch.tensor(peak)) else 0.0)
    assert_as_exact(ours, exact, eager, scale=scale, what="value")
    grad_output = torch.randn(eager.shape, dtype=torch.float64).to(eager.dtype)
    theirs = gradients(call, eager, grad_output)
    true = gradients(wide, exact, grad_output.to(exact.dtype))
    our = gradients(call, ours, grad_output)
    assert set(our) == set(theirs)
    for name, gradient in our.items():
        assert gradient.dtype == theirs[name].dtype
        if (case.name, name) in LIMITS:
            true[name] = torch.where(true[name].isnan(), gradient.double(), true[name])
        if name == "input" and not call.input.is_complex():
            # In float64 the yardstick is torch itself, which adds the terms of a row one after the other here.
            loops = case.twice is not None and gradient.dtype == torch.float64 and call.input.ndim > 0
            steps = max(8, call.input.shape[-1]) if loops else 8
            floor = max(case.floor(call, grad_output), digits_of_logarithms(case, call, exact))
            assert_gradient_as_exact(case, call, gradient, true[name], theirs[name], steps=steps, floor=floor)
        else:
            assert_as_exact(gradient, true[name], theirs[name], steps=8, what=f"gradient by {name}")


def digits_of_logarithms(case: Case, call: Call, exact: Tensor) -> float:
    """A scale for float64 gradients by ctc_loss, where torch's own are no better: differences of logarithms as large
    as the loss, in every frame."""
    if case.name != "ctc_loss" or call.input.dtype != torch.float64:
        return 0.0
    return len(call.input) * max(1.0, float(exact.detach().nan_to_num(0, 0, 0).abs().max()))


def unreduced(call: Call) -> dict[str, Any]:
    return {"reduction": "none"} if {"size_average", "reduce"}.isdisjoint(call.kwargs) else {"reduce": False}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("case", "dtype"), OPS_AND_DTYPES)
def test_operator_samples(case: Case, dtype: torch.dtype, backend: str) -> None:
    seen = 0
    for sample in samples(case, dtype):
        for form in (sample, sample.noncontiguous()):
            assert_parity(case, as_call(case, form), backend)
            seen += 1
    assert seen > 5


def samples(case: Case, dtype: torch.dtype) -> Iterator[Any]:
    for op in OPS[case.name]:
        for requires_grad in (True, False):
            yield from islice(op.sample_inputs("cpu", dtype, requires_grad=requires_grad), 0, None, step(case))
        if op.reference_inputs_func is not None:
            yield from op.reference_inputs("cpu", dtype, requires_grad=True)


def step(case: Case) -> int:
    """One in so many samples: torch has hundreds for a linear layer and a loss, every option on every shape.

    The numbers of options and of shapes are no multiples of it.
    """
    return 7 if case.name == "linear_cross_entropy" else 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name, ops in OPS.items() if ops[0].error_inputs_func is not None])
def test_operator_errors(name: str, backend: str) -> None:
    seen = 0
    for error in OPS[name][0].error_inputs("cpu"):
        call = error.sample_input
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(error.error_type, match=f"^{name}: "):
                FUNCTIONS[name](call.input, *call.args, **call.kwargs, backend=backend)
        seen += 1
    assert seen > 0


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{case.name}-{dtype_name(dtype)}")
        for case in TORCH_CASES
        if case.torch_module in MODULES
        for dtype in (REAL_DTYPES if case.halves_in_torch else (torch.float64, torch.float32))
    ],
)
def test_module_samples(case: Case, dtype: torch.dtype) -> None:
    info = MODULES[case.torch_module]
    inputs = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=True)
    assert inputs
    for given in inputs[:: step(case)]:
        made, forward = given.constructor_input, given.forward_input
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours = case.module(*made.args, **made.kwargs)
            theirs = case.torch_module(*made.args, **made.kwargs)
            assert repr(ours) == repr(theirs)
            # Some hold parameters, which begin at random.
            ours.load_state_dict(theirs.state_dict())
            input, target, *rest = forward.args
            if target is input:
                # A gradient by each, as in the copy in float64.
                target = input.detach().clone().requires_grad_(input.requires_grad)
            names = list(inspect.signature(case.torch_module.forward).parameters)[3:]
            call = Call(input, target, dict(zip(names, rest, strict=False)))
            # A weight that the module holds is part of the numbers, so it is widened with them.
            wide_module = case.torch_module(*made.args, **made.kwargs)
            wide_module.load_state_dict(theirs.state_dict())
            wide_module = wide_module.double()
            wide = needing_what_it_needed(differentiable(call.wide()), call)
            exact, eager, result = wide.run(wide_module), call.run(theirs), call.run(ours)
        assert result.dtype == eager.dtype
        assert result.shape == eager.shape
        assert_as_exact(result, exact, eager, scale=max(1.0, float(exact.detach().abs().max())), what="value")
        grad_output = torch.randn(eager.shape, dtype=torch.float64).to(eager.dtype)
        their = gradients(call, eager, grad_output)
        our = gradients(call, result, grad_output)
        true = gradients(wide, exact, grad_output.to(exact.dtype))
        assert set(our) == set(their)
        for name, gradient in our.items():
            if name == "input":
                floor = digits_of_logarithms(case, call, exact)
                assert_gradient_as_exact(case, call, gradient, true[name], their[name], floor=floor)
            else:
                assert_as_exact(gradient, true[name], their[name], steps=8, what=f"gradient by {name}")


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in TORCH_CASES
        if getattr(MODULES.get(case.torch_module), "module_error_inputs_func", None) is not None
    ],
    ids=repr,
)
def test_module_errors(case: Case) -> None:
    info = MODULES[case.torch_module]
    errors = info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    assert errors
    for error in errors:
        made, forward = error.module_error_input.constructor_input, error.module_error_input.forward_input
        with pytest.raises(error.error_type):
            case.module(*made.args, **made.kwargs)(*forward.args, **forward.kwargs)


@pytest.mark.parametrize(("case", "dtype"), [given for given in OPS_AND_DTYPES if given.values[1] in REAL_DTYPES])
def test_own_samples(case: Case, dtype: torch.dtype) -> None:
    """Every variant, shape and reduction of the list of cases, as torch computes it."""
    for variant in case.variants:
        for shape in case.shapes:
            for reduction in ("none", "mean", "sum"):
                call = case.make(variant, shape, dtype).leaves()
                call = replace(call, kwargs={**call.kwargs, "reduction": reduction})
                assert_parity(case, call, "auto")


# Where losskit means to differ from torch, and why.
def _zero_weight_of_an_impossible_class(function: Any) -> Tensor:
    log_probs = torch.tensor([[0.0, -torch.inf]])
    return function(log_probs, torch.tensor([1]), torch.tensor([1.0, 0.0]), reduction="sum")


def _smoothing_over_an_excluded_class_of_weight_zero(function: Any) -> Tensor:
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    return function(logits, torch.tensor([0]), torch.tensor([1.0, 1.0, 0.0]), label_smoothing=0.1)


def _probability_zero_of_an_excluded_class(function: Any) -> Tensor:
    return function(torch.tensor([[0.0, 1.0, -torch.inf]]), torch.tensor([[0.5, 0.5, 0.0]]))


def _certain_and_right(function: Any) -> Tensor:
    return function(torch.tensor([torch.inf, -torch.inf]), torch.tensor([1.0, 0.0]))


DIFFERENT_VALUES = [
    pytest.param(case, call, expected, id=reason.replace(" ", "_"))
    for case, call, expected, reason in [
        ("nll_loss", _zero_weight_of_an_impossible_class, 0.0, "0 times an infinite loss is 0"),
        (
            "cross_entropy",
            _smoothing_over_an_excluded_class_of_weight_zero,
            0.9 * 1.3132616875182228 + 0.1 / 3 * (1.3132616875182228 + 0.3132616875182228),
            "0 times an infinite smoothing term is 0",
        ),
        (
            "cross_entropy",
            _probability_zero_of_an_excluded_class,
            0.5 * (1.3132616875182228 + 0.3132616875182228),
            "0 times the infinite loss of an excluded class is 0",
        ),
        ("binary_cross_entropy_with_logits", _certain_and_right, 0.0, "an infinite logit of the right sign costs 0"),
    ]
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "call", "expected"), DIFFERENT_VALUES)
def test_known_differences_of_value(name: str, call: Any, expected: float, backend: str) -> None:
    """Torch gives NaN where the limit is 0."""
    assert torch.isnan(call(BY_NAME[name].torch_function))
    ours = call(lambda *args, **kwargs: BY_NAME[name].function(*args, **kwargs, backend=backend))
    assert_as_exact(ours, torch.tensor(expected, dtype=torch.float64), scale=max(expected, 1.0))


@pytest.mark.parametrize("smoothing", [-0.25, float("nan")])
@pytest.mark.parametrize("target", [torch.tensor([1]), torch.tensor([[0.5, 0.5]])], ids=["indices", "probabilities"])
def test_known_difference_smoothing_below_zero_or_nan(smoothing: float, target: Tensor) -> None:
    """Torch computes something with it, silently; it has no meaning."""
    logits = torch.zeros(1, 2)
    torch.nn.functional.cross_entropy(logits, target, label_smoothing=smoothing)
    with pytest.raises(RuntimeError, match=r"label_smoothing must lie in \[0, 1\]"):
        F.cross_entropy(logits, target, label_smoothing=smoothing)
