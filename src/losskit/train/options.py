"""What a training is asked to do, checked before anything is read or written."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from losskit.errors import LosskitValueError

__all__ = ["CLASS_WEIGHTS", "DATA_SETS", "LOSSES", "OPTIMIZERS", "TrainOptions"]

DATA_SETS = ("digits", "cifar10", "fake")
LOSSES = ("cross_entropy", "nll_loss", "bce_with_logits", "mse")
OPTIMIZERS = ("sgd", "adam", "adamw")
CLASS_WEIGHTS = ("balanced",)

# SGD runs with momentum 0.9. Twice this rate makes the cross entropy of the classifier overflow for some seeds.
DEFAULT_LR = {"sgd": 0.01, "adam": 0.001, "adamw": 0.001}
# Losses that take the mean over N·C values, not over N, have gradients C times smaller.
DEFAULT_SGD_LR_PER_VALUE = 0.05

# Neither changes what a finished epoch computed, so neither has to agree when a training is resumed.
FREE_ON_RESUME = ("epochs", "out", "root")


@dataclass(frozen=True)
class TrainOptions:
    """The options of `losskit train`, under the same names.

    `lr=None` and `out=None` ask for the defaults that belong to the other options; after construction both are set.
    """

    data: str = "digits"
    root: Path = Path("data")
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    class_weights: str | None = None
    epochs: int = 12
    batch_size: int = 64
    lr: float | None = None
    optimizer: str = "sgd"
    seed: int = 0
    device: str = "cpu"
    out: Path | None = None
    overwrite: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        _check_choice("--data", self.data, DATA_SETS)
        _check_choice("--loss", self.loss, LOSSES)
        _check_choice("--optimizer", self.optimizer, OPTIMIZERS)
        if self.class_weights is not None:
            _check_choice("--class-weights", self.class_weights, CLASS_WEIGHTS)
        # The bounds keep (seed << 20) + epoch, which seeds an epoch, within 64 bits.
        _check_range("--epochs", self.epochs, 1, 2**20 - 1)
        _check_range("--seed", self.seed, 0, 2**32 - 1)
        _check_range("--batch-size", self.batch_size, 1, 2**31 - 1)
        if self.lr is None:
            object.__setattr__(self, "lr", default_lr(self.optimizer, self.loss))
        elif not (math.isfinite(self.lr) and self.lr > 0):
            raise LosskitValueError(f"train: --lr must be a positive number, got {self.lr}.")
        if not 0 <= self.label_smoothing <= 1:
            raise LosskitValueError(f"train: --label-smoothing must lie in [0, 1], got {self.label_smoothing}.")
        if self.label_smoothing and self.loss != "cross_entropy":
            raise LosskitValueError(
                f"train: --label-smoothing {self.label_smoothing} needs --loss cross_entropy, got --loss {self.loss}, "
                "which has no label smoothing; leave the option out."
            )
        if self.class_weights is not None and self.loss == "mse":
            raise LosskitValueError(
                f"train: --class-weights {self.class_weights} needs --loss cross_entropy, nll_loss or bce_with_logits, "
                "got --loss mse, which has no class weights; leave the option out."
            )
        if self.out is None:
            object.__setattr__(self, "out", Path("runs") / f"{self.data}-{self.loss}")

    @property
    def folder(self) -> Path:
        """`out`, which is always set after construction."""
        if self.out is None:
            raise LosskitValueError("train: --out is empty.")
        return self.out

    @property
    def learning_rate(self) -> float:
        """`lr`, which is always set after construction."""
        return default_lr(self.optimizer, self.loss) if self.lr is None else self.lr

    def fixed(self) -> dict[str, str | int | float | None]:
        """The options that must be the same when a training is resumed."""
        return {
            name: value for name, value in asdict(self).items() if name not in FREE_ON_RESUME and name != "overwrite"
        }


def default_lr(optimizer: str, loss: str) -> float:
    if optimizer == "sgd" and loss in ("bce_with_logits", "mse"):
        return DEFAULT_SGD_LR_PER_VALUE
    return DEFAULT_LR[optimizer]


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise LosskitValueError(f"train: {option} must be one of {', '.join(choices)}, got {value!r}.")


def _check_range(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise LosskitValueError(f"train: {option} must lie in [{low}, {high}], got {value}.")
