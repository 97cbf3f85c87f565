"""The examples that tutorials teach, explained: in Python, and by one command each."""

import json
import math
from typing import Any

import pytest
import torch

import losskit
from losskit.cli import main
from losskit.explanation import Explanation

IMAGE, OTHER_IMAGE = [[[[1, 2, 3]]]], [[[[1, 2, 5]]]]
LOG_PROBS = [
    [-3.2056, -1.7804, -0.4350, -3.9833, -2.0795],
    [-2.1543, -1.8606, -1.5360, -1.1057, -1.7025],
    [-2.3243, -0.7615, -1.1595, -2.5594, -3.1195],
]
TWO_ROWS = [[0.0541, 0.1762, 0.9489], [-0.0288, -0.8072, 0.4909]]
THREE_ROWS = [[0.1234, 0.5555, 0.3211]] * 3
EYE = torch.eye(10)
# The logits of a perfect classifier, behind a softmax.
PERFECT = torch.softmax(100 * EYE, 1).tolist()
BEHIND_LOG_SOFTMAX = torch.softmax(100 * EYE, 1).log_softmax(1).tolist()
SCORES = [[-1.5], [0.25], [3.0]]
OF_SIGMOID = torch.tensor(SCORES).sigmoid().tolist()

# Number, loss, input, target, options, result to four decimals, a step and what it comes to.
EXAMPLES: list[tuple[str, str, Any, Any, dict[str, Any], Any, str, Any]] = [
    ("1 mean", "L1Loss", IMAGE, OTHER_IMAGE, {}, 0.6667, "absolute", [[[[0, 0, 2]]]]),
    ("1 sum", "L1Loss", IMAGE, OTHER_IMAGE, {"reduction": "sum"}, 2.0, "sum", 2),
    ("2 mean", "MSELoss", IMAGE, OTHER_IMAGE, {}, 1.3333, "square", [[[[0, 0, 4]]]]),
    ("2 sum", "MSELoss", IMAGE, OTHER_IMAGE, {"reduction": "sum"}, 4.0, "sum", 4),
    ("4", "CrossEntropyLoss", [[0.1, 0.2, 0.3]], [1], {}, 1.1019, "target_class", [1.1019]),
    ("5 mean", "MSELoss", [1, 2, 3], [2, 2, 4], {}, 0.6667, "square", [1, 0, 1]),
    ("5 sum", "MSELoss", [1, 2, 3], [2, 2, 4], {"reduction": "sum"}, 2.0, "sum", 2),
    (
        "5 legacy",
        "MSELoss",
        [1, 2, 3],
        [2, 2, 4],
        {"size_average": False, "reduce": False, "reduction": "sum"},
        [1, 0, 1],
        "none",
        [1, 0, 1],
    ),
    ("6 l1", "L1Loss", [1, 2, 3], [2, 2, 4], {}, 0.6667, "absolute", [1, 0, 1]),
    ("6 smooth", "SmoothL1Loss", [1, 2, 3], [2, 2, 4], {}, 0.3333, "smooth_l1", [0.5, 0, 0.5]),
    ("7", "CrossEntropyLoss", [[0.5, 0.2, 0.3]], [1], {}, 1.2398, "target_class", [1.2398]),
    ("8 mean", "nll_loss", LOG_PROBS, [1, 0, 4], {}, 2.3514, "target_class", [1.7804, 2.1543, 3.1195]),
    ("8 sum", "nll_loss", LOG_PROBS, [1, 0, 4], {"reduction": "sum"}, 7.0542, "sum", 7.0542),
    ("9 none", "CrossEntropyLoss", TWO_ROWS, [0, 2], {"reduction": "none"}, [1.5210, 0.6247], "none", [1.5210, 0.6247]),
    ("9 mean", "CrossEntropyLoss", TWO_ROWS, [0, 2], {}, 1.0729, "target_class", [1.5210, 0.6247]),
    ("10", "CrossEntropyLoss", THREE_ROWS, [0, 1, 2], {}, 1.1142, "target_class", [1.3242, 0.8921, 1.1265]),
    ("13", "CrossEntropyLoss", PERFECT, list(range(10)), {}, 1.4612, "target_class", [1.4612] * 10),
    ("14", "NLLLoss", BEHIND_LOG_SOFTMAX, list(range(10)), {}, 1.4612, "target_class", [1.4612] * 10),
]
IDS = [example[0] for example in EXAMPLES]


def rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return round(value, 4)


def texts(explanation: Explanation) -> dict[str, str]:
    return {remark.key: remark.text for remark in explanation.remarks}


