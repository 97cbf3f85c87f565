"""The training loop and the test loop, as the tutorials write them, on one rank or on several."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from losskit.distributed import GlobalMean
from losskit.errors import LosskitRuntimeError
from losskit.train.criterion import Criterion, Library, criterion, samples
from losskit.train.network import LanguageModel
from losskit.train.options import TrainOptions
from losskit.train.ranks import ALONE, Ranks
from losskit.train.task import Task
from losskit.train.text import perplexity

__all__ = ["Training", "deterministic", "epoch_seed"]

# Testing needs no gradient, so its batches can be larger whatever the batch size of the training.
TEST_BATCH_SIZE = 512

OnStep = Callable[[float], None]
OnBatch = Callable[[Tensor, Tensor], None]


class Training:
    """A network, its optimizer and its criterion, advanced an epoch at a time.

    An epoch depends on the state before it, the seed and its number, and on nothing else, so a training that is taken
    up from a saved state continues exactly as if it had never stopped.

    On several ranks every one of them takes its part of the same batches, and the gradients are those of the whole
    batch: a rank divides the sum of its losses by what counts on all of them, and by so many times less as the mean
    over the ranks divides its gradient once more.
    """

    def __init__(self, options: TrainOptions, task: Task, library: Library = "losskit", ranks: Ranks = ALONE) -> None:
        self.options = options
        self.task = task
        self.ranks = ranks
        self.device = ranks.device(options.device)
        self.network = task.network(epoch_seed(options.seed, 0)).to(self.device)
        self.criterion = self.criterion_from(library)
        self.optimizer = _optimizer(options, self.network)
        self._step = ranks.parallel(_Step(self.network, self.criterion))

    def criterion_from(self, library: Library) -> Criterion:
        """The criterion that the options ask for, of this network's head if the loss holds it."""
        head = self.network.head if isinstance(self.network, LanguageModel) else None
        return criterion(self.options, self.task.train_targets, library, head)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.task.train_targets) // self.options.batch_size)

    def train_epoch(self, epoch: int, on_step: OnStep, on_batch: OnBatch | None = None) -> tuple[float, list[float]]:
        """Train on every sample once; returns the mean loss of the samples and the loss of each step.

        `on_step` is called with the loss of each step, `on_batch` with what its criterion was given.
        """
        self.network.train()
        losses: list[float] = []
        total = 0.0
        for rows in self._shuffled(epoch):
            own = self.ranks.part(rows)
            inputs = self.task.to_input(self.task.train_inputs[own], self.device)
            targets = self.task.train_targets[own]
            with self.ranks.exchange():
                divisor = self._divisor(targets)
                targets = targets.to(self.device)
                loss, output = self._step(inputs, targets, **divisor)
                # Before the gradients are exchanged: there a rank that has ended is noticed later.
                value = self._mean_over_ranks(loss)
                if not math.isfinite(value):
                    raise self.ranks.same(self._diverged(epoch, len(losses) + 1, value))
                self.optimizer.zero_grad()
                loss.backward()
            self.optimizer.step()
            if on_batch is not None:
                on_batch(output, targets)
            losses.append(value)
            total += value * samples(self.task.train_targets[rows])
            on_step(value)
        return total / samples(self.task.train_targets), losses

    def test(self) -> dict[str, float]:
        """The mean loss on the test samples, and the accuracy on images or the perplexity of a text.

        The mean is the sum over all batches and ranks divided once: a mean of the batches' means would count the
        samples of a smaller last batch more than the others.
        """
        self.network.eval()
        total, correct = 0.0, 0
        own = self.ranks.part(torch.arange(len(self.task.test_targets)))
        with torch.no_grad():
            for rows in own.split(TEST_BATCH_SIZE):
                output = self.network(self.task.to_input(self.task.test_inputs[rows], self.device))
                targets = self.task.test_targets[rows].to(self.device)
                total += self.criterion.sum(output, targets).item()
                if self.task.text is None:
                    correct += int((output.argmax(dim=1) == targets).sum())
        total, right = self.ranks.sum(total, correct)
        targets = self.task.test_targets
        loss = total / self.criterion.divisor(targets)
        if self.task.text is not None:
            return {"test_loss": loss, "test_perplexity": perplexity(loss)}
        return {"test_loss": loss, "test_accuracy": right / len(targets)}

    def first_batch(self) -> tuple[Tensor, Tensor]:
        """What the criterion is given for the first samples, before any is learnt."""
        rows = slice(self.options.batch_size)
        with torch.no_grad():
            output = self.network(self.task.to_input(self.task.train_inputs[rows], self.device))
        return output, self.task.train_targets[rows].to(self.device)

    def _divisor(self, targets: Tensor) -> dict[str, Any]:
        """What the loss of this rank's part takes, so that the mean over the ranks is the mean of the whole batch."""
        if self.ranks.size == 1:
            return {}
        mean = GlobalMean()
        mean.count(self.criterion.divisor(targets))
        return {"normalizer": mean.normalizer.to(self.device)}

    def _mean_over_ranks(self, loss: Tensor) -> float:
        (total,) = self.ranks.sum(loss.item())
        return total / self.ranks.size

    def _diverged(self, epoch: int, step: int, value: float) -> LosskitRuntimeError:
        return LosskitRuntimeError(
            f"train: the loss of step {step} of epoch {epoch} is {value}: the training has diverged; use a smaller "
            f"--lr than {self.options.learning_rate}."
        )

    def _shuffled(self, epoch: int) -> "DataLoader[Tensor]":
        """The rows of each batch, the same on every rank."""
        return DataLoader(
            range(len(self.task.train_targets)),  # type: ignore[arg-type]  # a sequence, if no Dataset
            batch_size=self.options.batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(epoch_seed(self.options.seed, epoch)),
        )


class _Step(nn.Module):
    """Network and loss as one module: what a rank does between taking its samples and exchanging gradients."""

    def __init__(self, network: nn.Module, criterion: Criterion) -> None:
        super().__init__()
        self.network = network
        self.loss = criterion.mean

    def forward(self, inputs: Tensor, targets: Tensor, **divisor: Any) -> tuple[Tensor, Tensor]:
        output = self.network(inputs)
        return self.loss(output, targets, **divisor), output.detach()


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
