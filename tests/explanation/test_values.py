"""The steps come to what the call returns, and the formula of the gradient to what autograd finds, for every loss."""

import functools
import inspect
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from assertions import assert_as_exact
from cases import ALL_CASES, CASES, REDUCTIONS, Call, Case, dtype_name
from torch import Tensor

import losskit
from explanation.provoked import SCORE_OPTIONS
from losskit import catalog, functional
from losskit.explanation import Explanation
from losskit.explanation.families import LESSONS, contrastive, ctc, distribution, embedding, margin, pointwise, softmax

ALL_VARIANTS = [
    pytest.param(case, variant, id=f"{case.name}-{variant.replace(' ', '_')}")
    for case in ALL_CASES
    for variant in case.variants
]


def explained(case: Case, call: Call, **more: Any) -> Explanation:
    explanation: Explanation = losskit.explain(case.function, call.input, call.target, **{**call.kwargs, **more})
    return explanation


def largest_on_the_way(explanation: Explanation) -> float:
    """The largest finite number that any step holds: a result has its digits."""
    found = [0.0]
    for column in [column for step in explanation.steps for column in step.table.columns]:
        values = (column.values if column.values.is_complex() else column.values.double()).abs()
        values = values[values.isfinite()]
        found.append(float(values.max()) if values.numel() else 0.0)
    return max(found)


