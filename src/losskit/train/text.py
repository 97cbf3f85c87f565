"""Real text that comes with every Python, cut into tokens: the language reference that `help("if")` shows.

It lies in the standard library as `pydoc_data.topics`, under the licence of the Python Software Foundation. Many of its
topics repeat paragraphs of others, so a paragraph is kept where it stands first: what is held out is in no other place.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from losskit.errors import DataError

__all__ = ["END", "IGNORED", "LENGTH", "UNKNOWN", "TextData", "perplexity", "read_topics", "split", "tokens"]

# Stands for every word that the training part has once or never.
UNKNOWN = "<unknown>"
# After each paragraph.
END = "<end>"
# A target that does not count; the default ignore_index of cross entropy.
IGNORED = -100

# Tokens of a sequence.
LENGTH = 32
# Of every ten runs of so many sequences the last one is held out: long enough that little of it continues a sentence of
# the training part, short enough that both parts see every kind of text.
RUN = 32
RUNS = 10

# A word, or a sign with its repetitions: "==", "..." and the rules of tables are one token each.
TOKEN = re.compile(r"\w+|([^\w\s])\1*")
PARAGRAPH = re.compile(r"\n\s*\n")


class TextData(NamedTuple):
    """Sequences of tokens, and for each token the one that follows it."""

    train_inputs: Tensor  # (S, LENGTH) int64
    train_targets: Tensor  # the same shape; IGNORED beyond the end of the text
    test_inputs: Tensor
    test_targets: Tensor
    # The token of each number.
    vocabulary: tuple[str, ...]
    # Of the test targets, in nats per token, under the frequencies of the training targets.
    unigram_loss: float
    # Tells this text from that of another Python.
    digest: str


def read_topics() -> TextData:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError(
            "text: this Python lacks pydoc_data.topics, a module of the standard library; install the whole standard "
            "library."
        ) from error
    return split(tokens(topics))


def tokens(topics: Mapping[str, str]) -> list[str]:
    """The tokens of all topics in the order of their names, each paragraph once."""
    seen: set[tuple[str, ...]] = set()
    found: list[str] = []
    for name in sorted(topics):
        for paragraph in PARAGRAPH.split(topics[name]):
            words = tuple(match.group() for match in TOKEN.finditer(paragraph))
            if words and words not in seen:
                seen.add(words)
                found += [*words, END]
    return found


def split(text: list[str]) -> TextData:
    """Cut a text into sequences, hold some of them out, and number its tokens by what the others hold."""
    if len(text) <= LENGTH * RUN * RUNS:
        raise DataError(f"text: {len(text)} tokens are too few; {LENGTH * RUN * RUNS + 1} are the least.")
    # Sequence s predicts the tokens after s·LENGTH, each from those before it in the sequence.
    sequences = -(-(len(text) - 1) // LENGTH)
    held_out = torch.arange(sequences) // RUN % RUNS == RUNS - 1
    counted = Counter(
        word for word, test in zip(text[1:], held_out.repeat_interleave(LENGTH).tolist(), strict=False) if not test
    )
    vocabulary = (UNKNOWN, *(word for word, count in counted.most_common() if count > 1))
    numbers = _numbers(text, vocabulary)
    padding = sequences * LENGTH + 1 - len(text)
    inputs = torch.cat([numbers[:-1], numbers.new_zeros(padding)]).view(sequences, LENGTH)
    targets = torch.cat([numbers[1:], numbers.new_full((padding,), IGNORED)]).view(sequences, LENGTH)
    return TextData(
        inputs[~held_out],
        targets[~held_out],
        inputs[held_out],
        targets[held_out],
        vocabulary,
        _unigram_loss(targets[~held_out], targets[held_out], len(vocabulary)),
        hashlib.sha256("\n".join(text).encode()).hexdigest(),
    )


def perplexity(loss: float) -> float:
    """Among how many equally likely tokens a guess would be as hard: e to the loss in nats."""
    return torch.tensor(loss, dtype=torch.float64).exp().item()


def _numbers(text: Iterable[str], vocabulary: tuple[str, ...]) -> Tensor:
    number_of = {word: number for number, word in enumerate(vocabulary)}
    return torch.tensor([number_of.get(word, 0) for word in text])


def _unigram_loss(train: Tensor, test: Tensor, size: int) -> float:
    counts = torch.bincount(train[train != IGNORED], minlength=size).double()
    losses = -(counts / counts.sum()).log()[test[test != IGNORED]]
    return losses.mean().item()
