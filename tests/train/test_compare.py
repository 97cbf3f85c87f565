"""The comparison with torch.nn says "same" of the same, and notices what is not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

import losskit
from losskit.train import TrainOptions, train
from losskit.train.compare import Comparison
from losskit.train.options import IMAGE_LOSSES


@pytest.mark.parametrize("loss", IMAGE_LOSSES)
def test_same(loss: str, tmp_path: Path) -> None:
    comparison = train(TrainOptions(data="fake", out=tmp_path, loss=loss, epochs=2), compare_torch=True).comparison
    assert comparison is not None
    assert comparison.same
    assert comparison.steps == 8
    assert comparison.noise < 1e-2
    assert comparison.loss_difference < 1e-6


def test_same_with_every_option_of_cross_entropy(tmp_path: Path) -> None:
    options = TrainOptions(data="fake", out=tmp_path, epochs=2, label_smoothing=0.1, class_weights="balanced")
    comparison = train(options, compare_torch=True).comparison
    assert comparison is not None
    assert comparison.same


class _Wrong(losskit.CrossEntropyLoss):
    """The right value, or nearly, and a gradient that `change` spoils."""

    change: Callable[[Tensor], Tensor]

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        return self.change(super().forward(input, target))


@pytest.mark.parametrize(
    "change",
    [
        lambda loss: loss * (1 + 1e-4),
        lambda loss: loss + 1e-4,
        lambda loss: loss + 1e-3 * (loss - loss.detach()),
        lambda loss: loss - 2 * (loss - loss.detach()),
        lambda loss: loss.detach() + 0 * loss,
    ],
    ids=["scaled", "shifted", "gradient scaled", "gradient turned", "no gradient"],
)
def test_wrong_criteria_are_noticed(
    change: Callable[[Tensor], Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = type("Wrong", (_Wrong,), {"change": staticmethod(change)})
    monkeypatch.setattr(losskit, "CrossEntropyLoss", wrong)
    options = TrainOptions(data="fake", out=tmp_path, epochs=1, batch_size=256)
    comparison = train(options, compare_torch=True).comparison
    assert comparison is not None
    assert not comparison.same
    # Noticed on the same logits, not only in how the trainings went.
    assert comparison.share_of_allowed > 1
    assert comparison.lines("torch.nn.CrossEntropyLoss", "nats")[-1] == "  NOT the same"
    assert nn.CrossEntropyLoss is not wrong


def test_a_training_that_went_another_way_is_noticed() -> None:
    """Equal on every batch of logits, but the trained network saw something else: the second test's task."""
    comparison = Comparison(
        steps=4,
        loss_difference=0.0,
        gradient_difference=0.0,
        share_of_allowed=0.0,
        rounding=1e-6,
        training_difference=0.5,
        step=3,
        noise=1e-3,
    )
    assert not comparison.same
    assert comparison._replace(training_difference=5e-3).same
    assert not comparison._replace(training_difference=float("nan")).same
    assert comparison.lines("torch.nn.MSELoss", "nats") == [
        "the same training with torch.nn.MSELoss, 4 steps:",
        "  largest difference of the losses on the same logits: 0.0e+00 nats, of the gradients 0.0e+00 "
        "(0 % of what rounding explains)",
        "  largest difference of the losses of the two trainings: 5.0e-01 nats in step 3 "
        "(torch.nn against torch.nn from weights one rounding apart: 1.0e-03)",
        "  NOT the same",
    ]