def check(case: Case, call: Call, explanation: Explanation, **more: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        returned = call.run(case.function, **more)
    # What the call returns, to the last bit.
    torch.testing.assert_close(explanation.result, returned.detach(), rtol=0, atol=0, equal_nan=True)
    # The digits are those of the input, whatever dtype the result has.
    result = explanation.result.to(call.input.dtype)
    assert_as_exact(result, explanation.value, steps=8, scale=largest_on_the_way(explanation))
    for name, gradient in explanation.gradients.items():
        given = {**explanation.options, **explanation.data}[name]
        assert gradient.values.dtype == given.dtype
        assert gradient.values.shape == given.shape
        finite = gradient.by_formula[gradient.by_formula.isfinite()].abs()
        scale = max(float(finite.max()) if finite.numel() else 0.0, case.floor(call, torch.ones(1)))
        assert_as_exact(gradient.values, gradient.by_formula, steps=16, scale=scale, what=f"gradient by {name}")


def reductions(case: Case) -> tuple[str, ...]:
    return (*REDUCTIONS, "batchmean") if case.name == "kl_div" else REDUCTIONS


# The rules.


def test_every_loss_has_a_lesson() -> None:
    assert sorted(LESSONS) == [info.name for info in catalog.LOSSES]
    families = (contrastive, ctc, distribution, embedding, margin, pointwise, softmax)
    for module in families:
        assert list(module.LESSONS) == sorted(module.LESSONS)
        for name, lesson in module.LESSONS.items():
            assert lesson.__name__ == name
            assert lesson.__module__ == module.__name__
    assert sum(len(module.LESSONS) for module in families) == len(LESSONS)


def test_the_lessons_know_no_kernel_and_no_definition() -> None:
    """What is shown is computed beside the library, and cannot agree with it by calling it."""
    for lesson in LESSONS.values():
        for value in vars(__import__(lesson.__module__, fromlist=["LESSONS"])).values():
            module = getattr(value, "__module__", None) or getattr(value, "__name__", "")
            assert not str(module).startswith(("losskit.losses", "losskit.kernels", "losskit.families"))
            assert not str(module).startswith(("losskit.functional", "losskit.core"))


@pytest.mark.parametrize("options", SCORE_OPTIONS)
@pytest.mark.parametrize("probabilities", [False, True])
def test_options_of_the_scores(options: dict[str, float], probabilities: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    input, weight = torch.randn(2, 4, 6, generator=generator), torch.randn(5, 6, generator=generator)
    classes = torch.randint(5, (2, 4), generator=generator)
    target = torch.nn.functional.one_hot(classes, 5).float() * 0.5 + 0.1 if probabilities else classes
    for case in CASES:
        if case.name != "cross_entropy":
            continue
        for shape in ((2, 5, 4), (5,)):
            call = case.make("probabilities" if probabilities else "weight", shape, torch.float32)
            for reduction in REDUCTIONS:
                check(case, call, explained(case, call, reduction=reduction, **options), reduction=reduction, **options)
    for shift in (0, 1, 9):
        more: dict[str, Any] = {"shift": shift, "sample_weight": torch.rand(4, generator=generator), **options}
        for mask in (None, torch.tensor([True, False, True, True])):
            explanation = losskit.explain("linear_cross_entropy", input, weight, target, mask=mask, **more)
            leaves = input.clone().requires_grad_(), weight.clone().requires_grad_()
            loss = functional.linear_cross_entropy(*leaves, target, mask=mask, **more)
            torch.testing.assert_close(explanation.result, loss.detach(), rtol=0, atol=0, equal_nan=True)
            assert_as_exact(loss, explanation.value, steps=8, scale=largest_on_the_way(explanation))
            for name, mine in zip(("input", "linear_weight"), torch.autograd.grad(loss, leaves), strict=True):
                exact = explanation.gradients[name].by_formula
                assert_as_exact(mine, exact, steps=16, scale=max(1.0, float(exact.nan_to_num().abs().max())))


# Every case.


@pytest.mark.parametrize(("case", "variant"), ALL_VARIANTS)
def test_steps_and_gradients_agree_with_the_call(case: Case, variant: str) -> None:
    for shape in [shape for shape in case.shapes if torch.Size(shape).numel() < 1000]:
        call = case.make(variant, shape, torch.float32)
        for reduction in reductions(case):
            explanation = explained(case, call, reduction=reduction)
            check(case, call, explanation, reduction=reduction)
            assert explanation.loss.name == case.name
            assert set(explanation.gradients) >= {next(iter(explanation.data))}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=dtype_name)
@pytest.mark.parametrize(("case", "variant"), ALL_VARIANTS)
def test_in_other_dtypes(case: Case, variant: str, dtype: torch.dtype) -> None:
    call = case.make(variant, case.shapes[0], dtype)
    for reduction in reductions(case):
        check(case, call, explained(case, call, reduction=reduction), reduction=reduction)


def shared_options(shape: torch.Size) -> Iterator[dict[str, Any]]:
    generator = torch.Generator().manual_seed(11)
    weight = 0.25 + torch.rand(shape, generator=generator)
    mask = torch.rand(shape, generator=generator) > 0.3
    mask.view(-1)[:1] = True
    yield {"sample_weight": weight}
    yield {"mask": mask}
    yield {"sample_weight": weight, "mask": mask}
    yield {"normalizer": 7.5}
    yield {"sample_weight": weight, "mask": mask, "normalizer": torch.tensor(3.25), "on_empty": "zero"}
    yield {"mask": torch.zeros_like(mask)}
    yield {"mask": torch.zeros_like(mask), "on_empty": "zero"}
    yield {"sample_weight": torch.zeros_like(weight), "on_empty": "zero"}
    yield {"out_dtype": torch.float64}
    yield {"backend": "reference"}
    if shape:
        yield {"sample_weight": torch.tensor(0.5), "mask": mask[..., :1]}


@pytest.mark.parametrize(("case", "variant"), ALL_VARIANTS)
def test_with_the_options_that_every_loss_has(case: Case, variant: str) -> None:
    for shape in case.shapes[:2]:
        call = case.make(variant, shape, torch.float32)
        losses = call.run(case.function, reduction="none").shape
        for options in shared_options(losses):
            for reduction in reductions(case):
                if reduction == "none" and "normalizer" in options:
                    continue
                explanation = explained(case, call, reduction=reduction, **options)
                check(case, call, explanation, reduction=reduction, **options)


@pytest.mark.parametrize(("case", "variant"), ALL_VARIANTS)
def test_what_is_masked_may_be_anything(case: Case, variant: str) -> None:
    call = case.make(variant, case.shapes[0], torch.float32)
    losses = call.run(case.function, reduction="none").shape
    mask = torch.ones(losses, dtype=torch.bool)
    mask.view(-1)[1::2] = False
    for place in case.differentiable(call):
        tensor = call.tensors[place].clone()
        if case.name == "ctc_loss":
            tensor.movedim(1, 0)[~mask] = math.nan
        elif case.name == "linear_cross_entropy":
            if place == 0:
                tensor[~mask] = math.nan
        else:
            tensor[~case.spread(mask, tensor).reshape(tensor.shape)] = math.nan
        poisoned = call.with_tensors(
            *(tensor if other == place else call.tensors[other] for other in range(len(call.tensors)))
        )
        for reduction in reductions(case):
            explanation = explained(case, poisoned, reduction=reduction, mask=mask)
            check(case, poisoned, explanation, reduction=reduction, mask=mask)
            assert bool(explanation.value.isfinite().all()) or variant == "impossible"


@pytest.mark.parametrize(
    "case", [case for case in ALL_CASES if "reduce" in inspect.signature(case.function).parameters], ids=repr
)
def test_legacy_flags(case: Case) -> None:
    call = case.make("plain", case.shapes[0], torch.float32)
    for size_average in (None, True, False):
        for reduce in (None, True, False):
            if size_average is reduce is None:
                continue
            flags = {"size_average": size_average, "reduce": reduce}
            explanation = explained(case, call, reduction="sum", **flags)
            check(case, call, explanation, reduction="sum", **flags)
            assert "legacy" in [remark.key for remark in explanation.remarks]


# What the list of cases does not have.


def agrees(explanation: Explanation) -> None:
    assert_as_exact(explanation.result, explanation.value, steps=8, scale=largest_on_the_way(explanation))
    for gradient in explanation.gradients.values():
        finite = gradient.by_formula[gradient.by_formula.isfinite()].abs()
        scale = float(finite.max()) if finite.numel() else 0.0
        assert_as_exact(gradient.values, gradient.by_formula, steps=16, scale=scale)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_map_of_classes_behind_a_layer(reduction: str) -> None:
    weight, bias = torch.randn(5, 3, 2, 4), torch.randn(5, 3, 2)
    target = torch.randint(5, (6, 3, 2))
    target[1], target[2, 0, 0] = -100, -100
    explanation = losskit.explain(
        "linear_cross_entropy", torch.randn(6, 4), weight, target, linear_bias=bias, reduction=reduction
    )
    agrees(explanation)
    assert set(explanation.gradients) == {"input", "linear_weight", "linear_bias"}
    assert explanation.step("linear").table["z"].shape == (6, 3, 2, 5)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "distance",
    [None, lambda x, y: (x - y).abs().amax(-1), torch.nn.PairwiseDistance(p=1), torch.nn.Bilinear(5, 5, 1)],
    ids=["default", "largest", "module", "with parameters"],
)
def test_a_distance_of_the_callers(distance: Any, reduction: str, swap: bool) -> None:
    a, p, n = (torch.randn(6, 5) for _ in range(3))
    mask = torch.tensor([1, 1, 0, 1, 1, 1], dtype=torch.bool)
    for more in ({}, {"mask": mask if not isinstance(distance, torch.nn.Bilinear) else mask.unsqueeze(1)}):
        explanation = losskit.explain(
            "triplet_margin_with_distance_loss",
            a,
            p,
            n,
            distance_function=distance,
            swap=swap,
            reduction=reduction,
            margin=2.0,
            **more,
        )
        agrees(explanation)
        assert set(explanation.gradients) == {"anchor", "positive", "negative"}


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 1.5, 2, 3.0, math.inf])
def test_norms_of_any_order(p: float) -> None:
    for swap in (False, True):
        for shapes in (((6, 5), (6, 5), (6, 5)), ((6, 5), (1, 5), (6, 5)), ((6, 1), (6, 1), (6, 5))):
            if swap and shapes[0] == (6, 1):
                continue
            vectors = [torch.randn(shape) for shape in shapes]
            agrees(losskit.explain("triplet_margin_loss", *vectors, p=p, swap=swap))


