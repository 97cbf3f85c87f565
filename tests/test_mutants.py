"""A test of the tests: kernels and definitions that are wrong in one way each must fail the checks that guard them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import test_gradients
import test_options
import test_score_options
import torch
from cases import BY_NAME, CASES, Case
from torch import Tensor

from losskit.core.reduction import Reduction
from losskit.kernels import cpu
from losskit.kernels.cpu import extension
from losskit.losses import distribution as distribution_definitions
from losskit.losses import embedding as embedding_definitions
from losskit.losses import margin as margin_definitions
from losskit.losses import pointwise as pointwise_definitions
from losskit.losses import softmax as softmax_definitions

needs_kernels = pytest.mark.skipif(not cpu.available(), reason="the kernels are not built here")

Arguments = dict[str, Any]


def unchanged(value: Any, _: Arguments) -> Any:
    return value


def as_given(arguments: Arguments) -> Arguments:
    return arguments


@dataclass(frozen=True)
class Mutant:
    """One mistake in the kernels: in what they are given, in the loss, or in the gradient that they return."""

    given: Callable[[Arguments], Arguments] = as_given
    loss: Callable[[Tensor, Arguments], Tensor] = unchanged
    gradient: Callable[[Tensor, Arguments], Tensor] = unchanged
    # What the gradient of one number is multiplied by.
    upstream: Callable[[Tensor], Tensor] | None = None


class Kernels:
    """The extension with a mutant in it."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def __getattr__(self, name: str) -> Any:
        return getattr(extension.ext, name)

    def pointwise(self, **arguments: Any) -> Any:
        return self._mutate(extension.ext.pointwise, arguments)

    def class_loss(self, **arguments: Any) -> Any:
        return self._mutate(extension.ext.class_loss, arguments)

    def _mutate(self, kernel: Callable[..., Any], arguments: Arguments) -> Any:
        # NaN stands for the divisor that the kernel counts.
        result = kernel(**self._mutant.given(dict(arguments)))
        if result is None:
            return None
        loss, gradient = result
        return (
            None if loss is None else self._mutant.loss(loss, arguments).to(loss.dtype),
            None if gradient is None else self._mutant.gradient(gradient, arguments).to(gradient.dtype),
        )

    def fused(self, **arguments: Any) -> Any:
        # Of each tensor a gradient.
        result = extension.ext.fused(**self._mutant.given(dict(arguments)))
        if result is None:
            return None
        loss, gradients = result
        input, target, *_ = arguments["tensors"]
        about = arguments | {"input": input, "target": target}
        return (
            None if loss is None else self._mutant.loss(loss, about).to(loss.dtype),
            [None if one is None else self._mutant.gradient(one, about).to(one.dtype) for one in gradients],
        )

    def lean_pointwise(self, kernel: Any, input: Tensor, target: Tensor, *rest: Any) -> Any:
        return self._mutate_lean(extension.ext.lean_pointwise(kernel, input, target, *rest), input, target)

    def lean_class_loss(self, log_probs: bool, input: Tensor, target: Tensor, *rest: Any) -> Any:
        return self._mutate_lean(extension.ext.lean_class_loss(log_probs, input, target, *rest), input, target)

    def _mutate_lean(self, result: Any, input: Tensor, target: Tensor) -> Any:
        arguments = {"input": input, "target": target}
        if isinstance(result, list):
            loss, gradient = result
            return [self._mutant.loss(loss, arguments), self._mutant.gradient(gradient, arguments).to(gradient.dtype)]
        return result if result is None else self._mutant.loss(result, arguments)

    def scale_gradient(self, gradient: Tensor, grad_output: Tensor) -> Any:
        change = self._mutant.upstream
        return extension.ext.scale_gradient(gradient, grad_output if change is None else change(grad_output))


def put(monkeypatch: pytest.MonkeyPatch, mutant: Mutant) -> None:
    # By name, since the package shows functions of the same names.
    for name in ("autograd", "class_loss", "fused", "pointwise"):
        monkeypatch.setattr(importlib.import_module(f"losskit.kernels.cpu.{name}"), "ext", Kernels(mutant))


def kernel_gradient(case: Case, variant: str) -> None:
    test_gradients.test_kernel_gradient(case, variant, torch.float32)


def kernel_gradient_in_bfloat16(case: Case, variant: str) -> None:
    test_gradients.test_kernel_gradient(case, variant, torch.bfloat16)


def kernel_options(case: Case, variant: str) -> None:
    test_options.test_options_by_themselves_and_together(case, variant, torch.float32, "cpu")


