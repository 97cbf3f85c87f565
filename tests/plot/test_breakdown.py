"""Samples and classes: the bars are the losses, and the shares add up."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import losskit
from losskit import functional as F
from losskit import plot

LOGITS = 2 * torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0] * 8 + [1] * 3 + [2])


def heights(axes: Any) -> torch.Tensor:
    return torch.tensor([bar.get_height() for bar in axes.patches], dtype=torch.float64)


def test_samples_are_the_unreduced_losses_largest_first() -> None:
    bars, share = plot.samples("cross_entropy", LOGITS, LABELS)
    each = F.cross_entropy(LOGITS, LABELS, reduction="none").double()
    ordered, order = each.sort(descending=True)
    torch.testing.assert_close(heights(bars), ordered)
    assert [label.get_text() for label in bars.get_xticklabels()] == [str(index) for index in order.tolist()]
    assert bars.get_ylabel() == "loss (nats)"
    assert bars.get_legend().get_texts()[0].get_text() == f"mean over samples: {float(each.mean()):.4g}"
    running = torch.as_tensor(share.lines[0].get_ydata(), dtype=torch.float64)
    torch.testing.assert_close(running[1:], 100 * ordered.cumsum(0) / each.sum())
    assert float(running[-1]) == pytest.approx(100)
    worst = 100 * float(ordered[0] / each.sum())
    assert share.get_title() == f"The worst 1 of 12 samples\nmakes {worst:.1f} % of the sum"


def test_a_sample_is_a_row() -> None:
    input, target = torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    bars, _ = plot.samples(losskit.MSELoss(), input, target)
    each = (input - target).square().double().sum((1, 2))
    torch.testing.assert_close(heights(bars), each.sort(descending=True).values, rtol=1e-6, atol=0)
    assert bars.get_ylabel() == "loss (target units squared)"


def test_more_arguments_and_options_reach_the_loss() -> None:
    input, target, variance = torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3), torch.full((3,), 0.04)
    bars, running = plot.samples("gaussian_nll", input, target, variance, full=True)
    each = F.gaussian_nll_loss(input, target, variance, full=True, reduction="none").double()
    torch.testing.assert_close(heights(bars), each.sort(descending=True).values)
    # With losses of both signs there are no shares.
    assert float(each.min()) < 0
    assert running.get_ylabel() == "running sum (nats)"
    assert float(running.lines[0].get_ydata()[-1]) == pytest.approx(float(each.sum()))


def test_many_samples_are_drawn_as_an_area() -> None:
    losses, share = plot.samples("l1", torch.arange(1000.0), torch.zeros(1000))
    assert losses.patches == [] or len(losses.patches) == 0
    assert losses.get_xlabel() == "samples, by their loss"
    assert share.get_title() == "The worst 100 of 1,000 samples\nmake 19.0 % of the sum"


@pytest.mark.parametrize(
    "criterion",
    ["cross_entropy", losskit.CrossEntropyLoss(), torch.nn.CrossEntropyLoss(reduction="sum"), F.cross_entropy],
)
def test_classes_before_and_after_balanced_weights(criterion: Any) -> None:
    axes = plot.classes(criterion, LOGITS, LABELS, "balanced")
    counts = torch.bincount(LABELS)
    weight = 12 / (3 * counts)
    for bars, each in (
        (heights(axes)[:3], F.cross_entropy(LOGITS, LABELS, reduction="none")),
        (heights(axes)[3:], F.cross_entropy(LOGITS, LABELS, weight, reduction="none")),
    ):
        sums = torch.stack([each[LABELS.eq(label)].double().sum() for label in range(3)])
        torch.testing.assert_close(bars, 100 * sums / sums.sum())
        assert float(bars.sum()) == pytest.approx(100)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["class 0\n8", "class 1\n3", "class 2\n1"]


def test_the_weights_of_the_criterion_and_its_other_options() -> None:
    weight = torch.tensor([1.0, 2.0, 8.0])
    own = plot.classes(losskit.CrossEntropyLoss(weight=weight, label_smoothing=0.1), LOGITS, LABELS)
    given = plot.classes(losskit.CrossEntropyLoss(label_smoothing=0.1), LOGITS, LABELS, weight)
    torch.testing.assert_close(heights(own), heights(given), rtol=0, atol=0)
    assert float(heights(own)[0]) != pytest.approx(float(heights(plot.classes("ce", LOGITS, LABELS, weight))[0]))
    # Without any weights there is one group of bars.
    assert len(heights(plot.classes("cross_entropy", LOGITS, LABELS))) == 3


def test_ignored_samples_are_of_no_class() -> None:
    target = LABELS.clone()
    target[:4] = 1
    ignoring = plot.classes(losskit.CrossEntropyLoss(ignore_index=1), LOGITS, target, "balanced", names=["a", "b", "c"])
    assert [label.get_text() for label in ignoring.get_xticklabels()] == ["a\n4", "b\n0", "c\n1"]
    assert float(heights(ignoring)[1]) == 0


def test_maps_of_classes() -> None:
    input, target = torch.randn(2, 4, 3, 3), torch.randint(4, (2, 3, 3))
    axes = plot.classes("cross_entropy", input, target)
    each = F.cross_entropy(input, target, reduction="none").double()
    expected = torch.stack([each[target == label].sum() for label in range(4)])
    torch.testing.assert_close(heights(axes), 100 * expected / expected.sum())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plot.samples("mse", torch.tensor([1.0, float("nan")]), torch.zeros(2)),
            "samples: 1 of 2 losses of mse_loss are not finite, first nan at index 1; leave those samples out.",
        ),
        (
            lambda: plot.samples("mse", torch.zeros(0), torch.zeros(0)),
            "samples: mse_loss returned no loss, expected a loss for each sample; give a batch of at least one sample, "
            "unreduced.",
        ),
        (
            lambda: plot.samples(lambda x, y: (x - y).mean(), torch.zeros(2), torch.zeros(2)),
            "samples: lambda returned one number, expected a loss for each sample; give a batch of at least one "
            "sample, unreduced.",
        ),
        (
            lambda: plot.classes("mse", LOGITS, LOGITS),
            "classes: mse_loss has no class weights for class indices; give cross_entropy, nll_loss or "
            "multi_margin_loss.",
        ),
        (
            lambda: plot.classes("ce", LOGITS, LOGITS.softmax(1)),
            "classes: target must hold class indices, got torch.float32; try target.argmax(1).",
        ),
        (
            lambda: plot.classes("ce", LOGITS, LABELS, "even"),
            "classes: weight must be a tensor of 3 numbers or 'balanced', got 'even'.",
        ),
        (
            lambda: plot.classes("ce", LOGITS, LABELS, names=["a"]),
            "classes: names must hold 3 names, one for each class, got 1.",
        ),
        (
            lambda: plot.classes("ce", torch.tensor([[100.0, 0.0]]), torch.tensor([0])),
            "classes: the losses of cross_entropy add up to 0, of which there are no shares; expected a positive "
            "number.",
        ),
    ],
)
def test_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(losskit.LosskitError, match=f"^{re.escape(message)}$"):
        call()


def test_many_samples_are_thinned_and_their_numbers_are_not() -> None:
    """A hundred thousand, of which a few thousand points are drawn, the largest and the smallest among them."""
    input = torch.randn(100_000, generator=torch.Generator().manual_seed(1)).double()
    bars, share = plot.samples("mse", input, torch.zeros_like(input))
    losses = input.square().sort(descending=True).values
    outline = torch.as_tensor(bars.collections[0].get_paths()[0].vertices)
    assert len(outline) < 10_000
    assert float(outline[:, 1].max()) == pytest.approx(float(losses[0]))
    running = share.lines[0].get_ydata()
    assert len(running) == 2000
    assert (running[0], float(running[-1])) == (0, pytest.approx(100))
    worst = 100 * float(losses[:10_000].sum() / losses.sum())
    assert share.get_title() == f"The worst 10,000 of 100,000 samples\nmake {worst:.1f} % of the sum"
    assert bars.get_legend().get_texts()[0].get_text() == f"mean over samples: {float(losses.mean()):.4g}"


def test_a_vocabulary_of_classes_is_drawn_in_groups() -> None:
    target = torch.arange(0, 1201, 3)
    logits = torch.randn(len(target), 1201, generator=torch.Generator().manual_seed(1))
    weight = torch.linspace(0, 2, 1201)
    axes = plot.classes("cross_entropy", logits, target, weight)
    assert axes.get_title() == "cross_entropy: share of each 3 classes"
    assert len(axes.patches) == 2
    for steps, weights in zip(axes.patches, (torch.ones(1201), weight), strict=True):
        each = weights[target] * F.cross_entropy(logits, target, reduction="none")
        values, edges, _ = steps.get_data()
        torch.testing.assert_close(torch.as_tensor(values), (100 * each / each.sum()).double(), rtol=1e-4, atol=1e-6)
        assert list(edges) == [*range(0, 1201, 3), 1201]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: plot.classes("cross_entropy", LOGITS.tolist(), LABELS), "classes: input"),
        (lambda: plot.classes("cross_entropy", LOGITS, LABELS.tolist()), "classes: target"),
        (lambda: plot.classes("cross_entropy", LOGITS, LABELS, [1.0, 2.0, 3.0]), "classes: weight"),
    ],
    ids=["input", "target", "weight"],
)
def test_what_is_no_tensor_is_told_and_not_left_out(call: Callable[[], Any], name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be a torch.Tensor, got list\.$"):
        call()


def test_a_function_that_returns_no_tensor() -> None:
    with pytest.raises(TypeError, match=r"^samples: lambda must return a torch\.Tensor, got NoneType\.$"):
        plot.samples(lambda input, target: None, LOGITS, LOGITS)