@pytest.mark.parametrize("name", ["l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss"])
def test_shapes_that_broadcast(name: str) -> None:
    for shapes in (((3, 1), (3,)), ((2, 3), (3,)), ((), (4,)), ((4,), ())):
        explanation = losskit.explain(name, torch.randn(shapes[0]), torch.randn(shapes[1]))
        agrees(explanation)
        assert "broadcast" in [remark.key for remark in explanation.remarks]


@pytest.mark.parametrize("name", ["soft_margin_loss", "hinge_embedding_loss", "kl_div", "poisson_nll_loss"])
def test_targets_that_broadcast(name: str) -> None:
    for reduction in (*REDUCTIONS, *(["batchmean"] if name == "kl_div" else [])):
        agrees(losskit.explain(name, -torch.rand(3, 4), torch.ones(4), reduction=reduction))


def test_variances_of_every_shape() -> None:
    for var in (0.5, torch.rand(4, 3), torch.rand(4, 1), torch.rand(4), torch.rand(1, 3), torch.zeros(4, 3)):
        agrees(losskit.explain("gaussian_nll_loss", torch.randn(4, 3), torch.randn(4, 3), var))
    agrees(losskit.explain("gaussian_nll_loss", torch.randn(4, 3), torch.randn(3), torch.rand(4, 3)))


