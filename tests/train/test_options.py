"""Options that cannot be, and what the defaults are."""

import math
from pathlib import Path
from typing import Any

import pytest

from losskit.errors import LosskitValueError
from losskit.train.options import TrainOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "mnist"}, "train: --data must be one of digits, cifar10, text, fake, got 'mnist'."),
        (
            {"loss": "hinge"},
            "train: --loss must be one of cross_entropy, nll_loss, bce_with_logits, mse, linear_cross_entropy, got "
            "'hinge'.",
        ),
        ({"optimizer": "lion"}, "train: --optimizer must be one of sgd, adam, adamw, got 'lion'."),
        ({"class_weights": "mean"}, "train: --class-weights must be one of balanced, got 'mean'."),
        ({"epochs": 0}, "train: --epochs must lie in [1, 1048575], got 0."),
        ({"batch_size": 0}, "train: --batch-size must lie in [1, 2147483647], got 0."),
        ({"seed": -1}, "train: --seed must lie in [0, 4294967295], got -1."),
        ({"seed": 2**32}, "train: --seed must lie in [0, 4294967295], got 4294967296."),
        ({"lr": 0.0}, "train: --lr must be a positive number, got 0.0."),
        ({"lr": math.inf}, "train: --lr must be a positive number, got inf."),
        ({"lr": math.nan}, "train: --lr must be a positive number, got nan."),
        ({"label_smoothing": 1.5}, "train: --label-smoothing must lie in [0, 1], got 1.5."),
        ({"label_smoothing": math.nan}, "train: --label-smoothing must lie in [0, 1], got nan."),
        (
            {"label_smoothing": 0.1, "loss": "mse"},
            "train: --label-smoothing 0.1 needs --loss cross_entropy or linear_cross_entropy, got --loss mse, which "
            "has no label smoothing; leave the option out.",
        ),
        (
            {"label_smoothing": 0.1, "loss": "nll_loss"},
            "train: --label-smoothing 0.1 needs --loss cross_entropy or linear_cross_entropy, got --loss nll_loss, "
            "which has no label smoothing; leave the option out.",
        ),
        (
            {"class_weights": "balanced", "loss": "mse"},
            "train: --class-weights balanced needs --loss cross_entropy, nll_loss or bce_with_logits, got --loss mse, "
            "which has no class weights; leave the option out.",
        ),
        (
            {"data": "text", "class_weights": "balanced"},
            "train: --class-weights balanced needs images, got --data text, whose rare words would weigh more than all "
            "others; leave the option out.",
        ),
        (
            {"data": "text", "loss": "mse"},
            "train: --data text goes with --loss linear_cross_entropy or cross_entropy, got --loss mse.",
        ),
        (
            {"loss": "linear_cross_entropy"},
            "train: --data digits goes with --loss cross_entropy, nll_loss, bce_with_logits or mse, got --loss "
            "linear_cross_entropy.",
        ),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LosskitValueError) as caught:
        TrainOptions(**options)
    assert str(caught.value) == message


def test_defaults_that_follow_from_others() -> None:
    assert TrainOptions().learning_rate == 0.01
    assert TrainOptions(loss="mse").learning_rate == 0.05
    assert TrainOptions(loss="mse", optimizer="adam").learning_rate == 0.001
    assert TrainOptions(loss="mse", lr=0.5).learning_rate == 0.5
    assert TrainOptions(data="fake", loss="nll_loss").folder == Path("runs/fake-nll_loss")
    assert TrainOptions(out=Path("here")).folder == Path("here")
    assert TrainOptions().loss == "cross_entropy"
    assert TrainOptions().optimizer == "sgd"
    text = TrainOptions(data="text")
    assert (text.loss, text.optimizer, text.learning_rate) == ("linear_cross_entropy", "adamw", 0.003)
    assert TrainOptions(data="text", optimizer="sgd").learning_rate == 0.5


def test_what_must_agree_on_resume() -> None:
    assert TrainOptions(epochs=3, out=Path("a"), root=Path("b"), overwrite=True).fixed() == TrainOptions().fixed()
    assert set(TrainOptions().fixed()) == {
        "data", "loss", "label_smoothing", "class_weights", "batch_size", "lr", "optimizer", "seed", "device"
    }  # fmt: skip