def negative_upstream(case: Case, variant: str) -> None:
    loss = case.make(variant, case.shapes[0], torch.float32).leaves()
    exact = test_gradients.true_gradients(case, loss, torch.tensor(-1.0))[0]
    ours = torch.autograd.grad(loss.run(case.function), loss.input, torch.tensor(-1.0))[0]
    test_gradients.assert_gradient_as_exact(case, loss, ours, exact)


def short_way(case: Case, variant: str) -> None:
    test_gradients.test_layouts(case, "offset")


def definition_options(case: Case, variant: str) -> None:
    test_options.test_options_by_themselves_and_together(case, variant, torch.float32, "reference")


Check = Callable[[Case, str], None]


def caught(check: Check, case: Case, variant: str = "plain") -> None:
    with pytest.raises(AssertionError):
        check(case, variant)


# gradients of the kernels ---------------------------------------------------------------------------------------------


def _wrong_in_one_place(gradient: Tensor, _: Arguments) -> Tensor:
    result = gradient.clone()
    if result.numel() > 1:
        # A thousandth of the largest, on the last element alone.
        result.view(-1)[-1] += 1e-3 * float(result.abs().max())
    return result


GRADIENTS: dict[str, Callable[[Tensor, Arguments], Tensor]] = {
    "zero": lambda gradient, _: torch.zeros_like(gradient),
    "sign": lambda gradient, _: -gradient,
    "doubled": lambda gradient, _: 2 * gradient,
    "halved": lambda gradient, _: gradient / 2,
    "one part in ten thousand": lambda gradient, _: gradient * 1.0001,
    "rounded to bfloat16": lambda gradient, _: gradient.bfloat16().float(),
    "backwards": lambda gradient, _: gradient.reshape(-1).flip(0).reshape(gradient.shape),
    "mean over all": lambda gradient, _: (
        gradient.mean().expand(gradient.shape).contiguous() if gradient.numel() else gradient
    ),
    "one element": _wrong_in_one_place,
    "NaN": lambda gradient, _: gradient * float("nan"),
}


@needs_kernels
@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_wrong_gradient(monkeypatch: pytest.MonkeyPatch, case: Case, name: str) -> None:
    put(monkeypatch, Mutant(gradient=GRADIENTS[name]))
    caught(kernel_gradient, case)
    caught(short_way, case)


@needs_kernels
@pytest.mark.parametrize("name", ["zero", "sign", "doubled", "backwards", "NaN"])
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_wrong_gradient_in_half_precision(monkeypatch: pytest.MonkeyPatch, case: Case, name: str) -> None:
    put(monkeypatch, Mutant(gradient=GRADIENTS[name]))
    caught(kernel_gradient_in_bfloat16, case)


def column_of_target(gradient: Tensor, target: Tensor) -> Tensor:
    """True at the class of each sample."""
    axis = 1 if gradient.ndim > 1 else 0
    index = target.long().reshape([size for at, size in enumerate(gradient.shape) if at != axis])
    inside = (index >= 0) & (index < gradient.shape[axis])
    result = torch.zeros_like(gradient, dtype=torch.bool)
    return result.scatter_(axis, torch.where(inside, index, 0).unsqueeze(axis), inside.unsqueeze(axis))


def without_softmax(gradient: Tensor, arguments: Arguments) -> Tensor:
    """The gradient of the target's logit is right, and the others get none."""
    target = arguments["target"]
    if target.is_floating_point() or gradient.numel() == 0:
        return gradient
    return torch.where(column_of_target(gradient, target), gradient, 0.0)


def without_target(gradient: Tensor, arguments: Arguments) -> Tensor:
    target = arguments["target"]
    if target.is_floating_point() or gradient.numel() == 0:
        return gradient
    return torch.where(column_of_target(gradient, target), 0.0, gradient)


@needs_kernels
@pytest.mark.parametrize("change", [without_softmax, without_target])
@pytest.mark.parametrize("classes", [None, 4096])
def test_a_term_of_the_softmax_is_dropped(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor, Arguments], Tensor], classes: int | None
) -> None:
    """Also where each of the other classes gets next to nothing."""
    case = BY_NAME["cross_entropy"]
    if classes is not None:
        case = Case(**{**vars(case), "shapes": ((8, classes),)})
    kernel_gradient(case, "plain")
    put(monkeypatch, Mutant(gradient=change))
    caught(kernel_gradient, case)
    if classes is None:
        caught(short_way, case)


# the gradient from above ----------------------------------------------------------------------------------------------


