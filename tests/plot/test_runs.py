"""A run's own numbers, and the baseline that belongs to it."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import losskit
from losskit import plot
from losskit.train import TrainOptions, train

ROWS: list[dict[str, Any]] = [
    {"epoch": 1, "train_loss": 2.2, "test_loss": 1.8, "test_accuracy": 0.5},
    {"epoch": 2, "train_loss": 0.9, "test_loss": 0.6, "test_accuracy": 0.75},
]


def drawn(axes: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_the_losses_and_ln_c() -> None:
    axes = plot.history(ROWS, num_classes=10)
    lines = drawn(axes)
    assert lines["training loss"] == [2.2, 0.9]
    assert lines["test loss"] == [1.8, 0.6]
    assert lines["ln 10 = 2.303: a guess among 10"] == pytest.approx([math.log(10)] * 2)
    assert axes.get_ylabel() == "loss (nats)"
    assert axes.get_title() == "Training: test loss 0.6, 75.00 % right"


def test_the_variance_of_a_regression() -> None:
    target = torch.tensor([1.0, 2.0, 6.0])
    axes = plot.history(ROWS, target=target)
    variance = float(target.var(unbiased=False))
    assert drawn(axes)[f"Var(y) = {variance:.4g}: always the mean"] == pytest.approx([variance] * 2)
    assert axes.get_ylabel() == "loss (target units squared)"


@pytest.mark.parametrize(
    ("loss", "baseline", "unit"),
    [
        ("cross_entropy", math.log(10), "nats"),
        ("nll_loss", math.log(10), "nats"),
        ("mse", 0.09, "one-hot units squared"),
        ("bce_with_logits", -(math.log(0.1) + 9 * math.log(0.9)) / 10, "nats"),
    ],
)
def test_a_folder_of_losskit_train_brings_its_own_baseline(
    loss: str, baseline: float, unit: str, tmp_path: Path
) -> None:
    result = train(TrainOptions(data="fake", loss=loss, epochs=1, out=tmp_path / "run"))
    for run in (tmp_path / "run", str(tmp_path / "run" / "metrics.jsonl")):
        axes = plot.history(run)
        lines = drawn(axes)
        assert lines["training loss"] == [result.rows[0]["train_loss"]]
        assert list(lines.values())[2] == pytest.approx([baseline] * 2)
        assert axes.get_ylabel() == f"loss ({unit})"
        assert axes.get_title().startswith(f"fake, {loss}: test loss ")


def test_metrics_without_a_checkpoint_have_no_baseline(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    axes = plot.history(tmp_path)
    assert list(drawn(axes)) == ["training loss", "test loss"]
    assert axes.get_ylabel() == "loss"
    # One that is damaged is none.
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 and no more")
    assert list(drawn(plot.history(tmp_path))) == ["training loss", "test loss"]


def test_losses_of_the_samples_by_epoch() -> None:
    losses = torch.tensor([[1.0, 2.0, 4.0, 4.0], [0.5, 0.25, 0.0, 8.0]])
    pair = plot.history(ROWS, num_classes=10, losses=losses)
    assert isinstance(pair, tuple)
    lines = drawn(pair[1])
    assert lines["mean"] == losses.double().mean(1).tolist()
    assert lines["median"] == losses.double().median(1).values.tolist()
    (mesh,) = pair[1].collections
    shares = mesh.get_array()
    # Each epoch's column holds every sample once, also those at the ends.
    assert shares.sum(axis=0).tolist() == [100.0, 100.0]
    assert shares[-1, 1] == 25.0


def test_one_epoch() -> None:
    assert drawn(plot.history(ROWS[:1], num_classes=2))["test loss"] == [1.8]
    assert len(plot.history(ROWS[:1], losses=torch.ones(1, 5))) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot.history([]), "history: there is no epoch in it yet."),
        (
            lambda: plot.history([{"epoch": 1, "train_loss": "low"}]),
            "history: row 1 has no number called train_loss or test_loss.",
        ),
        (
            lambda: plot.history(ROWS, num_classes=2, target=torch.ones(3)),
            "history: num_classes is for classes and target for a regression; give one of them.",
        ),
        (lambda: plot.history(ROWS, num_classes=0), "history: num_classes must lie in [1, 10,000,000], got 0."),
        (
            lambda: plot.history(ROWS, losses=torch.ones(3, 4)),
            "history: losses must be (epochs, samples) with the 2 epochs of the run, got shape (3, 4).",
        ),
        (
            lambda: plot.history(ROWS, losses=torch.zeros(2, 4)),
            "history: a histogram by epoch needs losses that are neither negative nor NaN, and some above 0.",
        ),
        (
            lambda: plot.history("nowhere"),
            "history: nowhere cannot be read (No such file or directory); name a folder of losskit train, or its "
            "metrics.jsonl.",
        ),
    ],
)
def test_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(losskit.LosskitError, match=f"^{re.escape(message)}$"):
        call()


def test_a_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("epoch 1: fine")
    with pytest.raises(losskit.errors.DataError, match=r"notes\.txt is no file of JSON lines \(Expecting value"):
        plot.history(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 10**12}, "num_classes must lie in [1, 10,000,000], got 1000000000000."),
        ({"num_classes": 2.5}, "num_classes must be an int, got float."),
        ({"target": torch.tensor([1.0, math.nan])}, "target must hold finite numbers, whose variance is the baseline."),
        ({"target": torch.zeros(0)}, "target must hold finite numbers, whose variance is the baseline."),
        ({"target": [1.0]}, "target must be a torch.Tensor, got list."),
        ({"losses": [[1.0], [2.0]]}, "losses must be a torch.Tensor, got list."),
        (
            {"losses": torch.tensor([[1.0, 2.0], [math.nan, 1.0]])},
            "a histogram by epoch needs losses that are neither negative nor NaN, and some above 0.",
        ),
    ],
)
def test_a_baseline_or_losses_that_say_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^history: {re.escape(message)}$"):
        plot.history(ROWS, **options)


@pytest.mark.parametrize(
    ("name", "value"), [("test_accuracy", "x"), ("test_accuracy", None), ("epoch", 10**400), ("test_loss", -(10**400))]
)
def test_metrics_that_cannot_be_drawn(name: str, value: Any) -> None:
    with pytest.raises(losskit.errors.DataError, match=f"row 2 has no number called {name}\\.$"):
        plot.history([ROWS[0], {**ROWS[1], name: value}])