def command(name: str, input: Any, target: Any, options: dict[str, Any], *more: str) -> list[str]:
    given = [f"--input={json.dumps(input)}", "--target", json.dumps(target)]
    for option, value in options.items():
        given += [f"--{option}", value if isinstance(value, str) else json.dumps(value)]
    return ["explain", name, *given, *more]


@pytest.mark.parametrize(
    ("name", "input", "target", "options", "result", "step", "value"), [example[1:] for example in EXAMPLES], ids=IDS
)
def test_in_python(
    name: str, input: Any, target: Any, options: dict[str, Any], result: Any, step: str, value: Any
) -> None:
    explanation = losskit.explain(name, input, target, **options)
    assert rounded(explanation.result.tolist()) == result
    assert rounded(explanation.value.tolist()) == result
    assert rounded(explanation.step(step).value.tolist()) == value
    # And as a module, where it can be made.
    if name[0].isupper() and "reduce" not in options:
        module = getattr(losskit, name)(**options)
        again = losskit.explain(module, torch.tensor(input), torch.tensor(target)) if "Entropy" in name else None
        assert again is None or rounded(again.result.tolist()) == result


@pytest.mark.parametrize(
    ("name", "input", "target", "options", "result", "step", "value"), [example[1:] for example in EXAMPLES], ids=IDS
)
def test_by_one_command(
    name: str,
    input: Any,
    target: Any,
    options: dict[str, Any],
    result: Any,
    step: str,
    value: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(name, input, target, options, "--lang", "en")) == 0
    text = capsys.readouterr().out
    for number in result if isinstance(result, list) else [result]:
        assert f"{number:.4f}" in text
    assert main(command(name, input, target, options, "--format", "json")) == 0
    read = json.loads(capsys.readouterr().out)
    last = read["steps"][-1]["table"]["columns"][-1]["values"]
    assert rounded(last if isinstance(result, list) else last[0]) == result
    assert step in [entry["key"] for entry in read["steps"]]


def test_3_an_unknown_reduction_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    message = "reduction must be 'none', 'mean' or 'sum', got 'mean/sum'."
    with pytest.raises(ValueError, match=f"^l1_loss: {message}$"):
        losskit.explain("L1Loss", [1.0], [2.0], reduction="mean/sum")
    with pytest.raises(ValueError, match=f"^l1_loss: {message}$"):
        losskit.explain(torch.nn.L1Loss(reduction="mean/sum"), [1.0], [2.0])
    assert main(["explain", "L1Loss", "--input", "[1]", "--target", "[2]", "--reduction", "mean/sum"]) == 2
    assert capsys.readouterr().err == f"losskit: l1_loss: {message}\n"


def test_4_is_minus_the_score_and_the_logarithm_of_a_sum() -> None:
    explanation = losskit.explain("cross_entropy", [[0.1, 0.2, 0.3]], [1])
    by_hand = -0.2 + math.log(sum(math.exp(x) for x in (0.1, 0.2, 0.3)))
    assert float(explanation.value) == pytest.approx(by_hand, abs=1e-8)


def test_5_says_that_the_legacy_flags_win() -> None:
    explanation = losskit.explain(
        "mse_loss", [1, 2, 3], [2, 2, 4], size_average=False, reduce=False, reduction="sum", lang="en"
    )
    assert texts(explanation)["legacy"].endswith('here they mean reduction="none".')


def test_7_warns_that_the_scores_look_like_probabilities() -> None:
    assert "softmax_twice" in texts(losskit.explain("cross_entropy", [[0.5, 0.2, 0.3]], [1]))


def test_10_is_log_softmax_and_negative_log_likelihood() -> None:
    rows = torch.tensor(THREE_ROWS)
    one = losskit.explain("cross_entropy", rows, [0, 1, 2])
    other = losskit.explain("nll_loss", rows.log_softmax(1), [0, 1, 2])
    assert rounded(other.result.item()) == 1.1142
    torch.testing.assert_close(
        -one.step("negative_log").value, other.step("log_probabilities").value, rtol=0, atol=1e-7
    )
    torch.testing.assert_close(one.step("target_class").value, other.step("target_class").value, rtol=0, atol=1e-7)