def given(**changes: Callable[[Any, Arguments], Any]) -> Callable[[Arguments], Arguments]:
    """The kernels with some of their arguments changed."""

    def change(arguments: Arguments) -> Arguments:
        return arguments | {
            name: function(arguments[name], arguments) for name, function in changes.items() if name in arguments
        }

    return change


def uniform(grad_output: Tensor | None, _: Arguments) -> Tensor | None:
    if grad_output is None or not grad_output.numel():
        return grad_output
    return grad_output.mean().expand(grad_output.shape).contiguous()


def first_of_all(grad_output: Tensor | None, _: Arguments) -> Tensor | None:
    if grad_output is None or not grad_output.numel():
        return grad_output
    return grad_output.reshape(-1)[0].expand(grad_output.shape).contiguous()


def shifted(grad_output: Tensor | None, _: Arguments) -> Tensor | None:
    return None if grad_output is None else grad_output.reshape(-1).roll(1).reshape(grad_output.shape)


UPSTREAM = {
    "ones": Mutant(given=given(grad_output=lambda grad, _: None if grad is None else torch.ones_like(grad))),
    "uniform": Mutant(given=given(grad_output=uniform)),
    "broadcast": Mutant(given=given(grad_output=first_of_all)),
    "shifted": Mutant(given=given(grad_output=shifted)),
    "ignored for one number": Mutant(upstream=torch.ones_like),
    "sign of one number": Mutant(upstream=torch.neg),
    "magnitude of one number": Mutant(upstream=torch.abs),
}


@needs_kernels
@pytest.mark.parametrize("name", UPSTREAM)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_wrong_gradient_from_above(monkeypatch: pytest.MonkeyPatch, case: Case, name: str) -> None:
    put(monkeypatch, UPSTREAM[name])
    if name == "magnitude of one number":
        caught(negative_upstream, case)
    else:
        caught(kernel_gradient, case)


