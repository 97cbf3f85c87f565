"""The training loop and the test loop, as the tutorials write them."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from losskit.errors import LosskitRuntimeError
from losskit.train.criterion import Criterion
from losskit.train.data import ImageData, to_input
from losskit.train.network import classifier
from losskit.train.options import TrainOptions

__all__ = ["Training", "deterministic", "epoch_seed"]

# Testing needs no gradient, so its batches can be larger whatever the batch size of the training.
TEST_BATCH_SIZE = 512

OnStep = Callable[[float], None]
OnBatch = Callable[[Tensor, Tensor], None]


class Training:
    """A network, its optimizer and its criterion, advanced an epoch at a time.

    An epoch depends on the state before it, the seed and its number, and on nothing else, so a training that is taken
    up from a saved state continues exactly as if it had never stopped.
    """

    def __init__(self, options: TrainOptions, data: ImageData, criterion: Criterion) -> None:
        self.options = options
        self.data = data
        self.criterion = criterion
        self.device = torch.device(options.device)
        self.network = classifier(epoch_seed(options.seed, 0)).to(self.device)
        self.optimizer = _optimizer(options, self.network)

    def train_epoch(self, epoch: int, on_step: OnStep, on_batch: OnBatch | None = None) -> tuple[float, list[float]]:
        """Train on every image once; returns the mean loss of the samples and the loss of each step.

        `on_step` is called with the loss of each step, `on_batch` with its logits and labels.
        """
        self.network.train()
        losses: list[float] = []
        total = 0.0
        for images, labels in self._shuffled(epoch):
            logits = self.network(to_input(images, self.device))
            labels = labels.to(self.device)
            loss = self.criterion.mean(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            value = loss.item()
            if not math.isfinite(value):
                raise LosskitRuntimeError(
                    f"train: the loss of step {len(losses) + 1} of epoch {epoch} is {value}: the training has "
                    f"diverged; use a smaller --lr than {self.options.learning_rate}."
                )
            if on_batch is not None:
                on_batch(logits.detach(), labels)
            losses.append(value)
            total += value * len(labels)
            on_step(value)
        return total / len(self.data.train_labels), losses

    def test(self) -> tuple[float, float]:
        """The mean loss and the accuracy on the test images.

        The mean is the sum over all batches divided once: a mean of the batches' means would count the samples of a
        smaller last batch more than the others.
        """
        self.network.eval()
        total, correct = 0.0, 0
        loader = DataLoader(
            TensorDataset(self.data.test_images, self.data.test_labels),
            batch_size=TEST_BATCH_SIZE,
            # Without one of its own, a loader draws from torch's global random state.
            generator=torch.Generator(),
        )
        with torch.no_grad():
            for images, labels in loader:
                logits = self.network(to_input(images, self.device))
                labels = labels.to(self.device)
                total += self.criterion.sum(logits, labels).item()
                correct += int((logits.argmax(dim=1) == labels).sum())
        labels = self.data.test_labels
        return total / self.criterion.divisor(labels), correct / len(labels)

    def _shuffled(self, epoch: int) -> "DataLoader[tuple[Tensor, ...]]":
        return DataLoader(
            TensorDataset(self.data.train_images, self.data.train_labels),
            batch_size=self.options.batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(epoch_seed(self.options.seed, epoch)),
        )


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for each epoch, which is a number from 1; 0 seeds the weights."""
    return (seed << 20) + epoch


def deterministic(device: torch.device) -> AbstractContextManager[object]:
    """Within it, a training on `device` repeats itself bit for bit.

    Left alone, cuDNN picks algorithms that add in any order.
    """
    if device.type != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    flags: AbstractContextManager[object] = cudnn.flags(
        enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=cudnn.allow_tf32
    )
    return flags


def _optimizer(options: TrainOptions, network: nn.Module) -> torch.optim.Optimizer:
    if options.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=options.learning_rate)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=options.learning_rate)
    return torch.optim.SGD(network.parameters(), lr=options.learning_rate, momentum=0.9)
