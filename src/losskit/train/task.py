"""What a training learns, from which data and with which network: all that its loop knows of a data set."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from losskit.train import data
from losskit.train.network import NUM_CLASSES, classifier, language_model
from losskit.train.options import TrainOptions
from losskit.train.text import IGNORED, TextData, perplexity, read_topics

__all__ = ["Task", "of_images", "of_text", "task"]


class Task(NamedTuple):
    train_inputs: Tensor
    train_targets: Tensor  # class indices
    test_inputs: Tensor
    test_targets: Tensor
    classes: int
    # From a seed.
    network: Callable[[int], nn.Module]
    # A batch of inputs as the network takes it, on a device.
    to_input: Callable[[Tensor, torch.device], Tensor]
    # What the inputs are, for the legend of a picture.
    things: str
    # What there is to learn from, a sentence a line.
    summary: tuple[str, ...]
    # Of a training on text.
    text: TextData | None = None


def task(options: TrainOptions) -> Task:
    """The task that `options` name.

    Raises:
        LosskitError: the data are missing, incomplete or damaged, or a package that reads them is.
    """
    if options.data == "text":
        return of_text(read_topics())
    return of_images(options.data, data.load(options.data, options.root))


def of_images(name: str, images: data.ImageData) -> Task:
    return Task(
        *images,
        classes=NUM_CLASSES,
        network=classifier,
        to_input=data.to_input,
        things="images",
        summary=(
            f"{name}: {len(images.train_labels)} training and {len(images.test_labels)} test images of 3x32x32, "
            f"{NUM_CLASSES} classes",
        ),
    )


def of_text(text: TextData) -> Task:
    train, test = (targets[targets != IGNORED] for targets in (text.train_targets, text.test_targets))
    unknown = 100 * (test == 0).double().mean().item()
    return Task(
        text.train_inputs,
        text.train_targets,
        text.test_inputs,
        text.test_targets,
        classes=len(text.vocabulary),
        network=partial(language_model, len(text.vocabulary)),
        to_input=_tokens,
        things="text",
        summary=(
            f"text: {len(train)} training and {len(test)} test tokens of Python's language reference, "
            f"{len(text.vocabulary)} different ones; {unknown:.1f} % of the test tokens are none of them",
            f"what their frequencies alone tell (unigram): test loss {text.unigram_loss:.4f} nats per token, "
            f"perplexity {perplexity(text.unigram_loss):.1f}",
        ),
        text=text,
    )


def _tokens(inputs: Tensor, device: torch.device) -> Tensor:
    return inputs.to(device)