@needs_kernels
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_second_backward_forgets_the_gradient_from_above(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    put(monkeypatch, Mutant(given=given(upstream=lambda *_: 1.0)))
    caught(lambda case, _: test_gradients.test_backward_twice(case, "mean", "cpu"), case)


@needs_kernels
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_second_backward_compounds(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    put(monkeypatch, Mutant(given=given(upstream=lambda value, _: value * value)))
    caught(lambda case, _: test_gradients.test_backward_twice(case, "mean", "cpu"), case)


# values ---------------------------------------------------------------------------------------------------------------


VALUES: dict[str, Callable[[Tensor, Arguments], Tensor]] = {
    "zero": lambda loss, _: torch.zeros_like(loss),
    "sign": lambda loss, _: -loss,
    "doubled": lambda loss, _: 2 * loss,
    "one part in ten thousand": lambda loss, _: loss * 1.0001,
    "plus one": lambda loss, _: loss + 1,
    "in bits": lambda loss, _: loss / 0.6931471805599453,
    "rounded to bfloat16": lambda loss, _: loss.bfloat16().float(),
    "NaN": lambda loss, _: loss * float("nan"),
}


@needs_kernels
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_wrong_value(monkeypatch: pytest.MonkeyPatch, case: Case, name: str) -> None:
    put(monkeypatch, Mutant(loss=VALUES[name]))
    caught(kernel_options, case)
    caught(short_way, case)


# options --------------------------------------------------------------------------------------------------------------


def ignored(name: str) -> Mutant:
    return Mutant(given=given(**{name: lambda *_: None}))


def one(*_: Any) -> float:
    return 1.0


def samples(divisor: float, arguments: Arguments) -> float:
    """Every sample counts, ignored or not, whatever its weight."""
    return float(arguments["target"].numel()) if arguments["mean"] else divisor


OPTIONS: dict[str, tuple[Mutant, list[tuple[str, str]]]] = {
    "mean is a sum": (
        Mutant(given=given(divisor=one)),
        [(case.name, variant) for case in CASES for variant in ("plain",)],
    ),
    "class weight": (ignored("weight"), [("cross_entropy", "weight"), ("cross_entropy", "all"), ("nll_loss", "weight"),
                                         ("cross_entropy", "probabilities all")]),
    "weight": (ignored("weight"), [("l1_loss", "weight"), ("mse_loss", "weight"), ("huber_loss", "weight"),
                                   ("binary_cross_entropy", "weight"), ("binary_cross_entropy_with_logits", "weight")]),
    "pos_weight": (ignored("pos_weight"), [("binary_cross_entropy_with_logits", "pos_weight"),
                                           ("binary_cross_entropy_with_logits", "both")]),
    "label smoothing": (
        Mutant(given=given(label_smoothing=lambda *_: 0.0)),
        [("cross_entropy", "smoothing"), ("cross_entropy", "all"), ("cross_entropy", "probabilities all")],
    ),
    "weak label smoothing": (
        Mutant(given=given(label_smoothing=lambda value, _: 0.99 * value)),
        [("cross_entropy", "smoothing")],
    ),
    "ignored samples count": (Mutant(given=given(divisor=samples)), [("cross_entropy", "ignore"), ("nll_loss", "all"),
                                                                      ("cross_entropy", "weight")]),
    "beta": (Mutant(given=given(parameter=lambda *_: 1.0)), [("smooth_l1_loss", "beta"), ("huber_loss", "delta")]),
}  # fmt: skip


@needs_kernels
@pytest.mark.parametrize(
    ("name", "loss", "variant"), [(name, *which) for name, (_, all_of) in OPTIONS.items() for which in all_of]
)
def test_wrong_option(monkeypatch: pytest.MonkeyPatch, name: str, loss: str, variant: str) -> None:
    put(monkeypatch, OPTIONS[name][0])
    case = BY_NAME[loss]
    caught(kernel_options if name != "ignored samples count" else kernel_gradient, case, variant)
    caught(kernel_gradient, case, variant)


@needs_kernels
@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("option", ["sample_weight", "mask"])
def test_wrong_addition(monkeypatch: pytest.MonkeyPatch, case: Case, option: str) -> None:
    names = {"sample_weight": ("row_weight", "weight"), "mask": ("row_mask", "mask")}[option]
    kernel_names = names[0] if case.classes else names[1]
    put(monkeypatch, ignored(kernel_names))
    caught(kernel_options, case)


# definitions ----------------------------------------------------------------------------------------------------------


DEFINITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "value doubled": lambda loss: loss + loss.detach(),
    "gradient zero": lambda loss: loss.detach() + 0 * loss,
    "gradient sign": lambda loss: 2 * loss.detach() - loss,
    "gradient doubled": lambda loss: 2 * loss - loss.detach(),
    "one part in a thousand": lambda loss: 1.001 * loss,
}

PLACES = {
    "cross_entropy": (softmax_definitions, "cross_entropy"),
    "nll_loss": (softmax_definitions, "nll_loss"),
} | {
    case.name: (module, case.name)
    for case in CASES
    for module in (pointwise_definitions, margin_definitions, distribution_definitions, embedding_definitions)
    # And not where another definition imports it.
    if getattr(getattr(module, case.name, None), "__module__", "") == module.__name__
}


def mutate_definition(monkeypatch: pytest.MonkeyPatch, case: Case, change: Callable[[Tensor], Tensor]) -> None:
    module, name = PLACES[case.name]
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: change(right(*args, **kwargs)))


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_wrong_definition(monkeypatch: pytest.MonkeyPatch, case: Case, name: str) -> None:
    mutate_definition(monkeypatch, case, DEFINITIONS[name])
    caught(definition_options, case)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_definition_whose_mean_is_a_sum(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    monkeypatch.setattr(Reduction, "divisor", lambda self, counts: 1.0)
    caught(definition_options, case)


@pytest.mark.parametrize("variant", ["ignore", "weight", "all"])
def test_definition_whose_divisor_counts_every_sample(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    monkeypatch.setattr(
        softmax_definitions, "class_weights", lambda target, counts, weight, dtype: torch.ones_like(target, dtype=dtype)
    )
    caught(definition_options, BY_NAME["cross_entropy"], variant)


# no mutant ------------------------------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_kernels_with_nothing_changed_pass(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    """It is the mistake that fails above, and not the way it is put in."""
    put(monkeypatch, Mutant(given=given(upstream=unchanged), upstream=torch.clone))
    kernel_gradient(case, "plain")
    kernel_options(case, "plain")
    short_way(case, "plain")
    mutate_definition(monkeypatch, case, lambda loss: loss)
    definition_options(case, "plain")


@needs_kernels
@pytest.mark.parametrize(("option", "none"), [("z_loss", 0.0), ("softcap", 0.0), ("logit_scale", 1.0)])
def test_a_kernel_that_forgets_an_option_of_the_scores_is_found(
    monkeypatch: pytest.MonkeyPatch, option: str, none: float
) -> None:
    put(monkeypatch, Mutant(given=lambda arguments: arguments | {option: none}))
    options = test_score_options.OPTIONS[-1]
    with pytest.raises(AssertionError):
        test_score_options.test_value_and_gradient(torch.float32, "auto", "indices", options)
