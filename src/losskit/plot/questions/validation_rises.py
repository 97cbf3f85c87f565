"""Why do validation loss and accuracy both rise?"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from losskit import functional as F
from losskit.plot.questions.entry import Question
from losskit.plot.runs import guess, loss_histogram
from losskit.plot.style import INK, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["QUESTION"]

# Few samples of many features, some with a wrong label: what a network learns by heart.
TRAIN, VALIDATION, FEATURES, HIDDEN, CLASSES = 100, 600, 40, 64, 3
WRONG_LABELS, RATE, EPOCHS, SEED = 0.05, 0.5, 150, 0


class _Training(NamedTuple):
    train: Tensor  # (epochs)
    validation: Tensor  # (epochs, samples)
    accuracy: Tensor  # (epochs)


def _train() -> _Training:
    """A network of one hidden layer; an epoch is one step of gradient descent on all samples."""
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    directions = normal(FEATURES, CLASSES)

    def data(count: int) -> tuple[Tensor, Tensor]:
        features = normal(count, FEATURES)
        target = (features @ directions).argmax(1)
        wrong = torch.rand(count, generator=generator) < WRONG_LABELS
        return features, torch.where(wrong, torch.randint(CLASSES, (count,), generator=generator), target)

    features, target = data(TRAIN)
    new_features, new_target = data(VALIDATION)
    weights = [normal(FEATURES, HIDDEN) / FEATURES**0.5, normal(HIDDEN, CLASSES) / HIDDEN**0.5]
    biases = [torch.zeros(HIDDEN, dtype=torch.float64), torch.zeros(CLASSES, dtype=torch.float64)]
    parameters = [parameter.requires_grad_() for parameter in (*weights, *biases)]

    def scores(x: Tensor) -> Tensor:
        hidden = torch.relu(torch.addmm(biases[0], x, weights[0]))
        return torch.addmm(biases[1], hidden, weights[1])

    train, validation, accuracy = [], [], []
    for _ in range(EPOCHS):
        gradients = torch.autograd.grad(F.cross_entropy(scores(features), target), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= RATE * gradient
            new_scores = scores(new_features)
            train.append(F.cross_entropy(scores(features), target))
            validation.append(F.cross_entropy(new_scores, new_target, reduction="none"))
            accuracy.append((new_scores.argmax(1) == new_target).double().mean())
    return _Training(torch.stack(train), torch.stack(validation), torch.stack(accuracy))


def _draw(axes: "list[Axes]") -> None:
    run = _train()
    epochs = list(range(1, EPOCHS + 1))
    mean = run.validation.mean(1)
    best = int(mean.argmin())
    losses, accuracy, spread = axes
    losses.plot(epochs, run.train, label="training", **line(0, EPOCHS))
    losses.plot(epochs, mean, label="validation", **line(1, EPOCHS))
    losses.axhline(guess(CLASSES).value, color=INK, linestyle=":", linewidth=1.5, label="a guess")
    losses.set_ylabel("loss (nats)")
    losses.set_title(f"Validation loss: {float(mean[best]):.3f} in epoch {best + 1}, {float(mean[-1]):.3f} at the end")
    accuracy.plot(epochs, 100 * run.accuracy, label="validation", **line(1, EPOCHS))
    accuracy.set_ylabel("right (%)")
    accuracy.set_title(f"Accuracy: {100 * float(run.accuracy[best]):.1f} %, then {100 * float(run.accuracy[-1]):.1f} %")
    for panel in (losses, accuracy):
        panel.axvline(best + 1, color=INK, linewidth=1, linestyle="-.", label="lowest validation loss")
        panel.set_xlabel("epoch")
        panel.grid(True, alpha=0.3)
        panel.legend(fontsize="small")
        panel.title.set_fontsize("medium")
    loss_histogram(spread, epochs, run.validation)
    spread.set_ylabel("loss of a validation sample (nats)")
    spread.set_title("Most samples improve, a few get very bad", fontsize="medium")


QUESTION = Question(
    name="validation-rises",
    question="Why do validation loss and accuracy both rise?",
    answer="Accuracy counts which samples are right, the loss how sure the model is. A model that grows ever surer "
    "costs little where it is right and much where it is wrong: a few very bad samples lift the mean.",
    draw=_draw,
    size=(14.0, 4.2),
    widths=(1.0, 1.0, 1.15),
)