@pytest.mark.parametrize("target", [[0, 1, 2], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]], ids=["indices", "one-hot"])
def test_11_scores_are_not_probabilities(target: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What the textbook's formula makes of the scores, why that is not the loss, and what it should be."""
    said = (
        "−Σ y·log x of these numbers as they are, without the softmax, gives 3.8162 in sum and 1.2721 in the mean. "
        "That is not this loss: the input holds scores, and scores are not probabilities. With p = softmax(x), "
        "−Σ y·log p is 3.3427 in sum and 1.1142 in the mean."
    )
    explanation = losskit.explain("cross_entropy", THREE_ROWS, target, lang="en")
    assert texts(explanation)["textbook"] == said
    assert rounded(explanation.result.item()) == 1.1142
    assert main(command("cross_entropy", THREE_ROWS, target, {}, "--lang", "en")) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert main(command("cross_entropy", THREE_ROWS, target, {}, "--lang", "zh")) == 0
    chinese = "".join(capsys.readouterr().out.split())
    assert "总和为3.8162" in chinese
    assert "得分不是概率" in chinese


def test_12_bce_of_the_sigmoid_is_bce_with_logits(capsys: pytest.CaptureFixture[str]) -> None:
    target = [[0.0], [1.0], [1.0]]
    of_sigmoid = losskit.explain("BCELoss", OF_SIGMOID, target)
    of_scores = losskit.explain("BCEWithLogitsLoss", SCORES, target)
    assert float(of_sigmoid.result) == pytest.approx(float(of_scores.result), abs=1e-6)
    # The second step of one is what the other begins with.
    torch.testing.assert_close(of_scores.step("sigmoid").value, of_sigmoid.step("given").table["p"], rtol=0, atol=1e-7)
    printed = []
    for name, input in (("BCELoss", OF_SIGMOID), ("BCEWithLogitsLoss", SCORES)):
        assert main(command(name, input, target, {}, "--format", "json")) == 0
        printed.append(rounded(json.loads(capsys.readouterr().out)["result"]))
    assert printed[0] == printed[1] == rounded(float(of_scores.result))


def test_13_names_the_second_softmax(capsys: pytest.CaptureFixture[str]) -> None:
    said = texts(losskit.explain("cross_entropy", PERFECT, list(range(10)), lang="en"))["softmax_twice"]
    assert "with 10 classes the loss cannot fall below 1.4612" in said
    assert "pass what goes into it" in said
    # The scores themselves cost nothing, and nothing is said.
    right = losskit.explain("cross_entropy", 100 * EYE, list(range(10)))
    assert rounded(right.result.item()) == 0
    assert "softmax_twice" not in texts(right)
    assert main(command("cross_entropy", PERFECT, list(range(10)), {}, "--lang", "en")) == 0
    assert said in " ".join(capsys.readouterr().out.split())


def test_14_names_the_softmax_before_the_log_softmax(capsys: pytest.CaptureFixture[str]) -> None:
    explanation = losskit.explain("nll_loss", BEHIND_LOG_SOFTMAX, list(range(10)), lang="en")
    said = texts(explanation)["softmax_before_log_softmax"]
    assert "With 10 classes the loss then cannot fall below 1.4612" in said
    right = losskit.explain("nll_loss", (100 * EYE).log_softmax(1), list(range(10)))
    assert "softmax_before_log_softmax" not in texts(right)
    assert main(command("nll_loss", BEHIND_LOG_SOFTMAX, list(range(10)), {}, "--lang", "en")) == 0
    assert said in " ".join(capsys.readouterr().out.split())


# Statements of the tutorials, which a user can check.


def test_ignore_index_takes_a_row_out_of_value_gradient_and_divisor() -> None:
    explanation = losskit.explain("cross_entropy", torch.randn(3, 4), [1, -100, 2])
    assert explanation.step("ignore").value[1] == 0
    assert explanation.steps[-1].table["D"] == 2
    assert explanation.gradients["input"].values[1].tolist() == [0.0] * 4
    assert "ignored" in texts(explanation)


def test_label_smoothing_mixes_the_target_with_the_uniform_distribution() -> None:
    scores = torch.randn(2, 4)
    smoothed = losskit.explain("cross_entropy", scores, [1, 2], label_smoothing=0.2)
    mixed = losskit.explain("cross_entropy", scores, [[0.05, 0.85, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05]])
    torch.testing.assert_close(smoothed.step("smoothing").value, mixed.step("sum_of_classes").value, rtol=1e-6, atol=0)


def test_l1_has_no_derivative_at_0_and_beta_is_where_the_square_ends() -> None:
    explanation = losskit.explain("l1_loss", [1.0, 2.0], [1.0, 0.0], lang="en")
    assert explanation.gradients["input"].values.tolist() == [0.0, 0.5]
    assert "the subgradient 0 is used" in texts(explanation)["kink"]
    smooth = losskit.explain("smooth_l1_loss", [0.4, 0.6], [0.0, 0.0], beta=0.5)
    assert smooth.step("smooth_l1").table["|d| < β"].tolist() == [True, False]
