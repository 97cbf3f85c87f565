"""The silent faults, one by one: the number that PyTorch gives, what is said of it, and the call that is right."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import losskit

# A criterion and what it gets.
Call = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True)
class Fault:
    """`value` is what PyTorch computes, to four decimals, or the error that it raises."""

    name: str
    code: str
    severity: str
    value: str
    call: Callable[[], Call]
    seen: str
    why: str
    fix: str
    mended: Callable[[], Call]


CLASSES = torch.arange(10)
TAGS = torch.arange(80).reshape(8, 10) * 7 % 10


def perfect(classes: int = 10, score: float = 20.0) -> Tensor:
    """Scores that are right for the targets 0, 1, …"""
    return (score * torch.eye(classes)).requires_grad_()


def tagger() -> Tensor:
    """Scores (N, T, C) that are right for TAGS."""
    return (10 * F.one_hot(TAGS, 10).float()).requires_grad_()


def tokens() -> Tensor:
    """Of a language in which each token is followed by the one three further on, (N, T)."""
    return (torch.arange(4).unsqueeze(1) * 5 + 3 * torch.arange(40)) % 17


def language_model(given: Tensor, ahead: int = 3) -> Tensor:
    """Scores that are right for the token after each."""
    return (15 * F.one_hot((given + ahead) % 17, 17).float()).requires_grad_()


def frames(labels: Tensor) -> Tensor:
    """Scores (T, N, C) of frames that say the labels (N, T)."""
    return (10 * F.one_hot(labels.T, 5).float()).requires_grad_()


def a_sine() -> Tensor:
    return torch.linspace(0, 6.2, 64).sin()


LETTERS = torch.tensor([[1, 0, 2, 0, 3, 0, 4, 0]] * 2)
SPOKEN = torch.tensor([[1, 2, 3, 4]] * 2)
EIGHT, FOUR = torch.tensor([8, 8]), torch.tensor([4, 4])


def roomy_frames() -> Tensor:
    """With memory behind the last class, where torch reads for a label that is no class."""
    return F.pad(frames(LETTERS).log_softmax(2), (0, 1), value=-1.0)[..., :5]


def sloping() -> Tensor:
    return (torch.arange(100.0).reshape(10, 10) ** 0.5).requires_grad_()


def root_of_mse(input: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(input, target).sqrt()


FAULTS = (
    Fault(
        name="softmax before cross entropy",
        code="double-softmax",
        severity="error",
        value="1.4612",
        call=lambda: (nn.CrossEntropyLoss(), (perfect().softmax(1), CLASSES)),
        seen="input is the output of a softmax (its grad_fn is SoftmaxBackward0).",
        why="cross_entropy applies a softmax itself: after two, a perfect prediction of 10 classes costs 1.4612"
        " instead of 0, and the gradient is small everywhere.",
        fix="cross_entropy(logits, target), without the softmax",
        mended=lambda: (nn.CrossEntropyLoss(), (perfect(), CLASSES)),
    ),
    Fault(
        name="probabilities without a graph",
        code="double-softmax",
        severity="error",
        value="1.4612",
        call=lambda: (F.cross_entropy, (perfect().detach().softmax(1), CLASSES)),
        seen="The first 8 rows of input hold no negative number and each adds up to 1: probabilities.",
        why="cross_entropy applies a softmax itself: after two, a perfect prediction of 10 classes costs 1.4612"
        " instead of 0, and the gradient is small everywhere.",
        fix="cross_entropy(logits, target), without the softmax",
        mended=lambda: (F.cross_entropy, (perfect().detach(), CLASSES)),
    ),
    Fault(
        name="log_softmax of a softmax",
        code="double-softmax",
        severity="error",
        value="1.4612",
        call=lambda: (nn.NLLLoss(), (perfect().softmax(1).log_softmax(1), CLASSES)),
        seen="input is the log_softmax of a softmax (its grad_fn is LogSoftmaxBackward0 after SoftmaxBackward0).",
        why="The log_softmax is one by itself: after two, a perfect prediction of 10 classes costs 1.4612 "
        "instead of 0, and the gradient is small everywhere.",
        fix="nll_loss(log_softmax(logits, 1), …), without the softmax",
        mended=lambda: (nn.NLLLoss(), (perfect().log_softmax(1), CLASSES)),
    ),
    Fault(
        name="sigmoid before cross entropy",
        code="activation-before-logits",
        severity="error",
        value="1.4612",
        call=lambda: (nn.CrossEntropyLoss(), (perfect(score=40.0).sub(20).sigmoid(), CLASSES)),
        seen="input is the output of a sigmoid (its grad_fn is SigmoidBackward0).",
        why="cross_entropy takes raw scores: from scores between 0 and 1, a perfect prediction of 10 classes "
        "costs 1.4612 instead of 0.",
        fix="cross_entropy(logits, target), without the sigmoid; for several labels at once "
        "binary_cross_entropy_with_logits(logits, target)",
        mended=lambda: (nn.CrossEntropyLoss(), (perfect(score=40.0).sub(20), CLASSES)),
    ),
    Fault(
        name="sigmoid twice",
        code="activation-before-logits",
        severity="error",
        value="0.5032",
        call=lambda: (nn.BCEWithLogitsLoss(), (perfect(2, 40.0).sub(20).sigmoid(), torch.eye(2))),
        seen="input is the output of a sigmoid (its grad_fn is SigmoidBackward0).",
        why="binary_cross_entropy_with_logits applies a sigmoid itself: on numbers between 0 and 1 a right "
        "answer costs at least 0.3133 where the label is yes and 0.6931 where it is no, instead of 0.",
        fix="binary_cross_entropy_with_logits(logits, target), without the sigmoid",
        mended=lambda: (nn.BCEWithLogitsLoss(), (perfect(2, 40.0).sub(20), torch.eye(2))),
    ),
    Fault(
        name="softmax before a loss of yes and no",
        code="activation-before-logits",
        severity="error",
        value="0.6552",
        call=lambda: (F.multilabel_soft_margin_loss, (perfect().softmax(1), torch.eye(10))),
        seen="input is the output of a softmax (its grad_fn is SoftmaxBackward0).",
        why="multilabel_soft_margin_loss applies a sigmoid itself: on numbers between 0 and 1 a right answer "
        "costs at least 0.3133 where the label is yes and 0.6931 where it is no, instead of 0.",
        fix="multilabel_soft_margin_loss(logits, target), without the softmax",
        mended=lambda: (F.multilabel_soft_margin_loss, (perfect(), torch.eye(10))),
    ),
    Fault(
        name="numbers between 0 and 1",
        code="maybe-probabilities",
        severity="info",
        value="0.4841",
        call=lambda: (F.binary_cross_entropy_with_logits, (torch.linspace(0, 1, 64), torch.ones(64))),
        seen="The first 32 numbers of input lie between 0 and 0.4921, as probabilities do.",
        why="If they come from a sigmoid, binary_cross_entropy_with_logits applies a second one, and right "
        "answers cost at least 0.3133 (yes) and 0.6931 (no).",
        fix="binary_cross_entropy_with_logits(logits, target), if these are probabilities",
        mended=lambda: (F.binary_cross_entropy_with_logits, (torch.linspace(-1, 1, 64), torch.ones(64))),
    ),
    Fault(
        name="log_softmax before cross entropy",
        code="log-softmax-twice",
        severity="info",
        value="0.0000",
        call=lambda: (nn.CrossEntropyLoss(), (perfect().log_softmax(1), CLASSES)),
        seen="input is the output of a log_softmax (its grad_fn is LogSoftmaxBackward0).",
        why="cross_entropy applies another one, which changes no number: the loss is right, the work double.",
        fix="nll_loss(input, target), or cross_entropy(logits, target)",
        mended=lambda: (nn.NLLLoss(), (perfect().log_softmax(1), CLASSES)),
    ),
    Fault(
        name="nll of probabilities",
        code="not-log-probabilities",
        severity="error",
        value="-1.0000",
        call=lambda: (nn.NLLLoss(), (perfect().softmax(1), CLASSES)),
        seen="The first 8 rows of input hold no negative number and each adds up to 1: probabilities, not their "
        "logarithms.",
        why="nll_loss takes logarithms: of probabilities it lies between −1, where the prediction is perfect, "
        "and 0, and its gradient does not grow where the prediction is wrong.",
        fix="nll_loss(log_softmax(logits, 1), target), or cross_entropy(logits, target)",
        mended=lambda: (nn.NLLLoss(), (perfect().log_softmax(1), CLASSES)),
    ),
    Fault(
        name="nll of scores",
        code="not-log-probabilities",
        severity="error",
        value="-20.0000",
        call=lambda: (nn.NLLLoss(), (perfect(), CLASSES)),
        seen="log Σ exp of row 0 of input is 20, and of log-probabilities it is 0.",
        why="nll_loss does not normalise: raising every score lowers the loss without end, and nothing has to "
        "be learned for it.",
        fix="cross_entropy(logits, target), or nll_loss(log_softmax(logits, 1), target)",
        mended=lambda: (nn.CrossEntropyLoss(), (perfect(), CLASSES)),
    ),
    Fault(
        name="divergence of probabilities",
        code="not-log-probabilities",
        severity="error",
        value="-1.0000",
        call=lambda: (nn.KLDivLoss(reduction="batchmean"), (perfect().softmax(1), torch.eye(10))),
        seen="The first 8 rows of input hold no negative number and each adds up to 1: probabilities, not their "
        "logarithms.",
        why="kl_div takes logarithms: of probabilities it is no divergence, and below 0 where the two "
        "distributions are the same.",
        fix="kl_div(log_softmax(logits, 1), target)",
        mended=lambda: (nn.KLDivLoss(reduction="batchmean"), (perfect().log_softmax(1), torch.eye(10))),
    ),
    Fault(
        name="ctc of scores",
        code="not-log-probabilities",
        severity="error",
        value="-20.0001",
        call=lambda: (nn.CTCLoss(), (frames(LETTERS), SPOKEN, EIGHT, FOUR)),
        seen="log Σ exp of row 0 of log_probs is 10, and of log-probabilities it is 0.",
        why="ctc_loss does not normalise: raising every score lowers the loss without end, and nothing has to "
        "be learned for it.",
        fix="ctc_loss(log_softmax(logits, 2), …)",
        mended=lambda: (nn.CTCLoss(), (frames(LETTERS).log_softmax(2), SPOKEN, EIGHT, FOUR)),
    ),
    Fault(
        name="negative target",
        code="not-a-distribution",
        severity="error",
        value="-15.0402",
        call=lambda: (nn.CrossEntropyLoss(), (torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([[0.0, -3.0, 0.0]]))),
        seen="Row 0 of target holds -3, and no probability is negative.",
        why="A class of negative probability is rewarded for being improbable, without end: the loss falls below 0.",
        fix="cross_entropy(input, target.softmax(1))",
        mended=lambda: (
            nn.CrossEntropyLoss(),
            (torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([[0.0, -3.0, 0.0]]).softmax(1)),
        ),
    ),
    Fault(
        name="several labels",
        code="not-a-distribution",
        severity="error",
        value="6.6667",
        call=lambda: (nn.CrossEntropyLoss(), (perfect(3), torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]))),
        seen="Row 0 of target holds 2 ones: several labels of one sample.",
        why="cross_entropy lets the classes compete for a probability of 1, so that two labels can have half of"
        " it each at best, and the loss never reaches 0.",
        fix="binary_cross_entropy_with_logits(input, target)",
        mended=lambda: (nn.BCEWithLogitsLoss(), (perfect(3), torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]))),
    ),
    Fault(
        name="weights that do not add up",
        code="not-a-distribution",
        severity="warning",
        value="0.0000",
        call=lambda: (nn.CrossEntropyLoss(), (perfect(3), 0.5 * torch.eye(3))),
        seen="Row 0 of target adds up to 0.5, not to 1.",
        why="cross_entropy weighs each sample by its sum, as a sample weight would.",
        fix="cross_entropy(input, target / target.sum(1, keepdim=True))",
        mended=lambda: (nn.CrossEntropyLoss(), (perfect(3), torch.eye(3))),
    ),
    Fault(
        name="divergence of two logarithms",
        code="not-a-distribution",
        severity="error",
        value="nan",
        call=lambda: (
            nn.KLDivLoss(reduction="batchmean"),
            (perfect(3, 1.0).log_softmax(1), torch.eye(3).log_softmax(1)),
        ),
        seen="Row 2 of target holds -1.551, and no probability is negative.",
        why="kl_div takes the logarithm of target, which is NaN there.",
        fix="kl_div(input, target, log_target=True), if target holds log-probabilities",
        mended=lambda: (
            nn.KLDivLoss(reduction="batchmean", log_target=True),
            (perfect(3, 1.0).log_softmax(1), torch.eye(3).log_softmax(1)),
        ),
    ),
    Fault(
        name="logarithms that are none",
        code="not-a-distribution",
        severity="error",
        value="6.3654",
        call=lambda: (
            nn.KLDivLoss(reduction="batchmean", log_target=True),
            (perfect(3, 1.0).log_softmax(1), torch.eye(3).softmax(1)),
        ),
        seen="log_target=True, but log Σ exp of row 0 of target is 1.447, and of log-probabilities it is 0.",
        why="kl_div takes exp(target) for the probabilities: they do not add up to 1, and the loss is no divergence.",
        fix="kl_div(input, target), without log_target",
        mended=lambda: (nn.KLDivLoss(reduction="batchmean"), (perfect(3, 1.0).log_softmax(1), torch.eye(3).softmax(1))),
    ),
    Fault(
        name="masks of 255",
        code="target-out-of-range",
        severity="error",
        value="-761.9976",
        call=lambda: (nn.BCEWithLogitsLoss(), (torch.tensor([-6.0, 6.0]), torch.tensor([0.0, 255.0]))),
        seen="target lies between 0 and 255, and a yes or no is a number in [0, 1].",
        why="Beyond that range the loss has no least value: it falls below 0 without end, and the scores grow with it.",
        fix="binary_cross_entropy_with_logits(input, target / 255)",
        mended=lambda: (nn.BCEWithLogitsLoss(), (torch.tensor([-6.0, 6.0]), torch.tensor([0.0, 255.0]) / 255)),
    ),
    Fault(
        name="signs for yes and no",
        code="target-out-of-range",
        severity="error",
        value="-2.9975",
        call=lambda: (nn.BCEWithLogitsLoss(), (torch.tensor([-6.0, 6.0]), torch.tensor([-1.0, 1.0]))),
        seen="target lies between -1 and 1, and a yes or no is a number in [0, 1].",
        why="Beyond that range the loss has no least value: it falls below 0 without end, and the scores grow with it.",
        fix="binary_cross_entropy_with_logits(input, (target + 1) / 2)",
        mended=lambda: (nn.BCEWithLogitsLoss(), (torch.tensor([-6.0, 6.0]), torch.tensor([0.0, 1.0]))),
    ),
    Fault(
        name="labels that count from 1",
        code="target-out-of-range",
        severity="error",
        value="IndexError: Target 3 is out of bounds.",
        call=lambda: (nn.CrossEntropyLoss(), (perfect(3), torch.tensor([1, 2, 3]))),
        seen="1 of 3 targets lie outside [0, 3): 3; these labels look 1-based.",
        why="There is no score for such a class: the call raises on the CPU, and on a GPU it ends the program.",
        fix="cross_entropy(input, target - 1)",
        mended=lambda: (nn.CrossEntropyLoss(), (perfect(3), torch.tensor([1, 2, 3]) - 1)),
    ),
    Fault(
        name="a void label",
        code="target-out-of-range",
        severity="error",
        value="IndexError: Target 255 is out of bounds.",
        call=lambda: (nn.CrossEntropyLoss(), (perfect(3), torch.tensor([0, 1, 255]))),
        seen="1 of 3 targets lie outside [0, 3): 255; 255 looks like a mark for places without a label.",
        why="There is no score for such a class: the call raises on the CPU, and on a GPU it ends the program.",
        fix="cross_entropy(input, target, ignore_index=255)",
        mended=lambda: (nn.CrossEntropyLoss(ignore_index=255), (perfect(3), torch.tensor([0, 1, 255]))),
    ),
    Fault(
        name="too few outputs",
        code="target-out-of-range",
        severity="error",
        value="IndexError: Target 4 is out of bounds.",
        call=lambda: (nn.NLLLoss(), (perfect(3).log_softmax(1), torch.tensor([0, 4, 5]))),
        seen="2 of 3 targets lie outside [0, 3): 4, 5; there are scores for 3 classes.",
        why="There is no score for such a class: the call raises on the CPU, and on a GPU it ends the program.",
        fix="a last layer with 6 outputs",
        mended=lambda: (nn.NLLLoss(), (perfect(6)[:3].log_softmax(1), torch.tensor([0, 4, 5]))),
    ),
    Fault(
        name="0 and 1 for signs",
        code="target-not-plus-minus-one",
        severity="error",
        value="1.5000",
        call=lambda: (
            nn.MarginRankingLoss(margin=1.0),
            (torch.zeros(4), torch.ones(4), torch.tensor([0.0, 1.0, 0.0, 1.0])),
        ),
        seen="2 of 4 targets are neither −1 nor 1; they lie between 0 and 1.",
        why="A target of 0 costs the margin whatever the scores are, and has no gradient.",
        fix="margin_ranking_loss(…, 2 * target - 1)",
        mended=lambda: (
            nn.MarginRankingLoss(margin=1.0),
            (torch.zeros(4), torch.ones(4), torch.tensor([-1.0, 1.0, -1.0, 1.0])),
        ),
    ),
    Fault(
        name="letters that are the blank",
        code="label-is-blank",
        severity="error",
        value="7.5002",
        call=lambda: (nn.CTCLoss(), (frames(LETTERS).log_softmax(2), SPOKEN - 1, EIGHT, FOUR)),
        seen="2 of 8 labels are 0, the blank, first in sample 0.",
        why="The blank stands for no label: a model cannot put it out as one, and learns to leave the label away.",
        fix="ctc_loss(log_probs, targets + 1, …), with one more class and 0 kept for the blank",
        mended=lambda: (nn.CTCLoss(), (frames(LETTERS).log_softmax(2), SPOKEN, EIGHT, FOUR)),
    ),
    Fault(
        name="a column against a row",
        code="broadcast",
        severity="error",
        value="0.7521",
        call=lambda: (
            nn.PoissonNLLLoss(log_input=False),
            (a_sine().unsqueeze(1).add(2).requires_grad_(), a_sine().add(2)),
        ),
        seen="input (64, 1), target (64,) are broadcast to (64, 64): 4096 losses where there are 64 predictions.",
        why="Every prediction is compared with every target, so the best that can be learned is one constant for all.",
        fix="poisson_nll_loss(input.squeeze(-1), target)",
        mended=lambda: (nn.PoissonNLLLoss(log_input=False), (a_sine().add(2).requires_grad_(), a_sine().add(2))),
    ),
    Fault(
        name="the mean for every target",
        code="broadcast",
        severity="error",
        value="0.4988",
        call=lambda: (F.mse_loss, (a_sine().mean().expand(64, 1), a_sine())),
        seen="input (64, 1), target (64,) are broadcast to (64, 64): 4096 losses where there are 64 predictions.",
        why="Every prediction is compared with every target, so the best that can be learned is one constant "
        "for all: training stops at Var(target) = 0.4988.",
        fix="mse_loss(input.squeeze(-1), target)",
        mended=lambda: (F.mse_loss, (a_sine(), a_sine())),
    ),
    Fault(
        name="one prior for all",
        code="broadcast",
        severity="warning",
        value="0.1885",
        call=lambda: (
            nn.KLDivLoss(reduction="batchmean"),
            (perfect(3, 1.0).log_softmax(1), torch.tensor([0.2, 0.3, 0.5])),
        ),
        seen="input (3, 3), target (3,) are broadcast to (3, 3): 9 losses of which some share a value.",
        why="If that is not meant, values are compared that do not belong together.",
        fix="kl_div(input, target.expand_as(input)), if that is meant",
        mended=lambda: (
            nn.KLDivLoss(reduction="batchmean"),
            (perfect(3, 1.0).log_softmax(1), torch.tensor([0.2, 0.3, 0.5]).expand(3, 3)),
        ),
    ),
    Fault(
        name="a ranking of columns and rows",
        code="broadcast",
        severity="error",
        value="RuntimeError: margin_ranking_loss : All input tensors should have same dimension but got sizes: "
        "input1: torch.Size([4, 1]), input2: torch.Size([4, 1]), target: torch.Size([4]) ",
        call=lambda: (nn.MarginRankingLoss(), (torch.zeros(4, 1), torch.ones(4, 1), torch.ones(4))),
        seen="input1 (4, 1), input2 (4, 1), target (4,) are broadcast to (4, 4): 16 losses where there are 4 "
        "predictions.",
        why="Every prediction is compared with every target, so the best that can be learned is one constant for all.",
        fix="margin_ranking_loss(input1, input2, target.unsqueeze(-1))",
        mended=lambda: (nn.MarginRankingLoss(), (torch.zeros(4), torch.ones(4), torch.ones(4))),
    ),
    Fault(
        name="one class",
        code="one-class",
        severity="error",
        value="0.0000",
        call=lambda: (nn.CrossEntropyLoss(), (torch.randn(4, 1).requires_grad_(), torch.zeros(4, dtype=torch.long))),
        seen="input has shape (4, 1): scores for one class.",
        why="The softmax of one score is 1 whatever the score is: the loss is 0 for ever, and so is its gradient.",
        fix="binary_cross_entropy_with_logits(input.squeeze(1), target.float())",
        mended=lambda: (nn.BCEWithLogitsLoss(), (torch.randn(4, 1).requires_grad_().squeeze(1), torch.zeros(4))),
    ),
    Fault(
        name="classes last, as many as places",
        code="class-axis",
        severity="warning",
        value="8.0004",
        call=lambda: (nn.CrossEntropyLoss(), (tagger(), TAGS)),
        seen="input has shape (8, 10, 10) and the classes are looked for on axis 1, where the loss of the first "
        "positions is 8; on axis 2 it is 0.0004086.",
        why="The scores of different places are compared with each other: even a perfect model has a large "
        "loss, and no error is raised.",
        fix="cross_entropy(input.transpose(1, 2), target)",
        mended=lambda: (nn.CrossEntropyLoss(), (tagger().transpose(1, 2), TAGS)),
    ),
    Fault(
        name="no telling which axis",
        code="class-axis",
        severity="warning",
        value="2.3026",
        call=lambda: (nn.CrossEntropyLoss(), (torch.zeros(8, 10, 10), TAGS)),
        seen="input has shape (8, 10, 10): axis 1, which holds the classes for cross_entropy, is as long as the "
        "last one. Their losses, 2.303 and 2.303, do not tell which is meant.",
        why="If the classes are on the last axis, the scores of different places are compared with each other, "
        "and no error is raised.",
        fix="cross_entropy(input.movedim(-1, 1), target), if the classes are on the last axis",
        mended=lambda: (nn.CrossEntropyLoss(), (torch.zeros(8, 12, 10), TAGS)),
    ),
    Fault(
        name="reshape for a transposition",
        code="class-axis",
        severity="warning",
        value="3.9261",
        call=lambda: (nn.CrossEntropyLoss(), (tagger()[:, :8].reshape(8, 10, 8), TAGS[:, :8])),
        seen="input has shape (8, 10, 8) and a loss of 3.926 in its first positions; read as (8, 8, 10), in the "
        "order of its memory, it is 0.0004086.",
        why="The scores of different places are compared with each other: even a perfect model has a large "
        "loss, and no error is raised.",
        fix="cross_entropy(scores.movedim(-1, 1), target), instead of reshape or view",
        mended=lambda: (nn.CrossEntropyLoss(), (tagger()[:, :8].transpose(1, 2), TAGS[:, :8])),
    ),
    Fault(
        name="log_softmax over the samples",
        code="softmax-over-wrong-dim",
        severity="error",
        value="4.1440",
        call=lambda: (nn.NLLLoss(), (sloping().log_softmax(0), CLASSES)),
        seen="The first 8 columns of input along axis 0 are log-probabilities; along axis 1, that of the "
        "classes, its rows are not.",
        why="The samples compete with each other, and not the classes: a sample's loss depends on which others "
        "are in its batch.",
        fix="cross_entropy(logits, target), or log_softmax(logits, dim=1) before this loss",
        mended=lambda: (nn.NLLLoss(), (sloping().log_softmax(1), CLASSES)),
    ),
    Fault(
        name="divergence over the samples",
        code="softmax-over-wrong-dim",
        severity="error",
        value="1.4334",
        call=lambda: (
            nn.KLDivLoss(reduction="batchmean"),
            (torch.randn(8, 3).log_softmax(0), torch.full((8, 3), 1 / 3)),
        ),
        seen="The first 3 columns of input along axis 0 are log-probabilities; along axis 1, that of the "
        "classes, its rows are not.",
        why="The samples compete with each other, and not the classes: a sample's loss depends on which others "
        "are in its batch.",
        fix="kl_div(log_softmax(logits, dim=1), target)",
        mended=lambda: (
            nn.KLDivLoss(reduction="batchmean"),
            (torch.randn(8, 3).log_softmax(1), torch.full((8, 3), 1 / 3)),
        ),
    ),
    Fault(
        name="targets that were not shifted",
        code="label-shift",
        severity="error",
        value="15.0000",
        call=lambda: (nn.CrossEntropyLoss(), (language_model(tokens()).transpose(1, 2), tokens())),
        seen="The loss of the first 160 positions is 15, and against the targets 1 place later it is 4.943e-06.",
        why="The scores at a position predict the token after it. Trained against other targets, the model "
        "learns to copy or to skip.",
        fix="cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())",
        mended=lambda: (
            nn.CrossEntropyLoss(),
            (language_model(tokens())[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten()),
        ),
    ),
    Fault(
        name="targets that were shifted twice",
        code="label-shift",
        severity="error",
        value="15.0000",
        call=lambda: (
            nn.CrossEntropyLoss(),
            (language_model(tokens())[:, :-2].flatten(0, 1), tokens()[:, 2:].flatten()),
        ),
        seen="The loss of the first 152 positions is 15, and against the targets a place earlier it is 0.298.",
        why="The targets were shifted twice, by the model and by the script, say: the model learns to skip a token.",
        fix="cross_entropy(logits.flatten(0, 1), target.flatten()), with a target that is shifted once",
        mended=lambda: (
            nn.CrossEntropyLoss(),
            (language_model(tokens())[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten()),
        ),
    ),
    Fault(
        name="nothing but padding",
        code="nothing-counts",
        severity="error",
        value="nan",
        call=lambda: (nn.CrossEntropyLoss(), (perfect(3), torch.full((3,), -100))),
        seen="All 3 targets equal ignore_index = -100.",
        why="The mean of no losses is 0 / 0 = NaN, and one such step makes every parameter NaN.",
        fix="losskit.functional.cross_entropy(…, on_empty='zero'), or leave such batches out",
        mended=lambda: (losskit.CrossEntropyLoss(on_empty="zero"), (perfect(3), torch.full((3,), -100))),
    ),
    Fault(
        name="nothing but padding, added up",
        code="nothing-counts",
        severity="warning",
        value="0.0000",
        call=lambda: (nn.CrossEntropyLoss(reduction="sum"), (perfect(3), torch.full((3,), -100))),
        seen="All 3 targets equal ignore_index = -100.",
        why="The loss is 0 and has no gradient: the batch teaches nothing.",
        fix="leave such batches out",
        mended=lambda: (nn.CrossEntropyLoss(reduction="sum"), (perfect(3), torch.tensor([-100, 1, 2]))),
    ),
    Fault(
        name="one class under weights",
        code="weights-cancel",
        severity="warning",
        value="0.6931",
        call=lambda: (
            nn.CrossEntropyLoss(weight=torch.tensor([1.0, 10.0])),
            (torch.zeros(4, 2), torch.ones(4, dtype=torch.long)),
        ),
        seen="The batch holds one class, 1, with the weight 10, and nothing else: 4 targets.",
        why="The mean divides by the sum of the weights, which cancels them: this batch counts as if there were"
        " no class weights.",
        fix="losskit.functional.cross_entropy(…, weight=weight, normalizer=len(target))",
        mended=lambda: (
            nn.CrossEntropyLoss(weight=torch.tensor([1.0, 10.0])),
            (torch.zeros(4, 2), torch.tensor([0, 1, 1, 1])),
        ),
    ),
    Fault(
        name="the logarithm of a softmax",
        code="non-finite-loss",
        severity="error",
        value="inf",
        call=lambda: (nn.NLLLoss(), (perfect(score=200.0).softmax(1).log(), (CLASSES + 1) % 10)),
        seen="The loss is inf: row 0 of input holds -inf, the logarithm of a probability of 0.",
        why="A class of probability 0 costs infinitely much. Its gradient makes every parameter NaN in the next step.",
        fix="log_softmax(logits, 1) instead of the logarithm of a softmax",
        mended=lambda: (nn.NLLLoss(), (perfect(score=200.0).log_softmax(1), (CLASSES + 1) % 10)),
    ),
    Fault(
        name="squares beyond float16",
        code="non-finite-loss",
        severity="error",
        value="inf",
        call=lambda: (nn.MSELoss(), (torch.tensor([300.0], dtype=torch.float16), torch.zeros(1, dtype=torch.float16))),
        seen="The loss is inf: every number of input is finite, the largest 300; the loss goes beyond 6.55e+04, "
        "the largest float16.",
        why="It is formed in float16. Its gradient makes every parameter NaN in the next step.",
        fix="mse_loss(input.float(), target.float())",
        mended=lambda: (nn.MSELoss(), (torch.tensor([300.0]), torch.zeros(1))),
    ),
    Fault(
        name="a NaN from the model",
        code="non-finite-loss",
        severity="error",
        value="nan",
        call=lambda: (nn.CrossEntropyLoss(), (torch.tensor([[0.0, 1.0], [math.nan, 0.0]]), torch.tensor([1, 0]))),
        seen="The loss is nan: row 1 of input holds nan.",
        why="The model put it out: the fault is before the loss. Its gradient makes every parameter NaN in the "
        "next step.",
        fix="torch.autograd.set_detect_anomaly(True), which names the operation",
        mended=lambda: (nn.CrossEntropyLoss(), (torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 0]))),
    ),
    Fault(
        name="a NaN in the data",
        code="non-finite-loss",
        severity="error",
        value="nan",
        call=lambda: (nn.MSELoss(), (torch.zeros(3), torch.tensor([0.0, math.nan, 1.0]))),
        seen="The loss is nan: row 1 of target holds nan.",
        why="Multiplying by 0 afterwards does not take it out, as 0 · NaN is NaN. Its gradient makes every "
        "parameter NaN in the next step.",
        fix="losskit.functional.mse_loss(input, target, mask=target.isfinite())",
        mended=lambda: (
            functools.partial(losskit.functional.mse_loss, mask=torch.tensor([True, False, True])),
            (torch.zeros(3), torch.tensor([0.0, math.nan, 1.0])),
        ),
    ),
    Fault(
        name="an empty batch",
        code="non-finite-loss",
        severity="error",
        value="nan",
        call=lambda: (nn.MSELoss(), (torch.zeros(0, 3), torch.zeros(0, 3))),
        seen="The loss is nan: input has shape (0, 3), no element.",
        why="The mean of nothing is 0 / 0. Its gradient makes every parameter NaN in the next step.",
        fix="losskit.functional.mse_loss(…, on_empty='zero'), or leave empty batches out",
        mended=lambda: (losskit.MSELoss(on_empty="zero"), (torch.zeros(0, 3), torch.zeros(0, 3))),
    ),
    Fault(
        name="a rate beyond float32",
        code="non-finite-loss",
        severity="error",
        value="inf",
        call=lambda: (nn.PoissonNLLLoss(), (torch.tensor([100.0]), torch.tensor([1.0]))),
        seen="The loss is inf: every number of input is finite, the largest 100; the loss goes beyond 3.403e+38,"
        " the largest float32.",
        why="It is formed in float32. Its gradient makes every parameter NaN in the next step.",
        fix="smaller numbers: input scaled, or a lower learning rate",
        mended=lambda: (nn.PoissonNLLLoss(), (torch.tensor([10.0]), torch.tensor([1.0]))),
    ),
    Fault(
        name="a sigmoid that reached its end",
        code="clamped-log",
        severity="warning",
        value="100.0000",
        call=lambda: (nn.BCELoss(), (torch.tensor([20.0]).sigmoid(), torch.tensor([0.0]))),
        seen="Of the first 1 probabilities 1 are wrong and exactly 0 or 1, the first 1 for a target of 0.",
        why="Their loss is cut off at 100, and the sigmoid before it has no gradient there: the samples that "
        "are most wrong teach nothing. A sigmoid in float32 is 1 from scores of 17 on.",
        fix="binary_cross_entropy_with_logits(logits, target), without the sigmoid",
        mended=lambda: (nn.BCEWithLogitsLoss(), (torch.tensor([20.0]), torch.tensor([0.0]))),
    ),
    Fault(
        name="a root of 0",
        code="non-finite-gradient",
        severity="error",
        value="0.0000",
        call=lambda: (root_of_mse, (torch.zeros(3, requires_grad=True), torch.zeros(3))),
        seen="The loss is finite, and the gradient that backward hands to it is inf.",
        why="An operation after the loss has no derivative there, as a square root at 0: every parameter "
        "becomes NaN in the next step.",
        fix="(loss + 1e-8).sqrt(), or the loss without its root",
        mended=lambda: (nn.MSELoss(), (torch.zeros(3, requires_grad=True), torch.zeros(3))),
    ),
    Fault(
        name="too few frames",
        code="ctc-too-short",
        severity="error",
        value="inf",
        call=lambda: (nn.CTCLoss(), (frames(LETTERS[:, :3]).log_softmax(2), SPOKEN, torch.tensor([3, 3]), FOUR)),
        seen="sample 0 needs 4 frames (4 labels + 0 repeats) but input_lengths[0] is 3, and one more is too short.",
        why="No path through the frames spells the labels: the loss is inf and its gradient NaN.",
        fix="ctc_loss(…, zero_infinity=True), without these samples, or frames at a higher rate",
        mended=lambda: (nn.CTCLoss(), (frames(LETTERS).log_softmax(2), SPOKEN, EIGHT, FOUR)),
    ),
    Fault(
        name="too few frames, hidden",
        code="ctc-too-short",
        severity="info",
        value="0.0000",
        call=lambda: (
            nn.CTCLoss(zero_infinity=True),
            (frames(LETTERS[:, :3]).log_softmax(2), SPOKEN, torch.tensor([3, 3]), FOUR),
        ),
        seen="sample 0 needs 4 frames (4 labels + 0 repeats) but input_lengths[0] is 3, and one more is too short.",
        why="zero_infinity=True makes the loss of such a sample 0: it teaches nothing, and lowers the mean.",
        fix="ctc_loss(…) without these samples, or frames at a higher rate",
        mended=lambda: (nn.CTCLoss(zero_infinity=True), (frames(LETTERS).log_softmax(2), SPOKEN, EIGHT, FOUR)),
    ),
    Fault(
        name="a letter that is no class",
        code="ctc-out-of-range",
        severity="error",
        value="2.7502",
        call=lambda: (nn.CTCLoss(), (roomy_frames(), SPOKEN + 1, EIGHT, FOUR)),
        seen="2 of 8 labels lie outside [0, 5): {5}, first in sample 0 at place 3: these labels look 1-based.",
        why="torch reads what lies beside the tensor there: a loss of no meaning, or the end of the program.",
        fix="losskit.functional.ctc_loss(…), which raises this as an error",
        mended=lambda: (nn.CTCLoss(), (roomy_frames(), SPOKEN, EIGHT, FOUR)),
    ),
    Fault(
        name="indices as numbers",
        code="float-class-indices",
        severity="error",
        value="RuntimeError: expected target dtype to be Long or Byte, but got Float",
        call=lambda: (nn.CrossEntropyLoss(), (perfect(3), torch.arange(3).float())),
        seen="target is float32 with shape (3,), the shape of class indices.",
        why="cross_entropy takes class indices as whole numbers of an integer dtype, and raises an error.",
        fix="cross_entropy(…, target.long())",
        mended=lambda: (nn.CrossEntropyLoss(), (perfect(3), torch.arange(3))),
    ),
    Fault(
        name="indices as probabilities",
        code="float-class-indices",
        severity="error",
        value="8.3178",
        call=lambda: (nn.CrossEntropyLoss(), (torch.zeros(4, requires_grad=True), torch.tensor([0.0, 2.0, 1.0, 3.0]))),
        seen="target is float32, has the shape of input, (4,), and holds whole numbers up to 3.",
        why="A target of that shape is taken for class probabilities: indices weigh the classes by their "
        "number, and the loss means nothing.",
        fix="cross_entropy(…, target.long()), and input of shape (N, C)",
        mended=lambda: (nn.CrossEntropyLoss(), (torch.zeros(4, 4, requires_grad=True), torch.tensor([0, 2, 1, 3]))),
    ),
    Fault(
        name="a target from NumPy",
        code="float64-target",
        severity="warning",
        value="1.4990",
        call=lambda: (nn.MSELoss(), (a_sine().requires_grad_(), torch.ones(64, dtype=torch.float64))),
        seen="target is float64, as NumPy makes it, and input float32.",
        why="The loss is computed and returned in float64, at twice the memory; some losses raise in backward.",
        fix="mse_loss(input, target.to(input.dtype))",
        mended=lambda: (nn.MSELoss(), (a_sine().requires_grad_(), torch.ones(64, dtype=torch.float64).float())),
    ),
    Fault(
        name="a loss of few digits",
        code="half-precision-loss",
        severity="info",
        value="1.5000",
        call=lambda: (nn.MSELoss(), (a_sine().bfloat16(), torch.ones(64, dtype=torch.bfloat16))),
        seen="The loss is bfloat16: steps of 0.7812 %, and at most 3.39e+38.",
        why="Changes that are smaller do not show in a curve, and sums of such losses stop growing.",
        fix="losskit.functional.mse_loss(…, out_dtype=torch.float32), or input.float()",
        mended=lambda: (
            losskit.MSELoss(out_dtype=torch.float32),
            (a_sine().bfloat16(), torch.ones(64, dtype=torch.bfloat16)),
        ),
    ),
    Fault(
        name="one point for all",
        code="zero-gradient",
        severity="error",
        value="0.5000",
        call=lambda: (nn.TripletMarginLoss(margin=0.5), tuple(torch.zeros(3, 4, 2, requires_grad=True).unbind())),
        seen="The loss is 0.5, the margin, and its gradient by anchor is 0 everywhere.",
        why="Positive and negative pull with the same strength in the same direction: all embeddings have "
        "collapsed to one point, or each positive is its own negative.",
        fix="a lower learning rate, F.normalize(embedding), and no activation that ends at 0 before the loss",
        mended=lambda: (nn.TripletMarginLoss(margin=0.5), (perfect(2, 1.0), perfect(2, 1.0), torch.zeros(2, 2))),
    ),
    Fault(
        name="a gradient that is 0",
        code="zero-gradient",
        severity="error",
        value="2.0000",
        call=lambda: (
            nn.CosineEmbeddingLoss(),
            (torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[-1.0, 0.0]]), torch.ones(1)),
        ),
        seen="The loss is 2, and its gradient by input1 is 0 everywhere.",
        why="Nothing tells the model in which direction the loss falls: it stays as it is.",
        fix="other weights or inputs: input1 lies where the loss is flat",
        mended=lambda: (
            nn.CosineEmbeddingLoss(),
            (torch.tensor([[1.0, 0.1]], requires_grad=True), torch.tensor([[-1.0, 0.0]]), torch.ones(1)),
        ),
    ),
    Fault(
        name="several losses",
        code="not-a-scalar",
        severity="info",
        value="95.9357",
        call=lambda: (nn.MSELoss(reduction="none"), (a_sine().requires_grad_(), torch.ones(64))),
        seen="The loss has shape (64,), 64 numbers.",
        why="backward needs one number: it raises an error unless they are averaged or added first.",
        fix="loss.mean().backward()",
        mended=lambda: (nn.MSELoss(), (a_sine().requires_grad_(), torch.ones(64))),
    ),
    Fault(
        name="class indices for yes and no",
        code="target-out-of-range",
        severity="error",
        value="0.6931",
        call=lambda: (nn.BCEWithLogitsLoss(), (torch.zeros(4), torch.tensor([0.0, 1.0, 2.0, 3.0]))),
        seen="target lies between 0 and 3, and a yes or no is a number in [0, 1].",
        why="Beyond that range the loss has no least value: it falls below 0 without end, and the scores grow with it.",
        fix="cross_entropy(input, target.long()), if these are class indices",
        mended=lambda: (nn.CrossEntropyLoss(), (torch.zeros(4, 4), torch.tensor([0, 1, 2, 3]))),
    ),
    Fault(
        name="a yes beyond 1",
        code="target-out-of-range",
        severity="error",
        value="RuntimeError: all elements of target should be between 0 and 1",
        call=lambda: (nn.BCELoss(), (torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.5]))),
        seen="target lies between 0 and 1.5, and a yes or no is a number in [0, 1].",
        why="Beyond that range the loss has no least value: it falls below 0 without end, and the scores grow with it.",
        fix="binary_cross_entropy(input, target), with a target in [0, 1]",
        mended=lambda: (nn.BCELoss(), (torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]))),
    ),
    Fault(
        name="distances for signs",
        code="target-not-plus-minus-one",
        severity="error",
        value="1.0000",
        call=lambda: (nn.HingeEmbeddingLoss(), (torch.tensor([0.5, 0.5]), torch.tensor([-3.0, 3.0]))),
        seen="2 of 2 targets are neither −1 nor 1; they lie between -3 and 3.",
        why="The target is a sign: other numbers scale the loss, or fall between its cases.",
        fix="hinge_embedding_loss(…, target.sign())",
        mended=lambda: (nn.HingeEmbeddingLoss(), (torch.tensor([0.5, 0.5]), torch.tensor([-3.0, 3.0]).sign())),
    ),
    Fault(
        name="a target of log-probabilities",
        code="not-a-distribution",
        severity="error",
        value="-89.5818",
        call=lambda: (nn.CrossEntropyLoss(), (perfect(3), (2 * torch.eye(3)).log_softmax(1))),
        seen="Row 0 of target holds -2.24, and no probability is negative.",
        why="A class of negative probability is rewarded for being improbable, without end: the loss falls below 0.",
        fix="cross_entropy(input, target.exp())",
        mended=lambda: (nn.CrossEntropyLoss(), (perfect(3), (2 * torch.eye(3)).log_softmax(1).exp())),
    ),
    Fault(
        name="raw scores as logarithms",
        code="not-a-distribution",
        severity="error",
        value="0.2097",
        call=lambda: (
            nn.KLDivLoss(reduction="batchmean", log_target=True),
            (perfect(3, 1.0).log_softmax(1), -1 - torch.eye(3)),
        ),
        seen="log_target=True, but log Σ exp of row 0 of target is -0.138, and of log-probabilities it is 0.",
        why="kl_div takes exp(target) for the probabilities: they do not add up to 1, and the loss is no divergence.",
        fix="kl_div(input, target, log_target=True) with a target from log_softmax",
        mended=lambda: (
            nn.KLDivLoss(reduction="batchmean", log_target=True),
            (perfect(3, 1.0).log_softmax(1), (-1 - torch.eye(3)).log_softmax(1)),
        ),
    ),
    Fault(
        name="one class in the layer of the loss",
        code="one-class",
        severity="error",
        value="0.0000",
        call=lambda: (F.linear_cross_entropy, (torch.ones(4, 2), torch.ones(1, 2), torch.zeros(4, dtype=torch.long))),
        seen="linear_weight has one row: scores for one class.",
        why="The softmax of one score is 1 whatever the score is: the loss is 0 for ever, and so is its gradient.",
        fix="binary_cross_entropy_with_logits(linear(input, linear_weight).squeeze(1), target.float())",
        mended=lambda: (F.linear_cross_entropy, (torch.ones(4, 2), torch.ones(2, 2), torch.zeros(4, dtype=torch.long))),
    ),
    Fault(
        name="a mark in the layer of the loss",
        code="target-out-of-range",
        severity="error",
        value="IndexError: Target -1 is out of bounds.",
        call=lambda: (F.linear_cross_entropy, (torch.ones(4, 2), torch.ones(3, 2), torch.tensor([0, 1, 2, -1]))),
        seen="1 of 4 targets lie outside [0, 3): -1; -1 looks like a mark for places without a label.",
        why="There is no score for such a class: the call raises on the CPU, and on a GPU it ends the program.",
        fix="linear_cross_entropy(input, linear_weight, target, ignore_index=-1)",
        mended=lambda: (
            functools.partial(F.linear_cross_entropy, ignore_index=-1),
            (torch.ones(4, 2), torch.ones(3, 2), torch.tensor([0, 1, 2, -1])),
        ),
    ),
    Fault(
        name="letters that are another blank",
        code="label-is-blank",
        severity="error",
        value="8.9017",
        call=lambda: (nn.CTCLoss(blank=4), (frames(LETTERS).log_softmax(2), SPOKEN, EIGHT, FOUR)),
        seen="2 of 8 labels are 4, the blank, first in sample 0.",
        why="The blank stands for no label: a model cannot put it out as one, and learns to leave the label away.",
        fix="ctc_loss(…, blank=…), with a class that is no label",
        mended=lambda: (nn.CTCLoss(blank=4), (frames(LETTERS).log_softmax(2), SPOKEN - 1, EIGHT, FOUR)),
    ),
    Fault(
        name="more frames than there are",
        code="ctc-out-of-range",
        severity="error",
        value="RuntimeError: Expected input_lengths to have value at most 8, but got value 9 (while checking "
        "arguments for ctc_loss_allocate_outputs)",
        call=lambda: (nn.CTCLoss(), (frames(LETTERS).log_softmax(2), SPOKEN, EIGHT + 1, FOUR)),
        seen="input_lengths[0] is 9 but log_probs has 8 frames.",
        why="There are no such frames or labels: the call raises an error.",
        fix="ctc_loss(log_probs, targets, input_lengths, target_lengths), with lengths within the tensors",
        mended=lambda: (nn.CTCLoss(), (frames(LETTERS).log_softmax(2), SPOKEN, EIGHT, FOUR)),
    ),
    Fault(
        name="ctc of probabilities",
        code="not-log-probabilities",
        severity="error",
        value="-2.6405",
        call=lambda: (nn.CTCLoss(), (frames(LETTERS).softmax(2), SPOKEN, EIGHT, FOUR)),
        seen="The first 8 rows of log_probs hold no negative number and each adds up to 1: probabilities, not "
        "their logarithms.",
        why="ctc_loss takes logarithms: of probabilities it is no likelihood of the labels.",
        fix="ctc_loss(log_softmax(logits, 2), …)",
        mended=lambda: (nn.CTCLoss(), (frames(LETTERS).log_softmax(2), SPOKEN, EIGHT, FOUR)),
    ),
    Fault(
        name="a column of targets",
        code="broadcast",
        severity="error",
        value="RuntimeError: output with shape [4] doesn't match the broadcast shape [4, 4]",
        call=lambda: (nn.SoftMarginLoss(), (torch.ones(4, requires_grad=True), torch.ones(4, 1))),
        seen="input (4,), target (4, 1) are broadcast to (4, 4): 16 losses where there are 4 predictions.",
        why="Every prediction is compared with every target, so the best that can be learned is one constant for all.",
        fix="soft_margin_loss(input, target.squeeze(-1))",
        mended=lambda: (nn.SoftMarginLoss(), (torch.ones(4, requires_grad=True), torch.ones(4, 1).squeeze(-1))),
    ),
    Fault(
        name="whole maps that are not normalised",
        code="not-log-probabilities",
        severity="error",
        value="-2.4849",
        call=lambda: (nn.KLDivLoss(reduction="batchmean"), (torch.zeros(2, 3, 4), torch.full((2, 3, 4), 1 / 12))),
        seen="log Σ exp of row 0 of input is 1.099, and of log-probabilities it is 0.",
        why="kl_div does not normalise: raising every score lowers the loss without end, and nothing has to be "
        "learned for it.",
        fix="kl_div(log_softmax(logits, 1), target)",
        mended=lambda: (
            nn.KLDivLoss(reduction="batchmean"),
            (torch.zeros(2, 12).log_softmax(1).reshape(2, 3, 4), torch.full((2, 3, 4), 1 / 12)),
        ),
    ),
)
