"""Does the same training with torch.nn's criterion give the same losses?

Two answers, because the second alone cannot be sharp. A training multiplies small differences: after a few hundred
steps two trainings whose weights differed in the last bit differ in the third digit, with any criterion.

* On the same logits, in every step of torch.nn's training, the values and the gradients of both criteria are compared.
  Here nothing is multiplied, and only rounding is allowed. A loss that holds the last layer is compared on what that
  takes, and the gradients of its weights too.
* The losses of the two whole trainings are compared step by step. What is allowed is measured, not guessed: ten times
  the difference between torch.nn's training and torch.nn's training from weights moved by one rounding, and what
  rounding explains of a single loss.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from losskit.train.criterion import Criterion, NextTokenLoss
from losskit.train.loop import Training, deterministic
from losskit.train.options import TrainOptions
from losskit.train.progress import Progress
from losskit.train.task import Task

__all__ = ["Comparison", "compare_with_torch"]

# In roundings of the largest number that enters a loss: the two add up in another order.
ROUNDINGS = 8
NOISE_FACTOR = 10


class Comparison(NamedTuple):
    steps: int
    # On the same logits.
    loss_difference: float
    gradient_difference: float
    # The largest share of what rounding explains that any step used up, and what rounding explains of a loss.
    share_of_allowed: float
    rounding: float
    # Between the two trainings, with the step (from 1) it occurs in, and between torch.nn's two.
    training_difference: float
    step: int
    noise: float

    @property
    def same(self) -> bool:
        # Written so that a NaN is a difference.
        return self.share_of_allowed <= 1 and self.training_difference <= self.rounding + NOISE_FACTOR * self.noise

    def lines(self, name: str, unit: str) -> list[str]:
        return [
            f"the same training with {name}, {self.steps} steps:",
            f"  largest difference of the losses on the same logits: {self.loss_difference:.1e} {unit}, of the "
            f"gradients {self.gradient_difference:.1e} ({100 * self.share_of_allowed:.0f} % of what rounding explains)",
            f"  largest difference of the losses of the two trainings: {self.training_difference:.1e} {unit} in step "
            f"{self.step} (torch.nn against torch.nn from weights one rounding apart: {self.noise:.1e})",
            "  the same within rounding" if self.same else "  NOT the same",
        ]


def compare_with_torch(options: TrainOptions, task: Task, step_losses: Tensor, progress: Progress) -> Comparison:
    """Compare the losses of a finished training, step by step, with those under torch.nn's criterion."""
    with deterministic(torch.device(options.device)):
        reference = Training(options, task, "torch.nn")
        watch = _SameLogits(reference.criterion_from("losskit"), reference.criterion)
        reference_losses = _losses(reference, "torch.nn", progress, watch)
        nudged = Training(options, task, "torch.nn")
        _nudge(nudged.network)
        nudged_losses = _losses(nudged, "torch.nn, weights one rounding apart", progress, None)
    difference = (step_losses - reference_losses).abs()
    return Comparison(
        steps=len(step_losses),
        loss_difference=watch.loss_difference,
        gradient_difference=watch.gradient_difference,
        share_of_allowed=watch.share_of_allowed,
        rounding=watch.rounding,
        training_difference=float(difference.max()),
        step=int(difference.argmax()) + 1,
        noise=float((nudged_losses - reference_losses).abs().max()),
    )


class _SameLogits:
    """Called with what the criterion was given in each step; remembers how far the two criteria were apart."""

    def __init__(self, ours: Criterion, theirs: Criterion) -> None:
        self.ours, self.theirs = ours, theirs
        self.loss_difference = self.gradient_difference = self.share_of_allowed = self.rounding = 0.0

    def __call__(self, output: Tensor, labels: Tensor) -> None:
        loss, gradients = _value_and_gradients(self.ours, output, labels)
        torch_loss, torch_gradients = _value_and_gradients(self.theirs, output, labels)
        loss_difference = abs(loss - torch_loss)
        largest = max(float(_logits(self.theirs, output).abs().max()), abs(torch_loss), 1.0)
        allowed = ROUNDINGS * torch.finfo(torch.float32).eps * largest
        self.rounding = _larger(self.rounding, allowed)
        self.loss_difference = _larger(self.loss_difference, loss_difference)
        self.share_of_allowed = _larger(self.share_of_allowed, loss_difference / allowed)
        for gradient, torch_gradient in zip(gradients, torch_gradients, strict=True):
            difference = float((gradient - torch_gradient).abs().max())
            # A gradient is a probability minus the target's, over the number of values, so where the two are close it
            # carries the rounding of the probability, however small it is itself.
            scale = max(float(torch_gradient.abs().max()), 1 / self.ours.values(labels))
            self.gradient_difference = _larger(self.gradient_difference, difference)
            self.share_of_allowed = _larger(self.share_of_allowed, difference / scale / allowed)


def _larger(a: float, b: float) -> float:
    """The larger of both, or NaN where either is: max() would drop it."""
    return a if a != a or a >= b else b


def _value_and_gradients(criterion: Criterion, output: Tensor, labels: Tensor) -> tuple[float, tuple[Tensor, ...]]:
    leaf = output.clone().requires_grad_()
    loss = criterion.mean(leaf, labels)
    return loss.item(), torch.autograd.grad(loss, [leaf, *criterion.mean.parameters()])


def _logits(criterion: Criterion, output: Tensor) -> Tensor:
    if not isinstance(criterion.mean, NextTokenLoss):
        return output
    with torch.no_grad():
        logits: Tensor = criterion.mean.head(output)
    return logits


def _losses(training: Training, title: str, progress: Progress, watch: _SameLogits | None) -> Tensor:
    epochs = training.options.epochs
    progress.start(title, epochs * training.steps_per_epoch, 0)
    losses: list[float] = []
    try:
        for epoch in range(1, epochs + 1):
            losses += training.train_epoch(epoch, progress.step, watch)[1]
    finally:
        progress.stop()
    return torch.tensor(losses, dtype=torch.float64)


def _nudge(network: torch.nn.Module) -> None:
    """Move every weight to a neighbouring number, up or down."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            up = torch.randint(0, 2, weight.shape, generator=generator).bool().to(weight.device)
            infinity = torch.full_like(weight, torch.inf)
            weight.copy_(torch.nextafter(weight, torch.where(up, infinity, -infinity)))
