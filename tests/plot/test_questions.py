"""The ten pictures: every number in them is what the losses give, computed while they are drawn."""

import ast
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.text import Text

import losskit
from losskit import functional, plot
from losskit.plot import questions
from losskit.replace import FUNCTIONS

NAMES = [asked.name for asked in plot.QUESTIONS]
FOLDER = Path(questions.__file__).parent


def drawn(name: str) -> list[Any]:
    found = plot.question(name)
    return list(found) if isinstance(found, tuple) else [found]


def texts(axes: list[Any]) -> list[str]:
    return [text.get_text() for panel in axes for text in panel.findobj(Text) if text.get_text()]


def line(panel: Any, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = panel.lines[index].get_data()
    return torch.as_tensor(x).double(), torch.as_tensor(y).double()


def test_there_are_ten_and_each_has_a_file() -> None:
    assert len(set(NAMES)) == len(plot.QUESTIONS) == 10
    assert len(list(FOLDER.glob("*.py"))) == 12  # these, the list of them and what they share
    for asked in plot.QUESTIONS:
        assert asked.question.endswith("?")
        assert asked.answer.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_of_ones_own(name: str) -> None:
    from matplotlib.figure import Figure

    asked = questions.question_named(name)
    panels = list(Figure().subplots(1, len(asked.widths), squeeze=False)[0])
    got = plot.question(name, ax=panels if len(panels) > 1 else panels[0])
    assert got == (panels[0] if len(panels) == 1 else tuple(panels))
    assert panels[0].figure.get_suptitle() == ""
    (own, *_) = drawn(name)
    assert own.figure.get_suptitle() == asked.question


def test_an_unknown_question() -> None:
    for name, hint in (("softmax", "Did you mean 'softmax-twice'?"), ("why", f"There are {', '.join(NAMES)}.")):
        with pytest.raises(losskit.LosskitError, match=re.escape(f"question: no question is called {name!r}. {hint}")):
            plot.question(name)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_no_result_is_typed_into_a_picture(path: Path) -> None:
    """Words with a decimal number are the question itself; numbers are data, sizes and places, none a long decimal."""
    # Questions, the first lines of their files, and the room around the words of a box.
    allowed = {one.question for one in plot.QUESTIONS} | {"Why 2.3 at the start?", "Is 0.5 good?", "round,pad=0.45"}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and value not in allowed:
            assert not re.search(r"\d\.\d", value), value
        if isinstance(value, float):
            assert len(repr(value).partition(".")[2]) <= 3, value


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_follow_the_losses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With losses that are half as large again, the picture is another."""

    def state() -> list[object]:
        axes = drawn(name)
        data = [(list(map(float, one.get_xdata())), list(map(float, one.get_ydata()))) for a in axes for one in a.lines]
        return [texts(axes), data, [(bar.get_width(), bar.get_height()) for a in axes for bar in a.patches]]

    before = state()

    def louder(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(function)
        def call(*arguments: Any, **kwargs: Any) -> torch.Tensor:
            # Not the same for each sample, so that shares change too.
            result = function(*arguments, **kwargs)
            return result + result.square() / 2

        return call

    assert state() == before
    for function in FUNCTIONS:
        monkeypatch.setattr(functional, function, louder(getattr(functional, function)))
    assert state() != before


def test_softmax_twice() -> None:
    axes = drawn("softmax-twice")
    said = texts(axes)
    floor = -math.log(math.e / (math.e + 9))
    assert "right: the loss is 0.0000 nats" in said
    assert f"wrong: the loss is {floor:.4f} nats" in said
    assert f"floor: {floor:.4f} nats" in said
    assert f"{floor:.4f}" == "1.4612"
    x, right = line(axes[1], 0)
    torch.testing.assert_close(right, torch.log1p(9 * (-x).exp()), rtol=1e-5, atol=1e-6)
    _, wrong = line(axes[1], 1)
    true, other = 1 / (1 + 9 * (-x).exp()), (-x).exp() / (1 + 9 * (-x).exp())
    torch.testing.assert_close(wrong, torch.log(true.exp() + 9 * other.exp()) - true, rtol=1e-5, atol=1e-6)
    assert float(wrong.min()) == pytest.approx(floor, abs=1e-4)


def test_target_shape() -> None:
    axes = drawn("target-shape")
    said = texts(axes)
    scores = torch.tensor([[2.0, 0.5, -1.0, 0.0], [0.0, 0.5, 1.5, -0.5], [-1.0, 0.0, 0.5, 1.0]])
    loss = float(torch.nn.functional.cross_entropy(scores, torch.tensor([0, 2, 3])))
    assert said.count(f"loss {loss:.4f}") == 2
    assert (said.count("✓"), said.count("✗")) == (6, 3)
    joined = " ".join(" ".join(said).split())
    for fix in ("target.argmax(1) for class indices?", "target.squeeze(1)?", "input.transpose(1, 2)?"):
        assert fix in joined
    assert "(2, 8, 8) int64" in said


def test_first_loss() -> None:
    (panel,) = drawn("first-loss")
    classes, guessed = line(panel, 0)
    torch.testing.assert_close(guessed, classes.log(), rtol=1e-6, atol=0)
    where, measured = line(panel, 1)
    # Scores of a standard deviation near a half lift the loss above that of equal probabilities, by little.
    assert bool(((measured - where.log()).abs() < 0.35).all())
    assert "10 classes: 2.3026" in texts([panel])


def test_good_loss() -> None:
    axes = drawn("good-loss")
    loss, percent = line(axes[0], 0)
    torch.testing.assert_close(percent, 100 * (-loss).exp(), rtol=1e-5, atol=1e-5)
    assert f"loss 0.5: {100 * math.exp(-0.5):.1f} %" in texts(axes)
    widths = [bar.get_width() for bar in axes[1].patches]
    assert widths == pytest.approx([math.log(classes) for classes in (2, 10, 1000, 50_000)])


def test_negative_loss() -> None:
    axes = drawn("negative-loss")
    x, nll = line(axes[0], 0)
    assert torch.equal(nll, -x)
    labels = [text.get_text() for text in axes[0].get_legend().get_texts()]
    scores = torch.tensor([2.5, 1.0, 0.0], dtype=torch.float64)
    expected = [-scores.log_softmax(0)[0], -scores.softmax(0)[0], -scores[0]]
    names = ("log_softmax", "softmax", "raw scores")
    told = [f"{name}: {float(value):.2f}" for name, value in zip(names, expected, strict=True)]
    assert labels[1:] == [one.replace("-", "−") for one in told]
    target, loss = line(axes[1], 0)
    torch.testing.assert_close(loss, math.log1p(math.exp(2)) - 2 * target, rtol=1e-5, atol=1e-5)
    # Nowhere negative in the region that is shaded.
    legal = (target >= 0) & (target <= 1)
    for index in (0, 1):
        _, loss = line(axes[1], index)
        assert float(loss[legal].min()) >= 0
        assert float(loss.min()) < 0
    variance, loss = line(axes[2], 0)
    torch.testing.assert_close(loss, variance.log() / 2, rtol=1e-5, atol=1e-5)


def test_reduction() -> None:
    axes = drawn("reduction")
    heights = [bar.get_height() for bar in axes[1].patches]
    assert heights == pytest.approx([1 / 4] * 2 + [1 / 12] * 6 + [1 / 8] * 8)
    losses = torch.tensor([bar.get_height() for bar in axes[0].patches])
    assert (
        axes[0].get_title() == f'"none": 8 losses\n"sum": {float(losses.sum()):.4f}, "mean": {float(losses.mean()):.4f}'
    )
    at_once, means, sums = (bar.get_width() for bar in axes[2].patches)
    assert at_once == pytest.approx(sums) == pytest.approx(float(losses.mean()))
    assert means == pytest.approx(float((losses[:2].mean() + losses[2:].mean()) / 2))
    assert abs(means - at_once) > 0.1


def test_bce_or_ce() -> None:
    said = texts(drawn("bce-or-ce"))
    leaves = [text for text in said if "first loss" in text]
    assert [text.splitlines()[-1] for text in leaves] == [
        f"first loss {math.log(2):.4f}",
        f"first loss {math.log(2):.4f}",
        f"first loss {math.log(5):.4f}",
        f"first loss {math.log(2):.4f}",
    ]
    assert ["Linear(16, 1)" in leaves[0], "Linear(16, 2)" in leaves[1], "Linear(16, 5)" in leaves[2]] == [True] * 3
    (same,) = [re.findall(r"\d\.\d{4}", text) for text in said if text.startswith("one score")]
    assert same[0] == same[1]


def test_validation_rises() -> None:
    losses, accuracy, spread = drawn("validation-rises")
    _, train = line(losses, 0)
    _, validation = line(losses, 1)
    _, right = line(accuracy, 0)
    best = int(validation.argmin())
    assert 0 < best < len(validation) - 1
    # What the question is about: from the lowest validation loss on, both rise, and the training loss falls.
    assert float(validation[-1]) > 1.1 * float(validation[best])
    assert float(right[-1]) > float(right[best]) + 1
    assert float(train[-1]) < float(train[best]) / 5
    assert losses.get_title() == (
        f"Validation loss: {float(validation[best]):.3f} in epoch {best + 1}, {float(validation[-1]):.3f} at the end"
    )
    # And why: the median falls while the mean rises.
    labels = {one.get_label(): torch.as_tensor(one.get_ydata()) for one in spread.lines}
    torch.testing.assert_close(labels["mean"], validation)
    assert float(labels["median"][-1]) < float(labels["median"][best]) / 2


def test_mse_for_classes() -> None:
    values, gradients = drawn("mse-for-classes")
    x, logistic = line(gradients, 0)
    _, squared = line(gradients, 1)
    p = torch.sigmoid(x)
    torch.testing.assert_close(logistic, p - 1)
    torch.testing.assert_close(squared, 2 * (p - 1) * p * (1 - p))
    torch.testing.assert_close(line(values, 1)[1], (1 - p).square())
    at = torch.sigmoid(torch.tensor(-6.0, dtype=torch.float64))
    labels = [text.get_text() for text in gradients.get_legend().get_texts()]
    assert labels == [
        f"at logit −6: −{float(1 - at):.4f}",
        f"at logit −6: −{float(2 * (1 - at) * at * (1 - at)):.4f}",
    ]


def test_class_weights() -> None:
    samples, shares = drawn("class-weights")
    counts = torch.tensor([900.0, 90.0, 10.0], dtype=torch.float64)
    p = counts / counts.sum()
    assert [bar.get_height() for bar in samples.patches] == pytest.approx((100 * p).tolist())
    heights = [bar.get_height() for bar in shares.patches]
    before, after = -p * p.log(), -p.log()
    assert heights[:3] == pytest.approx((100 * before / before.sum()).tolist(), rel=1e-5)
    assert heights[3:] == pytest.approx((100 * after / after.sum()).tolist(), rel=1e-5)
