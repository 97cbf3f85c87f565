"""The criterion of a training: any of the classification losses, fed with what the network gives and class indices."""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import losskit
from losskit.errors import LosskitValueError
from losskit.train.network import NUM_CLASSES
from losskit.train.options import TrainOptions
from losskit.train.text import IGNORED

__all__ = [
    "ClassificationLoss",
    "Criterion",
    "Library",
    "NextTokenLoss",
    "balanced_weights",
    "criterion",
    "loss_label",
    "samples",
]

Library = Literal["losskit", "torch.nn"]

LABELS = {
    "linear_cross_entropy": "cross entropy (nats per token)",
    "cross_entropy": "cross entropy (nats)",
    "nll_loss": "negative log-likelihood (nats)",
    "bce_with_logits": "binary cross entropy, mean over classes (nats)",
    "mse": "squared error, mean over classes (one-hot units squared)",
}


class ClassificationLoss(nn.Module):
    """Brings logits `(N, C)` and class indices `(N,)` into the form that `module` takes.

    cross_entropy takes them as they are. nll_loss takes log-probabilities, so a log-softmax comes before it.
    bce_with_logits and mse take one-hot targets; mse compares them with the logits themselves, not with the softmax,
    whose gradient would vanish where the network is confidently wrong.
    """

    def __init__(self, loss: str, module: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.module = module

    def forward(self, logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
        if self.loss == "nll_loss":
            logits = F.log_softmax(logits, dim=1)
        target = labels
        if self.loss in ("bce_with_logits", "mse"):
            target = F.one_hot(labels, NUM_CLASSES).to(logits.dtype)
        value: Tensor = self.module(logits, target, **options)
        return value


class NextTokenLoss(nn.Module):
    """The loss of a language model's last layer `(N, T, K)` and the tokens that follow `(N, T)`.

    linear_cross_entropy is head and loss in one, and holds the logits of no more rows than its workspace does. With
    cross_entropy the head makes all logits first.
    """

    def __init__(self, module: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.module = module
        self.head = head

    def forward(self, hidden: Tensor, tokens: Tensor, **options: Any) -> Tensor:
        value: Tensor
        if isinstance(self.module, losskit.LinearCrossEntropyLoss):
            value = self.module(hidden, tokens, **options)
        else:
            value = self.module(self.head(hidden).flatten(0, 1), tokens.flatten(), **options)
        return value


class Criterion(NamedTuple):
    """The loss to train with, the loss to test with, and what the latter's sum is divided by."""

    mean: ClassificationLoss | NextTokenLoss
    sum: ClassificationLoss | NextTokenLoss
    weight: Tensor | None
    values_per_sample: int

    def divisor(self, labels: Tensor) -> float:
        """The number of loss values of these samples, each counted with the weight of its class.

        The number of samples, where there are no class weights and the loss has one value for each sample.
        """
        if self.weight is not None:
            return float(self.weight.cpu()[labels].double().sum())
        return float(self.values(labels))

    def values(self, labels: Tensor) -> int:
        """The number of loss values of these samples."""
        return samples(labels) * self.values_per_sample


def samples(labels: Tensor) -> int:
    """How many of these class indices count: all but those beyond the end of a text."""
    return int((labels != IGNORED).sum())


def criterion(
    options: TrainOptions, train_labels: Tensor, library: Library, head: nn.Linear | None = None
) -> Criterion:
    """The criterion that `options` ask for, from losskit or, for comparison, from torch.nn.

    `head` is the last layer of a language model, whose loss it belongs to.
    """
    modules: Any = losskit if library == "losskit" else nn
    if head is not None:
        # Tested with the negative log-likelihood, of which perplexity is made, however the training smooths its labels.
        return Criterion(
            _next_token(modules, options.loss_name, head, "mean", options.label_smoothing),
            _next_token(modules, options.loss_name, head, "sum", 0.0),
            None,
            1,
        )
    arguments: dict[str, Any] = {}
    weight = None
    if options.class_weights == "balanced":
        counts = torch.bincount(train_labels, minlength=NUM_CLASSES)
        if options.loss == "bce_with_logits":
            arguments["pos_weight"] = balanced_pos_weight(counts).to(options.device)
        else:
            weight = balanced_weights(counts).to(options.device)
            arguments["weight"] = weight
    if options.loss == "cross_entropy":
        make, arguments["label_smoothing"] = modules.CrossEntropyLoss, options.label_smoothing
    elif options.loss == "nll_loss":
        make = modules.NLLLoss
    elif options.loss == "bce_with_logits":
        make = modules.BCEWithLogitsLoss
    else:
        make = modules.MSELoss
    return Criterion(
        ClassificationLoss(options.loss_name, make(**arguments)),
        ClassificationLoss(options.loss_name, make(**arguments, reduction="sum")),
        weight,
        NUM_CLASSES if options.loss in ("bce_with_logits", "mse") else 1,
    )


def _next_token(modules: Any, loss: str, head: nn.Linear, reduction: str, label_smoothing: float) -> NextTokenLoss:
    arguments = {"reduction": reduction, "ignore_index": IGNORED, "label_smoothing": label_smoothing}
    # PyTorch has the two in one since 2.13, and its definition, the head and then cross entropy, before.
    if loss == "linear_cross_entropy" and modules is losskit:
        return NextTokenLoss(losskit.LinearCrossEntropyLoss.from_linear(head, **arguments), head)
    return NextTokenLoss(modules.CrossEntropyLoss(**arguments), head)


def balanced_weights(counts: Tensor) -> Tensor:
    """N / (C · n_c): every class has the same share of the loss, and the mean weight of a sample is 1."""
    return (_present(counts).sum() / (len(counts) * counts)).to(torch.get_default_dtype())


def balanced_pos_weight(counts: Tensor) -> Tensor:
    """(N - n_c) / n_c: for every class, the samples of it weigh as much as all others together."""
    return ((_present(counts).sum() - counts) / counts).to(torch.get_default_dtype())


def _present(counts: Tensor) -> Tensor:
    missing = (counts == 0).nonzero().flatten().tolist()
    if missing:
        raise LosskitValueError(
            f"train: --class-weights balanced needs every class in the training data, classes {missing} have no sample."
        )
    return counts


def loss_label(loss: str) -> str:
    """The name and unit of a loss, for an axis."""
    return LABELS[loss]
