"""Each loss of the training against the formula, and the weights against their definition."""

import pytest
import torch
import torch.nn.functional as F

import losskit
from losskit.errors import LosskitValueError
from losskit.train.criterion import balanced_pos_weight, balanced_weights, criterion
from losskit.train.options import IMAGE_LOSSES, TrainOptions

LABELS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9])


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(12, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("loss", IMAGE_LOSSES)
@pytest.mark.parametrize("library", ["losskit", "torch.nn"])
def test_values(loss: str, library: str, logits: torch.Tensor) -> None:
    made = criterion(TrainOptions(loss=loss), LABELS, library)  # type: ignore[arg-type]
    z, y = logits.double(), F.one_hot(LABELS, 10).double()
    if loss == "mse":
        values = (z - y) ** 2
    elif loss == "bce_with_logits":
        values = -(y * z.sigmoid().log() + (1 - y) * (1 - z.sigmoid()).log())
    else:
        values = -(z.exp() / z.exp().sum(dim=1, keepdim=True)).log()[torch.arange(12), LABELS]
    assert made.mean(logits, LABELS).item() == pytest.approx(values.mean().item(), rel=1e-6)
    assert made.sum(logits, LABELS).item() == pytest.approx(values.sum().item(), rel=1e-6)
    # What the sum is divided by makes a mean of it that compares with the other one.
    assert made.divisor(LABELS) == values.numel()


@pytest.mark.parametrize("loss", ["cross_entropy", "nll_loss"])
def test_balanced_mean(loss: str, logits: torch.Tensor) -> None:
    made = criterion(TrainOptions(loss=loss, class_weights="balanced"), LABELS, "losskit")
    per_class = [
        F.cross_entropy(logits.double(), LABELS, reduction="none")[label == LABELS].mean() for label in range(10)
    ]
    assert made.mean(logits, LABELS).item() == pytest.approx(sum(per_class).item() / 10, rel=1e-6)
    assert made.sum(logits, LABELS).item() / made.divisor(LABELS) == pytest.approx(sum(per_class).item() / 10, rel=1e-6)


def test_label_smoothing(logits: torch.Tensor) -> None:
    made = criterion(TrainOptions(label_smoothing=0.2), LABELS, "losskit")
    mixed = 0.8 * F.one_hot(LABELS, 10).double() + 0.02
    expected = -(mixed * logits.double().log_softmax(dim=1)).sum(dim=1).mean()
    assert made.mean(logits, LABELS).item() == pytest.approx(expected.item(), rel=1e-6)


def test_balanced_weights() -> None:
    counts = torch.tensor([1, 2, 5])
    torch.testing.assert_close(balanced_weights(counts), torch.tensor([8 / 3, 8 / 6, 8 / 15]))
    torch.testing.assert_close(balanced_pos_weight(counts), torch.tensor([7.0, 3.0, 0.6]))
    made = criterion(TrainOptions(loss="bce_with_logits", class_weights="balanced"), LABELS, "losskit")
    torch.testing.assert_close(made.mean.module.pos_weight, torch.tensor([11.0] * 9 + [3.0]))


def test_balanced_weights_need_every_class() -> None:
    with pytest.raises(LosskitValueError) as caught:
        criterion(TrainOptions(class_weights="balanced"), torch.tensor([0, 1, 2, 4, 5, 7, 8, 9]), "losskit")
    assert str(caught.value) == (
        "train: --class-weights balanced needs every class in the training data, classes [3, 6] have no sample."
    )


def test_the_library_is_the_one_named() -> None:
    ours = criterion(TrainOptions(), LABELS, "losskit").mean.module
    theirs = criterion(TrainOptions(), LABELS, "torch.nn").mean.module
    assert type(ours) is losskit.CrossEntropyLoss
    assert type(theirs) is torch.nn.CrossEntropyLoss
