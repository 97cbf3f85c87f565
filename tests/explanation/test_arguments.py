"""What `explain` takes: modules, functions and names, tensors and lists, and what it says to anything else."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import ALL_CASES, BY_NAME, TORCH_CASES, Case
from fresh_process import output_of
from torch import nn

import losskit
from losskit import catalog, functional
from losskit.errors import LosskitIndexError, LosskitRuntimeError, LosskitTypeError, LosskitValueError

# Options of a criterion; what is a tensor there belongs to five classes.
OPTIONS: dict[str, dict[str, Any]] = {
    "binary_cross_entropy": {"weight": torch.rand(5)},
    "binary_cross_entropy_with_logits": {"weight": torch.rand(5), "pos_weight": torch.rand(5)},
    "cosine_embedding_loss": {"margin": 0.25},
    "cross_entropy": {"weight": torch.rand(5), "ignore_index": 2, "label_smoothing": 0.1},
    "ctc_loss": {"blank": 0, "zero_infinity": True},
    "gaussian_nll_loss": {"full": True, "eps": 1e-3},
    "hinge_embedding_loss": {"margin": 0.5},
    "huber_loss": {"delta": 0.5},
    "kl_div": {"log_target": True},
    "l1_loss": {},
    "margin_ranking_loss": {"margin": 0.5},
    "mse_loss": {},
    "multi_margin_loss": {"p": 2, "margin": 0.5, "weight": torch.rand(5)},
    "multilabel_margin_loss": {},
    "multilabel_soft_margin_loss": {"weight": torch.rand(5)},
    "nll_loss": {"weight": torch.rand(5), "ignore_index": 2},
    "poisson_nll_loss": {"log_input": True, "full": True, "eps": 1e-6},
    "smooth_l1_loss": {"beta": 0.5},
    "soft_margin_loss": {},
    "triplet_margin_loss": {"margin": 0.5, "p": 1, "eps": 1e-3, "swap": True},
}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("namespace", [losskit, nn], ids=["losskit", "torch"])
@pytest.mark.parametrize("case", [case for case in TORCH_CASES if case.name != "linear_cross_entropy"], ids=repr)
def test_a_module_is_explained_with_its_options(case: Case, namespace: Any, reduction: str) -> None:
    criterion = getattr(namespace, case.module.__name__)(**OPTIONS[case.name], reduction=reduction)
    variant = "zero_infinity" if case.name == "ctc_loss" else "plain"
    call = case.make(variant, case.shapes[0], torch.float32)
    data = {name: value for name, value in call.kwargs.items() if name != "zero_infinity"}
    explanation = losskit.explain(criterion, call.input, call.target, *data.values())
    ours = criterion if namespace is losskit else case.module(**OPTIONS[case.name], reduction=reduction)
    torch.testing.assert_close(explanation.result, ours(call.input, call.target, **data), rtol=0, atol=0)
    assert explanation.loss.name == case.name
    given = {**OPTIONS[case.name], "reduction": reduction}
    defaults = {name: value for name, value in given.items() if name not in explanation.options}
    # What is left out of the options is what they are anyway.
    unset = losskit.explain(case.name, call.input, call.target, **data, **{**given, **defaults})
    torch.testing.assert_close(unset.result, explanation.result, rtol=0, atol=0)
    for name, value in explanation.options.items():
        assert value is given[name] or value == given[name]


@pytest.mark.parametrize("out_features", [(), (2,)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("namespace", [losskit, nn], ids=["losskit", "torch"])
def test_a_module_with_a_layer(namespace: Any, bias: bool, out_features: tuple[int, ...]) -> None:
    criterion = namespace.LinearCrossEntropyLoss(4, 3, bias=bias, out_features=out_features, label_smoothing=0.1)
    input, target = torch.randn(5, 4), torch.randint(3, (5, *out_features))
    explanation = losskit.explain(criterion, input, target)
    expected = criterion(input, target)
    torch.testing.assert_close(explanation.result, expected.detach())
    (gradient,) = torch.autograd.grad(expected, criterion.linear.weight)
    torch.testing.assert_close(explanation.gradients["linear_weight"].values.reshape(gradient.shape), gradient)
    assert criterion.linear.weight.grad is None


@pytest.mark.parametrize(
    ("criterion", "number"),
    [
        (losskit.CLIPLoss(init_scale=3.0), "logit_scale"),
        (losskit.SigLIPLoss(init_scale=3.0, init_bias=-2.0), "logit_bias"),
        (losskit.InfoNCELoss(0.5, normalize=False, learn_temperature=True), "temperature"),
    ],
    ids=["clip", "siglip", "info_nce"],
)
def test_a_module_of_pairs_with_what_it_learns(criterion: nn.Module, number: str) -> None:
    one, other = torch.randn(5, 4), torch.randn(5, 4)
    explanation = losskit.explain(criterion, one, other)
    torch.testing.assert_close(explanation.result, criterion(one, other).detach())
    held = getattr(criterion, number)
    (gradient,) = torch.autograd.grad(criterion(one, other), list(criterion.parameters())[-1])
    # Of the other two the parameter is the logarithm.
    factor = 1.0 if number == "logit_bias" else held.detach()
    torch.testing.assert_close(factor * explanation.gradients[number].values, gradient)
    assert all(parameter.grad is None for parameter in criterion.parameters())


def test_a_module_for_triplets_with_a_distance() -> None:
    vectors = [torch.randn(4, 3) for _ in range(3)]
    for namespace in (losskit, nn):
        criterion = namespace.TripletMarginWithDistanceLoss(distance_function=nn.PairwiseDistance(p=1), swap=True)
        explanation = losskit.explain(criterion, *vectors)
        torch.testing.assert_close(explanation.result, criterion(*vectors))


def test_a_deprecated_module() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        criterions = losskit.NLLLoss2d(), nn.NLLLoss2d()
    input = torch.randn(2, 3, 2, 2).log_softmax(1)
    for criterion in criterions:
        assert losskit.explain(criterion, input, torch.zeros(2, 2, 2, dtype=torch.int64)).loss.name == "nll_loss"


@pytest.mark.parametrize("info", catalog.LOSSES, ids=lambda info: info.name)
def test_functions_classes_and_names_are_the_same(info: catalog.LossInfo) -> None:
    if info.name == "triplet_margin_with_distance_loss":
        args: tuple[Any, ...] = tuple(torch.randn(3, 4) for _ in range(3))
        kwargs: dict[str, Any] = {}
    else:
        case = next(case for case in ALL_CASES if case.name == info.name)
        call = case.make("plain", case.shapes[0], torch.float32)
        args, kwargs = (call.input, call.target), call.kwargs
    forms: list[Any] = [
        info.name,
        info.module,
        f"F.{info.name}",
        info.name.removesuffix("_loss"),
        f"torch.nn.{info.module}",
        getattr(functional, info.name),
        getattr(losskit, info.module),
    ]
    if info.in_torch:
        forms += [getattr(nn.functional, info.name), getattr(nn, info.module)]
    for form in forms:
        explanation = losskit.explain(form, *args, **kwargs)
        assert explanation.loss is info
        torch.testing.assert_close(explanation.result, getattr(functional, info.name)(*args, **kwargs))


def test_pytorchs_losses_while_they_are_replaced() -> None:
    before = nn.functional.mse_loss
    criterion = nn.MSELoss()
    with losskit.replace_torch_losses():
        for form in (nn.functional.mse_loss, nn.MSELoss(), before, criterion):
            assert losskit.explain(form, [1.0], [3.0]).result == 4


def test_a_subclass_that_changes_nothing_is_what_it_is() -> None:
    class Named(nn.CrossEntropyLoss):
        """With a name of its own."""

    class Scaled(nn.CrossEntropyLoss):
        def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input, target)

    assert losskit.explain(Named(), [[0.0, 0.0]], [1]).loss.name == "cross_entropy"
    with pytest.raises(
        LosskitTypeError,
        match=r"^explain: Scaled computes in a forward of its own; explain the losses that it calls\.$",
    ):
        losskit.explain(Scaled(), [[0.0, 0.0]], [1])


def test_an_option_given_again_wins() -> None:
    criterion = nn.CrossEntropyLoss(reduction="sum")
    explanation = losskit.explain(criterion, [[0.0, 1.0], [1.0, 0.0]], [1, 1], reduction="none")
    assert explanation.result.shape == (2,)
    assert explanation.options["reduction"] == "none"


# Lists.


def dtypes(explanation: Any, *names: str) -> list[torch.dtype]:
    arguments = {**explanation.data, **explanation.options}
    return [arguments[name].dtype for name in names]


def test_lists_become_the_tensors_that_the_loss_wants() -> None:
    f, i = torch.float32, torch.int64
    assert dtypes(losskit.explain("mse_loss", [1, 2, 3], [2, 2, 4]), "input", "target") == [f, f]
    assert dtypes(losskit.explain("l1_loss", 1, 3), "input", "target") == [f, f]
    explanation = losskit.explain("cross_entropy", [[1, 2], [3, 4]], [0, 1], weight=[1, 2], sample_weight=[1, 0.5])
    assert dtypes(explanation, "input", "target", "weight", "sample_weight") == [f, i, f, f]
    one_hot = losskit.explain("cross_entropy", [[1, 2], [3, 4]], [[0, 1], [1, 0]], mask=[1, 0])
    assert dtypes(one_hot, "target", "mask") == [f, torch.bool]
    layer = losskit.explain("linear_cross_entropy", [[1, 2]], [[1, 2], [3, 4], [5, 6]], [[0, 1, 0]])
    assert dtypes(layer, "linear_weight", "target") == [f, f]
    assert dtypes(losskit.explain("nll_loss", [[-1, -2]], [1]), "input", "target") == [f, i]
    assert dtypes(losskit.explain("multilabel_margin_loss", [[1, 2]], [[1, -1]]), "target") == [i]
    assert dtypes(losskit.explain("binary_cross_entropy", [1, 0], [1, 0]), "target") == [f]
    ctc = losskit.explain("ctc_loss", [[-1, -2], [-2, -1]], [1], [2], 1)
    assert ctc.data["target_lengths"] == (1,)
    assert dtypes(losskit.explain("gaussian_nll_loss", [1, 2], [1, 3], [1, 4]), "var") == [f]
    assert losskit.explain("gaussian_nll_loss", [1, 2], [1, 3], 1).data["var"] == 1.0
    assert dtypes(losskit.explain("cosine_embedding_loss", [[1, 2]], [[2, 1]], [-1]), "input1", "target") == [f, i]
    # Beside a tensor, its dtype.
    half = losskit.explain("cross_entropy", torch.ones(1, 2, dtype=torch.bfloat16), [1], weight=[1, 2])
    assert dtypes(half, "weight") == [torch.bfloat16]
    assert losskit.explain("l1_loss", [1 + 1j], [0]).result == pytest.approx(2**0.5)


def test_an_array_keeps_its_dtype() -> None:
    explanation = losskit.explain("cross_entropy", np.array([[0.1, 0.2, 0.3]]), np.array([1]))
    assert dtypes(explanation, "input", "target") == [torch.float64, torch.int64]


def test_a_float_among_class_indices_is_not_cut_off() -> None:
    with pytest.raises(LosskitRuntimeError, match=r"class indices must be integers: target\.long\(\)\?"):
        losskit.explain("cross_entropy", [[1.0, 2.0]], [1.7])
    with pytest.raises(LosskitRuntimeError, match="target must hold class indices of dtype int64, got float32"):
        losskit.explain("multi_margin_loss", [[1.0, 2.0]], [1.7])


# Errors.


ERRORS: list[tuple[str, type[Exception], Callable[[], Any]]] = [
    (
        "explain: no loss is called 'cros_entropy'. Did you mean 'cross_entropy'?",
        LosskitValueError,
        lambda: losskit.explain("cros_entropy", [[1.0]], [0]),
    ),
    (
        "explain: no loss is called 'CrossEntropy'. Did you mean 'cross_entropy'?",
        LosskitValueError,
        lambda: losskit.explain("CrossEntropy", [[1.0]], [0]),
    ),
    (
        "explain: no loss is called 'qqq'. losskit losses lists them all.",
        LosskitValueError,
        lambda: losskit.explain("qqq", [1.0], [0.0]),
    ),
    (
        "explain: the first argument must be a loss of losskit or torch.nn, as a module, a function or a name, got "
        "Tensor.",
        LosskitTypeError,
        lambda: losskit.explain(torch.ones(3), torch.ones(3)),
    ),
    (
        "explain: the first argument must be a loss of losskit or torch.nn, as a module, a function or a name, got "
        "Linear.",
        LosskitTypeError,
        lambda: losskit.explain(nn.Linear(2, 2), torch.ones(3)),
    ),
    (
        "explain: the first argument must be a loss of losskit or torch.nn, as a module, a function or a name, got "
        "the function 'relu'.",
        LosskitTypeError,
        lambda: losskit.explain(torch.relu, torch.ones(3)),
    ),
    (
        "explain: no loss is called 'dropout'. losskit losses lists them all.",
        LosskitValueError,
        lambda: losskit.explain(nn.functional.dropout, torch.ones(3)),
    ),
    (
        "explain: cross_entropy takes no 'label_smoothin'. Did you mean 'label_smoothing'?",
        LosskitTypeError,
        lambda: losskit.explain("cross_entropy", [[1.0]], [0], label_smoothin=0.1),
    ),
    (
        "explain: cross_entropy needs input, target; target is missing.",
        LosskitTypeError,
        lambda: losskit.explain("cross_entropy", [[1.0]]),
    ),
    (
        "explain: CTCLoss takes 4 arguments without a name, log_probs, targets, input_lengths, target_lengths; got 5.",
        LosskitTypeError,
        lambda: losskit.explain(nn.CTCLoss(), *[torch.ones(1)] * 5),
    ),
    (
        "explain: input of mse_loss is given twice.",
        LosskitTypeError,
        lambda: losskit.explain("mse_loss", [1.0], input=[1.0], target=[1.0]),
    ),
    (
        "explain: input makes no tensor: its rows have different lengths.",
        LosskitTypeError,
        lambda: losskit.explain("mse_loss", [[1.0], [1.0, 2.0]], [1.0]),
    ),
    (
        "explain: target holds 'a', where a number is needed.",
        LosskitTypeError,
        lambda: losskit.explain("mse_loss", [1.0], ["a"]),
    ),
    (
        "explain: input makes no tensor: got object, and a tensor or a list of numbers is needed.",
        LosskitTypeError,
        lambda: losskit.explain("mse_loss", object(), [1.0]),
    ),
    (
        "explain: lang must be 'en' or 'zh', got 'fr'.",
        LosskitValueError,
        lambda: losskit.explain("mse_loss", [1.0], [1.0], lang="fr"),
    ),
    (
        "explain: digits must lie in [1, 15], got 0.",
        LosskitValueError,
        lambda: losskit.explain("mse_loss", [1.0], [1.0], digits=0),
    ),
    (
        "explain: rows must lie in [3, 1000000], got 2.",
        LosskitValueError,
        lambda: losskit.explain("mse_loss", [1.0], [1.0], rows=2),
    ),
    (
        "explain: rows must be an int, got float.",
        LosskitTypeError,
        lambda: losskit.explain("mse_loss", [1.0], [1.0], rows=3.0),
    ),
    # What the loss itself says comes through.
    (
        "l1_loss: reduction must be 'none', 'mean' or 'sum', got 'mean/sum'.",
        LosskitValueError,
        lambda: losskit.explain("l1_loss", [1.0], [1.0], reduction="mean/sum"),
    ),
    (
        "l1_loss: reduction must be 'none', 'mean' or 'sum', got 'mean/sum'.",
        LosskitValueError,
        lambda: losskit.explain(nn.L1Loss(reduction="mean/sum"), [1.0], [1.0]),
    ),
    (
        "cross_entropy: 1 of 1 targets lie outside [0, 3): {3}, first at index 0. min=3, max=3=C: these labels look "
        "1-based.",
        LosskitIndexError,
        lambda: losskit.explain("cross_entropy", [[1.0, 2.0, 3.0]], [3]),
    ),
    (
        "mse_loss: no value counts (on_empty='raise'): every one is masked, ignored or of weight 0, or the input is "
        "empty.",
        LosskitRuntimeError,
        lambda: losskit.explain("mse_loss", [1.0], [1.0], mask=[False], on_empty="raise"),
    ),
]


@pytest.mark.parametrize(("message", "kind", "call"), ERRORS, ids=[error[0][:60] for error in ERRORS])
def test_errors(message: str, kind: type[Exception], call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call()


def test_a_step_that_is_not_there() -> None:
    explanation = losskit.explain("mse_loss", [1.0], [2.0])
    with pytest.raises(
        LosskitValueError,
        match=r"^explain: mse_loss has no step 'softmax' here; its steps are difference, square, mean\.$",
    ):
        explanation.step("softmax")
    with pytest.raises(LosskitValueError, match=r"^explain: there is no column 'p' here; the columns are d, ℓ\.$"):
        explanation.step("square").table["p"]


def test_warnings_of_the_call_are_said_by_the_explanation_and_others_come_through() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losskit.explain("mse_loss", torch.ones(3, 1), torch.ones(3))
        losskit.explain("kl_div", [[-1.0, -1.0]], [[0.5, 0.5]])
        losskit.explain("mse_loss", [1.0], [2.0], size_average=False)
    options = nn.LinearCrossEntropyOptions()
    with pytest.warns(UserWarning, match="options is ignored"):
        losskit.explain(
            "linear_cross_entropy", torch.ones(2, 3), torch.ones(4, 3), [0, 1], label_smoothing=0.1, options=options
        )


def test_the_name_is_there_before_the_room_is_loaded() -> None:
    code = """
        import sys, losskit
        assert "losskit.explanation" not in sys.modules
        assert {"explain", "Explanation"} <= set(dir(losskit)) & set(losskit.__all__)
        print(losskit.explain("mse_loss", [1.0], [3.0]).result.item(), losskit.Explanation.__name__)
        print("matplotlib" in sys.modules, "rich" in sys.modules)
    """
    assert output_of(code) == "4.0 Explanation\nFalse False"
    with pytest.raises(AttributeError, match=r"^module 'losskit' has no attribute 'explian'$"):
        _ = losskit.explian


def test_the_case_of_every_loss_is_used_here() -> None:
    assert set(OPTIONS) == {case.name for case in TORCH_CASES} - {"linear_cross_entropy"} >= set(BY_NAME)


@pytest.mark.parametrize(
    ("input", "message"),
    [
        (torch.zeros(2, device="meta"), "input is on the meta device and has no values."),
        (torch.zeros(2).to_sparse(), "input is sparse, and a plain tensor is needed: input.to_dense()?"),
    ],
)
def test_tensors_that_cannot_be_read(input: torch.Tensor, message: str) -> None:
    with pytest.raises(LosskitTypeError, match=f"^explain: {re.escape(message)}$"):
        losskit.explain("mse_loss", input, torch.zeros(2))


def test_nested_and_quantized_tensors_cannot_be_read() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([torch.zeros(2)])
        quantized = torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)
    for input, kind in ((nested, "nested"), (quantized, "quantized")):
        with pytest.raises(LosskitTypeError, match=f"^explain: input is {kind}, and a plain tensor is needed: "):
            losskit.explain("mse_loss", input, torch.zeros(2))