def test_one_set_of_targets_for_many_rows() -> None:
    agrees(losskit.explain("multilabel_soft_margin_loss", torch.randn(4, 3), torch.ones(3)))
    agrees(losskit.explain("multilabel_soft_margin_loss", torch.randn(4, 3), torch.ones(4, 1), torch.rand(4, 3)))
    agrees(losskit.explain("cosine_embedding_loss", torch.randn(4, 3), torch.randn(1, 3), torch.tensor([1, -1, 1, -1])))
    agrees(losskit.explain("margin_ranking_loss", torch.randn(4, 3), torch.randn(1, 3), torch.ones(4, 1)))


def test_integers_and_booleans() -> None:
    whole, other = torch.tensor([1, 2, 3]), torch.tensor([2, 2, 5])
    explanation = losskit.explain("l1_loss", whole, other, reduction="sum")
    assert explanation.result.dtype == torch.int64
    assert explanation.gradients == {}
    assert explanation.value == 3
    agrees(losskit.explain("mse_loss", torch.tensor([0.5, 1.0]), torch.tensor([True, False])))
    agrees(losskit.explain("cosine_embedding_loss", whole, other, torch.tensor(1)))
    agrees(losskit.explain("triplet_margin_loss", whole, other, torch.tensor([7, 8, 9])))
    agrees(losskit.explain("poisson_nll_loss", torch.tensor([0.5, 1.0]), torch.tensor([3, 0])))


def test_complex_numbers() -> None:
    x, y = torch.randn(4, dtype=torch.complex64), torch.randn(4, dtype=torch.complex64)
    explanation = losskit.explain("l1_loss", x, y)
    assert abs(float(explanation.result) - float((x - y).abs().mean())) < 1e-6
    torch.testing.assert_close(explanation.gradients["input"].values, torch.sgn(x - y) / 4)
    assert explanation.step("difference").value.dtype == torch.complex128
    agrees(losskit.explain("triplet_margin_loss", x, y, torch.randn(4, dtype=torch.complex64)))


