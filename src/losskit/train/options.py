"""What a training is asked to do, checked before anything is read or written."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from losskit.errors import LosskitValueError

__all__ = ["CLASS_WEIGHTS", "DATA_SETS", "IMAGE_LOSSES", "LOSSES", "OPTIMIZERS", "TEXT_LOSSES", "TrainOptions"]

DATA_SETS = ("digits", "cifar10", "text", "fake")
IMAGE_LOSSES = ("cross_entropy", "nll_loss", "bce_with_logits", "mse")
TEXT_LOSSES = ("linear_cross_entropy", "cross_entropy")
LOSSES = (*IMAGE_LOSSES, "linear_cross_entropy")
SMOOTHED_LOSSES = ("cross_entropy", "linear_cross_entropy")
OPTIMIZERS = ("sgd", "adam", "adamw")
CLASS_WEIGHTS = ("balanced",)

# SGD runs with momentum 0.9. Twice this rate makes the cross entropy of the classifier overflow for some seeds.
DEFAULT_LR = {"sgd": 0.01, "adam": 0.001, "adamw": 0.001}
# Losses that take the mean over N·C values, not over N, have gradients C times smaller.
DEFAULT_SGD_LR_PER_VALUE = 0.05
# The recurrent network bears larger steps of Adam, and learns within the default epochs only with them.
DEFAULT_TEXT_LR = {"sgd": 0.5, "adam": 0.003, "adamw": 0.003}

# Neither changes what a finished epoch computed, so neither has to agree when a training is resumed.
FREE_ON_RESUME = ("epochs", "out", "root")

T = TypeVar("T")


@dataclass(frozen=True)
class TrainOptions:
    """The options of `losskit train`, under the same names.

    None asks for the default that belongs to the other options; after construction `loss`, `optimizer`, `lr` and `out`
    are set.
    """

    data: str = "digits"
    root: Path = Path("data")
    loss: str | None = None
    label_smoothing: float = 0.0
    class_weights: str | None = None
    epochs: int = 12
    batch_size: int = 64
    lr: float | None = None
    optimizer: str | None = None
    seed: int = 0
    device: str = "cpu"
    out: Path | None = None
    overwrite: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        _check_choice("--data", self.data, DATA_SETS)
        text = self.data == "text"
        self._default("loss", "linear_cross_entropy" if text else "cross_entropy")
        self._default("optimizer", "adamw" if text else "sgd")
        _check_choice("--loss", self.loss_name, LOSSES)
        _check_choice("--optimizer", self.optimizer_name, OPTIMIZERS)
        losses = TEXT_LOSSES if text else IMAGE_LOSSES
        if self.loss not in losses:
            raise LosskitValueError(
                f"train: --data {self.data} goes with --loss {_listed(losses)}, got --loss {self.loss}."
            )
        if self.class_weights is not None:
            _check_choice("--class-weights", self.class_weights, CLASS_WEIGHTS)
        # The bounds keep (seed << 20) + epoch, which seeds an epoch, within 64 bits.
        _check_range("--epochs", self.epochs, 1, 2**20 - 1)
        _check_range("--seed", self.seed, 0, 2**32 - 1)
        _check_range("--batch-size", self.batch_size, 1, 2**31 - 1)
        self._default("lr", _default_lr(self.data, self.optimizer_name, self.loss_name))
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise LosskitValueError(f"train: --lr must be a positive number, got {self.lr}.")
        if not 0 <= self.label_smoothing <= 1:
            raise LosskitValueError(f"train: --label-smoothing must lie in [0, 1], got {self.label_smoothing}.")
        if self.label_smoothing and self.loss not in SMOOTHED_LOSSES:
            raise LosskitValueError(
                f"train: --label-smoothing {self.label_smoothing} needs --loss {_listed(SMOOTHED_LOSSES)}, got --loss "
                f"{self.loss}, which has no label smoothing; leave the option out."
            )
        if self.class_weights is not None and text:
            raise LosskitValueError(
                f"train: --class-weights {self.class_weights} needs images, got --data text, whose rare words would "
                "weigh more than all others; leave the option out."
            )
        if self.class_weights is not None and self.loss == "mse":
            raise LosskitValueError(
                f"train: --class-weights {self.class_weights} needs --loss cross_entropy, nll_loss or bce_with_logits, "
                "got --loss mse, which has no class weights; leave the option out."
            )
        self._default("out", Path("runs") / f"{self.data}-{self.loss}")

    def _default(self, name: str, value: object) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    @property
    def loss_name(self) -> str:
        """`loss`, which is always set after construction."""
        return self._set(self.loss, "--loss")

    @property
    def optimizer_name(self) -> str:
        """`optimizer`, which is always set after construction."""
        return self._set(self.optimizer, "--optimizer")

    @property
    def folder(self) -> Path:
        """`out`, which is always set after construction."""
        return self._set(self.out, "--out")

    @property
    def learning_rate(self) -> float:
        """`lr`, which is always set after construction."""
        return self._set(self.lr, "--lr")

    @staticmethod
    def _set(value: T | None, option: str) -> T:
        if value is None:
            raise LosskitValueError(f"train: {option} is empty.")
        return value

    def fixed(self) -> dict[str, str | int | float | None]:
        """The options that must be the same when a training is resumed."""
        return {
            name: value for name, value in asdict(self).items() if name not in FREE_ON_RESUME and name != "overwrite"
        }


def _default_lr(data: str, optimizer: str, loss: str) -> float:
    if data == "text":
        return DEFAULT_TEXT_LR[optimizer]
    if optimizer == "sgd" and loss in ("bce_with_logits", "mse"):
        return DEFAULT_SGD_LR_PER_VALUE
    return DEFAULT_LR[optimizer]


def _listed(choices: tuple[str, ...]) -> str:
    return " or ".join([", ".join(choices[:-1]), choices[-1]])


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise LosskitValueError(f"train: {option} must be one of {', '.join(choices)}, got {value!r}.")


def _check_range(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise LosskitValueError(f"train: {option} must lie in [{low}, {high}], got {value}.")