def test_numbers_that_are_not_finite() -> None:
    inf, nan = math.inf, math.nan
    scores = torch.tensor([[0.5, -inf, 1.0], [-inf, 0.0, 0.0], [nan, 0.0, 0.0], [inf, 0.0, 0.0], [-inf, -inf, -inf]])
    for target in (torch.tensor([0, 0, 0, 0, 0]), torch.tensor([2, 1, -100, 1, -100])):
        for reduction in REDUCTIONS:
            for epsilon in (0.0, 0.1):
                agrees(losskit.explain("cross_entropy", scores, target, reduction=reduction, label_smoothing=epsilon))
    agrees(losskit.explain("nll_loss", scores, torch.tensor([1, 1, 1, 1, 0]), reduction="none"))
    agrees(losskit.explain("binary_cross_entropy_with_logits", [inf, -inf, inf, nan], [1, 0, 0, 1], reduction="none"))
    agrees(losskit.explain("binary_cross_entropy", [0.0, 1.0, 0.0, 1.0], [0, 1, 1, 0], reduction="none"))
    agrees(losskit.explain("kl_div", [-inf, -inf, -1.0], [0, 0.5, 0.5], reduction="none"))
    agrees(losskit.explain("kl_div", [-inf, -inf, -1.0], [-inf, -1, -2], log_target=True, reduction="none"))
    agrees(losskit.explain("poisson_nll_loss", [-inf, -inf, 0.5], [0, 1, 2], reduction="none"))
    agrees(losskit.explain("poisson_nll_loss", [0.0, 0.0, 0.5], [0, 1, 2], log_input=False, eps=0.0, reduction="none"))
    agrees(losskit.explain("huber_loss", [inf, 1.0], [0.0, 0.0], delta=inf, reduction="none"))
    agrees(losskit.explain("mse_loss", [nan, inf], [0.0, 0.0], reduction="none"))


def test_a_class_of_weight_0_costs_nothing() -> None:
    explanation = losskit.explain("cross_entropy", [[-math.inf, 0.0], [1.0, 0.0]], [0, 1], weight=[0.0, 2.0])
    agrees(explanation)
    assert explanation.step("class_weight").value.tolist() == pytest.approx([0.0, 2 * math.log1p(math.e)])


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_without_a_class_nothing_counts(name: str) -> None:
    for reduction in REDUCTIONS:
        agrees(losskit.explain(name, torch.zeros(2, 0), torch.tensor([-100, -100]), reduction=reduction))


def test_what_a_correct_call_makes_of_the_callers_tensors() -> None:
    """Nothing: they keep their values and their gradients."""
    input = torch.randn(3, 4, requires_grad=True)
    before = input.detach().clone()
    explanation = losskit.explain("cross_entropy", input, torch.tensor([0, 1, 2]), inplace_backward=True)
    assert input.grad is None
    assert torch.equal(input.detach(), before)
    assert torch.equal(explanation.data["input"], input)
    agrees(explanation)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_explanation_where_gradients_are_off(mode: Any) -> None:
    with mode():
        explanation = losskit.explain("cross_entropy", torch.randn(3, 4), torch.tensor([0, 1, 2]))
        a, p, n = (torch.randn(3, 4) for _ in range(3))
        other = losskit.explain(
            "TripletMarginWithDistanceLoss", a, p, n, distance_function=lambda x, y: (x - y).norm(dim=-1)
        )
    for found in (explanation, other):
        agrees(found)
        assert found.gradients


def test_the_device_that_tensors_are_made_on_by_default() -> None:
    input, target = torch.randn(3, 4), torch.tensor([0, 1, 2])
    expected = losskit.explain("cross_entropy", input, target, weight=torch.ones(4))
    weight = torch.ones(4)
    with torch.device("meta"):
        explanation = losskit.explain("cross_entropy", input, target, weight=weight, mask=[1, 1, 1])
    agrees(explanation)
    assert explanation.value == expected.value


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_the_steps_would_not_follow_a_wrong_result(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant of the loss is seen: the steps do not come from it."""
    right = case.function

    @functools.wraps(right)
    def wrong(*args: Tensor, **kwargs: Any) -> Tensor:
        return 1.01 * right(*args, **kwargs) + 0.01

    call = case.make("plain", case.shapes[0], torch.float32)
    monkeypatch.setattr(functional, case.name, wrong)
    explanation = losskit.explain(case.name, call.input, call.target, **call.kwargs)
    with pytest.raises(AssertionError):
        agrees(explanation)
